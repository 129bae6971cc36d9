"""The base class of bijections: forward and inverse, each with its log|det|."""

import functools
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pushforward._precision import wide
from pushforward.dispatch import ability
from pushforward.errors import ShapeError, missing
from pushforward.registry import export

WIDE = (torch.float32, torch.float64)


@export("bijections.Bijection")
class Bijection(nn.Module):
    """An invertible map; to add one, implement `forward` and `inverse`, each returning its value and log_abs_det (n,).

    log_abs_det is the logarithm of the absolute determinant of the Jacobian of the direction called, in nats; inverse(forward(x)) returns
    x, and the two log-determinants cancel. A subclass may return log_abs_det as (n,), as one number for all rows, or as None for 0: the
    caller always receives (n,), in float32 or wider.

    Raises:
        ShapeError: a subclass returns a log_abs_det of any other shape.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name in ("forward", "inverse"):
            if name in vars(cls):
                setattr(cls, name, _with_log_det_a_row(vars(cls)[name]))

    if TYPE_CHECKING:

        def __call__(self, x: Tensor, cond: Any = None, **options: Any) -> tuple[Tensor, Tensor]:
            """Return what `forward` returns, for type checkers: to them the call of a Module returns Any."""

    def forward(self, x: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        """Return z (n, *shape) and log_abs_det (n,) of the map from data x (n, *shape) to noise."""
        raise missing(self, "forward", "z and log_abs_det")

    def inverse(self, z: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        """Return x (n, *shape) and log_abs_det (n,) of the map from noise z (n, *shape) to data."""
        raise missing(self, "inverse", "x and log_abs_det")

    def pull(self, x: Tensor, cond: Any = None) -> Tensor:
        """Return z without log_abs_det; override it if log_abs_det costs more than the value."""
        z: Tensor = self(x, cond)[0]
        return z

    def push(self, z: Tensor, cond: Any = None) -> Tensor:
        """Return x without log_abs_det, the inverse of `pull`."""
        x: Tensor = inverted(self, z, cond)[0]
        return x

    def initialise(self, x: Tensor, cond: Any = None) -> None:
        """Initialise data-dependent parts from x (n, *shape); most bijections have none."""

    def reaches(self, touched: Tensor) -> Tensor:
        """Return which elements of the event are changed by this bijection or by those before it, as booleans (*shape).

        By default all are, which is correct for maps that mix all elements. A coupling marks only what it changes, so that a flow can warn
        about elements that no coupling changes.
        """
        return torch.ones_like(touched)


def _with_log_det_a_row(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a forward or inverse whose log_abs_det has one number per row, in float32 or wider, for any of the allowed return values."""

    @functools.wraps(method)
    def call(self: Bijection, x: Any, *args: Any, **options: Any) -> tuple[Any, Tensor | None]:
        y, log_abs_det = method(self, x, *args, **options)
        if isinstance(x, Tensor):
            n, like = x.shape[0], x
        elif log_abs_det is None:
            return y, None  # columns, within a chain of them
        else:
            like = x.parts[0]
            n = like.shape[-1]
        if isinstance(log_abs_det, Tensor) and log_abs_det.shape == (n,) and log_abs_det.dtype in WIDE and log_abs_det.stride(0):
            return y, log_abs_det  # as it should be; checked here, as each call costs as much as a small kernel
        return y, _one_a_row(log_abs_det, n, like, self, method.__name__)

    return call


def _one_a_row(log_abs_det: Any, n: int, like: Tensor, owner: Bijection, method: str) -> Tensor:
    if not isinstance(log_abs_det, Tensor):
        return torch.full((n,), 0.0 if log_abs_det is None else log_abs_det, dtype=wide(like), device=like.device)
    if log_abs_det.ndim == 0:
        log_abs_det = log_abs_det.expand(n)
    elif log_abs_det.ndim != 1 or log_abs_det.shape[0] != n:
        raise ShapeError(
            f"{type(owner).__name__}.{method} returned a log_abs_det of shape {tuple(log_abs_det.shape)} for {n} rows, but it must be "
            f"({n},), one number per row; sum it over the event."
        )
    if log_abs_det.dtype not in WIDE:
        log_abs_det = log_abs_det.to(wide(log_abs_det))
    return log_abs_det.clone() if log_abs_det.stride(0) == 0 else log_abs_det  # each row owns its memory: the caller may write to it


def inverted(step: Any, z: Any, cond: Any) -> tuple[Any, Tensor]:
    """Return step.inverse(z, cond); parameters of a sharded step are gathered first, which `fully_shard` does only for forward."""
    fsdp = sys.modules.get("torch.distributed.fsdp")  # nothing is sharded unless it has been imported
    sharded = getattr(fsdp, "FSDPModule", None)  # not there yet while another thread imports it
    if fsdp is not None and sharded is not None and isinstance(step, sharded) and "inverse" not in vars(step):
        fsdp.register_fsdp_forward_method(step, "inverse")
    found: tuple[Any, Tensor] = step.inverse(z, cond)
    return found


def pulled(step: Any, x: Tensor, cond: Any) -> Tensor:
    """Return z without log_abs_det, for a bijection or a plain Module wrapped around one."""
    own = ability(step, "pull")
    z: Tensor = step(x, cond)[0] if own is None else own(x, cond)
    return z


def pushed(step: Any, z: Tensor, cond: Any) -> Tensor:
    """Return x without log_abs_det, for a bijection or a plain Module wrapped around one."""
    own = ability(step, "push", overrides=("inverse",))
    x: Tensor = inverted(step, z, cond)[0] if own is None else own(z, cond)
    return x
