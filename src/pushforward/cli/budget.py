"""How many optimisation steps a model takes in a given time: measured on a copy of it.

On a CPU the measure is the process's CPU time over its threads, so that models trained while other jobs run are given the steps of an idle
machine, and are compared at equal computation.
"""

import contextlib
import statistics
import time
from typing import Any

import torch

from pushforward.cli.contestants import Contestant, build_preset
from pushforward.data.dataset import Dataset
from pushforward.training.progress import Callback
from pushforward.training.trainer import Trainer
from pushforward.training.validation import DRAWS, FORWARD

VALIDATIONS = 10  # of a run: the best weights on validation are compared
SHARE = 0.05  # of the time that the measurement takes, after its first steps
FIRST = 4  # steps before which it does not end, unless those after the first take longer than the whole time


class _EnoughError(Exception):
    """Ends a training that is only timed."""


class _Clock(Callback):
    def __init__(self, seconds: float, device: torch.device, losses: float = 0) -> None:
        self.on_cpu = device.type == "cpu"
        self.seconds, self.losses, self.started = seconds, losses, self.now()  # `losses` are those of one validation
        self.ends, self.measured = [self.started], 0.0

    def now(self) -> float:
        """Return seconds of an idle machine since some time."""
        return time.process_time() / torch.get_num_threads() if self.on_cpu else time.perf_counter()

    def on_every_step(self, trainer: Trainer) -> None:
        self.ends.append(self.now())
        if len(self.ends) == 2:  # the first step imports and compiles, which may take longer than a short budget
            self.started = self.ends[-1]
            return
        spent = self.ends[-1] - self.started
        far_too_long = len(self.ends) > FIRST and not self.measured and self.validation > self.seconds  # four times what it may take
        if far_too_long or (self.measured and spent > SHARE * self.seconds + self.measured) or spent > self.seconds:
            raise _EnoughError

    def on_validation(self, trainer: Trainer, metrics: dict[str, Any]) -> None:
        self.measured = self.now() - self.ends[-1]
        self.ends[-1] += self.measured

    @property
    def validation(self) -> float:
        """Seconds a validation: measured, or as many losses without gradients."""
        return self.measured or self.losses * FORWARD * self.step

    @property
    def step(self) -> float:
        """Seconds a step: the median, without the first one, which compiles and allocates."""
        taken = [after - before for before, after in zip(self.ends, self.ends[1:], strict=False)]
        return statistics.median(taken[1:] or taken or [self.seconds])


def affordable(contestant: Contestant, train: Dataset, validation: Dataset, device: torch.device, seconds: float) -> tuple[int, int]:
    """Return the number of steps that fit into a time with their validations, and the steps between two validations.

    Validations take at most a quarter of the time. Where one takes more, there is none, and 0 steps between them: a large flow of images
    would spend its time on choosing among weights that it had no time to train.
    """
    torch.manual_seed(0)
    settings = {**vars(contestant.settings), "steps": 1_000_000, "patience": 0, "validate_every": FIRST}
    model = build_preset(contestant.preset, contestant.arguments, train).to(device)
    clock = _Clock(seconds, device, DRAWS * len(validation) / contestant.settings.batch_size)
    with contextlib.suppress(_EnoughError):
        Trainer(model, train, validation=validation, callbacks=[clock], **settings).fit()
    validations = min(VALIDATIONS, int(seconds / 4 / max(clock.validation, 1e-9)))
    steps = max(1, int((seconds - validations * clock.validation) / clock.step))
    return steps, max(1, steps // validations) if validations else 0
