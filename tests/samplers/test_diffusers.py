"""`Knots` visits the timesteps of diffusers' schedulers, and samples are theirs, on the same network and noise, in float64.

What corresponds: trained_betas are the path's, clip_sample=False (True: `Clip`), set_alpha_to_one=True (DDIM, their default),
final_sigmas_type="zero", lower_order_final=True (the default of both); steps_offset is Knots' offset, timestep_spacing its spacing.
DDIMScheduler goes to index k - T // N, which is the next one that it visits only where N divides T and spacing is not "linspace"; otherwise
its values are those of no grid, and DDIM is compared with EulerDiscreteScheduler, which is DDIM in sigma / alpha (at timesteps that it does
not round: N - 1 divides T - 1).
"""

import warnings

import numpy
import pytest
import torch
from packages import package

import pushforward as pf
from pushforward.data.mixture import three_gaussians
from pushforward.guidance.clip import Clip
from pushforward.paths.discrete import Discrete, _betas
from pushforward.samplers.ddim import DDIM
from pushforward.samplers.ddpm import DDPM
from pushforward.samplers.denoiser import Denoiser
from pushforward.samplers.dpm_solver import DPMSolverPP
from pushforward.samplers.edm import EDM
from pushforward.samplers.knots import Knots
from pushforward.samplers.times import Times
from pushforward.samplers.unipc import UniPC

diffusers = package("diffusers")
pytestmark = pytest.mark.usefixtures("float64")
BETAS = {"linear": "linear", "cosine": "squaredcos_cap_v2", "sigmoid": "sigmoid"}  # our names of schedules and theirs
PREDICTIONS = {"noise": "epsilon", "data": "sample", "v": "v_prediction"}
SPACINGS = ("trailing", "leading", "linspace")


class Given(torch.nn.Module):
    """A base whose samples are known."""

    def __init__(self, x):
        super().__init__()
        self.x = x

    def sample(self, n, generator=None):
        return self.x

    def log_prob(self, z):
        raise NotImplementedError


def theirs(scheduler, count, net, x):
    """Return what a scheduler makes of x in `count` steps, and the times at which it calls the network: index k is t = (k + 1) / 1000."""
    # Its tables are float32; from the betas in float64 they are exact.
    scheduler.alphas_cumprod = torch.cumprod(1 - scheduler.betas.double(), 0)
    scheduler.set_timesteps(count)
    by_sigma = isinstance(scheduler, diffusers.EulerDiscreteScheduler | diffusers.HeunDiscreteScheduler)  # of x / alpha
    kept = scheduler.alphas_cumprod[scheduler.timesteps.long()]
    alphas, sigmas = kept.sqrt(), ((1 - kept) / kept).sqrt()
    if hasattr(scheduler, "sigmas"):
        table = sigmas
        if isinstance(scheduler, diffusers.HeunDiscreteScheduler):  # each but the first twice
            table = torch.cat((sigmas[:1], sigmas[1::2].repeat_interleave(2)))
        last = (1 / scheduler.alphas_cumprod[:1] - 1).sqrt() if scheduler.config.get("final_sigmas_type") == "sigma_min" else torch.zeros(1)
        scheduler.sigmas = torch.cat((table, last))
    generator = torch.Generator().manual_seed(0)
    draws = isinstance(scheduler, diffusers.DDPMScheduler | diffusers.DDIMScheduler | diffusers.DPMSolverMultistepScheduler)
    options = {"generator": generator} if draws else {}
    if isinstance(scheduler, diffusers.DDIMScheduler):
        options["eta"] = scheduler.eta
        options["use_clipped_model_output"] = True
    times = [(int(k) + 1) / 1000 for k in scheduler.timesteps]
    x = x / alphas[0] if by_sigma else x
    for k, t, alpha in zip(scheduler.timesteps, times, alphas, strict=True):
        value = net(x * alpha if by_sigma else x, torch.full((len(x),), t))
        x = scheduler.step(value, k, x, return_dict=False, **options)[0]
    return x, times


def ours(sampler, path, kind, net, x, guidance=None):
    """Return what a model samples and the times at which it calls its network."""
    times = []

    def call(x, t, cond):
        times.append(float(t[0]))
        return net(x, t)

    model = pf.families.PathModel(call, tuple(x.shape[1:]), path, kind, base=Given(x), sampler=sampler)
    return model.sample(len(x), guidance=guidance, generator=torch.Generator().manual_seed(0)), times


