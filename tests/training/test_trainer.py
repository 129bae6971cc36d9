"""The training loop: the same bits after any interruption, every example once an epoch, and a sentence for what goes wrong."""

import json
import math
import os
import re
import signal
import tempfile
from pathlib import Path

import pytest
import torch

import pushforward as pf
from pushforward.errors import CheckpointError, DivergedError, PushforwardError, UserError
from pushforward.formats.model import RAW, WEIGHTS, read_weights
from pushforward.formats.run import checkpoints
from pushforward.training.guard import Guard
from pushforward.training.optimisation import Averaged, learning_rate, optimiser
from pushforward.training.order import BlockGenerators, Order, generator_at, seed_of
from pushforward.training.progress import Callback, MetricsFile, ProgressBar, read_metrics
from pushforward.training.settings import Settings

SMALL = {"steps": 12, "batch_size": 16, "block": 8, "checkpoint_every": 4, "validate_every": 4, "log_every": 2, "warmup": 3, "lr": 0.01}


def model():
    torch.manual_seed(0)
    return pf.models.rectified_flow(
        pf.nn.MLP.Config((8,)), (2,), classes=2, drop_cond=0.2, preprocess="standardise", pairing=pf.pairings.MinibatchOT()
    )


@pytest.fixture
def data():
    return pf.data.moons(n=50)


def trainer(data, out=None, **options):
    return pf.Trainer(model(), data, out=out, **{**SMALL, **options})


def weights(one):
    return {**{f"raw.{k}": v for k, v in one.model.state_dict().items()}, **one.averaged_model.state_dict()}


def same(one, two):
    return all(torch.equal(a, b) for a, b in zip(weights(one).values(), weights(two).values(), strict=True))


class Interrupt(Callback):
    """Send this process a signal in the middle of training."""

    def __init__(self, step, number=signal.SIGINT):
        self.at, self.number = step, number

    def on_step(self, trainer, metrics):
        if metrics["step"] == self.at:
            os.kill(os.getpid(), self.number)


class Failure(Callback):
    def on_step(self, trainer, metrics):
        if metrics["step"] == 6:
            raise RuntimeError("the power went")


@pytest.fixture
def straight(data):
    return trainer(data, validation=pf.data.moons("validation", n=20)).fit()


def resumed(data, out):
    torch.manual_seed(99)  # nothing may hang on the global generator
    return trainer(data, out, resume=True, validation=pf.data.moons("validation", n=20)).fit()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_resumes_to_the_same_bits(data, straight, tmp_path, number):
    first = trainer(data, tmp_path, callbacks=[Interrupt(6, number)], validation=pf.data.moons("validation", n=20)).fit()
    assert first.stopped_by == number
    assert first.step < 12
    second = resumed(data, tmp_path)
    assert same(second, straight)
    assert second.best == straight.best


def test_a_run_that_failed_resumes_from_its_last_checkpoint_to_the_same_bits(data, straight, tmp_path):
    with pytest.raises(RuntimeError, match="the power went"):
        trainer(data, tmp_path, callbacks=[Failure()]).fit()
    assert checkpoints(tmp_path).names() == ["step-000004"]
    assert same(resumed(data, tmp_path), straight)


@pytest.mark.parametrize("file", [WEIGHTS, RAW, "training.pt", "config.yaml", "manifest.json"])
def test_a_truncated_newest_checkpoint_is_passed_over_and_named(data, straight, tmp_path, capsys, file):
    trainer(data, tmp_path, callbacks=[Interrupt(6)], validation=pf.data.moons("validation", n=20)).fit()
    newest = checkpoints(tmp_path).folder / checkpoints(tmp_path).names()[-1]
    (newest / file).write_bytes((newest / file).read_bytes()[:20])
    assert same(resumed(data, tmp_path), straight)
    said = capsys.readouterr()
    assert f"{newest} is damaged, so training resumes from step-000004" in said.out + said.err


def test_resuming_a_finished_run_changes_nothing(data, tmp_path):
    first = trainer(data, tmp_path).fit()
    assert same(trainer(data, tmp_path, resume=True).fit(), first)


def test_the_handlers_of_signals_are_put_back(data):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    trainer(data, steps=1).fit()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize(("examples", "batch_size"), [(10, 3), (7, 7), (5, 12), (1, 3)])
def test_every_epoch_has_each_example_once(examples, batch_size):
    steps = 3 * examples
    drawn = [index for batch in Order(examples, batch_size, 0, 0, steps) for index in batch]
    epochs = [drawn[k : k + examples] for k in range(0, len(drawn) - examples + 1, examples)]
    assert len(drawn) == steps * batch_size
    assert all(sorted(epoch) == list(range(examples)) for epoch in epochs)


