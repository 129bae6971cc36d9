"""Device placement of a model's components: all on the device, or offloaded while unused, so that a smaller GPU suffices."""

import contextlib
import itertools
import threading
from collections import Counter
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from pushforward._memory import memory_errors

_MOVING = threading.Lock()  # one component at a time, so that a thread does not use weights of which another has moved half


class Residence:
    """Device placement of each component, with optional offloading.

    With `offload` the weights stay in main memory, possibly memory-mapped; `using` copies a component to the device and releases the
    copy afterwards. Weights must not change in between: do not offload a model during training.

    Args:
        modules: components by name.
        device: device on which they run.
        offload: whether to copy each component to the device only while it is used.
        remedy: advice in the error message for insufficient memory.
    """

    def __init__(self, modules: Mapping[str, nn.Module], device: torch.device, offload: bool, remedy: str) -> None:
        self.modules, self.device, self.offload, self.remedy = dict(modules), device, offload, remedy
        self._users: Counter[str] = Counter()  # of each component, in any thread; the last one releases the copy
        self._homes: dict[str, list[tuple[Tensor, Tensor]]] = {}
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
                with _MOVING:
                    self._users[name] += 1
                    if self._users[name] == 1:
                        self._copy(name)
                yield self.modules[name]
            finally:
                with _MOVING:
                    self._users[name] -= 1
                    if self._users[name] == 0:
                        del self._users[name]
                        for tensor, home in self._homes.pop(name):
                            tensor.data = home

    @property
    def present(self) -> list[str]:
        """The offloaded components in use, outermost first."""
        return list(self._users)

    def _copy(self, name: str) -> None:
        """Copy the weights of a component to the device."""
        homes = self._homes[name] = []
        copies: dict[int, Tensor] = {}  # tied weights are copied once
        for tensor in itertools.chain(self.modules[name].parameters(), self.modules[name].buffers()):
            homes.append((tensor, tensor.data))
            tensor.data = copies.setdefault(tensor.data_ptr() or id(tensor), tensor.data.to(self.device))