def ddim(eta, clip_sample=False, **options):
    scheduler = diffusers.DDIMScheduler(clip_sample=clip_sample, **options)
    scheduler.eta = eta
    return scheduler


def multistep(kind="dpmsolver++", order=2, **options):
    return diffusers.DPMSolverMultistepScheduler(algorithm_type=kind, solver_order=order, final_sigmas_type="zero", **options)


def single(solver_type="midpoint", **options):
    del options["timestep_spacing"]  # it has "linspace" alone
    return diffusers.DPMSolverSinglestepScheduler(lower_order_final=True, final_sigmas_type="zero", solver_type=solver_type, **options)


def unipc(**options):
    return diffusers.UniPCMultistepScheduler(final_sigmas_type="zero", **options)


SCHEDULERS = {  # theirs, ours, spacings, numbers of steps
    "DDIM": (lambda **o: ddim(0.0, **o), lambda n, grid: DDIM(n, grid=grid), SPACINGS[:2], (1, 4, 20)),
    "DDIM-0.5": (lambda **o: ddim(0.5, **o), lambda n, grid: DDIM(n, 0.5, grid=grid), SPACINGS[:2], (1, 4, 20)),
    "DDIM-sigma": (lambda **o: diffusers.EulerDiscreteScheduler(**o), lambda n, grid: DDIM(n, grid=grid), SPACINGS, (4, 10)),
    "DDPM": (lambda **o: diffusers.DDPMScheduler(clip_sample=False, **o), lambda n, grid: DDPM(n, grid=grid), SPACINGS, (1, 3, 20)),
    "1S": (lambda **o: multistep(order=1, **o), lambda n, grid: DPMSolverPP(n, "1S", grid=grid), SPACINGS, (1, 7)),
    "2M": (multistep, lambda n, grid: DPMSolverPP(n, grid=grid), SPACINGS, (1, 2, 7, 20)),
    "SDE-2M": (
        lambda **o: multistep("sde-dpmsolver++", **o),
        lambda n, grid: DPMSolverPP(n, "SDE-2M", grid=grid),
        SPACINGS,
        (1, 2, 7, 20),
    ),
    "2S": (single, lambda n, grid: DPMSolverPP(n, "2S", grid=grid), ("linspace",), (2, 7, 20)),
    "2M-heun": (
        lambda **o: multistep(solver_type="heun", **o),
        lambda n, grid: DPMSolverPP(n, grid=grid, solver_type="heun"),
        SPACINGS[:1],
        (5, 20),
    ),
    "SDE-2M-heun": (
        lambda **o: multistep("sde-dpmsolver++", solver_type="heun", **o),
        lambda n, grid: DPMSolverPP(n, "SDE-2M", grid=grid, solver_type="heun"),
        SPACINGS[:1],
        (5, 20),
    ),
    "2S-heun": (
        lambda **o: single("heun", **o),
        lambda n, grid: DPMSolverPP(n, "2S", grid=grid, solver_type="heun"),
        ("linspace",),
        (7,),
    ),
    "UniPC": (unipc, lambda n, grid: UniPC(n, grid=grid), SPACINGS, (1, 2, 7, 20)),
    "UniPC-3": (lambda **o: unipc(solver_order=3, **o), lambda n, grid: UniPC(n, 3, grid=grid), SPACINGS, (2, 5, 20)),
    "EDM": (lambda **o: diffusers.HeunDiscreteScheduler(**o), lambda n, grid: EDM(n, grid=grid), SPACINGS, (1, 4, 10)),
}
CASES = [(name, spacing, steps) for name, (*_, spacings, counts) in SCHEDULERS.items() for spacing in spacings for steps in counts]


def compare(name, spacing, steps, schedule="linear", kind="noise", offset=0):
    make_theirs, make_ours, *_ = SCHEDULERS[name]
    options = {"timestep_spacing": spacing, "prediction_type": PREDICTIONS[kind]} | ({"steps_offset": offset} if offset else {})
    scheduler = make_theirs(trained_betas=_betas(schedule, 1000), **options)
    path = Discrete(tuple(scheduler.betas.double().tolist()))  # its betas are float32, so ours are taken from it
    net, x = three_gaussians(torch.float64).net(path, kind), torch.randn(6, 2, generator=torch.Generator().manual_seed(5))
    expected, visited = theirs(scheduler, steps, net, x)
    found, times = ours(make_ours(steps, Knots(spacing, offset)), path, kind, net, x)
    assert times == pytest.approx(visited, abs=1e-12)
    assert len(times) == (2 * steps - 1 if name == "EDM" else steps)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("name", "spacing", "steps"), CASES)
