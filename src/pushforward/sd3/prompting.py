"""The methods of Stable Diffusion 3 that encode prompts."""

import threading
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from pushforward.conditions import TextContext
from pushforward.errors import UserError
from pushforward.nn.mmdit import MMDiT
from pushforward.sd3.lora_training import Trained
from pushforward.sd3.prompts import CLIP_TOKENS, CLIPS, Prompts, checked_prompts
from pushforward.sd3.residence import Residence
from pushforward.sd3.text_model import PromptTokens
from pushforward.sd3.tokenizers import Tokenizer

_LOADING = threading.Lock()  # of tokenizers, which are loaded once


class Prompting:
    """The methods of `StableDiffusion3` that encode prompts, with a cache."""

    transformer: MMDiT
    encoders: dict[str, nn.Module]
    tokenizer: Callable[[str], Tokenizer] | None
    residence: Residence
    device: torch.device
    training: Trained | None = None
    texts: Callable[..., TextContext] | None = None  # of a run trained here, in place of encoders and tokenizers
    _encoding: Prompts | None = None

    @property
    def _prompts(self) -> Prompts:
        find = self.tokenizer
        if find is None:
            raise UserError("this model has no tokenizers; use from_pretrained, or pass a TextContext instead of prompts.")
        with _LOADING:
            if self._encoding is None:
                tokenizers = {kind: find(kind) for kind in self.encoders}
                self._encoding = Prompts(self.encoders, tokenizers, self.transformer.context_width, self.residence)
            return self._encoding

    @property
    def tokenizers(self) -> Mapping[str, Tokenizer]:
        """The tokenizers of the text encoders, which are read at their first use; {} if the model has none."""
        return {} if self.tokenizer is None else self._prompts.tokenizers

    def _forget_prompts(self) -> None:
        """Discard cached encodings of prompts, which other weights of the encoders made."""
        if self._encoding is not None:
            self._encoding.forget()

    def encode_prompt(self, prompts: str | Sequence[str] | TextContext, tokens: int = 256) -> TextContext:
        """Return the text encodings of n prompts, the condition of the model; encodings are cached.

        Args:
            prompts: a text, or n of them; a `TextContext` is returned unchanged, on the device.
            tokens: number of T5 tokens, 1 to 512.
        """
        checked = checked_prompts(prompts)
        if self.training is not None:
            self._forget_prompts()
        if isinstance(checked, TextContext):
            return checked.to(self.device)
        return (self._prompts if self.texts is None else self.texts)(checked, tokens).to(self.device)

    def tokens_of(self, prompts: str | Sequence[str], tokens: int = 256) -> PromptTokens:
        """Return the token ids of n prompts, the condition of `text_model`, with this number of T5 tokens."""
        if self.texts is not None:
            raise UserError("this model is a run, whose text encoders are not trained; train its transformer on encoded prompts.")
        texts, own = checked_prompts(prompts), self._prompts
        if isinstance(texts, TextContext):
            raise UserError("prompts is a TextContext, which is encoded already; give texts.")
        own.check(tokens)
        ids = {kind: own.ids(kind, texts, CLIP_TOKENS) for kind in CLIPS}
        t5 = own.ids("t5", texts, tokens) if "t5" in self.encoders else torch.zeros(len(texts), tokens, dtype=torch.int64)
        return PromptTokens(**ids, t5=t5).to(self.device)
