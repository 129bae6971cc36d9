"""Guidance by name: what each is in its limits, by hand, and with every sampler, path and prediction."""

import dataclasses
import itertools

import pytest
import torch
from examples import examples, generators, kinds_of, some_of, things

import pushforward as pf
from pushforward.errors import ConditionError, UserError
from pushforward.guidance import APG, CFG, AutoGuidance, CFGPlusPlus, CFGZeroStar, Clip, SkipLayers
from pushforward.paths import Cosine, Linear, VariancePreserving
from pushforward.paths.path import Path
from pushforward.samplers import DDIM, Denoiser, Dopri5, Euler, Heun
from pushforward.samplers.sampler import Sampler

pytestmark = pytest.mark.usefixtures("float64")
COND = torch.tensor([0, 1, 2, 1])


def net(x, t, cond):
    """A network that bends x by an angle for each class."""
    angle = torch.tensor(0.2) if cond is None else 0.5 + cond
    return torch.sin(x + angle.expand(len(x)).view(-1, *(1,) * (x.ndim - 1))) * (1 + x.flip(-1)) / 2


def worse(x, t, cond):
    """The same without its condition: autoguidance by it is classifier-free guidance."""
    return net(x, t, None)


def denoiser(path=None, kind="velocity", cond=COND):
    return Denoiser(net, Linear() if path is None else path, kind, cond)


def at(path, kind, n=4, seed=0):
    low, high = path.interval_for(kind)
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, generator=generator, dtype=torch.float64), torch.linspace(low + 0.1, high - 0.1, n, dtype=torch.float64)


PATHS = kinds_of(things("paths", of=Path))
NAMED = [APG(4.0), APG(4.0, norm=0.1), CFGZeroStar(4.0), CFGZeroStar(4.0, zero=0.1), AutoGuidance(worse, 4.0), CFGPlusPlus(0.7)]
NAMES = [pytest.param(one, id=f"{type(one).__name__}-{k}") for k, one in enumerate(NAMED)]


@pytest.mark.parametrize("guidance", [APG(1.0), CFGZeroStar(1.0), AutoGuidance(worse, 1.0)], ids=lambda one: type(one).__name__)
def test_scale_one_is_no_guidance(guidance):
    plain = denoiser()
    assert guidance(plain) is plain
    assert not guidance.needs_unconditional


@pytest.mark.parametrize(("make", "kind"), PATHS)
@pytest.mark.parametrize("guidance", [APG(3.0, parallel=1.0), AutoGuidance(worse, 3.0)], ids=lambda one: type(one).__name__)
def test_limits_of_others_are_classifier_free_guidance(guidance, make, kind):
    plain = denoiser(make(), kind)
    x, t = at(plain.path, kind)
    torch.testing.assert_close(guidance(plain)(x, t).velocity, CFG(3.0)(plain)(x, t).velocity, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("make", "kind"), PATHS)
def test_what_projected_guidance_adds_is_orthogonal_to_the_data_prediction_and_no_longer_than_its_norm(make, kind):
    plain = denoiser(make(), kind)
    x, t = at(plain.path, kind)
    data = plain(x, t).data
    added = APG(3.0)(plain)(x, t).data - data
    assert ((added * data).sum(1).abs() <= 1e-9 * data.norm(dim=1) * added.norm(dim=1) + 1e-12).all()
    d = data - plain.bind(None)(x, t).data
    by_hand = 2 * (d - (d * data).sum(1, keepdim=True) / data.square().sum(1, keepdim=True) * data)
    torch.testing.assert_close(added, by_hand, rtol=1e-8, atol=1e-9)
    norm = 0.5 * float(d.norm(dim=1).min())
    short = APG(3.0, parallel=1.0, norm=norm)(plain)(x, t).data - data
    torch.testing.assert_close(short.norm(dim=1), torch.full((4,), 2 * norm), rtol=1e-8, atol=1e-9)


def test_a_velocity_that_is_the_conditional_one_but_for_its_length_guides_nothing():
    velocities = {True: torch.tensor([[1.0, 2.0, -1.0]]), False: torch.tensor([[0.3, 0.6, -0.3]])}
    plain = Denoiser(lambda x, t, cond: velocities[cond is not None].expand(len(x), 3), Linear(), cond=COND)
    x, t = at(Linear(), "velocity")
    torch.testing.assert_close(CFGZeroStar(5.0)(plain)(x, t).velocity, plain(x, t).velocity, rtol=1e-12, atol=1e-12)
    other = Denoiser(lambda x, t, cond: torch.zeros_like(x) if cond is None else torch.ones_like(x), Linear(), cond=COND)
    torch.testing.assert_close(CFGZeroStar(5.0)(other)(x, t).velocity, torch.full_like(x, 5.0))  # nothing to fit


