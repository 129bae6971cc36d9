"""Whether a trained flow is behind a Gaussian on validation, stated where training ends."""

import math
from typing import Any

import torch

from pushforward.data.dataset import Dataset
from pushforward.data.lazy import LazyDataset
from pushforward.errors import PushforwardError
from pushforward.evaluation.baselines import MIXTURES, fit_baselines
from pushforward.evaluation.likelihood import bits_per_dim
from pushforward.evaluation.verdict import ERRORS
from pushforward.families.normalizing_flow import NormalizingFlow
from pushforward.training.trainer import Trainer

DRAWS = 4  # dequantisation draws


def behind_gaussian(trainer: Trainer) -> str | None:
    """Return a sentence if the best weights of a flow give validation data a lower likelihood than a Gaussian fitted to the training data.

    None for other models, whose likelihood `pushforward evaluate` computes, for sets on disk, and where no Gaussian fits: the run has
    ended, so nothing here may be an error.
    """
    train, validation = trainer.data, trainer.validation
    for data in (train, validation):
        if not isinstance(data, Dataset) or isinstance(data, LazyDataset) or len(data) < 2:
            return None
    assert isinstance(train, Dataset)
    assert isinstance(validation, Dataset)
    if not isinstance(trainer.model, NormalizingFlow) or math.prod(trainer.model.shape) > MIXTURES:
        return None
    try:
        given = train.cond is not None and train.cond.ndim == 2 and bool(trainer.model.conditioning)
        name = "gaussian_given" if given else "gaussian"
        gaussian = fit_baselines(train, validation, torch.Generator().manual_seed(0), only=(name,))[name]
        own = _nats(trainer.best_model, validation, "given" if trainer.model.conditioning else "none")
    except PushforwardError:
        return None
    difference = _nats(gaussian, validation, "given" if given else "none") - own
    behind, error = float(difference.mean()), float(difference.std() / math.sqrt(len(difference)))
    if not behind > ERRORS * error:
        return None
    gaussian_of = "a Gaussian given the condition" if given else "a Gaussian"
    return (
        f"On validation data the model is worse than {gaussian_of} by {behind:.2f} ± {error:.2f} nats per row; give it more data or steps, "
        "or a smaller network (see its options in `pushforward train PRESET --help`)."
    )


def _nats(density: Any, data: Dataset, cond: Any) -> torch.Tensor:
    """Return the log-likelihood of each example in nats, over the same dequantisation draws for each density."""
    draws = DRAWS if data.levels is not None else 1
    bits = bits_per_dim(density, data, draws=draws, cond=cond, generator=torch.Generator().manual_seed(0))
    return -bits.per_example * data.x[0].numel() * math.log(2)
