"""What every bijection owes: its inverse undoes it, the log-determinants are right, and no input surprises it."""

import pytest
import torch
from examples import SOLVED, examples, non_contiguous

from pushforward import registry
from pushforward.bijections.bijection import Bijection
from pushforward.samplers.dopri5 import Dopri5

BIJECTIONS = examples("bijections", of=Bijection)
TOLERANCE = {"exact": 1e-9, "solved": SOLVED}


@pytest.fixture(params=BIJECTIONS)
def subject(request):
    """The bijection, x, cond and the tolerance that its exactness promises."""
    entry = request.param
    bijection, x, cond = entry.example()
    return bijection, x, cond, TOLERANCE[entry.facts["exactness"]]


def close(a, b, tolerance):
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


def log_abs_det_by_autograd(function, x):
    """log|det| of each row's Jacobian; rows do not touch each other, so the sum over rows keeps them apart."""
    jacobian = torch.autograd.functional.jacobian(lambda x: function(x).flatten(1).sum(0), x)  # (d, n, *shape)
    return torch.linalg.slogdet(jacobian.flatten(2).transpose(0, 1)).logabsdet


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


def test_log_abs_det_is_that_of_the_autograd_jacobian(subject):
    bijection, x, cond, tolerance = subject
    close(bijection(x, cond)[1], log_abs_det_by_autograd(lambda x: bijection(x, cond)[0], x), tolerance)


def test_inverse_log_abs_det_is_that_of_the_autograd_jacobian(subject):
    bijection, z, cond, tolerance = subject
    close(bijection.inverse(z, cond)[1], log_abs_det_by_autograd(lambda z: bijection.inverse(z, cond)[0], z), tolerance)


@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_an_expanded_input_is_as_good_as_its_copy(subject, direction):
    bijection, x, cond, tolerance = subject
    function, rows = getattr(bijection, direction), x[:1].expand_as(x)
    for a, b in zip(function(rows, cond), function(rows.clone(), cond), strict=True):
        close(a, b, tolerance)


@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_a_non_contiguous_input_is_as_good_as_its_copy(subject, direction):
    bijection, x, cond, tolerance = subject
    function = getattr(bijection, direction)
    for a, b in zip(function(non_contiguous(x), cond), function(x, cond), strict=True):
        close(a, b, tolerance)


@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_an_empty_batch_stays_empty(subject, direction):
    bijection, x, cond, _ = subject
    value, log_abs_det = getattr(bijection, direction)(x[:0], None if cond is None else cond[:0])
    assert (value.shape, log_abs_det.shape) == (x[:0].shape, (0,))


@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_the_callers_tensors_are_not_written(subject, direction):
    bijection, x, cond, _ = subject
    before, version = x.clone(), x._version
    getattr(bijection, direction)(x, cond)
    assert torch.equal(x, before)
    assert x._version == version


@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_bfloat16_values_keep_their_dtype_and_log_dets_are_wider(subject, direction):
    bijection, x, cond, _ = subject
    if hasattr(bijection, "sampler"):
        bijection.sampler = Dopri5(0.05, 0.05)  # a field in bfloat16 is known to 2^-8 at best
    value, log_abs_det = getattr(bijection.to(torch.bfloat16), direction)(x.bfloat16(), cond)
    assert (value.dtype, log_abs_det.dtype) == (torch.bfloat16, torch.float32)
    assert value.isfinite().all()


@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_gradcheck_holds(subject, direction):
    """Differences of step 1e-6 see a solver's error of 1e-10 as 1e-4."""
    bijection, x, cond, _ = subject
    few = None if cond is None else cond[:1]
    function = getattr(bijection, direction)
    torch.autograd.gradcheck(lambda x: function(x, few), x[:1].clone().requires_grad_(), eps=1e-6, atol=1e-3, fast_mode=True)


def test_the_log_det_has_one_number_a_row(subject):
    bijection, x, cond, _ = subject
    assert bijection(x, cond)[1].shape == (len(x),)
