"""What an objective is: how the network of a flow map is read, and the loss by which it learns."""

from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from pushforward import _random
from pushforward._checks import CheckedNumbers, like_input
from pushforward._precision import wide
from pushforward.errors import ConditionError, NotInvertibleError, ShapeError, missing
from pushforward.functional.prediction import Kind, per_row
from pushforward.paths.path import Path


class FlowMapping(Protocol):
    """What an objective knows of the model that it trains (`families.FlowMap`)."""

    net: Any
    path: Path
    prediction: Kind
    interval: tuple[float, float]
    drop_cond: float
    training: bool
    progress: float

    @property
    def averaged_net(self) -> Any: ...

    @property
    def teacher(self) -> Any: ...

    def target(self, x: Tensor, noise: Tensor, x_t: Tensor, t: Tensor, cond: Any) -> Tensor: ...

    def step(self, x: Tensor, noise: Tensor, x_t: Tensor, t: Tensor, r: Tensor, cond: Any) -> Tensor: ...

    def dropped(self, cond: Any, mask: Tensor) -> Any: ...


class Losses(NamedTuple):
    """The losses of a batch.

    Attributes:
        t: the times (n,).
        weighted: what is minimised (n,).
        plain: the mean squared error over the event (n,), without weights that depend on itself: what is logged.
    """

    t: Tensor
    weighted: Tensor
    plain: Tensor


class Objective(CheckedNumbers):
    """How a flow map is read and learned; to add one, derive from `AverageVelocity` and define `losses`.

    `numbers` and `outputs` are what its network is built with: further numbers that it reads, and outputs per channel of the event.
    """

    numbers: ClassVar[int] = 0
    outputs: ClassVar[int] = 1
    solves_ode: ClassVar[bool] = False  # whether it also learns the velocity
    reads_guidance: ClassVar[bool] = False  # whether a guidance scale is an input of the network
    uses_jvp: ClassVar[bool] = False  # whether its losses differentiate the network by forward mode
    uses_average: ClassVar[bool] = False  # whether they call the network with averaged weights

    def losses(self, model: FlowMapping, x: Tensor, noise: Tensor, cond: Any, generator: _random.Generators) -> Losses:
        """Return the losses of data and noise (n, *shape), both in the model's units."""
        raise missing(self, "losses", "the losses of a batch")

    def jump(self, model: FlowMapping, x: Tensor, t: Tensor, r: Tensor, cond: Any, guidance: Tensor | None) -> Tensor:
        """Return the state at r (n,) of the trajectory through x (n, *shape) at t (n,)."""
        raise missing(self, "jump", "the state at r")

    def velocity(self, model: FlowMapping, x: Tensor, t: Tensor, cond: Any, guidance: Tensor | None) -> Tensor:
        """Return dx/dt (n, *shape) of the trajectory through x at t (n,), for an objective that learns it."""
        raise missing(self, "velocity", "dx/dt at t")

    def check_ode(self) -> None:
        """Raise unless the objective learns the velocity.

        Raises:
            NotInvertibleError: it does not.
        """
        if not self.solves_ode:
            raise NotInvertibleError(
                f"{type(self).__name__} learns where trajectories end, not their velocity, so the model solves no ODE; use Jumps() or "
                "Renoise(2)."
            )

    def check_model(self, model: FlowMapping) -> None:
        """Raise unless the objective can train a model, which is asked when it is built."""

    def check_guidance(self, scale: float, interval: tuple[float, float]) -> None:
        """Raise unless samples can have guidance of this scale in this interval of times."""

    def check_jump(self, t: float, r: float, interval: tuple[float, float]) -> None:
        """Raise unless the model learns jumps from t to r."""


class AverageVelocity(Objective):
    """Objectives of a network that predicts the average velocity u over an interval, along the linear path.

    u(x, t, r) = 1 / (t - r) int_r^t v(x_s, s) ds,    x_r = x - (t - r) u(x, t, r),    u(x, t, t) = v(x, t)
    """

    numbers: ClassVar[int] = 1
    solves_ode: ClassVar[bool] = True

    def average(self, net: Any, x: Tensor, t: Tensor, r: Tensor, cond: Any, guidance: Tensor | None = None) -> Tensor:
        """Return u (n, *shape)."""
        value: Tensor = net(x, t, cond, r=r) if guidance is None else net(x, t, cond, r=r, guidance=guidance)
        return like_input(value, x)

    def jump(self, model: FlowMapping, x: Tensor, t: Tensor, r: Tensor, cond: Any, guidance: Tensor | None) -> Tensor:
        return x - per_row(t - r, x) * self.average(model.net, x, t, r, cond, guidance).to(x.dtype)

    def velocity(self, model: FlowMapping, x: Tensor, t: Tensor, cond: Any, guidance: Tensor | None) -> Tensor:
        return self.average(model.net, x, t, t, cond, guidance)


def check_guided(guidance: float, model: FlowMapping) -> None:
    """Raise unless a model with guidance in its targets also learns without conditions.

    Raises:
        ConditionError: it does not.
    """
    if guidance != 1 and not model.drop_cond:
        raise ConditionError(f"guidance is {guidance}, but drop_cond is 0, so there is no model without conditions; try 0.1.")


def heads(output: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the two halves, each of x's shape, of the output of a network with twice the channels; an MLP over images returns rows."""
    if not isinstance(output, Tensor) or output.shape[0] != x.shape[0] or output[:1].numel() != 2 * x[:1].numel():
        what = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ShapeError(f"the network returned {what} for x {tuple(x.shape)}, but it needs twice the channels; build it with outputs=2.")
    one, other = output.reshape(x.shape[0], 2 * x.shape[1], *x.shape[2:]).chunk(2, dim=1)
    return one, other


def squared(error: Tensor) -> Tensor:
    """Return the sum of squares over the event (n,), in float32 or wider."""
    return error.to(wide(error)).square().flatten(1).sum(1)


def adaptive(total: Tensor, power: float, offset: float) -> Tensor:
    """Return losses (n,) divided by a power of themselves, which has no gradient: loss / (loss + offset)^power."""
    return total / (total.detach() + offset) ** power if power else total


def uniform_times(n: int, generator: _random.Generators, like: Tensor) -> Tensor:
    """Return uniform numbers (n,) on the device of a batch, in float32 or wider."""
    return _random.uniform((n,), generator, like.device, wide(like))


class Evaluating:
    """A context in which a network is in eval mode, without gradients: what it returns is no draw of dropout."""

    def __init__(self, net: Any) -> None:
        self.changed = [one for one in net.modules() if one.training] if isinstance(net, nn.Module) else []
        self.no_grad = torch.no_grad()

    def __enter__(self) -> None:
        self.no_grad.__enter__()
        for one in self.changed:
            one.training = False

    def __exit__(self, *error: Any) -> None:
        for one in self.changed:
            one.training = True
        self.no_grad.__exit__(*error)
