"""What every bijection owes: its inverse undoes it, the log-determinants are right, and no input surprises it."""

import pytest
import torch
from examples import SOLVED, examples, non_contiguous

from pushforward import registry
from pushforward.bijections.bijection import Bijection
from pushforward.errors import NotInvertibleError
from pushforward.samplers.dopri5 import Dopri5
from pushforward.samplers.rk4 import RK4
from pushforward.testing.laws import log_abs_det_by_autograd

BIJECTIONS = examples("bijections", of=Bijection)
SOLVING = [one for one in BIJECTIONS if one.values[0].facts["exactness"] == "solved"]
TOLERANCE = {"exact": 1e-9, "solved": SOLVED, "one-way": 1e-9}


@pytest.fixture(params=BIJECTIONS)
def one_way_or_both(request):
    """The bijection, x, cond and the tolerance that its exactness promises."""
    entry = request.param
    bijection, x, cond = entry.example()
    return bijection, x, cond, TOLERANCE[entry.facts["exactness"]]


@pytest.fixture(params=[one for one in BIJECTIONS if one.values[0].facts["exactness"] != "one-way"])
def subject(request):
    """The same for those that have an inverse."""
    entry = request.param
    bijection, x, cond = entry.example()
    return bijection, x, cond, TOLERANCE[entry.facts["exactness"]]


@pytest.fixture(params=["forward", "inverse"])
def function(request, one_way_or_both):
    """One direction of each bijection that has it, for laws that are not about a solver's tolerance: it takes a few fixed steps."""
    bijection = one_way_or_both[0]
    if request.param == "inverse" and request.node.callspec.params["one_way_or_both"].facts["exactness"] == "one-way":
        pytest.skip("one-way")
    if hasattr(bijection, "sampler"):
        bijection.sampler = RK4(8)
    return getattr(bijection, request.param)


def close(a, b, tolerance):
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


def test_every_public_bijection_has_an_example_and_states_its_exactness():
    public = [one for one in registry.entries("bijections") if isinstance(one.thing, type) and issubclass(one.thing, Bijection)]
    assert [
        one.name for one in public if one.thing is not Bijection and not (one.example and one.facts.get("exactness") in TOLERANCE)
    ] == []


def test_inverse_gives_back_x(subject):
    bijection, x, cond, tolerance = subject
    close(bijection.inverse(bijection(x, cond)[0], cond)[0], x, tolerance)


def test_forward_gives_back_z(subject):
    bijection, z, cond, tolerance = subject
    close(bijection(bijection.inverse(z, cond)[0], cond)[0], z, tolerance)


def test_log_dets_of_both_directions_cancel(subject):
    bijection, x, cond, tolerance = subject
    z, forward = bijection(x, cond)
    close(forward + bijection.inverse(z, cond)[1], torch.zeros(len(x)), tolerance)


def test_log_abs_det_is_that_of_the_autograd_jacobian(one_way_or_both):
    bijection, x, cond, tolerance = one_way_or_both
    close(bijection(x, cond)[1], log_abs_det_by_autograd(lambda x: bijection(x, cond)[0], x), tolerance)


def test_inverse_log_abs_det_is_that_of_the_autograd_jacobian(subject):
    bijection, z, cond, tolerance = subject
    close(bijection.inverse(z, cond)[1], log_abs_det_by_autograd(lambda z: bijection.inverse(z, cond)[0], z), tolerance)


def test_an_expanded_input_is_as_good_as_its_copy(one_way_or_both, function):
    _, x, cond, tolerance = one_way_or_both
    rows = x[:1].expand_as(x)
    for a, b in zip(function(rows, cond), function(rows.clone(), cond), strict=True):
        close(a, b, tolerance)


def test_a_non_contiguous_input_is_as_good_as_its_copy(one_way_or_both, function):
    _, x, cond, tolerance = one_way_or_both
    for a, b in zip(function(non_contiguous(x), cond), function(x, cond), strict=True):
        close(a, b, tolerance)


def test_an_empty_batch_stays_empty(one_way_or_both, function):
    _, x, cond, _ = one_way_or_both
    value, log_abs_det = function(x[:0], None if cond is None else cond[:0])
    assert (value.shape, log_abs_det.shape) == (function(x, cond)[0][:0].shape, (0,))


def test_the_callers_tensors_are_not_written(one_way_or_both, function):
    _, x, cond, _ = one_way_or_both
    before, version = x.clone(), x._version
    function(x, cond)
    assert torch.equal(x, before)
    assert x._version == version


def test_bfloat16_values_keep_their_dtype_and_log_dets_are_wider(one_way_or_both, function):
    bijection, x, cond, _ = one_way_or_both
    if hasattr(bijection, "sampler"):
        bijection.sampler = Dopri5(0.05, 0.05)  # a field in bfloat16 is known to 2^-8 at best
    bijection.to(torch.bfloat16)
    low = cond.bfloat16() if isinstance(cond, torch.Tensor) and cond.is_floating_point() else cond
    value, log_abs_det = function(x.bfloat16(), low)
    assert (value.dtype, log_abs_det.dtype) == (torch.bfloat16, torch.float32)
    assert value.isfinite().all()


def gradcheck(function, x, cond):
    """Differences of step 1e-6 see a solver's error of 1e-10 as 1e-4."""
    few = None if cond is None else cond[:1]
    torch.autograd.gradcheck(lambda x: function(x, few), x[:1].clone().requires_grad_(), eps=1e-6, atol=1e-3, fast_mode=True)


def test_gradcheck_holds(one_way_or_both, function):
    gradcheck(function, *one_way_or_both[1:3])


@pytest.mark.slow
@pytest.mark.parametrize("direction", ["forward", "inverse"])
@pytest.mark.parametrize("entry", SOLVING)
def test_gradcheck_holds_at_a_solvers_tolerance(entry, direction):
    bijection, x, cond = entry.example()
    gradcheck(getattr(bijection, direction), x, cond)


def test_the_log_det_has_one_number_a_row(one_way_or_both):
    bijection, x, cond, _ = one_way_or_both
    assert bijection(x, cond)[1].shape == (len(x),)


def test_what_is_one_way_refuses_its_inverse_by_name(one_way_or_both, request):
    bijection, x, cond, _ = one_way_or_both
    if request.node.callspec.params["one_way_or_both"].facts["exactness"] != "one-way":
        pytest.skip("it has an inverse")
    with pytest.raises(NotInvertibleError, match=f"{type(bijection).__name__} is one-way"):
        bijection.inverse(x, cond)
