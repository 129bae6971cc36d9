"""Low-rank changes of weights (LoRA), and with a magnitude for each row or column (DoRA)."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pushforward._precision import uncast, wide
from pushforward.nn.eight_bits import kept

TINY = 1e-12  # of a norm, so that a row of zeros stays zero


@dataclass(frozen=True, eq=False)
class LowRank:
    """A low-rank change of consecutive rows of a weight W.

        W' = W + scale B A,    with a magnitude m:    W' = m (W + scale B A) / |W + scale B A|

    The norm is that of each row for m of shape (rows, 1), and that of each column for (1, inputs).

    Args:
        module: path of the Linear whose weight it changes.
        down: A (rank, inputs).
        up: B (rows, rank).
        scale: alpha / rank.
        start: the first row that changes.
        magnitude: m, or None.

    Source: Hu et al., LoRA, 2106.09685; Liu et al., DoRA, 2402.09353.
    """

    module: str
    down: Tensor
    up: Tensor
    scale: float = 1.0
    start: int = 0
    magnitude: Tensor | None = None

    @property
    def rows(self) -> slice:
        """The rows that change."""
        return slice(self.start, self.start + len(self.up))

    def delta(self, weight: Tensor) -> Tensor:
        """Return W' - W (rows, inputs) for these rows of the weight."""
        product = self.scale * (self.up.to(weight) @ self.down.to(weight))
        if self.magnitude is None:
            return product
        summed = weight + product
        norm = torch.linalg.vector_norm(summed, dim=1 if self.magnitude.shape[1] == 1 else 0, keepdim=True)
        return self.magnitude.to(weight) * summed / norm.clamp_min(TINY) - weight


Changes = Sequence[tuple[LowRank, float]]


def changed(weight: Tensor, changes: Changes) -> Tensor:
    """Return W + sum of strength (W' - W) over the changes, computed in float32 or wider, in the dtype of W."""
    with uncast(weight):
        base = weight.to(wide(weight))
        total = base.clone()
        for one, strength in changes:
            total[one.rows] += strength * one.delta(base[one.rows])
        return total.to(weight.dtype)


class Changed(nn.Module):
    """The changes of one weight as a parametrisation of torch: each use of the weight computes `changed`."""

    def __init__(self, changes: Changes) -> None:
        super().__init__()
        self.changes = [(dataclasses.replace(one, down=one.down[:0], up=one.up[:0], magnitude=None), strength) for one, strength in changes]
        for k, (one, _) in enumerate(changes):
            for name in ("down", "up", "magnitude"):
                self.register_buffer(f"{name}{k}", getattr(one, name), persistent=False)

    def current(self) -> Iterator[tuple[LowRank, float]]:
        """Yield the changes with their tensors where the module is now."""
        for k, (one, strength) in enumerate(self.changes):
            tensors = {name: getattr(self, f"{name}{k}") for name in ("down", "up", "magnitude")}
            yield dataclasses.replace(one, **tensors), strength

    def forward(self, weight: Tensor) -> Tensor:
        return changed(weight, list(self.current()))


def attach(module: nn.Module, changes: Changes) -> None:
    """Let a Linear compute with its weight changed."""
    change = Changed(changes).to(module.weight.device)  # type: ignore[arg-type]
    parametrize.register_parametrization(module, "weight", change, unsafe=True)  # shapes were checked when the file was read


def detach(module: nn.Module) -> None:
    """Restore a Linear to what it was before `attach`: the same parameters, in the same order."""
    if kept(module):
        del module.parametrizations.weight[-1]  # type: ignore[union-attr, operator]
        return
    parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)
    bias = module._parameters.pop("bias")  # torch registers the weight again, behind the bias: optimisers identify parameters by order
    module._parameters["bias"] = bias
