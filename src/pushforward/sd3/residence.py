"""Device placement of a model's components: all on the device, or offloaded while unused, so that a smaller GPU suffices."""

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from pushforward._checks import shown
from pushforward._memory import memory_errors
from pushforward.errors import UserError
from pushforward.sd3.layers import MOVING, Homes, Layers, copy_to, restore, tensors_of

Offload = bool | Literal["blocks"]


REMEDY = (
    "use offload=True (one component on the device at a time) or 'blocks', tiling=True (the autoencoder by tiles), weights='int8', "
    "t5=False, dtype=torch.bfloat16, batch_size=1 or a smaller size (`memory` returns what each needs)"
)


class Residence:
    """Device placement of each component, with optional offloading.

    With `offload` the weights stay in main memory, possibly memory-mapped; `using` copies a component to the device and releases the
    copy afterwards; with "blocks" the layers of the transformer and of the text encoders are copied one by one, as they are computed.
    Weights must not change in between: do not offload a model during training.

    Args:
        modules: components by name.
        device: device on which they run.
        offload: whether to copy each component to the device only while it is used, or "blocks".
        remedy: advice in the error message for insufficient memory.

    Raises:
        UserError: offload is something else.
    """

    def __init__(self, modules: Mapping[str, nn.Module], device: torch.device, offload: Offload, remedy: str) -> None:
        if not isinstance(offload, bool) and offload != "blocks":
            raise UserError(f"offload is {shown(offload)}, but it is True (by component), 'blocks' (by block) or False.")
        self.modules, self.device, self.offload, self.remedy = dict(modules), device, offload, remedy
        self._users: Counter[str] = Counter()  # of each component, in any thread; the last one releases the copy
        self._homes: dict[str, Homes] = {}
        networks = {name: one for name, one in self.modules.items() if name != "vae"} if offload == "blocks" else {}
        self.layers = Layers(networks, device, lambda name: name in self._users) if networks else None
        if not offload:
            for module in self.modules.values():
                with memory_errors("the weights", remedy, device):
                    module.to(device)

    @contextlib.contextmanager
    def using(self, name: str) -> Iterator[nn.Module]:
        """Context in which a component is on its device.

        Raises:
            OutOfMemoryError: the device's memory is too small; the message gives options that reduce it.
        """
        with memory_errors(name, self.remedy, self.device):
            if not self.offload:
                yield self.modules[name]
                return
            try:
                with MOVING:
                    self._users[name] += 1
                    if self._users[name] == 1:
                        self._homes[name] = copy_to(self._tensors(name), self.device)
                yield self.modules[name]
            finally:
                if self.layers is not None:
                    self.layers.finish()
                with MOVING:
                    self._users[name] -= 1
                    if self._users[name] == 0:
                        del self._users[name]
                        restore(self._homes.pop(name))

    @property
    def present(self) -> list[str]:
        """The offloaded components in use, outermost first."""
        return list(self._users)

    def _tensors(self, name: str) -> Iterator[Tensor]:
        """Yield the tensors of a component, without those of layers that are copied one by one."""
        alone = {id(one) for layer in (self.layers.owners if self.layers else ()) for one in tensors_of(layer)}
        return (one for one in tensors_of(self.modules[name]) if id(one) not in alone)
