"""When a run validates and when it ends early, and the validation loss: the same noise and times each time, shared among the processes."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from signal import Signals as Signal

import torch
from torch import Tensor

from pushforward.data.dataset import Dataset
from pushforward.families.model import GenerativeModel
from pushforward.training.buckets import batches_in_turn
from pushforward.training.order import Batch, as_batch, fetched, generator_at
from pushforward.training.processes import Processes
from pushforward.training.settings import Settings, due
from pushforward.training.signals import HANDLED, Signals

DRAWS = 8  # fixed draws of noise and time over which the loss is averaged
TIMES = 50  # validations of a run
COST = 0.25  # largest share of the time that they may take
FORWARD = 1 / 3  # time of a loss, of that with its gradient
GRIDS = 10  # sample grids of a run
SMALL = 10_000  # training examples below which a run ends early by default
PATIENCE = 10  # validations without improvement after which it does


@dataclass(frozen=True)
class Schedule:
    """The steps at which a run validates, and how many validations without improvement end it.

    Args:
        steps: steps of the run.
        first: step of the first validation.
        every: steps between validations, 0 for the last step only.
        patience: validations without improvement that end the run, 0 for no such end.
        counted_from: step from which they count.
        grids: whether each validation draws a sample grid; otherwise about ten a run do.
    """

    steps: int
    first: int
    every: int
    patience: int
    counted_from: int
    grids: bool

    def due(self, step: int) -> bool:
        """Return whether a step ends with a validation."""
        return step in (self.steps, self.first) or due(step, self.every)

    def count(self, after: int) -> int:
        """Return the number of validations after a step."""
        if after >= self.steps:
            return 0
        regular = self.steps // self.every - after // self.every if self.every else 0
        return regular + sum(after < step <= self.steps and not due(step, self.every) for step in {self.first, self.steps})

    def draws_grid(self, step: int) -> bool:
        """Return whether the validation of a step draws a sample grid."""
        before = 0 if step <= self.every else step - self.every
        return self.grids or step in (self.first, self.steps) or GRIDS * step // self.steps > GRIDS * before // self.steps

    def stale(self, before: int, step: int, better: bool) -> int:
        """Return the number of validations without improvement, after the validation of a step."""
        return 0 if better else before + (step >= self.counted_from)

    def ended(self, stale: int) -> bool:
        """Return whether so many validations without improvement end the run."""
        return bool(self.patience) and stale >= self.patience


def schedule_of(settings: Settings, train: int, validation: int) -> Schedule:
    """Return when a run validates, for so many training and validation examples."""
    every, steps = settings.validate_every, settings.steps
    first = 0
    if every is None:
        every = max(1, steps // TIMES, math.ceil(DRAWS * validation * FORWARD / (COST * settings.batch_size)))
        first = min(steps, math.ceil(train / settings.batch_size))
        first = first if first < every else 0
    patience = settings.patience
    if patience is None:
        patience = PATIENCE if train < SMALL else 0
    # While there is much noise on the inputs, the loss of clean data may rise before it falls.
    counted_from = steps // 2 if settings.input_noise else 0
    return Schedule(steps, first, every, patience, counted_from, settings.validate_every is not None)


def validation_loss(
    model: GenerativeModel, data: Dataset, settings: Settings, processes: Processes, signals: Signals, placed: Callable[[Batch], Batch]
) -> float | Signal:
    """Return the mean loss over validation data, or the signal to any process that cut it short, the same one in all.

    Args:
        model: the model; its mode is restored.
        data: validation data.
        settings: batch size and seed.
        processes: what shares the data.
        signals: signals to this process.
        placed: moves a batch to the model's device and dtype.
    """
    sums = torch.zeros(2 + len(HANDLED), dtype=torch.float64)  # of losses, of examples, of processes that were cut short by each signal
    training = model.training
    model.eval()
    finished = signals.run(lambda: _add_losses(sums, model, data, settings, processes, placed))
    model.train(training)
    if not finished and signals.received is not None:
        sums[2 + HANDLED.index(signals.received)] = 1
    total, count, *cut = processes.sum(sums).tolist()
    return next((number for number, processes_cut in zip(HANDLED, cut, strict=True) if processes_cut), total / max(count, 1))


@torch.no_grad()
def _add_losses(
    sums: Tensor, model: GenerativeModel, data: Dataset, settings: Settings, processes: Processes, placed: Callable[[Batch], Batch]
) -> None:
    """Add the losses of this process's share of the data, and its number of examples, to the first two sums."""
    for rows in batches_in_turn(data, settings.batch_size)[processes.rank :: processes.size]:
        start = rows[0]
        x, cond, noise = placed(as_batch(fetched(data, rows)))
        for draw in range(DRAWS):
            generator = generator_at(settings.seed, 2, start, draw)
            before = generator.get_state()
            loss = float(model.loss(x, cond, noise=noise, generator=generator)) * len(x)
            exact = draw == 0 and torch.equal(before, generator.get_state())  # no random numbers were drawn: all draws are equal
            share = DRAWS if exact else 1
            sums[0] += share * loss
            sums[1] += share * len(x)
            if exact:
                break
