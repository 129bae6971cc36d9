"""IAF: inverse autoregressive flow, samples in one pass.

Paper: Kingma, Salimans, Jozefowicz, Chen, Sutskever and Welling, Improving variational inference with inverse autoregressive flow, 2016,
arXiv 1606.04934.
What it adds: invert a masked autoregressive layer. Each number of a sample is scaled and shifted by what MADE predicts from the noise
before it, and all noise is known in advance, so that sampling is one pass; the density of given data then goes feature by feature, though
that of the flow's own samples comes with them. This is `maf` with the directions exchanged, the flow of variational posteriors; trained by
maximum likelihood, as here, each step pays for the slow direction.
"""

import torch

from pushforward.bijections.autoregressive import AffineAutoregressive
from pushforward.bijections.bijection import Bijection
from pushforward.bijections.chain import Chain, Inverse
from pushforward.bijections.mixing import Reverse
from pushforward.families.normalizing_flow import NormalizingFlow
from pushforward.models.flow_options import VectorOptions
from pushforward.models.preset import checked_layers, preset
from pushforward.registry import export


def _example() -> tuple:
    return iaf(2, 2, (16,), classes=3), torch.randn(4, 2), torch.tensor([0, 1, 2, 0])


@export("models.iaf", example=_example)
@preset
def iaf(shared: VectorOptions, layers: int = 4, hidden: tuple[int, ...] = (128, 128), *, bound: float = 2.0) -> NormalizingFlow:
    """Stack inverses of masked autoregressive affine layers, with the order of the features reversed between them.

    Args:
        layers: number of autoregressive layers.
        hidden: widths of each MADE's hidden layers.
        bound: bound of each layer's log-scales.

    Returns:
        A NormalizingFlow with Gaussian noise, whose fast direction is sampling.

    Example:
        >>> iaf(6).sample(3).shape
        torch.Size([3, 6])
    """
    steps: list[Bijection] = []
    for k in range(checked_layers(layers)):
        steps += [Reverse(shared.size)] if k else []
        steps += [Inverse(AffineAutoregressive(shared.size, hidden, bound=bound, **shared.network))]
    return NormalizingFlow(Chain(steps), **shared.family_options)
