"""Components of one generation run: seeds, the initial noise, the sampler's time range, and the combined guidance."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pushforward import _random
from pushforward._checks import is_real, real, shown
from pushforward.errors import ShapeError, SolverError, UserError
from pushforward.families.checks import row_not_finite
from pushforward.families.model import GenerativeModel
from pushforward.formats.sd3_shift import DynamicShift, GridShift, Schedule
from pushforward.guidance.around import Around, as_guidance
from pushforward.guidance.cfg import CFG
from pushforward.guidance.clip import Clip
from pushforward.guidance.extrapolation import FromNegative
from pushforward.guidance.guidance import Guidance
from pushforward.guidance.skip_layers import SkipLayers
from pushforward.paths.linear import Linear
from pushforward.samplers.euler import Euler
from pushforward.samplers.grids import Shifted
from pushforward.samplers.sampler import Sampler
from pushforward.samplers.times import Times
from pushforward.types import OnGrid

LEVELS = 1000  # size of the training grid, from which sampling steps are taken
STEPS = 28
Seeds = int | Sequence[int] | _random.Generators


def generators_of(generator: Seeds, n: int) -> _random.Generators:
    """Return one generator per image for a seed (incremented from image to image) or a list of seeds; generators are returned unchanged.

    Raises:
        UserError: a list without one entry per image, or an invalid seed.
    """
    if generator is None or isinstance(generator, torch.Generator):
        return generator
    if isinstance(generator, bool) or not isinstance(generator, int | list | tuple | range):
        raise UserError(f"generator is {generator!r}, but it is a seed, a list of one an image, or a torch.Generator.")
    given = list(range(generator, generator + n)) if isinstance(generator, int) else list(generator)
    if len(given) != n:
        raise UserError(f"generator is a list of {len(given)}, but there are {n} images; give one seed or generator per image.")
    made = []
    for one in given:
        if isinstance(one, torch.Generator):
            made.append(one)
        elif isinstance(one, int) and 0 <= one < 2**63:
            made.append(torch.Generator().manual_seed(one))
        else:
            raise UserError(f"generator has {one!r}, but a seed must be an integer from 0 to 2**63 - 1.")
    return made


def noise_of(model: GenerativeModel, latents: Tensor | None, n: int, generators: _random.Generators, device: torch.device) -> Tensor:
    """Return the initial noise of n images, (n, *model.shape): drawn from the model's base, or as given.

    Raises:
        ShapeError: `latents` has another shape.
        UserError: it is no tensor of floats, or has NaN or infinity.
    """
    if latents is None:
        noise: Tensor = model.base.sample(n, generator=generators)
        return noise
    check_floats("latents", latents)
    if tuple(latents.shape) != (n, *model.shape):
        raise ShapeError(f"latents has shape {tuple(latents.shape)}, but {n} images of this size need {(n, *model.shape)}.")
    if row_not_finite(latents) is not None:
        raise UserError("latents has NaN or infinity, but it is noise of standard deviation 1; check how it was computed.")
    return latents.to(device, torch.float32)


def check_floats(what: str, noise: Any) -> None:
    """Raise unless noise is a tensor of floats.

    Raises:
        UserError: it is not.
    """
    if not isinstance(noise, Tensor) or not noise.is_floating_point():
        given = f"a tensor of {noise.dtype}" if isinstance(noise, Tensor) else shown(noise)
        raise UserError(f"{what} is {given}, but noise is a tensor of floats (n, channels, height / 8, width / 8); convert it.")


def check_images(x: Tensor, rows: slice, sampler: Sampler, dtype: torch.dtype) -> None:
    """Raise an error if an image is not finite.

    Raises:
        SolverError: NaN or infinity in one of `rows`, which were computed in `dtype`.
    """
    row = row_not_finite(x)
    if row is not None:
        raise SolverError(f"image {rows.start + row} is not finite: {sampler} diverged, or {dtype} overflowed; try bfloat16.")


def grid_of(shift: GridShift, tokens: int, given: float | None = None) -> Shifted:
    """Return the grid of times of a schedule for images of this number of tokens, as diffusers has it; or with a given shift."""
    if given is not None:
        return dataclasses.replace(grid_of(shift, tokens), factor=given, trained=None)
    if isinstance(shift, Schedule):
        return dataclasses.replace(grid_of(shift.shift, tokens), terminal=shift.terminal, spacing=shift.spacing)
    return Shifted(shift.factor(tokens), LEVELS, trained=1.0) if isinstance(shift, DynamicShift) else Shifted(shift, LEVELS)


def sampler_of(sampler: Sampler | None, steps: int | None, grid: Shifted) -> Sampler:
    """Return the sampler: `steps` is shorthand for Euler on Stable Diffusion 3's grid.

    Raises:
        UserError: both are given, or the sampler is not a sampler.
    """
    if sampler is None:
        return Euler(STEPS if steps is None else steps, grid=grid)
    if steps is not None:
        raise UserError(f"steps is {steps} and sampler {sampler}, but steps is shorthand for a sampler; give one of them.")
    if not isinstance(sampler, Sampler):
        raise UserError(f"sampler is {sampler!r}, but it must be an object such as pf.samplers.Euler(28, pf.samplers.Shifted(3, 1000)).")
    return sampler


def times_of(sampler: Sampler, grid: Shifted) -> list[float]:
    """Return the times of a sampler's steps from 1 to 0; for an adaptive one those of 28 steps on Stable Diffusion 3's grid."""
    chosen, steps = (sampler.grid, sampler.steps) if isinstance(sampler, OnGrid) else (grid, STEPS)
    times: list[float] = chosen(1.0, 0.0, steps, Linear())
    return times


def part_of_the_way(sampler: Sampler, strength: float, grid: Shifted) -> tuple[Sampler, float]:
    """Return the sampler for the remaining steps, and its start time.

    The first int(n - n strength) of n steps are skipped. An adaptive sampler starts where the grid would in the limit of many steps.

    Raises:
        UserError: strength is not in (0, 1].
    """
    if not 0 < real("strength", strength) <= 1:
        raise UserError(f"strength is {strength}, but it must be above 0 and at most 1: 1 keeps nothing of the image, 0.3 most of it.")
    if strength == 1:
        return sampler, 1.0
    times = times_of(sampler, grid)
    n = len(times) - 1
    if not isinstance(sampler, OnGrid):
        share, times = 10_000, grid(1.0, 0.0, 10_000)
        return sampler, times[int(share - share * strength)]
    left_out = int(max(n - min(n * strength, n), 0))
    changes: dict[str, Any] = {"steps": n - left_out}
    if isinstance(sampler.grid, Times):
        changes["grid"] = Times(times[left_out:-1])
    return dataclasses.replace(sampler, **changes), times[left_out]  # type: ignore[type-var]


def guidance_of(guidance: Guidance | float | None, skip_layers: Any, times: Sequence[float], net: Any) -> Guidance | None:
    """Return the guidance for a scale, combined with skip-layer guidance; its negative condition is added by `with_negative`.

    Raises:
        UserError: guidance is neither a finite number nor a guidance, or layers are skipped that the network does not have.
    """
    if isinstance(guidance, Clip):  # after all others
        return dataclasses.replace(guidance, guidance=guidance_of(guidance.guidance, skip_layers, times, net))
    made = CFG(float(guidance)) if isinstance(guidance, int | float) and is_real(guidance) else guidance
    if made is not None and not isinstance(made, Guidance):
        raise UserError(f"guidance is {guidance!r}, but it must be a finite number such as 7.0 or a guidance, pf.guidance.CFG(7.0).")
    if isinstance(guidance, int | float) and guidance <= 1:
        made = None  # usual for this model
    if skip_layers is not None:
        if not isinstance(skip_layers, SkipLayers):
            layers = tuple(skip_layers) if isinstance(skip_layers, Sequence) else skip_layers
            skip_layers = SkipLayers(layers, steps=(0.01, 0.2))
        made = dataclasses.replace(skip_layers, guidance=made)
    one: Any = made
    while one is not None:  # guidance around guidance
        if isinstance(one, SkipLayers):
            one.check(net)
        one = as_guidance(one.guidance) if isinstance(one, Around) else None
    return None if made is None else made.on(times)


def with_negative(guidance: Guidance | None, negative: Callable[[], Any]) -> Guidance | None:
    """Return guidance with a negative condition where it has none and needs one; only then is `negative` called."""
    if isinstance(guidance, FromNegative):
        return dataclasses.replace(guidance, negative=negative()) if guidance.needs_unconditional else guidance  # type: ignore[type-var]
    if isinstance(guidance, Around):
        inner = with_negative(as_guidance(guidance.guidance), negative)
        return dataclasses.replace(guidance, guidance=inner)  # type: ignore[type-var]
    return guidance
