"""What methods share that edit an event towards another condition: settings, checks, units and chunks."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from pushforward import _random
from pushforward._checks import CheckedNumbers, shown, whole
from pushforward.errors import NotInvertibleError, UserError
from pushforward.families import checks
from pushforward.families.path_model import PathModel
from pushforward.functional.levels import cells
from pushforward.guidance.around import as_guidance
from pushforward.guidance.guidance import Guidance
from pushforward.registry import export
from pushforward.samplers.grids import Grid, Uniform
from pushforward.types import OnGrid


@export("editing.Method")
@dataclass(frozen=True)
class Method(CheckedNumbers):
    """A way to edit events from one condition to another, without training; to add one, implement `edited`.

    Call it with a model, events, and the conditions that describe them before and after. Events are in the data's units. Those of
    quantised data may be levels, which are read as the middle of their cells; what is returned are real numbers whose floor is a level, as
    of `sample`. Events that the method leaves as they are in the model's units are returned exactly.

    Args:
        source_guidance: guidance of the source condition: the scale of classifier-free guidance, another guidance, or None.
        target_guidance: guidance of the target condition.
        steps: number of steps from noise to data.
        grid: where they lie; None is the grid of the model's own sampler if it has one, else equal steps in t.

    Raises:
        UserError: a setting is out of range.
    """

    source_guidance: Guidance | float | None = None
    target_guidance: Guidance | float | None = None
    steps: int = 50
    grid: Grid | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("steps", self.steps, 1)
        for name in ("source_guidance", "target_guidance"):
            steered = as_guidance(getattr(self, name))
            if steered is not None and not steered.has_density:
                raise UserError(
                    f"{name} is {steered}, guidance by a measurement, but an edit goes from one condition to another; use sample for it."
                )

    def edited(self, model: PathModel, x: Tensor, source: Any, target: Any, generator: _random.Generators) -> Tensor:
        """Return edited events (n, *shape) in the model's units; conditions have n rows or are None."""
        raise NotImplementedError

    def check_model(self, model: Any) -> None:
        """Raise an error if the method cannot edit with this model."""
        name = type(self).__name__
        if not isinstance(model, PathModel):
            raise NotInvertibleError(
                f"{name} needs a PathModel, which has a velocity at every time, but this is {shown(model)}; encode, change and decode, "
                "or use the model that it was distilled from."
            )
        if model.one_step:
            raise UserError(f"{name} follows a path, but this model was distilled into one step; use the model that it was distilled from.")
        if not model.gaussian or model.bridge:
            raise UserError(f"{name} needs a path whose only noise is Gaussian, but this model is from another base or has a bridge.")

    def grid_on(self, model: PathModel) -> Grid:
        """Return the grid of the steps on a model's path."""
        own = model.sampler.grid if isinstance(model.sampler, OnGrid) else Uniform()
        return own if self.grid is None else self.grid

    def with_guidance(self, change: Callable[[Guidance | float | None], Guidance | None]) -> Self:
        """Return the method with both guidances changed."""
        return replace(self, source_guidance=change(self.source_guidance), target_guidance=change(self.target_guidance))

    @torch.no_grad()
    def __call__(
        self,
        model: PathModel,
        x: Tensor,
        source: Any = None,
        target: Any = None,
        *,
        generator: _random.Generators = None,
        batch_size: int | None = None,
    ) -> Tensor:
        """Return x (n, *shape) edited from the source to the target condition.

        Args:
            model: a model on a path of Gaussian noise.
            x: events, in the data's units.
            source: the condition that describes x: one row for all, n rows, or None for no condition.
            target: the condition of the result.
            generator: randomness; a list of n makes each result independent of its batch.
            batch_size: rows per chunk; None is all.
        """
        self.check_model(model)
        model._check(x, "x")
        n = len(x)
        _random.checked(generator, n)
        source, target = (model._checked_cond(_spread(cond, n), n) for cond in (source, target))
        parts = []
        for rows, draw in _random.chunks(n, batch_size, generator):
            z, _ = model._to_model(_in_cells(x[rows], model))
            here, there = (None if cond is None else cond[rows] for cond in (source, target))
            made = self.with_guidance(partial(_rows, rows=rows, n=n)).edited(model, z, here, there, draw)
            checks.check_finite(made, rows.start, self)
            same = (made == z).flatten(1).all(1).view(-1, *(1,) * (x.ndim - 1))
            parts.append(torch.where(same, x[rows], model._from_model(made)))
        return torch.cat(parts) if parts else x


def _spread(cond: Any, n: int) -> Any:
    """Return a condition of one row repeated n times, and any other unchanged."""
    leaves = [leaf for leaf in tree_leaves(cond) if isinstance(leaf, Tensor)]
    if n == 1 or not leaves or any(leaf.ndim == 0 or len(leaf) != 1 for leaf in leaves):
        return cond
    return tree_map_only(Tensor, lambda leaf: leaf.expand(n, *leaf.shape[1:]), cond)


def _in_cells(x: Tensor, model: PathModel) -> Tensor:
    """Return x with levels of quantised data moved to the middle of their cells."""
    return x if model.levels is None else torch.where(x == x.floor(), x + 0.5 * cells(model.levels, x), x)


def _rows(guidance: Guidance | float | None, rows: slice, n: int) -> Guidance | None:
    steered = as_guidance(guidance)
    return None if steered is None else steered.rows(rows, n)
