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
    for law in (*LAWS, *(TWO_WAY if exactness != "one-way" else ())):
        law(bijection, x, cond, 1e-9)
    functions: list[tuple[str, Function, Tensor]] = [("forward", bijection, x)]
    if exactness != "one-way":
        functions.append(("inverse", bijection.inverse, _image(bijection, x, cond)))
    for name, function, inputs in functions:
        for of_direction in DIRECTION:
            of_direction(name, function, inputs, cond, 1e-9)
    _check_call(bijection, x, cond)
    _check_bfloat16(bijection, x, cond)


def _image(bijection: Bijection, x: Tensor, cond: Any) -> Tensor:
    with torch.no_grad():
        return bijection(x, cond)[0]


def one_number_a_row(bijection: Bijection, x: Tensor, cond: Any, tolerance: float) -> None:
    """Demand a log_abs_det of shape (n,)."""
    log_abs_det = bijection(x, cond)[1]
    demand("log_abs_det has one number a row", log_abs_det.shape == x.shape[:1], tuple(log_abs_det.shape))


def log_abs_det_of_autograd(bijection: Bijection, x: Tensor, cond: Any, tolerance: float) -> None:
    """Demand the log_abs_det of autograd's Jacobian."""
    by_autograd = log_abs_det_by_autograd(lambda x: bijection(x, cond)[0], x)
    agree("log_abs_det is that of autograd", bijection(x, cond)[1], by_autograd, tolerance)


def inverse_gives_back_x(bijection: Bijection, x: Tensor, cond: Any, tolerance: float) -> None:
    """Demand inverse(forward(x)) = x."""
    agree("inverse gives back x", bijection.inverse(bijection(x, cond)[0], cond)[0], x, tolerance)


def forward_gives_back_z(bijection: Bijection, x: Tensor, cond: Any, tolerance: float) -> None:
    """Demand forward(inverse(z)) = z for z = forward(x)."""
    z = _image(bijection, x, cond)
    agree("forward gives back z", bijection(bijection.inverse(z, cond)[0], cond)[0], z, tolerance)


def log_abs_dets_cancel(bijection: Bijection, x: Tensor, cond: Any, tolerance: float) -> None:
    """Demand log_abs_dets of forward and inverse that add up to 0."""
    z, log_abs_det = bijection(x, cond)
    agree("both log_abs_dets cancel", log_abs_det + bijection.inverse(z, cond)[1], torch.zeros_like(log_abs_det), tolerance)


def inverse_log_abs_det_of_autograd(bijection: Bijection, x: Tensor, cond: Any, tolerance: float) -> None:
    """Demand the log_abs_det of autograd's Jacobian for the inverse."""
    z = _image(bijection, x, cond)
    by_autograd = log_abs_det_by_autograd(lambda z: bijection.inverse(z, cond)[0], z)
    agree("the inverse's log_abs_det is that of autograd", bijection.inverse(z, cond)[1], by_autograd, tolerance)


def expanded_input(name: str, function: Function, x: Tensor, cond: Any, tolerance: float) -> None:
    """Demand that rows which share memory are mapped as their copies."""
    rows = x[:1].expand_as(x)
    for a, b in zip(function(rows, cond), function(rows.clone(), cond), strict=True):
        agree(f"an expanded input of {name} is as good as its copy", a, b, tolerance)


def non_contiguous_input(name: str, function: Function, x: Tensor, cond: Any, tolerance: float) -> None:
    """Demand that rows of any strides are mapped as their copies."""
    for a, b in zip(function(non_contiguous(x), cond), function(x, cond), strict=True):
        agree(f"a non-contiguous input of {name} is as good as its copy", a, b, tolerance)


def no_rows(name: str, function: Function, x: Tensor, cond: Any, tolerance: float) -> None:
    """Demand that an empty batch stays empty."""
    value, log_abs_det = function(x[:0], None if cond is None else cond[:0])
    found = tuple(value.shape), tuple(log_abs_det.shape)
    demand(f"{name} of no rows returns none", found == ((0, *function(x, cond)[0].shape[1:]), (0,)), found)


def unwritten_input(name: str, function: Function, x: Tensor, cond: Any, tolerance: float) -> None:
    """Demand that the caller's tensor is not written."""
    before, version = x.clone(), x._version
    function(x, cond)
    demand(f"{name} does not write to its input", torch.equal(x, before) and x._version == version, "another x")


def gradients(name: str, function: Function, x: Tensor, cond: Any, tolerance: float) -> None:
    """Demand the gradients of finite differences: of step 1e-6, which see a solver's error of 1e-10 as 1e-4."""
    few = None if cond is None else cond[:1]
    start = x[:1].clone().requires_grad_()
    torch.autograd.gradcheck(lambda x: function(x, few), start, eps=1e-6, atol=1e-3, fast_mode=True)


Law = Callable[[Bijection, Tensor, Any, float], None]
LAWS: tuple[Law, ...] = (one_number_a_row, log_abs_det_of_autograd)
TWO_WAY: tuple[Law, ...] = (inverse_gives_back_x, forward_gives_back_z, log_abs_dets_cancel, inverse_log_abs_det_of_autograd)
DIRECTION: tuple[Callable[[str, Function, Tensor, Any, float], None], ...] = (
    expanded_input,
    non_contiguous_input,
    no_rows,
    unwritten_input,
    gradients,
)


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
