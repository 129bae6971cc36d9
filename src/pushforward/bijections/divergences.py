"""How an ODE's log|det| is accumulated: by the exact divergence, or by an unbiased estimate."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from pushforward import _random
from pushforward._checks import CheckedNumbers
from pushforward.dispatch import ability
from pushforward.errors import UserError
from pushforward.functional.divergence import exact_divergence, hutchinson_divergence, hutchinson_jacobian
from pushforward.registry import export, unknown


class Divergence(CheckedNumbers):
    """Computes a field's value and divergence; to add one, implement `probes` and `__call__`."""

    def probes(self, x: Tensor, generator: _random.Generators) -> Tensor | None:
        """Return random directions that stay fixed along a trajectory, with leading dimension n, or None."""
        return None

    def __call__(self, velocity: Callable[..., Tensor], x: Tensor, t: Tensor, cond: Any, probes: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return velocity(x, t, cond) (n, *shape) and its divergence with respect to x (n,)."""
        raise NotImplementedError

    def with_norm(
        self, velocity: Callable[..., Tensor], x: Tensor, t: Tensor, cond: Any, probes: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the same and the squared Frobenius norm of the Jacobian (n,), which a regulariser may need."""
        raise UserError(
            f"{type(self).__name__} does not compute the Jacobian's norm; use divergence='hutchinson' with the regulariser jacobian."
        )


@export("bijections.ExactDivergence", example=lambda: ExactDivergence())
@dataclass(frozen=True)
class ExactDivergence(Divergence):
    """The trace of the Jacobian: by the velocity's own `value_and_divergence` if it has one, else by vectorised Jacobian products.

    Args:
        numbers: directions are processed in chunks such that n d chunk stays below this. An activation of a U-Net with 64 channels has 64
            times as many elements for grey images, 32 MB; larger chunks are not faster either, as they do not fit into the CPU's cache.
    """

    numbers: int = 1 << 17

    def __call__(self, velocity: Callable[..., Tensor], x: Tensor, t: Tensor, cond: Any, probes: Tensor | None) -> tuple[Tensor, Tensor]:
        own = ability(velocity, "value_and_divergence")
        if own is not None:
            return own(x, t, cond)
        d = math.prod(x.shape[1:])
        chunk = d if torch.compiler.is_exporting() else max(1, min(d, self.numbers // max(1, x.numel())))
        return exact_divergence(lambda x: velocity(x, t, cond), x, None if chunk == d else chunk)

    def with_norm(
        self, velocity: Callable[..., Tensor], x: Tensor, t: Tensor, cond: Any, probes: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        d = math.prod(x.shape[1:])  # along all d axes with weight d each, the estimates are sums and exact
        axes = d**0.5 * torch.eye(d, dtype=x.dtype, device=x.device).view(d, 1, *x.shape[1:]).expand(d, *x.shape)
        return hutchinson_jacobian(lambda x: velocity(x, t, cond), x, axes)


@export("bijections.HutchinsonDivergence", example=lambda: HutchinsonDivergence())
@dataclass(frozen=True)
class HutchinsonDivergence(Divergence):
    """The mean of e' J e over random directions e that stay fixed along a trajectory: unbiased, at the cost of one product per direction.

    Args:
        probes_per_sample: number of directions.
        distribution: "rademacher" (random signs, least variance) or "gaussian".

    Source: Grathwohl et al., FFJORD, 1810.01367, section 3.1.
    """

    probes_per_sample: int = 1
    distribution: Literal["rademacher", "gaussian"] = "rademacher"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.probes_per_sample < 1:
            raise UserError(f"probes_per_sample is {self.probes_per_sample}, but Hutchinson's estimate needs at least 1.")
        if self.distribution not in ("rademacher", "gaussian"):
            raise UserError(f"distribution is {self.distribution!r}, but it is 'rademacher' or 'gaussian'.")

    def probes(self, x: Tensor, generator: _random.Generators) -> Tensor:
        drawn = _random.normal((x.shape[0], self.probes_per_sample, *x.shape[1:]), generator, x.device, x.dtype)
        return drawn if self.distribution == "gaussian" else torch.where(drawn < 0, -1.0, 1.0).to(x.dtype)

    def __call__(self, velocity: Callable[..., Tensor], x: Tensor, t: Tensor, cond: Any, probes: Tensor | None) -> tuple[Tensor, Tensor]:
        assert probes is not None
        return hutchinson_divergence(lambda x: velocity(x, t, cond), x, probes.transpose(0, 1))

    def with_norm(
        self, velocity: Callable[..., Tensor], x: Tensor, t: Tensor, cond: Any, probes: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        assert probes is not None
        return hutchinson_jacobian(lambda x: velocity(x, t, cond), x, probes.transpose(0, 1))


def as_divergence(divergence: "str | Divergence | None") -> Divergence:
    """Return the divergence for "exact", "hutchinson", a `Divergence` object, or None (exact)."""
    if isinstance(divergence, Divergence):
        return divergence
    named = {None: ExactDivergence, "exact": ExactDivergence, "hutchinson": HutchinsonDivergence}
    if not isinstance(divergence, str | None) or divergence not in named:
        raise UserError(unknown("divergence", str(divergence), ["exact", "hutchinson"]))
    return named[divergence]()
