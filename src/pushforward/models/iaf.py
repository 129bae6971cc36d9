"""IAF: inverse autoregressive flow, samples in one pass.

Paper: Kingma, Salimans, Jozefowicz, Chen, Sutskever and Welling, Improving variational inference with inverse autoregressive flow, 2016,
arXiv 1606.04934.
What it says: turn a masked autoregressive layer round. Each number of a sample is scaled and shifted by what MADE reads off the noise
before it, and all noise is known at once, so that sampling is one pass; the density of given data then goes feature by feature, though
that of the flow's own samples comes with them. This is `maf` with the directions exchanged, which made it the flow of variational
posteriors; trained by maximum likelihood, as here, each step pays the slow direction.
"""

import math
from collections.abc import Sequence

import torch

from pushforward.bijections.autoregressive import AffineAutoregressive
from pushforward.bijections.bijection import Bijection
from pushforward.bijections.chain import Chain, Inverse
from pushforward.bijections.mixing import Reverse
from pushforward.families.normalizing_flow import NormalizingFlow
from pushforward.functional.levels import Levels
from pushforward.models.preset import Preprocess, checked_layers, preset, units
from pushforward.nn.activation import Activation
from pushforward.registry import export


def _example() -> tuple:
    return iaf(2, 2, (16,), classes=3), torch.randn(4, 2), torch.tensor([0, 1, 2, 0])


@export("models.iaf", example=_example)
@preset
def iaf(
    features: int | None = None,
    layers: int = 4,
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
    """Stack inverses of masked autoregressive affine layers, the order of the features turned round between them.

    Args:
        features: numbers a sample; or give shape.
        layers: number of autoregressive layers.
        hidden: widths of each MADE's hidden layers.
        shape: shape of one event (an image is flattened); what the command line gives, from the data.
        bound: bound of each layer's log-scales.
        activation: "relu", "silu", "tanh", "elu" or "softplus".
        preprocess: "standardise" fits mean and deviation to the training data, "logit" spreads quantised data over the line, "none" leaves
            its units.
        classes: number of class labels, or None.
        cond_features: length of condition vectors, or None.
        levels: number of values of quantised data, for a table one entry a column; None for continuous data.

    Returns:
        A NormalizingFlow with Gaussian noise, whose fast direction is sampling.

    Example:
        >>> iaf(6).sample(3).shape
        torch.Size([3, 6])
    """
    assert shape is not None  # `preset` fills it in from features
    size = math.prod(shape)
    steps: list[Bijection] = []
    for k in range(checked_layers(layers)):
        steps += [Reverse(size)] if k else []
        layer = AffineAutoregressive(size, hidden, bound=bound, activation=activation, classes=classes, cond_features=cond_features)
        steps += [Inverse(layer)]
    return NormalizingFlow(
        Chain(steps),
        shape=shape,
        preprocess=units(preprocess, shape, levels),
        classes=classes,
        cond_features=cond_features,
        levels=levels,
    )
