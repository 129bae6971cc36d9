"""Bijections made of bijections: in sequence, or inverted."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pushforward.bijections.bijection import Bijection
from pushforward.bijections.columns import features_of, through, with_columns
from pushforward.bijections.pixels import PixelAffine, PixelAffines, callable_steps, with_runs
from pushforward.bijections.reversible import reversible
from pushforward.dispatch import dispatched, inherits, plainly_called
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
    """Bijections in sequence, from data to noise; their log-determinants add.

    With memory="reversible" the activations of `forward` are not stored for the backward pass but recomputed through the inverses, so that
    memory does not grow with the number of steps; a training step takes about 1.4 times as long. Gradients are then as accurate as the
    inverses, which is poor in bfloat16, and double backward is not supported. `inverse` stores its activations.

    Args:
        steps: the bijections, in the order from data to noise; an empty list is the identity.
        memory: "full" stores all activations for the backward pass, "reversible" only the output.

    Raises:
        ShapeError: steps for vectors of different lengths.
        UserError: an unknown memory; or, with memory="reversible", a step in training mode that is random or depends on the batch.

    Example:
        >>> flow = Chain([pf.bijections.AffineCoupling(4, swap=k % 2 == 1) for k in range(64)], memory="reversible")
        >>> z, log_abs_det = flow(torch.randn(8, 4))
        >>> (z.square().sum() / 2 - log_abs_det.sum()).backward()

    Source: Gomez, Ren, Urtasun and Grosse, The reversible residual network, 2017, arXiv 1707.04585, algorithm 1.
    """

    def __init__(self, steps: Sequence[Bijection], memory: Memory = "full") -> None:
        super().__init__()
        one: Any = steps
        if isinstance(one, nn.Module) and not isinstance(one, nn.ModuleList | nn.Sequential):
            raise UserError(f"steps is {type(one).__name__}, but a chain takes a list of bijections; write Chain([a, b]).")
        if memory not in ("full", "reversible"):
            raise UserError(f"memory is {memory!r}, but it is 'full' or 'reversible'.")
        self.memory = memory
        self.steps: Any = nn.ModuleList(steps)  # Any: torch types the items of a ModuleList as Module
        self._set_runs()

    @property
    def features(self) -> int | None:
        """Number of features, if all steps are bijections of vectors."""
        sizes = [features_of(step) for step in self.steps]
        return sizes[0] if sizes and None not in sizes else None

    @with_columns
    def forward(self, x: Any, cond: Any = None) -> tuple[Any, Any]:
        if self.memory == "reversible" and len(self.steps) and torch.is_grad_enabled() and isinstance(x, Tensor):
            return reversible(_flat(self.runs()), x, cond)
        return self.through(x, cond, inverse=False)

    @with_columns
    def inverse(self, z: Any, cond: Any = None) -> tuple[Any, Any]:
        return self.through(z, cond, inverse=True)

    @dispatched
    def through(self, x: Any, cond: Any, inverse: bool) -> tuple[Any, Any]:
        """Return x mapped by all steps in turn (from the last if inverse), and the sum of their log-determinants."""
        return through(self.runs(), x, cond, inverse)

    def units(self) -> list[nn.Module]:
        """Return the steps that are compiled and sharded one by one: those with networks; none where activations are recomputed."""
        if self.memory == "reversible":
            return []
        return [one for one in self.steps if not isinstance(one, PixelAffine | Chain) and any(True for _ in one.parameters())]

    def runs(self) -> list[Any]:
        """Return the modules to call in turn: the steps, with adjacent unmodified pixel-affine steps merged into one."""
        if list(self.steps) != self._flat:
            self._set_runs()  # a step was replaced or added
        return list(callable_steps(self._runs)) if self._merged else self._runs

    def _set_runs(self) -> None:
        sizes = sorted({size for size in map(features_of, self.steps) if size is not None})
        if len(sizes) > 1:
            raise ShapeError(f"the steps are for vectors of {sizes[0]} and of {sizes[1]} features; give all of a chain one number.")
        self._flat = list(self.steps)
        self._runs = with_runs(self._flat)
        self._merged = any(isinstance(run, PixelAffines) for run in self._runs)

    @torch.no_grad()
    def initialise(self, x: Tensor, cond: Any = None) -> None:
        for step in self.steps:
            if isinstance(step, Bijection):  # a plain Module wrapped around one has no `initialise`
                step.initialise(x, cond)
            x = step(x, cond)[0]

    def reaches(self, touched: Tensor) -> Tensor:
        for step in self.steps:
            if not isinstance(step, Bijection):
                return torch.ones_like(touched)
            whole = features_of(step) is None
            touched = step.reaches(touched) if whole else step.reaches(touched.flatten()).view(touched.shape)
        return touched


@export("bijections.Inverse", example=lambda: (Inverse(_small()[0]), *_small()[1:]), exactness="exact")
class Inverse(Bijection):
    """The inverse of a bijection: forward and inverse are exchanged.

    Args:
        bijection: the bijection to invert.
    """

    def __init__(self, bijection: Bijection) -> None:
        super().__init__()
        self.bijection = bijection

    @property
    def features(self) -> int | None:
        """Number of features, if the inverted bijection is one of vectors."""
        return features_of(self.bijection)

    @with_columns
    def forward(self, x: Any, cond: Any = None) -> tuple[Any, Any]:
        return through([self.bijection], x, cond, inverse=True)

    @with_columns
    def inverse(self, z: Any, cond: Any = None) -> tuple[Any, Any]:
        return through([self.bijection], z, cond, inverse=False)


def _flat(steps: Iterable[Any]) -> list[Any]:
    """Return the steps with nested chains replaced by their own steps."""
    return [part for step in steps for part in (_flat(step.runs()) if _is_plain(step) else [step])]


def _is_plain(step: Any) -> bool:
    """Return whether a step is a chain that is nothing more than its steps."""
    return type(step) is Chain and inherits(step, Chain, "__call__", "forward", "inverse", "through") and plainly_called(step)
