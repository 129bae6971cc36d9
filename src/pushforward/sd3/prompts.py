"""From prompts to the two tensors that condition an MMDiT, combining three encoders as in Stable Diffusion 3."""

import collections
import threading
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pushforward._checks import is_whole, shown
from pushforward.conditions import TextContext
from pushforward.errors import UserError
from pushforward.sd3.prompt_syntax import warn_of_syntax
from pushforward.sd3.text_encoders import ENCODERS
from pushforward.sd3.tokenizers import Tokenizer, warn_lost

CLIP_TOKENS = 77
MOST_TOKENS = 512
KEPT = 256  # number of cached prompt encodings: 2.7 MB each at 333 tokens of 4096 channels in bfloat16
CLIPS = ("clip_l", "clip_g")
_CACHE = threading.Lock()  # of all caches, as a lock in each could not be copied


def checked_prompts(prompts: Any, what: str = "prompts") -> list[str] | TextContext:
    """Return prompts as a list of texts, or a `TextContext` unchanged.

    Raises:
        UserError: they are neither a text, a sequence of at least one, nor a `TextContext`.
    """
    if isinstance(prompts, TextContext):
        return prompts
    texts = [prompts] if isinstance(prompts, str) else prompts
    if isinstance(texts, bytes | Mapping | Set) or not isinstance(texts, Iterable):
        raise UserError(f"{what} is {shown(prompts)}, but it must be a text or a list of texts; use '' for none.")
    texts = list(texts)
    if not texts:
        raise UserError(f"{what} is empty; give one string per image, such as ['a red fox'], or [''] for none.")
    for k, prompt in enumerate(texts):
        if not isinstance(prompt, str):
            raise UserError(f"{what}[{k}] is {prompt!r}, but a prompt must be a string; use '' for none.")
    return texts


class Residence(Protocol):
    """Moves components to their device while they are used."""

    def using(self, name: str) -> Any:
        """Return a context manager in which the component is on its device."""
        ...


