"""Bijections of vectors, which compute with features outermost: a batch of columns (features, n) has one long contiguous axis.

A user sees rows (n, features). Within a chain what travels is a record, `Columns`: the same columns, in one part or in the two that
couplings leave, so that the halves of a vector are joined again only where a step needs all features at once.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from pushforward import dispatch
from pushforward._precision import wide
from pushforward.bijections.bijection import Bijection, inverted
from pushforward.errors import ShapeError, UserError

F = TypeVar("F", bound=Callable[..., Any])


class Columns(NamedTuple):
    """A batch of n vectors as columns, in parts (features_i, n) that follow each other in the order of the features.

    `shape` is that of the rows (n, *shape) which they stand for.
    """

    parts: tuple[Tensor, ...]
    shape: torch.Size

    @classmethod
    def of(cls, x: "Tensor | Columns", features: int) -> "Columns":
        """Return rows (n, *shape) of so many features as columns; columns stay as they are.

        Raises:
            ShapeError: x has another number of features.
        """
        if isinstance(x, Columns):
            return x
        if x.ndim < 2 or math.prod(x.shape[1:]) != features:
            raise ShapeError(f"x has shape {tuple(x.shape)}, but this bijection needs (n, {features}); reshape it.")
        return cls((_transposed(x.reshape(x.shape[0], features)),), x.shape)

    def rows(self) -> Tensor:
        """Return the rows (n, *shape)."""
        return _transposed(self.whole()).view(self.shape)

    def whole(self) -> Tensor:
        """Return all columns (features, n) in one."""
        return self.parts[0] if len(self.parts) == 1 else torch.cat(self.parts)

    def halves(self, first: int) -> tuple[Tensor, Tensor]:
        """Return the columns in two parts, the first of which has `first` features; no copy where they are so already, or in one."""
        if len(self.parts) == 2 and self.parts[0].shape[0] == first:
            return self.parts[0], self.parts[1]
        whole = self.whole()
        return whole[:first], whole[first:]

    def beside(self, *vectors: Tensor) -> list[tuple[Tensor, ...]]:
        """Return each part with the pieces of vectors (features,) that belong to it, as columns (features_i, 1)."""
        sizes = [part.shape[0] for part in self.parts]
        return list(zip(self.parts, *(vector[:, None].split(sizes) for vector in vectors), strict=True))

    def having(self, *parts: Tensor) -> "Columns":
        """Return the same batch with other columns."""
        return Columns(parts, self.shape)


def with_columns(method: F) -> F:
    """State that a forward or inverse returns columns for columns; one that overrides it makes no such statement."""
    method.takes_columns = True  # type: ignore[attr-defined]
    return method


class VectorBijection(Bijection):
    """A bijection of vectors (n, features), or of events (n, *shape) of so many numbers; to add one, write `map_columns`.

    Called with rows it returns rows, with `Columns` it returns `Columns`.

    Args:
        features: numbers a vector.

    Raises:
        UserError: features < 1.
        ShapeError: x has another number of features.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        if features < 1:
            raise UserError(f"features is {features}, but it must be at least 1.")
        self.features = features

    @with_columns
    def forward(self, x: Any, cond: Any = None) -> tuple[Any, Any]:
        z, log_abs_det = self.map_columns(Columns.of(x, self.features), cond, inverse=False)
        return (z if isinstance(x, Columns) else z.rows()), log_abs_det

    @with_columns
    def inverse(self, z: Any, cond: Any = None) -> tuple[Any, Any]:
        x, log_abs_det = self.map_columns(Columns.of(z, self.features), cond, inverse=True)
        return (x if isinstance(z, Columns) else x.rows()), log_abs_det

    def map_columns(self, x: Columns, cond: Any, inverse: bool) -> tuple[Columns, Tensor | None]:
        """Return the columns mapped, and log_abs_det (n,) or one number for all, or None for 0."""
        raise NotImplementedError


def takes_columns(step: Any) -> bool:
    """Return whether a step of a chain may be given `Columns`: one that is overridden, hooked or wrapped is given rows, as when alone."""
    kind = type(step)
    return (
        dispatch.enabled()
        and features_of(step) is not None
        and hasattr(kind.forward, "takes_columns")
        and hasattr(kind.inverse, "takes_columns")
        and kind.__call__ is nn.Module.__call__
        and dispatch.plainly_called(step, "inverse")
    )


def through(steps: Sequence[Any], x: Any, cond: Any, inverse: bool) -> tuple[Any, Any]:
    """Return x mapped by all steps in turn (from the last if inverse) and the sum of their log-determinants (n,), None for no steps.

    Rows come back as rows and columns as columns; in between, x is whichever a step takes.
    """
    y, total = x, None
    for step in reversed(steps) if inverse else steps:
        features = features_of(step)
        y = Columns.of(y, features) if features is not None and takes_columns(step) else as_rows(y)
        y, log_abs_det = inverted(step, y, cond) if inverse else step(y, cond)
        total = log_abs_det if total is None else total + log_abs_det
    if isinstance(x, Columns):
        return Columns.of(y, sum(len(part) for part in x.parts)), total
    return as_rows(y), total


def features_of(step: Any) -> int | None:
    """Return how many features a bijection of vectors has, or None for any other; chains and inverses of such are such."""
    features = getattr(step, "features", None) if isinstance(step, Bijection) else None
    return features if isinstance(features, int) else None


def summed(log_slopes: Tensor | None) -> Tensor | None:
    """Return the sum over features (n,) of log-slopes (features, n), in float32 or wider; None, for 0, stays."""
    return None if log_slopes is None else log_slopes.sum(0, dtype=wide(log_slopes))


def moved(bijection: Bijection) -> Bijection:
    """Return a bijection away from where it starts, for examples: the laws would otherwise be those of the identity."""
    for p in bijection.parameters():
        nn.init.normal_(p, std=0.5)
    return bijection


class _Transposed(torch.autograd.Function):
    """A transposed copy whose gradient is a copy too: operations on two layouts at once would take several times as long."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.T.contiguous()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.T.contiguous()

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        return tangent.T.contiguous()


def _transposed(x: Tensor) -> Tensor:
    # A compiler chooses layouts by itself, and cannot see into a function with its own jvp.
    return _Transposed.apply(x) if x.requires_grad and not torch.compiler.is_compiling() else x.T.contiguous()


def as_rows(x: Any) -> Any:
    """Return rows for columns, and anything else as it is."""
    return x.rows() if isinstance(x, Columns) else x