def test_x_stays_for_a_share_of_the_way():
    x = torch.randn(4, 3)
    guidance = CFGZeroStar(2.0, zero=0.25)
    assert torch.equal(Euler(4)(guidance(denoiser()), x, 1.0, 0.75), Euler(4)(CFGZeroStar(2.0)(denoiser()), x, 0.75, 0.75))
    at_end, before = torch.full((4,), 0.8), torch.full((4,), 0.75)
    assert not guidance(denoiser())(x, at_end).velocity.any()
    assert torch.equal(guidance(denoiser())(x, before).velocity, CFGZeroStar(2.0)(denoiser())(x, before).velocity)


def test_a_plain_scale_of_one_still_waits():
    guidance = CFGZeroStar(1.0, zero=0.25)
    velocity = guidance(denoiser())(torch.randn(4, 3), torch.tensor([0.9, 0.8, 0.5, 0.1])).velocity
    assert velocity[:2].abs().max() == 0 < velocity[2:].abs().min()


@pytest.mark.parametrize("path", [VariancePreserving(), Linear(), pf.paths.Discrete("cosine", 50)], ids=lambda one: type(one).__name__)
@pytest.mark.parametrize("scale", [0.0, 0.6, 1.0])
def test_a_step_renoises_the_guided_data_with_the_unconditional_noise(path, scale):
    """Algorithm 2 of 2406.08070 by hand."""
    model = pf.families.PathModel(net, (3,), path, "noise" if path.variance_preserving else "velocity")
    sampler = DDIM(6)
    t_min, t_max = model.interval
    times = sampler.step_times(path, t_max, sampler.last_time(path, t_min))
    made = model.sample(4, COND, sampler=sampler, guidance=CFGPlusPlus(scale), generator=generators(4))
    x = model.base.sample(4, generator=generators(4))
    plain = model.denoiser(COND)
    for t, s in itertools.pairwise(times):
        with_cond, without = (one(x, torch.full((4,), t)) for one in (plain, plain.bind(None)))
        data = without.data + scale * (with_cond.data - without.data)
        alpha, sigma = (at(torch.tensor(s)) for at in (path.alpha, path.sigma))
        x = alpha * data + (sigma * without.noise if s else 0.0)
    if times[-1]:  # above sigma = 0 a model ends with the expected data
        with_cond, without = (one(x, torch.full((4,), times[-1])).data for one in (plain, plain.bind(None)))
        x = without + scale * (with_cond - without)
    torch.testing.assert_close(made, x, rtol=1e-4, atol=1e-6)  # a scale of 1 / step loses digits of float32 times


