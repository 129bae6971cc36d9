"""Skips steps whose gradient is not finite or far larger than usual."""

import math
from dataclasses import dataclass


@dataclass
class Guard:
    """Decide from the gradient norm whether to take a step, before the weights change.

    The usual norm is a running mean; a larger norm is clamped to `spike` times the mean, so the mean adapts quickly to a lasting increase.

    Args:
        spike: multiple of the usual norm from which a step is skipped; 0 for no limit.
        usual: running mean of the norm, or 0 before the first step.
        seen: number of finite steps.
        skipped: number of skipped steps.
        in_row: number of consecutive skipped steps up to now.
    """

    spike: float
    usual: float = 0.0
    seen: int = 0
    skipped: int = 0
    in_row: int = 0

    def takes(self, norm: float) -> bool:
        """Return whether to take a step with this gradient norm, and update the statistics."""
        finite = math.isfinite(norm)
        limit = self.spike * self.usual
        taken = finite and (self.spike == 0 or self.seen < 20 or norm <= limit)  # the usual norm is estimated from 20 steps
        if finite:
            weight = max(0.01, 1 / (self.seen + 1))
            self.usual += weight * ((norm if taken else limit) - self.usual)
            self.seen += 1
        self.in_row = 0 if taken else self.in_row + 1
        self.skipped += not taken
        return taken

    def gives_up(self, limit: int, judging: bool, broken: bool) -> bool:
        """Return whether a run must end: after `limit` skipped steps in a row, or 3 if its weights are about to be judged or saved.

        Args:
            limit: number of consecutive skipped steps.
            judging: whether the weights are about to be judged or saved.
            broken: whether they are then known not to be finite.
        """
        return broken or (judging and self.in_row >= 3) or self.in_row >= limit

    def state(self) -> dict[str, float]:
        """Return the state for a checkpoint."""
        return {"usual": self.usual, "seen": self.seen, "skipped": self.skipped, "in_row": self.in_row}
