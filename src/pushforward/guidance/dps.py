"""Diffusion posterior sampling: the measurement's likelihood at the expected data."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pushforward._checks import real
from pushforward.errors import UserError
from pushforward.functional.prediction import per_row
from pushforward.guidance.corrected import Corrected, Seen
from pushforward.guidance.observed import Observed
from pushforward.measurements.linear import Linear
from pushforward.registry import export


@export("guidance.DPS", example=lambda: DPS(Linear(torch.tensor([[1.0, -1.0]]), 0.1), torch.zeros(1)))
@dataclass(frozen=True, eq=False, repr=False)
class DPS(Corrected):
    """Follow the gradient of the residual's norm at the expected data.

        E[x_0 | x_t, y] ~ m - scale sqrt(k) sigma² / alpha  d |(y - A(m)) / s| / dx_t,    m = E[x_0 | x_t], k measured elements

    With scale 1 it is the gradient of the likelihood of y at m while the residual is no larger than the noise, and weaker where it is
    larger, as in the formula. The spread of the data around m is neglected, so that samples are no posterior samples: they under-cover,
    most with solvers of the ODE, and collapse for strong scales. An evaluation costs about three of the model's own.

    Args:
        measurement: A, any function, and the standard deviation s of its noise, which must not be 0.
        y: what was measured, of one event for all samples or of n, in the user's units; NaN where nothing was.
        guidance: the model's guidance by a condition: another guidance, a scale, or None.
        scale: strength; 0 is the model without y.
        reach: largest share of noise, sigma / (alpha + sigma), at which the network is differentiated. Errors of its Jacobian count
            sigma² / alpha times; where there is more noise, C is that at the state scaled to this share, which hardly differs.

    Raises:
        UserError: the model is not on a path of Gaussian noise, the measurement has no noise, or an argument is out of range.
        ShapeError: measurement, y and the model's events do not fit each other.

    Example:
        >>> import pushforward as pf
        >>> model = pf.models.rectified_flow(pf.nn.MLP.Config((16,)), (2,))
        >>> radius = pf.measurements.Nonlinear(lambda x: x.square().sum(1, keepdim=True), noise=0.1)
        >>> model.sample(4, guidance=DPS(radius, torch.tensor([1.0])), sampler=pf.samplers.Heun(8)).shape
        torch.Size([4, 2])

    Source: Chung et al., Diffusion posterior sampling for general noisy inverse problems, 2022, arXiv 2209.14687, algorithm 1, whose step
    along the norm's gradient is the same up to its scale, which there depends on the number of steps.
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        real("scale", self.scale, 0, hint="1 is usual, and 0 is the model without y")
        if bool((torch.as_tensor(self.measurement.noise) <= 0).any()):
            raise UserError("noise is 0, but DPS divides by it; give the measurement a positive one, or use MMPS.")

    def correction(self, observed: Observed, seen: Seen) -> Tensor:
        residual = observed.residual / observed.variance.sqrt()
        norm = torch.linalg.vector_norm(residual[:, None].flatten(1), dim=1)
        count = observed.known[:, None].flatten(1).sum(1).to(norm)
        weight = self.scale * count.sqrt() / norm.clamp_min(torch.finfo(norm.dtype).tiny)
        # At most the likelihood's own gradient: where the residual is smaller than the noise, the norm's would not vanish with it.
        weight = weight.clamp_max(self.scale)
        return seen.covariance(observed.transpose(per_row(weight, residual) * observed.residual / observed.variance))
