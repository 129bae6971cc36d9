"""From prompts to the two tensors that an MMDiT is conditioned on, as Stable Diffusion 3 puts its three encoders together."""

import collections
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pushforward.conditions import TextContext
from pushforward.errors import UserError
from pushforward.sd3.tokenizers import Tokenizer

CLIP_TOKENS = 77
KEPT = 256  # prompts whose encodings are kept: at 333 tokens of 4096 channels in bfloat16 2.7 MB each
CLIPS = ("clip_l", "clip_g")


class Residence(Protocol):
    """Where components are while they are used."""

    def using(self, name: str) -> Any:
        """Return a context in which the component is on its device."""
        ...


class Prompts:
    """Encode prompts, and keep what was encoded.

        context = [ CLIP-L | CLIP-G | zeros ] over 77 tokens, then T5's tokens;    pooled = [ CLIP-L | CLIP-G ]

    The CLIPs give the states before their last layer, without the final norm; pooled is the projected end token of the last layer with it.
    Without T5, zeros stand for its tokens.

    Args:
        encoders: "clip_l" and "clip_g", and "t5" if it is there, as transformers' modules.
        tokenizers: one for each encoder.
        channels: of a context token, which is T5's width.
        residence: where components are while they are used.

    Source: Esser et al., 2403.03206, section 4; the details are Stability AI's inference code and diffusers 0.42 (SD3.md, section 4).
    """

    def __init__(self, encoders: Mapping[str, nn.Module], tokenizers: Mapping[str, Tokenizer], channels: int, residence: Residence) -> None:
        self.encoders, self.tokenizers, self.channels, self.residence = encoders, tokenizers, channels, residence
        self._kept: collections.OrderedDict[tuple[str, int], TextContext] = collections.OrderedDict()

    def __call__(self, prompts: Sequence[str], tokens: int = 256) -> TextContext:
        """Return the context (n, 77 + tokens, channels) and pooled (n, both CLIPs' channels) of n prompts.

        Args:
            prompts: n texts; the empty one is no prompt.
            tokens: length of T5's part, to which texts are padded or cut: at most 512.

        Raises:
            UserError: a prompt is no text, there are none, tokens is out of range, or CLIP-L or CLIP-G is missing.
        """
        prompts = list(prompts)
        self._check(prompts, tokens)
        new = [one for one in dict.fromkeys(prompts) if (one, tokens) not in self._kept]
        if new:
            encoded = self._encode(new, tokens)
            self._kept.update({(prompt, tokens): encoded[k] for k, prompt in enumerate(new)})
        rows = [self._kept[prompt, tokens] for prompt in prompts]
        for prompt in prompts:
            self._kept.move_to_end((prompt, tokens))
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return TextContext(torch.cat([row.context for row in rows]), torch.cat([row.pooled for row in rows]))

    def _check(self, prompts: list[str], tokens: int) -> None:
        if not prompts:
            raise UserError("prompts is empty; give one text an image, such as ['a red fox'], or [''] for none.")
        for k, prompt in enumerate(prompts):
            if not isinstance(prompt, str):
                raise UserError(f"prompts[{k}] is {prompt!r}, but a prompt is a text; use '' for none.")
        if not 1 <= tokens <= 512:
            raise UserError(f"tokens is {tokens}, but T5's part of the context has 1 to 512 tokens; 256 is usual.")
        for kind in CLIPS:
            if kind not in self.encoders:
                raise UserError(
                    f"there is no text encoder {kind}, neither in the file nor given; give text_encoders=FOLDER with clip_l.safetensors "
                    "and clip_g.safetensors (t5xxl_*.safetensors may be left out), or pass a TextContext instead of prompts."
                )

    @torch.no_grad()
    def _encode(self, prompts: list[str], tokens: int) -> TextContext:
        states, pooled = zip(*(self._clip(kind, prompts) for kind in CLIPS), strict=True)
        clip = torch.cat(states, dim=-1)
        if clip.shape[-1] > self.channels:
            raise UserError(
                f"the CLIPs give {clip.shape[-1]} channels, but a token of the context has {self.channels}; the files do not fit."
            )
        t5 = self._t5(prompts, tokens).to(clip.dtype) if "t5" in self.encoders else clip.new_zeros(len(prompts), tokens, self.channels)
        if t5.shape[-1] != self.channels:
            raise UserError(f"T5 gives {t5.shape[-1]} channels, but a token of the context has {self.channels}; the files do not fit.")
        return TextContext(torch.cat([F.pad(clip, (0, self.channels - clip.shape[-1])), t5], dim=1), torch.cat(pooled, dim=-1))

    def _clip(self, kind: str, prompts: list[str]) -> tuple[Tensor, Tensor]:
        encoder: Any = self.encoders[kind]
        ids = self.tokenizers[kind](prompts, min(CLIP_TOKENS, encoder.config.max_position_embeddings))
        with self.residence.using(kind):
            said = encoder(ids.to(_device(encoder)), output_hidden_states=True)
        return said.hidden_states[-2].cpu(), said.text_embeds.cpu()

    def _t5(self, prompts: list[str], tokens: int) -> Tensor:
        encoder = self.encoders["t5"]
        with self.residence.using("t5"):
            said: Tensor = encoder(self.tokenizers["t5"](prompts, tokens).to(_device(encoder))).last_hidden_state
        return said.cpu()


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device
