"""The weights that were best on validation: kept in memory, and written with the next checkpoint."""

import copy
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from pushforward.families.model import GenerativeModel
from pushforward.formats.model import WEIGHTS, load_weights, read_weights
from pushforward.formats.run import checkpoints
from pushforward.training.state import Snapshot

HELD = 2**30  # bytes of parameters up to which a copy is kept; larger models are written before the next step


class Best:
    """The snapshot of the best validation, which outlives the steps after it."""

    def __init__(self) -> None:
        self.held: Snapshot | None = None
        self.weights: Mapping[str, Tensor] | None = None  # alone, of a sharded model that is never written
        self.step = -1
        self.saved = self.lasting = True
        self._before: tuple[Snapshot | None, bool] = (None, True)

    def keep(self, snapshot: Snapshot, lasting: bool) -> None:
        """Keep the snapshot of this step: a copy if it is `lasting`, otherwise as it is, until it is written before the next step."""
        self.held, self.saved, self.lasting = snapshot.copied() if lasting else snapshot, False, lasting
        self.step = snapshot.step

    def mark(self, step: int, weights: Mapping[str, Tensor] | None) -> None:
        """Note that this step is the best: its weights are kept alone, or None are, as its checkpoint is written before the next step."""
        self.step, self.weights = step, weights

    def due(self, now: Snapshot) -> list[tuple[Snapshot, bool]]:
        """Return what a checkpoint of now writes, and whether each is the best: the kept snapshot if it has not been written, and now."""
        self._before = self.held, self.saved
        is_now = self.step == now.step
        parts = [*([] if is_now or self.held is None or self.saved else [(self.held, True)]), (now, is_now)]
        self.saved = True
        self.held = self.held if self.lasting else None
        return parts

    def unwritten(self) -> None:
        """Note that what was due last could not be written."""
        self.held, self.saved = self._before

    def write(self, out: Path, now: Snapshot) -> None:
        """Write what is due."""
        for snapshot, best in self.due(now):
            snapshot.write(out, best)

    def write_kept(self, out: Path) -> None:
        """Write the kept snapshot if it has not been, for a run that ends without a checkpoint of its last step."""
        if self.held is not None and not self.saved:
            self.held.write(out, best=True)
            self.saved = True

    def model(self, like: GenerativeModel, out: Path | None) -> GenerativeModel:
        """Return a copy of a model with the best weights, in eval mode; of its own where no validation was.

        Args:
            like: the model with averaged weights.
            out: run folder, whose checkpoint is read where the best validation was in an earlier session.
        """
        model = copy.deepcopy(like).eval()
        weights = self.weights if self.held is None else self.held.weights
        if weights is not None:
            load_weights(model, weights, Path("the best weights"))
        elif out is not None and checkpoints(out).pointed("best") is not None:
            file = checkpoints(out).path("best") / WEIGHTS
            load_weights(model, read_weights(file), file)
        return model


def fits_in_memory(model: torch.nn.Module) -> bool:
    """Return whether a copy of a training state may be kept in memory."""
    return sum(p.numel() * p.element_size() for p in model.parameters()) <= HELD
