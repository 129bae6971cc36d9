"""Device placement of a model's components: all on the device, or offloaded while unused, so that a smaller GPU suffices."""

import contextlib
import itertools
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from pushforward.errors import OutOfMemoryError


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
        self.present: list[str] = []  # components in use, outermost first
        if not offload:
            for module in self.modules.values():
                with self._memory("the weights"):
                    module.to(device)

    @contextlib.contextmanager
    def using(self, name: str) -> Iterator[nn.Module]:
        """Context in which a component is on its device.

        Raises:
            OutOfMemoryError: the device's memory is too small; the message gives options that reduce it.
        """
        module = self.modules[name]
        if name in self.present or not self.offload:
            with self._memory(name):
                yield module
            return
        homes: list[tuple[Tensor, Tensor]] = []
        copies: dict[int, Tensor] = {}  # tied weights are copied once
        self.present.append(name)
        try:
            with self._memory(name):
                for tensor in itertools.chain(module.parameters(), module.buffers()):
                    homes.append((tensor, tensor.data))
                    tensor.data = copies.setdefault(tensor.data_ptr() or id(tensor), tensor.data.to(self.device))
                yield module
        finally:
            self.present.remove(name)
            for tensor, home in homes:
                tensor.data = home

    @contextlib.contextmanager
    def _memory(self, name: str) -> Iterator[None]:
        try:
            yield
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise OutOfMemoryError(f"the memory of {self.device} is too small for {name}; {self.remedy}.") from error
        except RuntimeError as error:
            if "allocate memory" not in str(error):  # message of the CPU allocator
                raise
            raise OutOfMemoryError(f"the main memory is too small for {name}; {self.remedy}.") from error
