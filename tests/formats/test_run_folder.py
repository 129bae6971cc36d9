"""Run folders: checkpoints are ordered as numbers, only what is a run is replaced, and one process at a time writes."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import pushforward as pf
from pushforward.cli import main
from pushforward.errors import RunExistsError
from pushforward.evaluation.pictures import loss_curve, picture_of
from pushforward.formats.lock import HOLDER, LOCK, locked
from pushforward.formats.run import begun, checkpoints, is_run, mark_launch, step_of
from pushforward.training.progress import read_metrics

TINY = ["train", "rectified_flow", "--data", "moons", "--data-options", "n", "100", "--steps", "2", "--batch-size", "16", "--block", "8"]
NET = ["net:mlp", "--net.hidden", "8"]


def flow():
    return pf.models.rectified_flow(pf.nn.MLP.Config((8,)), (2,))


def fit(out, steps=2, **settings):
    return pf.Trainer(flow(), torch.randn(64, 2), out=out, steps=steps, batch_size=16, **settings).fit()


def train(out, *more):
    return main([*TINY, "--out", str(out), *more, *NET])


def test_checkpoints_are_ordered_as_numbers(tmp_path):
    kept = checkpoints(tmp_path)
    for step in (2, 30, 999_999, 1_000_000):
        kept.write(step, lambda folder: (folder / "step.txt").write_text("x"), best=False)
    assert kept.names() == ["step-999999", "step-1000000"]
    assert kept.newest_whole().name == "step-1000000"
    assert kept.newest_whole(before="step-1000000").name == "step-999999"
    assert (kept.path("last").name, step_of("step-x"), step_of("best")) == ("step-1000000", -1, -1)


def test_a_run_goes_on_from_its_millionth_step(tmp_path):
    data = torch.randn(64, 2)
    pf.Trainer(flow(), data, out=tmp_path, steps=4, batch_size=16, checkpoint_every=1).fit()
    for name, new in zip(checkpoints(tmp_path).names(), ("step-999999", "step-1000000"), strict=True):
        (tmp_path / "checkpoints" / name).rename(tmp_path / "checkpoints" / new)
    assert pf.Trainer(flow(), data, out=tmp_path, steps=9, batch_size=16, resume=True).step == 4


def test_a_used_folder_is_refused_continued_or_replaced(tmp_path):
    data = torch.randn(64, 2)
    pf.Trainer(flow(), data, out=tmp_path, steps=6, batch_size=16).fit()
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunExistsError, match="holds a run already; resume=True continues it, overwrite=True replaces it"):
        fit(tmp_path)
    assert checkpoints(tmp_path).names() == ["step-000006"]
    pf.Trainer(flow(), data, out=tmp_path, steps=3, batch_size=16, overwrite=True).fit()
    assert pf.Trainer(flow(), data, out=tmp_path, steps=9, batch_size=16, resume=True).step == 3
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_overwrite_in_python_spares_files_of_the_user_next_to_a_run(tmp_path):
    mine = [tmp_path / name for name in ("config.yaml", "samples/cat.png", "checkpoints/notes.txt", "notes.txt")]
    for file in mine:
        file.parent.mkdir(exist_ok=True)
        file.write_text("mine: true")
    fit(tmp_path, steps=3)
    drawn = tmp_path / "samples" / "step-000003.png"
    drawn.write_text("a sample grid")
    fit(tmp_path, overwrite=True)
    assert [file.read_text() for file in mine] == ["mine: true"] * 4
    assert not drawn.exists()
    assert checkpoints(tmp_path).names() == ["step-000002"]


def test_numbered_folders_of_others_are_no_checkpoints(tmp_path):
    (tmp_path / "checkpoints" / "step-1000").mkdir(parents=True)
    with pytest.raises(RunExistsError, match="is not a run"):
        fit(tmp_path, overwrite=True)
    assert (tmp_path / "checkpoints" / "step-1000").is_dir()


def test_overwrite_in_python_spares_what_is_no_run(tmp_path):
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "mine.txt").write_text("a year of work")
    with pytest.raises(RunExistsError, match="is not a run"):
        fit(tmp_path, overwrite=True)
    assert (tmp_path / "samples" / "mine.txt").exists()


def test_overwrite_spares_what_is_no_run(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text("title: my pages\n")
    (tmp_path / "draft.txt").write_text("a year of work")
    assert not is_run(tmp_path)
    assert train(tmp_path, "--overwrite") == 2
    assert "is not a run" in capsys.readouterr().err
    assert sorted(one.name for one in tmp_path.iterdir()) == ["config.yaml", "draft.txt"]


def test_the_old_run_stands_until_the_new_one_does(tmp_path, capsys):
    assert train(tmp_path / "run") == 0
    before = sorted(one.name for one in (tmp_path / "run").iterdir())
    for wrong in (["--accumulate", "7"], ["--lr", "-1"], ["--data", "nowhere.csv"], ["--bridge", "-1"]):
        assert main([*TINY, "--out", str(tmp_path / "run"), "--overwrite", *wrong, *NET]) in (1, 2)
        assert sorted(one.name for one in (tmp_path / "run").iterdir()) == before
    assert train(tmp_path / "run", "--overwrite") == 0


def test_a_teacher_is_never_its_students_folder(tmp_path, capsys):
    assert train(tmp_path / "run-1") == 0
    for command in (
        ["distill", str(tmp_path / "run-1"), "--out", str(tmp_path / "run-1")],
        ["reflow", str(tmp_path / "run-1"), "--out", str(tmp_path / "run")],
    ):
        assert main([*command, "--pairs", "20", "--overwrite"]) == 2
        assert "the run that the pairs come from" in capsys.readouterr().err
    assert checkpoints(tmp_path / "run-1").names()


HOLD = """
import sys, time
from pathlib import Path
from pushforward.formats.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of the folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_process_is_told_who_writes(tmp_path, holder, monkeypatch):
    monkeypatch.setattr("pushforward.formats.lock.PATIENCE", 0.1)
    for options in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(RunExistsError, match=f"is being written by process {holder.pid} on .* since 20"):
            fit(tmp_path, **options)


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path, holder):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert (tmp_path / HOLDER).exists()
    start = time.monotonic()
    fit(tmp_path)
    assert time.monotonic() - start < 5
    assert not (tmp_path / HOLDER).exists()