def test_samples_are_those_of_diffusers(name, spacing, steps):
    compare(name, spacing, steps)


TO_THE_FIRST_KNOT = {  # final_sigmas_type="sigma_min", where the last step can have any order, and UniPC's bh1 is not NaN as at sigma = 0
    "2M": ("DPMSolverMultistepScheduler", {}, lambda n, o: DPMSolverPP(n, **o)),
    "2M-heun": ("DPMSolverMultistepScheduler", {"solver_type": "heun"}, lambda n, o: DPMSolverPP(n, **o)),
    "SDE-2M": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}, lambda n, o: DPMSolverPP(n, "SDE-2M", **o)),
    **{
        f"UniPC-{order}-{kind}": (
            "UniPCMultistepScheduler",
            {"solver_order": order, "solver_type": kind},
            lambda n, o, order=order: UniPC(n, order, **o),
        )
        for order in (1, 2, 3)
        for kind in ("bh1", "bh2")
    },
}


@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("steps", [1, 5, 20])
@pytest.mark.parametrize("name", TO_THE_FIRST_KNOT)
def test_the_last_steps_have_the_order_that_they_have_in_diffusers(name, steps, lower):
    """UniPCMultistepScheduler lowers the last orders in any number of steps, ours in fewer than 15: 20 are compared without."""
    kind, options, make = TO_THE_FIRST_KNOT[name]
    if kind == "UniPCMultistepScheduler" and steps == 20:
        lower = False
    scheduler = getattr(diffusers, kind)(
        trained_betas=_betas("linear", 1000),
        timestep_spacing="linspace",
        final_sigmas_type="sigma_min",
        lower_order_final=lower,
        **options,
    )
    path = Discrete(tuple(scheduler.betas.double().tolist()))
    net, x = three_gaussians(torch.float64).net(path, "noise"), torch.randn(6, 2, generator=torch.Generator().manual_seed(5))
    expected, visited = theirs(scheduler, steps, net, x)
    own = {"grid": Times(visited), "lower_order_final": lower, **{k: v for k, v in options.items() if k == "solver_type"}}
    found = make(steps, own)(Denoiser(lambda x, t, cond: net(x, t), path, "noise"), x, 1.0, 0.001, torch.Generator().manual_seed(0))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["v", "data"])
@pytest.mark.parametrize("schedule", BETAS)
@pytest.mark.parametrize("name", ["DDIM", "DDIM-0.5", "DDPM"])
def test_samples_from_zero_terminal_snr_are_those_of_diffusers(name, schedule, kind):
    """Theirs of DPM-Solver++ and UniPC do not start from alpha = 0 but from 2^-12."""
    from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr

    make_theirs, make_ours, *_ = SCHEDULERS[name]
    scheduler = make_theirs(timestep_spacing="trailing", prediction_type=PREDICTIONS[kind])
    scheduler.betas = rescale_zero_terminal_snr(torch.from_numpy(_betas(schedule, 1000)))
    path = Discrete(schedule, zero_terminal_snr=True)
    net, x = three_gaussians(torch.float64).net(path, kind), torch.randn(6, 2, generator=torch.Generator().manual_seed(5))
    expected, visited = theirs(scheduler, 10, net, x)
    found, times = ours(make_ours(10, Knots()), path, kind, net, x)
    assert times == pytest.approx(visited, abs=1e-12)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


STATIC = {"clip_sample": True, "clip_sample_range": 0.8}
DYNAMIC = {"thresholding": True, "dynamic_thresholding_ratio": 0.7, "sample_max_value": 1e9}
CLIPPED = {
    "DDIM": (lambda **o: ddim(0.0, **o), lambda n, grid: DDIM(n, grid=grid)),
    "DDIM-0.5": (lambda **o: ddim(0.5, **o), lambda n, grid: DDIM(n, 0.5, grid=grid)),
    "DDPM": (lambda **o: diffusers.DDPMScheduler(**o), lambda n, grid: DDPM(n, grid=grid)),
    "2M": (multistep, lambda n, grid: DPMSolverPP(n, grid=grid)),
    "UniPC": (unipc, lambda n, grid: UniPC(n, grid=grid)),
}


