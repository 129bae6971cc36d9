"""The models of the app: runs and saved models, and those of Stable Diffusion 3."""

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pushforward import registry
from pushforward._checks import shown
from pushforward.bases import Gaussian
from pushforward.data.dataset import Dataset
from pushforward.data.load import load as load_data
from pushforward.errors import NotInvertibleError, PushforwardError, UserError
from pushforward.families.model import GenerativeModel
from pushforward.families.path_model import PathModel
from pushforward.formats.config import load_yaml
from pushforward.formats.model import CONFIG, check_intact, described, located, with_weights
from pushforward.sd3.text_latents import TextLatents

TESTED = 64  # test examples that are held for comparison


@dataclass(frozen=True, eq=False)
class Loaded:
    """A model of the app; it is only read, so that any number of people use it together.

    Args:
        name: what the page calls it.
        path: where it was loaded from.
        model: the model, or that of the latents of images of texts.
        pipeline: Stable Diffusion 3 for images of texts, else None.
    """

    name: str
    path: Path
    model: GenerativeModel
    pipeline: Any = None

    @property
    def kind(self) -> str:
        """What its events are: "texts" (images of texts), "images", "plane", "table" or "series"."""
        shape = self.model.shape
        if self.pipeline is not None:
            return "texts"
        if len(shape) == 3 and shape[0] in (1, 3):
            return "images"
        if len(shape) != 1:
            return "series"
        mixed = self.model.schema is not None and any(one.kind != "continuous" for one in self.model.schema.columns)
        return "plane" if shape == (2,) and not mixed else "table"

    @property
    def has_density(self) -> bool:
        """Whether it has a log_prob."""
        try:
            self.model._check_density()
        except NotInvertibleError:
            return False
        return "log_prob" in self.model.verbs

    @property
    def encodes(self) -> bool:
        """Whether events can be encoded, so that two of them have points between their latents."""
        return "encode" in self.model.verbs and self.model.invertible

    @property
    def paints(self) -> bool:
        """Whether a part of an image can be drawn again given the rest: an image model on a path from Gaussian noise."""
        gaussian = isinstance(self.model, PathModel) and type(self.model.base) is Gaussian
        return self.kind == "images" and gaussian and isinstance(self.model.levels, int)

    @property
    def guides(self) -> bool:
        """Whether guidance has an effect: conditions were dropped in training."""
        return self.model.drop_cond > 0

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of its classes, () without any."""
        names = None if self.model.schema is None else self.model.schema.class_names
        return tuple(str(one) for one in names) if names else tuple(map(str, range(self.model.classes or 0)))

    @functools.cached_property
    def tested(self) -> Dataset | None:
        """The first examples of the test split of a run's data, or None if there are none or they cannot be read."""
        run = self.path.parent.parent if self.path.parent.name == "checkpoints" else self.path
        try:
            section = dict(load_yaml(run / CONFIG)["data"])
            data = load_data(section.pop("name"), "test", **{key: one for key, one in section.items() if key != "fingerprint"})
        except (PushforwardError, KeyError, TypeError, OSError):
            return None
        x, cond = data[: min(TESTED, len(data))]
        if tuple(x.shape[1:]) != self.model.shape:
            return None
        return Dataset(data.name, x, cond if isinstance(cond, Tensor) else None, levels=data.levels, schema=data.schema)


def load_all(paths: Sequence[Path], checkpoint: str = "best", device: torch.device | str = "cpu") -> tuple[Loaded, ...]:
    """Return the models at these paths, in eval mode; all are described before the weights of the first are read.

    Raises:
        UserError: a path is given twice, or is no run or model; an autoencoder has no noise to draw from.
        CheckpointError: a checkpoint is damaged.
    """
    names = _names(paths)
    plans = [_plan(path, checkpoint) for path in paths]
    return tuple(_load(name, path, plan, device) for name, path, plan in zip(names, paths, plans, strict=True))


def _names(paths: Sequence[Path]) -> list[str]:
    """Return a name for each path: its last part, with as many before it as distinguish them."""
    if not paths:
        raise UserError("no run is given; give the folder of a run, such as runs/moons.")
    places = [path.expanduser().resolve() for path in paths]
    for k, path in enumerate(places):
        if path in places[:k]:
            raise UserError(f"{paths[k]} is given twice; give each run once.")
    full = [Path(os.path.abspath(path.expanduser())) for path in paths]  # links, such as those of the Hub's cache, keep their names
    parts = 1
    while len({path.parts[-parts:] for path in full}) < len(full):
        parts += 1
    return ["/".join(path.parts[-parts:]) for path in full]


def _plan(path: Path, checkpoint: str) -> tuple[Path, GenerativeModel | None]:
    """Return where the weights of a model are, and the model without them, or None for one that makes images of texts."""
    if path.suffix in (".safetensors", ".gguf") or ((path / "model_index.json").exists() and (path / "transformer").is_dir()):
        return path, None
    folder = located(path, checkpoint)
    model = described(folder)
    if isinstance(model, TextLatents):
        return folder, None
    if model.latent_shape != model.shape:
        raise UserError(f"{path} is an autoencoder, which has no noise to start from; give a run of a generative model.")
    check_intact(folder)
    return folder, model


def _load(name: str, path: Path, plan: tuple[Path, GenerativeModel | None], device: torch.device | str) -> Loaded:
    folder, model = plan
    if model is None:
        from pushforward.models.stable_diffusion_3 import StableDiffusion3

        pipeline = StableDiffusion3.from_pretrained(folder, device=device)
        return Loaded(name, path, pipeline.model, pipeline)
    return Loaded(name, path, with_weights(model, folder).to(device).eval())


def named(models: Sequence[Loaded], name: Any) -> Loaded:
    """Return the model of a name.

    Raises:
        UserError: there is none.
    """
    known = {one.name: one for one in models}
    if not isinstance(name, str) or name not in known:
        raise UserError(registry.unknown("model", name if isinstance(name, str) else shown(name), known))
    return known[name]
