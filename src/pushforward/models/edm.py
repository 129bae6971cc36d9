"""EDM: diffusion with its design choices told apart and each made well.

Paper: Karras, Aittala, Aila and Laine, Elucidating the design space of diffusion-based generative models, 2022, arXiv 2206.00364.
What it says: schedule, parametrisation, training times and sampler are independent choices. Data stands still under growing noise; the
network's input, output and target are scaled to unit variance at every noise level; training looks mostly at the levels where something is
to be learned (ln sigma is normal); sampling is Heun's method over steps that are short near the data, with some noise put back (churn)
where the network's own errors need correcting.
"""

from collections.abc import Sequence

import torch

from pushforward.families.path_model import PathModel
from pushforward.functional.levels import Levels
from pushforward.models.preset import Net, Preprocess, built, preset, units
from pushforward.nn.mlp import MLP
from pushforward.nn.preconditioned import Preconditioned
from pushforward.paths import VarianceExploding
from pushforward.registry import export
from pushforward.samplers.edm import EDM
from pushforward.samplers.sampler import Sampler
from pushforward.times import NormalLogSNR
from pushforward.weightings import Unit


def _example() -> tuple:
    return edm(MLP.Config((16, 16)), (2,), sigma_min=0.1, sigma_max=5.0, classes=3), torch.randn(4, 2), torch.tensor([0, 1, 2, 0])


@export("models.edm", example=_example)
@preset
def edm(
    net: Net = None,
    shape: Sequence[int] = (2,),
    *,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    noise_mean: float = -1.2,
    noise_std: float = 1.2,
    data_std: float = 1.0,
    drop_cond: float = 0.0,
    preprocess: Preprocess = "none",
    sampler: Sampler = EDM(18),
    classes: int | None = None,
    levels: Levels = None,
) -> PathModel:
    """Regress the data by a preconditioned network at log-normal noise levels.

    Args:
        net: a network, its configuration, or None for an MLP over vectors and a U-Net over images; it is called with scaled inputs.
        shape: shape of one event.
        sigma_min: least noise, in units of the (preprocessed) data.
        sigma_max: highest noise.
        noise_mean: mean of ln sigma in training.
        noise_std: standard deviation of ln sigma in training.
        data_std: standard deviation of the (preprocessed) data: 1 where it is standardised, 0.5 is the paper's for images in [-1, 1].
        drop_cond: share of labels dropped in training, for guidance.
        preprocess: "standardise" fits mean and deviation to the training data; "none" leaves its units.
        sampler: how samples, encodings and likelihoods are solved by default.
        classes: number of class labels, or None.
        levels: number of values of quantised data, for a table one entry a column; None for continuous data.

    Returns:
        A PathModel with data prediction along VarianceExploding(sigma_min, sigma_max).

    Example:
        >>> model = edm(shape=(2,))
        >>> model.sample(3).shape
        torch.Size([3, 2])
    """
    path = VarianceExploding(sigma_min, sigma_max)
    return PathModel(
        Preconditioned(built(net, shape, classes), path, data_std),
        shape,
        path,
        "data",
        NormalLogSNR(path, -noise_mean, noise_std),
        drop_cond=drop_cond,
        weighting=Unit(data_std),
        preprocess=units(preprocess, shape),
        sampler=sampler,
        classes=classes,
        levels=levels,
    )
