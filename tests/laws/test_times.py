"""What every distribution of training times owes: a density that integrates to 1 and belongs to its map, and times in [0, 1]."""

import math

import pytest
import torch
from examples import things
from hypothesis import given
from hypothesis import strategies as st

from pushforward.errors import UserError
from pushforward.times import MODE_LIMIT, CosMap, LogitNormal, Mode, Shifted, Times, Uniform, shift

TIMES = things("times", of=Times)
MORE = [Mode(-0.9), Mode(0.0), LogitNormal(1.0, 0.3), LogitNormal(-2.0, 2.0), Shifted(CosMap(), 0.2), Shifted(Mode(0.8), 5.0)]
ALL = [*TIMES, *[pytest.param(lambda one=one: one, id=str(one)) for one in MORE]]


@pytest.mark.parametrize("make", ALL)
def test_the_density_integrates_to_one(make):
    """By t = sigmoid(s), under which all densities fall off; 4,000 points of a smooth function on [-40, 40] leave less than 1e-9."""
    s = torch.linspace(-40, 40, 4001)
    t = torch.sigmoid(s)
    slope = t * torch.sigmoid(-s)
    keep = (t > 0) & (t < 1)
    total = torch.where(keep, make().density(t.clamp(1e-18, 1 - 1e-16)) * slope, 0.0).sum() * 0.02
    torch.testing.assert_close(total, torch.ones(()), rtol=0, atol=1e-9)


@pytest.mark.parametrize("make", ALL)
def test_the_density_is_the_inverse_slope_of_the_map(make):
    times, u = make(), torch.linspace(0.001, 0.999, 1000, dtype=torch.float64, requires_grad=True)
    t = times.quantile(u)
    (slope,) = torch.autograd.grad(t.sum(), u)
    torch.testing.assert_close(times.density(t.detach()) * slope.abs(), torch.ones_like(t), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("make", ALL)
def test_the_map_is_monotone(make):
    steps = make().quantile(torch.linspace(0, 1, 10_001)).diff()
    assert (steps >= 0).all() or (steps <= 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("make", ALL)
def test_times_stay_in_the_unit_interval_at_the_ends_too(make, dtype):
    u = torch.cat((torch.linspace(0, 1, 1001), torch.tensor([1e-12, 1e-30, 2**-24, 1 - 2**-24]))).to(dtype)
    t = make().quantile(u)
    assert ((t >= 0) & (t <= 1)).all()
    assert t.dtype == dtype


@pytest.mark.parametrize("make", ALL)
def test_samples_have_the_quantiles_of_the_map(make):
    """20,000 draws, seed 0: each of 9 deciles within 5 standard errors sqrt(p (1 - p) / n) in probability, a false alarm in 190,000."""
    times, n = make(), 20_000
    drawn = times.sample(n, torch.Generator().manual_seed(0), dtype=torch.float64)
    p = torch.arange(1, 10) / 10
    t = times.quantile(p)
    below = (drawn[:, None] <= t).double().mean(0)
    expected = p if t[0] < t[-1] else 1 - p
    assert ((below - expected).abs() < 5 * (p * (1 - p) / n).sqrt()).all()


@pytest.mark.parametrize("make", TIMES)
def test_a_time_belongs_to_its_generator(make):
    together = make().sample(4, [torch.Generator().manual_seed(k) for k in (1, 2)])
    alone = make().sample(2, torch.Generator().manual_seed(2))
    assert torch.equal(together[2:], alone)


@pytest.mark.parametrize("mean", [-1e6, 0.0, 1e6])
@pytest.mark.parametrize("std", [1e-6, 1e6])
def test_logit_normal_extremes_are_finite(mean, std):
    assert LogitNormal(mean, std).quantile(torch.linspace(0.001, 0.999, 99)).isfinite().all()


def test_mode_zero_is_uniform():
    t = torch.linspace(0, 1, 11)
    torch.testing.assert_close(Mode(0.0).density(t), torch.ones(11), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("scale", [-1.0, MODE_LIMIT])
def test_mode_is_monotone_at_its_limits(scale):
    assert (Mode(scale).quantile(torch.linspace(0, 1, 10_001)).diff() <= 1e-15).all()


def test_mode_is_the_formula_of_stable_diffusion_3():
    u = torch.tensor([0.3])
    by_hand = 1 - 0.3 - 1.29 * (math.cos(math.pi * 0.3 / 2) ** 2 - 1 + 0.3)
    torch.testing.assert_close(Mode(1.29).quantile(u), torch.tensor([by_hand]), rtol=1e-14, atol=1e-14)


@given(t=st.floats(0, 1), factor=st.floats(0.01, 100))
def test_a_shift_is_undone_by_its_inverse(t, factor):
    t = torch.tensor(t, dtype=torch.float64)
    torch.testing.assert_close(shift(shift(t, factor), 1 / factor), t, rtol=1e-12, atol=1e-12)


def test_shifting_three_times_over_moves_a_half_to_three_quarters():
    assert float(Shifted(Uniform(), 3.0).quantile(torch.tensor(0.5))) == 0.75


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LogitNormal(0, 0), "std is 0"),
        (lambda: Mode(2.0), "scale is 2.0, but Mode's map is monotone only from -1 to 1.75"),
        (lambda: Mode(-1.1), "scale is -1.1"),
        (lambda: Shifted(Uniform(), 0.0), "factor is 0.0"),
        (lambda: LogitNormal(0, math.nan), "std is nan"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(UserError, match=message):
        call()
