"""NICE: non-linear independent components estimation, the first flow of couplings.

Paper: Dinh, Krueger and Bengio, NICE, 2014, arXiv 1410.8516.
What it adds: a deep network cannot be inverted, but it can predict by how much one half of the data is shifted, given the other half. Such
an additive coupling is inverted by a subtraction whatever the network is, and its Jacobian is triangular with ones on the diagonal, so that
four of them, in which each half is transformed twice, make a strong map of unit determinant. A last diagonal scale lets the flow decide
which dimensions matter (section 3.3); the noise is logistic (section 3.4). In the paper's MNIST set-up (section 5.1) each network has five
hidden layers of 1000 units and the halves are the even and the odd pixels.
"""

import torch

from pushforward.bases import Logistic
from pushforward.bijections.chain import Chain
from pushforward.bijections.coupling import AdditiveCoupling
from pushforward.bijections.mixing import Permutation
from pushforward.bijections.scaling import Scale
from pushforward.families.normalizing_flow import NormalizingFlow
from pushforward.models.flow_options import VectorOptions
from pushforward.models.preset import checked_layers, preset
from pushforward.registry import export


def _example() -> tuple:
    return nice(2, hidden=(16,), classes=3), torch.randn(4, 2), torch.tensor([0, 1, 2, 0])


@export("models.nice", example=_example)
@preset
def nice(shared: VectorOptions, layers: int = 4, hidden: tuple[int, ...] = (1000, 1000, 1000, 1000, 1000)) -> NormalizingFlow:
    """Stack additive couplings, whose volume is kept, under one diagonal scale.

    Args:
        layers: number of couplings; each transforms the half that the one before kept.
        hidden: widths of each coupling's hidden layers; (128, 128) is plenty for data in the plane.

    Returns:
        A NormalizingFlow with logistic noise.

    Example:
        >>> nice(64, hidden=(32, 32)).sample(3).shape
        torch.Size([3, 64])
    """
    size = shared.size
    even_then_odd = Permutation([*range(0, size, 2), *range(1, size, 2)])
    couplings = [AdditiveCoupling(size, hidden, swap=k % 2 == 1, **shared.network) for k in range(checked_layers(layers))]
    return NormalizingFlow(Chain([even_then_odd, *couplings, Scale(size)]), Logistic(shared.event_shape), **shared.family_options)
