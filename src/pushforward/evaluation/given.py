"""The conditions under which samples of a conditional model are drawn for figures and metrics."""

from typing import Any

import torch
from torch import Tensor

from pushforward.data.dataset import Dataset
from pushforward.families.model import GenerativeModel


def given(model: GenerativeModel, data: Any, n: int, device: torch.device | None = None) -> Tensor | None:
    """Return n conditions of a model: its classes in turn, the first vectors or images of data, or None for a model without.

    Args:
        model: what samples are drawn from.
        data: where vectors and images are taken from, repeated if there are fewer than n.
        n: number of samples.
        device: where the conditions are needed; by default the CPU.
    """
    if model.classes is not None:
        return torch.arange(n, device=device) % model.classes
    if not model.conditioning or not isinstance(data, Dataset) or data.cond is None:
        return None
    return data.cond[torch.arange(n) % len(data)].to(device, model.dtype)