@pytest.mark.parametrize("name", [LOCK, HOLDER])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_lock_that_is_no_file_is_named(name, make, tmp_path):
    make(tmp_path / name)
    with pytest.raises(RunExistsError, match=f"{name} is no file"):
        fit(tmp_path)
    with pytest.raises(RunExistsError, match=f"{name} is no file"), locked(tmp_path):
        pass
    assert [one.name for one in tmp_path.iterdir()] == [name]


def test_a_lock_whose_holder_is_replaced_meanwhile_is_released(tmp_path):
    with locked(tmp_path):
        (tmp_path / HOLDER).unlink()
        os.mkdir(tmp_path / HOLDER)
    os.rmdir(tmp_path / HOLDER)
    with locked(tmp_path):
        pass


def test_a_lock_is_free_after_an_error(tmp_path):
    with pytest.raises(KeyboardInterrupt), locked(tmp_path):
        raise KeyboardInterrupt
    with locked(tmp_path):
        pass


def test_the_command_of_the_first_time_resumes(tmp_path):
    assert train(tmp_path / "run") == 0
    assert train(tmp_path / "run", "--resume") == 0


@pytest.mark.parametrize(("delimiter", "label"), [("\t", "yes"), (",", "null"), ("|", "1e3"), (";", "on")])
def test_options_of_data_are_text(delimiter, label, tmp_path):
    file = tmp_path / "t.csv"
    file.write_text(
        "\n".join(delimiter.join(row) for row in [("a", "b", label), *((f"{k / 7:.3f}", f"{k % 5}", f"{k % 2}") for k in range(40))])
    )
    options = ["train", "realnvp", "--data", str(file), "--data-options", "label", label, "delimiter", delimiter]
    options += ["--steps", "1", "--batch-size", "8", "--out", str(tmp_path / "run")]
    if label == "null":
        options[5:7] = []
    assert main(options) == 0
    assert main([*options, "--resume"]) == 0
    assert pf.load(tmp_path / "run").classes == (None if label == "null" else 2)


FOREIGN = [
    '{"step": 1, "lo',
    "a note",
    "[1, 2]",
    '{"loss": 2.0}',
    '{"step": "two", "loss": 1.0, "seconds": 1.0}',
    "[" * 100_000,
    '{"step": 1, "phases": 3}',
]


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert train(folder, "--checkpoint-every", "1") == 0
    return folder


