"""When a run validates, keeps its best weights and ends early; noise on its inputs; the settings that are chosen for small data."""

import math

import pytest
import torch

import pushforward as pf
from pushforward.errors import DivergedError, UserError
from pushforward.families.normalizing_flow import NormalizingFlow
from pushforward.formats.run import checkpoints
from pushforward.training.progress import Callback
from pushforward.training.settings import Settings
from pushforward.training.validation import DRAWS, PATIENCE, SMALL, schedule_of

OPTIONS = {"batch_size": 16, "warmup": 2, "lr": 0.02, "log_every": 100, "ema": 0.9}


def rows(n, seed=0):
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(seed)).cumsum(1)


def flow(**options):
    torch.manual_seed(0)
    return pf.models.maf(3, 2, (8,), preprocess="standardise", **options)


def trainer(out=None, model=None, **options):
    return pf.Trainer(flow() if model is None else model, rows(32), validation=rows(16, 1), out=out, **{**OPTIONS, **options})


class Validations(Callback):
    def __init__(self):
        self.steps, self.losses = [], []

    def on_validation(self, trainer, metrics):
        self.steps.append(metrics["step"])
        self.losses.append(metrics["validation_loss"])


class Stop(Callback):
    """Fail at a step."""

    def __init__(self, at):
        self.at = at

    def on_every_step(self, trainer):
        if trainer.step == self.at:
            raise RuntimeError("the power went")


class Broken(Callback):
    """Break the weights at a step, so that no gradient is usable from there on."""

    def __init__(self, at):
        self.at = at

    def on_every_step(self, trainer):
        if trainer.step == self.at:
            with torch.no_grad():
                next(trainer.model.bijection.parameters()).fill_(math.nan)


@pytest.mark.parametrize(("train", "validation", "steps"), [(100, 14, 2000), (1000, 100, 300), (60_000, 5000, 2000), (50, 10, 7)])
def test_validation_starts_in_the_first_epoch_and_takes_at_most_a_quarter_of_the_time(train, validation, steps):
    schedule = schedule_of(Settings(steps=steps), train, validation)
    due = [step for step in range(1, steps + 1) if schedule.due(step)]
    assert due[-1] == steps
    assert len(due) <= 52
    forwards = (len(due) - 2) * DRAWS * validation / 3  # the first and the last are there at any cost
    assert forwards <= 0.25 * steps * 256
    assert len(due) >= 49 or steps < 49 or 1.5 * (len(due) + 1) * DRAWS * validation / 3 > 0.25 * steps * 256
    assert due[0] <= max(math.ceil(train / 256), steps // 50, DRAWS * validation)
    assert 10 <= sum(map(schedule.draws_grid, due)) <= 12 or len(due) < 12


def test_a_stated_interval_is_kept():
    schedule = schedule_of(Settings(steps=100, validate_every=30), 50, 10)
    assert [step for step in range(1, 101) if schedule.due(step)] == [30, 60, 90, 100]
    assert all(map(schedule.draws_grid, (30, 60, 90, 100)))
    last = schedule_of(Settings(steps=100, validate_every=0), 50, 10)
    assert [step for step in range(1, 101) if last.due(step)] == [100]


def test_patience_is_for_small_data_unless_it_is_given():
    of = {n: schedule_of(Settings(), n, 10).patience for n in (SMALL - 1, SMALL)}
    assert of == {SMALL - 1: PATIENCE, SMALL: 0}
    assert schedule_of(Settings(patience=0), 100, 10).patience == 0
    assert schedule_of(Settings(patience=3), 10**6, 10).patience == 3


def test_a_run_ends_when_validation_no_longer_improves_and_keeps_the_best_weights():
    seen = Validations()
    run = trainer(steps=2000, validate_every=5, patience=4, callbacks=[seen]).fit()
    assert run.ended_early
    assert run.step == seen.steps[-1] < 2000
    best = min(range(len(seen.losses)), key=seen.losses.__getitem__)
    assert len(seen.losses) == best + 1 + 4
    model = run.best_model
    assert not model.training
    assert -float(model.log_prob(rows(16, 1)).detach().mean()) / 3 == pytest.approx(run.best, abs=1e-6)
    assert run.best == seen.losses[best]


def test_without_validation_the_best_model_is_the_last_average():
    run = pf.Trainer(flow(), rows(32), steps=3, **OPTIONS).fit()
    assert all(torch.equal(a, b) for a, b in zip(run.best_model.parameters(), run.averaged_model.parameters(), strict=True))


def test_the_best_weights_are_written_with_the_next_checkpoint(tmp_path):
    run = trainer(tmp_path, steps=2000, validate_every=5, patience=4, checkpoint_every=1000).fit()
    saved = checkpoints(tmp_path)
    best, last = saved.path("best"), saved.path("last")
    assert last.name == f"step-{run.step:06d}"
    assert best.name == f"step-{run.step - 20:06d}"
    for model in (pf.load(tmp_path), pf.Trainer(flow(), rows(32), out=tmp_path, resume=True, **OPTIONS).best_model):
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), run.best_model.parameters(), strict=True))


