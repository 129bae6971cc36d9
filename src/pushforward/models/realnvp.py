"""RealNVP: couplings that scale as well as shift.

Paper: Dinh, Sohl-Dickstein and Bengio, Density estimation using Real NVP, 2016, arXiv 1605.08803.
What it adds to NICE: the network predicts a scale exp(s) in addition to the shift, so that volume is no longer preserved and density can
concentrate where data is. The Jacobian stays triangular and its log-determinant is the sum of s. This page is the flow of vectors; s is
bounded by 2 tanh(s / 2) where the paper learns a factor for tanh, so that no layer can overflow.
"""

import torch

from pushforward.bijections.chain import Chain
from pushforward.bijections.coupling import AffineCoupling
from pushforward.families.normalizing_flow import NormalizingFlow
from pushforward.models.flow_options import VectorOptions
from pushforward.models.preset import checked_layers, preset
from pushforward.registry import export


def _example() -> tuple:
    return realnvp(2, 2, (16,), activation="tanh", classes=3), torch.randn(4, 2), torch.tensor([0, 1, 2, 0])


@export("models.realnvp", example=_example)
@preset
def realnvp(shared: VectorOptions, layers: int = 8, hidden: tuple[int, ...] = (128, 128), *, bound: float = 2.0) -> NormalizingFlow:
    """Stack affine couplings that transform the two halves in turn.

    Args:
        layers: number of couplings; each transforms the half that the one before kept.
        hidden: widths of each coupling's hidden layers.
        bound: bound of each coupling's log-scales.

    Returns:
        A NormalizingFlow with Gaussian noise.

    Example:
        >>> samples, log_prob = realnvp(64).sample(3, log_prob=True)
        >>> samples.shape, log_prob.shape
        (torch.Size([3, 64]), torch.Size([3]))
    """
    steps = [AffineCoupling(shared.size, hidden, bound=bound, swap=k % 2 == 1, **shared.network) for k in range(checked_layers(layers))]
    return NormalizingFlow(Chain(steps), **shared.family_options)
