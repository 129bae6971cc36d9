"""Whether a trained flow is behind a Gaussian on validation, stated where training ends."""

import math

import torch

from pushforward.data.dataset import Dataset
from pushforward.evaluation.baselines import MIXTURES, fit_baselines
from pushforward.evaluation.likelihood import bits_per_dim
from pushforward.families.normalizing_flow import NormalizingFlow
from pushforward.training.trainer import Trainer

DRAWS = 8  # dequantisation draws, as in a validation


def behind_gaussian(trainer: Trainer) -> str | None:
    """Return a sentence if a flow's best validation loss is above that of a Gaussian fitted to the training data, or None.

    A flow's loss is its negative log-likelihood per dimension in the data's units; of other models `pushforward evaluate` computes it.
    """
    train, validation = trainer.data, trainer.validation
    exact = isinstance(trainer.model, NormalizingFlow) and trainer.model.dequantisation is None
    if not exact or not isinstance(train, Dataset) or not isinstance(validation, Dataset) or not math.isfinite(trainer.best):
        return None
    size = math.prod(train.shape)
    if size > MIXTURES:
        return None
    gaussian = fit_baselines(train, validation, torch.Generator().manual_seed(0), only=("gaussian",))["gaussian"]
    draws = DRAWS if train.levels is not None else 1
    bits = bits_per_dim(gaussian, validation, draws=draws, cond="none", generator=torch.Generator().manual_seed(0))
    behind = size * (trainer.best - bits.mean * math.log(2))
    error = bits.standard_error * size * math.log(2)
    if behind <= 0:
        return None
    return (
        f"On validation data the model is {behind:.2f} nats a row worse than a Gaussian (whose mean has a standard error of {error:.2f}); "
        "give it more data or steps, or a smaller network (--hidden, --layers)."
    )
