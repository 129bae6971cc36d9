"""The options that normalizing flows share: of vectors (`VectorOptions`) and of images (`ImageOptions`)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pushforward._checks import whole
from pushforward.bijections.bijection import Bijection
from pushforward.bijections.chain import Chain, Memory
from pushforward.bijections.image_coupling import ImageCoupling
from pushforward.bijections.squash import Sigmoid
from pushforward.errors import UserError
from pushforward.functional.levels import Levels
from pushforward.models.preset import ConditionalOptions
from pushforward.models.units import ImagePreprocess, Preprocess, image_units, units
from pushforward.nn.activation import Activation
from pushforward.nn.image_condition import channels_at

Dequantise = Literal["uniform", "variational"]


@dataclass(frozen=True)
class FlowConditions(ConditionalOptions):
    """Options of flows whose layers are conditional on labels, vectors or images."""

    @property
    def condition(self) -> dict[str, Any]:
        """The arguments of a conditional layer, such as a coupling: classes, and cond_features, which for an image are its pixels."""
        return {"classes": self.classes, "cond_features": self.kind.length}


@dataclass(frozen=True)
class FlowOptions(FlowConditions):
    """Options of flows whose events are of a given shape.

    Args:
        preprocess: "standardise" fits mean and deviation to the training data, "whiten" also removes correlations of vectors, "logit"
            spreads quantised data over the line, "none" leaves its units.
        levels: number of values of quantised data, for a table one entry a column; None for continuous data.
    """

    shape: Sequence[int]
    preprocess: Preprocess = field(default="none", kw_only=True)
    classes: int | None = field(default=None, kw_only=True)
    cond_features: int | None = field(default=None, kw_only=True)
    cond_image: Sequence[int] | None = field(default=None, kw_only=True)
    levels: Levels = field(default=None, kw_only=True)

    @property
    def family_options(self) -> dict[str, Any]:
        """The arguments of NormalizingFlow after the bijection and the base: shape, preprocess, the condition and levels."""
        preprocess = units(self.preprocess, self.event_shape, self.levels, self.schema)
        return {"shape": self.event_shape, "preprocess": preprocess, **self.family_condition, "levels": self.levels}


@dataclass(frozen=True)
class VectorOptions(FlowOptions):
    """Options of flows of vectors; an event of another shape is flattened.

    Args:
        features: how many numbers a sample has; or give shape.
        shape: shape of one event (an image is flattened); what the command line gives, from the data.
        activation: "relu", "silu", "tanh", "elu" or "softplus".
        dropout: fraction of the networks' hidden units dropped in training, against overfitting of small data.
    """

    before_own = ("shape",)

    features: int | None = None
    shape: Sequence[int] | None = field(default=None, kw_only=True)  # type: ignore[assignment]
    activation: Activation = field(default="relu", kw_only=True)
    dropout: float = field(default=0.0, kw_only=True)

    @property
    def network(self) -> dict[str, Any]:
        """The arguments of a layer that describe its network: activation, dropout, classes and cond_features."""
        return {"activation": self.activation, "dropout": self.dropout, **self.condition}

    @property
    def size(self) -> int:
        """How many numbers an event has."""
        return math.prod(self.event_shape)

    @classmethod
    def shape_of(cls, arguments: dict[str, Any]) -> Sequence[int]:
        """Return the shape that `features`, or `shape`, or both, ask for; features becomes None."""
        features, shape = arguments["features"], arguments["shape"]
        if features is None and shape is None:
            raise UserError("features is None, but a flow must know how many numbers a sample has; give features=2, or shape=(1, 28, 28).")
        if features is not None and shape is not None and features != math.prod(shape):
            raise UserError(
                f"features is {features}, but events of shape {tuple(shape)} have {math.prod(shape)} numbers; give one of them."
            )
        arguments["features"] = None
        return (whole("features", features, 1),) if shape is None else shape


@dataclass(frozen=True)
class ImageOptions(FlowConditions):
    """Options of flows of images, at several scales.

    Args:
        channels: channels of an image; or give shape.
        size: height and width of a square image; or give shape.
        shape: shape of an image (channels, height, width); what the command line gives, from the data.
        activation: "relu", "silu", "tanh", "elu" or "softplus".
        preprocess: "logit" spreads quantised data over the line, "standardise" fits mean and deviation to the training data, "none" leaves
            its units; "auto" is "logit" for quantised data and "standardise" for other.
        dequantise: how `loss` spreads quantised data over their unit cells: "uniform" noise, or "variational", drawn by a small flow
            that is learned too.
        values: number of values 0, 1, ... of quantised data (256 for 8-bit images), or None for continuous data.
        memory: "full", or "reversible" for training in memory that does not grow with depth: see `bijections.Chain`.
    """

    before_own = ("shape",)

    channels: int | None = None
    size: int | None = None
    shape: Sequence[int] | None = field(default=None, kw_only=True)
    activation: Activation = field(default="relu", kw_only=True)
    preprocess: ImagePreprocess = field(default="auto", kw_only=True)
    dequantise: Dequantise = field(default="uniform", kw_only=True)
    classes: int | None = field(default=None, kw_only=True)
    cond_features: int | None = field(default=None, kw_only=True)
    cond_image: Sequence[int] | None = field(default=None, kw_only=True)
    values: int | None = field(default=None, kw_only=True)
    memory: Memory = field(default="full", kw_only=True)

    def condition_at(self, sides: int) -> dict[str, Any]:
        """The arguments of a coupling of images whose sides are the event's divided by `sides`: classes, cond_features, cond_channels."""
        if self.cond_image is None:
            return self.condition
        return {"cond_channels": channels_at(self.cond_image, [side // sides for side in self.event_shape[1:]])}

    def family_options(self, hidden: int) -> dict[str, Any]:
        """The arguments of NormalizingFlow after the bijection and the base, with `hidden` channels in the learned dequantisation."""
        shape = self.event_shape
        return {
            "shape": shape,
            "preprocess": image_units(self.preprocess, shape, self.values),
            **self.family_condition,
            "levels": self.values,
            "dequantisation": dequantisation(self.dequantise, shape, hidden, self.values),
        }

    @classmethod
    def shape_of(cls, arguments: dict[str, Any]) -> Sequence[int]:
        """Return the shape that `channels` and `size`, or `shape`, or all of them, ask for; channels and size become None."""
        channels, size, shape = arguments["channels"], arguments["size"], arguments["shape"]
        if shape is None:
            if channels is None or size is None:
                hint = "give glow(3, 32), or shape=(1, 28, 28)."
                raise UserError(f"channels is {channels} and size is {size}, but a flow of images must know both; {hint}")
            shape = (channels, size, size)
        if len(shape) != 3:
            raise UserError(
                f"shape is {tuple(shape)}, but this flow is for images (channels, height, width); take realnvp or nsf for vectors."
            )
        if channels not in (None, shape[0]) or (size is not None and (size, size) != tuple(shape[1:])):
            raise UserError(f"channels is {channels} and size is {size}, but shape is {tuple(shape)}; give one of them.")
        arguments["channels"] = arguments["size"] = None
        return tuple(shape)


def checked_levels(levels: int, shape: Sequence[int], halvings: int) -> None:
    """Refuse no levels, and more halvings of the sides than they allow."""
    if levels < 1:
        raise UserError(f"levels is {levels}, but a flow has at least 1.")
    for name, side in zip(("height", "width"), shape[1:], strict=True):
        sides = [side]
        while sides[-1] % 2 == 0:
            sides.append(sides[-1] // 2)
        if halvings >= len(sides):
            most = levels - halvings + len(sides) - 1
            remedy = f"give levels={most} at most" if most > 0 else "pad or crop the images to an even size"
            raise UserError(
                f"levels is {levels}, which halves the {name} {halvings} time{'s' * (halvings > 1)}, but {side} allows {len(sides) - 1} "
                f"({' -> '.join(map(str, sides))}); {remedy}."
            )


def dequantisation(kind: Dequantise, shape: Sequence[int], hidden: int, values: int | None) -> Bijection | None:
    """Return how images are spread over their levels: None for uniformly, or four couplings by checkerboard that are given the image."""
    if kind not in ("uniform", "variational"):
        raise UserError(f"dequantise is {kind!r}, but it is 'uniform' or 'variational'.")
    if kind == "uniform":
        return None
    if values is None:
        raise UserError("dequantise is 'variational', but values is None; give the number of values of quantised data, or 'uniform'.")
    channels = shape[0]
    couplings = [ImageCoupling(channels, hidden, mask="checkerboard", swap=k % 2 == 1, cond_channels=channels) for k in range(4)]
    return Chain([*couplings, Sigmoid()])
