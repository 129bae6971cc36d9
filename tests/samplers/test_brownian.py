"""Brownian noise as a function of seed and time: the law of its increments, and a sampler that follows one path at any number of steps."""

import math

import pytest
import torch
from examples import generators

from pushforward.data.mixture import three_gaussians
from pushforward.paths import Cosine
from pushforward.samplers.brownian import BrownianPath
from pushforward.samplers.ddim import DDIM
from pushforward.samplers.ddpm import DDPM
from pushforward.samplers.denoiser import Denoiser
from pushforward.samplers.dpm_solver import DPMSolverPP
from pushforward.samplers.euler_maruyama import EulerMaruyama

pytestmark = pytest.mark.usefixtures("float64")


def path(n=3, seed=0):
    return BrownianPath(torch.zeros(n, 2), generators(n, seed))


def test_it_is_a_function_of_seed_and_time():
    times = [0.9, 0.7, 0.6999, 0.31, 0.001, 0.5, 1.0, 0.0]
    one, other = path(), path()
    values = {t: one(t) for t in times}
    for t in sorted(times):  # asked in another order, with others in between
        other(t / 3)
        assert torch.equal(other(t), values[t])
    assert not torch.equal(path(seed=1)(0.7), values[0.7])


def test_increments_are_normal_with_the_variance_of_their_length():
    """20,000 paths, seed 0: each variance and covariance within 5 standard errors, sqrt(2 / n) = 0.01 of it and 0.007."""
    n, times = 20_000, [0.0, 0.1, 0.35, 0.3501, 0.75, 0.9]
    whole = BrownianPath(torch.zeros(n, 1), torch.Generator().manual_seed(0))
    values = torch.cat([whole(t) for t in times], dim=1)
    lengths = torch.tensor(times).diff()
    scaled = values.diff(dim=1) / lengths.sqrt()
    covariance = scaled.T @ scaled / n
    assert ((covariance - torch.eye(5)).abs() < 5 * (0.007 + 0.003 * torch.eye(5))).all()
    assert (scaled.mean(0).abs() < 5 / math.sqrt(n)).all()
    assert float(scaled.abs().quantile(0.5)) == pytest.approx(0.6745, abs=0.02)


def test_it_is_continuous():
    smooth = path()
    steps = [(smooth(0.4 + 1e-7 * k) - smooth(0.4 + 1e-7 * (k + 1))).abs().max() for k in range(50)]
    assert max(steps) < 0.01  # cells of 1e-6 have deviation 0.001


def test_a_row_belongs_to_its_generator():
    assert torch.equal(path(3)(0.37)[1:2], BrownianPath(torch.zeros(1, 2), generators(3)[1:2])(0.37))


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda steps: EulerMaruyama(steps, noise="brownian"), marks=pytest.mark.slow),
        lambda steps: DDPM(steps, "brownian"),
        pytest.param(lambda steps: DDIM(steps, 0.6, "brownian"), marks=pytest.mark.slow),
        lambda steps: DPMSolverPP(steps, "SDE-2M", "brownian"),
    ],
)
def test_more_steps_follow_the_same_path(make):
    """Fresh noise would differ by the data's spread, 1 or so; along one Brownian path results converge as steps are doubled."""
    cosine = Cosine()
    denoiser = Denoiser(three_gaussians(torch.float64).net(cosine), cosine)
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(3))
    few, more, most = (make(steps)(denoiser, x, 0.9, 0.1, generators(5)) for steps in (50, 100, 200))
    if make(1) == DDIM(1, 0.6, "brownian"):  # kappa shrinks with the steps: below eta = 1 the limit is the ODE, not an SDE
        assert (more - most).square().mean() < (few - most).square().mean()
        return
    assert (few - most).square().mean().sqrt() < 0.15
    assert (more - most).square().mean() < 0.6 * (few - most).square().mean()


def test_without_generators_paths_differ():
    assert not torch.equal(BrownianPath(torch.zeros(2, 2), None)(0.5), BrownianPath(torch.zeros(2, 2), None)(0.5))
