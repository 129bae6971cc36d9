"""The data prediction stays in its range, for every sampler, path, prediction and guidance, and as in diffusers."""

import pytest
import torch
from examples import examples, generators, kinds_of, some_of, things

import pushforward as pf
from pushforward.data.mixture import three_gaussians
from pushforward.errors import UserError
from pushforward.functional.clipping import row_quantile
from pushforward.guidance import CFG, Clip, Inpaint, SkipLayers
from pushforward.paths import Cosine, Discrete, Linear, Path, Prediction
from pushforward.samplers import DDIM, DDPM, Denoiser, DPMSolverPP, Euler, Heun
from pushforward.samplers.sampler import Sampler

pytestmark = pytest.mark.usefixtures("float64")
PATHS = things("paths", of=Path)
WIDE = Clip(-1e6, 1e6)


def inside(path, kind):
    low, high = path.interval_for(kind)
    return torch.linspace(low + 0.01, high - 0.01, 5)


@pytest.mark.parametrize(("make", "kind"), kinds_of(PATHS))
@pytest.mark.parametrize("clip", [Clip(-0.5, 0.25), Clip(-0.5, 0.25, 0.6)], ids=["static", "dynamic"])
def test_data_noise_and_velocity_are_those_of_the_clipped_data(clip, make, kind):
    """x = alpha data + sigma noise still holds, in a prediction of the network's own kind."""
    path = make()
    t, x = inside(path, kind), torch.randn(5, 3)
    plain = Denoiser(lambda x, t, cond: torch.sin(9 * x), path, kind)
    found, data = clip(plain)(x, t), clip.clipped(plain(x, t).data)
    assert found.kind == kind
    assert not torch.allclose(data, plain(x, t).data)
    expected = Prediction(path, "data", data, x, t)
    for name in ("data", "noise", "velocity"):
        scale = expected.to(name).abs().max()
        torch.testing.assert_close(found.to(name) / scale, expected.to(name) / scale, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("make", "kind"), kinds_of(PATHS))
def test_what_is_in_range_keeps_its_bits_from_end_to_end(make, kind):
    path = make()
    t, x = torch.linspace(*path.interval_for(kind), 5), torch.randn(5, 3)
    plain = Denoiser(lambda x, t, cond: torch.sin(x), path, kind)
    assert torch.equal(Clip(-1e12, 1e12)(plain)(x, t).value, plain(x, t).value)


SAMPLERS = examples("samplers", of=Sampler)


@pytest.mark.parametrize(("entry", "kind"), some_of(SAMPLERS, ["velocity", "noise", "data", "v"]))
def test_samples_are_in_range_under_every_sampler_and_prediction(entry, kind):
    """Diffusion samplers end with the expected data on a discrete path, and so does the model after the others."""

    def net(x, t, cond):
        return 3 * torch.sin(5 * x)

    model = pf.families.PathModel(net, (2,), Discrete("cosine", 120), kind, sampler=entry.example())
    x = model.sample(20, guidance=Clip(-1.0, 0.5), generator=generators(20))
    assert float(x.min()) >= -1 - 1e-9
    assert float(x.max()) <= 0.5 + 1e-9
    assert float(model.sample(20, generator=generators(20)).abs().max()) > 1


@pytest.mark.parametrize("entry", [one for one in SAMPLERS if one.values[0].example().solves_ode])
def test_there_and_back_on_a_path_from_sigma_0(entry):
    """At the data, where sigma is 0, nothing is clipped, and nothing is infinite."""
    plain, x, sampler = Denoiser(three_gaussians(torch.float64).net(Linear()), Linear()), torch.randn(4, 2), entry.example()
    for ends in ((0.0, 1.0), (1.0, 0.0)):
        assert torch.equal(sampler(WIDE(plain), x, *ends), sampler(plain, x, *ends))
        assert sampler(Clip(-3.0, 3.0)(plain), x, *ends).isfinite().all()


