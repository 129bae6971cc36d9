"""Bijections of vectors, which compute on columns (features, n): the contiguous axis is the batch, which is long.

Users see rows (n, features). Inside a chain, steps exchange a record, `Columns`: the same columns in one part, or in the two parts that
couplings return, so that the halves are concatenated only where a step needs all features together.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from pushforward import dispatch
from pushforward._checks import whole
from pushforward._precision import wide
from pushforward.bijections.bijection import Bijection, inverted
from pushforward.errors import ShapeError

F = TypeVar("F", bound=Callable[..., Any])
_CALL = nn.Module.__call__


class Columns(NamedTuple):
    """A batch of n vectors as columns, split into parts (features_i, n) in the order of the features.

    `shape` is the event shape of the corresponding rows (n, *shape).
    """

    parts: tuple[Tensor, ...]
    shape: torch.Size

    @classmethod
    def of(cls, x: "Tensor | Columns", features: int) -> "Columns":
        """Return rows (n, *shape) with this number of features as columns; columns are returned unchanged.

        Raises:
            ShapeError: x has another number of features.
        """
        if isinstance(x, Columns):
            return x
        if x.ndim < 2 or math.prod(x.shape[1:]) != features:
            raise ShapeError(f"x has shape {tuple(x.shape)}, but this bijection needs (n, {features}); reshape it.")
        return cls((_transposed(x.reshape(x.shape[0], features)),), x.shape)

    @property
    def features(self) -> int:
        """Number of features."""
        return sum(part.shape[0] for part in self.parts)

    def rows(self) -> Tensor:
        """Return the rows (n, *shape)."""
        return _transposed(self.whole()).view(self.shape)

    def whole(self) -> Tensor:
        """Return all columns (features, n) in one tensor."""
        return self.parts[0] if len(self.parts) == 1 else torch.cat(self.parts)

    def halves(self, first: int) -> tuple[Tensor, Tensor]:
        """Return the columns in two parts, the first with `first` features; no copy if they are split there already, or in one part."""
        if len(self.parts) == 2 and self.parts[0].shape[0] == first:
            return self.parts[0], self.parts[1]
        whole = self.whole()
        return whole[:first], whole[first:]

    def zipped(self, *vectors: Tensor) -> list[tuple[Tensor, ...]]:
        """Return each part together with the matching pieces of vectors (features,), as columns (features_i, 1)."""
        sizes = [part.shape[0] for part in self.parts]
        return list(zip(self.parts, *(vector[:, None].split(sizes) for vector in vectors), strict=True))

    def having(self, *parts: Tensor) -> "Columns":
        """Return the batch with these columns instead."""
        return Columns(parts, self.shape)


def with_columns(method: F) -> F:
    """Mark a forward or inverse that maps columns to columns; a method that overrides it is not marked."""
    method.takes_columns = True  # type: ignore[attr-defined]
    return method


class VectorBijection(Bijection):
    """A bijection of vectors (n, features), or of events (n, *shape) with `features` elements; to add one, implement `map_columns`.

    It returns rows for rows, and `Columns` for `Columns`.

    Args:
        features: length of the vectors.

    Raises:
        UserError: features is not an integer of at least 1.
        ShapeError: x has another number of features.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features: int = whole("features", features, 1)

    @with_columns
    def forward(self, x: Any, cond: Any = None) -> tuple[Any, Any]:
        if isinstance(x, Columns):
            return self.map_columns(x, cond, inverse=False)
        z, log_abs_det = self.map_columns(Columns.of(x, self.features), cond, inverse=False)
        return z.rows(), log_abs_det

    @with_columns
    def inverse(self, z: Any, cond: Any = None) -> tuple[Any, Any]:
        if isinstance(z, Columns):
            return self.map_columns(z, cond, inverse=True)
        x, log_abs_det = self.map_columns(Columns.of(z, self.features), cond, inverse=True)
        return x.rows(), log_abs_det

    def map_columns(self, x: Columns, cond: Any, inverse: bool) -> tuple[Columns, Tensor | None]:
        """Return the mapped columns, and log_abs_det: (n,), one number for all rows, or None for 0."""
        raise NotImplementedError


def takes_columns(step: Any) -> bool:
    """Return whether a step of a chain may receive `Columns`; an overridden, hooked or wrapped step receives rows, as when called alone."""
    kind = type(step)
    return (
        getattr(kind.forward, "takes_columns", False)
        and getattr(kind.inverse, "takes_columns", False)
        and kind.__call__ is _CALL
        and dispatch.plainly_called(step, "inverse")
        and features_of(step) is not None
        and dispatch.enabled()
    )


def through(steps: Sequence[Any], x: Any, cond: Any, inverse: bool) -> tuple[Any, Any]:
    """Return x mapped by all steps in turn (from the last if inverse) and the sum of their log-determinants (n,), or None without steps.

    Returns rows for rows and columns for columns; in between, x has the layout that the step accepts.
    """
    y, total = x, None
    for step in reversed(steps) if inverse else steps:
        if not takes_columns(step):
            y = as_rows(y)
        elif not isinstance(y, Columns):
            y = Columns.of(y, step.features)
        elif y.features != step.features:
            raise ShapeError(
                f"{type(step).__name__} is for vectors of {step.features} features, but what it receives in this chain has {y.features}; "
                "give all steps of a chain one number of features."
            )
        y, log_abs_det = inverted(step, y, cond) if inverse else step(y, cond)
        if log_abs_det is not None:
            total = log_abs_det if total is None else total + log_abs_det
    if isinstance(x, Columns):
        return Columns.of(y, x.features), total
    return as_rows(y), total


def features_of(step: Any) -> int | None:
    """Return the number of features of a bijection of vectors (also of their chains and inverses), or None for any other."""
    features = getattr(step, "features", None) if isinstance(step, Bijection) else None
    return features if isinstance(features, int) else None


def summed(log_slopes: Tensor | None) -> Tensor | None:
    """Return the sum over features (n,) of log-slopes (features, n), in float32 or wider; None (for 0) is returned unchanged."""
    return None if log_slopes is None else log_slopes.sum(0, dtype=wide(log_slopes))


def moved(bijection: Bijection) -> Bijection:
    """Return a bijection with perturbed parameters, for examples: at initialisation it would be the identity."""
    for p in bijection.parameters():
        nn.init.normal_(p, std=0.5)
    return bijection


class _Transposed(torch.autograd.Function):
    """A transposed copy whose gradient is also copied: operations that mix two layouts would take several times as long."""

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
    # A compiler chooses layouts itself, and cannot trace a function with its own jvp.
    return _Transposed.apply(x) if x.requires_grad and not torch.compiler.is_compiling() else x.T.contiguous()


def as_rows(x: Any) -> Any:
    """Return columns as rows, and anything else unchanged."""
    return x.rows() if isinstance(x, Columns) else x
