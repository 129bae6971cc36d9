"""Ctrl-C and SIGTERM in every phase of training and in every command: obeyed at once, and nothing is lost."""

import os
import signal
import time

import pytest
import torch

import pushforward as pf
from pushforward.cli import main
from pushforward.errors import StoppedWarning
from pushforward.formats.run import checkpoints
from pushforward.training.grids import SampleGrid
from pushforward.training.progress import Callback
from pushforward.training.signals import HANDLED

SMALL = {"steps": 8, "batch_size": 16, "block": 8, "checkpoint_every": 0, "validate_every": 4, "log_every": 1, "warmup": 2}


def model():
    torch.manual_seed(0)
    return pf.models.rectified_flow(pf.nn.MLP.Config((8,)), (2,))


class Rows(torch.utils.data.Dataset):
    """Rows that send this process a signal at one reading, and count the readings."""

    def __init__(self, n=64, at=None, number=signal.SIGTERM):
        self.x, self.at, self.number, self.read = torch.randn(n, 2, generator=torch.Generator().manual_seed(n)), at, number, 0

    def __len__(self):
        return len(self.x)

    def __getitem__(self, k):
        self.read += 1
        if self.read == self.at:
            os.kill(os.getpid(), self.number)
        return self.x[k], None


def fit(out, data=None, validation=None, **more):
    return pf.Trainer(model(), data or Rows(), validation=validation or Rows(40), out=out, **{**SMALL, **more}).fit()


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.model.state_dict().values(), other.model.state_dict().values(), strict=True))


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    return fit(tmp_path_factory.mktemp("straight"))


@pytest.mark.parametrize(("at", "step"), [(20, 4), (60, 8)], ids=["first", "last"])
@pytest.mark.parametrize("number", HANDLED)
def test_a_validation_is_cut_short_and_done_again(tmp_path, straight, number, at, step):
    validation = Rows(40, at=at, number=number)
    with pytest.warns(StoppedWarning, match=rf"{number.name} stopped training at step {step}; .* is saved, and resume=True continues it"):
        stopped = fit(tmp_path, validation=validation)
    assert (stopped.stopped_by, stopped.step, validation.read) == (number, step, at)
    assert checkpoints(tmp_path).names()[-1] == f"step-{step:06d}"
    resumed = fit(tmp_path, resume=True)
    assert same(resumed, straight)
    assert (resumed.best, resumed.stopped_by) == (straight.best, None)
    assert checkpoints(tmp_path).path("best").name == checkpoints(straight.out).path("best").name


def test_a_signal_while_the_next_batch_is_read_loses_no_step(tmp_path, straight):
    data = Rows()
    before = pf.Trainer(model(), data, validation=Rows(40), **SMALL)
    data.at = data.read + 5 * 16 + 3  # in the sixth batch
    with pytest.warns(StoppedWarning, match="step 5; nothing was saved, as there is no out"):
        assert before.fit().step == 5
    with pytest.warns(StoppedWarning):
        assert fit(tmp_path, data=Rows(at=data.at)).step == 5
    assert same(fit(tmp_path, resume=True), straight)


def test_drawing_samples_is_cut_short(tmp_path, monkeypatch):
    def endless(*arguments, **options):
        os.kill(os.getpid(), signal.SIGTERM)
        while True:
            time.sleep(0.01)

    monkeypatch.setattr("pushforward.families.path_model.PathModel.sample", endless)
    with pytest.warns(StoppedWarning):
        stopped = fit(tmp_path, callbacks=[SampleGrid(tmp_path / "samples")])
    assert (stopped.step, stopped.model.training) == (4, True)
    assert checkpoints(tmp_path).names() == ["step-000004"]


def test_a_second_interrupt_stops_at_once():
    class Impatient(Callback):
        def on_every_step(self, trainer):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    handlers = [signal.getsignal(number) for number in HANDLED]
    with pytest.raises(KeyboardInterrupt):
        fit(None, callbacks=[Impatient()])
    assert [signal.getsignal(number) for number in HANDLED] == handlers


@pytest.mark.parametrize("number", HANDLED)
@pytest.mark.parametrize(
    "phase", ["pushforward.cli.evaluate.judge", pytest.param("pushforward.evaluation.run_pictures.trajectory", marks=pytest.mark.slow)]
)
def test_judging_is_cut_short_and_keeps_what_was_there(tmp_path, capsys, monkeypatch, number, phase):
    fit(tmp_path, steps=4)
    (tmp_path / "config.yaml").write_text((tmp_path / "checkpoints" / "step-000004" / "config.yaml").read_text() + "data: {name: moons}\n")
    (tmp_path / "trajectory.png").write_bytes(b"the old one")

    def cut(*arguments, **options):
        os.kill(os.getpid(), number)
        time.sleep(10)

    monkeypatch.setattr(phase, cut)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts what runs in the background with SIGINT ignored
    handlers = [signal.getsignal(one) for one in HANDLED]
    assert main(["evaluate", str(tmp_path), "--samples", "8", "--compared", "8", "--evaluations", "1"]) == 128 + number
    assert {signal.SIGINT: "interrupted.", signal.SIGTERM: "terminated."}[number] in capsys.readouterr().err
    assert (tmp_path / "trajectory.png").read_bytes() == b"the old one"
    assert not list(tmp_path.glob(".*.tmp"))
    assert [signal.getsignal(one) for one in HANDLED] == handlers