@pytest.fixture
def damaged(whole_run, tmp_path):
    """A run whose metrics have lines of others and a byte that is no text, and whose evaluation is cut."""
    shutil.copytree(whole_run, tmp_path, dirs_exist_ok=True)
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write("\n".join(FOREIGN).encode() + b"\n\xff\n" + b'{"step": 2, "lo')
    (tmp_path / "evaluation.json").write_text('{"likelihood": ')
    return tmp_path


def test_json_of_others_in_the_metrics_is_no_row_and_stays(damaged):
    whole = read_metrics(damaged / "metrics.jsonl")
    assert whole
    assert all(row["step"] <= 2 and {"loss", "validation_loss"} & row.keys() for row in whole)
    assert main(["train", "--resume", "--out", str(damaged)]) == 0
    assert read_metrics(damaged / "metrics.jsonl") == whole
    lines = (damaged / "metrics.jsonl").read_text().splitlines()
    assert {"[1, 2]", '{"loss": 2.0}', '{"step": "two", "loss": 1.0, "seconds": 1.0}'} < set(lines)
    assert all(json.loads(line) for line in lines)


@pytest.mark.parametrize("evaluation", [b'{"likelihood": ', b"[]", b"{}", b"\xff", b'{"examples": 1, "split": "test", "likelihood": 3}'])
def test_a_damaged_file_stands_in_no_commands_way(damaged, capsys, evaluation):
    (damaged / "evaluation.json").write_bytes(evaluation)
    assert main(["info", str(damaged)]) == 0
    assert main(["compare", "--reported", str(damaged), str(damaged)]) == 0
    assert "evaluation.json; run `pushforward evaluate RUN` again." in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("pointer", [b"", b"\xff\xfe", b"step-000009\n", b"../..\n"])
def test_a_damaged_pointer_costs_no_checkpoint(tmp_path, pointer):
    data = torch.randn(64, 2)
    pf.Trainer(flow(), data, out=tmp_path, steps=4, batch_size=16, checkpoint_every=2).fit()
    for name in ("last", "best"):
        (tmp_path / "checkpoints" / name).write_bytes(pointer)
    assert checkpoints(tmp_path).path("best").name == "step-000004"
    assert pf.Trainer(flow(), data, out=tmp_path, steps=9, batch_size=16, resume=True).step == 4


def test_a_model_is_loaded_by_its_runs_pointers(tmp_path):
    fit(tmp_path)
    want = pf.load(tmp_path).state_dict()
    for name in ("best", "last", "step-000002"):
        found = pf.load(tmp_path / "checkpoints" / name).state_dict()
        assert all(torch.equal(found[key], one) for key, one in want.items())


def test_a_picture_replaces_the_old_one_only_when_it_is_finished(tmp_path, monkeypatch):
    path = tmp_path / "samples.png"
    picture_of(torch.randn(9, 2), str(path))  # of either type
    before = path.read_bytes()

    def broken(self, file, **options):
        Path(file).write_bytes(b"half of it")
        raise OSError("No space left on device")

    monkeypatch.setattr("matplotlib.backends.backend_agg.FigureCanvasAgg.print_png", broken)
    for draw in (lambda: picture_of(torch.randn(9, 2), path), lambda: loss_curve([{"step": 1, "loss": 1.0}], path)):
        with pytest.raises(OSError, match="No space"):
            draw()
    assert [one.name for one in tmp_path.iterdir()] == ["samples.png"]
    assert path.read_bytes() == before


def _killed_at_replace(number):
    """Return an os.replace whose process ends at one call, without any of the clean-up that an exception would do."""
    calls, replace = [], os.replace

    def killing(*paths):
        calls.append(paths)
        if len(calls) == number:
            os._exit(9)
        replace(*paths)

    return killing


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_a_kill_while_a_checkpoint_replaces_one_of_its_step_leaves_one(tmp_path, number):
    """Before the former one is moved, after it, and while the files that point to it are written."""
    own = checkpoints(tmp_path)
    own.write(3, lambda folder: (folder / "a").write_text("former"), best=True)
    process = multiprocessing.get_context("fork").Process(target=_write_and_die, args=(own, number))
    process.start()
    process.join()
    assert process.exitcode == 9
    own.recover()
    whole = own.newest_whole()
    assert whole.name == "step-000003"
    assert (whole / "a").read_text() == ("former" if number < 3 else "new")


