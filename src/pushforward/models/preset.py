"""What all presets share: the default network, the units, and the record of what built the model."""

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, ParamSpec, TypeVar

from pushforward._checks import event_shape, is_whole, shown, whole
from pushforward.bijections.bijection import Bijection
from pushforward.bijections.chain import Chain
from pushforward.bijections.image_coupling import ImageCoupling
from pushforward.bijections.squash import Logit, Sigmoid
from pushforward.bijections.standardise import Standardise
from pushforward.errors import UserError
from pushforward.families.model import GenerativeModel
from pushforward.functional.levels import Levels
from pushforward.nn.config import NetConfig
from pushforward.nn.mlp import MLP
from pushforward.nn.unet import UNet

P = ParamSpec("P")
M = TypeVar("M", bound=GenerativeModel)
Net = NetConfig | Callable[..., Any] | None
Preprocess = Literal["none", "standardise", "logit"]
ImagePreprocess = Literal["auto", "none", "standardise", "logit"]
Dequantise = Literal["uniform", "variational"]


def preset(function: Callable[P, M]) -> Callable[P, M]:
    """Let a preset keep its arguments in `model.config`, from which `pushforward.load` builds the same model again.

    `net=None` is replaced by the default network's configuration first, and `features`, or `channels` and `size`, by the shape they stand
    for, so that the record says what was built.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def build(*args: P.args, **kwargs: P.kwargs) -> M:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        arguments = bound.arguments
        shape_of = _shape_of_features if "features" in arguments else _shape_of_image if "channels" in arguments else None
        arguments["shape"] = checked_shape(arguments["shape"] if shape_of is None else shape_of(arguments))
        if "net" in arguments and arguments["net"] is None:
            arguments["net"] = MLP.Config() if len(arguments["shape"]) == 1 else UNet.Config()
        for name in ("classes", "cond_features"):
            if arguments.get(name) is not None:
                whole(name, arguments[name], 1, hint="None is a model without them")
        model = function(*bound.args, **bound.kwargs)
        model.config = {"preset": function.__name__, "model": dict(arguments)}
        return model

    return build


def _shape_of_features(arguments: dict[str, Any]) -> Sequence[int]:
    """Return the shape that `features`, or `shape`, or both, ask for; features becomes None."""
    features, shape = arguments["features"], arguments["shape"]
    if features is None and shape is None:
        raise UserError("features is None, but a flow must know how many numbers a sample has; give features=2, or shape=(1, 28, 28).")
    if features is not None and shape is not None and features != math.prod(shape):
        raise UserError(f"features is {features}, but events of shape {tuple(shape)} have {math.prod(shape)} numbers; give one of them.")
    arguments["features"] = None
    return (whole("features", features, 1),) if shape is None else shape


def _shape_of_image(arguments: dict[str, Any]) -> Sequence[int]:
    """Return the shape that `channels` and `size`, or `shape`, or all of them, ask for; channels and size become None."""
    channels, size, shape = arguments["channels"], arguments["size"], arguments["shape"]
    if shape is None:
        if channels is None or size is None:
            raise UserError(
                f"channels is {channels} and size is {size}, but a flow of images must know both; give glow(3, 32), or shape=(1, 28, 28)."
            )
        shape = (channels, size, size)
    if len(shape) != 3:
        raise UserError(f"shape is {tuple(shape)}, but this flow is for images (channels, height, width); take realnvp or nsf for vectors.")
    if channels not in (None, shape[0]) or (size is not None and (size, size) != tuple(shape[1:])):
        raise UserError(f"channels is {channels} and size is {size}, but shape is {tuple(shape)}; give one of them.")
    arguments["channels"] = arguments["size"] = None
    return tuple(shape)


def checked_layers(layers: int, name: str = "layers") -> int:
    """Return the number of layers, or refuse what is none."""
    if not is_whole(layers) or layers < 1:
        raise UserError(f"{name} is {shown(layers)}, but a flow needs at least 1; try 8.")
    return layers


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


def checked_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """Return an event's shape as a tuple, or refuse what is none."""
    return event_shape(shape)


def built(net: Net, shape: Sequence[int], classes: int | None, outputs: int = 1) -> Any:
    """Return the network: built from its configuration, to say `outputs` times the channels, or as it is."""
    if isinstance(net, NetConfig):
        return net.build(shape, classes) if outputs == 1 else net.build(shape, classes, outputs)
    return net


def image_units(preprocess: ImagePreprocess, shape: Sequence[int], values: int | None) -> Bijection | None:
    """Return the bijection from the units of images to the model's; "auto" is the logit where data are quantised."""
    if preprocess not in ("auto", "none", "standardise", "logit"):
        raise UserError(f"preprocess is {preprocess!r}, but it is 'auto', 'none', 'standardise' or 'logit'.")
    if preprocess == "logit" and values is None:
        raise UserError("preprocess is 'logit', but values is None, so there is no interval to spread; give values=256 for 8-bit images.")
    if preprocess == "auto":
        preprocess = "standardise" if values is None else "logit"
    return units(preprocess, shape, values)


def dequantisation(kind: Dequantise, shape: Sequence[int], hidden: int, values: int | None) -> Bijection | None:
    """Return how images are spread over their levels: None for uniformly, or four couplings by checkerboard that read the image."""
    if kind not in ("uniform", "variational"):
        raise UserError(f"dequantise is {kind!r}, but it is 'uniform' or 'variational'.")
    if kind == "uniform":
        return None
    if values is None:
        raise UserError("dequantise is 'variational', but values is None; give the number of values of quantised data, or 'uniform'.")
    channels = shape[0]
    couplings = [ImageCoupling(channels, hidden, mask="checkerboard", swap=k % 2 == 1, cond_channels=channels) for k in range(4)]
    return Chain([*couplings, Sigmoid()])


def units(preprocess: Preprocess, shape: Sequence[int], levels: Levels = None) -> Bijection | None:
    """Return the bijection from the data's units to the model's."""
    if preprocess not in ("none", "standardise", "logit"):
        raise UserError(f"preprocess is {preprocess!r}, but it is 'none', 'standardise' or 'logit'.")
    if preprocess == "logit":
        if not isinstance(levels, int):
            raise UserError(f"preprocess is 'logit', but levels is {levels}, so there is no one interval to spread; use 'standardise'.")
        return Logit(0.0, float(levels))
    return Standardise(shape) if preprocess == "standardise" else None
