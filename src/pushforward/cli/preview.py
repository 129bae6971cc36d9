"""What `pushforward generate` shows while it draws: a line on the terminal, and a preview image."""

import sys
from pathlib import Path
from typing import Any

from pushforward.formats.files import write_atomically
from pushforward.sd3.progress import Progress


def shown(preview: Path | None) -> Any:
    """Return the progress callback: a line on the terminal, and a preview image if requested."""
    if preview is None and not sys.stderr.isatty():
        return None

    def show(progress: Progress) -> None:
        if sys.stderr.isatty():
            end = "\n" if progress.done == progress.total else ""
            print(f"\r{progress.done}/{progress.total or '?'}  t = {progress.t:.3f} ", end=end, file=sys.stderr, flush=True)
        if preview is not None:
            write_atomically(preview, lambda temporary: progress.images()[0].save(temporary, format="PNG"))

    return show
