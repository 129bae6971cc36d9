"""What a sampler cannot solve is one sentence: a network that says NaN, times outside the path, more steps than there are, no condition."""

import math

import pytest
import torch

import pushforward as pf
from pushforward.errors import ConditionError, SolverError, UserError
from pushforward.samplers import DDIM, DDPM, Dopri5, Euler, Heun, UniPC

PATH = pf.paths.Discrete("cosine", steps=20)


def broken(x, t, cond=None):
    """A network that says NaN in one row from the middle on."""
    return torch.where((x[:, :1] > 1e6) | ((t < 0.5)[:, None] & (x[:, :1] > 0)), math.nan, 0.0) * x


def model(net=broken, **options):
    return pf.families.PathModel(net, (2,), **options)


@pytest.mark.parametrize("sampler", [Euler(8), Heun(8), DDIM(8), DDPM(8)])
def test_a_network_that_says_nan_is_named_with_the_sample(sampler):
    with pytest.raises(SolverError, match=r"sample \d+ is not finite: the network returned NaN"):
        model().sample(20, sampler=sampler, generator=torch.Generator().manual_seed(0))


def test_dopri5_names_the_time_too():
    with pytest.raises(SolverError, match=r"the field is not finite at t = 0\.[5-9]\d* in sample \d+"):
        model().sample(20, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("sampler", [Euler(4), Dopri5(), DDIM(4), UniPC(4)])
@pytest.mark.parametrize(("start", "end"), [(1.2, 0.5), (1.0, -0.1), (math.nan, 0.5)])
def test_times_outside_the_path_are_refused(sampler, start, end):
    denoiser = model(lambda x, t, cond: x).denoiser()
    with pytest.raises(UserError, match=r"t is (1\.2|-0\.1|nan), but Linear\(\) is defined from 0 to 1"):
        sampler(denoiser, torch.zeros(2, 2), start, end)


def test_more_steps_than_a_discrete_path_has_are_refused():
    with pytest.raises(UserError, match=r"steps is 30, but the path has only 20 knots; use at most 20"):
        model(lambda x, t, cond: x, path=PATH).sample(2, sampler=DDPM(30))


def test_guidance_without_a_condition_is_refused():
    with pytest.raises(ConditionError, match="guidance 2 needs a condition to follow"):
        model(lambda x, t, cond: x).sample(2, guidance=2.0)


def test_an_exploding_field_ends_with_time_and_sample():
    """dx/dt = -x³ backwards from 1 to 0 doubles without bound: infinite before t = 0 where x² > 1 / 2."""
    with pytest.raises(SolverError, match=r"(too small|not finite) at t = 0\.\d+ in sample \d+"):
        model(lambda x, t, cond: -(x**3)).decode(torch.tensor([[0.1, 0.1], [2.0, 2.0]]))


def test_a_stiff_field_ends_after_the_steps_that_are_allowed():
    with pytest.raises(SolverError, match=r"dopri5 took 50 steps and sample 0 is only at t = 0\.9\d+"):
        model(lambda x, t, cond: 1e5 * (x - torch.sin(50 * t)[:, None])).decode(torch.ones(1, 2), sampler=Dopri5(1e-6, 1e-6, max_steps=50))
