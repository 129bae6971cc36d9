"""WordLlama's static token vectors as a text encoder: 16 MB, without a network."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from pushforward.errors import NoCheckpointError, UserError
from pushforward.formats.tensor_file import TensorFile
from pushforward.sd3.text_encoder import PADDING, TOKENS, Encoded, files_digest, mean_of, package_folder
from pushforward.sd3.tokenizers import Tokenizer, warn_lost


class WordLlama:
    """Static vectors of tokens: states are the rows of a table, of mean square 1 over the table, and do not depend on other tokens.

    pooled is their mean, scaled to mean square 1; behind the prompt states are 0. The order of words is not in either of them.

    Args:
        tokens: number of tokens.

    Raises:
        UserError: the package wordllama is not installed.

    Source: Miller, WordLlama (https://github.com/dleemiller/WordLlama): token vectors distilled from those of large language models.
    """

    def __init__(self, tokens: int = TOKENS, device: torch.device | str = "cpu") -> None:
        folder = package_folder("wordllama", "wordllama", "wordllama")
        self._files = [folder / "weights/l2_supercat_256.safetensors", folder / "tokenizers/l2_supercat_tokenizer_config.json"]
        missing = next((one for one in self._files if not one.is_file()), None)
        if missing is not None:
            raise NoCheckpointError(f"the package wordllama has no file {missing}; install version 0.4: pip install 'wordllama>=0.4,<0.5'.")
        weights = TensorFile(self._files[0])
        self._table = weights.mapped(next(iter(weights.entries)))
        self.tokenizer = Tokenizer(_tokenizer(self._files[1]), PADDING, special=False)
        self.name, self.tokens, self.device = "wordllama", tokens, torch.device(device)
        self.width = self.pooled_width = self._table.shape[1]
        self._scale = float(self._table.float().square().mean().rsqrt())

    def __call__(self, prompts: Sequence[str]) -> Encoded:
        ids, lost = self.tokenizer.encode(prompts, self.tokens)
        warn_lost(self.name, self.tokens, lost)
        there = (ids != PADDING)[..., None]
        states = torch.where(there, self._table[ids.clamp(0)].float() * self._scale, 0)
        return states.to(self.device), mean_of(states, there).to(self.device)

    def fingerprint(self) -> str:
        return files_digest(self._files)


def _tokenizer(path: Path) -> Any:
    try:
        import tokenizers
    except ImportError:
        raise UserError("the text encoders need tokenizers, which is not installed; run: pip install 'pushforward[sd3]'.") from None
    return tokenizers.Tokenizer.from_file(str(path))
