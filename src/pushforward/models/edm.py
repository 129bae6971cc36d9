"""EDM: diffusion with its design choices separated, and each made well.

Paper: Karras, Aittala, Aila and Laine, Elucidating the design space of diffusion-based generative models, 2022, arXiv 2206.00364.
What it adds: schedule, parametrisation, training times and sampler are independent choices. The data's scale is constant and noise is added
to it; the network's input, output and target are scaled to unit variance at every noise level; training favours the levels where
something can be learned (ln sigma is normal); sampling is Heun's method with steps that are short near the data, and some noise is added
again (churn) to correct the network's own errors.
"""

import torch

from pushforward.families.path_model import PathModel
from pushforward.models.path_options import PreconditionedOptions
from pushforward.models.preset import preset
from pushforward.nn.mlp import MLP
from pushforward.nn.preconditioned import Preconditioned
from pushforward.paths import Path, VarianceExploding
from pushforward.registry import export
from pushforward.samplers.edm import EDM
from pushforward.times import NormalLogSNR
from pushforward.weightings import Unit


def _example() -> tuple:
    return edm(MLP.Config((16, 16)), (2,), sigma_min=0.1, sigma_max=5.0, classes=3), torch.randn(4, 2), torch.tensor([0, 1, 2, 0])


@export("models.edm", example=_example)
@preset(sampler=EDM(18))
def edm(shared: PreconditionedOptions, *, sigma_min: float = 0.002, sigma_max: float = 80.0) -> PathModel:
    """Regress the data by a preconditioned network at log-normal noise levels.

    Args:
        sigma_min: lowest noise, in units of the (preprocessed) data.
        sigma_max: highest noise.

    Returns:
        A PathModel with data prediction along VarianceExploding(sigma_min, sigma_max).

    Example:
        >>> model = edm(shape=(2,))
        >>> model.sample(3).shape
        torch.Size([3, 2])
    """
    return preconditioned(shared, VarianceExploding(sigma_min, sigma_max))


def preconditioned(shared: PreconditionedOptions, path: Path) -> PathModel:
    """Return the model of the data whose network is scaled to unit variance and trained at log-normal noise levels of a path."""
    return PathModel(
        Preconditioned(shared.network(), path, shared.data_std),
        shared.event_shape,
        path,
        "data",
        NormalLogSNR(path, -shared.noise_mean, shared.noise_std),
        weighting=Unit(shared.data_std),
        **shared.family_options,
    )
