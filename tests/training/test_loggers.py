"""Experiment trackers get what the metrics file gets, in one run for each training, whether it was interrupted or not."""

import json
import struct
import sys
import types

import pytest
import torch

import pushforward as pf
from pushforward.errors import UserError
from pushforward.training.progress import Callback, MetricsFile, read_metrics
from pushforward.training.tracing import scalars

SETTINGS = {"batch_size": 16, "block": 16, "warmup": 1, "log_every": 2, "checkpoint_every": 2, "validate_every": 2}


class Stop(Callback):
    """Ends training after a step, as a killed session would."""

    def __init__(self, step):
        self.step = step

    def on_every_step(self, trainer):
        if trainer.step >= self.step:
            raise RuntimeError("killed")


def fit(out, *callbacks, steps=6, **options):
    torch.manual_seed(0)
    model, data = pf.models.rectified_flow(pf.nn.MLP.Config((8,)), (2,)), pf.data.moons(n=64).x
    callbacks = [MetricsFile(out / "metrics.jsonl"), *callbacks]
    out.mkdir(exist_ok=True)
    config = {"data": {"name": "moons"}}
    return pf.Trainer(model, data, validation=data, out=out, steps=steps, callbacks=callbacks, config=config, **SETTINGS, **options).fit()


def killed_and_resumed(out, logger):
    with pytest.raises(RuntimeError, match="killed"):
        fit(out, logger(), Stop(4))
    fit(out, logger(), resume=True)


def test_a_row_becomes_numbers_by_name():
    row = {"step": 3, "loss": 0.5, "phases": {"data": 1.0}, "loss_by_t": [None, 2.0]}
    assert scalars(row) == {"loss": 0.5, "phases/data": 1.0, "loss_by_t/0.5-1.0": 2.0}


@pytest.fixture
def store(tmp_path, monkeypatch):
    """The address of a tracking store in files, which MLflow asks to be allowed."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return f"file:{tmp_path / 'store'}"


@pytest.mark.slow
def test_mlflow_gets_what_the_metrics_file_gets(tmp_path, store):
    mlflow = pytest.importorskip("mlflow.tracking")
    killed_and_resumed(tmp_path / "run", lambda: pf.training.MLflow("points", uri=store))
    client = mlflow.MlflowClient(tracking_uri=store)
    (run,) = client.search_runs([client.get_experiment_by_name("points").experiment_id])
    assert run.info.run_id == (tmp_path / "run" / ".mlflow-id").read_text().strip()
    assert run.info.status == "FINISHED"
    assert run.data.tags["mlflow.runName"] == "run"
    assert run.data.params["training.lr"] == "0.001"
    assert run.data.params["data.name"] == "moons"
    rows = [row for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if "loss" in row]
    logged = {one.step: one.value for one in client.get_metric_history(run.info.run_id, "loss")}
    assert logged == {row["step"]: pytest.approx(row["loss"]) for row in rows}
    assert {one.step for one in client.get_metric_history(run.info.run_id, "validation_loss")} == {2, 4, 6}


def test_a_replaced_run_is_another_one_in_mlflow(tmp_path, store):
    mlflow = pytest.importorskip("mlflow.tracking")
    for overwrite in (False, True):
        fit(tmp_path / "run", pf.training.MLflow(uri=store), steps=2, overwrite=overwrite)
    client = mlflow.MlflowClient(tracking_uri=store)
    assert len(client.search_runs([client.get_experiment_by_name("pushforward").experiment_id])) == 2


def test_mlflow_that_cannot_be_reached_is_one_sentence(tmp_path, monkeypatch):
    pytest.importorskip("mlflow.tracking")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UserError, match="mlflow cannot start a run .*check MLFLOW_TRACKING_URI, or give another uri"):
        fit(tmp_path, pf.training.MLflow(uri="http://127.0.0.1:9"))


class Unreachable:
    """A client of MLflow that cannot reach the server for its first requests with metrics, and keeps what it was given."""

    def __init__(self, error, failures):
        self.error, self.failures, self.rows, self.status = error, failures, [], None

    def get_experiment_by_name(self, name):
        return types.SimpleNamespace(experiment_id="0")

    def create_run(self, place, tags):
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id="id"))

    def log_batch(self, run_id, metrics=(), params=()):
        if metrics and self.failures:
            self.failures -= 1
            raise self.error("the server is down\nfor a reason")
        self.rows += [(one.key, one.step) for one in metrics]

    def set_terminated(self, run_id, status):
        self.status = status


@pytest.fixture
def unreachable(monkeypatch):
    """What makes MLflow, which need not be installed, a client whose first requests fail."""

    class Down(Exception):
        """MLflow's own error."""

    package, entities = types.ModuleType("mlflow"), types.ModuleType("mlflow.entities")
    tracking, exceptions = types.ModuleType("mlflow.tracking"), types.ModuleType("mlflow.exceptions")

    def client(failures):
        made = Unreachable(Down, failures)
        tracking.MlflowClient = lambda tracking_uri: made
        return made

    entities.Metric = lambda key, value, timestamp, step: types.SimpleNamespace(key=key, value=value, timestamp=timestamp, step=step)
    entities.Param = lambda key, value: types.SimpleNamespace(key=key, value=value)
    exceptions.MlflowException = Down
    package.tracking, package.entities, package.exceptions = tracking, entities, exceptions
    for module in (package, entities, tracking, exceptions):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return client


