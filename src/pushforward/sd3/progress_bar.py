"""A line on the terminal that shows how far `StableDiffusion3.sample` is."""

import sys
import time
from typing import TextIO

from pushforward.registry import export
from pushforward.sd3.progress import Progress

WIDTH = 20


@export("sd3.ProgressBar")
class ProgressBar:
    """A callback of `StableDiffusion3.sample`: the images of the present chunk, evaluations, time of the path, time left.

    On a terminal one line is rewritten; elsewhere there is a line for each chunk when it is complete.

    Args:
        file: where it is printed; None is the standard error stream.

    Example:
        >>> import torch
        >>> bar = ProgressBar(sys.stdout)
        >>> for k in (1, 2):
        ...     bar(pf.sd3.Progress(k, 2, 0.5, torch.zeros(3, 16, 1, 1), None, range(3), 4))
        images 1 to 3 of 4: 2 evaluations in 0.0 s
    """

    def __init__(self, file: TextIO | None = None) -> None:
        self.file = sys.stderr if file is None else file
        self._began = 0.0

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if progress.done == 1:
            self._began = now
        spent, complete = now - self._began, progress.done == progress.total
        rows, which = progress.rows, f"image {progress.rows.start + 1}"
        if len(rows) > 1:
            which = f"images {rows.start + 1} to {rows.stop}"
        if progress.n > 1:
            which = f"{which} of {progress.n}"
        if not self.file.isatty():
            if complete:
                print(f"{which}: {progress.done} evaluations in {spent:.1f} s", file=self.file, flush=True)
            return
        filled, left = "", ""
        if progress.total is not None:
            part = WIDTH * progress.done // progress.total
            filled = f"[{'#' * part}{'.' * (WIDTH - part)}] "
            if progress.done > 1:  # the first evaluation has no time before it
                left = f"  {spent / (progress.done - 1) * (progress.total - progress.done):.0f} s left"
        line = f"{which}  {filled}{progress.done}/{progress.total or '?'}  t = {progress.t:.3f}{left}"
        print(f"\r{line:<79}", end="\n" if complete else "", file=self.file, flush=True)
