"""Tensors that follow from a module's settings: masks, tables of positions."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only


class Constant:
    """A tensor, or several, kept for each dtype and device that they are asked for in.

    They are no buffers: `to_empty`, `load_state_dict` and files have nothing to do with them, and cannot leave them without values.

    Args:
        make: a function of no arguments that returns them on the CPU; it must be a function of settings that never change.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self.make = make
        self.kept: dict[tuple[torch.dtype, torch.device], Any] = {}

    def like(self, x: Tensor) -> Any:
        """Return them in the dtype and on the device of x."""
        key = x.dtype, x.device
        if key not in self.kept:
            with torch.inference_mode(False):  # what is kept must serve training too
                self.kept[key] = tree_map_only(Tensor, lambda one: one.to(x.device, x.dtype), self.make())
        return self.kept[key]