@pytest.mark.parametrize("kind", PREDICTIONS)
@pytest.mark.parametrize(
    ("name", "options", "clip"),
    [
        *[(name, STATIC, Clip(-0.8, 0.8)) for name in ("DDIM", "DDIM-0.5", "DDPM")],
        *[(name, DYNAMIC | ({"clip_sample": False} if name.startswith("DD") else {}), Clip(threshold=0.7)) for name in CLIPPED],
    ],
)
def test_clipped_data_are_those_of_diffusers(name, options, clip, kind):
    make_theirs, make_ours = CLIPPED[name]
    scheduler = make_theirs(trained_betas=_betas("linear", 1000), timestep_spacing="trailing", prediction_type=PREDICTIONS[kind], **options)
    path = Discrete(tuple(scheduler.betas.double().tolist()))
    exact, x = three_gaussians(torch.float64).net(path, kind), torch.randn(6, 1, 2, generator=torch.Generator().manual_seed(5))

    def net(x, t):  # their thresholding needs images
        return exact(x[:, 0], t)[:, None]

    expected, _ = theirs(scheduler, 10, net, x)
    plain, _ = ours(make_ours(10, Knots()), path, kind, net, x)
    found, _ = ours(make_ours(10, Knots()), path, kind, net, x, clip)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    assert (found - plain).abs().max() > 0.1


def test_given_times_are_the_timesteps_of_diffusers():
    """A list of our own, as `set_timesteps(timesteps=...)` takes it; the first is not t = 1, and the noise is used as x there."""
    chosen = [950, 700, 650, 200, 20]
    scheduler = multistep(trained_betas=_betas("linear", 1000))
    path = Discrete(tuple(scheduler.betas.double().tolist()))
    net, x = three_gaussians(torch.float64).net(path, "noise"), torch.randn(6, 2, generator=torch.Generator().manual_seed(5))
    given, scheduler.set_timesteps = scheduler.set_timesteps, lambda count: given(timesteps=chosen)
    expected, visited = theirs(scheduler, 5, net, x)
    assert visited == [(k + 1) / 1000 for k in chosen]
    found, times = ours(DPMSolverPP(5, grid=Times(visited)), path, "noise", net, x)
    assert times == pytest.approx(visited, abs=1e-12)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", PREDICTIONS)
@pytest.mark.parametrize("schedule", BETAS)
@pytest.mark.parametrize("name", ["DDIM", "DDPM", "2M", "SDE-2M", "UniPC"])
def test_samples_are_those_of_diffusers_on_every_schedule(name, schedule, kind):
    compare(name, "trailing", 20, schedule, kind)


@pytest.mark.parametrize("name", ["DDIM", "2M", "UniPC"])
def test_the_offset_is_steps_offset(name):
    compare(name, "leading", 20, offset=1)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("spare", [0, 1])
def test_the_knots_are_the_timesteps_of_diffusers_at_every_number_of_steps(spacing, spare):
    make = diffusers.UniPCMultistepScheduler if spare else diffusers.DDIMScheduler
    scheduler, path = make(timestep_spacing=spacing), Discrete()
    for steps in (*range(1, 1000, 17), 333, 500, 999, *([] if spare else [1000])):  # at 1,000 theirs visits one twice
        scheduler.set_timesteps(steps)
        expected = scheduler.timesteps.numpy()[:steps]  # rounding of "trailing" may add a last one, -1, as of 103
        assert numpy.allclose(Knots(spacing).visited(path, steps, spare), (expected + 1) / 1000, rtol=0, atol=1e-12), steps


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("make", [lambda n, g: DDIM(n, grid=g), lambda n, g: DPMSolverPP(n, grid=g), lambda n, g: UniPC(n, grid=g)])
def test_samples_in_float32_are_those_of_float64(make, spacing):
    """To 1e-5: at t = 1 rounding is divided by alpha, 0.006, so that a network of noise would leave 1e-5 itself."""
    path, x = Discrete(), torch.randn(6, 2, generator=torch.Generator().manual_seed(5))
    made = [
        make(10, Knots(spacing))(Denoiser(three_gaussians(dtype).net(path, "data"), path, "data"), x.to(dtype), 1.0, 0.0)
        for dtype in (torch.float64, torch.float32)
    ]
    torch.testing.assert_close(made[1].double(), made[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("schedule", BETAS)
def test_betas_are_those_of_diffusers(schedule):
    """In float32, as theirs are; the cosine's last ones before the cut at 0.999 lose three digits there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = diffusers.DDPMScheduler(beta_schedule=BETAS[schedule]).betas
    torch.testing.assert_close(torch.from_numpy(_betas(schedule, 1000)), expected.double(), rtol=1e-4, atol=1e-7)
