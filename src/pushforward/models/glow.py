"""Glow: channels are mixed by learned matrices.

Paper: Kingma and Dhariwal, Glow: generative flow with invertible 1x1 convolutions, 2018, arXiv 1807.03039.
What it adds to RealNVP: where that swaps halves and draws checkerboards, an invertible 1x1 convolution mixes all channels by a matrix that
is learned (section 3.2; kept as its PLU factors, it costs no determinant), and a scale and shift of each channel that start from the
first data stand where batches were normalised, so that batches may be small (section 3.1). One step of the flow is the three:
actnorm, 1x1 convolution, coupling; a level is a squeeze and `depth` steps, after which half of the channels are done (section 2). The prior
of the half that is done is learned: mean and deviation are read off the half that goes on.
Samples look best a little colder than the model (section 5): `model.sample(n, temperature=0.7)`. In between two images lie others
(`evaluation.interpolate`), and what images of one label have in common is a direction of the latent space
(`evaluation.attribute_direction`).
Ours: the coupling's scale is exp(2 tanh(s / 2)) where their code has a sigmoid, and the actnorm and the convolution of a step are one
product of matrices.
"""

from collections.abc import Sequence

import torch

from pushforward.bijections.bijection import Bijection
from pushforward.bijections.chain import Chain, Memory
from pushforward.bijections.columns import moved
from pushforward.bijections.image_coupling import Change, ImageCoupling
from pushforward.bijections.invertible_conv import InvertibleConv, Parametrisation
from pushforward.bijections.multiscale import Multiscale
from pushforward.bijections.scaling import ImageActNorm
from pushforward.bijections.squeeze import Squeeze
from pushforward.families.normalizing_flow import NormalizingFlow
from pushforward.models.preset import Dequantise, ImagePreprocess, checked_layers, checked_levels, dequantisation, image_units, preset
from pushforward.nn.activation import Activation
from pushforward.registry import export


def _example() -> tuple:
    model = glow(1, 4, 2, 1, 2, activation="tanh", preprocess="none", classes=3)
    moved(model.bijection)
    return model, torch.randn(4, 1, 4, 4), torch.tensor([0, 1, 2, 0])


@export("models.glow", example=_example)
@preset
def glow(
    channels: int | None = None,
    size: int | None = None,
    levels: int = 2,
    depth: int = 8,
    hidden: int = 128,
    *,
    shape: Sequence[int] | None = None,
    coupling: Change = "affine",
    mixing: Parametrisation = "plu",
    activation: Activation = "relu",
    preprocess: ImagePreprocess = "auto",
    dequantise: Dequantise = "uniform",
    classes: int | None = None,
    cond_features: int | None = None,
    values: int | None = None,
    memory: Memory = "full",
) -> NormalizingFlow:
    """Stack steps of actnorm, invertible 1x1 convolution and coupling, at several scales.

    Args:
        channels: channels of an image; or give shape.
        size: height and width of a square image; or give shape.
        levels: number of scales; each halves the sides, which must be even there.
        depth: steps of the flow at each scale (32 in the paper).
        hidden: channels of each coupling's two hidden layers (512 in the paper).
        shape: shape of an image (channels, height, width); what the command line gives, from the data.
        coupling: "affine" (scale and shift), "additive" (shift alone) or "spline".
        mixing: how the 1x1 convolution's matrix is kept: "plu", "free" or "householder".
        activation: "relu", "silu", "tanh", "elu" or "softplus".
        preprocess: "logit" spreads quantised data over the line, "standardise" fits mean and deviation to the training data, "none" leaves
            its units; "auto" is "logit" for quantised data and "standardise" for other.
        dequantise: how `loss` spreads quantised data over their unit cells: "uniform" noise, or "variational", drawn by a small flow
            that is learned too.
        classes: number of class labels, or None.
        cond_features: length of condition vectors, or None.
        values: number of values 0, 1, ... of quantised data (256 for 8-bit images), or None for continuous data.
        memory: "full", or "reversible" for training in memory that does not grow with depth: see `bijections.Chain`.

    Returns:
        A NormalizingFlow with Gaussian noise.

    Raises:
        UserError: no shape, one that is no image's, more levels than the sides can be halved, or depth < 1.

    Example:
        >>> flow = glow(3, 16, levels=3, depth=2, hidden=16)
        >>> flow.sample(2, temperature=0.7).shape, flow.encode(torch.rand(2, 3, 16, 16)).shape
        (torch.Size([2, 3, 16, 16]), torch.Size([2, 3, 16, 16]))
    """
    assert shape is not None  # `preset` fills it in from channels and size
    checked_levels(levels, shape, levels)
    now = shape[0]
    scales: list[Bijection] = []
    for level in range(levels):
        now *= 4
        steps: list[Bijection] = [Squeeze()]
        for _ in range(checked_layers(depth, "depth")):
            net = ImageCoupling(now, hidden, change=coupling, activation=activation, classes=classes, cond_features=cond_features)
            steps += [ImageActNorm(now), InvertibleConv(now, mixing), net]
        if level < levels - 1:
            steps += [ImageCoupling(now, None, classes=classes, cond_features=cond_features)]  # the learned prior
        scales += [Chain(steps, memory)]
        now //= 2
    return NormalizingFlow(
        Multiscale(scales),
        shape=shape,
        preprocess=image_units(preprocess, shape, values),
        classes=classes,
        cond_features=cond_features,
        levels=values,
        dequantisation=dequantisation(dequantise, shape, hidden, values),
    )