def test_epochs_are_shuffled_anew():
    drawn = [index for batch in Order(20, 20, 0, 0, 2) for index in batch]
    assert drawn[:20] != drawn[20:]
    assert drawn[:20] != list(range(20))


@pytest.mark.parametrize("start", [1, 4, 7])
def test_an_order_that_starts_later_is_the_rest_of_the_same(start):
    assert list(Order(10, 4, 3, start, 9)) == list(Order(10, 4, 3, 0, 9))[start:]


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1, 2**40])
def test_the_generators_of_blocks_begin_where_their_place_says(seed):
    generators = BlockGenerators(seed, range(2, 5))
    for step in (0, 1, 63, 64, 65, 3, 1000, 2**32 - 70):  # forwards, back, and past what is worked out together
        for block, one in zip(range(2, 5), generators.at(step), strict=True):
            assert one.initial_seed() == generator_at(seed, 1, step, block).initial_seed()


def test_another_seed_is_another_order():
    assert list(Order(10, 4, 3, 0, 9)) != list(Order(10, 4, 4, 0, 9))


def test_seeds_of_places_differ():
    places = (
        [(0, 1, step, block) for step in range(30) for block in range(30)] + [(0, 0, k) for k in range(30)] + [(1, 0, k) for k in range(30)]
    )
    assert len({seed_of(*place) for place in places}) == len(places)


def test_the_loss_of_two_blocks_is_the_mean_of_the_blocks(data):
    one, (x, cond) = model(), data[:16]
    together = one.loss(x, cond, generator=BlockGenerators(0, range(2)).at(5))
    apart = [
        one.loss(x[r], cond[r], generator=g) for r, g in zip((slice(0, 8), slice(8, 16)), BlockGenerators(0, range(2)).at(5), strict=True)
    ]
    torch.testing.assert_close(together, torch.stack(apart).mean(), rtol=1e-6, atol=1e-6)


def test_the_average_is_the_exponential_one():
    """a <- d a + (1 - d) w with d = min(decay, (1 + k) / (10 + k)); AveragedModel's first update copies."""
    net = torch.nn.Linear(1, 1, bias=False)
    average, expected = Averaged(net, 0.3), None
    for k, value in enumerate((1.0, 3.0, -2.0, 5.0)):
        torch.nn.init.constant_(net.weight, value)
        average.update_parameters(net)
        decay = min(0.3, (1 + k) / (10 + k))
        expected = value if expected is None else decay * expected + (1 - decay) * value
    assert average.module.weight.item() == pytest.approx(expected, rel=1e-6)


def test_without_an_average_the_trained_model_is_the_model(data):
    one = trainer(data, steps=2, ema=0.0).fit()
    assert one.averaged_model is one.model


def test_the_learning_rate_rises_and_falls_as_a_cosine():
    s = Settings(steps=110, warmup=10, lr=2.0, final_lr=0.1)
    rates = [learning_rate(s, step) for step in range(110)]
    assert rates[:10] == pytest.approx([0.2 * (k + 1) for k in range(10)])
    assert rates[10] == 2.0
    assert rates[60] == pytest.approx(2.0 * 0.55)  # half way: the mean of 1 and 0.1
    assert learning_rate(s, 110) == pytest.approx(0.2)
    assert sorted(rates[10:], reverse=True) == rates[10:]


def test_a_constant_learning_rate_stays():
    assert learning_rate(Settings(steps=100, warmup=0, lr=0.5, schedule="constant"), 99) == 0.5


def test_gradients_are_clipped_before_the_step(data):
    """SGD shows the length of the step, which AdamW would hide: with clip c it is lr c."""
    one = trainer(data, clip=1e-3, warmup=0, schedule="constant", ema=0.0)
    one._step.optimiser = torch.optim.SGD(one.model.parameters(), lr=1.0)
    before = [p.detach().clone() for p in one.model.parameters()]
    one._step(0, *data[:16])
    moved = math.sqrt(sum(float((p.detach() - q).square().sum()) for p, q in zip(one.model.parameters(), before, strict=True)))
    assert moved == pytest.approx(0.01 * 1e-3, rel=1e-3)


