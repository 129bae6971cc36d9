"""Embeddings of time and condition: the module of `functional.timestep_embedding`, labels and vectors, each with a vector for none."""

import copy
import functools
from typing import Any

import torch
from torch import Tensor, nn

from pushforward._checks import whole
from pushforward._precision import dtype_of
from pushforward.conditions import Conditioning, described, known_rows, unexpected
from pushforward.errors import ConditionError, UserError
from pushforward.functional.embedding import timestep_embedding
from pushforward.registry import export


@export("nn.TimestepEmbedding", example=lambda: (TimestepEmbedding(8), (torch.rand(3, dtype=torch.float64),)))
class TimestepEmbedding(nn.Module):
    """Cosines and sines of t (n,) as (n, features): `functional.timestep_embedding`.

    Args:
        features: size of the embedding; even.
        scale: factor applied to t.
        max_period: the longest period, in units of scale t / (2 pi).
    """

    def __init__(self, features: int, scale: float = 1000.0, max_period: float = 10000.0) -> None:
        super().__init__()
        self.features, self.scale, self.max_period = features, scale, max_period

    def forward(self, t: Tensor) -> Tensor:
        return timestep_embedding(t, self.features, self.scale, self.max_period)

    def extra_repr(self) -> str:
        return f"{self.features}, scale={self.scale}, max_period={self.max_period}"


@export("nn.LabelEmbedding")
class LabelEmbedding(nn.Module):
    """A learned vector for each class, and one more for no class.

    The table has classes + 1 rows; the last is the null row, used for `cond=None` and for labels dropped in training.

    Args:
        classes: number of classes, or None for a network without condition (any condition then raises an error).
        features: width of the vectors.

    Raises:
        ConditionError: a condition is given to a network built without classes.
    """

    def __init__(self, classes: int | None, features: int) -> None:
        super().__init__()
        self.classes = None if classes is None else whole("classes", classes, 1, hint="None is a network without labels")
        self.table = None if classes is None else nn.Embedding(classes + 1, features)
        self.conditional = classes is not None  # whether it accepts a condition
        if self.table is not None:
            nn.init.normal_(self.table.weight, std=0.02)

    def forward(self, cond: Tensor | None, n: int) -> Tensor | None:
        if self.table is None or self.classes is None:
            if cond is not None:
                raise unexpected(cond, "network")
            return None
        if cond is None:
            row: Tensor = self.table(torch.full((1,), self.classes, device=next(self.parameters()).device))
            return row.expand(n, -1)
        if not isinstance(cond, Tensor) or cond.is_floating_point() or tuple(cond.shape) != (n,):
            raise ConditionError(
                f"cond is {described(cond)}, but this network needs integer labels ({n},), one per row (it was built with classes)."
            )
        return self.table(cond)


class VectorEmbedding(nn.Module):
    """Condition vectors (n, cond_features) as vectors (n, features): standardised, then one linear map; a learned vector for none.

    An image is taken as the vector of its pixels. Mean and deviation are 0 and 1 until `fit_condition` has seen conditions. The learned
    vector is used for `cond=None` and for rows dropped in training (`conditions.dropped`).

    Raises:
        ConditionError: the condition is of another kind or shape.
        DtypeError: its dtype is not that of the parameters.
    """

    conditional = True
    mean: Tensor
    std: Tensor

    def __init__(self, cond_features: int, features: int) -> None:
        super().__init__()
        self.kind = Conditioning(cond_features=cond_features)
        self.linear: Any = nn.Linear(cond_features, features, bias=False)
        self.null = nn.Parameter(torch.zeros(features))
        self.register_buffer("mean", torch.zeros(cond_features))
        self.register_buffer("std", torch.ones(cond_features))

    def forward(self, cond: Tensor | None, n: int) -> Tensor:
        if cond is None:
            return self.null.expand(n, -1)
        flat = cond.flatten(1) if isinstance(cond, Tensor) and cond.ndim > 2 else cond
        self.kind.check(flat, n, self.null.dtype, "network")
        known = known_rows(flat)
        return torch.where(known, self.linear(torch.where(known, (flat - self.mean) / self.std, 0)), self.null)

    @torch.no_grad()
    def fit_condition(self, cond: Tensor) -> None:
        """Fit mean and deviation to conditions (n, cond_features), or to images for each channel."""
        for held, fitted in zip((self.mean, self.std), statistics(cond), strict=True):
            held.copy_(fitted.expand(cond.shape[1:]).flatten())


