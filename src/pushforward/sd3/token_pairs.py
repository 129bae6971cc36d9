"""Cached latents with the token ids of their captions, for training that changes the text encoders."""

from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from pushforward.sd3.latent_pairs import LatentPairs
from pushforward.sd3.text_model import PromptTokens


class TokenPairs(LatentPairs):
    """The latents of a cache, of which the condition is `PromptTokens` in place of the encodings.

    Args:
        folder, split: as for `LatentPairs`.
        tokens_of: returns the token ids of n captions.
    """

    def __init__(self, folder: str | Path, split: str, tokens_of: Callable[[Sequence[str]], PromptTokens]) -> None:
        super().__init__(folder, split)
        self._tokens = tokens_of(self._captions).to("cpu")

    def _texts(self, chosen: Tensor) -> PromptTokens:
        return self._tokens[chosen]