def test_a_threshold_by_hand():
    """Imagen's: s is the quantile of |data| over the event, at least 1, and data are divided by it."""
    data = torch.tensor([[0.5, -3.0, 2.0, 1.0, 0.0], [0.5, -0.2, 0.1, 0.9, 0.0]])
    s = torch.tensor([[2.0], [1.0]])  # the 0.75 quantile of 0, 0.5, 1, 2, 3 is the fourth; that of the second row is below 1
    torch.testing.assert_close(Clip(threshold=0.75).clipped(data), data.clamp(-s, s) / s, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(Clip(0.0, 4.0, 0.75).clipped(2 + 2 * data), 2 + 2 * data.clamp(-s, s) / s, rtol=1e-12, atol=1e-12)
    rows = torch.randn(7, 33)
    for q in (0.3, 0.5, 0.995, 1.0):
        torch.testing.assert_close(row_quantile(rows, q), rows.quantile(q, dim=1), rtol=1e-12, atol=1e-12)


def net(x, t, cond, skip=()):
    return (2.0 if skip else 4.0) * torch.sin(x) * (1 + (0 if cond is None else cond[:, None]))


def test_it_comes_after_guidance():
    x, t, cond = torch.randn(6, 3), torch.full((6,), 0.6), torch.linspace(0, 1, 6)
    plain = Denoiser(net, Cosine(), "v", cond)
    for inner in (CFG(3.0, torch.zeros(6)), SkipLayers((1,), 2.0, guidance=CFG(3.0, torch.zeros(6)))):
        expected = inner(plain)(x, t).data.clamp(-0.5, 0.5)
        torch.testing.assert_close(Clip(-0.5, 0.5, guidance=inner)(plain)(x, t).data, expected, rtol=1e-9, atol=1e-9)
    clipped, skipped = Clip(-0.5, 0.5, guidance=2.0)(plain)(x, t), SkipLayers((1,), 1.0, guidance=Clip(-0.5, 0.5, guidance=2.0))(plain)
    added = plain(x, t).velocity - Denoiser(lambda x, t, c: net(x, t, c, (1,)), Cosine(), "v", cond)(x, t).velocity
    torch.testing.assert_close(skipped(x, t).velocity, clipped.velocity + added, rtol=1e-9, atol=1e-9)
    known = Inpaint(torch.zeros(6, 3), torch.ones(6, 3), torch.zeros(6, 3), guidance=Clip(-0.5, 0.5))
    torch.testing.assert_close(known(plain)(x, t).data, plain(x, t).data.clamp(-0.5, 0.5), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "sampler", [Euler(5), DPMSolverPP(5), DDIM(5, 0.5), pf.samplers.Dopri5(1e-7, 1e-7)], ids=lambda one: type(one).__name__
)
def test_a_sample_does_not_depend_on_its_batch(sampler):
    model = pf.families.PathModel(pf.nn.MLP(2, 2, (8,), time_features=4, classes=3), (2,), classes=3, drop_cond=0.1)
    cond, guidance = torch.tensor([0, 1, 2]), Clip(-0.5, 0.5, 0.9, 3.0)
    together = model.sample(3, cond, sampler=sampler, guidance=guidance, generator=generators(3))
    alone = [model.sample(1, cond[k : k + 1], sampler=sampler, guidance=guidance, generator=generators(3)[k : k + 1]) for k in range(3)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-6, atol=1e-6)


def test_a_predicted_variance_passes_through():
    def twice(x, t, cond):
        return torch.cat((torch.sin(x), torch.cos(x)), 1)

    path, x = Discrete("cosine", 30), torch.randn(4, 2)
    own = pf.nn.WithVariance(pf.nn.MLP(2, 4, (8,), time_features=4))
    plain = Denoiser(own, path, "noise")
    for inner in (plain, WIDE(plain)):
        assert inner.with_variance(x, torch.full((4,), 0.5)).share is not None
    sampled = [DDPM(10)(one, x, 1.0, 0.0, generators(4)) for one in (plain, WIDE(plain))]
    assert torch.equal(*sampled)
    assert not torch.equal(DDPM(10, variance="small")(plain, x, 1.0, 0.0, generators(4)), sampled[0])


@pytest.mark.parametrize("clip", [Clip(), Clip(threshold=0.9)])
def test_the_likelihood_of_a_clipped_model_is_that_of_its_ode(clip):
    """Its divergence by vectorised forward mode is that of autograd's Jacobian of the clipped velocity."""
    net = pf.nn.MLP(3, 3, (8,), time_features=4)
    model = pf.families.PathModel(lambda x, t, cond: 3 * net(x, t), (3,), prediction="data", interval=(0.2, 1.0), sampler=Heun(50))
    z = 3 * torch.randn(2, 3)
    x, log_prob = model.sample(2, guidance=clip, log_prob=True, generator=generators(2))
    z = model.base.sample(2, generator=generators(2))
    torch.testing.assert_close(model.decode(z, guidance=clip), x, rtol=1e-9, atol=1e-9)
    jacobian = torch.stack([torch.autograd.functional.jacobian(lambda row: model.decode(row[None], guidance=clip)[0], row) for row in z])
    torch.testing.assert_close(log_prob, model.base.log_prob(z) - jacobian.det().abs().log(), rtol=0, atol=0.02)  # of 50 steps


def test_clipping_under_autocast_is_in_the_states_dtype():
    model = pf.families.PathModel(pf.nn.MLP(2, 2, (8,), time_features=4).float(), (2,), Cosine(), "v").float()
    with torch.autocast("cpu", torch.bfloat16):
        assert model.sample(3, sampler=DDIM(4), guidance=Clip(threshold=0.9)).dtype == torch.float32


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Clip(1.0, -1.0), "low is 1.0 and high -1.0, but a range has low below high"),
        (lambda: Clip(threshold=99.5), "threshold is 99.5, but it is a quantile above 0 and at most 1"),
        (lambda: Clip("a", 1.0), "low is 'a', but it must be a finite number in Clip"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(UserError, match=message):
        call()
