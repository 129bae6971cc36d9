"""MAF: masked autoregressive flow, density in one pass.

Paper: Papamakarios, Pavlakou and Murray, Masked autoregressive flow for density estimation, 2017, arXiv 1705.07057.
What it adds: an autoregressive model with Gaussian conditionals is a flow. Feature k is standardised by a mean and a scale that a masked
network (MADE) predicts from the features before it, for all features in one pass; a stack of such layers, with the order of the features
reversed between them, models what the conditionals of one layer cannot. Sampling goes feature by feature: the price, and the mirror image
of `iaf`. The paper puts batch norm between layers; here that is an option, since its training depends on the rest of the batch.
"""

from typing import Literal

import torch

from pushforward.bijections.autoregressive import AffineAutoregressive
from pushforward.bijections.bijection import Bijection
from pushforward.bijections.chain import Chain
from pushforward.bijections.mixing import Reverse
from pushforward.bijections.scaling import ActNorm, BatchNorm
from pushforward.errors import UserError
from pushforward.families.normalizing_flow import NormalizingFlow
from pushforward.functional.jacobi import Solver
from pushforward.models.flow_options import VectorOptions
from pushforward.models.preset import checked_layers, preset
from pushforward.registry import export


def _example() -> tuple:
    return maf(2, 2, (16,), classes=3), torch.randn(4, 2), torch.tensor([0, 1, 2, 0])


@export("models.maf", example=_example)
@preset
def maf(
    shared: VectorOptions,
    layers: int = 5,
    hidden: tuple[int, ...] = (128, 128),
    *,
    bound: float = 2.0,
    norm: Literal["none", "act", "batch"] = "none",
    solver: Solver = "auto",
) -> NormalizingFlow:
    """Stack masked autoregressive affine layers, with the order of the features reversed between them.

    Args:
        layers: number of autoregressive layers.
        hidden: widths of each MADE's hidden layers.
        bound: bound of each layer's log-scales.
        norm: what follows each layer: "none", "act" (ActNorm) or "batch" (BatchNorm, as in the paper).
        solver: how samples are computed: "sequential", feature by feature, which is also "auto", or "jacobi", by passes over all features.

    Returns:
        A NormalizingFlow with Gaussian noise, whose fast direction is log_prob.

    Example:
        >>> maf(6).log_prob(torch.randn(3, 6)).shape
        torch.Size([3])
    """
    if norm not in ("none", "act", "batch"):
        raise UserError(f"norm is {norm!r}, but it is 'none', 'act' or 'batch'.")
    size = shared.size
    steps: list[Bijection] = []
    for k in range(checked_layers(layers)):
        steps += [Reverse(size)] if k else []
        steps += [AffineAutoregressive(size, hidden, bound=bound, solver=solver, **shared.network)]
        steps += [ActNorm(size)] if norm == "act" else [BatchNorm(size)] if norm == "batch" else []
    return NormalizingFlow(Chain(steps), **shared.family_options)
