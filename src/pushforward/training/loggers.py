"""Callbacks for experiment trackers: Weights & Biases and MLflow. A run that is resumed continues under the id that it began with."""

import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pushforward._files import text_of
from pushforward.errors import CheckpointError, UserError
from pushforward.formats.config import to_plain
from pushforward.formats.files import write_text
from pushforward.formats.model import model_config
from pushforward.formats.packages import stamped
from pushforward.formats.run import MLFLOW, WANDB
from pushforward.registry import export
from pushforward.training.progress import Callback, MetricsFile
from pushforward.training.tracing import scalars

if TYPE_CHECKING:
    from pushforward.training.trainer import Trainer

PROJECT = "pushforward"
MOST_PARAMS, LONGEST, MOST_METRICS = 100, 500, 1000  # of MLflow: parameters of a request, characters of one, metrics of a request
MOST_UNSENT = 100_000  # metrics that wait for a server that cannot be reached; older ones are dropped
PATIENCE = 10  # durations of a failed request until the next one, so that such a server takes a tenth of the time


@export("training.WandB")
class WandB(Callback):
    """Log the Trainer's metrics and settings to Weights & Biases.

    What is logged is that of `training.TensorBoard`, against the step. The run's id is kept in the run folder (.wandb-id), so that a
    resumed run continues the same one. WANDB_MODE=offline writes to the folder wandb of the run folder only; `wandb sync` uploads it. If
    wandb fails meanwhile, training continues without it.

    Args:
        project: the project.
        name: name of the run; None takes that of the run folder.
        settings: further arguments of `wandb.init`, such as entity, group, tags or mode.

    Raises:
        UserError: wandb is not installed; or, when training starts, it refuses to start a run.
    """

    def __init__(self, project: str = PROJECT, name: str | None = None, **settings: Any) -> None:
        try:
            import wandb
        except ImportError:
            raise UserError('wandb is requested but not installed; run pip install "pushforward[wandb]".') from None
        self._wandb: Any = wandb
        self.project, self.name, self.settings = project, name, settings
        self._run: Any = None

    def on_start(self, trainer: "Trainer") -> None:
        known = _known(trainer, WANDB)
        given = {"dir": None if trainer.out is None else str(trainer.out), **self.settings}
        try:
            self._run = self._wandb.init(
                project=self.project, name=self.name or _name(trainer), id=known, resume="allow", config=_config(trainer), **given
            )
        except self._wandb.errors.Error as error:
            raise UserError(
                f"wandb cannot start a run ({_reason(error)}); log in with `wandb login`, or set WANDB_MODE=offline to log to this machine "
                "only."
            ) from None
        _keep(trainer, WANDB, str(self._run.id))
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")  # steps that a killed session had logged may come again

    def on_step(self, trainer: "Trainer", metrics: dict[str, Any]) -> None:
        if self._run is not None:
            self._call(trainer, self._run.log, {"step": metrics["step"], **scalars(metrics)})

    on_validation = on_step

    def on_end(self, trainer: "Trainer") -> None:
        if self._run is not None:
            self._call(trainer, self._run.finish, exit_code=0 if _completed(trainer) else 1)

    def _call(self, trainer: "Trainer", method: Callable[..., Any], *args: Any, **options: Any) -> None:
        """Call a method of the run; if wandb has ended, which it does not recover from, warn and log nothing more."""
        try:
            method(*args, **options)
        except (self._wandb.errors.Error, OSError) as error:
            self._run = None
            warnings.warn(f"wandb failed ({_reason(error)}); training continues without it{_kept(trainer)}.", stacklevel=2)


