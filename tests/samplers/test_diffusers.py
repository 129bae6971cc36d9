"""The same values as the schedulers of diffusers, on the same network, times and noise, in float64."""

import pytest
import torch

from pushforward.data.mixture import three_gaussians
from pushforward.discrete import Discrete, _betas
from pushforward.samplers.ddim import DDIM
from pushforward.samplers.ddpm import DDPM
from pushforward.samplers.denoiser import Denoiser
from pushforward.samplers.dpm_solver import DPMSolverPP
from pushforward.samplers.grids import Grid
from pushforward.samplers.unipc import UniPC

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.usefixtures("float64")
BETAS = {"linear": "linear", "cosine": "squaredcos_cap_v2", "sigmoid": "sigmoid"}  # our names of schedules and theirs
PREDICTIONS = {"noise": "epsilon", "data": "sample"}


class Given(Grid):
    """The times of a scheduler's steps."""

    def __init__(self, times):
        self.times = times

    def __call__(self, t_start, t_end, steps, path=None):
        return self.times


def theirs(scheduler, count, net, x):
    """Return what a scheduler makes of x in `count` steps, and the times it took as ours: index k is t = (k + 1) / 1000."""
    # Its tables are float32; from the betas in float64 they are exact.
    scheduler.alphas_cumprod = torch.cumprod(1 - scheduler.betas.double(), 0)
    if hasattr(scheduler, "alpha_t"):
        scheduler.alpha_t, scheduler.sigma_t = scheduler.alphas_cumprod.sqrt(), (1 - scheduler.alphas_cumprod).sqrt()
        scheduler.lambda_t = scheduler.alpha_t.log() - scheduler.sigma_t.log()
    scheduler.set_timesteps(count)
    if hasattr(scheduler, "sigmas"):
        kept = scheduler.alphas_cumprod[scheduler.timesteps]
        scheduler.sigmas = torch.cat((((1 - kept) / kept).sqrt(), torch.zeros(1)))
    generator = torch.Generator().manual_seed(0)
    takes_generator = isinstance(scheduler, diffusers.DDPMScheduler | diffusers.DDIMScheduler | diffusers.DPMSolverMultistepScheduler)
    options = {"generator": generator} if takes_generator else {}
    times = [(int(k) + 1) / 1000 for k in scheduler.timesteps]
    if isinstance(scheduler, diffusers.DDIMScheduler):
        options["eta"] = scheduler.eta
    for k, t in zip(scheduler.timesteps, times, strict=True):
        x = scheduler.step(net(x, torch.full((len(x),), t)), k, x, return_dict=False, **options)[0]
    return x, times


def ours(sampler, path, kind, net, x, times):
    """Steps from knot to knot, then the data prediction, as `PathModel.sample` ends."""
    denoiser = Denoiser(lambda x, t, cond: net(x, t), path, kind)
    x = sampler(denoiser, x, times[0], times[-1], torch.Generator().manual_seed(0))
    return denoiser(x, torch.full((len(x),), times[-1])).data


def ddim(eta, **options):
    scheduler = diffusers.DDIMScheduler(clip_sample=False, timestep_spacing="trailing", **options)
    scheduler.eta = eta
    return scheduler


SCHEDULERS = {
    "DDIM": (lambda **o: ddim(0.0, **o), lambda n, grid: DDIM(n, grid=grid)),
    "DDIM-0.5": (lambda **o: ddim(0.5, **o), lambda n, grid: DDIM(n, 0.5, grid=grid)),
    "DDPM": (
        lambda **o: diffusers.DDPMScheduler(clip_sample=False, timestep_spacing="trailing", **o),
        lambda n, grid: DDPM(n, grid=grid),
    ),
    "2M": (
        lambda **o: diffusers.DPMSolverMultistepScheduler(final_sigmas_type="zero", timestep_spacing="trailing", **o),
        lambda n, grid: DPMSolverPP(n, grid=grid),
    ),
    "SDE-2M": (
        lambda **o: diffusers.DPMSolverMultistepScheduler(
            algorithm_type="sde-dpmsolver++", final_sigmas_type="zero", timestep_spacing="trailing", **o
        ),
        lambda n, grid: DPMSolverPP(n, "SDE-2M", grid=grid),
    ),
    "UniPC": (
        lambda **o: diffusers.UniPCMultistepScheduler(final_sigmas_type="zero", timestep_spacing="trailing", **o),
        lambda n, grid: UniPC(n, grid=grid),
    ),
}


@pytest.mark.parametrize("kind", PREDICTIONS)
@pytest.mark.parametrize("schedule", BETAS)
@pytest.mark.parametrize("name", SCHEDULERS)
def test_values_are_those_of_diffusers(name, schedule, kind):
    """To 1e-6; a scheduler's betas are float32, so ours are taken from it."""
    make_theirs, make_ours = SCHEDULERS[name]
    scheduler = make_theirs(trained_betas=_betas(schedule, 1000), prediction_type=PREDICTIONS[kind])
    path = Discrete(tuple(scheduler.betas.double().tolist()))
    net, x = three_gaussians(torch.float64).net(path, kind), torch.randn(6, 2, generator=torch.Generator().manual_seed(5))
    expected, times = theirs(scheduler, 20, net, x)
    found = ours(make_ours(len(times) - 1, Given(times)), path, kind, net, x, times)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("schedule", BETAS)
def test_betas_are_those_of_diffusers(schedule):
    """In float32, as theirs are; the cosine's last ones before the cut at 0.999 lose three digits there."""
    expected = diffusers.DDPMScheduler(beta_schedule=BETAS[schedule]).betas
    torch.testing.assert_close(torch.from_numpy(_betas(schedule, 1000)), expected.double(), rtol=1e-4, atol=1e-7)
