"""The orders of all variants, not only of those the registry's examples have, and what a sampler is a case of."""

import functools
import math

import pytest
import torch
from examples import TIGHT, some_of, things

from pushforward.data.mixture import GaussianMixture, three_gaussians
from pushforward.paths import Linear, Path, VariancePreserving
from pushforward.samplers.ddim import DDIM
from pushforward.samplers.ddpm import DDPM
from pushforward.samplers.denoiser import Denoiser
from pushforward.samplers.dopri5 import Dopri5
from pushforward.samplers.dpm_solver import DPMSolverPP
from pushforward.samplers.edm import EDM
from pushforward.samplers.euler import Euler
from pushforward.samplers.euler_maruyama import EulerMaruyama
from pushforward.samplers.grids import LogSNR, Uniform
from pushforward.samplers.heun import Heun
from pushforward.samplers.orders import orders
from pushforward.samplers.unipc import UniPC

pytestmark = pytest.mark.usefixtures("float64")
PATHS = things("paths", of=Path)


def middle(path):
    return path.time(torch.tensor([-1.5, 1.5])).tolist()


def exact(path):
    return Denoiser(three_gaussians(torch.float64).net(path), path)


@functools.cache
def solved(make):
    """Return a path, where five points of noise start and end in its middle, and between which times: once for all samplers."""
    path = make()
    ends = middle(path)
    x = (float(path.sigma(torch.tensor(ends[0]))) + 1) * torch.randn(5, 2, generator=torch.Generator().manual_seed(1))
    return path, x, TIGHT(exact(path), x, *ends), ends


VARIANTS = [
    pytest.param(lambda steps: DPMSolverPP(steps, "1S"), 1, 100, id="1S"),
    pytest.param(lambda steps: DPMSolverPP(steps, "2S"), 2, 50, id="2S"),
    pytest.param(lambda steps: DPMSolverPP(steps, "2M"), 2, 100, id="2M"),
    pytest.param(lambda steps: DPMSolverPP(steps, "3M"), 3, 100, id="3M"),
    pytest.param(lambda steps: DPMSolverPP(steps, "2S", solver_type="heun"), 2, 50, id="2S-heun"),
    pytest.param(lambda steps: DPMSolverPP(steps, "2M", solver_type="heun"), 2, 100, id="2M-heun"),
    pytest.param(lambda steps: UniPC(steps, 1), 2, 50, id="UniPC-1"),
    pytest.param(lambda steps: UniPC(steps, 2, solver_type="bh1"), 3, 100, id="UniPC-bh1"),
    pytest.param(lambda steps: UniPC(steps, 3), 3, 100, id="UniPC-3"),
    pytest.param(lambda steps: DDIM(steps, grid=LogSNR()), 1, 100, id="DDIM-LogSNR"),
    pytest.param(lambda steps: EDM(steps, grid=Uniform()), 2, 400, id="EDM-Uniform"),
]


