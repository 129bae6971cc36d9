"""Neural spline flows: each number bent along a curve that a network draws.

Paper: Durkan, Bekasov, Murray and Papamakarios, Neural spline flows, 2019, arXiv 1906.04032.
What it adds: where RealNVP and MAF scale and shift a number, this bends it along a monotone rational-quadratic spline, whose knots and
slopes the network says; it is as easily inverted (a quadratic equation) and far more flexible, as one layer already makes several modes.
Outside [-bound, bound] splines are the identity, so data should be of unit size (`preprocess="standardise"`). Between layers features
are mixed by a matrix kept as LU factors (section 4). Both of the paper's kinds: RQ-NSF (C) of couplings, fast in both directions, and
RQ-NSF (AR), autoregressive.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch

from pushforward.bijections.autoregressive import SplineAutoregressive
from pushforward.bijections.bijection import Bijection
from pushforward.bijections.chain import Chain
from pushforward.bijections.coupling import SplineCoupling
from pushforward.bijections.mixing import LULinear, Reverse
from pushforward.errors import UserError
from pushforward.families.normalizing_flow import NormalizingFlow
from pushforward.functional.levels import Levels
from pushforward.models.preset import Preprocess, checked_layers, preset, units
from pushforward.nn.activation import Activation
from pushforward.registry import export


def _example() -> tuple:
    return nsf(2, 2, 4, (16,), activation="tanh", classes=3), torch.randn(4, 2), torch.tensor([0, 1, 2, 0])


@export("models.nsf", example=_example)
@preset
def nsf(
    features: int | None = None,
    layers: int = 8,
    bins: int = 8,
    hidden: tuple[int, ...] = (128, 128),
    *,
    shape: Sequence[int] | None = None,
    kind: Literal["coupling", "autoregressive"] = "coupling",
    mixing: Literal["lu", "none"] = "lu",
    bound: float = 5.0,
    activation: Activation = "relu",
    preprocess: Preprocess = "none",
    classes: int | None = None,
    cond_features: int | None = None,
    levels: Levels = None,
) -> NormalizingFlow:
    """Stack spline couplings, or masked autoregressive splines, with learned linear mixing between them.

    Args:
        features: numbers a sample; or give shape.
        layers: number of spline layers.
        bins: pieces of each spline.
        hidden: widths of each network's hidden layers.
        shape: shape of one event (an image is flattened); what the command line gives, from the data.
        kind: "coupling" (both directions one pass) or "autoregressive" (log_prob one pass, sampling feature by feature).
        mixing: "lu" puts a learned linear map before each layer; "none" only turns the order round between autoregressive
            layers, as couplings change the halves in turn anyway.
        bound: the splines act on [-bound, bound].
        activation: "relu", "silu", "tanh", "elu" or "softplus".
        preprocess: "standardise" fits mean and deviation to the training data, "logit" spreads quantised data over the line, "none" leaves
            its units.
        classes: number of class labels, or None.
        cond_features: length of condition vectors, or None.
        levels: number of values of quantised data, for a table one entry a column; None for continuous data.

    Returns:
        A NormalizingFlow with Gaussian noise.

    Example:
        >>> nsf(6, layers=3).log_prob(torch.randn(3, 6)).shape
        torch.Size([3])
    """
    assert shape is not None  # `preset` fills it in from features
    if kind not in ("coupling", "autoregressive") or mixing not in ("lu", "none"):
        raise UserError(f"kind is {kind!r} and mixing {mixing!r}, but they are 'coupling' or 'autoregressive', and 'lu' or 'none'.")
    size = math.prod(shape)
    steps: list[Bijection] = []
    for k in range(checked_layers(layers)):
        if mixing == "lu":
            steps += [LULinear(size)]
        elif kind == "autoregressive" and k:
            steps += [Reverse(size)]
        if kind == "coupling":
            steps += [
                SplineCoupling(
                    size, bins, hidden, bound=bound, swap=k % 2 == 1, activation=activation, classes=classes, cond_features=cond_features
                )
            ]
        else:
            steps += [
                SplineAutoregressive(size, bins, hidden, bound=bound, activation=activation, classes=classes, cond_features=cond_features)
            ]
    return NormalizingFlow(
        Chain(steps),
        shape=shape,
        preprocess=units(preprocess, shape, levels),
        classes=classes,
        cond_features=cond_features,
        levels=levels,
    )
