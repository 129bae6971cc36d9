"""What a condition is: labels, vectors, images, or a frozen record that indexes, moves and mixes as a tensor does."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import GetAttrKey, register_pytree_node, tree_leaves, tree_map_only
from torch.utils.data._utils.collate import default_collate_fn_map

from pushforward._checks import event_shape, shown, whole
from pushforward.errors import ConditionError, DtypeError
from pushforward.registry import export


@dataclass(frozen=True)
class Conditioning:
    """The kind of condition that a network or model was built for: labels, vectors, images, or none of them.

    Args:
        classes: number of labels, or None.
        cond_features: length of condition vectors, or None.
        cond_image: shape (channels, height, width) of condition images, such as masks, or None.

    Raises:
        ConditionError: several kinds are given.
    """

    classes: int | None = None
    cond_features: int | None = None
    cond_image: Sequence[int] | None = None

    def __post_init__(self) -> None:
        given = [f"{name} is {value}" for name, value in vars(self).items() if value is not None]
        if len(given) > 1:
            raise ConditionError(f"{' and '.join(given)}, but a condition is labels, vectors or images; give one of them.")
        if self.cond_features is not None:
            whole("cond_features", self.cond_features, 1, hint="None is a network without condition vectors")
        if self.cond_image is not None:
            image = event_shape(self.cond_image, "cond_image")
            if len(image) < 2:
                raise ConditionError(f"cond_image is {image}, but an image has (channels, height, width); use cond_features for vectors.")
            object.__setattr__(self, "cond_image", image)

    @property
    def shape(self) -> tuple[int, ...] | None:
        """The shape of one condition that is a vector or an image, None for labels and for no condition."""
        return (self.cond_features,) if self.cond_features is not None else None if self.cond_image is None else tuple(self.cond_image)

    @property
    def length(self) -> int | None:
        """How many numbers such a condition has, None for labels and for no condition."""
        return None if self.shape is None else math.prod(self.shape)

    def __bool__(self) -> bool:
        return self.classes is not None or self.shape is not None

    def rows(self, n: int) -> str:
        """Return what n conditions of this kind are, for error messages."""
        if self.shape is None:
            return f"integer labels ({n},)"
        return f"{'vectors' if self.cond_features is not None else 'images'} {(n, *self.shape)}"

    def check(self, cond: Any, n: int, dtype: torch.dtype, where: str = "model") -> None:
        """Raise unless a condition is n vectors or images of this kind, in floating point of this dtype."""
        needed = (n, *(self.shape or ()))
        if not isinstance(cond, Tensor) or tuple(cond.shape) != needed or not cond.is_floating_point():
            built = "cond_features" if self.cond_features is not None else "cond_image"
            raise ConditionError(
                f"cond is {described(cond)}, but this {where} needs {self.rows(n)}, one per row (it was built with {built})."
            )
        if cond.dtype != dtype and not torch.is_autocast_enabled(cond.device.type):
            raise DtypeError(f"cond is {cond.dtype}, but the {where}'s parameters are {dtype}; use cond.to({dtype}).")


def described(cond: Any) -> str:
    """Return what a condition is, for error messages."""
    return f"{cond.dtype} of shape {tuple(cond.shape)}" if isinstance(cond, Tensor) else shown(cond)


def unexpected(cond: Any, what: str) -> ConditionError:
    """Return the error for a condition that is given to a network or model built without one, with the argument that it needs."""
    remedy = "classes=K for labels, cond_features=k for vectors or cond_image=(channels, height, width) for images"
    if isinstance(cond, Tensor) and cond.ndim:
        remedy = (
            "classes=K" if cond.ndim == 1 else f"cond_features={cond.shape[1]}" if cond.ndim == 2 else f"cond_image={tuple(cond.shape[1:])}"
        )
    return ConditionError(
        f"cond is {described(cond)}, but this {what} was built without conditions; build it with {remedy}, or leave it out."
    )


def dropped(cond: Any, mask: Tensor) -> Tensor:
    """Return vectors or images (n, ...) without the rows where mask (n,) is true, which become NaN: networks take such a row as None."""
    return torch.where(mask.view(-1, *(1,) * (cond.ndim - 1)), torch.nan, cond)


def known_rows(cond: Tensor) -> Tensor:
    """Return which rows of vectors or images (n, ...) were not dropped, as (n, 1, ...)."""
    return ~cond[(slice(None), *(slice(0, 1),) * (cond.ndim - 1))].isnan()


def rows_of(cond: Any) -> Any:
    """Return the number of rows of a condition: len(cond), or a symbol where a program for any number of rows is exported."""
    return tree_leaves(cond)[0].shape[0]


def repeated(cond: Any, times: Any) -> Any:
    """Return all rows of a condition so many times over, one copy after the other."""
    return tree_map_only(Tensor, lambda leaf: leaf.repeat(times, *(1,) * (leaf.ndim - 1)), cond)


@export("TextContext")
@dataclass(frozen=True, eq=False)
class TextContext:
    """Text encodings of n prompts as the condition of a transformer: a sequence of tokens and one vector per prompt.

    It is a pytree, so that models, chunks and adaptive solvers cut it as they cut a tensor of labels.

    Args:
        context: (n, tokens, channels); (n, 333, 4096) for Stable Diffusion 3.
        pooled: (n, channels); (n, 2048) for Stable Diffusion 3.

    Raises:
        ConditionError: the two do not have one row a prompt each.

    Example:
        >>> cond = TextContext(torch.randn(3, 5, 8), torch.randn(3, 4))
        >>> len(cond), cond[1:].pooled.shape
        (3, torch.Size([2, 4]))

    Source: Esser et al. (Stable Diffusion 3), 2403.03206, section 4 (figure 2).
    """

    context: Tensor
    pooled: Tensor

    def __post_init__(self) -> None:
        if isinstance(self.context, Tensor) and isinstance(self.pooled, Tensor):  # torch's own tree functions put other things here
            shapes = tuple(self.context.shape), tuple(self.pooled.shape)
            if (len(shapes[0]), len(shapes[1])) != (3, 2) or shapes[0][0] != shapes[1][0]:
                raise ConditionError(
                    f"context is {shapes[0]} and pooled {shapes[1]}, but they must be (n, tokens, channels) and (n, channels)."
                )

    def __len__(self) -> int:
        return len(self.context)

    def __getitem__(self, index: Any) -> "TextContext":
        """Return the rows of a slice, an integer tensor or list, or a boolean mask; a single number keeps its row as a batch of one."""
        index = slice(index, index + 1 or None) if isinstance(index, int) else index
        return type(self)(self.context[index], self.pooled[index])

    def to(self, *args: Any, **kwargs: Any) -> "TextContext":
        """Return it on another device or in another dtype, as `Tensor.to` does."""
        return type(self)(self.context.to(*args, **kwargs), self.pooled.to(*args, **kwargs))

    def where(self, mask: Tensor, other: "TextContext | None") -> "TextContext":
        """Return its own rows where mask (n,) is true and those of another elsewhere: n rows, one row for all, or None for zeros."""
        if other is None:
            other = TextContext(torch.zeros_like(self.context[:1]), torch.zeros_like(self.pooled[:1]))
        mask = mask.to(self.context.device)
        return type(self)(
            torch.where(mask[:, None, None], self.context, other.context), torch.where(mask[:, None], self.pooled, other.pooled)
        )

    def pin_memory(self) -> "TextContext":
        """Return it in pinned memory, as a DataLoader asks for it."""
        return type(self)(self.context.pin_memory(), self.pooled.pin_memory())

    def repeat(self, n: int) -> "TextContext":
        """Return all rows n times over, one copy after the other."""
        return type(self)(self.context.repeat(n, 1, 1), self.pooled.repeat(n, 1))


def register_context(kind: type[Any]) -> None:
    """Let torch see through a frozen record of tensors, by the names of its fields, as `torch.export` needs them."""
    names = [field.name for field in fields(kind)]
    register_pytree_node(
        kind,
        lambda cond: ([getattr(cond, name) for name in names], None),
        lambda leaves, _: kind(*leaves),
        serialized_type_name=f"{kind.__module__}.{kind.__qualname__}",
        flatten_with_keys_fn=lambda cond: ([(GetAttrKey(name), getattr(cond, name)) for name in names], None),
    )


register_context(TextContext)


def _collated(rows: Sequence[TextContext], **_: Any) -> TextContext:
    """Return the rows of a batch, each a batch of one, as one record."""
    return TextContext(torch.cat([row.context for row in rows]), torch.cat([row.pooled for row in rows]))


default_collate_fn_map[TextContext] = _collated  # what `torch.utils.data.default_collate` documents for types of one's own
