"""The likelihood of an uploaded image, and where it is among those of the test set."""

import functools
import math
from typing import Any, NamedTuple

import torch

from pushforward.app.asked import EACH, NONE, condition
from pushforward.app.loaded import Loaded
from pushforward.app.pixels import Upload, event_of
from pushforward.data.dataset import Dataset
from pushforward.errors import NotInvertibleError
from pushforward.evaluation.likelihood import bits_per_dim
from pushforward.samplers.heun import Heun

EXACT = 16  # numbers of an event up to which an ODE is solved by the model's own sampler, with the exact divergence
STEPS = 20  # of Heun's method with an estimated divergence for larger events, so that an answer takes seconds
COMPARED = 32  # test images


class Bits(NamedTuple):
    """Bits per dimension of an image, and the share of test images that are less likely."""

    value: float
    less_likely: float | None = None


def bits_of(loaded: Loaded, upload: Upload, label: Any = EACH, inverted: bool = False, seed: int = 0) -> Bits:
    """Return the bits per dimension of an uploaded image; lower is more likely.

    Args:
        loaded: the model.
        upload: the image.
        label: its class; without one it is the model's own density without a class, or else the mixture of all classes.
        inverted: whether black and white are exchanged.
        seed: of the uniform noise within the levels, and of an estimated divergence.

    Raises:
        NotInvertibleError: the model has no log_prob.
        UserError: the image cannot be read.
    """
    _check(loaded)
    x, way = event_of(loaded, upload, inverted), way_of(loaded, label)
    cond = condition(loaded, label, 1) if way == "given" else None
    data = Dataset("the image", x.cpu(), None if cond is None else cond.cpu(), levels=loaded.model.levels)
    return Bits(_bits(loaded, data, way, seed)[0])


def way_of(loaded: Loaded, label: Any) -> str:
    """Return how a label conditions the likelihood: "given", "none" or "mixture", as in `evaluation.bits_per_dim`."""
    if label == NONE:
        condition(loaded, label, 1)
        return "none"
    if loaded.model.classes is None or label not in (None, EACH):
        return "given" if loaded.model.conditioning else "none"
    return "none" if loaded.guides else "mixture"


@functools.lru_cache(maxsize=8)
def bits_of_tests(loaded: Loaded, way: str) -> tuple[float, ...]:
    """Return the bits per dimension of the first test images, () if there are none; kept for later requests."""
    _check(loaded)
    if loaded.tested is None:
        return ()
    x, cond = loaded.tested[: min(COMPARED, len(loaded.tested))]
    return _bits(loaded, Dataset("test", x, cond, levels=loaded.model.levels), way, 0)


def placed(bits: Bits, tests: tuple[float, ...]) -> Bits:
    """Return the bits with the share of test images that are less likely."""
    return Bits(bits.value, sum(one > bits.value for one in tests) / len(tests)) if tests else bits


def _check(loaded: Loaded) -> None:
    if not loaded.has_density:
        raise NotInvertibleError(f"{loaded.name} has no log_prob; use a normalizing flow, or a model on a path such as rectified_flow.")


def _bits(loaded: Loaded, data: Dataset, way: str, seed: int) -> tuple[float, ...]:
    large = loaded.model.solved and math.prod(loaded.model.shape) > EXACT
    options: dict[str, Any] = {"divergence": "hutchinson", "sampler": Heun(STEPS)} if large else {}
    generator = torch.Generator().manual_seed(seed)
    return tuple(bits_per_dim(loaded.model, data, cond=way, generator=generator, **options).per_example.tolist())
