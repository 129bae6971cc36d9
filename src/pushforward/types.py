"""What meets at the joints: the shapes of calls that a network, a velocity, a denoiser, a base or a condition must have.

Each is a Protocol, so nothing needs to inherit from it: a Module, a function or a record of another package fits by its methods alone.
The second half lists abilities that are optional; code asks for one by `dispatch.ability`, which knows when it may be used.
"""

from typing import Any, Protocol, Self, runtime_checkable

from torch import Tensor

from pushforward import _random

# A condition of n samples: None, a tensor (n, ...), or a record of tensors with leading dimension n that torch knows as a pytree.
Cond = Any


@runtime_checkable
class Condition(Protocol):
    """A condition that is a record: it is cut, moved and mixed as a tensor is (`TextContext`)."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any) -> Self: ...

    def to(self, *args: Any, **kwargs: Any) -> Self: ...

    def where(self, mask: Tensor, other: Any) -> Self: ...


class Velocity(Protocol):
    """dx/dt at x (n, *shape) and t (n,), of x's shape; what it reads for each sample comes behind t."""

    def __call__(self, x: Tensor, t: Tensor, *args: Any) -> Tensor: ...


class Network(Protocol):
    """A prediction of x's shape at x (n, *shape) and t (n,) in [0, 1] under a condition."""

    def __call__(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor: ...


class HasVelocity(Protocol):
    """What a denoiser returns at least; the samplers of diffusion also read data, noise or score (`paths.Prediction`)."""

    @property
    def velocity(self) -> Tensor: ...


class Denoiser(Protocol):
    """What a sampler calls."""

    def __call__(self, x: Tensor, t: Tensor) -> HasVelocity: ...


class Base(Protocol):
    """The distribution of the noise; one without `log_prob` (`HasLogProb`) gives models that sample only."""

    def sample(self, n: int, *, generator: _random.Generators = None) -> Tensor: ...


# Optional abilities.


@runtime_checkable
class HasLogProb(Protocol):
    """A base with a density."""

    def log_prob(self, z: Tensor) -> Tensor: ...


class HasDivergence(Protocol):
    """A network or velocity that computes its own divergence (n,), quicker than automatic differentiation can."""

    def value_and_divergence(self, x: Tensor, t: Tensor, *args: Any) -> tuple[Tensor, Tensor]: ...


class HasVariance(Protocol):
    """A network that predicts, beside its value, a share of the variance of the reversal's steps (`nn.WithVariance`)."""

    def with_variance(self, x: Tensor, t: Tensor, cond: Cond = None) -> tuple[Tensor, Tensor]: ...


class Prepares(Protocol):
    """A network that maps a condition once for all times (`MMDiT.prepare`)."""

    def prepare(self, cond: Cond, n: int) -> Cond: ...


@runtime_checkable
class Bindable(Protocol):
    """A denoiser that lists what it reads for each sample, so that a solver can cut it together with the batch."""

    @property
    def args(self) -> tuple[Any, ...]: ...

    def bind(self, *args: Any) -> "Denoiser": ...


@runtime_checkable
class OnPath(Protocol):
    """A denoiser or velocity along a Gaussian path."""

    @property
    def path(self) -> Any: ...


def path_of(thing: Any) -> Any:
    """Return the path of a denoiser or velocity, or None for one that is on no path."""
    return getattr(thing, "path", None)
