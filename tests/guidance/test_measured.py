"""Guidance by a measurement: against the exact posterior of Gaussians and mixtures, in any units, and what it refuses."""

import pytest
import torch
from examples import generators, some_of, truth_model
from posteriors import MixturePosterior, conditioned, coverage, gaussian_model
from torch import nn

import pushforward as pf
from pushforward.bijections.standardise import Standardise
from pushforward.errors import DtypeError, ShapeError, UserError
from pushforward.guidance import CFG, DPS, MMPS, Clip, FlowDPS, PiGDM, PnPFlow
from pushforward.measurements import Blur, Downsample, Linear, Mask, Nonlinear
from pushforward.samplers import DDIM, DDPM, Dopri5, DPMSolverPP, Euler, EulerMaruyama, Heun, LogSNR

pytestmark = pytest.mark.usefixtures("float64")
METHODS = [MMPS, PiGDM, DPS]
# A correlated Gaussian in three dimensions, of which two combinations are measured.
MEAN = torch.tensor([1.0, -0.5, 0.3], dtype=torch.float64)
FACTOR = torch.tensor([[1.0, 0.0, 0.0], [0.8, 0.6, 0.0], [-0.3, 0.5, 0.4]], dtype=torch.float64)
OPERATOR = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, -1.0]], dtype=torch.float64)
NOISE, Y = 0.1, torch.tensor([0.7, 0.2], dtype=torch.float64)
PATHS = [pf.paths.Linear(), pf.paths.Cosine(), pf.paths.VariancePreserving(), pf.paths.VarianceExploding(0.01, 50.0)]


def moments(model, guidance, sampler, n=3000):
    made = model.sample(n, guidance=guidance, sampler=sampler, generator=torch.Generator().manual_seed(0)).flatten(1)
    return made.mean(0), torch.cov(made.T)


def exact_moments(model, guidance, sampler):
    """The moments of an affine map of the base, from its values at the origin and at a unit vector of each axis."""
    scale = model.base.std
    noise = torch.cat((torch.zeros(1, 3), scale * torch.eye(3)))
    origin, *columns = model.decode(noise, guidance=guidance, sampler=sampler).detach()
    factor = torch.stack(columns, 1) - origin[:, None]
    return origin, factor @ factor.T


@pytest.mark.parametrize(
    ("path", "prediction", "sampler"),
    some_of(PATHS, ["velocity", "noise", "data"], [Heun(60), Dopri5(1e-5, 1e-5), DPMSolverPP(80)], every=5),
)
def test_mmps_is_exact_for_a_gaussian_and_a_linear_measurement(path, prediction, sampler):
    """Up to the samplers' steps, and to what is left of the data at the noisiest time, of which the variance-exploding path has most."""
    covariance = FACTOR @ FACTOR.T
    mean, spread = conditioned(MEAN, covariance, OPERATOR, NOISE, Y)
    model = gaussian_model(MEAN, covariance, path, prediction)
    found, found_spread = exact_moments(model, MMPS(Linear(OPERATOR, NOISE), Y), sampler)
    torch.testing.assert_close(found, mean, rtol=0, atol=0.015)
    torch.testing.assert_close(found_spread, spread, rtol=0, atol=0.003)


@pytest.mark.parametrize("sampler", [DDIM(80, eta=1.0), pytest.param(DDPM(200), marks=pytest.mark.slow)], ids=["ancestral", "ddpm"])
def test_stochastic_samplers_reach_the_same_posterior(sampler):
    covariance = FACTOR @ FACTOR.T
    mean, spread = conditioned(MEAN, covariance, OPERATOR, NOISE, Y)
    found, found_spread = moments(
        gaussian_model(MEAN, covariance, pf.paths.VariancePreserving(), "noise"), MMPS(Linear(OPERATOR, NOISE), Y), sampler
    )
    torch.testing.assert_close(found, mean, rtol=0, atol=0.025)
    torch.testing.assert_close(found_spread, spread, rtol=0, atol=0.02)


