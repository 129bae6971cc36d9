"""The laws of bijections."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from pushforward.bijections.bijection import Bijection
from pushforward.bijections.chain import Chain
from pushforward.registry import export
from pushforward.testing.laws import agree, demand, log_abs_det_by_autograd, non_contiguous

Exactness = Literal["exact", "solved", "one-way"]
Function = Callable[..., tuple[Tensor, Tensor]]


@export("testing.check_bijection")
def check_bijection(bijection: Bijection, x: Tensor, cond: Any = None, *, exactness: Exactness = "exact") -> None:
    """Check the laws of a bijection on an example.

        inverse(forward(x)) = x,    log|det forward| + log|det inverse| = 0,    log|det| = that of autograd's Jacobian

    Also that expanded, non-contiguous, empty and bfloat16 inputs work, that the caller's tensors are not written, that gradients are those
    of finite differences, and that a forward hook is obeyed in a chain.

    Args:
        bijection: what is checked, in float64.
        x: an example (n, *shape), n at least 2, in float64, on which it is smooth.
        cond: condition of each row, or None.
        exactness: "exact" holds to 1e-9; "solved" too, with a solver inside that runs at a tolerance of 1e-10; "one-way" has no inverse.

    Returns:
        Nothing.

    Raises:
        AssertionError: a law does not hold; the law is named.

    Example:
        >>> check_bijection(pf.bijections.ActNorm(3).double(), torch.randn(4, 3, dtype=torch.float64))
    """
    z, log_abs_det = bijection(x, cond)
    demand("log_abs_det has one number a row", log_abs_det.shape == x.shape[:1], tuple(log_abs_det.shape))
    agree("log_abs_det is that of autograd", log_abs_det, log_abs_det_by_autograd(lambda x: bijection(x, cond)[0], x), 1e-9)
    functions: list[tuple[str, Function, Tensor]] = [("forward", bijection, x)]
    if exactness != "one-way":
        back, inverse_log_abs_det = bijection.inverse(z, cond)
        agree("inverse gives back x", back, x, 1e-9)
        agree("forward gives back z", bijection(bijection.inverse(z, cond)[0], cond)[0], z, 1e-9)
        agree("both log_abs_dets cancel", log_abs_det + inverse_log_abs_det, torch.zeros_like(log_abs_det), 1e-9)
        by_autograd = log_abs_det_by_autograd(lambda z: bijection.inverse(z, cond)[0], z.detach())
        agree("the inverse's log_abs_det is that of autograd", inverse_log_abs_det, by_autograd, 1e-9)
        functions.append(("inverse", bijection.inverse, z.detach()))
    for name, function, inputs in functions:
        _check_inputs(name, function, inputs, cond)
    _check_call(bijection, x, cond)
    _check_bfloat16(bijection, x, cond)


def _check_inputs(name: str, function: Function, x: Tensor, cond: Any) -> None:
    rows, before, version = x[:1].expand_as(x), x.clone(), x._version
    for what, one, other in (("an expanded input", rows, rows.clone()), ("a non-contiguous input", non_contiguous(x), x)):
        for a, b in zip(function(one, cond), function(other, cond), strict=True):
            agree(f"{what} of {name} is as good as its copy", a, b, 1e-9)
    value, log_abs_det = function(x[:0], None if cond is None else cond[:0])
    demand(f"{name} of no rows returns none", (len(value), len(log_abs_det)) == (0, 0), (tuple(value.shape), tuple(log_abs_det.shape)))
    demand(f"{name} does not write to its input", torch.equal(x, before) and x._version == version, "another x")
    few = None if cond is None else cond[:1]
    start = x[:1].clone().requires_grad_()
    torch.autograd.gradcheck(lambda x: function(x, few), start, eps=1e-6, atol=1e-3, fast_mode=True)


def _check_call(bijection: Bijection, x: Tensor, cond: Any) -> None:
    hook = bijection.register_forward_hook(lambda module, inputs, output: (output[0] + 1, output[1]))
    try:
        agree("a forward hook is obeyed in a chain", Chain([bijection])(x, cond)[0], bijection(x, cond)[0], 1e-9)
    finally:
        hook.remove()


def _check_bfloat16(bijection: Bijection, x: Tensor, cond: Any) -> None:
    before = {name: one.clone() for name, one in bijection.state_dict().items()}
    low = cond.bfloat16() if isinstance(cond, Tensor) and cond.is_floating_point() else cond
    try:
        value, log_abs_det = bijection.to(torch.bfloat16)(x.bfloat16(), low)
    finally:
        bijection.to(x.dtype).load_state_dict(before)
    found = (value.dtype, log_abs_det.dtype)
    demand("bfloat16 stays, with a log_abs_det in float32", found == (torch.bfloat16, torch.float32), found)
