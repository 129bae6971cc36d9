"""Bijections made of bijections: one after another, or the other way round."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pushforward.bijections.bijection import Bijection
from pushforward.bijections.columns import Parts, features_of, through
from pushforward.bijections.pixels import with_folds
from pushforward.bijections.reversible import reversible
from pushforward.errors import ShapeError, UserError
from pushforward.registry import export

Memory = Literal["full", "reversible"]


def _small() -> tuple:
    from pushforward.bijections.standardise import Standardise

    first = Standardise((3,))
    first.initialise(torch.tensor([[0.0, 1.0, 2.0], [4.0, 3.0, 8.0]]))
    return first, torch.randn(4, 3), None


@export(
    "bijections.Chain", example=lambda: (Chain([_small()[0], Inverse(Chain([_small()[0], _small()[0]]))]), *_small()[1:]), exactness="exact"
)
class Chain(Bijection):
    """Bijections in sequence, data to noise from first to last: log-determinants add.

    With memory="reversible" the activations of `forward` are not kept for the backward pass but found again through the inverses, so that
    memory does not grow with the number of steps; a training step takes about 1.4 times as long. A gradient is then as exact as the steps
    are inverse to each other, which in bfloat16 is little; it cannot be differentiated again. The inverse keeps its activations.

    Args:
        steps: the bijections, in the order in which data meets them; none at all is the identity.
        memory: "full" keeps all activations for the backward pass, "reversible" the output alone.

    Raises:
        ShapeError: steps for vectors of different lengths.
        UserError: another memory; or, when it is called, a step in training mode that depends on chance or on the batch.

    Example:
        >>> flow = Chain([pf.bijections.AffineCoupling(4, swap=k % 2 == 1) for k in range(64)], memory="reversible")
        >>> z, log_abs_det = flow(torch.randn(8, 4))
        >>> (z.square().sum() / 2 - log_abs_det.sum()).backward()

    Source: Gomez, Ren, Urtasun and Grosse, The reversible residual network, 2017, arXiv 1707.04585, algorithm 1.
    """

    def __init__(self, steps: Sequence[Bijection], memory: Memory = "full") -> None:
        super().__init__()
        if memory not in ("full", "reversible"):
            raise UserError(f"memory is {memory!r}, but it is 'full' or 'reversible'.")
        self.memory = memory
        self.steps: Any = nn.ModuleList(steps)  # Any: torch types what a ModuleList holds as bare Modules
        sizes = sorted({size for size in map(features_of, steps) if size is not None})
        if len(sizes) > 1:
            raise ShapeError(f"the steps are for vectors of {sizes[0]} and of {sizes[1]} features; give all of a chain one number.")

    @property
    def features(self) -> int | None:
        """How many features the vectors have, if all steps are bijections of vectors."""
        sizes = [features_of(step) for step in self.steps]
        return sizes[0] if sizes and None not in sizes else None

    def forward(self, x: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        if self.memory == "reversible" and len(self.steps) and torch.is_grad_enabled():
            return reversible(_flat(self.steps), x, cond)
        return through(with_folds(self.steps), x, cond, inverse=False)

    def inverse(self, z: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        return through(with_folds(self.steps), z, cond, inverse=True)

    def columns(self, parts: Parts, cond: Any, inverse: bool) -> tuple[Parts, Tensor | None]:
        """Return the parts mapped by all steps, and their log_abs_det, as a step of another chain does."""
        total = None
        for step in reversed(self.steps) if inverse else self.steps:
            parts, log_abs_det = step.columns(parts, cond, inverse)
            if log_abs_det is not None:
                total = log_abs_det if total is None else total + log_abs_det
        return parts, total

    @torch.no_grad()
    def initialise(self, x: Tensor, cond: Any = None) -> None:
        for step in self.steps:
            step.initialise(x, cond)
            x = step(x, cond)[0]

    def reaches(self, touched: Tensor) -> Tensor:
        for step in self.steps:
            whole = features_of(step) is None
            touched = step.reaches(touched) if whole else step.reaches(touched.flatten()).view(touched.shape)
        return touched


@export("bijections.Inverse", example=lambda: (Inverse(_small()[0]), *_small()[1:]), exactness="exact")
class Inverse(Bijection):
    """A bijection the other way round.

    Args:
        bijection: what is turned round.
    """

    def __init__(self, bijection: Bijection) -> None:
        super().__init__()
        self.bijection: Any = bijection  # Any: columns is there where features is

    @property
    def features(self) -> int | None:
        """How many features the vectors have, if it is a bijection of vectors that is turned round."""
        return features_of(self.bijection)

    def forward(self, x: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        return self.bijection.inverse(x, cond)

    def inverse(self, z: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        return self.bijection(z, cond)

    def columns(self, parts: Parts, cond: Any, inverse: bool) -> tuple[Parts, Tensor | None]:
        """Return the parts mapped the other way round, as a step of a chain does."""
        return self.bijection.columns(parts, cond, not inverse)


def _flat(steps: Iterable[Bijection]) -> list[Bijection]:
    """Return steps with those of chains among them in their place."""
    return [part for step in steps for part in (_flat(step.steps) if isinstance(step, Chain) else [step])]
