"""Tensors that are determined by a module's settings: masks, position tables."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only


class Constant:
    """One or more constant tensors, cached for each dtype and device in which they are requested.

    They are not buffers: `to_empty` and `load_state_dict` do not touch them, and files do not contain them.

    Args:
        make: a function of no arguments that returns them on the CPU; it must be a function of settings that never change.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self.make = make
        self.kept: dict[tuple[torch.dtype, torch.device], Any] = {}

    def like(self, x: Tensor) -> Any:
        """Return them in the dtype and on the device of x."""
        key = x.dtype, x.device
        kept = self.kept.get(key)
        if kept is None:
            with torch.inference_mode(False):  # cached tensors are also used in training
                kept = self.kept[key] = tree_map_only(Tensor, lambda one: one.to(x.device, x.dtype), self.make())
        return kept
