"""Glow: channels are mixed by learned matrices.

Paper: Kingma and Dhariwal, Glow: generative flow with invertible 1x1 convolutions, 2018, arXiv 1807.03039.
What it adds to RealNVP: where that swaps halves and uses checkerboard masks, an invertible 1x1 convolution mixes all channels by a learned
matrix (section 3.2; kept as its PLU factors, it costs no determinant), and a scale and shift of each channel, initialised from the first
data, replace batch normalisation, so that batches may be small (section 3.1). One step of the flow is the three: actnorm, 1x1 convolution,
coupling; a level is a squeeze and `depth` steps, after which half of the channels are finished (section 2). The prior of the finished half
is learned: its mean and deviation are predicted from the other half.
Samples look best at a temperature below 1 (section 5): `model.sample(n, temperature=0.7)`. Interpolation in latent space gives images
(`editing.interpolate`), and what images of one label have in common is a direction of it (`editing.attribute_direction`).
Ours: the coupling's scale is exp(2 tanh(s / 2)) where their code has a sigmoid, and the actnorm and the convolution of a step are one
product of matrices.
"""

import torch

from pushforward.bijections.bijection import Bijection
from pushforward.bijections.chain import Chain
from pushforward.bijections.columns import moved
from pushforward.bijections.image_coupling import Change, ImageCoupling
from pushforward.bijections.invertible_conv import InvertibleConv, Parametrisation
from pushforward.bijections.multiscale import Multiscale
from pushforward.bijections.scaling import ImageActNorm
from pushforward.bijections.squeeze import Squeeze
from pushforward.families.normalizing_flow import NormalizingFlow
from pushforward.models.flow_options import ImageOptions, checked_levels
from pushforward.models.preset import checked_layers, preset
from pushforward.registry import export


def _example() -> tuple:
    model = glow(1, 4, 2, 1, 2, activation="tanh", preprocess="none", classes=3)
    moved(model.bijection)
    return model, torch.randn(4, 1, 4, 4), torch.tensor([0, 1, 2, 0])


@export("models.glow", example=_example)
@preset
def glow(
    shared: ImageOptions,
    levels: int = 2,
    depth: int = 8,
    hidden: int = 128,
    *,
    coupling: Change = "affine",
    mixing: Parametrisation = "plu",
) -> NormalizingFlow:
    """Stack steps of actnorm, invertible 1x1 convolution and coupling, at several scales.

    Args:
        levels: number of scales; each halves the sides, which must be even there.
        depth: steps of the flow at each scale (32 in the paper).
        hidden: channels of each coupling's two hidden layers (512 in the paper).
        coupling: "affine" (scale and shift), "additive" (shift alone) or "spline".
        mixing: how the 1x1 convolution's matrix is kept: "plu", "free" or "householder".

    Returns:
        A NormalizingFlow with Gaussian noise.

    Raises:
        UserError: no shape, one that is not an image's, more levels than the sides can be halved, or depth < 1.

    Example:
        >>> flow = glow(3, 16, levels=3, depth=2, hidden=16)
        >>> flow.sample(2, temperature=0.7).shape, flow.encode(torch.rand(2, 3, 16, 16)).shape
        (torch.Size([2, 3, 16, 16]), torch.Size([2, 3, 16, 16]))
    """
    checked_levels(levels, shared.event_shape, levels)
    now = shared.event_shape[0]
    scales: list[Bijection] = []
    for level in range(levels):
        now *= 4
        condition = shared.condition_at(2 ** (level + 1))
        steps: list[Bijection] = [Squeeze()]
        for _ in range(checked_layers(depth, "depth")):
            net = ImageCoupling(now, hidden, change=coupling, activation=shared.activation, **condition)
            steps += [ImageActNorm(now), InvertibleConv(now, mixing), net]
        if level < levels - 1:
            steps += [ImageCoupling(now, None, **condition)]  # the learned prior
        scales += [Chain(steps, shared.memory)]
        now //= 2
    return NormalizingFlow(Multiscale(scales), **shared.family_options(hidden))
