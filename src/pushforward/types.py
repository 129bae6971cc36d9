"""The interfaces between components: the call signatures of networks, velocities, denoisers, bases and conditions.

Each is a Protocol, so nothing needs to inherit from it: a Module, a function or an object of another package conforms by its methods.
The second half lists optional abilities; code requests one with `dispatch.ability`, which determines whether it may be used.
"""

from typing import Any, Protocol, Self, TypeGuard, runtime_checkable

from torch import Tensor

from pushforward import _random

# A condition of n samples: None, a tensor (n, ...), or a record of tensors with leading dimension n, registered as a pytree.
Cond = Any


@runtime_checkable
class Condition(Protocol):
    """A condition that is a record of tensors: it supports `len`, indexing, `.to` and `.where` like a tensor (`TextContext`)."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any) -> Self: ...

    def to(self, *args: Any, **kwargs: Any) -> Self: ...

    def where(self, mask: Tensor, other: Any) -> Self: ...


class Velocity(Protocol):
    """dx/dt at x (n, *shape) and t (n,), of x's shape; per-sample arguments follow t."""

    def __call__(self, x: Tensor, t: Tensor, *args: Any) -> Tensor: ...


class Network(Protocol):
    """A prediction of x's shape at x (n, *shape) and t (n,) in [0, 1], given a condition."""

    def __call__(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor: ...


class HasVelocity(Protocol):
    """The minimal output of a denoiser; diffusion samplers also use data, noise or score (`paths.Prediction`)."""

    @property
    def velocity(self) -> Tensor: ...


class Denoiser(Protocol):
    """The function that a sampler calls."""

    def __call__(self, x: Tensor, t: Tensor) -> HasVelocity: ...


class Base(Protocol):
    """The distribution of the noise; without `log_prob` (`HasLogProb`) a model can only sample."""

    def sample(self, n: int, *, generator: _random.Generators = None) -> Tensor: ...


# Optional abilities.


class HasLogProb(Protocol):
    """A base with a density."""

    def log_prob(self, z: Tensor) -> Tensor: ...


class HasDivergence(Protocol):
    """A network or velocity that computes its own divergence (n,), faster than automatic differentiation."""

    def value_and_divergence(self, x: Tensor, t: Tensor, *args: Any) -> tuple[Tensor, Tensor]: ...


class HasVariance(Protocol):
    """A network that also predicts an interpolation of the variance of the reverse steps (`nn.WithVariance`)."""

    def with_variance(self, x: Tensor, t: Tensor, cond: Cond = None) -> tuple[Tensor, Tensor]: ...


class Prepares(Protocol):
    """A network that can process a condition once for all times (`MMDiT.prepare`)."""

    def prepare(self, cond: Cond, n: int) -> Cond: ...


@runtime_checkable
class Bindable(Protocol):
    """A denoiser that exposes its per-sample arguments, so that a solver can index them together with the batch."""

    @property
    def args(self) -> tuple[Any, ...]: ...

    def bind(self, *args: Any) -> "Denoiser": ...


@runtime_checkable
class HasShape(Protocol):
    """A base that knows the shape of one event."""

    @property
    def shape(self) -> tuple[int, ...]: ...


@runtime_checkable
class HasFingerprint(Protocol):
    """A data set identified by a hash of its contents."""

    def fingerprint(self) -> str: ...


@runtime_checkable
class OnGrid(Protocol):
    """A sampler with a fixed number of steps, at the times of a grid."""

    @property
    def steps(self) -> int: ...

    @property
    def grid(self) -> Any: ...


@runtime_checkable
class OnPath(Protocol):
    """A denoiser or velocity along a Gaussian path."""

    @property
    def path(self) -> Any: ...


def has_log_prob(base: Any) -> TypeGuard[HasLogProb]:
    """Return whether a base has a density; an `isinstance` with a Protocol takes as long as a small kernel."""
    return callable(getattr(base, "log_prob", None))


def reads_condition(base: Any) -> bool:
    """Return whether the `sample` and `log_prob` of a base receive the condition."""
    return bool(getattr(base, "conditional", False))


def path_of(thing: Any) -> Any:
    """Return the path of a denoiser or velocity, or None for one that is on no path."""
    return getattr(thing, "path", None)  # not `OnPath`: a path that is a Module is no plain attribute of another
