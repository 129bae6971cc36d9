"""Moment matching posterior sampling: the measurement's covariance under the model, by products with the network's Jacobian."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pushforward._checks import whole
from pushforward.functional.conjugate_gradients import conjugate_gradients
from pushforward.guidance.corrected import Corrected, Seen
from pushforward.guidance.observed import Observed
from pushforward.measurements.linear import Linear
from pushforward.registry import export


@export("guidance.MMPS", example=lambda: MMPS(Linear(torch.tensor([[1.0, -1.0]]), 0.1), torch.zeros(1)))
@dataclass(frozen=True, eq=False, repr=False)
class MMPS(Corrected):
    """Sample the posterior given a measurement, with the mean and covariance of the data given x_t.

        E[x_0 | x_t, y] ~ m + C A' (A C A' + s²)^-1 (y - A m),    m = E[x_0 | x_t],    C = sigma² / alpha  dm / dx_t

    It is exact for a linear A where x_0 given x_t is Gaussian, so for Gaussian data, and else the closest of the methods here. C is never
    formed: conjugate gradients need a backward pass through the network for each iteration, so that an evaluation costs about
    2 + 2 iterations of the model's own. A nonlinear A is linearised at m.

    Args:
        measurement: A and the standard deviation s of its noise.
        y: what was measured, of one event for all samples or of n, in the user's units; NaN where nothing was.
        guidance: the model's guidance by a condition: another guidance, a scale, or None.
        iterations: largest number of iterations of conjugate gradients. They are exact when there are as many as measured elements; few
            suffice, and smooth what the network's Jacobian has wrong.
        reach: largest share of noise, sigma / (alpha + sigma), at which the network is differentiated. Errors of its Jacobian count
            sigma² / alpha times; where there is more noise, C is that at the state scaled to this share, which hardly differs.

    Raises:
        UserError: the model is not on a path of Gaussian noise, or an argument is out of range.
        ShapeError: measurement, y and the model's events do not fit each other.

    Example:
        >>> import pushforward as pf
        >>> model = pf.models.rectified_flow(pf.nn.MLP.Config((16,)), (2,))
        >>> total = pf.measurements.Linear(torch.ones(1, 2), noise=0.1)
        >>> model.sample(4, guidance=MMPS(total, torch.tensor([1.0])), sampler=pf.samplers.Heun(8)).shape
        torch.Size([4, 2])

    Source: Rozet et al., Learning diffusion priors from observations by expectation maximization, 2024, arXiv 2405.13712, section 4.2;
    Boys et al., Tweedie moment projected diffusions for inverse problems, 2023, arXiv 2310.06721 (the same moments, before conjugate
    gradients).
    """

    iterations: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("iterations", self.iterations, 1)

    def correction(self, observed: Observed, seen: Seen) -> Tensor:
        def product(p: Tensor) -> Tensor:
            return observed.product(seen.covariance(observed.transpose(p))) + observed.variance * p

        solution = conjugate_gradients(product, observed.residual, observed.variance, self.iterations)
        return seen.covariance(observed.transpose(solution))
