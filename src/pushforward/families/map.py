"""The map between data and noise that a model defines given a condition; encode, decode, log_prob and sample follow from it."""

import math
from typing import Any

import torch
from torch import Tensor

from pushforward import _random
from pushforward._checks import per_sample
from pushforward.bijections.bijection import Bijection, inverted, pulled, pushed
from pushforward.bijections.ode import ODE
from pushforward.errors import ConditionError


class Map(Bijection):
    """A family's bijection for a fixed condition, between data in their own units and noise: the result of `GenerativeModel.map`.

        z = f(preprocess(x), cond),    log|det| = log|det preprocess| + log|det f|

    Data outside the support of `preprocess` have log|det| = -inf.

    Args:
        bijection: the family's map, in the model's units.
        cond: the condition of each sample, or None.
        preprocess: the bijection from the data's units to the model's, or None.
        generator: randomness of an estimated divergence.

    Raises:
        ConditionError: a condition is passed to a call; it is fixed.
    """

    def __init__(self, bijection: Bijection, cond: Any, preprocess: Bijection | None = None, generator: _random.Generators = None) -> None:
        super().__init__()
        self.bijection, self.preprocess, self.cond = bijection, preprocess, cond
        self.generator = generator

    def forward(self, x: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        _refuse(cond)
        return mapped(self.bijection, self.cond, self.preprocess, self.generator, x)

    def inverse(self, z: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        _refuse(cond)
        options = _options(self.bijection, self.generator)
        # `inverted` accepts no options: only an ODE has some, and it is never sharded itself.
        x, log_abs_det = self.bijection.inverse(z, self.cond, **options) if options else inverted(self.bijection, z, self.cond)
        if self.preprocess is None:
            return x, log_abs_det
        x, pre = self.preprocess.inverse(x)
        return x, log_abs_det + pre

    def pull(self, x: Tensor, cond: Any = None) -> Tensor:
        _refuse(cond)
        return pulled(self.bijection, x if self.preprocess is None else pulled(self.preprocess, x, None), self.cond)

    def push(self, z: Tensor, cond: Any = None) -> Tensor:
        _refuse(cond)
        x = pushed(self.bijection, z, self.cond)
        return x if self.preprocess is None else pushed(self.preprocess, x, None)


def mapped(
    bijection: Bijection, cond: Any, preprocess: Bijection | None, generator: _random.Generators, x: Tensor
) -> tuple[Tensor, Tensor]:
    """Return noise and log_abs_det of data, as `Map.forward` does."""
    options = _options(bijection, generator)
    if preprocess is None:
        z, log_abs_det = bijection(x, cond, **options)
        return z, log_abs_det
    y, pre = preprocess(x)
    outside = per_sample(pre, x, "the log-determinant of preprocess") == -math.inf  # of the support, where the density is 0
    y = torch.where(outside.view(-1, *(1,) * (x.ndim - 1)), 0.0, y)
    z, log_abs_det = bijection(y, cond, **options)
    return z, torch.where(outside, -math.inf, log_abs_det + pre)


def _options(bijection: Bijection, generator: _random.Generators) -> dict[str, Any]:
    return {"generator": generator} if isinstance(bijection, ODE) else {}


def _refuse(cond: Any) -> None:
    if cond is not None:
        raise ConditionError("cond is given to a map, but its condition is fixed; give it to model.map(cond).")
