"""Where each text encoder's output is in a `TextContext`, so that each can be dropped on its own without loading any of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pushforward._checks import is_whole, shown
from pushforward.conditions import TextContext
from pushforward.errors import ConditionError, UserError
from pushforward.registry import export

Null = Literal["zeros", "empty"]


@export("sd3.TextPart", example=lambda: TextPart("minilm", (0, 32), (0, 384), (0, 384)))
@dataclass(frozen=True)
class TextPart:
    """What one text encoder fills of a `TextContext`: ranges of the context's tokens and channels, and of the channels of pooled.

    Args:
        encoder: its name.
        tokens, channels, pooled: (first, first after the last); pooled may be empty.

    Raises:
        UserError: a range is negative, or one that must not be empty is.

    Example:
        >>> pf.sd3.TextPart("minilm", tokens=(0, 32), channels=(0, 384), pooled=(0, 384)).encoder
        'minilm'
    """

    encoder: str
    tokens: tuple[int, int]
    channels: tuple[int, int]
    pooled: tuple[int, int]

    def __post_init__(self) -> None:
        for name, least in (("tokens", 1), ("channels", 1), ("pooled", 0)):
            span = getattr(self, name)
            whole = isinstance(span, tuple | list) and len(span) == 2 and all(is_whole(one) for one in span)
            if not whole or span[0] < 0 or span[1] - span[0] < least:
                held = list(span) if isinstance(span, tuple | list) else shown(span)
                raise UserError(f"{name} of the text encoder {self.encoder} is {held}, but it is (first, end), of at least {least}.")
            object.__setattr__(self, name, tuple(span))


def sizes_of(parts: Sequence[TextPart]) -> tuple[int, int, int]:
    """Return how many tokens and channels the context of these parts has, and how many channels pooled."""
    return max(one.tokens[1] for one in parts), max(one.channels[1] for one in parts), max(one.pooled[1] for one in parts)


@dataclass(frozen=True)
class TextLayout:
    """The parts of a `TextContext` by encoder, and what stands for no prompt.

    Args:
        parts: one for each encoder.
        none: the condition of one row that stands for no prompt, (1, tokens, context_width) and (1, pooled_width).
        null: what that is: "zeros", or "empty", the encoding of the empty prompt.
    """

    parts: tuple[TextPart, ...]
    none: TextContext
    null: Null

    @property
    def names(self) -> tuple[str, ...]:
        """The encoders' names."""
        return tuple(part.encoder for part in self.parts)

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


def parts_of(names: Sequence[str], tokens: Sequence[int], widths: Sequence[int], pooled: Sequence[int]) -> tuple[TextPart, ...]:
    """Return the parts of encoders whose contexts follow each other along tokens, and their pooled vectors along channels."""
    parts, token, channel = [], 0, 0
    for name, count, width, length in zip(names, tokens, widths, pooled, strict=True):
        parts.append(TextPart(name, (token, token + count), (0, width), (channel, channel + length)))
        token, channel = token + count, channel + length
    return tuple(parts)
