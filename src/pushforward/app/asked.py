"""What a visitor asks for, checked before anything is computed: each mistake is one sentence."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pushforward._checks import shown
from pushforward.app.loaded import Loaded
from pushforward.app.samplers import sampler_of
from pushforward.bases import Gaussian
from pushforward.errors import UserError
from pushforward.evaluation.given import given
from pushforward.families.checks import device_of
from pushforward.families.model import GenerativeModel
from pushforward.samplers.sampler import Sampler
from pushforward.types import has_log_prob

EACH, NONE = "each", "none"  # all classes in turn, and no class
MOST = {"images": 64, "plane": 5000, "table": 2000, "series": 36, "texts": 4}  # samples of one request
MOST_EVALUATIONS = 200
LARGEST_SEED = 2**32 - 1


@dataclass(frozen=True)
class Asked:
    """Checked settings of samples.

    Args:
        n: number of samples.
        seed: seed of the noise.
        cond: condition of each sample (n, ...), or None.
        sampler: the sampler, None for the model's own.
        guidance: scale of classifier-free guidance, None without.
        temperature: factor on the noise's standard deviation.
        slides: weights of further directions of noise that are mixed in.
    """

    n: int
    seed: int = 0
    cond: Tensor | None = None
    sampler: Sampler | None = None
    guidance: float | None = None
    temperature: float = 1.0
    slides: tuple[float, ...] = ()


def asked(
    loaded: Loaded,
    n: Any,
    seed: Any = 0,
    label: Any = EACH,
    sampler: Any = None,
    evaluations: Any = None,
    guidance: Any = 1.0,
    temperature: Any = 1.0,
    slides: Sequence[Any] = (),
) -> Asked:
    """Return what a visitor asked for, in the types of the library.

    Raises:
        UserError: something was typed that cannot be; the sentence states what is allowed.
    """
    model = loaded.model
    count = integer("the number of samples", n, 1, MOST[loaded.kind])
    start = integer("the seed", seed, 0, LARGEST_SEED)
    scale = number("guidance", guidance, 0, 50)
    warmth = number("the temperature", temperature, 0.01, 5)
    weights = tuple(number("a latent slider", one, -3, 3) for one in slides)
    if scale != 1 and not loaded.guides:
        raise UserError(f"guidance is {scale:g}, but {loaded.name} was trained without dropped conditions; set it to 1.")
    if warmth != 1 and not has_log_prob(model.base):
        raise UserError(f"the temperature is {warmth:g}, but the base of {loaded.name} is data and no noise to scale; set it to 1.")
    if any(weights) and type(model.base) is not Gaussian:
        raise UserError(f"a latent slider is moved, but the base of {loaded.name} is not Gaussian; set the sliders to 0.")
    cond = condition(loaded, label, count)
    if scale != 1 and cond is None:
        raise UserError(f"guidance is {scale:g}, but no class is chosen that it could follow; choose one, or set guidance to 1.")
    solver = sampler_of(model, sampler, evaluations, MOST_EVALUATIONS)
    return Asked(count, start, cond, solver, None if scale == 1 else scale, warmth, weights)


def condition(loaded: Loaded, label: Any, n: int) -> Tensor | None:
    """Return the conditions (n, ...) of a chosen class, of `EACH` in turn, or None; vectors and images are those of the run's test data.

    Raises:
        UserError: there is no such class, or the model needs a condition that is not there.
    """
    model = loaded.model
    if model.classes is None:
        found = None if label == NONE else given(model, loaded.tested, n, device_of(model))
        if found is None and model.conditioning and not loaded.guides:
            raise UserError(f"{loaded.name} needs conditions, but the test data of its run cannot be read; start the app where they can.")
        return found
    if label in (None, EACH):
        return torch.arange(n, device=device_of(model)) % model.classes
    if label == NONE:
        if not loaded.guides:
            raise UserError(f"the class is 'none', but {loaded.name} was trained with a class for each example; choose one.")
        return None
    if str(label) not in loaded.classes:
        few = ", ".join(loaded.classes[:10]) + (", ..." if len(loaded.classes) > 10 else "")
        raise UserError(f"the class is {shown(label)}, but {loaded.name} has the classes {few}; choose one of them.")
    return torch.full((n,), loaded.classes.index(str(label)), device=device_of(model))


def integer(what: str, value: Any, least: int, most: int) -> int:
    """Return an integer within bounds.

    Raises:
        UserError: it is none.
    """
    found = number(what, value, least, most)
    if found != int(found):
        raise UserError(f"{what} is {found:g}, but it is an integer from {least} to {most}.")
    return int(found)


def number(what: str, value: Any, least: float, most: float) -> float:
    """Return a finite number within bounds.

    Raises:
        UserError: it is none.
    """
    if value is None or value == "":
        raise UserError(f"{what} is empty; enter a number from {least:g} to {most:g}.")
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = math.nan
    if isinstance(value, bool) or not least <= found <= most:
        raise UserError(f"{what} is {shown(value)}, but it is a number from {least:g} to {most:g}.")
    return found


def noise_of(model: GenerativeModel, settings: Asked) -> Tensor:
    """Return the noise (n, *shape) of a seed, before any temperature; models with equal events and bases of one kind get the same.

        z = s (z_0 + sum_k w_k z_k) / sqrt(1 + sum_k w_k²),    z_k of the same distribution for each slider w_k

    It keeps the distribution of Gaussian noise for any fixed weights; s is the temperature.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    noise = model._base_sample(settings.n, settings.cond, generator)
    for k, weight in enumerate(settings.slides):
        if weight:
            other = torch.Generator().manual_seed((settings.seed + 7919 * (k + 1)) % 2**32)
            noise = noise + weight * model._base_sample(settings.n, settings.cond, other)[:1]
    return noise * (settings.temperature / math.sqrt(1 + sum(weight**2 for weight in settings.slides)))
