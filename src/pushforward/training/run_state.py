"""The state of a Trainer's run: how far it is, and its models."""

from pathlib import Path

from pushforward.families.model import GenerativeModel
from pushforward.training.best import Best
from pushforward.training.state import Progress
from pushforward.training.step import Step
from pushforward.training.validation import Schedule


class RunState:
    """The properties of a Trainer that follow from what it holds."""

    out: Path | None
    progress: Progress
    validating: Schedule
    _step: Step
    _best: Best

    @property
    def step(self) -> int:
        """Number of completed steps."""
        return self.progress.step

    @property
    def best(self) -> float:
        """Lowest validation loss so far."""
        return self.progress.best

    @property
    def seconds(self) -> float:
        """Training time in seconds, over all sessions of the run."""
        return self.progress.seconds

    @property
    def skipped(self) -> int:
        """Number of steps skipped because their gradient was not finite or a spike."""
        return self._step.guard.skipped

    @property
    def averaged_model(self) -> GenerativeModel:
        """The model with averaged weights, or the trained model if there is no average.

        Of a sharded model it is a plain copy with all weights, gathered for each validation and at the end of `fit`.

        Raises:
            UserError: the model is sharded, and its weights are not gathered now.
        """
        return self._step.usable_average()

    @property
    def best_model(self) -> GenerativeModel:
        """A copy of the model, in eval mode, with the averaged weights that were best on validation; the last ones without validation."""
        return self._best.model(self.averaged_model, self.out)

    @property
    def ended_early(self) -> bool:
        """Whether validation has not improved for as long as `patience` allows."""
        return self.validating.ended(self.progress.stale)