def test_only_matrices_decay():
    one = model()
    names = {id(p): name for name, p in one.named_parameters()}
    decayed, plain = ({names[id(p)] for p in group["params"]} for group in optimiser(one, Settings(weight_decay=0.5)).param_groups)
    assert decayed == {"net.layers.0.weight", "net.time.weight", "net.out.weight"}
    assert decayed | plain == set(names.values())


def test_validation_is_the_same_each_time(data):
    heard = []

    class Hear(Callback):
        def on_validation(self, trainer, metrics):
            heard.append(metrics["validation_loss"])

    one = trainer(data, steps=1, validation=pf.data.moons("validation", n=20), callbacks=[Hear()]).fit()
    one._validate()
    assert heard[0] == heard[1]
    assert one.model.training


class Break(Callback):
    """Spoil the weights, or the gradients of some steps."""

    def __init__(self, weights_at=None, gradients_of=(), value=math.nan):
        self.weights_at, self.gradients_of, self.value = weights_at, gradients_of, value

    def on_start(self, trainer):
        trainer.model.net.out.weight.register_hook(lambda g: g * (self.value if trainer.step in self.gradients_of else 1.0))

    def on_every_step(self, trainer):
        if trainer.step == self.weights_at:
            torch.nn.init.constant_(trainer.model.net.out.weight, math.nan)


def test_weights_that_are_nan_end_the_run_before_they_are_saved(data, tmp_path):
    with pytest.raises(DivergedError, match=r"up to step 8, 2 steps in a row .*norm is nan.* learning rate is 0.00\d+\); .*step-000004"):
        trainer(data, tmp_path, callbacks=[Break(6)]).fit()
    assert checkpoints(tmp_path).names() == ["step-000004"]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_step_without_a_finite_gradient_is_skipped_and_counted(data, value):
    other = trainer(data, steps=5, schedule="constant").fit()
    one = trainer(data, steps=6, schedule="constant", callbacks=[Break(gradients_of=[5], value=value)]).fit()
    assert one.skipped == 1
    assert same(one, other)


def test_a_spike_is_skipped_and_a_lasting_rise_becomes_usual():
    guard = Guard(spike=10.0)
    assert all(guard.takes(1.0) for _ in range(50))
    assert not guard.takes(1e6)
    assert guard.takes(1.0)
    taken = [guard.takes(100.0) for _ in range(1000)]
    assert not taken[0]
    assert taken[-1]
    assert guard.skipped == 1 + taken.count(False)


def test_a_run_ends_when_too_many_steps_in_a_row_are_skipped(data):
    with pytest.raises(DivergedError, match="up to step 8, 5 steps in a row"):
        trainer(data, skip_limit=5, log_every=100, validate_every=0, callbacks=[Break(gradients_of=range(3, 12))]).fit()


def test_what_the_guard_has_seen_survives_resuming(data, tmp_path):
    straight = trainer(data, callbacks=[Break(gradients_of=[2, 7])]).fit()
    trainer(data, tmp_path, callbacks=[Break(gradients_of=[2, 7]), Interrupt(6)]).fit()
    second = trainer(data, tmp_path, resume=True, callbacks=[Break(gradients_of=[2, 7])]).fit()
    assert second.skipped == straight.skipped == 2
    assert same(second, straight)


def test_callbacks_are_called_in_their_order(data, tmp_path):
    heard = []

    class Hear(Callback):
        def __getattribute__(self, name):
            if name.startswith("on_") and name != "on_every_step":
                return lambda trainer, *args: heard.append((name, trainer.step))
            return super().__getattribute__(name)

    trainer(data, tmp_path, steps=4, callbacks=[Hear()], validation=pf.data.moons("validation", n=20)).fit()
    assert heard == [("on_start", 0), ("on_step", 2), ("on_step", 4), ("on_validation", 4), ("on_save", 4), ("on_end", 4)]


def test_old_checkpoints_are_pruned_and_the_best_is_kept(data, tmp_path):
    """After the first checkpoint the output is spoilt for good: the first is the best, and stays beside the newest two."""

    class Spoil(Callback):
        def on_save(self, trainer, folder):
            torch.nn.init.constant_(trainer.model.net.out.bias, 100.0)

    validation = pf.data.moons("validation", n=20)
    one = trainer(data, tmp_path, steps=20, lr=1e-5, ema=0.0, validation=validation, callbacks=[Spoil()]).fit()
    saved = checkpoints(tmp_path)
    best = saved.path("best").name
    assert saved.names() == sorted({best, "step-000016", "step-000020"})
    assert best == "step-000004"
    assert saved.path("last").name == "step-000020"
    assert one.best < math.inf


