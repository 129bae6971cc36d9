"""The training loop: AdamW, warm-up and cosine, clipping, averaged weights, validation, atomic checkpoints, exact resume."""

import contextlib
import math
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pushforward.data.dataset import Dataset
from pushforward.errors import CheckpointError, DivergedError, UserError
from pushforward.families.model import GenerativeModel
from pushforward.formats.config import to_plain
from pushforward.formats.model import RAW, WEIGHTS, load_weights, model_config, read_weights, versions, write_model
from pushforward.formats.run import Checkpoints, checkpoints
from pushforward.registry import export
from pushforward.training.optimisation import averaged, learning_rate, optimiser
from pushforward.training.order import Order, as_batch, batches, block_generators, generator_at
from pushforward.training.progress import Callback
from pushforward.training.settings import Settings

STATE = "training.pt"
VALIDATION_DRAWS = 8  # validation losses are means over so many fixed draws of noise and time


@export("Trainer")
class Trainer:
    """Train a model on data for a number of steps.

    The order of the data and every random number are functions of (seed, step, block): a run that was stopped and resumed ends with the
    same bits as one that was not.

    Args:
        model: any GenerativeModel.
        data: training data: a `pushforward.data.Dataset`, any map-style set of (x, cond), or a tensor x (N, *shape).
        validation: data to choose the best checkpoint on, or None.
        out: run folder for metrics and checkpoints, or None to keep nothing.
        resume: whether to go on from the newest whole checkpoint of `out`.
        callbacks: called around steps (`training.Callback`).
        device: where to train; None leaves the model where it is.
        config: more sections for config.yaml, such as where the data came from.
        settings: the fields of `training.settings.Settings`: steps, batch_size, lr, ...

    Raises:
        UserError: settings out of range, or data that is empty.
        CheckpointError: nothing to resume from, or a checkpoint of another architecture.

    Example:
        >>> import pushforward as pf, torch
        >>> model = pf.models.rectified_flow(pf.nn.MLP.Config((16,)), shape=(2,))
        >>> pf.Trainer(model, torch.randn(256, 2), steps=3, batch_size=64).fit().step
        3
    """

    def __init__(
        self,
        model: GenerativeModel,
        data: Any,
        *,
        validation: Dataset | None = None,
        out: str | Path | None = None,
        resume: bool = False,
        callbacks: Sequence[Callback] = (),
        device: str | torch.device | None = None,
        config: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        self.settings = Settings(**settings)
        self.model = model if device is None else model.to(device)
        self.data, self.validation = _as_dataset(data), validation
        self.callbacks = list(callbacks)
        self.out = None if out is None else Path(out)
        self.extra_config = dict(config or {})
        self.step, self.best, self.seconds = 0, math.inf, 0.0
        self.stopped_by: int | None = None
        self.device = next(model.parameters()).device
        self.dtype = model.dtype
        if not resume:
            x, cond = _first_rows(self.data, 4096)
            model.initialise(x.to(self.device, self.dtype), cond)
        self.optimiser = optimiser(model, self.settings)
        self.average = averaged(model, self.settings.ema) if self.settings.ema else None
        if resume:
            self._resume()

    @property
    def averaged_model(self) -> GenerativeModel:
        """The model with averaged weights, or the trained one where no average is kept."""
        return self.model if self.average is None else self.average.module  # type: ignore[return-value]

    def fit(self) -> "Trainer":
        """Train to the last step, or until Ctrl-C or SIGTERM, which save a checkpoint first (`stopped_by` is then the signal).

        Raises:
            DivergedError: a loss is not finite; the step, its learning rate and the last good checkpoint are named.
        """
        self.model.train()
        self._tell("on_start")
        try:
            with _signals(self):
                self._loop()
        finally:
            self._tell("on_end")
        return self

    def _loop(self) -> None:
        s = self.settings
        order = Order(len(self.data), s.batch_size, s.seed, self.step, s.steps)
        losses: list[Tensor] = []
        norms: list[Tensor] = []
        started = since = time.perf_counter()
        before = self.seconds
        for x, cond in batches(self.data, order):
            loss, norm = self._train_step(x, cond)
            losses.append(loss)
            norms.append(norm)
            self.step += 1
            last = self.step == s.steps or self.stopped_by is not None
            validate = _due(self.step, s.validate_every) or self.step == s.steps
            save = last or _due(self.step, s.checkpoint_every)
            if not (_due(self.step, s.log_every) or validate or save):
                continue
            now = time.perf_counter()
            self.seconds = before + now - started
            self._log(losses, norms, len(losses) / (now - since))  # raises before anything that is not finite is judged or saved
            losses, norms = [], []
            better = validate and self._validate()
            if self.out is not None and (save or better):
                self.save(better)
            if last:
                return
            since = time.perf_counter()

    def _train_step(self, x: Tensor, cond: Any) -> tuple[Tensor, Tensor]:
        s = self.settings
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(s, self.step)
        x = x.to(self.device, self.dtype)
        cond = cond if cond is None else cond.to(self.device)
        loss = self.model(x, cond, generator=block_generators(s.seed, self.step, s.blocks))
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), s.clip or math.inf)
        self.optimiser.step()
        if self.average is not None:
            self.average.update_parameters(self.model)
        return loss.detach(), norm

    def _log(self, losses: list[Tensor], norms: list[Tensor], rate: float) -> None:
        values = torch.stack(losses)
        if not bool(values.isfinite().all()):
            step = self.step - len(losses) + int((~values.isfinite()).nonzero()[0, 0])
            good = checkpoints(self.out).newest_whole() if self.out is not None else None
            raise DivergedError(
                f"the loss became {float(values[step - self.step + len(losses)])} at step {step + 1}, where the learning rate is "
                f"{learning_rate(self.settings, step):.3g}; the last good checkpoint is {good or 'none'}; "
                "resume from it with a smaller --lr or --clip."
            )
        metrics = {
            "step": self.step,
            "loss": float(values.mean()),
            "lr": learning_rate(self.settings, self.step - 1),
            "gradient_norm": float(torch.stack(norms).mean()),
            "steps_per_second": round(rate, 3),
            "seconds": round(self.seconds, 3),
        }
        self._tell("on_step", metrics)

    @torch.no_grad()
    def _validate(self) -> bool:
        """Judge the averaged weights on validation data under the same noise each time; return whether they are the best so far."""
        if self.validation is None:
            return False
        model, s = self.averaged_model, self.settings
        training = model.training
        model.eval()
        total, count = 0.0, 0
        for start in range(0, len(self.validation), s.batch_size):
            x, cond = self.validation[start : start + s.batch_size]
            x, cond = x.to(self.device, self.dtype), None if cond is None else cond.to(self.device)
            for draw in range(VALIDATION_DRAWS):
                total += float(model.loss(x, cond, generator=generator_at(s.seed, 2, start, draw))) * len(x)
                count += len(x)
        model.train(training)
        better = total / count < self.best
        self.best = min(self.best, total / count)
        self._tell("on_validation", {"step": self.step, "validation_loss": total / count})
        return better

    def save(self, best: bool = False) -> Path:
        """Write a checkpoint of this step: weights and configuration, and beside them the training state that only resuming reads."""
        assert self.out is not None
        config = {**_config_of(self.model), **self.extra_config, "training": to_plain(vars(self.settings)), "versions": versions()}
        state = {"step": self.step, "best": self.best, "seconds": self.seconds, "optimiser": self.optimiser.state_dict()}

        def fill(folder: Path) -> None:
            raw = self.model.state_dict() if self.average is not None else None
            write_model(folder, config, self.averaged_model.state_dict(), raw)
            torch.save(state, folder / STATE)

        folder = checkpoints(self.out).write(self.step, fill, best)
        self._tell("on_save", folder)
        return folder

    def _resume(self) -> None:
        if self.out is None:
            raise UserError("resume=True needs the run folder to resume: give out=FOLDER.")
        saved: Checkpoints = checkpoints(self.out)
        folder = saved.newest_whole()
        if folder is None:
            raise CheckpointError(f"{self.out} has no whole checkpoint to resume from; train anew with overwrite.")
        newest = saved.names()[-1]
        if folder.name != newest:
            print(f"pushforward: {saved.folder / newest} is not whole, so {folder.name} is resumed.")
        trained = folder / (RAW if (folder / RAW).exists() else WEIGHTS)
        load_weights(self.model, read_weights(trained), trained)
        try:
            state = torch.load(folder / STATE, map_location=self.device, weights_only=True)
            self.optimiser.load_state_dict(state["optimiser"])
            self.step, self.best, self.seconds = int(state["step"]), float(state["best"]), float(state["seconds"])
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise CheckpointError(f"{folder / STATE} cannot be resumed from: {error}.") from None
        if self.average is not None:
            load_weights(self.average.module, read_weights(folder / WEIGHTS), folder / WEIGHTS)
            self.average.n_averaged.fill_(self.step)

    def _tell(self, event: str, *args: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, event)(self, *args)


def _config_of(model: GenerativeModel) -> dict[str, Any]:
    return model_config(model) if model.config is not None else {}


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _as_dataset(data: Any) -> Any:
    if isinstance(data, Tensor):
        data = Dataset("tensor", data)
    if len(data) == 0:
        raise UserError("the training data is empty; give at least one example.")
    return data


def _first_rows(data: Any, most: int) -> tuple[Tensor, Any]:
    """Return up to `most` rows of training data, spread evenly over the set: what data-dependent parts start from."""
    rows = torch.linspace(0, len(data) - 1, min(most, len(data))).long().tolist()
    loader = torch.utils.data.DataLoader(data, batch_sampler=[rows], collate_fn=as_batch)
    return next(iter(loader))


@contextlib.contextmanager
def _signals(trainer: Trainer) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end training after the current step, with a checkpoint; a second Ctrl-C interrupts at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        if trainer.stopped_by is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        trainer.stopped_by = number

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