@pytest.mark.parametrize("at", [33, pytest.param(61, marks=pytest.mark.slow)])
def test_a_run_that_failed_ends_early_at_the_same_step_with_the_same_bits(tmp_path, at):
    options = {"steps": 2000, "validate_every": 5, "patience": 4, "checkpoint_every": 12, "input_noise": 0.0}
    straight = trainer(**options).fit()
    assert straight.step > at, "the failure must come before the end"
    with pytest.raises(RuntimeError, match="the power went"):
        trainer(tmp_path, callbacks=[Stop(at)], **options).fit()
    resumed = trainer(tmp_path, resume=True, **options).fit()
    assert (resumed.step, resumed.best) == (straight.step, straight.best)
    for name in ("model", "averaged_model", "best_model"):
        one, two = getattr(resumed, name), getattr(straight, name)
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True)), name
    again = trainer(tmp_path, resume=True, **options).fit()
    assert again.step == straight.step, "a run that has ended early takes no more steps"


def test_the_best_weights_are_not_lost_when_a_run_diverges(tmp_path):
    with pytest.raises(DivergedError):
        trainer(tmp_path, steps=60, validate_every=5, checkpoint_every=1000, callbacks=[Broken(22)]).fit()
    assert checkpoints(tmp_path).pointed("best") == "step-000020"
    assert all(bool(p.isfinite().all()) for p in pf.load(tmp_path).parameters())


def test_a_loss_without_random_numbers_is_computed_once_in_validation(monkeypatch):
    calls = []
    plain = NormalizingFlow.loss
    monkeypatch.setattr(
        NormalizingFlow, "loss", lambda self, *args, **options: calls.append(self.training) or plain(self, *args, **options)
    )
    run = trainer(steps=2, validate_every=0)
    calls.clear()
    run.fit()
    assert calls.count(False) == 1  # 16 rows are one batch
    quantised = pf.Trainer(
        pf.models.maf(3, 1, (8,), levels=4), torch.randint(0, 4, (32, 3)).float(), validation=torch.randint(0, 4, (16, 3)).float(),
        **{**OPTIONS, "steps": 1, "validate_every": 0},
    )  # fmt: skip
    calls.clear()
    quantised.fit()
    assert calls.count(False) == DRAWS


def test_input_noise_is_of_train_mode_only_and_falls_to_zero():
    settings = Settings(steps=10, input_noise=0.5)
    assert [settings.noise_at(step) for step in (0, 5, 10)] == [0.5, 0.25, 0.0]
    model, x = NormalizingFlow(pf.bijections.LULinear(3), preprocess=pf.bijections.Standardise((3,))), rows(4000)
    model.initialise(x)
    model.input_noise = 0.5
    with torch.no_grad():
        clean = model.eval().loss(x)
        noisy = model.train().loss(x, generator=torch.Generator().manual_seed(1))
    # An untrained flow is N(0, I) in standardised units, so noise of variance 1/4 adds half of that to the loss.
    assert float(noisy - clean) == pytest.approx(0.125, abs=0.02)
    run = trainer(steps=3, input_noise=0.5).fit()
    assert run.model.input_noise == run.averaged_model.input_noise == run.best_model.input_noise == 0.0


