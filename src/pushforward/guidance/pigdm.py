"""Pseudoinverse-guided diffusion: the data's covariance given x_t is taken to be isotropic."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pushforward.errors import UserError
from pushforward.functional.conjugate_gradients import conjugate_gradients
from pushforward.guidance.corrected import Corrected, Seen
from pushforward.guidance.observed import Observed
from pushforward.measurements.linear import Linear
from pushforward.registry import export

ITERATIONS = 20  # of conjugate gradients without the network


@export("guidance.PiGDM", example=lambda: PiGDM(Linear(torch.tensor([[1.0, -1.0]]), 0.1), torch.zeros(1)))
@dataclass(frozen=True, eq=False, repr=False)
class PiGDM(Corrected):
    """Sample the posterior given a measurement, with the mean of the data given x_t and one variance for all of their elements.

        E[x_0 | x_t, y] ~ m + sigma² / alpha (dm / dx_t)' A' (r² A A' + s²)^-1 (y - A m),    r² = sigma² d² / (alpha² d² + sigma²)

    r² is the variance given x_t of independent Gaussian data with deviation d. An evaluation costs about three of the model's own. It is
    exact where the data are such; correlated data, as images are, make it over-confident or too cautious by direction.

    Args:
        measurement: A and the standard deviation s of its noise.
        y: what was measured, of one event for all samples or of n, in the user's units; NaN where nothing was.
        guidance: the model's guidance by a condition: another guidance, a scale, or None.
        spread: d, in the model's units (of `preprocess`).
        reach: largest share of noise, sigma / (alpha + sigma), at which the network is differentiated. Errors of its Jacobian count
            sigma² / alpha times; where there is more noise, C is that at the state scaled to this share, which hardly differs.

    Raises:
        UserError: the model is not on a path of Gaussian noise, or an argument is out of range.
        ShapeError: measurement, y and the model's events do not fit each other.

    Example:
        >>> import pushforward as pf
        >>> model = pf.models.rectified_flow(pf.nn.MLP.Config((16,)), (2,))
        >>> total = pf.measurements.Linear(torch.ones(1, 2), noise=0.1)
        >>> model.sample(4, guidance=PiGDM(total, torch.tensor([1.0])), sampler=pf.samplers.Heun(8)).shape
        torch.Size([4, 2])

    Source: Song et al., Pseudoinverse-guided diffusion models for inverse problems, ICLR 2023; on flows: Pokle et al., 2310.04432.
    """

    spread: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.spread > 0:
            raise UserError(f"spread is {self.spread}, but it is a standard deviation above 0; 1 is that of standardised data.")

    def correction(self, observed: Observed, seen: Seen) -> Tensor:
        noise = (seen.sigma / self.spread).square()
        r2 = seen.sigma.square() / (seen.alpha.square() + noise)

        def product(p: Tensor) -> Tensor:
            return observed.product(r2.to(p) * observed.transpose(p)) + observed.variance * p

        solution = conjugate_gradients(product, observed.residual, observed.variance, ITERATIONS)
        return seen.covariance(observed.transpose(solution))
