"""One flow of an estimator: what is chosen for it by the size of the data, and its training, which prints nothing."""

import inspect
import math
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pushforward import registry
from pushforward.data.dataset import Dataset
from pushforward.errors import UserError
from pushforward.estimators.given import Conditions
from pushforward.estimators.weights import Weighted, with_weights
from pushforward.families.model import GenerativeModel
from pushforward.schema import Schema
from pushforward.training.defaults import Defaults, defaults, standardised
from pushforward.training.progress import Callback, ProgressBar
from pushforward.training.trainer import Trainer
from pushforward.training.validation import PATIENCE, SMALL

MANY = 100_000  # rows from which flows are not regularised
STEPS = {SMALL: 1000, MANY: 1200, math.inf: 4000}  # by the number of rows, below which
BATCH = 1024  # of many rows; `training.defaults` has those of fewer
LARGE = {"layers": 6, "hidden": (96, 96)}  # of flows from SMALL on


@dataclass(frozen=True)
class Plan:
    """What a flow is built and trained with.

    Attributes:
        preset: the name of a preset.
        rows: number of rows, with those held out.
        model: keyword arguments of the preset, in place of those that are chosen.
        training: settings of the Trainer, in place of those that are chosen.
        device: where it is trained.
        verbose: whether progress is shown.
    """

    preset: str
    rows: int
    model: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    device: torch.device = torch.device("cpu")
    verbose: bool = False

    def arguments(self, data: Dataset) -> dict[str, Any]:
        """Return the keyword arguments of the preset for data, except for what follows from their schema."""
        takes = inspect.signature(registry.get(f"models.{self.preset}")).parameters
        for name in self.model:
            if name not in takes:
                raise UserError(f"preset_options: {registry.unknown(f'option of {self.preset}', str(name), takes)}")
        chosen = standardised(takes) if self.rows >= MANY else self._regularised(data).model
        if self.rows >= SMALL and "layers" in takes and "hidden" in takes:
            chosen |= LARGE
        if self.preset == "nsf" and data.shape == (1,):  # one number has no halves to couple
            chosen["kind"] = "autoregressive"
        return {**chosen, **self.model}

    def settings(self, data: Dataset, held_out: bool) -> dict[str, Any]:
        """Return the settings of the Trainer for data."""
        chosen = {"batch_size": BATCH} if self.rows >= MANY else self._regularised(data).training
        chosen |= {"steps": _of(STEPS, self.rows), "patience": PATIENCE, "log_every": 10**9}
        settings = {**chosen, **self.training}
        settings["batch_size"] = min(settings.get("batch_size", 256), len(data))
        settings["warmup"] = min(100, settings["steps"] // 10)
        return settings if held_out else settings | {"patience": 0}

    def _regularised(self, data: Dataset) -> Defaults:
        """Return the defaults of small data, which the first rows of larger data are: 10,000 rows overfit without, too."""
        return defaults(self.preset, data.take(min(len(data), SMALL - 1)))


def _of(sizes: Mapping[float, int], n: int) -> int:
    return next(value for most, value in sizes.items() if n < most)


def data_of(x: Tensor, cond: Tensor | None, schema: Schema, conditions: Conditions | None) -> Dataset:
    """Return rows (n, d) in a model's units, with their conditions, as a set; its schema has the classes."""
    if conditions is not None and conditions.classes:
        label = conditions.columns[0]
        schema = Schema(schema.columns, label if label.title not in schema.names else None)
        return Dataset("X", x, cond, classes=conditions.classes, schema=schema)
    return Dataset("X", x, None if cond is None else cond.float(), schema=schema)


def built(plan: Plan, data: Dataset) -> GenerativeModel:
    """Return the model of a plan for data, or refuse a preset of images.

    Raises:
        UserError: the preset is not for tables, or an option cannot be used.
    """
    preset = registry.get(f"models.{plan.preset}")
    takes = inspect.signature(preset).parameters
    if "schema" not in takes or {"channels", "text", "kl_weight", "patch"} & set(takes):
        raise UserError(f"preset is {plan.preset!r}, which is for images, but a table has columns; take nsf, maf or flow_matching.")
    condition: dict[str, Any] = {}
    if data.cond is not None and data.classes is None:
        condition = {"cond_features": data.cond_features}
    model: GenerativeModel = preset(schema=data.schema, **plan.arguments(data), **condition)
    return model


def trained(
    plan: Plan,
    data: Dataset,
    held_out: Dataset | None,
    seed: int,
    start: Mapping[str, Tensor] | None = None,
    weights: tuple[Tensor | None, Tensor | None] = (None, None),
) -> tuple[GenerativeModel, int]:
    """Return a model trained by a plan, with the weights that were best on held-out rows, and the steps it took.

    The global random state is left as it was.

    Args:
        plan: what to build and how to train it.
        data: rows to train on.
        held_out: rows to choose the best weights on, None for the last ones.
        seed: seed of all random numbers.
        start: weights to continue from.
        weights: weights (n,) of the rows to train on, and of those held out, if rows have some.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed, or SIGTERM received, in training.
    """
    devices = [plan.device] if plan.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        model = built(plan, data)
        if start is not None:
            model.load_state_dict(start)
        callbacks: list[Callback] = [ProgressBar()] if plan.verbose else []
        settings = plan.settings(data, held_out is not None)
        whole: GenerativeModel = model
        if weights[0] is not None:
            whole, data = Weighted(model), with_weights(data, weights[0])
            held_out = held_out if held_out is None or weights[1] is None else with_weights(held_out, weights[1])
        trainer = Trainer(whole, data, validation=held_out, callbacks=callbacks, device=plan.device, seed=seed, **settings).fit()
    if trainer.stopped_by is not None:
        raise KeyboardInterrupt(f"{signal.Signals(trainer.stopped_by).name} at step {trainer.step}")
    best = trainer.best_model.cpu()
    best = best.model if isinstance(best, Weighted) else best
    best.config = None  # how to build it again is the estimator's own
    for parameter in best.parameters():
        parameter.requires_grad_(False)
    return best.double(), trainer.step