def test_patience_waits_while_there_is_much_noise():
    schedule = schedule_of(Settings(steps=100, input_noise=0.5, validate_every=10, patience=2), 50, 10)
    stale = 0
    for step in range(10, 60, 10):
        stale = schedule.stale(stale, step, better=False)
    assert stale == 1  # of step 50, the middle of the run
    assert schedule.stale(7, 60, better=True) == 0


@pytest.mark.parametrize(
    "bad", [{"patience": -1}, {"patience": 1.5}, {"validate_every": -1}, {"input_noise": -0.1}, {"input_noise": math.nan}]
)
def test_bad_settings_are_refused(bad):
    with pytest.raises(UserError, match=next(iter(bad))):
        Settings(**bad)


@pytest.mark.parametrize("preset", ["nsf", "maf", "realnvp", "iaf", "nice"])
def test_settings_for_small_data_build_a_model_with_dropout_that_a_saved_run_keeps(preset, tmp_path):
    train = pf.data.load("wine")
    chosen = pf.training.defaults(preset, train)
    assert chosen.model["dropout"] > 0
    assert "144 examples of 13 features" in str(chosen)
    model = getattr(pf.models, preset)(schema=train.schema, **chosen.model)
    x, labels = train.x[:8], None if model.classes is None else train.cond[:8]
    pf.save(model, tmp_path / "saved")
    with torch.no_grad():
        model.initialise(train.x)
        torch.manual_seed(1)
        assert not torch.equal(model.train().loss(x, labels), model.loss(x, labels)) or preset == "nice", "dropout draws anew"
        assert torch.equal(model.eval().loss(x, labels), model.loss(x, labels))
        with pf.fast.disabled():
            plain = model.log_prob(x, labels)
        assert torch.allclose(model.log_prob(x, labels), plain, atol=1e-4)
    assert pf.load(tmp_path / "saved").config["model"]["dropout"] == chosen.model["dropout"]


def test_the_fewer_the_examples_the_more_splines_are_regularised():
    few, more = pf.data.load("wine"), pf.data.Dataset("more", torch.zeros(2000, 13))
    of = {(preset, data.name): pf.training.defaults(preset, data) for preset in ("nsf", "maf") for data in (few, more)}
    noise = {key: one.training["input_noise"] * math.sqrt(144 if key[1] == "wine" else 2000) for key, one in of.items()}
    assert noise["nsf", "wine"] > 1.2 * noise["maf", "wine"]
    assert noise["maf", "wine"] == pytest.approx(noise["nsf", "more"], rel=0.1)
    assert of["nsf", "wine"].model["dropout"] > of["maf", "wine"].model["dropout"] == of["nsf", "more"].model["dropout"]
    assert of["maf", "wine"].training["lr"] < of["maf", "more"].training["lr"]
    assert [key for key, one in of.items() if "steps" in one.training] == [("nsf", "wine")]


def test_small_images_get_a_small_network():
    digits = pf.data.load("digits")
    chosen = pf.training.defaults("ddpm", digits)
    sizes = [
        sum(p.numel() for p in pf.models.ddpm(shape=digits.shape, classes=10, **options).parameters()) for options in (chosen.model, {})
    ]
    assert 5 * sizes[0] < sizes[1]
    assert "net UNet.Config(channels=32" in str(chosen)
    assert "net" not in pf.training.defaults("glow", digits).model
    assert "net" not in pf.training.defaults("ddpm", pf.data.Dataset("odd", torch.zeros(20, 1, 7, 8))).model


def test_settings_for_larger_data_and_other_models_are_those_of_the_preset():
    large = torch.utils.data.TensorDataset(torch.zeros(SMALL, 4))
    assert pf.training.defaults("nsf", pf.data.Dataset("large", large.tensors[0])).model == {"preprocess": "standardise"}
    chosen = pf.training.defaults("ddpm", pf.data.load("wine"))
    assert (chosen.training, str(chosen)) == ({}, "")
    with pytest.raises(UserError, match="did you mean 'nsf'"):
        pf.training.defaults("nsff", pf.data.load("wine"))


@pytest.mark.parametrize("share", [-0.1, 1.0, math.nan, "half"])
def test_dropout_is_a_share(share):
    for build in (pf.models.nsf, pf.models.maf):
        with pytest.raises(UserError, match="dropout"):
            build(4, dropout=share)
