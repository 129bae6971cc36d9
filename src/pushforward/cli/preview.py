"""What `pushforward generate` shows while it draws: a line on the terminal, and a preview image."""

import sys
from pathlib import Path
from typing import Any

from pushforward.formats.files import write_atomically
from pushforward.sd3.progress import Progress
from pushforward.sd3.progress_bar import ProgressBar


def shown(preview: Path | None) -> Any:
    """Return the progress callback: a line on the terminal, and a preview image if requested."""
    if preview is None and not sys.stderr.isatty():
        return None
    bar = ProgressBar()

    def show(progress: Progress) -> None:
        if sys.stderr.isatty():
            bar(progress)
        if preview is not None:
            write_atomically(preview, lambda temporary: progress.images()[0].save(temporary, format="PNG"))

    return show
