"""Any base: data to data, with and without noise on the way; what takes the base for Gaussian noise refuses by name."""

import math

import pytest
import torch

import pushforward as pf
from pushforward.bases import Samples
from pushforward.errors import NotInvertibleError, ShapeError, UserError

X = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))


def model(**options):
    return pf.families.PathModel(pf.nn.MLP.Config((8,)).build((2,)), (2,), base=Samples(X), **options)


def test_its_draws_are_rows_of_the_data():
    drawn = Samples(X).sample(100)
    assert {tuple(row) for row in drawn.tolist()} == {tuple(row) for row in X.tolist()}


def test_a_preset_takes_a_data_set_as_its_source_and_is_saved(tmp_path):
    made = pf.models.ot_flow_matching(pf.nn.MLP.Config((8,)), (2,), source="moons", bridge=0.1)
    again = pf.load(pf.save(made, tmp_path / "model"))
    one, two = (m.sample(5, generator=torch.Generator().manual_seed(0)) for m in (made, again))
    assert torch.equal(one, two)
    assert again.bridge == 0.1
    assert "base.x" not in made.state_dict()


@pytest.mark.parametrize("t", [0.1, 0.5, 0.8])
def test_the_loss_under_a_bridge_is_that_of_its_gaussian_velocity(t):
    """Data N(0, s²), noise N(0, 1), bridge g: x_t has variance V = (1-t)² s² + t² + g(t)², and the velocity of the interpolant is the
    regression c x with c = V' / (2 V); what is left is E v² - c² V. 400,000 numbers: to 5 standard errors, some 0.01 each."""
    s, b = 0.5, 0.8
    g, g_dot = b * math.sin(math.pi * t) ** 2, b * math.pi * math.sin(2 * math.pi * t)
    variance = (1 - t) ** 2 * s**2 + t**2 + g**2
    c = (-(1 - t) * s**2 + t + g * g_dot) / variance
    exact = pf.families.PathModel(lambda x, t, cond: c * x, (4,), bridge=b, times=pf.times.Point(t))
    generator = torch.Generator().manual_seed(0)
    loss = exact.loss(s * torch.randn(100_000, 4, generator=generator), generator=generator)
    assert float(loss) == pytest.approx(s**2 + 1 + g_dot**2 - c**2 * variance, rel=0.015)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: model().log_prob(X), NotInvertibleError, "the base Samples has no log_prob"),
        (lambda: model().sample(2, log_prob=True), NotInvertibleError, "the base Samples has no log_prob"),
        (lambda: model().sample(2, temperature=0.5), UserError, "temperature is 0.5, but the base Samples is data"),
        (
            lambda: model().sample(2, sampler=pf.samplers.DDPM(10)),
            UserError,
            "draws noise by the score, but the base Samples is not Gaussian",
        ),
        (lambda: model().follow(pf.paths.Cosine()), UserError, "only a model from the Gaussian noise of its path can follow"),
        (lambda: model(prediction="score"), UserError, "prediction is 'score', but the base Samples is not Gaussian"),
        (lambda: model(bridge=-1.0), UserError, "bridge is -1.0"),
        (lambda: model(prediction="noise", bridge=0.1), UserError, "for the velocity"),
        (lambda: Samples(torch.zeros(3)), UserError, r"x has shape \(3,\)"),
        (lambda: pf.models.flow_matching(shape=(1, 8, 8), source="moons"), UserError, "source is 'moons'"),
    ],
)
def test_what_needs_gaussian_noise_refuses_by_name(call, error, message):
    with pytest.raises((error, ShapeError), match=message):
        call()


OTHERS = [
    lambda: pf.bases.Logistic((2,)),
    lambda: pf.bases.Mixture((2,), 3),
    lambda: pf.bases.Gaussian((2,), 3.0),
    lambda: pf.bases.Samples(torch.randn(9, 2)),
]


@pytest.mark.parametrize("base", OTHERS)
def test_what_needs_the_paths_own_noise_is_refused_for_any_other_base(base):
    """A base with a density once passed for Gaussian: noise was drawn, and scores were read, of another distribution."""
    net = pf.nn.MLP.Config((4,))
    model, jumps = (
        pf.families.PathModel(net.build((2,)), (2,), base=base()),
        pf.families.FlowMap(net.build((2,), numbers=1), (2,), base=base()),
    )
    x = torch.randn(3, 2)
    assert model.sample(3, sampler=pf.samplers.Euler(2)).shape == jumps.sample(3).shape == (3, 2)
    for refused in (
        lambda: model.sample(3, sampler=pf.samplers.EulerMaruyama(2)),
        lambda: model.sample(3, guidance=pf.guidance.MMPS(pf.measurements.Mask(), torch.zeros(2)), sampler=pf.samplers.Euler(2)),
        lambda: model.follow(pf.paths.Cosine()),
        lambda: pf.editing.FlowEdit(steps=2)(model, x),
        lambda: jumps.sample(3, sampler=pf.samplers.Renoise(2)),
        lambda: pf.families.PathModel(net.build((2,)), (2,), prediction="score", base=base()),
    ):
        with pytest.raises(UserError, match="Gaussian"):
            refused()


@pytest.mark.parametrize("path", [pf.paths.Linear(), pf.paths.VarianceExploding(0.1, 50.0), pf.paths.VariancePreserving()])
def test_the_paths_own_noise_is_gaussian(path):
    model = pf.families.PathModel(pf.nn.MLP.Config((4,)).build((2,)), (2,), path, "noise")
    assert model.gaussian
    assert model.double().gaussian
