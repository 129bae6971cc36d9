"""The validation loss: the same noise and times at every validation, shared among the processes."""

from collections.abc import Callable

import torch
from torch import Tensor

from pushforward.data.dataset import Dataset
from pushforward.families.model import GenerativeModel
from pushforward.training.order import Batch, as_batch, fetched, generator_at
from pushforward.training.processes import Processes
from pushforward.training.settings import Settings
from pushforward.training.signals import Signals

DRAWS = 8  # fixed draws of noise and time over which the loss is averaged


def validation_loss(
    model: GenerativeModel, data: Dataset, settings: Settings, processes: Processes, signals: Signals, placed: Callable[[Batch], Batch]
) -> float | None:
    """Return the mean loss over validation data, or None if a signal to any process cut it short.

    Args:
        model: the model; its mode is restored.
        data: validation data.
        settings: batch size and seed.
        processes: what shares the data.
        signals: signals to this process.
        placed: moves a batch to the model's device and dtype.
    """
    sums = torch.zeros(3, dtype=torch.float64)  # of losses, of examples, of processes that were cut short
    training = model.training
    model.eval()
    sums[2] = not signals.run(lambda: _add_losses(sums, model, data, settings, processes, placed))
    model.train(training)
    total, count, cut = processes.sum(sums).tolist()
    return None if cut else total / count


@torch.no_grad()
def _add_losses(
    sums: Tensor, model: GenerativeModel, data: Dataset, settings: Settings, processes: Processes, placed: Callable[[Batch], Batch]
) -> None:
    """Add the losses of this process's share of the data, and its number of examples, to the first two sums."""
    size = settings.batch_size
    for start in range(0, len(data), size)[processes.rank :: processes.size]:
        x, cond, noise = placed(as_batch(fetched(data, range(start, min(start + size, len(data))))))
        for draw in range(DRAWS):
            generator = generator_at(settings.seed, 2, start, draw)
            sums[0] += float(model.loss(x, cond, noise=noise, generator=generator)) * len(x)
            sums[1] += len(x)