def _write_and_die(own, number):
    os.replace = _killed_at_replace(number)
    own.write(3, lambda folder: (folder / "a").write_text("new"), best=True)


def test_a_run_killed_before_its_best_checkpoint_is_pointed_to_finds_it_again(tmp_path):
    """The files that point to checkpoints are written after them: the last checkpoint states which step is the best."""
    data, settings = torch.randn(64, 2), {"steps": 8, "batch_size": 16, "checkpoint_every": 2, "validate_every": 2, "warmup": 0, "lr": 0.01}
    start = lambda resume: pf.Trainer(  # noqa: E731
        pf.models.rectified_flow(pf.nn.MLP.Config((8,)), (2,)), data, validation=data, out=tmp_path, resume=resume, **settings
    )
    start(False).fit()
    own = checkpoints(tmp_path)
    best = own.pointed("best")
    assert best is not None
    for pointer in ("last", "best"):
        (own.folder / pointer).write_text("step-000001\n")
    start(True)
    assert (own.pointed("last"), own.pointed("best")) == ("step-000008", best)


def test_auto_continues_what_is_there_and_begins_what_is_not(tmp_path):
    data = torch.randn(64, 2)
    start = lambda resume: pf.Trainer(  # noqa: E731
        pf.models.rectified_flow(pf.nn.MLP.Config((8,)), (2,)), data, out=tmp_path, resume=resume, steps=4, batch_size=16
    )
    (tmp_path / "metrics.jsonl").write_text("")  # of a run that was killed before its first checkpoint
    assert start("auto").fit().step == 4
    assert start("auto").step == 4
    with pytest.raises(pf.errors.UserError, match="resume is 'yes', but it is True, False or 'auto'"):
        start("yes")


def test_the_command_with_auto_begins_continues_and_names_what_it_needs(tmp_path, capsys):
    out = tmp_path / "run"
    out.mkdir()
    (out / "config.yaml").write_text("model: {a: 1}\ntraining: {b: 2}\n")  # of a run that was killed before its first checkpoint
    train = ["train", "rectified_flow", "--data", "moons", "--steps", "2", "--batch-size", "16", "--validate-every", "0"]
    for form in (["--resume", "auto"], ["--resume=auto"]):
        assert main([*train, "--out", str(out), *form, "net:mlp", "--net.hidden", "8"]) == 0
    assert ", 0 steps into" in capsys.readouterr().err
    assert main([*train, "--resume", "auto"]) == 2
    assert "--resume auto needs the run to continue or to begin: give --out FOLDER." in capsys.readouterr().err
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("dear")
    assert main([*train, "--out", str(tmp_path / "other"), "--resume", "auto"]) == 2
    assert "is not a run" in capsys.readouterr().err


def test_a_launch_continues_its_own_run_after_a_restart_only(tmp_path):
    run = tmp_path / "run"
    assert begun(run, False, False, "one 1") == (False, False)
    mark_launch(run, "one 1")
    assert begun(run, False, True, "one 2") == (False, False)  # it has replaced the former run already
    checkpoints(run).write(1, lambda folder: (folder / "a").write_text("a"), best=False)
    assert begun(run, False, True, "one 2") == (True, False)
    assert begun(run, False, True, "two 1") == (False, True)
    assert begun(run, True, False, "") == (True, False)
    for other in ("one 1", "two 1", ""):  # again in the same processes, of another command, of one process
        with pytest.raises(RunExistsError, match="holds a run already"):
            begun(run, False, False, other)


@pytest.mark.parametrize("mask", [0o022, 0o027])
def test_who_may_read_a_file_is_what_the_umask_allows(mask, tmp_path):
    """A server that runs as another user reads the weights too."""
    before = os.umask(mask)
    try:
        model = pf.models.rectified_flow(pf.nn.MLP.Config((4,)), (2,))
        pf.Trainer(model, torch.randn(8, 2), validation=torch.randn(4, 2), steps=2, ema=0.5, out=tmp_path / "run", checkpoint_every=1).fit()
        pf.save(model, tmp_path / "saved")
    finally:
        os.umask(before)
    files = [one for folder in ("run", "saved") for one in (tmp_path / folder).rglob("*") if one.is_file()]
    assert {"model.safetensors", "raw.safetensors", "training.pt", "config.yaml"} <= {one.name for one in files}
    assert {one.name: oct(one.stat().st_mode & 0o777) for one in files if one.stat().st_mode & 0o777 != 0o666 & ~mask} == {}
