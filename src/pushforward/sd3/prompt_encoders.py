"""The text encoders of a loaded Stable Diffusion 3 in the form of `sd3.TextEncoders`: for caches, and for dropping one by one."""

import hashlib
from collections.abc import Sequence
from typing import Any

import torch

from pushforward.conditions import TextContext
from pushforward.errors import UserError
from pushforward.registry import export
from pushforward.sd3.cache_files import weights_digest
from pushforward.sd3.prompts import CLIP_TOKENS, CLIPS
from pushforward.sd3.text import checked_null
from pushforward.sd3.text_layout import Null, TextLayout, TextPart


@export("sd3.PromptEncoders")
class PromptEncoders:
    """Encode prompts with the encoders of Stable Diffusion 3, whose outputs are dropped one by one.

        context = [ CLIP-L | CLIP-G | zeros ] over 77 tokens, then T5's tokens;    pooled = [ CLIP-L | CLIP-G ]

    Args:
        model: a `StableDiffusion3` with CLIP-L and CLIP-G; a missing T5 is zeros and no part.
        tokens: number of T5 tokens.
        null: what stands for no prompt: "zeros", or "empty", the encoding of the empty prompt.

    Raises:
        UserError: `null` is neither, or an encoder is missing.

    Example:
        >>> from pushforward import StableDiffusion3, sd3
        >>> text = sd3.PromptEncoders(StableDiffusion3.from_pretrained("sd3.safetensors"))  # doctest: +SKIP
        >>> text.layout.names  # doctest: +SKIP
        ('clip_l', 'clip_g', 't5')

    Source: Esser et al., 2403.03206, section 4.
    """

    def __init__(self, model: Any, tokens: int = 256, null: Null = "zeros") -> None:
        checked_null(null)
        missing = [kind for kind in CLIPS if kind not in model.encoders]
        if missing:
            raise UserError(f"the model has no text encoder {missing[0]}; load it with its text encoders.")
        self.model, self.tokens_of_t5 = model, tokens
        clips = [model.encoders[kind].config for kind in CLIPS]
        count = min(CLIP_TOKENS, *(one.max_position_embeddings for one in clips))
        parts, channel, place = [], 0, 0
        for kind, one in zip(CLIPS, clips, strict=True):
            parts.append(TextPart(kind, (0, count), (channel, channel + one.hidden_size), (place, place + one.projection_dim)))
            channel, place = channel + one.hidden_size, place + one.projection_dim
        width = model.transformer.context_width
        if "t5" in model.encoders:
            parts.append(TextPart("t5", (count, count + tokens), (0, width), (0, 0)))
        blank = TextContext(torch.zeros(1, count + tokens, width), torch.zeros(1, place))
        self.layout = TextLayout(tuple(parts), self([""]).to("cpu", torch.float32) if null == "empty" else blank, null)

    def __call__(self, prompts: str | Sequence[str] | TextContext) -> TextContext:
        """Return the context and pooled of n prompts, on the model's device."""
        encoded: TextContext = self.model.encode_prompt(prompts, self.tokens_of_t5)
        return encoded

    def fingerprint(self) -> str:
        """Return a hash of the encoders' weights and the number of tokens and, behind a hyphen, one of the tokenizers.

        That of a model without tokenizers has no second part, nor have caches of former versions: then only the first parts are compared.
        """
        facts = [self.tokens_of_t5, *((kind, weights_digest(self.model.encoders[kind])) for kind in sorted(self.model.encoders))]
        tokenizers = sorted(self.model.tokenizers.items())
        parts = [facts, [(kind, one.fingerprint()) for kind, one in tokenizers]] if tokenizers else [facts]
        return "-".join(hashlib.sha256(repr(one).encode()).hexdigest()[:16] for one in parts)
