"""Samples of a model: noise, drawn all together, and its image under the model's map, chunk by chunk; and densities, chunk by chunk."""

import math
from typing import Any

import torch
from torch import Tensor

from pushforward import _random
from pushforward._checks import whole
from pushforward._memory import check_room, memory_errors
from pushforward._shares import Share
from pushforward.bases import Torus
from pushforward.errors import UserError
from pushforward.families import checks
from pushforward.guidance.guidance import Guidance
from pushforward.samplers.sampler import Sampler
from pushforward.types import has_log_prob

WHOLE = Share()


def drawn(
    model: Any,
    n: int,
    cond: Any,
    sampler: Sampler | None,
    guidance: Guidance | float | None,
    temperature: float,
    log_prob: bool,
    generator: _random.Generators,
    batch_size: int | None,
    share: Share = WHOLE,
) -> tuple[Tensor, Tensor | None]:
    """Return n samples (n, *shape) and, if `log_prob` is set, their log-probabilities (n,): `GenerativeModel.sample` with gradients.

    With a `share`, its rows of each chunk only.
    """
    whole("n", n, 0, 2**63 - 1)
    if log_prob:
        model._check_density()
    guidance = model._guided(guidance, sampler, log_prob)
    temperature = checks.checked_temperature(temperature)
    if temperature != 1 and not has_log_prob(model.base):
        raise UserError(f"temperature is {temperature}, but the base {type(model.base).__name__} is data and no noise to scale; use 1.")
    if log_prob and temperature > 1 and isinstance(model.base, Torus):
        raise UserError(
            f"temperature is {temperature:g}, but angles stretched beyond the circle overlap, so their density is another one; "
            "give at most 1, or leave log_prob out."
        )
    _random.checked(generator, n)
    what, remedy = f"{n} samples of shape {model.shape}", "give a smaller n, or batch_size to compute fewer together"
    first = checks.first_floating(model)
    if first is None or first.device.type == "cpu":
        dtype = model.dtype if first is None else first.dtype  # `dtype` would look for the same parameter again
        check_room(what, n * math.prod(model.shape) * dtype.itemsize, remedy)
    chunks = _random.chunks(n, batch_size, generator)
    cond = model._checked_cond(cond, n)
    parts, values = [], []
    with memory_errors(what, remedy):
        start = model._base_sample(n, cond, generator)  # all together, so that it does not depend on batch_size
        for chunk, chunk_generator in chunks:
            with share.part(chunk, chunk_generator) as (rows, part_generator):
                every = rows == slice(0, n)
                noise = start if every else start[rows]
                part_cond = cond if every or cond is None else cond[rows]
                part_guidance = guidance.rows(rows, n) if isinstance(guidance, Guidance) else guidance
                tempered = noise if temperature == 1 else noise * temperature
                if log_prob:
                    mapped = model._bound(part_cond, sampler, part_guidance, generator=part_generator)
                    x, log_abs_det = mapped.inverse(tempered)
                    density = model._base_log_prob(noise, part_cond) - math.prod(model.shape) * math.log(temperature)
                    values.append(density - log_abs_det)
                else:
                    x = model._from_model(model._sampled(tempered, part_cond, sampler, part_guidance, part_generator))
                checks.check_finite(x, rows.start, sampler or model.sampler)
                parts.append(x)
        return torch.cat(parts), torch.cat(values) if log_prob else None


def densities(
    model: Any,
    x: Tensor,
    cond: Any,
    sampler: Sampler | None,
    divergence: Any,
    generator: _random.Generators,
    batch_size: int | None,
    share: Share = WHOLE,
    stream: bool = False,
) -> Tensor:
    """Return the log-densities (n,) of data x (n, *shape), whose condition was checked: `GenerativeModel.log_prob`.

    With a `share`, its rows of each chunk only. With `stream`, the chunks draw one after another from the generator, as from none.
    """
    n, parts = x.shape[0], []
    _random.checked(generator, n)
    if isinstance(generator, torch.Generator) and batch_size is not None and not stream:
        generator = [generator]  # one draw, the same as for all rows together
    for chunk, chunk_generator in _random.chunks(n, batch_size, generator):
        with share.part(chunk, chunk_generator) as (rows, part_generator):
            every = rows == slice(0, n)
            some, part_cond = (x, cond) if every else (x[rows], None if cond is None else cond[rows])
            parts.append(model._density(some, part_cond, sampler, divergence, part_generator))
    return parts[0] if len(parts) == 1 else torch.cat(parts)