@pytest.mark.parametrize(("sampler", "order", "steps", "make"), some_of(VARIANTS, PATHS))
def test_a_variant_converges_at_its_order(sampler, order, steps, make):
    path, x, truth, ends = solved(make)
    errors = [(sampler(k)(exact(path), x, *ends) - truth).abs().max() for k in (steps, 2 * steps)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize(
    "make",
    [
        lambda n, lower: DPMSolverPP(n, "2M", grid=Uniform(), lower_order_final=lower),
        pytest.param(lambda n, lower: UniPC(n, 2, Uniform(), lower), marks=pytest.mark.slow),
        lambda n, lower: UniPC(n, 3, Uniform(), lower),
    ],
)
def test_in_few_steps_a_last_step_of_first_order_errs_least(make):
    """4 to 6 steps along a variance preserving path: without it the error is at least three times as large."""
    path = VariancePreserving()
    x = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    truth = Dopri5(1e-8, 1e-8)(exact(path), x, 1.0, 1e-4)
    for n in (4, 5, 6):
        lowered, not_lowered = (
            float((make(n, lower)(exact(path), x, 1.0, 1e-4) - truth).square().mean().sqrt()) for lower in (True, False)
        )
        assert 3 * lowered < not_lowered
    assert torch.equal(*(make(15, lower)(exact(path), x, 1.0, 1e-4) for lower in (True, False)))


def test_the_orders_of_steps():
    assert orders(3, 6, 0, True) == [1, 2, 3, 3, 2, 1]
    assert orders(3, 6, 1, True) == [1, 2, 3, 3, 3, 2]  # one more step, of first order, follows
    assert orders(2, 3, 1, False) == [1, 2, 2]


@pytest.mark.parametrize("variant", ["1S", "2S", "2M", "3M", "SDE-2M"])
def test_evaluations_are_those_that_are_made(variant):
    calls = []

    def net(x, t, cond):
        calls.append(1)
        return x

    sampler = DPMSolverPP(7, variant)
    sampler(Denoiser(net, Linear()), torch.ones(2, 1), 1.0, 0.0)
    assert len(calls) == sampler.evaluations


def test_on_the_linear_path_ddim_is_euler():
    x = torch.randn(5, 2)
    torch.testing.assert_close(DDIM(10)(exact(Linear()), x, 1.0, 0.0), Euler(10)(exact(Linear()), x, 1.0, 0.0), rtol=1e-12, atol=1e-12)


def test_ddim_with_eta_one_is_ddpm():
    x = torch.randn(5, 2)
    one, two = (sampler(exact(Linear()), x, 1.0, 0.0, torch.Generator().manual_seed(0)) for sampler in (DDIM(10, 1.0), DDPM(10)))
    assert torch.equal(one, two)


def test_without_noise_euler_maruyama_is_euler():
    x, path = torch.randn(5, 2), VariancePreserving()
    torch.testing.assert_close(
        EulerMaruyama(10, 0.0)(exact(path), x, 1.0, 0.1), Euler(10)(exact(path), x, 1.0, 0.1), rtol=1e-12, atol=1e-12
    )


def test_the_own_rate_of_a_variance_preserving_path_is_beta():
    """Song et al.'s reverse SDE: the first step's noise is sqrt(beta(1) h) and its drift -beta x / 2 - beta score."""
    path, x, h = VariancePreserving(), torch.randn(5, 2), 0.001
    noise = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    score = exact(path)(x, torch.ones(5)).score
    by_hand = x + h * (10 * x + 20 * score) + math.sqrt(20 * h) * noise
    sampled = EulerMaruyama(1)(exact(path), x, 1.0, 1 - h, torch.Generator().manual_seed(0))
    torch.testing.assert_close(sampled, by_hand, rtol=1e-9, atol=1e-9)


def test_edm_without_churn_is_heun_in_sigma():
    """Along sigma = t, alpha = 1 the two are one method."""

    class Straight(Path):
        interval = (0.01, 1.0)
        alpha = staticmethod(torch.ones_like)
        sigma = staticmethod(lambda t: t)
        alpha_dot = staticmethod(torch.zeros_like)
        sigma_dot = staticmethod(torch.ones_like)

    x = torch.randn(5, 2)
    ours = EDM(10, grid=Uniform())(exact(Straight()), x, 1.0, 0.01)
    torch.testing.assert_close(ours, Heun(10)(exact(Straight()), x, 1.0, 0.01), rtol=1e-12, atol=1e-12)


def test_a_point_needs_one_step():
    """Data and noise are what they are said to be all the way: any sampler that keeps them is exact from any number of steps."""
    point = GaussianMixture(torch.tensor([[1.0, -2.0]]), 1e-9)
    x = torch.randn(3, 2)
    for path in (Linear(), VariancePreserving()):
        denoiser = Denoiser(point.net(path), path)
        alpha, sigma = path.alpha(torch.tensor(0.1)), path.sigma(torch.tensor(0.1))
        start = path.alpha(torch.tensor(0.9)) * point.means + path.sigma(torch.tensor(0.9)) * x
        for sampler in (DDIM(1), DPMSolverPP(3, "3M"), DPMSolverPP(2, "2S"), UniPC(4), EDM(2)):
            arrived = sampler(denoiser, start, 0.9, 0.1)
            torch.testing.assert_close(arrived, alpha * point.means + sigma * x, rtol=1e-6, atol=1e-6)