def statistics(cond: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and deviation of vectors for each feature, of images for each channel; what is constant has deviation 1."""
    dims = [0, *range(2, cond.ndim)]
    mean, std = cond.double().mean(dims, keepdim=True)[0], cond.double().std(dims, correction=0, keepdim=True)[0]
    return mean, torch.where(std > 1e-6 * mean.abs(), std, 1.0)


def fit_condition(module: nn.Module, cond: Any) -> None:
    """Fit the units of all conditions that the networks in a module read to those of training data."""
    if isinstance(cond, Tensor) and cond.is_floating_point() and cond.ndim > 1:
        for one in module.modules():
            own: Any = getattr(one, "fit_condition", None)
            if own is not None:
                own(cond)


def condition_embedding(features: int, classes: int | None, cond_features: int | None) -> LabelEmbedding | VectorEmbedding:
    """Return the embedding of a network's condition, called as embedding(cond, n).

    Args:
        features: size of the embedding.
        classes: number of labels, or None.
        cond_features: length of the condition vectors, or None; not both. With neither the embedding is None for every row.

    Raises:
        ConditionError: both kinds are requested.
    """
    kind = Conditioning(classes, cond_features)
    return LabelEmbedding(classes, features) if kind.cond_features is None else VectorEmbedding(kind.cond_features, features)


class TimeNet(nn.Sequential):
    """A sequence whose first module computes in float32 or wider, and the others in the dtype of their parameters."""

    def forward(self, t: Tensor) -> Tensor:
        embedding, *others = self
        vector = embedding(t).to(dtype_of(self))
        for layer in others:
            vector = layer(vector)
        return vector


class Numbers(nn.Module):
    """Further numbers of each sample that a flow map's network reads, as one vector (n, features).

    The first is the length t - r of an interval [r, t], 0 if no r is given. With `count` 4 there are also the strength 1 - 1 / scale of
    classifier-free guidance and the interval of times (low, high) at which it acts; without guidance they are 0, 0 and 1. Each number has
    its own network, whose last layer starts at zero: with the weights of a network that reads only t it starts as that network.

    Args:
        embedding: an embedding of times (n,), the same for each number.
        features: size of the vector.
        count: number of numbers: 1 or 4.
        hidden: width of a hidden layer, or None for a linear map.

    Raises:
        UserError: guidance is given to a network that reads only the length of the interval.
    """

    def __init__(self, embedding: TimestepEmbedding, features: int, count: int, hidden: int | None = None) -> None:
        super().__init__()
        if count not in (1, 4):
            raise UserError(f"numbers is {count}, but it is 1 (the length of an interval), 4 (guidance too), or 0.")
        self.count = count
        inner = [] if hidden is None else [nn.Linear(embedding.features, hidden), nn.SiLU()]
        last = [nn.Linear(embedding.features if hidden is None else hidden, features, bias=False) for _ in range(count)]
        self.nets = nn.ModuleList(TimeNet(embedding, *copy.deepcopy(inner), one) for one in last)
        for one in last:
            nn.init.zeros_(one.weight)

    def forward(self, t: Tensor, r: Tensor | None = None, guidance: Tensor | None = None) -> Tensor:
        """Return the vector for times t (n,), the intervals' other ends r (n,), and guidance (n, 3): scale, low and high."""
        found = [net(number) for net, number in zip(self.nets, self.read(t, r, guidance), strict=True)]
        return functools.reduce(torch.add, found)

    def read(self, t: Tensor, r: Tensor | None = None, guidance: Tensor | None = None) -> list[Tensor]:
        """Return the numbers themselves, `count` tensors (n,)."""
        length = torch.zeros_like(t) if r is None else t - r
        if guidance is not None and self.count == 1:
            raise UserError("this network reads no guidance scale; build it with numbers=4.")
        if self.count == 1:
            return [length]
        scale, low, high = (torch.ones_like(t), 0 * t, torch.ones_like(t)) if guidance is None else guidance.to(t).unbind(1)
        return [length, 1 - 1 / scale, low, high]


def no_interval() -> UserError:
    """Return the error for an interval or guidance given to a network that reads only t."""
    return UserError("this network reads one time, but r or guidance is given; build it with numbers=1 (an interval) or 4 (guidance too).")


class TimeAndCondition(nn.Module):
    """A small network that embeds time and condition as one vector (n, features), which modulates the blocks of U-Net and DiT.

    With `numbers` it also embeds as many further numbers (see `Numbers`); `time_scale` is the factor of t in the embedding:
    None is 1000, and 30 with numbers, for flow maps, whose losses contain the derivative by t.
    """

    def __init__(
        self,
        features: int,
        classes: int | None,
        cond_features: int | None = None,
        frequencies: int = 128,
        numbers: int = 0,
        time_scale: float | None = None,
    ) -> None:
        super().__init__()
        embedding = TimestepEmbedding(frequencies, (30.0 if numbers else 1000.0) if time_scale is None else time_scale)
        self.time = TimeNet(embedding, nn.Linear(frequencies, features), nn.SiLU(), nn.Linear(features, features))
        self.label = condition_embedding(features, classes, cond_features)
        self.numbers = Numbers(embedding, features, numbers, features) if numbers else None

    def forward(self, t: Tensor, cond: Tensor | None, r: Tensor | None = None, guidance: Tensor | None = None) -> Tensor:
        vector = self.time(t)
        if self.numbers is not None:
            vector = vector + self.numbers(t, r, guidance)
        elif r is not None or guidance is not None:
            raise no_interval()
        label = self.label(cond, t.shape[0])
        return vector if label is None else vector + label
