"""RealNVP of images: couplings by checkerboard and by channel, at several scales.

Paper: Dinh, Sohl-Dickstein and Bengio, Density estimation using Real NVP, 2016, arXiv 1605.08803, sections 3.4 to 3.6.
What it adds to the flow of vectors (`realnvp`): a coupling's network is convolutional, and predicts the parameters of every other pixel
from its neighbours (checkerboard), or of half of the channels from the other half. Squeezing trades resolution for channels between the
two, and after each scale half of the numbers are noise already, which saves work and gives every scale a likelihood of its own. At each
scale: couplings by checkerboard, a squeeze, couplings by channel; the last scale ends with checkerboards, one more than elsewhere.
Ours: the networks are three convolutions rather than residual, and a layer initialised from data (`ImageActNorm`) replaces batch
normalisation, so that a row's likelihood does not depend on its batch.
"""

from typing import Any

import torch

from pushforward.bijections.bijection import Bijection
from pushforward.bijections.chain import Chain
from pushforward.bijections.columns import moved
from pushforward.bijections.image_coupling import ImageCoupling
from pushforward.bijections.multiscale import Multiscale
from pushforward.bijections.scaling import ImageActNorm
from pushforward.bijections.squeeze import Squeeze
from pushforward.families.normalizing_flow import NormalizingFlow
from pushforward.models.flow_options import ImageOptions, checked_levels
from pushforward.models.preset import checked_layers, preset
from pushforward.registry import export


def _example() -> tuple:
    model = realnvp_image(1, 4, 2, 1, 2, activation="tanh", preprocess="none", classes=3)
    moved(model.bijection)
    return model, torch.randn(4, 1, 4, 4), torch.tensor([0, 1, 2, 0])


@export("models.realnvp_image", example=_example)
@preset
def realnvp_image(shared: ImageOptions, levels: int = 2, depth: int = 3, hidden: int = 64, *, bound: float = 2.0) -> NormalizingFlow:
    """Stack affine couplings by checkerboard and by channel at several scales.

    Args:
        levels: number of scales; each but the last halves the sides, which must be even there.
        depth: couplings of each kind at each scale, which transform the two parts in turn.
        hidden: channels of each coupling's two hidden layers.
        bound: bound of each coupling's log-scales.

    Returns:
        A NormalizingFlow with Gaussian noise.

    Raises:
        UserError: no shape, one that is not an image's, more levels than the sides can be halved, or depth < 1.

    Example:
        >>> realnvp_image(1, 8, hidden=16).sample(3).shape
        torch.Size([3, 1, 8, 8])
    """
    checked_levels(levels, shared.event_shape, levels - 1)
    network: Any = {"hidden": hidden, "bound": bound, "activation": shared.activation}
    now = shared.event_shape[0]
    scales: list[Bijection] = []
    for level in range(levels):
        last = level == levels - 1
        steps: list[Bijection] = []
        for k in range(checked_layers(depth, "depth") + int(last)):
            condition = shared.condition_at(2**level)
            steps += [ImageActNorm(now), ImageCoupling(now, mask="checkerboard", swap=k % 2 == 1, **network, **condition)]
        if not last:
            steps += [Squeeze()]
            now *= 4
            for k in range(depth):
                condition = shared.condition_at(2 ** (level + 1))
                steps += [ImageActNorm(now), ImageCoupling(now, swap=k % 2 == 1, **network, **condition)]
            now //= 2
        scales += [Chain(steps, shared.memory)]
    return NormalizingFlow(Multiscale(scales), **shared.family_options(hidden))
