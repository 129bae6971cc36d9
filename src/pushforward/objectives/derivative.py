"""The total derivative of a network along a trajectory, by forward mode, under the same random draws as its value."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from pushforward._modes import eagerly, outside_inference_mode
from pushforward._precision import uncast, wide

Field = Callable[[Tensor, Tensor, Tensor, Any, Tensor | None], Tensor]


class Draws:
    """The state of torch's global random numbers, which dropout uses, before a call: so that another call draws the same."""

    def __init__(self, device: torch.device) -> None:
        self.devices = [device] if device.type == "cuda" else []
        self.before = self._state()

    def _state(self) -> list[Tensor]:
        return [torch.get_rng_state(), *(torch.cuda.get_rng_state(one) for one in self.devices)]

    def any(self) -> bool:
        """Return whether random numbers were drawn since."""
        return not all(torch.equal(one, other) for one, other in zip(self.before, self._state(), strict=True))

    def repeated(self, call: Callable[[], Tensor]) -> Tensor:
        """Return what a call returns with the same draws."""
        with torch.random.fork_rng(self.devices):
            torch.set_rng_state(self.before[0])
            for device, state in zip(self.devices, self.before[1:], strict=True):
                torch.cuda.set_rng_state(state, device)
            return call()


def apart(net: Any, moving: Tensor, losses: Callable[[Any], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return losses (n,) of rows, those of rows that need a derivative (n,) computed apart if the network has dropout.

    A derivative repeats the draws of the value's call, hence takes all of its rows.

    Args:
        net: the network.
        moving: which rows need a derivative (n,).
        losses: called with an index of rows; returns two losses of each.
    """
    drops = isinstance(net, nn.Module) and any(isinstance(one, _DropoutNd) and one.training and one.p > 0 for one in net.modules())
    if not drops or bool(moving.all()) or not bool(moving.any()):
        return losses(slice(None))
    parts = [one.nonzero().flatten() for one in (moving, ~moving)]
    order = torch.cat(parts).argsort()
    one, other = (torch.cat(found)[order] for found in zip(*map(losses, parts), strict=True))
    return one, other


@outside_inference_mode
@torch.no_grad()
def scaled_derivative(
    net: Callable[[Tensor, Tensor, Any], Tensor], z: Tensor, t: Tensor, of_z: Tensor, of_t: Tensor, cond: Any, draws: Draws
) -> Tensor:
    """Return of_z dF/dz + of_t dF/dt (n, *shape) of a network of one time, without gradient, in float32 or wider, under repeated draws."""

    def derivative() -> Tensor:
        with uncast(z), eagerly():
            return torch.func.jvp(lambda z, t: net(z, t, cond), (z, t), (of_z.to(z.dtype), of_t))[1].to(wide(z))

    return draws.repeated(derivative)


@outside_inference_mode
@torch.no_grad()
def total_derivative(
    u: Field, z: Tensor, t: Tensor, r: Tensor, tangent: Tensor, cond: Any, guidance: Tensor | None, draws: Draws
) -> Tensor:
    """Return du/dt = tangent du/dz + du/dt at fixed r, as (n, *shape) without gradient, in float32 or wider; 0 where r = t.

    The rows with r < t alone are computed, unless random numbers were drawn for the value: then all rows are, with the same draws.

    Args:
        u: called as u(z, t, r, cond, guidance).
        z: states (n, *shape).
        t: times (n,).
        r: other ends of the intervals (n,).
        tangent: dz/dt (n, *shape).
        cond: condition of each row, or None.
        guidance: guidance of each row, or None.
        draws: random numbers before the value was computed.
    """
    dtype, moving = wide(z), r < t
    found = z.new_zeros(z.shape, dtype=dtype)
    if not bool(moving.any()):
        return found
    rows = slice(None) if draws.any() or bool(moving.all()) else moving.nonzero().flatten()
    some, at, end, along = z[rows], t[rows], r[rows], tangent[rows].to(z.dtype)
    given, steered = (None if one is None else one[rows] for one in (cond, guidance))

    def derivative() -> Tensor:
        with uncast(z), eagerly():
            return torch.func.jvp(
                lambda z, t: u(z, t, end, given, steered), (some, at), (along, torch.ones_like(at))
            )[1].to(dtype)  # fmt: skip

    value = draws.repeated(derivative) if isinstance(rows, slice) else derivative()
    if isinstance(rows, slice):
        return torch.where(moving.view(-1, *(1,) * (z.ndim - 1)), value, found)
    found[rows] = value
    return found
