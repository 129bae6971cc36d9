"""RealNVP of images: couplings by checkerboard and by channel, at several scales.

Paper: Dinh, Sohl-Dickstein and Bengio, Density estimation using Real NVP, 2016, arXiv 1605.08803, sections 3.4 to 3.6.
What it adds to the flow of vectors (`realnvp`): the network of a coupling is convolutional, and says of every other pixel what to do from
its neighbours (checkerboard), or of half of the channels from the other half. Squeezing trades resolution for channels between the
two, and after each scale half of the numbers are noise already, which saves work and gives every scale a likelihood of its own. At each
scale: couplings by checkerboard, a squeeze, couplings by channel; the last scale ends with checkerboards, one more than elsewhere.
Ours: the networks are three convolutions rather than residual, and a layer that starts from data (`ImageActNorm`) stands where the paper
normalises batches, so that a row's likelihood does not depend on its batch.
"""

from collections.abc import Sequence
from functools import partial

import torch

from pushforward.bijections.bijection import Bijection
from pushforward.bijections.chain import Chain, Memory
from pushforward.bijections.columns import moved
from pushforward.bijections.image_coupling import ImageCoupling
from pushforward.bijections.multiscale import Multiscale
from pushforward.bijections.scaling import ImageActNorm
from pushforward.bijections.squeeze import Squeeze
from pushforward.families.normalizing_flow import NormalizingFlow
from pushforward.models.preset import Dequantise, ImagePreprocess, checked_layers, checked_levels, dequantisation, image_units, preset
from pushforward.nn.activation import Activation
from pushforward.registry import export


def _example() -> tuple:
    model = realnvp_image(1, 4, 2, 1, 2, activation="tanh", preprocess="none", classes=3)
    moved(model.bijection)
    return model, torch.randn(4, 1, 4, 4), torch.tensor([0, 1, 2, 0])


@export("models.realnvp_image", example=_example)
@preset
def realnvp_image(
    channels: int | None = None,
    size: int | None = None,
    levels: int = 2,
    depth: int = 3,
    hidden: int = 64,
    *,
    shape: Sequence[int] | None = None,
    bound: float = 2.0,
    activation: Activation = "relu",
    preprocess: ImagePreprocess = "auto",
    dequantise: Dequantise = "uniform",
    classes: int | None = None,
    cond_features: int | None = None,
    values: int | None = None,
    memory: Memory = "full",
) -> NormalizingFlow:
    """Stack affine couplings by checkerboard and by channel at several scales.

    Args:
        channels: channels of an image; or give shape.
        size: height and width of a square image; or give shape.
        levels: number of scales; each but the last halves the sides, which must be even there.
        depth: couplings of each kind at each scale, which change the two parts in turn.
        hidden: channels of each coupling's two hidden layers.
        shape: shape of an image (channels, height, width); what the command line gives, from the data.
        bound: bound of each coupling's log-scales.
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
        >>> realnvp_image(1, 8, hidden=16).sample(3).shape
        torch.Size([3, 1, 8, 8])
    """
    assert shape is not None  # `preset` fills it in from channels and size
    checked_levels(levels, shape, levels - 1)
    coupling = partial(ImageCoupling, hidden=hidden, bound=bound, activation=activation, classes=classes, cond_features=cond_features)
    now = shape[0]
    scales: list[Bijection] = []
    for level in range(levels):
        last = level == levels - 1
        steps: list[Bijection] = []
        for k in range(checked_layers(depth, "depth") + int(last)):
            steps += [ImageActNorm(now), coupling(now, mask="checkerboard", swap=k % 2 == 1)]
        if not last:
            steps += [Squeeze()]
            now *= 4
            for k in range(depth):
                steps += [ImageActNorm(now), coupling(now, swap=k % 2 == 1)]
            now //= 2
        scales += [Chain(steps, memory)]
    return NormalizingFlow(
        Multiscale(scales),
        shape=shape,
        preprocess=image_units(preprocess, shape, values),
        classes=classes,
        cond_features=cond_features,
        levels=values,
        dequantisation=dequantisation(dequantise, shape, hidden, values),
    )