def test_metrics_wait_for_an_mlflow_that_cannot_be_reached(tmp_path, unreachable):
    client = unreachable(failures=2)
    with pytest.warns(UserWarning, match=r"^mlflow failed \(the server is down\); training continues, and it is tried again later.$"):
        trainer = fit(tmp_path / "run", pf.training.MLflow())
    assert trainer.step == 6
    assert client.status == "FINISHED"
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert sorted(client.rows) == sorted((name, row["step"]) for row in rows for name in scalars(row))


def test_an_mlflow_that_stays_away_does_not_end_the_training(tmp_path, unreachable):
    client = unreachable(failures=1000)
    with pytest.warns(UserWarning, match=r"lacks the last \d+ metrics and the end of run id; .*metrics.jsonl has all metrics\.$") as warned:
        trainer = fit(tmp_path / "run", pf.training.MLflow())
    assert (trainer.step, client.rows, client.status) == (6, [], None)
    assert len([one for one in warned if "mlflow" in str(one.message)]) == 2


@pytest.fixture
def ending(monkeypatch):
    """What makes wandb, which need not be installed, a package whose run ends at its second row."""

    class Stopped(Exception):
        """Wandb's own error."""

    class Run:
        id, rows = "id", 0

        def define_metric(self, *_, **__): ...

        def log(self, row):
            self.rows += 1
            if self.rows == 2:
                raise Stopped("the service has ended")

    run, package = Run(), types.ModuleType("wandb")
    package.init, package.errors = lambda **_: run, types.SimpleNamespace(Error=Stopped)
    monkeypatch.setitem(sys.modules, "wandb", package)
    return run


def test_a_wandb_that_ends_does_not_end_the_training(tmp_path, ending):
    begins, ends = r"^wandb failed \(the service has ended\); training continues without it", r"metrics.jsonl has all metrics\.$"
    with pytest.warns(UserWarning, match=f"{begins}; .*{ends}"):
        trainer = fit(tmp_path / "run", pf.training.WandB())
    assert (trainer.step, ending.rows) == (6, 2)


def test_a_warning_names_no_file_of_metrics_that_is_not_there(ending, unreachable):
    unreachable(failures=1000)
    with pytest.warns(UserWarning, match="failed") as warned:
        pf.Trainer(
            pf.models.rectified_flow(pf.nn.MLP.Config((8,)), (2,)),
            pf.data.moons(n=64).x,
            steps=6,
            callbacks=[pf.training.WandB(), pf.training.MLflow()],
            **SETTINGS | {"validate_every": 0},
        ).fit()
    messages = [str(one.message) for one in warned]
    assert "wandb failed (the service has ended); training continues without it." in messages
    assert len([one for one in messages if one.endswith("and the end of run id.")]) == 1


def records(file):
    """The records of a .wandb file: 7 bytes, then LevelDB's log, in blocks of 32 KiB: checksum, length, type and data of each."""
    content, place, parts = file.read_bytes(), 7, b""
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:  # the padding of a block
            place += 32768 - place % 32768
            continue
        length, kind = struct.unpack("<HB", content[place + 4 : place + 7])
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a record as a whole, or its last part
            yield parts
            parts = b""


def offline_rows(folder):
    """The rows that the offline runs of a folder hold."""
    from wandb.proto.wandb_internal_pb2 import Record

    for file in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        for record in map(Record.FromString, records(file)):
            if record.WhichOneof("record_type") == "history":
                yield {one.key or ".".join(one.nested_key): json.loads(one.value_json) for one in record.history.item}


@pytest.mark.slow
def test_wandb_gets_what_the_metrics_file_gets(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    killed_and_resumed(tmp_path / "run", lambda: pf.training.WandB("points", tags=["test"]))
    run_id = (tmp_path / "run" / ".wandb-id").read_text().strip()
    folders = list((tmp_path / "run" / "wandb").glob("offline-run-*"))
    assert len(folders) == 2
    assert all(folder.name.endswith(f"-{run_id}") for folder in folders)
    logged = {row["step"]: row["loss"] for row in offline_rows(tmp_path / "run") if "loss" in row}
    rows = [row for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if "loss" in row]
    assert logged == {row["step"]: pytest.approx(row["loss"]) for row in rows}


def test_wandb_without_a_login_is_one_sentence(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")

    def refuse(**_):
        raise wandb.errors.UsageError("No API key configured. Use `wandb login` to log in.")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(UserError, match="wandb cannot start a run .*log in with `wandb login`, or set WANDB_MODE=offline"):
        fit(tmp_path, pf.training.WandB())


@pytest.mark.parametrize(("name", "package"), [("WandB", "wandb"), ("MLflow", "mlflow")])
def test_a_missing_package_is_one_sentence(name, package, monkeypatch):
    for module in [one for one in sys.modules if one.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf'{package} is requested but not installed; run pip install "pushforward\[{package}\]"'):
        getattr(pf.training, name)()
