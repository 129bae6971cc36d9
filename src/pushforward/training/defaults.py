"""Settings of a preset and its training that suit a data set, by its number of examples and of features."""

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pushforward import registry
from pushforward.data.dataset import Dataset
from pushforward.errors import UserError
from pushforward.nn.unet import UNet
from pushforward.registry import export
from pushforward.training.settings import Settings
from pushforward.training.validation import PATIENCE, SMALL

WIDTHS = (64, 256)  # of the hidden layers
FEW = 1000  # examples below which flows are regularised most
PASSES = 1200  # of splines over few examples, at most: more overfit


@dataclass(frozen=True)
class Defaults:
    """What suits a data set: keyword arguments of the preset and settings of the Trainer, and why.

    Args:
        model: keyword arguments of the preset.
        training: settings of the Trainer.
        reason: the data that they were chosen for.
    """

    model: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    reason: str = ""

    def among(self, used: dict[str, Any]) -> "Defaults":
        """Return those of the settings that are in use, where others have been given."""
        model, training = ({name: one for name, one in own.items() if used[name] == one} for own in (self.model, self.training))
        return Defaults(model, training, self.reason)

    def __str__(self) -> str:
        chosen = [f"{name} {value}" for name, value in {**self.model, **self.training}.items()]
        return f"chosen for {self.reason}: {', '.join(chosen)}" if chosen and self.reason else ""


@export("training.defaults")
def defaults(preset: str, data: Dataset) -> Defaults:
    """Return settings of a preset and its training that suit a data set; those of the command line, where nothing else is given.

    Flows of vectors overfit small data (n < 10,000 examples of d features) within a few epochs. For them the networks are small and smooth
    and drop units out, and the noise on their inputs falls from 3 / sqrt(n) standard deviations to 0, as the bandwidth of a kernel
    density estimate that shrinks until validation no longer improves:

        hidden layers of 4 d units, from 64 to 256;  dropout 0.2;  input noise 3 / sqrt(n);  4 layers

    Below 1,000 examples splines, which are more flexible, drop 0.6, have noise of 4.5 / sqrt(n) and see each example at most 1,200 times,
    within which noise and learning rate fall to 0; other flows learn at half the rate.

    Models of small images with a network of their own choice get a U-Net of 32 channels and one block a level, and batches of 64: on 8 x 8
    digits it has a sixth of the default U-Net's parameters. Autoencoders of images get batches of 16: many small steps reconstruct them
    better than as many examples in fewer steps. Other models and larger data keep the defaults of the preset and of the
    Trainer, with data standardised.

    Args:
        preset: name of a preset, such as "nsf".
        data: the training set.

    Returns:
        The settings: `model` for the preset, `training` for the Trainer, printed with their reason.

    Raises:
        UserError: there is no such preset.

    Example:
        >>> import pushforward as pf
        >>> train, validation = pf.data.load("wine"), pf.data.load("wine", "validation")
        >>> chosen = pf.training.defaults("nsf", train)
        >>> flow = pf.models.nsf(schema=train.schema, **chosen.model)
        >>> pf.Trainer(flow, train, validation=validation, **{**chosen.training, "steps": 2}).fit().step
        2

    Source: Sietsma and Dow, Creating artificial neural networks that generalize, 1991 (noise on inputs); Bishop, Training with noise is
    equivalent to Tikhonov regularization, 1995; the values were chosen on tables of scikit-learn (`python -m benchmarks.tables`).
    """
    known = [name.removeprefix("models.") for name in registry.names("models")]
    if preset not in known:
        raise UserError(registry.unknown("preset", preset, known))
    takes = inspect.signature(registry.get(f"models.{preset}")).parameters
    examples, features = len(data), math.prod(data.shape)
    model = standardised(takes)
    reason = f"{examples:,} examples of {features} features"
    if examples >= SMALL:
        return Defaults(model)
    if "kl_weight" in takes:
        return Defaults(model, {"batch_size": min(16, examples), "lr": 2e-3}, reason)
    if "net" in takes and takes["net"].default is None and len(data.shape) == 3 and all(side % 2 == 0 for side in data.shape[1:]):
        return Defaults(model | {"net": UNet.Config(channels=32, depth=1)}, {"batch_size": min(64, examples)}, reason)
    if "dropout" not in takes:
        return Defaults(model)
    narrowest, widest = WIDTHS
    width = min(widest, max(narrowest, 2 ** round(math.log2(4 * features))))
    few, splines = examples < FEW, "bins" in takes
    dropout, noise, lr = (0.6, 4.5, 2e-3) if few and splines else (0.2, 3.0, 1e-3) if few else (0.2, 3.0, 2e-3)
    model |= {"layers": 4, "hidden": (width, width), "activation": "tanh", "dropout": dropout}
    batch = min(256, 2 ** int(math.log2(examples)))
    training: dict[str, Any] = {"batch_size": batch, "lr": lr, "ema": 0.98, "patience": PATIENCE}
    training["input_noise"] = round(noise / math.sqrt(examples), 2)
    if few and splines:
        training["steps"] = min(Settings.steps, PASSES * examples // batch)
    return Defaults(model, training, reason)


def standardised(takes: Mapping[str, inspect.Parameter]) -> dict[str, Any]:
    """Return the argument that standardises the data of a preset with these parameters, if it leaves the data's units by default."""
    return {"preprocess": "standardise"} if "preprocess" in takes and takes["preprocess"].default == "none" else {}
