"""Reflow and distillation: pairs are the model's own, training on them straightens, one step is the whole solution."""

import copy

import pytest
import torch

import pushforward as pf
from pushforward.data.pairs import Pairs
from pushforward.errors import ConditionError, DataError, NotInvertibleError, UserError
from pushforward.evaluation.straightness import straightness
from pushforward.training.order import as_batch
from pushforward.training.reflow import distill, one_step, reflow


def small(**options):
    options = {"classes": 3, "sampler": pf.samplers.Heun(4), **options}
    model = pf.models.rectified_flow(pf.nn.MLP.Config((16,)), (2,), **options)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return model


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_pairs_are_the_models_own():
    model, cond = small(preprocess="standardise"), torch.arange(10) % 3
    model.initialise(torch.randn(50, 2) * 3 + 1)
    pairs = reflow(model, 10, cond, batch_size=4, generator=seeded())
    noise = model.base.sample(10, generator=seeded())
    assert torch.equal(pairs.noise, noise)
    torch.testing.assert_close(pairs.x, model.decode(noise, cond).detach(), rtol=1e-6, atol=1e-6)
    assert torch.equal(pairs.cond, cond)


def test_every_way_to_a_batch_keeps_rows_together():
    x = torch.arange(12.0).reshape(6, 2)
    pairs = Pairs(x, torch.arange(6), -x)
    for batch in (pairs[1:4], pairs.batch([1, 2, 3]), pairs.subset([5, 1, 2, 3])[1:], as_batch([pairs[k] for k in (1, 2, 3)])):
        assert torch.equal(batch[0], x[1:4])
        assert torch.equal(batch[1], torch.arange(1, 4))
        assert torch.equal(batch[2], -x[1:4])


def test_the_noise_is_part_of_the_fingerprint():
    x = torch.randn(4, 2)
    assert Pairs(x, None, x).fingerprint() != Pairs(x, None, x.flip(0)).fingerprint()


def test_the_trainer_gives_each_row_its_noise():
    heard = []

    class Listening(type(small())):
        def loss(self, x, cond=None, *, noise=None, generator=None):
            heard.append((x, cond, noise))
            return super().loss(x, cond, noise=noise, generator=generator)

    model = small()
    model.__class__ = Listening
    x = torch.randn(64, 2)
    pairs = Pairs(x, torch.arange(64) % 3, 2 * x + 1)
    pf.Trainer(model, pairs, validation=pairs, steps=3, batch_size=16, accumulate=2, block=8).fit()
    assert len(heard) > 6
    assert all(torch.equal(noise, 2 * x + 1) for x, _, noise in heard)


def test_training_on_pairs_resumes_to_the_same_bits(tmp_path):
    pairs = reflow(small(), 64, generator=seeded())
    whole, parts = small(), None
    parts = copy.deepcopy(whole)
    settings = {"batch_size": 16, "schedule": "constant", "warmup": 0}
    pf.Trainer(whole, pairs, out=tmp_path / "a", steps=6, **settings).fit()
    pf.Trainer(parts, pairs, out=tmp_path / "b", steps=3, **settings).fit()
    pf.Trainer(parts, pairs, out=tmp_path / "b", steps=6, resume=True, **settings).fit()
    assert all(torch.equal(p, q) for p, q in zip(whole.parameters(), parts.parameters(), strict=True))


def test_pairs_leave_the_models_units_as_they_are():
    model = small(preprocess="standardise")
    model.initialise(torch.randn(50, 2) * 3 + 1)
    before = model.preprocess.std.clone()
    pf.Trainer(model, reflow(model, 32), steps=1, batch_size=16).fit()
    assert torch.equal(model.preprocess.std, before)


def test_pairs_of_quantised_data_are_not_spread_again():
    """The loss of a pair depends on t alone besides it: two generators that agree on t agree on the loss."""
    model = small(levels=17)
    x, noise = torch.rand(8, 2) * 16, torch.randn(8, 2)
    heard = []
    model.net.register_forward_pre_hook(lambda module, args: heard.append(args[0]))
    model.times = pf.times.Point(0.0)
    model.loss(x, noise=noise)
    torch.testing.assert_close(heard[0], x)