def test_metrics_are_written_and_cut_back_on_resuming(data, tmp_path):
    metrics = tmp_path / "metrics.jsonl"
    with pytest.raises(RuntimeError):
        trainer(data, tmp_path, callbacks=[MetricsFile(metrics), Failure()]).fit()
    with metrics.open("a") as file:
        file.write('{"step": 8, "lo')  # a line cut off
    trainer(data, tmp_path, resume=True, callbacks=[MetricsFile(metrics)]).fit()
    assert [row["step"] for row in read_metrics(metrics)] == [2, 4, 6, 8, 10, 12]
    assert all(math.isfinite(json.loads(line)["loss"]) for line in metrics.read_text().splitlines())


def test_a_run_whose_folder_cannot_be_written_is_saved_elsewhere_and_goes_on_from_there(data, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "file").write_text("")
    broken = trainer(data, tmp_path / "file" / "run", checkpoint_every=5)
    with pytest.raises(CheckpointError, match=r"directory; step 5 is saved in (\S+): free some") as caught:
        broken.fit()
    elsewhere = Path(re.search(r"saved in (\S+):", str(caught.value))[1])
    assert same(trainer(data, elsewhere.parent, resume=True).fit(), trainer(data).fit())


def test_there_must_be_something_to_train(data):
    frozen = pf.models.realnvp(2, layers=2, hidden=(8,)).requires_grad_(False)
    for model, why in ((frozen, "all frozen"), (pf.families.NormalizingFlow(pf.bijections.Reverse(2)), "no parameters")):
        with pytest.raises(UserError, match=f"NormalizingFlow has nothing to train: .*{why}"):
            pf.Trainer(model, data.x, **SMALL)


def test_there_must_be_something_to_resume(data, tmp_path):
    with pytest.raises(CheckpointError, match="has no intact checkpoint to resume from"):
        trainer(data, tmp_path, resume=True)
    with pytest.raises(UserError, match="needs the run folder"):
        trainer(data, resume=True)


def test_weights_of_another_architecture_are_not_resumed(data, tmp_path):
    trainer(data, tmp_path, steps=1).fit()
    other = pf.models.rectified_flow(pf.nn.MLP.Config((9,)), (2,), classes=2, preprocess="standardise")
    with pytest.raises(CheckpointError, match="does not fit the model: .*another architecture"):
        pf.Trainer(other, data, out=tmp_path, resume=True, **SMALL)


def test_a_checkpoint_holds_average_and_raw_weights(data, tmp_path):
    one = trainer(data, tmp_path).fit()
    folder = checkpoints(tmp_path).path("last")
    assert torch.equal(read_weights(folder / RAW)["net.out.weight"], one.model.net.out.weight)
    assert torch.equal(read_weights(folder / WEIGHTS)["net.out.weight"], one.averaged_model.net.out.weight)


def test_the_loss_falls_on_moons():
    """From about 2 (the velocity's own variance) towards 1: 150 steps reach below 1.6 with a wide margin."""
    rows = []

    class Hear(Callback):
        def on_step(self, trainer, metrics):
            rows.append(metrics["loss"])

    net = pf.models.rectified_flow(pf.nn.MLP.Config((32, 32)), (2,), preprocess="standardise")
    pf.Trainer(net, pf.data.moons(n=500).x, steps=150, batch_size=128, lr=5e-3, warmup=10, log_every=25, callbacks=[Hear()]).fit()
    assert rows[-1] < 0.85 * rows[0]


@pytest.mark.parametrize("rows", ["tensor", "pairs", "tuples", "alone"])
def test_any_map_style_data_trains(rows):
    x, cond = torch.randn(20, 2), torch.arange(20) % 2
    sets = {
        "tensor": x,
        "pairs": torch.utils.data.TensorDataset(x, cond),
        "tuples": torch.utils.data.TensorDataset(x),
        "alone": [*x],
    }
    assert trainer(sets[rows], steps=2).fit().step == 2


@pytest.mark.parametrize("kind", ["tensor", "array", "set", "rows", "pairs"])
def test_validation_may_be_of_any_kind_that_data_may_be(kind):
    x = torch.randn(20, 2)
    kinds = {
        "tensor": x,
        "array": x.numpy(),
        "set": pf.data.Dataset("points", x),
        "rows": [*x],
        "pairs": torch.utils.data.TensorDataset(x, torch.arange(20) % 2),
    }
    assert 0 < trainer(x, validation=kinds[kind], steps=2).fit().best < 100


