"""Embeddings of time and condition: the module of `functional.timestep_embedding`, the label table with a null row, and a linear map."""

import torch
from torch import Tensor, nn

from pushforward._checks import shown, whole
from pushforward._precision import dtype_of
from pushforward.errors import ConditionError, DtypeError
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
                raise ConditionError(
                    "a condition was given to a network built without classes; build it with classes=K, or leave cond out."
                )
            return None
        if cond is None:
            row: Tensor = self.table(torch.full((1,), self.classes, device=next(self.parameters()).device))
            return row.expand(n, -1)
        if not isinstance(cond, Tensor) or cond.is_floating_point() or tuple(cond.shape) != (n,):
            what = f"{cond.dtype} of shape {tuple(cond.shape)}" if isinstance(cond, Tensor) else shown(cond)
            raise ConditionError(f"cond is {what}, but this network needs integer labels ({n},), one per row.")
        return self.table(cond)


class VectorEmbedding(nn.Linear):
    """Condition vectors (n, cond_features) as vectors (n, features), by one linear map.

    Raises:
        ConditionError: the vectors are missing or of the wrong shape.
        DtypeError: their dtype is not that of the parameters.
    """

    conditional = True

    def __init__(self, cond_features: int, features: int) -> None:
        super().__init__(whole("cond_features", cond_features, 1), features, bias=False)

    def forward(self, cond: Tensor | None, n: int) -> Tensor:  # type: ignore[override]
        if not isinstance(cond, Tensor) or tuple(cond.shape) != (n, self.in_features) or not cond.is_floating_point():
            what = f"{cond.dtype} of shape {tuple(cond.shape)}" if isinstance(cond, Tensor) else shown(cond)
            raise ConditionError(f"cond is {what}, but this network needs vectors ({n}, {self.in_features}), one per row.")
        if cond.dtype != self.weight.dtype and not torch.is_autocast_enabled(cond.device.type):
            raise DtypeError(
                f"cond is {cond.dtype}, but this network's parameters are {self.weight.dtype}; use cond.to({self.weight.dtype})."
            )
        return super().forward(cond)


def condition_embedding(features: int, classes: int | None, cond_features: int | None) -> LabelEmbedding | VectorEmbedding:
    """Return the embedding of a network's condition, called as embedding(cond, n).

    Args:
        features: size of the embedding.
        classes: number of labels, or None.
        cond_features: length of the condition vectors, or None; not both. With neither the embedding is None for every row.

    Raises:
        ConditionError: both kinds are requested.
    """
    if classes is not None and cond_features is not None:
        raise ConditionError(
            f"classes is {classes} and cond_features is {cond_features}, but a condition is labels or vectors; give one of them."
        )
    return LabelEmbedding(classes, features) if cond_features is None else VectorEmbedding(cond_features, features)


class _TimeNet(nn.Sequential):
    """A sequence whose first module computes in float32 or wider, and the others in the dtype of their parameters."""

    def forward(self, t: Tensor) -> Tensor:
        embedding, *others = self
        vector = embedding(t).to(dtype_of(self))
        for layer in others:
            vector = layer(vector)
        return vector


class TimeAndLabel(nn.Module):
    """A small network that embeds time and label as one vector (n, features), which modulates the blocks of U-Net and DiT."""

    def __init__(self, features: int, classes: int | None, frequencies: int = 128) -> None:
        super().__init__()
        self.time = _TimeNet(TimestepEmbedding(frequencies), nn.Linear(frequencies, features), nn.SiLU(), nn.Linear(features, features))
        self.label = LabelEmbedding(classes, features)

    def forward(self, t: Tensor, cond: Tensor | None) -> Tensor:
        vector = self.time(t)
        label = self.label(cond, t.shape[0])
        return vector if label is None else vector + label