@pytest.mark.slow
def test_reflow_straightens_and_distilling_makes_one_step_enough():
    """Moons, seed 0. The bend falls at least tenfold; one step then lands within a tenth of the data's deviation of the whole solution."""
    model = pf.models.rectified_flow(pf.nn.MLP.Config((64,)), (2,))
    settings = {"steps": 300, "batch_size": 128, "lr": 1e-2, "ema": 0.98}
    pf.Trainer(model, pf.data.load("moons").x, **settings).fit()
    before = straightness(model, 500, generator=seeded())
    pairs = reflow(model, 2000, sampler=pf.samplers.Heun(20), generator=seeded())
    student = copy.deepcopy(model)
    pf.Trainer(student, pairs, **settings).fit()
    after = straightness(student, 500, generator=seeded())
    assert after.bend < before.bend / 10
    assert after.energy < before.energy
    one = distill(model, pairs, **settings)
    noise = model.base.sample(200, generator=seeded(1))
    with torch.no_grad():
        error = (one.decode(noise) - model.decode(noise, sampler=pf.samplers.Heun(20))).square().mean().sqrt()
    assert error < 0.1


def test_straightness_in_closed_form():
    """v = r x from t = 1 to 0: x_0 = x_1 exp(-r), |v|² integrates to r x_1² (1 - exp(-2 r)) / 2."""
    r = 0.7
    model = pf.families.PathModel(lambda x, t, cond: r * x, (3,))
    found = straightness(model, 50, sampler=pf.samplers.Dopri5(1e-7, 1e-7), generator=seeded())
    square = model.base.sample(50, generator=seeded()).square().sum(1).mean()
    decay = torch.exp(torch.tensor(-r))
    assert found.energy == pytest.approx(float(r * square * (1 - decay**2) / 2), rel=1e-4)
    assert found.transport == pytest.approx(float(square * (1 - decay) ** 2), rel=1e-4)
    assert found.bend == pytest.approx(found.energy - found.transport)


def test_a_distilled_model_is_saved_with_its_one_step(tmp_path):
    student = pf.load(pf.save(one_step(small()), tmp_path / "model"))
    assert (student.one_step, student.sampler.evaluations) == (True, 1)
    for verb in (student.log_prob, student.encode):
        with pytest.raises(NotInvertibleError, match="distilled into one step from t = 1 and has no"):
            verb(torch.zeros(2, 2))
    with pytest.raises(NotInvertibleError, match="has no log_prob"):
        student.sample(2, log_prob=True)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: reflow(pf.models.realnvp(2), 3), UserError, "reflow needs a path model.*NormalizingFlow"),
        (lambda: reflow(small(), 0), UserError, "n is 0"),
        (
            lambda: one_step(pf.models.ddpm(shape=(2,), path=pf.paths.Linear())),
            UserError,
            "predicts noise, which contains little of the data at t = 1",
        ),
        (lambda: one_step(pf.models.heat_ode(shape=(2,))), UserError, "heat_ode has no setting times"),
        (lambda: Pairs(torch.zeros(2, 2), None, torch.zeros(3, 2)), DataError, r"noise has shape \(3, 2\), but x has \(2, 2\)"),
        (lambda: pf.Trainer(small(), reflow(small(), 8), steps=1, batch_size=4, shift=1), UserError, "flip or shift is on"),
        (
            lambda: pf.Trainer(
                pf.models.rectified_flow(shape=(1, 4, 4), cond_image=(1, 4, 4)),
                pf.data.Dataset("masks", *torch.zeros(2, 8, 1, 4, 4)),
                steps=1,
                flip=True,
            ),
            UserError,
            "flip or shift is on, but the conditions are images",
        ),
        (lambda: straightness(pf.models.realnvp(2)), UserError, "NormalizingFlow has no trajectories"),
        (lambda: straightness(small(), 1), UserError, "n is 1"),
        (
            lambda: straightness(pf.models.flow_matching(classes=3), 4, torch.zeros(3).long()),
            ConditionError,
            "its leading dimension must be 4",
        ),
        (lambda: pf.times.Point(2.0), UserError, "t is 2.0"),
        (lambda: pf.times.Point(1.0).density(torch.zeros(1)), UserError, "a point mass"),
    ],
)
def test_what_cannot_be_is_refused_by_name(call, error, message):
    with pytest.raises(error, match=message):
        call()