@pytest.mark.parametrize(("guidance", "entry"), some_of(NAMES, examples("samplers", of=Sampler)))
def test_a_sample_under_any_sampler_does_not_depend_on_its_batch(guidance, entry):
    model = pf.families.PathModel(net, (3,), Cosine(), sampler=entry.example())
    if isinstance(guidance, CFGPlusPlus) and model.sampler.step_times(model.path, *model.interval[::-1]) is None:
        with pytest.raises(UserError, match="whose strength depends on a sampler's steps, but .* chooses its own"):
            model.sample(4, COND, guidance=guidance)
        return
    together = model.sample(4, COND, guidance=guidance, generator=generators(4))
    alone = model.sample(1, COND[2:3], guidance=guidance, generator=generators(4)[2:3])
    assert together.isfinite().all()
    torch.testing.assert_close(together[2:3], alone, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(together, model.sample(4, COND, generator=generators(4)), atol=1e-3)


@pytest.mark.parametrize("guidance", NAMES)
def test_it_is_clipped_and_cut_into_chunks_with_a_negative_condition(guidance):
    if not isinstance(guidance, AutoGuidance):
        guidance = dataclasses.replace(guidance, negative=2 - COND)
    model = pf.families.PathModel(net, (3,), Linear(), sampler=Euler(3))
    clipped = Clip(-0.5, 0.5, guidance=guidance)
    together = model.sample(4, COND, guidance=clipped, generator=generators(4))
    chunks = model.sample(4, COND, guidance=clipped, generator=generators(4), batch_size=3)
    torch.testing.assert_close(chunks, together, rtol=0, atol=1e-12)
    assert float(together.abs().max()) <= 0.5 + 1e-12


@pytest.mark.parametrize(
    "guidance", [APG(2.0), CFGZeroStar(2.0), AutoGuidance(worse, 2.0), CFGPlusPlus(0.3)], ids=lambda one: type(one).__name__
)
def test_samples_come_with_the_log_prob_of_their_guided_ode(guidance):
    model = pf.families.PathModel(net, (3,), Linear(), sampler=Heun(30))
    x, log_prob = model.sample(4, COND, guidance=guidance, log_prob=True, generator=generators(4))
    z = model.base.sample(4, generator=generators(4))
    jacobian = torch.autograd.functional.jacobian(lambda z: model.decode(z, COND, guidance=guidance).sum(0), z)
    expected = model.base.log_prob(z) - torch.linalg.slogdet(jacobian.transpose(0, 1)).logabsdet
    torch.testing.assert_close(x, model.decode(z, COND, guidance=guidance), rtol=0, atol=1e-9)
    assert (log_prob - expected).abs().max() < 5e-3  # the divergence is integrated in thirty steps too


def test_a_share_of_steps_is_known_to_any_model():
    class Skipping(torch.nn.Module):
        def forward(self, x, t, cond, skip=()):
            return net(x, t, cond) / (1 + len(skip))

    model = pf.families.PathModel(Skipping(), (3,), Linear(), sampler=Euler(10))
    options = {"generator": generators(4)}
    made = model.sample(4, COND, guidance=SkipLayers((0,), steps=(0.15, 0.45)), **options)
    by_times = model.sample(4, COND, guidance=SkipLayers((0,), interval=(0.55, 0.85)), generator=generators(4))
    assert torch.equal(made, by_times)
    assert torch.equal(
        model.sample(4, COND, guidance=SkipLayers((0,), steps=(0.01, 0.05)), generator=generators(4)),
        model.sample(4, COND, generator=generators(4)),
    )


def test_a_worse_model_is_one_of_the_same_data():
    config = pf.nn.MLP.Config((8,))
    model = pf.models.rectified_flow(config, (2,), classes=3, drop_cond=0.1, sampler=Euler(2))
    early = pf.models.rectified_flow(config, (2,), classes=3)
    cond = torch.tensor([0, 2])
    by_model = model.sample(2, cond, guidance=AutoGuidance(early, 1.5), generator=generators(2))
    by_net = model.sample(2, cond, guidance=AutoGuidance(early.net, 1.5), generator=generators(2))
    assert torch.equal(by_model, by_net)
    assert not torch.equal(by_model, model.sample(2, cond, generator=generators(2)))
    units = pf.models.rectified_flow(config, (2,), preprocess="standardise")
    units.initialise(3 * torch.randn(20, 2))
    for other, message in (
        (pf.models.rectified_flow(config, (3,)), r"worse has the shape \(3,\), but the model has \(2,\)"),
        (pf.models.ddpm(config, (2,)), r"worse has the path .*, but the model has Linear"),
        (units, "worse has other units than the model"),
    ):
        with pytest.raises(UserError, match=message):
            model.sample(2, cond, guidance=AutoGuidance(other))


def test_an_untrained_unconditional_model_is_refused_only_where_it_is_used():
    model = pf.models.rectified_flow(pf.nn.MLP.Config((8,)), (2,), classes=3, sampler=Euler(2))
    cond = torch.tensor([0, 2])
    for guidance in (APG(2.0), CFGZeroStar(2.0), CFGPlusPlus(0.5)):
        with pytest.raises(ConditionError, match="drop_cond is 0"):
            model.sample(2, cond, guidance=guidance)
    assert model.sample(2, cond, guidance=AutoGuidance(model, 2.0)).isfinite().all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: APG(2.0, parallel=-1.0), "parallel is -1.0, but it is a weight of 0 or more"),
        (lambda: APG(2.0, norm=0.0), "norm is 0.0, but it must be positive"),
        (lambda: APG(2.0, interval=(0.5, 0.5)), r"interval is \(0.5, 0.5\)"),
        (lambda: CFGZeroStar(2.0, zero=1.0), "zero is 1.0, but it is a share of time"),
        (lambda: CFGPlusPlus(7.5), "scale is 7.5, but the scale of CFG\\+\\+ is from 0 to 1"),
        (lambda: AutoGuidance(3), "worse is int, but it must be a model or a network"),
        (lambda: CFGPlusPlus(0.5)(denoiser())(*at(Linear(), "velocity")), r"depends on a sampler's steps, which are not known here"),
        (lambda: pf.families.PathModel(net, (3,)).sample(4, COND, sampler=Dopri5(), guidance=CFGPlusPlus(0.5)), "chooses its own"),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.parametrize("guidance", [APG(2.0), CFGZeroStar(2.0), CFGPlusPlus(0.5)], ids=lambda one: type(one).__name__)
def test_there_must_be_a_condition(guidance):
    with pytest.raises(ConditionError, match="needs a condition to follow"):
        guidance(denoiser(cond=None))


@pytest.mark.parametrize("sampler", [pf.samplers.EDM(10), pf.samplers.EDM(10, churn=4), pf.samplers.PredictorCorrector(6)])
def test_cfg_plus_plus_of_samplers_that_evaluate_a_time_twice(sampler):
    """Scales are those of the steps between different times."""
    once, twice = (CFGPlusPlus(0.6).on(times) for times in ((0.9, 0.5, 0.1), (0.9, 0.5, 0.5, 0.1, 0.1)))
    x, t = at(Linear(), "velocity")
    assert torch.equal(once(denoiser())(x, t).velocity, twice(denoiser())(x, t).velocity)
    model = pf.families.PathModel(net, (3,), Linear(), classes=3, drop_cond=0.1).double()
    made = model.sample(4, COND, sampler=sampler, guidance=CFGPlusPlus(0.6), generator=torch.Generator().manual_seed(0))
    assert made.isfinite().all()
