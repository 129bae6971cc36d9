"""FFJORD: an ODE trained by maximum likelihood, with any network as its velocity.

Paper: Grathwohl, Chen, Bettencourt, Sutskever and Duvenaud, FFJORD, 2018, arXiv 1810.01367.
What it adds: along dx/dt = v the log-density changes by -div v, so that a flow needs neither triangular Jacobians nor layers that invert:
any network will do, and its divergence is estimated by e' J e with random e, at the cost of one product whatever the dimension. Training
solves the ODE in each step, and the fields it finds become hard to solve. RNODE (Finlay et al., 2020, arXiv 2002.02798) adds the
trajectories' speed and the Jacobian's norm to the loss, here `kinetic` and `jacobian`, so that a few fixed steps are enough.
"""

import torch

from pushforward.families.continuous_flow import ContinuousFlow
from pushforward.models.path_options import NetOptions
from pushforward.models.preset import preset
from pushforward.nn.mlp import MLP
from pushforward.registry import export
from pushforward.samplers.rk4 import RK4
from pushforward.samplers.sampler import Sampler


def _example() -> tuple:
    net = MLP.Config((16, 16), activation="tanh", time_features=4)
    return ffjord(net, (2,), kinetic=0.01, jacobian=0.01, classes=3), torch.randn(4, 2), torch.tensor([0, 1, 2, 0])


@export("models.ffjord", example=_example)
@preset
def ffjord(
    shared: NetOptions,
    *,
    kinetic: float = 0.0,
    jacobian: float = 0.0,
    divergence: str | None = None,
    loss_sampler: Sampler = RK4(8),
) -> ContinuousFlow:
    """Learn an ODE from data to noise by maximum likelihood.

    Args:
        kinetic: weight of the trajectories' squared speed; 0.01 is RNODE's.
        jacobian: weight of the Jacobian's squared norm along them; 0.01 is RNODE's.
        divergence: that of the loss: "exact", "hutchinson", or None: exact for an MLP without the Jacobian's norm, else Hutchinson's.
        loss_sampler: what solves the loss's likelihood; with adjoint=True in memory that does not grow with its steps.

    Returns:
        A ContinuousFlow with Gaussian noise.

    Example:
        >>> model = ffjord(shape=(2,))
        >>> model.log_prob(torch.randn(3, 2)).shape
        torch.Size([3])
    """
    return ContinuousFlow(
        shared.network(),
        shared.event_shape,
        kinetic=kinetic,
        jacobian=jacobian,
        divergence=divergence,
        loss_sampler=loss_sampler,
        **shared.family_options,
    )