@pytest.mark.parametrize(
    "sampler", [pytest.param(DDIM(100, grid=LogSNR()), marks=pytest.mark.slow), Heun(60, grid=LogSNR())], ids=["ddim", "heun"]
)
def test_on_a_discrete_path_it_is_the_same_posterior(sampler):
    mean, spread = conditioned(MEAN, FACTOR @ FACTOR.T, OPERATOR, NOISE, Y)
    path = pf.paths.Discrete(tuple(torch.linspace(1e-4, 0.02, 1000).tolist()))
    found, found_spread = exact_moments(gaussian_model(MEAN, FACTOR @ FACTOR.T, path, "noise"), MMPS(Linear(OPERATOR, NOISE), Y), sampler)
    torch.testing.assert_close(found, mean, rtol=0, atol=0.015)
    torch.testing.assert_close(found_spread, spread, rtol=0, atol=0.005)


def test_errors_of_a_networks_jacobian_do_not_grow_with_the_noise():
    """A ripple of 0.01 in the velocity in nearly pure noise has a Jacobian of 1: it moves samples by 0.0002, and else by 0.2, 2 and 128."""
    model = gaussian_model(MEAN, FACTOR @ FACTOR.T, pf.paths.Linear())
    exact = model.net
    rippled = pf.families.PathModel(lambda x, t, cond: exact(x, t) + 0.01 * torch.sin(100 * x) * (t > 0.9)[:, None], (3,))
    noise = torch.randn(200, 3)
    for method in METHODS:
        expected, found, far = (
            one.decode(noise, guidance=method(Linear(OPERATOR, NOISE), Y, reach=reach), sampler=Heun(30)).detach()
            for one, reach in ((model, 0.75), (rippled, 0.75), (rippled, 0.999))
        )
        off, grown = ((one - expected).square().mean().sqrt() for one in (found, far))
        assert float(off) < 0.002
        assert float(grown) > 0.1


def test_pigdm_is_exact_for_independent_data_of_its_spread():
    mean, spread = conditioned(MEAN, 0.49 * torch.eye(3), OPERATOR, NOISE, Y)
    model = gaussian_model(MEAN, 0.49 * torch.eye(3), pf.paths.Linear())
    found, found_spread = moments(model, PiGDM(Linear(OPERATOR, NOISE), Y, spread=0.7), Heun(60))
    torch.testing.assert_close(found, mean, rtol=0, atol=0.025)
    torch.testing.assert_close(found_spread, spread, rtol=0, atol=0.015)


@pytest.mark.parametrize("method", METHODS)
def test_a_measurement_in_the_users_units_is_one_in_the_models(method):
    """Data of scale 100 around 500 and their standardised version give the same samples, up to the units."""
    shift, scale = torch.tensor([500.0, -20.0, 3.0]), torch.tensor([100.0, 2.0, 0.1])
    covariance = FACTOR @ FACTOR.T
    inner = Linear(OPERATOR, NOISE)
    outer = Linear(lambda x: x / scale @ OPERATOR.T, NOISE)
    y = Y + (shift / scale) @ OPERATOR.T
    units = Standardise((3,))
    units.mean, units.std = shift.clone(), scale.clone()
    plain = gaussian_model(MEAN, covariance, pf.paths.Linear())
    scaled = gaussian_model(MEAN, covariance, pf.paths.Linear(), preprocess=units)
    options = {"sampler": Heun(10)}
    expected = shift + scale * plain.sample(5, guidance=method(inner, Y), generator=generators(5), **options)
    found = scaled.sample(5, guidance=method(outer, y), generator=generators(5), **options)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("method", [*METHODS, FlowDPS, PnPFlow])
@pytest.mark.parametrize("unit", [1e-12, 1e12])
def test_a_measurement_in_any_unit_is_the_same(method, unit, float32):
    """Also in float32, where squares of the products with the measurement once vanished or overflowed, and y with them."""
    model = gaussian_model(MEAN.float(), (FACTOR @ FACTOR.T).float(), pf.paths.Linear()).float()
    operator, y = OPERATOR.float(), Y.float()
    options = {} if method in (FlowDPS, PnPFlow) else {"sampler": Heun(5)}
    steps = {"steps": 5} if method in (FlowDPS, PnPFlow) else {}
    expected, found = (
        model.sample(4, guidance=method(Linear(scale * operator, scale * NOISE), scale * y, **steps), generator=generators(4), **options)
        for scale in (1.0, unit)
    )
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_quantised_data_are_measured_at_their_levels():
    """Samples are real numbers whose floor is a level: their mean is half a cell above the measured integer."""
    model = gaussian_model(torch.tensor([4.0, 4.0]), 9 * torch.eye(2), pf.paths.Linear(), levels=9)
    found, _ = moments(model, MMPS(Mask(torch.tensor([1.0, 0.0]), 0.01), torch.tensor([6.0, 0.0])), Heun(40), n=200)
    assert float(found[0]) == pytest.approx(6.5, abs=0.02)