@pytest.mark.parametrize("name", ["data", "validation"])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (torch.zeros(0, 2), "data is empty; give at least one example"),
        (torch.zeros(8, 3), r"examples of shape \(3,\), but|x has shape \(8, 3\), but"),
        (torch.tensor(1.0), r"x has shape \(\), but must be"),
        ([[0.0, 1.0]] * 8, r"\[0\] is a list, but an example is a tensor x"),
        ([1.0] * 8, r"\[0\] is 1.0, but an example"),
        ("moons", "is 'moons', but it must be a tensor"),
        (iter([torch.zeros(2)]), "is a list_iterator, but it must be"),
    ],
)
def test_data_and_validation_that_are_none_are_refused(name, given, message):
    with pytest.raises(UserError, match=message):
        trainer(**{"data": torch.randn(20, 2), name: given})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "gpu"}, "device is 'gpu', which this machine does not have"),
        ({"callbacks": Callback()}, r"callbacks holds a pushforward.Callback, but it must be a list"),
        ({"callbacks": [print]}, r"callbacks holds a .*, but it must be a list of subclasses of training.Callback"),
        ({"out": __file__}, "is a file; give a folder"),
        ({"batch_size": 10**13, "block": 0}, "a batch of 10,000,000,000,000 examples needs"),
    ],
)
def test_what_the_trainer_cannot_use_is_refused(data, options, message):
    with pytest.raises(PushforwardError, match=message):
        trainer(data, **options)


@pytest.mark.parametrize(
    "build",
    [lambda hidden: pf.nn.MLP(2, 2, hidden), lambda hidden: pf.models.nsf(features=2, hidden=hidden)],
    ids=["mlp", "nsf"],
)
@pytest.mark.parametrize("hidden", [64, "64", (), (8, 0), (8.0,)])
def test_widths_that_are_none_are_refused(build, hidden):
    with pytest.raises(UserError, match="hidden is .*, but .*(needs at least one hidden layer|must be a sequence of integers)"):
        build(hidden)


def test_a_network_that_is_none_is_refused():
    with pytest.raises(UserError, match="net is 'mlp', but it must be a Module or function"):
        pf.models.rectified_flow("mlp", (2,))


def test_empty_data_is_refused():
    with pytest.raises(UserError, match="the training data is empty"):
        trainer([])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"lr": 0.0}, "lr is 0.0"),
        ({"lr": math.nan}, "lr is nan"),
        ({"ema": 1.0}, "ema is 1.0"),
        ({"clip": -1.0}, "clip is -1.0"),
        ({"block": 5}, "block is 5, which does not divide batch_size 16"),
        ({"warmup": -1}, "warmup is -1"),
        ({"final_lr": -5.0}, "final_lr is -5.0, but it is a share of lr from 0 to 1"),
        ({"final_lr": math.nan}, "final_lr is nan"),
        ({"weight_decay": math.nan}, "weight_decay is nan"),
        ({"spike": "no"}, "spike is 'no'"),
        ({"steps": 2.5}, "steps is 2.5, but it must be an integer"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 0.5}, "seed is 0.5"),
        ({"betas": (0.9, 1.0)}, "betas is"),
        ({"betas": 0.9}, "betas is 0.9"),
        ({"schedule": "linear"}, "schedule is 'linear'"),
        ({"compile": 1}, "compile is 1, but it is True or False"),
        ({"learning_rate": 1e-3}, "no setting 'learning_rate'"),
        ({"batchsize": 8}, "did you mean 'batch_size'"),
    ],
)
def test_bad_settings_are_refused(data, options, message):
    with pytest.raises(UserError, match=message):
        trainer(data, **options)


def test_a_batch_smaller_than_a_block_is_one_block():
    assert Settings(batch_size=16, block=64).blocks == 1


@pytest.mark.parametrize(("batch_size", "blocks"), [(256, 4), (100, 2), (64, 1), (101, 1), (1, 1), (96, 2)])
def test_without_a_block_the_largest_divisor_up_to_64_is_taken(batch_size, blocks):
    assert Settings(batch_size=batch_size).blocks == blocks


def test_the_progress_bar_says_loss_speed_and_time_left(data, capsys):
    trainer(data, callbacks=[ProgressBar()]).fit()
    said = capsys.readouterr().err
    assert "step 12/12" in said
    assert "steps/s" in said
    assert "s left" in said