@export("training.MLflow")
class MLflow(Callback):
    """Log the Trainer's metrics and settings to MLflow.

    What is logged is that of `training.TensorBoard`; the settings are parameters such as training.lr. The run's id is kept in the run
    folder (.mlflow-id), so that a resumed run continues the same one. If the server fails meanwhile, training continues, and metrics wait
    until it answers.

    Args:
        experiment: name of the experiment, which is created if it does not exist.
        name: name of the run; None takes that of the run folder.
        uri: the tracking server, or a database such as "sqlite:///mlflow.db"; None takes MLFLOW_TRACKING_URI, or MLflow's default.

    Raises:
        UserError: mlflow is not installed; or, when training starts, it cannot be reached or refuses the run.
    """

    def __init__(self, experiment: str = PROJECT, name: str | None = None, uri: str | None = None) -> None:
        try:
            import mlflow.tracking
        except ImportError:
            raise UserError('mlflow is requested but not installed; run pip install "pushforward[mlflow]".') from None
        self._mlflow: Any = mlflow
        self.experiment, self.name, self.uri = experiment, name, uri
        self._unsent: list[Any] = []
        self._next, self._failing = 0.0, False  # when to send again, and whether the last attempt failed

    def on_start(self, trainer: "Trainer") -> None:
        try:
            self._client: Any = self._mlflow.tracking.MlflowClient(tracking_uri=self.uri)
            self.run_id = self._begun(trainer)
        except self._mlflow.exceptions.MlflowException as error:
            raise UserError(f"mlflow cannot start a run ({_reason(error)}); check MLFLOW_TRACKING_URI, or give another uri.") from None
        _keep(trainer, MLFLOW, self.run_id)

    def _begun(self, trainer: "Trainer") -> str:
        """Return the id of the run that is continued, or of a new one with the settings as its parameters."""
        known = _known(trainer, MLFLOW)
        if known is not None:
            self._client.get_run(known)  # raises if it was deleted
            if hasattr(self._client, "update_run"):  # since MLflow 2
                self._client.update_run(known, status="RUNNING")
            return known
        found = self._client.get_experiment_by_name(self.experiment)
        place = self._client.create_experiment(self.experiment) if found is None else found.experiment_id
        run: str = self._client.create_run(place, tags={"mlflow.runName": self.name or _name(trainer) or PROJECT}).info.run_id
        params = [self._mlflow.entities.Param(key, text[:LONGEST]) for key, text in _flat(_config(trainer))]
        for start in range(0, len(params), MOST_PARAMS):
            self._client.log_batch(run, params=params[start : start + MOST_PARAMS])
        return run

    def on_step(self, trainer: "Trainer", metrics: dict[str, Any]) -> None:
        now, step = int(time.time() * 1000), metrics["step"]
        self._unsent += [self._mlflow.entities.Metric(name, float(value), now, step) for name, value in scalars(metrics).items()]
        del self._unsent[:-MOST_UNSENT]
        if time.monotonic() >= self._next:
            self._send(trainer)

    on_validation = on_step

    def on_end(self, trainer: "Trainer") -> None:
        self._send(trainer, "FINISHED" if _completed(trainer) else "KILLED")

    def _send(self, trainer: "Trainer", status: str | None = None) -> None:
        """Send what waits, and the status of a run that has ended; a server that cannot be reached is warned of, and tried again later."""
        began = time.monotonic()
        try:
            while self._unsent:
                self._client.log_batch(self.run_id, metrics=self._unsent[:MOST_METRICS])
                del self._unsent[:MOST_METRICS]
            if status is not None:
                self._client.set_terminated(self.run_id, status)
        except self._mlflow.exceptions.MlflowException as error:
            self._next = time.monotonic() + PATIENCE * (time.monotonic() - began)
            if status is not None:
                warnings.warn(
                    f"mlflow failed ({_reason(error)}) and lacks the last {len(self._unsent)} metrics and the end of run {self.run_id}"
                    f"{_kept(trainer)}.",
                    stacklevel=2,
                )
            elif not self._failing:
                warnings.warn(f"mlflow failed ({_reason(error)}); training continues, and it is tried again later.", stacklevel=2)
            self._failing = True
        else:
            self._failing = False


def _name(trainer: "Trainer") -> str | None:
    return None if trainer.out is None else trainer.out.resolve().name


def _kept(trainer: "Trainer") -> str:
    """Return the end of a warning: where the metrics are that a tracker lacks, if anywhere."""
    files = [str(one.path) for one in trainer.callbacks if isinstance(one, MetricsFile)]
    return f"; {files[0]} has all metrics" if files else ""


def _reason(error: Exception) -> str:
    """Return the first line of an error's message, or its type if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def _completed(trainer: "Trainer") -> bool:
    return trainer.ended_early or trainer.step >= trainer.settings.steps


def _config(trainer: "Trainer") -> dict[str, Any]:
    """Return all sections of config.yaml as plain data."""
    own = {} if trainer.model.config is None else model_config(trainer.model)
    return stamped(to_plain({**own, **trainer.extra_config, "training": vars(trainer.settings)}))


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield the entries of nested mappings as names with dots, and texts."""
    if isinstance(value, Mapping):
        for key, one in value.items():
            yield from _flat(one, f"{name}.{key}" if name else str(key))
    else:
        yield name, str(value)


def _known(trainer: "Trainer", file: str) -> str | None:
    """Return the id that the run has in a tracker, None if it is new or was not tracked before."""
    path = None if trainer.out is None or not trainer.step else trainer.out / file
    return (text_of(path, CheckpointError, errors="replace").strip() or None) if path is not None and path.is_file() else None


def _keep(trainer: "Trainer", file: str, run_id: str) -> None:
    if trainer.out is not None:
        trainer.out.mkdir(parents=True, exist_ok=True)
        write_text(Path(trainer.out) / file, run_id + "\n")
