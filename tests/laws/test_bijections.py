"""What every bijection owes: its inverse undoes it, the log-determinants are right, and no input surprises it."""

import pytest
import torch
from examples import SOLVED, examples

from pushforward import registry
from pushforward.bijections.bijection import Bijection
from pushforward.errors import NotInvertibleError
from pushforward.samplers.dopri5 import Dopri5
from pushforward.samplers.rk4 import RK4
from pushforward.testing.bijections import DIRECTION, LAWS, TWO_WAY, gradients

BIJECTIONS = examples("bijections", of=Bijection)
SOLVING = [one for one in BIJECTIONS if one.values[0].facts["exactness"] == "solved"]
QUICKLY = 1e-4  # of a solver at 1e-6, in a sixth of the steps that 1e-10 takes, to which slow tests hold it
TOLERANCE = {"exact": 1e-9, "solved": QUICKLY, "one-way": 1e-9}


def _example(entry):
    bijection, x, cond = entry.example()
    if hasattr(bijection, "sampler"):
        bijection.sampler = Dopri5(1e-6, 1e-6)
    return bijection, x, cond, TOLERANCE[entry.facts["exactness"]]


@pytest.fixture(params=BIJECTIONS)
def one_way_or_both(request):
    """The bijection, x, cond and the tolerance that its exactness promises."""
    return _example(request.param)


@pytest.fixture(params=[one for one in BIJECTIONS if one.values[0].facts["exactness"] != "one-way"])
def subject(request):
    """The same for those that have an inverse."""
    return _example(request.param)


@pytest.fixture(params=["forward", "inverse"])
def function(request, one_way_or_both):
    """One direction of each bijection that has it, for laws that are not about a solver's tolerance: it takes a few fixed steps."""
    bijection = one_way_or_both[0]
    if request.param == "inverse" and request.node.callspec.params["one_way_or_both"].facts["exactness"] == "one-way":
        pytest.skip("one-way")
    if hasattr(bijection, "sampler"):
        bijection.sampler = RK4(8)
    return getattr(bijection, request.param)


def test_every_public_bijection_has_an_example_and_states_its_exactness():
    public = [one for one in registry.entries("bijections") if isinstance(one.thing, type) and issubclass(one.thing, Bijection)]
    assert [
        one.name for one in public if one.thing is not Bijection and not (one.example and one.facts.get("exactness") in TOLERANCE)
    ] == []


def _names(laws):
    return [pytest.param(law, id=law.__name__) for law in laws]


@pytest.mark.parametrize("law", _names(LAWS))
def test_a_law_of_one_way_holds(law, one_way_or_both):
    law(*one_way_or_both)


@pytest.mark.parametrize("law", _names(TWO_WAY))
def test_a_law_of_both_ways_holds(law, subject):
    law(*subject)


@pytest.mark.parametrize("law", _names(DIRECTION))
def test_a_law_of_each_direction_holds(law, one_way_or_both, function):
    _, x, cond, tolerance = one_way_or_both
    law(function.__name__, function, x, cond, tolerance)


def test_bfloat16_values_keep_their_dtype_and_log_dets_are_wider(one_way_or_both, function):
    bijection, x, cond, _ = one_way_or_both
    if hasattr(bijection, "sampler"):
        bijection.sampler = Dopri5(0.05, 0.05)  # a field in bfloat16 is known to 2^-8 at best
    bijection.to(torch.bfloat16)
    low = cond.bfloat16() if isinstance(cond, torch.Tensor) and cond.is_floating_point() else cond
    value, log_abs_det = function(x.bfloat16(), low)
    assert (value.dtype, log_abs_det.dtype) == (torch.bfloat16, torch.float32)
    assert value.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("law", _names((*LAWS, *TWO_WAY)))
@pytest.mark.parametrize("entry", SOLVING)
def test_a_law_holds_at_a_solvers_tolerance(entry, law):
    law(*entry.example(), SOLVED)


@pytest.mark.slow
@pytest.mark.parametrize("direction", ["forward", "inverse"])
@pytest.mark.parametrize("entry", SOLVING)
def test_gradcheck_holds_at_a_solvers_tolerance(entry, direction):
    bijection, x, cond = entry.example()
    gradients(direction, getattr(bijection, direction), x, cond, SOLVED)


def test_what_is_one_way_refuses_its_inverse_by_name(one_way_or_both, request):
    bijection, x, cond, _ = one_way_or_both
    if request.node.callspec.params["one_way_or_both"].facts["exactness"] != "one-way":
        pytest.skip("it has an inverse")
    with pytest.raises(NotInvertibleError, match=f"{type(bijection).__name__} is one-way"):
        bijection.inverse(x, cond)
