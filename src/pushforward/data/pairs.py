"""Data with paired noise: a model's samples and the noise each was generated from."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy
import torch
from torch import Tensor

from pushforward.data.checks import as_tensor
from pushforward.data.dataset import Dataset
from pushforward.errors import DataError
from pushforward.registry import export


@export("data.Pairs", example=lambda: Pairs(torch.randn(4, 2), None, torch.randn(4, 2)))
class Pairs(Dataset):
    """Samples x, their conditions and the noise each was generated from: `reflow` returns them, the Trainer passes them to the loss.

    A batch is (x, cond, noise). x is in the data's units, continuous even if the data is quantised; noise is in the base's units.

    Args:
        x: samples (N, *shape).
        cond: labels (N,), vectors (N, features), images (N, channels, height, width), or None.
        noise: the noise (N, *shape), row for row.
        classes: number of classes; by default the largest label plus 1.

    Raises:
        DataError: the noise and x differ in shape, or x is invalid for `Dataset`.

    Example:
        >>> from pushforward import data
        >>> x, cond, noise = data.Pairs(torch.ones(4, 2), None, torch.zeros(4, 2))[:2]
        >>> noise.shape
        torch.Size([2, 2])
    """

    unaugmented = "the data are pairs, whose noise belongs to the unmodified image"

    def __init__(
        self,
        x: Tensor | numpy.ndarray,
        cond: Tensor | numpy.ndarray | None,
        noise: Tensor | numpy.ndarray,
        *,
        classes: int | None = None,
    ) -> None:
        super().__init__("pairs", x, cond, classes=classes)
        noise = as_tensor("pairs", "noise", noise)
        if noise.shape != x.shape:
            raise DataError(
                f"pairs: noise has shape {tuple(noise.shape)}, but x has {tuple(x.shape)}; each row of x needs one row of noise."
            )
        self.noise = noise.detach().to(torch.float32)

    def __getitem__(self, index: int | slice) -> Any:
        return *super().__getitem__(index), self.noise[index]

    def batch(self, indices: Sequence[int] | Tensor) -> Any:
        """Return the pairs with these indices as one batch (x, cond, noise)."""
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        return *super().batch(chosen), self.noise[chosen]

    def subset(self, indices: Sequence[int] | Tensor) -> "Pairs":
        """Return the set of the pairs with these indices, in this order."""
        part = super().subset(indices)
        part.noise = self.noise[torch.as_tensor(indices, dtype=torch.int64)]  # type: ignore[attr-defined]
        return part  # type: ignore[return-value]

    def fingerprint(self) -> str:
        """Return the first 16 hexadecimal digits of a SHA-256 of everything, the noise included."""
        digest = hashlib.sha256(super().fingerprint().encode())
        digest.update(self.noise.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]
