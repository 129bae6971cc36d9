"""A chain of bijections of vectors as one loop over columns: unmodified parts are checked once a call, not once a step."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from pushforward.bijections.autoregressive import AffineAutoregressive, SplineAutoregressive
from pushforward.bijections.chain import Chain
from pushforward.bijections.columns import Columns, summed
from pushforward.bijections.coupling import AdditiveCoupling, AffineCoupling, SplineCoupling
from pushforward.bijections.elementwise import Affine, Elementwise
from pushforward.bijections.mixing import LULinear, Orthogonal, Permutation, Reverse
from pushforward.bijections.scaling import ActNorm, Scale
from pushforward.dispatch import fast_way, known, reads_parts, unchanged
from pushforward.fast.coupling import columns as coupling_columns
from pushforward.fast.made import columns as masked_columns
from pushforward.functional.affine import done_affine, undone_affine
from pushforward.nn.coupling import CouplingNet
from pushforward.nn.made import MADE

Bounds = dict[float, Tensor]  # the ends of log-scales as tensors (), made once for all steps
Step = Callable[[Any, Columns, Any, bool, Bounds], tuple[Columns, Tensor | None]]


def _coupling(step: Any, x: Columns, cond: Any, inverse: bool, bounds: Bounds) -> tuple[Columns, Tensor | None]:
    kept, changed = step.split(x)
    raw = coupling_columns(step._modules["net"], kept, cond)
    changed, log_slopes = _elementwise(step.elementwise, changed, raw, inverse, bounds)
    return x.having(*step.merge(kept, changed)), summed(log_slopes)


def _autoregressive(step: Any, x: Columns, cond: Any, inverse: bool, bounds: Bounds) -> tuple[Columns, Tensor | None]:
    if inverse:
        return _plain(step, x, cond, inverse, bounds)
    whole = x.whole()
    y, log_slopes = _elementwise(step.elementwise, whole, masked_columns(step._modules["net"], whole, cond), inverse, bounds)
    return x.having(y), summed(log_slopes)


def _plain(step: Any, x: Columns, cond: Any, inverse: bool, bounds: Bounds) -> tuple[Columns, Tensor | None]:
    found: tuple[Columns, Tensor | None] = step.map_columns(x, cond, inverse)
    return found


def _elementwise(elementwise: Elementwise, x: Tensor, raw: Tensor, inverse: bool, bounds: Bounds) -> tuple[Tensor, Tensor | None]:
    """Return elementwise(x, raw, inverse) for parameters raw, of shape (parameters, *x.shape) or with the first two axes as one."""
    if raw.dtype != x.dtype:
        raw = raw.to(x.dtype)
    if type(elementwise) is not Affine:
        return elementwise(x, raw.view(elementwise.parameters, *x.shape), inverse)
    bound = elementwise.bound
    end = bounds.get(bound)
    if end is None:
        end = bounds[bound] = x.new_full((), bound if inverse else -bound)
    scale, shift = raw.view(2, *x.shape).unbind()
    return (undone_affine if inverse else done_affine)(x, scale, shift, bound, end)


STEPS: dict[type, Step] = {
    **dict.fromkeys((AdditiveCoupling, AffineCoupling, SplineCoupling), _coupling),
    **dict.fromkeys((AffineAutoregressive, SplineAutoregressive), _autoregressive),
    **dict.fromkeys((ActNorm, LULinear, Orthogonal, Permutation, Reverse, Scale), _plain),
}
NETS: dict[Step, type] = {_coupling: CouplingNet, _autoregressive: MADE}
known(*STEPS, Affine)


def _has_net(kind: type) -> Callable[[Any], bool]:
    def check(step: Any) -> bool:
        return type(step._modules.get("net")) is kind

    return check


for _kind, _step in STEPS.items():
    if _step in NETS:
        reads_parts(_kind, _has_net(NETS[_step]))


@fast_way(Chain, "through", inside=True)
def through(chain: Any, x: Any, cond: Any, inverse: bool) -> tuple[Any, Tensor | None]:
    """Return x mapped by all steps (from the last if inverse), and the sum of their log-determinants, or None for 0."""
    steps = list(chain._modules["steps"]._modules.values())
    if not steps or not unchanged(Affine):
        return NotImplemented
    features: Any = getattr(steps[0], "features", None)
    for step in steps:
        if type(step) not in STEPS or step.__dict__.get("features") != features:
            return NotImplemented
    bounds: Bounds = {}
    y, total = Columns.of(x, features), None
    for step in reversed(steps) if inverse else steps:
        y, log_abs_det = STEPS[type(step)](step, y, cond, inverse, bounds)
        if log_abs_det is not None:
            total = log_abs_det if total is None else total + log_abs_det
    return (y if isinstance(x, Columns) else y.rows()), total
