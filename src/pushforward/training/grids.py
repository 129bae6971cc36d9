"""Samples during training: PNGs drawn at validations."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pushforward.data.dataset import Dataset
from pushforward.families.autoencoder import Autoencoder
from pushforward.training.buckets import of_one_shape
from pushforward.training.progress import Callback

if TYPE_CHECKING:
    from pushforward.training.trainer import Trainer


MOST = 25  # classes in a grid of images, one a column
PANELS = 8  # columns of a table in one picture


class SampleGrid(Callback):
    """Draw samples with the averaged weights from the same noise at validations, into samples/step-000500.png.

    At each of them if the run states how often it validates, otherwise at about ten. Images are a grid, points of a plane a scatter plot,
    rows of a table the marginals of the eight columns that differ most from validation data. Conditions that are vectors or images are
    the first ones of validation data. Of an autoencoder, validation images are above their reconstructions. Where that fails, there is a
    warning in place of a picture.

    Args:
        folder: output folder.
        evaluation_seed: seed of the noise.
    """

    def __init__(self, folder: Path, evaluation_seed: int = 0) -> None:
        self.folder, self.seed = folder, evaluation_seed

    def on_validation(self, trainer: "Trainer", metrics: dict[str, Any]) -> None:
        if trainer.validating.draws_grid(trainer.step):
            trainer.signals.run(lambda: self._try(trainer))

    def _try(self, trainer: "Trainer") -> None:
        """Draw, or warn: a model that has seen little data may have no finite samples yet, and no picture is worth the run."""
        try:
            self._draw(trainer)
        except OSError:  # the folder cannot be written, which the Trainer handles
            raise
        except Exception as error:
            warnings.warn(f"there is no sample grid of step {trainer.step}: {error}", stacklevel=1)

    def _draw(self, trainer: "Trainer") -> None:
        # These import matplotlib, which a run needs late and other commands never.
        from pushforward.evaluation.given import given
        from pushforward.evaluation.pictures import picture_of, save_figure
        from pushforward.evaluation.reconstruction_pictures import picture_of_reconstructions
        from pushforward.evaluation.run_pictures import marginals_of

        model = trainer.averaged_model
        if isinstance(model, Autoencoder):
            real = trainer.data if trainer.validation is None else trainer.validation
            real = real.subset(of_one_shape(real)) if getattr(real, "groups", None) is not None else real
            self.folder.mkdir(parents=True, exist_ok=True)
            picture_of_reconstructions(model, real, self._path(trainer), title=f"step {trainer.step}")
            return
        columns = min(model.classes or 10, MOST)
        n = 100 // columns * columns if len(model.shape) > 1 else 1000
        shown = columns if len(model.shape) > 1 else model.classes
        real = trainer.data if trainer.validation is None else trainer.validation
        labels = None if model.classes is None or shown is None else torch.arange(n, device=trainer.device) % shown
        cond = given(model, real, n, trainer.device) if labels is None else labels
        if model.conditioning and cond is None:
            return  # a set of another package, whose vectors or images are not at hand
        training = model.training
        try:
            made = model.eval().sample(n, cond, generator=torch.Generator().manual_seed(self.seed))
        finally:
            model.train(training)
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self._path(trainer)
        table = marginals_of(real, made, PANELS) if isinstance(real, Dataset) and model.shape != (2,) else None
        if table is not None:
            save_figure(table[0], path)
            return
        picture_of(made, path, labels=labels, levels=model.levels, title=f"step {trainer.step}", columns=columns)

    def _path(self, trainer: "Trainer") -> Path:
        return self.folder / f"step-{trainer.step:06d}.png"


class CaptionGrid(SampleGrid):
    """Draw samples of a text-to-image model for the first captions of validation data, under the images themselves as decoded latents.

    Args:
        folder: output folder.
        decode: maps latents (n, *shape) to images (n, 3, height, width) in [0, 1].
        guidance: scale of classifier-free guidance.
        evaluation_seed: seed of the noise.
    """

    COUNT = 24

    def __init__(self, folder: Path, decode: Callable[[Tensor], Tensor], guidance: float = 3.0, evaluation_seed: int = 0) -> None:
        super().__init__(folder, evaluation_seed)
        self.decode, self.guidance = decode, guidance

    def _draw(self, trainer: "Trainer") -> None:
        from pushforward.evaluation.captioned import captioned

        data: Any = trainer.data if trainer.validation is None else trainer.validation
        model = trainer.averaged_model
        rows = of_one_shape(data)[: self.COUNT]
        n = len(rows)
        x, cond = data.batch(rows)
        x, cond = x.to(trainer.device), cond.to(trainer.device)
        training = model.training
        try:
            made = model.eval().sample(n, cond, guidance=self.guidance, generator=torch.Generator().manual_seed(self.seed))
        finally:
            model.train(training)
        self.folder.mkdir(parents=True, exist_ok=True)
        captions = data.captions  # of all examples, each time it is asked for
        texts = [captions[row] for row in rows]
        captioned(self.decode(made), texts, self._path(trainer), real=self.decode(x), title=f"step {trainer.step}")