@pytest.mark.parametrize("method", METHODS)
def test_what_is_nan_was_not_measured(method):
    """NaN in y is the same as a mask, also where it differs from sample to sample."""
    model, _ = truth_model(sampler=Heun(6))
    y = torch.tensor([[1.0, 7.0], [1.0, 7.0]])
    masks = torch.eye(2)
    together = model.sample(2, guidance=method(Mask(), torch.where(masks.bool(), y, torch.nan)), generator=generators(2))
    for k in range(2):
        alone = model.sample(1, guidance=method(Mask(masks[k]), y[k]), generator=generators(2)[k : k + 1])
        torch.testing.assert_close(together[k : k + 1], alone, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_nothing_measured_changes_nothing(method):
    model, _ = truth_model(sampler=DDIM(8))
    noise = torch.randn(3, 2)
    made = model.decode(noise, guidance=method(Mask(), torch.full((3, 2), torch.nan)))
    torch.testing.assert_close(made, model.decode(noise), rtol=1e-9, atol=1e-2)  # evaluated 0.001 from the path's ends


@pytest.mark.parametrize("sampler", [Euler(5), Dopri5(1e-4, 1e-4)], ids=lambda one: type(one).__name__)
@pytest.mark.parametrize("method", METHODS)
def test_chunks_cut_what_was_measured_of_each_sample(method, sampler):
    """The adaptive one lets rows leave its batch, and what was measured leaves with them."""
    model, _ = truth_model(sampler=sampler)
    guidance = method(Linear(torch.tensor([[1.0, -1.0]]), 0.3), torch.linspace(-1, 1, 6)[:, None])
    whole = model.sample(6, guidance=guidance, generator=generators(6))
    parts = model.sample(6, guidance=guidance, generator=generators(6), batch_size=4)
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-9)


@pytest.mark.parametrize("level", [0.8])
def test_credible_intervals_of_mmps_cover_and_those_of_dps_do_not(level):
    """Of 200 events of a mixture, each with 60 samples: 0.8 within 4 of its deviations (0.4 / sqrt(400) = 0.02)."""
    model, truth = truth_model(sampler=Heun(25))
    generator = torch.Generator().manual_seed(0)
    x = truth.sample(200, generator=generator)
    measurement = Linear(torch.tensor([[1.0, 0.5]]), 0.5)
    y = measurement.draw(x, generator).repeat_interleave(60, 0)
    found = {}
    for method in (MMPS, DPS):
        made = model.sample(len(y), guidance=method(measurement, y), generator=generator).view(200, 60, 2)
        found[method] = coverage(made, x, level)
    assert found[MMPS] == pytest.approx(level, abs=0.08)
    assert found[DPS] < 0.7


@pytest.mark.parametrize("method", METHODS)
def test_samples_approach_the_exact_posterior_of_a_mixture(method):
    """Averages over 8 events: the mean and the distance are within a third of those without y (1.5 and 1.4)."""
    model, truth = truth_model(sampler=EulerMaruyama(40))
    generator, measurement = torch.Generator().manual_seed(0), Linear(torch.tensor([[1.0, 0.5]]), 0.5)
    y = measurement.draw(truth.sample(8, generator=generator), generator)
    made = model.sample(8 * 200, guidance=method(measurement, y.repeat_interleave(200, 0)), generator=generator).view(8, 200, 2)
    prior = truth.sample(200, generator=generator)
    found = torch.zeros(2, 2)
    for one, samples in zip(y, made, strict=True):
        exact = MixturePosterior(truth, measurement.operator, 0.5, one)
        wanted = exact.sample(200, generator)
        for row, given in enumerate((samples, prior)):
            distance = pf.evaluation.sliced_wasserstein(given, wanted, generator=torch.Generator().manual_seed(1))
            found[row] += torch.stack([(given.mean(0) - exact.mean).norm(), distance]) / 8
    assert float(found[0, 0]) < 0.33 * float(found[1, 0])
    assert float(found[0, 1]) < 0.33 * float(found[1, 1])


