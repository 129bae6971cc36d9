"""Training a chain in memory independent of its depth: only the output is stored, the rest is recomputed through the inverses.

The backward pass inverts and differentiates the steps one by one, from the last. The input of a coupling's network is the kept half, so a
single evaluation serves both to invert the other half and to compute the gradients; adjacent pixel-affine steps only need their matrix.
Any other step, and any that is overridden or hooked, is inverted and then evaluated again.

Source: Gomez, Ren, Urtasun and Grosse, The reversible residual network, 2017, arXiv 1707.04585, algorithm 1.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.utils._pytree import tree_flatten, tree_unflatten

from pushforward import dispatch
from pushforward._precision import uncast, wide
from pushforward.bijections.bijection import Bijection, inverted
from pushforward.bijections.columns import Columns, as_rows, features_of, takes_columns, through
from pushforward.bijections.coupling import Coupling
from pushforward.bijections.image_coupling import ImageCoupling
from pushforward.bijections.pixels import PixelAffines, at_each_pixel
from pushforward.bijections.scaling import BatchNorm
from pushforward.errors import UserError

State = Any  # rows (n, *shape), or columns
# What a coupling's split, params, transform and merge stand for.
COUPLINGS: dict[type[nn.Module], tuple[str, ...]] = {
    Coupling: ("__call__", "forward", "inverse", "map_columns"),
    ImageCoupling: ("__call__", "forward", "inverse", "_through"),
}


@_disable_dynamo  # torch.compiler.disable, without importing dynamo now, which takes a second
def reversible(steps: Sequence[Bijection], x: Tensor, cond: Any) -> tuple[Tensor, Tensor]:
    """Return x mapped by all steps and log_abs_det (n,); only the output is stored for the backward pass."""
    for step in steps:
        for part in (one for kept in (step.steps if isinstance(step, PixelAffines) else (step,)) for one in kept.modules()):
            if part.training and (isinstance(part, BatchNorm | _BatchNorm) or (isinstance(part, _DropoutNd) and part.p > 0)):
                raise UserError(
                    f'memory="reversible" evaluates each step twice, but {type(part).__name__} in training mode returns another value each '
                    'time; take ActNorm or ImageActNorm for it, or memory="full".'
                )
    leaves, form = tree_flatten(cond)
    parameters = list({id(p): p for step in steps for p in _parameters(step) if p.requires_grad}.values())
    found: tuple[Tensor, Tensor] = _Reversible.apply(steps, form, len(leaves), x, *leaves, *parameters)
    return found


class _Reversible(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, steps: Sequence[Bijection], form: Any, count: int, x: Tensor, *tensors: Any) -> tuple[Tensor, Tensor]:
        kind = x.device.type
        ctx.precision = {"device_type": kind, "dtype": torch.get_autocast_dtype(kind), "enabled": torch.is_autocast_enabled(kind)}
        # Autocast would cache weights cast here without their graphs, and later calls in the same region would use them.
        with torch.autocast(**ctx.precision, cache_enabled=False):
            z, log_abs_det = through(steps, x, tree_unflatten(tensors[:count], form), inverse=False)
            if log_abs_det is None:
                log_abs_det = torch.zeros(len(x), dtype=wide(x), device=x.device)
        ctx.steps, ctx.form = steps, form
        ctx.others = [None if isinstance(one, Tensor) else one for one in tensors[:count]]
        ctx.save_for_backward(z, *(one if isinstance(one, Tensor) else None for one in tensors[:count]))
        # Parameters are identified by object identity, which hooks on saved tensors (such as save_on_cpu) would not preserve.
        ctx.parameters = tensors[count:]
        ctx.versions = [p._version for p in ctx.parameters]
        return z, log_abs_det

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        if ctx.versions != [p._version for p in ctx.parameters]:
            raise RuntimeError("a parameter was written between the forward and the backward pass of a chain with memory='reversible'.")
        z, *tensors = ctx.saved_tensors
        needed = ctx.needs_input_grad[4:]
        # The condition is replaced by new leaves: this function only computes the gradient with respect to it.
        leaves = [
            other if one is None else one.detach().requires_grad_(need)
            for one, other, need in zip(tensors, ctx.others, needed, strict=False)
        ]
        wanted = [one for one, need in zip([*leaves, *ctx.parameters], needed, strict=True) if need]
        total = _Gradients(wanted, leaves)
        cond = tree_unflatten(leaves, ctx.form)
        with torch.autocast(**ctx.precision, cache_enabled=False):
            x_gradient = _rewound(ctx.steps, z, cond, gradients[0], gradients[1], total)
        found = iter(total.sums)
        return None, None, None, x_gradient, *(next(found) if need else None for need in needed)


class _Gradients:
    """Sums of the gradients with respect to parameters and conditions."""

    def __init__(self, wanted: Sequence[Tensor], shared: Sequence[Any]) -> None:
        self.wanted, self.sums = wanted, [None] * len(wanted)
        self.place = {id(one): k for k, one in enumerate(wanted)}
        self.shared = [self.place[id(one)] for one in shared if id(one) in self.place]

    def places(self, parameters: Iterable[Tensor], shared: bool = True) -> list[int]:
        """Return the indices in `wanted` of the parameters of a step and of the condition, which all steps share."""
        own = {id(p): self.place[id(p)] for p in parameters if id(p) in self.place}
        return [*own.values(), *(self.shared if shared else ())]

    def add(self, places: Sequence[int], gradients: Sequence[Any]) -> None:
        for k, gradient in zip(places, gradients, strict=True):
            if gradient is not None:
                self.sums[k] = gradient if self.sums[k] is None else self.sums[k] + gradient


def _rewound(steps: Sequence[Any], z: Tensor, cond: Any, gradient: Tensor, log_gradient: Tensor, total: _Gradients) -> Tensor:
    """Return the gradient wrt x, given those wrt z (n, *shape) and the log-determinant (n,); parameter gradients are added to `total`."""
    state: State = z
    slope: State = gradient
    for step in reversed(steps):
        features, undo = features_of(step), _undo_of(step)
        if features is not None and (takes_columns(step) or undo is _undo_coupling):
            state, slope = Columns.of(state, features), Columns.of(slope, features)
        else:
            state, slope = as_rows(state), as_rows(slope)
        state, slope = undo(step, state, cond, slope, log_gradient, total)
    rows: Tensor = as_rows(slope)
    return rows


def _undo_of(step: Any) -> Any:
    if isinstance(step, PixelAffines):
        return _undo_pixels
    for kind, methods in COUPLINGS.items():
        if isinstance(step, kind) and dispatch.inherits(step, kind, *methods) and dispatch.plainly_called(step):
            return _undo_coupling
    return _undo_any


def _parameters(step: Any) -> Iterable[Tensor]:
    """Return the parameters of a step, or of all steps of a merged run."""
    return [p for one in step.steps for p in one.parameters()] if isinstance(step, PixelAffines) else step.parameters()


def _undo_coupling(step: Any, z: State, cond: Any, slope: State, log_gradient: Tensor, total: _Gradients) -> tuple[State, State]:
    """Invert a coupling and differentiate it with one evaluation of its network."""
    kept, changed = step.split(z)
    kept_slope, changed_slope = step.split(slope)
    places = total.places(step.parameters())
    with torch.enable_grad():
        kept = kept.detach().requires_grad_()
        raw = step.params(kept, cond)
        before = step.transform(changed, raw.detach(), True)[0].detach().requires_grad_()
        after, log_abs_det = step.transform(before, raw, False)
        ends = ((after, changed_slope), (log_abs_det, log_gradient))
        kept_more, changed_slope, *more = _differentiated(ends, [kept, before, *(total.wanted[k] for k in places)])
    total.add(places, more)
    if kept_more is not None:
        kept_slope = kept_slope + kept_more
    x, slope = step.merge(kept.detach(), before.detach()), step.merge(kept_slope, changed_slope)
    return (z.having(*x), z.having(*slope)) if isinstance(z, Columns) else (x, slope)


def _undo_pixels(step: PixelAffines, z: Tensor, cond: Any, slope: Tensor, log_gradient: Tensor, total: _Gradients) -> tuple[Tensor, Tensor]:
    """Invert a pixel-affine map, and differentiate it with respect to its matrix and shift."""
    places = total.places(_parameters(step), shared=False)
    with torch.enable_grad():
        matrix, shift, log_abs_det = step.affine()
    fixed = matrix.detach()
    with uncast(z):
        back = torch.linalg.inv(fixed)
        # The log-determinant counts once per pixel, and so does its gradient.
        x, by_log = at_each_pixel(z, back, -(back @ shift.detach()), log_gradient.sum().to(back.dtype))
        slopes, pixels = (one.permute(0, 2, 3, 1).reshape(-1, len(back)) for one in (slope, x))
        by_matrix, by_shift = (slopes.T @ pixels).to(back.dtype), slopes.sum(0, dtype=back.dtype)
        ends = ((matrix, by_matrix), (shift, by_shift), (log_abs_det, by_log))
        total.add(places, _differentiated(ends, [total.wanted[k] for k in places]))
        return x, at_each_pixel(slope, fixed.T, torch.zeros_like(back[0]), by_log)[0]


def _undo_any(step: Any, z: State, cond: Any, slope: State, log_gradient: Tensor, total: _Gradients) -> tuple[State, State]:
    """Invert a step and evaluate it again."""
    places = total.places(step.parameters())
    x = inverted(step, z, cond)[0]
    parts, form = (x.whole(), x) if isinstance(x, Columns) else (x, None)
    with torch.enable_grad():
        parts = parts.detach().requires_grad_()
        again, log_abs_det = step(parts if form is None else form.having(parts), cond)
        ends = ((_whole(again), _whole(slope)), (log_abs_det, log_gradient))
        slope, *more = _differentiated(ends, [parts, *(total.wanted[k] for k in places)])
    total.add(places, more)
    parts = parts.detach()
    return (parts, slope) if form is None else (form.having(parts), form.having(slope))


def _whole(x: State) -> Tensor:
    return x.whole() if isinstance(x, Columns) else x


def _differentiated(ends: Iterable[tuple[Tensor | None, Tensor]], by: Sequence[Tensor]) -> Sequence[Any]:
    """Return the gradients with respect to tensors, given pairs (output, or None, and its gradient); None for an unused tensor."""
    outputs = [(one, gradient.to(one.dtype)) for one, gradient in ends if one is not None and one.requires_grad]
    if not outputs or not by:
        return [None] * len(by)
    return torch.autograd.grad([one for one, _ in outputs], by, [gradient for _, gradient in outputs], allow_unused=True)
