"""Faults that a machine, a disk or a scheduler brings, injected into a run: what it reports, and what is lost."""

import errno
import os
import re
import shutil
import signal
import sys
import time
from pathlib import Path

import killed
import pytest
import torch

import pushforward as pf
from pushforward.cli import main
from pushforward.formats.run import checkpoints
from pushforward.training import grids, saving, validation
from pushforward.training import trainer as training
from pushforward.training.step import Step

pytestmark = pytest.mark.faults
AT = 25  # the step at which a fault comes; checkpoints are of every tenth
CLI = ["train", "rectified_flow", "--data", "moons", "--data-options", "n", "200", "--steps", "60", "--batch-size", "32", "--block", "8"]
CLI += ["--warmup", "2", "--checkpoint-every", "10", "--validate-every", "20", "--log-every", "5"]
NET = ["net:mlp", "--net.hidden", "16", "16"]


def same(out, expected):
    """Whether a run left the tensors and metrics of another one."""
    tensors, rest = killed.outcome(out)
    return [name for name, one in tensors.items() if not torch.equal(one, expected[0][name])] == [] and rest == expected[1]


def continued(out, kind, undisturbed):
    """Whether the run continues to the bits of one that met no fault."""
    assert killed.end(killed.begin(out, kind)) == [0] * killed.KINDS[kind][0]
    return same(out, undisturbed(kind))


def at_step(step, act):
    """Call a function when this process begins a step."""
    take = Step.__call__

    def begin(self, number, *batch):
        if number == step:
            act()
        return take(self, number, *batch)

    Step.__call__ = begin


def refusing(out, number, code, lasting):
    """Let the n-th file that is opened for writing, made or renamed in a folder fail, or all from then on."""
    seen = []

    def on_event(event, arguments):
        path = str(arguments[0]) if arguments else ""
        if not (seen and path.startswith(f"{out}/")):
            return
        writes = event == "open" and (arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        if writes or event in ("os.mkdir", "os.rename"):
            seen.append(path)
            if len(seen) - 2 == number or (lasting and len(seen) - 2 > number):
                raise OSError(code, os.strerror(code), path)

    sys.addaudithook(on_event)
    at_step(AT, lambda: seen.append("armed"))


@pytest.mark.parametrize(
    ("name", "code", "lasting"),
    [("disk full", errno.ENOSPC, False), ("folder read-only", errno.EROFS, True), ("disk failing", errno.EIO, False)],
)
def test_a_folder_that_cannot_be_written_any_more_loses_no_step(name, code, lasting, undisturbed, record, tmp_path):
    """At each of the writes of a checkpoint, of metrics and of what points to checkpoints, in turn."""
    losses = []
    for number in range(0, 16, 1 if code == errno.ENOSPC else 3):
        out = tmp_path / f"run-{number}"
        ended = killed.end(killed.begin(out, "plain", before=lambda _, out=out, number=number: refusing(out, number, code, lasting)))
        if ended == [0]:  # it was the folder of the checkpoints, which is there already
            assert same(out, undisturbed("plain"))
            continue
        said = killed.message(out).read_text()
        found = re.fullmatch(rf"CheckpointError: cannot write .*: {os.strerror(code)}; step (\d+) (?:is|.* are) saved in (\S+): .*", said)
        assert found, said
        folder = Path(found[2])
        stored = int(checkpoints(folder.parent).newest_whole().name[-6:])
        losses.append(int(found[1]) - stored)
        shutil.copytree(folder, out / "checkpoints", dirs_exist_ok=True)
        shutil.rmtree(folder.parent)
        assert killed.end(killed.begin(out, "plain")) == [0]
        tensors, rest = killed.outcome(out)
        expected, others = undisturbed("plain")
        assert [name for name, one in tensors.items() if not torch.equal(one, expected[name])] == []
        assert rest[:3] == others[:3]
        assert set(rest[3]) <= set(others[3])
        assert len(rest[3]) >= len(others[3]) - 1  # the line of metrics that could not be written
    assert set(losses) == {0}
    assert len(losses) >= 5
    record(name, times=len(losses), lost=max(losses), every=killed.EVERY)


class DyingRows(torch.utils.data.Dataset):
    """Rows whose worker kills itself at one reading, or waits."""

    def __init__(self, reading, act):
        self.data, self.left, self.act = pf.data.moons(n=200), reading, act

    def __len__(self):
        return len(self.data)

    def __getitems__(self, indices):
        self.left -= 1
        if self.left == 0 and torch.utils.data.get_worker_info() is not None:
            self.act()
        return self.data.__getitems__(indices)

    def fingerprint(self):
        return self.data.fingerprint()


@pytest.mark.parametrize(
    ("act", "settings", "said"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), {}, r"exited unexpectedly|killed by signal: Killed"),
        (lambda: time.sleep(100), {"timeout": 2.0}, "timed out after 2"),
    ],
    ids=["killed", "hung"],
)
def test_a_worker_of_the_loader_that_ends_or_hangs_is_named(act, settings, said, undisturbed, record, tmp_path):
    out = tmp_path / "run"
    ended = killed.end(killed.begin(out, "plain", data=DyingRows(AT, act), workers=1, **settings))
    assert ended == [1]
    error = killed.message(out).read_text()
    assert error.startswith("WorkerError: a worker that loads data has ended or does not respond: DataLoader ")
    assert re.search(said, error), error
    assert checkpoints(out).newest_whole().name == "step-000020"
    assert continued(out, "plain", undisturbed)
    record(f"loader worker, {'hung' if settings else 'killed'}", lost=AT - 1 - 20, every=killed.EVERY)