class Prompts:
    """Encode prompts, with a cache.

        context = [ CLIP-L | CLIP-G | zeros ] over 77 tokens, then T5's tokens;    pooled = [ CLIP-L | CLIP-G ]

    The CLIP states are those before the last layer, without the final norm; pooled is the projected end token of the last layer, with
    the final norm. Without T5, its tokens are zeros.

    Args:
        encoders: "clip_l", "clip_g" and optionally "t5", as transformers modules.
        tokenizers: one for each encoder.
        channels: channels of a context token, which is T5's width.
        residence: device placement of components during use.

    Source: Esser et al., 2403.03206, section 4; the details are Stability AI's inference code and diffusers 0.42 (SD3.md, section 4).
    """

    def __init__(self, encoders: Mapping[str, nn.Module], tokenizers: Mapping[str, Tokenizer], channels: int, residence: Residence) -> None:
        self.encoders, self.tokenizers, self.channels, self.residence = encoders, tokenizers, channels, residence
        self._kept: collections.OrderedDict[tuple[str, int], TextContext] = collections.OrderedDict()

    def __call__(self, prompts: list[str], tokens: int = 256) -> TextContext:
        """Return the context (n, 77 + tokens, channels) and pooled (n, both CLIPs' channels) of n prompts.

        Args:
            prompts: n strings (see `checked_prompts`); the empty string is the unconditional prompt.
            tokens: number of T5 tokens, to which prompts are padded or truncated: at most 512.

        Raises:
            UserError: tokens is out of range, or CLIP-L or CLIP-G is missing.

        Warns:
            UserWarning: a prompt is longer than an encoder reads (once for each encoder, with the words that it leaves out), or has
                the syntax of other programs for weights.
        """
        self.check(tokens)
        wanted = list(dict.fromkeys(prompts))
        with _CACHE:  # other threads may add and remove encodings: what this call needs is held in `found`
            found = {prompt: self._kept[prompt, tokens] for prompt in wanted if (prompt, tokens) in self._kept}
        new = [prompt for prompt in wanted if prompt not in found]
        if new:
            warn_of_syntax(new)
            found.update(zip(new, self._encode(new, tokens), strict=True))
        with _CACHE:
            for prompt in wanted:
                self._kept[prompt, tokens] = found[prompt]
                self._kept.move_to_end((prompt, tokens))
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        rows = [found[prompt] for prompt in prompts]
        return TextContext(torch.cat([row.context for row in rows]), torch.cat([row.pooled for row in rows]))

    def forget(self) -> None:
        """Discard the cached encodings."""
        with _CACHE:
            self._kept.clear()

    def ids(self, kind: str, prompts: list[str], tokens: int) -> Tensor:
        """Return the ids (n, tokens) of prompts for an encoder, at most as many as it reads; warn of what they leave out."""
        encoder: Any = self.encoders[kind]
        if kind in CLIPS:
            tokens = min(tokens, encoder.config.max_position_embeddings)
        ids, lost = self.tokenizers[kind].encode(prompts, tokens)
        warn_lost(ENCODERS[kind], tokens, lost)
        return ids

    def check(self, tokens: int) -> None:
        """Raise unless prompts can be encoded with this number of T5 tokens."""
        if not is_whole(tokens) or not 1 <= tokens <= MOST_TOKENS:
            raise UserError(f"tokens is {shown(tokens)}, but T5 uses 1 to {MOST_TOKENS} tokens; 256 is a common choice.")
        for kind in CLIPS:
            if kind not in self.encoders:
                raise UserError(
                    f"there is no text encoder {kind}, neither in the file nor given; give text_encoders=FOLDER with clip_l.safetensors "
                    "and clip_g.safetensors (t5xxl_*.safetensors may be omitted), or pass a TextContext instead of prompts."
                )

    @torch.no_grad()
    def _encode(self, prompts: list[str], tokens: int) -> list[TextContext]:
        """Return the encodings of prompts, each computed separately, so that its bits do not depend on the others."""
        clips = zip(*(self._read(kind, prompts, CLIP_TOKENS) for kind in CLIPS), strict=True)
        t5: list[Any] = [None] * len(prompts)
        if "t5" in self.encoders:
            t5 = [encoded["state"] for encoded in self._read("t5", prompts, tokens)]
        return [joined(pair, last, tokens, self.channels) for pair, last in zip(clips, t5, strict=True)]

    def _read(self, kind: str, prompts: list[str], tokens: int) -> list[dict[str, Tensor]]:
        encoder: Any = self.encoders[kind]
        ids = self.ids(kind, prompts, tokens)
        made = []
        with self.residence.using(kind):
            device = next(encoder.parameters()).device
            for row in ids:
                made.append({name: one.cpu() for name, one in states_of(kind, encoder, row[None].to(device)).items()})
        return made


def states_of(kind: str, encoder: Any, ids: Tensor) -> dict[str, Tensor]:
    """Return what an encoder contributes for ids (n, tokens): "state" (n, tokens, width), and of a CLIP "pooled" (n, width)."""
    output = encoder(ids, output_hidden_states=kind in CLIPS)
    if kind not in CLIPS:
        return {"state": output.last_hidden_state}
    return {"state": output.hidden_states[-2], "pooled": output.text_embeds}


def joined(clips: Sequence[Mapping[str, Tensor]], t5: Tensor | None, tokens: int, channels: int) -> TextContext:
    """Return the condition that the states of CLIP-L, CLIP-G and T5 are; without T5, `tokens` rows of zeros take its place.

    Raises:
        UserError: the encoders have other widths than the transformer needs.
    """
    states, pooled = (torch.cat([encoded[which] for encoded in clips], dim=-1) for which in ("state", "pooled"))
    width = states.shape[-1]
    if width > channels:
        raise UserError(f"the CLIPs return {width} channels, but a context token has {channels}; the files do not belong together.")
    t5 = states.new_zeros(len(states), tokens, channels) if t5 is None else t5.to(states.dtype)
    if t5.shape[-1] != channels:
        raise UserError(f"T5 returns {t5.shape[-1]} channels, but a context token has {channels}; the files do not belong together.")
    return TextContext(torch.cat((F.pad(states, (0, channels - width)), t5), dim=1), pooled)
