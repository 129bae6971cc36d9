"""Samplers as the commands describe them: a name, its steps, and its other options as texts."""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

from pushforward import registry
from pushforward._text import value_of
from pushforward.cli.options import check_whole, kebab, named
from pushforward.cli.records import fields_of, values_of
from pushforward.errors import UserError
from pushforward.families.flow_map import FlowMap
from pushforward.families.model import GenerativeModel
from pushforward.samplers.grids import Grid
from pushforward.samplers.jumps import Jumps, Renoise
from pushforward.samplers.sampler import Sampler
from pushforward.samplers.times import Times


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplerOptions:
    """The sampler of a command.

    Args:
        sampler: euler, heun, dopri5, ddim, dpm-solver-pp, ... (`pushforward list samplers`); by default the model's own.
        steps: steps of the sampler; if --sampler is not given, of Euler, and of a few-step model its jumps.
        sampler_options: other options of the sampler as NAME VALUE pairs, such as `eta 0.5`; `grid karras grid.rho 5` places its steps, and
            `grid times grid.times [1,0.7,0.4]` lists their times. `pushforward list samplers.ddim` explains those of ddim.
    """

    sampler: str | None = None
    steps: int | None = None
    sampler_options: dict[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        check_whole(self, {"steps": 1})
        if self.sampler is not None or self.steps is not None:
            self.chosen(None)

    def chosen(self, own: Sampler | None, grid: Grid | None = None) -> Sampler | None:
        """Return the sampler, or None for a model's own one without changes.

        Args:
            own: the model's sampler, which `sampler_options` change if they are all that is given.
            grid: the grid of a sampler that has one, in place of its usual one.

        Raises:
            UserError: an option is unknown, out of range or not of its type, or the sampler chooses its own steps; the model has none.
        """
        if self.sampler is None and self.steps is None:
            if own is None and self.sampler_options:
                raise UserError("--sampler-options are given, but this model does not solve an ODE; leave them out.")
            return _changed(own, self.sampler_options, None) if self.sampler_options else None
        if self.sampler is None and own is not None and own.jumps:
            return _changed(own, self.sampler_options, self.steps)
        kind = named("samplers", self.sampler or "euler")
        if not _is(kind, Sampler):
            raise UserError(f"--sampler is {self.sampler!r}, which is part of a sampler, not a sampler; try euler, heun or dopri5.")
        if self.steps is not None and "steps" not in fields_of(kind):
            raise UserError(f"--steps is {self.steps}, but {self.sampler} chooses its own steps; leave --steps out, or use --sampler heun.")
        start = kind() if grid is None or "grid" not in fields_of(kind) else kind(grid=grid)
        made: Sampler = _changed(start, self.sampler_options, self.steps)
        return made


def own_sampler(model: GenerativeModel) -> Sampler | None:
    """Return a model's own sampler with any number of steps: of a few-step model that only jumps to the data, one that renoises."""
    own = model.sampler
    if isinstance(model, FlowMap) and isinstance(own, Jumps) and not model.objective.solves_ode:
        return Renoise(own.steps, own.grid)
    return own


def _is(thing: Any, kind: type) -> bool:
    return inspect.isclass(thing) and issubclass(thing, kind)


def _changed(record: Any, texts: Mapping[str, str], steps: int | None) -> Any:
    """Return a sampler with other options, and as many steps as a grid lists times unless they are given."""
    values = _values(record, texts, f"option of {kebab(type(record).public_name)}")
    if steps is not None:
        if "steps" in values:
            raise UserError(f"--steps is {steps}, but --sampler-options give steps {values['steps']} too; leave one of them out.")
        values["steps"] = steps
    grid = values.get("grid")
    if isinstance(grid, Times) and values.setdefault("steps", len(grid.times)) != len(grid.times):
        raise UserError(
            f"--steps is {values['steps']}, but grid.times lists {len(grid.times)} times, one for each step; leave --steps out."
        )
    return dataclasses.replace(record, **values) if values else record


def _values(record: Any, texts: Mapping[str, str], what: str) -> dict[str, Any]:
    """Return the fields of a record that texts state; those of its grid are written grid.NAME.

    Raises:
        UserError: a name is unknown, with the nearest one, or a text is not of the field's type.
    """
    options, values = fields_of(type(record)), dict[str, Any]()
    inside: dict[str, str] = {}
    for name, text in texts.items():
        head, dot, rest = name.replace("-", "_").partition(".")
        if head not in options or (dot and head != "grid"):
            raise UserError(registry.unknown(what, name, options))
        if dot:
            inside[rest] = text
        elif head != "grid":
            values[head] = value_of(name, text, options[head])
    if "grid" in texts or inside:
        values["grid"] = _grid(texts.get("grid"), inside, record.grid)
    return values


def _grid(name: str | None, texts: Mapping[str, str], own: Grid) -> Grid:
    """Return the grid of this name, or the sampler's own, with other options."""
    kind: Any = type(own)
    if name is not None:
        kinds = {kebab(one.name): one.thing for one in registry.entries("samplers") if _is(one.thing, Grid)}
        kind = kinds.get(name.replace("_", "-").lower())
        if kind is None:
            raise UserError(registry.unknown("grid", name, kinds))
    options, title = fields_of(kind), kebab(kind.public_name)
    if texts and not options:
        raise UserError(f"the grid {title} has no options; leave those of grid.NAME out.")
    values = values_of(options, texts.items(), f"option of the grid {title}", "grid.")
    lacking = [
        one.name for one in dataclasses.fields(kind)
        if one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING and one.name not in values
    ]  # fmt: skip
    if kind is type(own):
        return dataclasses.replace(own, **values)  # type: ignore[type-var]
    if lacking:
        raise UserError(f"the grid {kebab(kind.public_name)} needs grid.{lacking[0]}; add it, such as `grid.times [1,0.7,0.4]`.")
    made: Grid = kind(**values)
    return made