@pytest.mark.parametrize(("name", "factor"), [("NaN", float("nan")), ("spike", 1e4)])
def test_one_gradient_that_is_not_usable_costs_its_own_step(name, factor, record, tmp_path):
    def poison():
        take = Step._apply

        def apply(self, norm):
            Step._apply = take
            for p in self.parameters:
                p.grad.mul_(factor)
            return take(self, norm * factor)

        Step._apply = apply

    out = tmp_path / "run"
    assert killed.end(killed.begin(out, "plain", before=lambda _: at_step(AT, poison), spike=20.0)) == [0]
    tensors, (_, _, state, _) = killed.outcome(out)
    assert state["guard"]["skipped"] == 1
    assert all(bool(one.isfinite().all()) for one in tensors.values())
    record(name, lost=state["guard"]["skipped"], every=killed.EVERY)


def test_gradients_that_stay_nan_end_the_run_and_leave_its_last_good_checkpoint(undisturbed, record, tmp_path):
    def poison():
        take = Step._apply
        Step._apply = lambda self, norm: take(self, float("nan"))

    out = tmp_path / "run"
    assert killed.end(killed.begin(out, "plain", before=lambda _: at_step(AT, poison), skip_limit=4)) == [1]
    said = killed.message(out).read_text()
    assert re.match(r"DivergedError: up to step 29, 4 steps in a row had no usable gradient .*last good checkpoint is .*step-000020", said)
    assert continued(out, "plain", undisturbed)
    record("NaN that stays", lost=AT - 20, every=killed.EVERY)


@pytest.mark.parametrize(
    ("name", "act", "said"),
    [
        ("process hangs", lambda: time.sleep(1000), "process 3 has terminated or hangs"),
        ("process killed", lambda: os.kill(os.getpid(), signal.SIGKILL), "process 3 has terminated or hangs"),
        ("process fails", lambda: (_ for _ in ()).throw(OSError("the cable broke")), "process 3 ended: the cable broke"),
    ],
    ids=["hangs", "killed", "fails"],
)
def test_a_process_in_trouble_is_named_by_each_of_the_others(name, act, said, record, tmp_path):
    out = tmp_path / "run"
    began = time.monotonic()
    running = killed.begin(out, "of four processes", before=lambda rank: rank == 3 and at_step(AT, act), timeout=8.0)
    killed.end(running[:3], together=False)
    seconds = time.monotonic() - began
    running[3].kill()
    assert [one.exitcode for one in running[:3]] == [1, 1, 1]
    for rank in range(3):
        assert re.search(rf"{said}.*\(noticed by process {rank} of 4\)", killed.message(out, rank).read_text())
    assert checkpoints(out).newest_whole().name == "step-000020"
    record(name, lost=AT - 20, every=killed.EVERY, seconds=round(seconds))


def test_a_straggler_within_the_timeout_costs_nothing(undisturbed, record, tmp_path):
    out = tmp_path / "run"
    slow = lambda rank: rank == 1 and at_step(AT, lambda: time.sleep(4))  # noqa: E731
    assert killed.end(killed.begin(out, "sharded", before=slow, timeout=30.0)) == [0, 0]
    assert same(out, undisturbed("sharded"))
    record("straggler", lost=0, every=killed.EVERY)


def _terminated_in(where):
    """Send this process SIGTERM in a phase of a run."""

    def terminating(function):
        calls = []

        def call(*args, **kwargs):
            calls.append(args)
            if len(calls) == 2 or where in ("start", "end"):
                os.kill(os.getpid(), signal.SIGTERM)
            return function(*args, **kwargs)

        return call

    place, name = {
        "start": (training, "as_dataset"),
        "training": (Step, "_apply"),
        "saving": (saving.Snapshot, "write"),
        "evaluating": (validation, "_add_losses"),
        "sampling": (grids.SampleGrid, "_draw"),
        "end": (training.Trainer, "_settle"),
    }[where]
    setattr(place, name, terminating(getattr(place, name)))


def _command(arguments, where):
    if where is not None:
        _terminated_in(where)
    take, killed.REACHED.value = Step.__call__, 0

    def step(self, number, *batch):
        taken = take(self, number, *batch)
        killed.REACHED.value = number + 1
        return taken

    Step.__call__ = step
    os._exit(main(arguments))


@pytest.fixture(scope="module")
def commanded(tmp_path_factory):
    out = tmp_path_factory.mktemp("commanded") / "run"
    process = killed.FORK.Process(target=_command, args=([*CLI, "--out", str(out), *NET], None))
    process.start()
    assert killed.end([process]) == [0]
    return killed.outcome(out)


@pytest.mark.parametrize("where", ["start", "training", "saving", "evaluating", "sampling", "end"])
def test_sigterm_of_a_scheduler_in_any_phase_loses_nothing(where, commanded, record, tmp_path):
    out = tmp_path / "run"
    command = [*CLI, "--out", str(out), "--resume", "auto", *NET]
    process = killed.FORK.Process(target=_command, args=(command, where))
    process.start()
    assert killed.end([process]) == [128 + signal.SIGTERM]
    lost, unfinished = killed.lost(out)
    assert (checkpoints(out).newest_whole() is None) == (where == "start")
    assert (lost, unfinished) == (0, 0)
    process = killed.FORK.Process(target=_command, args=(command, None))
    process.start()
    assert killed.end([process]) == [0]
    tensors, rest = killed.outcome(out)
    assert [name for name, one in tensors.items() if not torch.equal(one, commanded[0][name])] == []
    assert rest[:3] == commanded[1][:3]
    record(f"SIGTERM, {where}", lost=lost, every=10)
