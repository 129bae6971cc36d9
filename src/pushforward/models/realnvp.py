"""RealNVP: couplings that scale as well as shift.

Paper: Dinh, Sohl-Dickstein and Bengio, Density estimation using Real NVP, 2016, arXiv 1605.08803.
What it adds to NICE: the network says a scale exp(s) beside the shift, so that volume is no longer kept and density can gather where data
is. The Jacobian stays triangular and its log-determinant is the sum of s. This page is the flow of vectors; s is bounded by 2 tanh(s / 2)
where the paper learns a factor for tanh, so that no layer can overflow.
"""

import math
from collections.abc import Sequence

import torch

from pushforward.bijections.chain import Chain
from pushforward.bijections.coupling import AffineCoupling
from pushforward.families.normalizing_flow import NormalizingFlow
from pushforward.functional.levels import Levels
from pushforward.models.preset import Preprocess, checked_layers, preset, units
from pushforward.nn.activation import Activation
from pushforward.registry import export


def _example() -> tuple:
    return realnvp(2, 2, (16,), activation="tanh", classes=3), torch.randn(4, 2), torch.tensor([0, 1, 2, 0])


@export("models.realnvp", example=_example)
@preset
def realnvp(
    features: int | None = None,
    layers: int = 8,
    hidden: tuple[int, ...] = (128, 128),
    *,
    shape: Sequence[int] | None = None,
    bound: float = 2.0,
    activation: Activation = "relu",
    preprocess: Preprocess = "none",
    classes: int | None = None,
    cond_features: int | None = None,
    levels: Levels = None,
) -> NormalizingFlow:
    """Stack affine couplings that change the two halves in turn.

    Args:
        features: numbers a sample; or give shape.
        layers: number of couplings; each changes the half that the one before kept.
        hidden: widths of each coupling's hidden layers.
        shape: shape of one event (an image is flattened); what the command line gives, from the data.
        bound: bound of each coupling's log-scales.
        activation: "relu", "silu", "tanh", "elu" or "softplus".
        preprocess: "standardise" fits mean and deviation to the training data, "logit" spreads quantised data over the line, "none" leaves
            its units.
        classes: number of class labels, or None.
        cond_features: length of condition vectors, or None.
        levels: number of values of quantised data, for a table one entry a column; None for continuous data.

    Returns:
        A NormalizingFlow with Gaussian noise.

    Example:
        >>> samples, log_prob = realnvp(64).sample(3, log_prob=True)
        >>> samples.shape, log_prob.shape
        (torch.Size([3, 64]), torch.Size([3]))
    """
    assert shape is not None  # `preset` fills it in from features
    size = math.prod(shape)
    steps = [
        AffineCoupling(size, hidden, bound=bound, swap=k % 2 == 1, activation=activation, classes=classes, cond_features=cond_features)
        for k in range(checked_layers(layers))
    ]
    return NormalizingFlow(
        Chain(steps),
        shape=shape,
        preprocess=units(preprocess, shape, levels),
        classes=classes,
        cond_features=cond_features,
        levels=levels,
    )