def test_a_nonlinear_measurement_is_followed():
    """The residual falls to the noise: |x| = 2 is measured with deviation 0.1, while the mixture's own radii have 0.7."""
    model, truth = truth_model(sampler=DDIM(40))
    radius = Nonlinear(lambda x: x.square().sum(1, keepdim=True).sqrt(), 0.1)
    assert float(radius(truth.sample(500)).std()) > 0.5
    for method in METHODS:
        made = model.sample(100, guidance=method(radius, torch.tensor([2.0])), generator=torch.Generator().manual_seed(0))
        assert float((radius(made) - 2).square().mean().sqrt()) < 0.3, method


def test_guidance_by_a_condition_goes_inside_and_clipping_outside():
    """The condition moves the prior's mean; the posterior is that of the moved prior, within the clipped range."""

    class Conditional(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = gaussian_model(MEAN, FACTOR @ FACTOR.T, pf.paths.Linear()).net

        def forward(self, x, t, cond=None):
            return self.inner(x, t, torch.zeros(len(x)) if cond is None else cond[:, 0])

    model = pf.families.PathModel(Conditional(), (3,), cond_features=1, drop_cond=0.1)
    cond = torch.ones(3000, 1)
    # Twice the condition: v_0 + 2 (v_1 - v_0) is the velocity of the prior whose mean moved by 2, as the velocity is affine in it.
    mean, _ = conditioned(MEAN + 2, FACTOR @ FACTOR.T, OPERATOR, NOISE, Y)
    guidance = MMPS(Linear(OPERATOR, NOISE), Y, guidance=2.0)
    made = model.sample(3000, cond, guidance=guidance, sampler=Heun(30), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(made.mean(0), mean, rtol=0, atol=0.03)
    made = model.sample(50, cond[:50], guidance=Clip(-0.2, 0.2, guidance=guidance), sampler=DDIM(10))
    assert float(made.abs().max()) <= 0.2 + 1e-6


def test_what_decode_returns_is_differentiable():
    model = gaussian_model(MEAN, FACTOR @ FACTOR.T, pf.paths.Linear(), sampler=Euler(4))
    guidance, noise = MMPS(Linear(OPERATOR, NOISE), Y), torch.randn(1, 3)
    assert torch.autograd.gradcheck(lambda z: model.decode(z, guidance=guidance), noise.requires_grad_(), atol=1e-4)
    model.decode(noise, guidance=guidance).sum().backward()
    assert float(model.net.covariance.grad.abs().max()) > 0


def bridged():
    return pf.families.PathModel(lambda x, t, cond: x, (2,), bridge=0.1)


def distilled():
    return pf.families.PathModel(lambda x, t, cond: x, (2,), times=pf.times.Point(1.0))


def data_to_data():
    return pf.families.PathModel(lambda x, t, cond: x, (2,), base=pf.bases.Samples(torch.randn(10, 2)))


PLAIN = Mask(torch.tensor([1.0, 0.0]))
REFUSED = [
    (lambda: MMPS(PLAIN, torch.zeros(3)), None, ShapeError, "y has shape (3,), but Mask of an event of shape (2,) measures (2,)"),
    (lambda: MMPS(Mask(torch.ones(3)), torch.zeros(2)), None, ShapeError, "mask has shape (3,), but an event has (2,)"),
    (lambda: MMPS(Linear(torch.ones(1, 3)), torch.zeros(1)), None, ShapeError, "operator has shape (1, 3), but an event of shape (2,)"),
    (lambda: MMPS(Downsample(2), torch.zeros(1)), None, ShapeError, "needs channels and 1 to 3 sides"),
    (lambda: MMPS(Blur(torch.ones(3, 3)), torch.zeros(2)), None, ShapeError, "needs channels and 2 sides"),
    (lambda: MMPS(Mask(noise=torch.ones(3)), torch.zeros(2)), None, ShapeError, "noise has shape (3,)"),
    (lambda: MMPS(Linear(lambda x: x + 1), torch.zeros(2)), None, UserError, "not linear; use Nonlinear"),
    (lambda: MMPS(Linear(lambda x: x**2), torch.zeros(2)), None, UserError, "not linear; use Nonlinear"),
    (lambda: PiGDM(Linear(lambda x: x.abs()), torch.zeros(2)), None, UserError, "not linear; use Nonlinear"),
    (lambda: DPS(Mask(), torch.zeros(2, device="meta")), None, UserError, "y is on the device meta"),
    (lambda: DPS(Mask(noise="little"), torch.zeros(2)), None, UserError, "noise is 'little', but it is a standard deviation"),
    (lambda: MMPS(Nonlinear(lambda x: x.detach()), torch.zeros(2)), None, UserError, "no differentiable function"),
    (lambda: MMPS(Nonlinear(torch.round), torch.zeros(2)), None, UserError, "has the derivative 0 everywhere"),
    (lambda: DPS(Nonlinear(torch.round), torch.zeros(2)), None, UserError, "has the derivative 0 everywhere"),
    (lambda: MMPS("mask", torch.zeros(2)), None, UserError, "measurement is 'mask'"),
    (lambda: MMPS(PLAIN, torch.zeros(2, dtype=torch.int64)), None, DtypeError, "y is a tensor of torch.int64"),
    (lambda: MMPS(PLAIN, torch.tensor([torch.inf, 0.0])), None, UserError, "y has infinite values"),
    (lambda: MMPS(PLAIN, torch.zeros(2), reach=1.0), None, UserError, "reach is 1.0"),
    (lambda: MMPS(PLAIN, torch.zeros(2), iterations=0), None, UserError, "iterations is 0"),
    (lambda: DPS(Mask(noise=0.0), torch.zeros(2)), None, UserError, "noise is 0, but DPS divides by it"),
    (lambda: PiGDM(PLAIN, torch.zeros(2), spread=0.0), None, UserError, "spread is 0"),
    (lambda: MMPS(PLAIN, torch.zeros(2)), bridged, UserError, "has a bridge"),
    (lambda: MMPS(PLAIN, torch.zeros(2)), data_to_data, UserError, "only noise is Gaussian"),
    (lambda: MMPS(PLAIN, torch.zeros(2)), distilled, UserError, "distilled into one step"),
    (lambda: MMPS(PLAIN, torch.zeros(5, 2)), None, UserError, "leading dimension must be 4"),
]


@pytest.mark.parametrize(("guidance", "model", "kind", "message"), REFUSED, ids=[one[3][:40] for one in REFUSED])
def test_what_cannot_work_is_refused_before_anything_is_computed(guidance, model, kind, message):
    calls = []
    model = pf.families.PathModel(lambda x, t, cond: calls.append(0) or x, (2,)) if model is None else model()
    with pytest.raises(kind) as caught:
        model.sample(4, guidance=guidance(), sampler=Euler(2))
    assert message in str(caught.value)
    assert not calls


def test_inference_mode_is_refused():
    model, _ = truth_model()
    with torch.inference_mode(), pytest.raises(UserError, match="use torch.no_grad"):
        model.sample(2, guidance=MMPS(Mask(), torch.zeros(2)))


def test_families_without_a_path_of_noise_refuse_it():
    guidance = MMPS(PLAIN, torch.zeros(2))
    net = pf.nn.MLP.Config((8,))
    with pytest.raises(UserError, match="a normalizing flow has no use for it"):
        pf.models.realnvp(2, 2, (8,)).sample(2, guidance=guidance)
    with pytest.raises(UserError, match="a flow map takes only CFG"):
        pf.models.meanflow(net, (2,)).sample(2, guidance=guidance)
    with pytest.raises(UserError, match="log_prob is set, but samples under MMPS"):
        pf.models.rectified_flow(net, (2,)).sample(2, guidance=guidance, log_prob=True)
    assert CFG(2.0).has_density
