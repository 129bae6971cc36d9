"""Which steps are not taken: those whose gradient is not finite, or far larger than usual."""

import math
from dataclasses import dataclass


@dataclass
class Guard:
    """Judge each step by the norm of its gradient before it touches the weights.

    The usual norm is a running mean, into which a larger norm enters as at most `spike` times the mean: a lasting rise is soon usual.

    Args:
        spike: how many times the usual norm is too much; 0 for no such limit.
        usual: running mean of the norm, or 0 before the first step.
        seen: steps judged finite.
        skipped: steps not taken so far.
        in_row: steps not taken since the last that was.
    """

    spike: float
    usual: float = 0.0
    seen: int = 0
    skipped: int = 0
    in_row: int = 0

    def takes(self, norm: float) -> bool:
        """Return whether a step with this gradient norm is to be taken, and remember it."""
        finite = math.isfinite(norm)
        limit = self.spike * self.usual
        taken = finite and (self.spike == 0 or self.seen < 20 or norm <= limit)  # 20 steps say what is usual
        if finite:
            weight = max(0.01, 1 / (self.seen + 1))
            self.usual += weight * ((norm if taken else limit) - self.usual)
            self.seen += 1
        self.in_row = 0 if taken else self.in_row + 1
        self.skipped += not taken
        return taken

    def state(self) -> dict[str, float]:
        """Return what a checkpoint keeps."""
        return {"usual": self.usual, "seen": self.seen, "skipped": self.skipped, "in_row": self.in_row}
