"""The checkpoints of a run folder (config.yaml, metrics.jsonl, checkpoints/, samples/, report.html)."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pushforward.errors import CheckpointError
from pushforward.formats.files import check_folder, write_folder, write_text


@dataclass(frozen=True)
class Checkpoints:
    """The folder checkpoints/ of a run: folders step-000500, and two small files, `last` and `best`, that point to one each."""

    folder: Path
    keep: int = 2

    def names(self) -> list[str]:
        """Return the names of all checkpoints, oldest first."""
        return sorted(path.name for path in self.folder.glob("step-*") if path.is_dir())

    def path(self, which: str) -> Path:
        """Return the folder of the checkpoint "best", "last" (also used if there is no best), or of this name.

        Raises:
            CheckpointError: it does not exist or is damaged; the message suggests the newest intact one.
        """
        name = which
        if which in ("best", "last"):
            pointers = [self.folder / one for one in (which, "last") if (self.folder / one).is_file()]
            name = pointers[0].read_text().strip() if pointers else (self.names() or [""])[-1]
        folder = self.folder / name
        if name not in self.names():
            known = ", ".join(self.names()) or "none"
            raise CheckpointError(f"{self.folder} has no checkpoint {which!r}; there are: {known}.")
        try:
            check_folder(folder)
        except CheckpointError as error:
            whole = self.newest_whole(before=name)
            offer = f"an earlier one is intact: use {whole.name}" if whole else "no other checkpoint is intact: train again"
            raise CheckpointError(f"{str(error).rstrip('.')}; {offer}.") from None
        return folder

    def newest_whole(self, before: str | None = None) -> Path | None:
        """Return the newest intact checkpoint, older than `before` if given."""
        for name in reversed(self.names()):
            if before is None or name < before:
                try:
                    check_folder(self.folder / name)
                except CheckpointError:
                    continue
                return self.folder / name
        return None

    def write(self, step: int, fill: Callable[[Path], Any], best: bool) -> Path:
        """Write a checkpoint, update `last` (and `best`), and remove unreferenced ones except the newest `keep`."""
        folder = self.folder / f"step-{step:06d}"
        write_folder(folder, fill)
        for pointer in ("last", "best") if best else ("last",):
            write_text(self.folder / pointer, folder.name + "\n")
        pointed = {(self.folder / one).read_text().strip() for one in ("last", "best") if (self.folder / one).is_file()}
        for name in self.names()[: -self.keep]:
            if name not in pointed:
                shutil.rmtree(self.folder / name)
        for left in self.folder.glob(".step-*"):  # partial checkpoints of processes that were killed while writing
            shutil.rmtree(left, ignore_errors=True)
        return folder


def checkpoints(run: str | Path) -> Checkpoints:
    """Return the checkpoints of a run folder."""
    return Checkpoints(Path(run) / "checkpoints")
