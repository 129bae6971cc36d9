"""Where each text encoder's output is in a `TextContext`, so that each can be dropped on its own without loading any of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pushforward.conditions import TextContext
from pushforward.errors import ConditionError

Null = Literal["zeros", "empty"]


@dataclass(frozen=True)
class Part:
    """The tokens and channels of the context, and the channels of pooled, from (including) to (excluding), that one encoder fills."""

    name: str
    tokens: tuple[int, int]
    channels: tuple[int, int]
    pooled: tuple[int, int]


@dataclass(frozen=True)
class TextLayout:
    """The parts of a `TextContext` by encoder, and what stands for no prompt.

    Args:
        parts: one for each encoder.
        none: the condition of one row that stands for no prompt, (1, tokens, context_width) and (1, pooled_width).
        null: what that is: "zeros", or "empty", the encoding of the empty prompt.
    """

    parts: tuple[Part, ...]
    none: TextContext
    null: Null

    @property
    def names(self) -> tuple[str, ...]:
        """The encoders' names."""
        return tuple(part.name for part in self.parts)

    @property
    def tokens(self) -> int:
        """Tokens of a context."""
        return self.none.context.shape[1]

    @property
    def context_width(self) -> int:
        """Channels of a context token."""
        return self.none.context.shape[2]

    @property
    def pooled_width(self) -> int:
        """Channels of pooled."""
        return self.none.pooled.shape[1]

    def empty(self, n: int) -> TextContext:
        """Return n rows without a prompt."""
        return self.none.repeat(n)

    def dropped(self, cond: TextContext, keep: Tensor) -> TextContext:
        """Return a condition in which the dropped encoders' tokens and pooled channels are those of no prompt.

        Args:
            cond: n prompts.
            keep: (n, encoders), true where an encoder is kept.

        Raises:
            ConditionError: a shape does not fit.
        """
        if tuple(keep.shape) != (len(cond), len(self.parts)):
            raise ConditionError(f"keep is {tuple(keep.shape)}, but {len(cond)} prompts of {len(self.parts)} encoders need one entry each.")
        if cond.context.shape[1:] != self.none.context.shape[1:] or cond.pooled.shape[1:] != self.none.pooled.shape[1:]:
            raise ConditionError(
                f"cond is {tuple(cond.context.shape)} and {tuple(cond.pooled.shape)}, but {', '.join(self.names)} return "
                f"{(len(cond), *self.none.context.shape[1:])} and {(len(cond), self.pooled_width)}; encode the prompts with them."
            )
        context, pooled = cond.context.clone(), cond.pooled.clone()
        none, keep = self.none.to(context), keep.to(context.device, torch.bool)
        for k, part in enumerate(self.parts):
            kept = keep[:, k]
            area = (slice(None), slice(*part.tokens), slice(*part.channels))
            context[area] = torch.where(kept[:, None, None], context[area], none.context[area])
            some = (slice(None), slice(*part.pooled))
            pooled[some] = torch.where(kept[:, None], pooled[some], none.pooled[some])
        return TextContext(context, pooled)


def parts_of(names: Sequence[str], tokens: Sequence[int], widths: Sequence[int], pooled: Sequence[int]) -> tuple[Part, ...]:
    """Return the parts of encoders whose contexts follow each other along tokens, and their pooled vectors along channels."""
    parts, token, channel = [], 0, 0
    for name, count, width, length in zip(names, tokens, widths, pooled, strict=True):
        parts.append(Part(name, (token, token + count), (0, width), (channel, channel + length)))
        token, channel = token + count, channel + length
    return tuple(parts)
