"""What all presets share: the default network, the units, and the record of what built the model."""

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, ParamSpec, TypeVar

from pushforward.bijections.bijection import Bijection
from pushforward.bijections.squash import Logit
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


def preset(function: Callable[P, M]) -> Callable[P, M]:
    """Let a preset keep its arguments in `model.config`, from which `pushforward.load` builds the same model again.

    `net=None` is replaced by the default network's configuration first, and `features` by the shape it stands for, so that the record
    says what was built.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def build(*args: P.args, **kwargs: P.kwargs) -> M:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        arguments = bound.arguments
        arguments["shape"] = checked_shape(_shape_of_features(arguments) if "features" in arguments else arguments["shape"])
        if "net" in arguments and arguments["net"] is None:
            arguments["net"] = MLP.Config() if len(arguments["shape"]) == 1 else UNet.Config()
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
    return (features,) if shape is None else shape


def checked_layers(layers: int) -> int:
    """Return the number of layers, or refuse what is none."""
    if layers < 1:
        raise UserError(f"layers is {layers}, but a flow needs at least 1; try 8.")
    return layers


def checked_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """Return an event's shape as a tuple, or refuse what is none."""
    shape = tuple(int(side) for side in shape)
    if not shape or min(shape) < 1:
        raise UserError(f"shape is {shape}, but an event has at least one positive dimension, such as (2,) or (1, 8, 8).")
    return shape


def built(net: Net, shape: Sequence[int], classes: int | None) -> Any:
    """Return the network: built from its configuration, or as it is."""
    return net.build(shape, classes) if isinstance(net, NetConfig) else net


def units(preprocess: Preprocess, shape: Sequence[int], levels: Levels = None) -> Bijection | None:
    """Return the bijection from the data's units to the model's."""
    if preprocess not in ("none", "standardise", "logit"):
        raise UserError(f"preprocess is {preprocess!r}, but it is 'none', 'standardise' or 'logit'.")
    if preprocess == "logit":
        if not isinstance(levels, int):
            raise UserError(f"preprocess is 'logit', but levels is {levels}, so there is no one interval to spread; use 'standardise'.")
        return Logit(0.0, float(levels))
    return Standardise(shape) if preprocess == "standardise" else None
