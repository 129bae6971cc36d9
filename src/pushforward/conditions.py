"""Conditions that are more than one tensor: frozen records that index, move and mix as a tensor does, and that torch sees through."""

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import register_pytree_node

from pushforward.errors import ConditionError
from pushforward.registry import export


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

    def repeat(self, n: int) -> "TextContext":
        """Return all rows n times over, one copy after the other."""
        return type(self)(self.context.repeat(n, 1, 1), self.pooled.repeat(n, 1))


def _flatten(cond: TextContext) -> tuple[list[Any], None]:
    return [getattr(cond, field.name) for field in fields(cond)], None


def register_context(kind: type[TextContext]) -> None:
    """Let torch see through a record: TextContext itself, or a subclass without fields of its own."""
    register_pytree_node(kind, _flatten, lambda leaves, _: kind(*leaves), serialized_type_name=f"{kind.__module__}.{kind.__qualname__}")


register_context(TextContext)
