"""Where the components of a model are: all on the device, or each there only while it is used, so that a smaller card is enough."""

import contextlib
import itertools
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from pushforward.errors import OutOfMemoryError


class Residence:
    """The place of each component.

    With `offload` the weights stay in main memory, where a file may have been mapped to; `using` copies a component to the device and
    afterwards lets the copy go. Weights do not change in between: what is trained is not offloaded.

    Args:
        modules: components by name.
        device: where they are used.
        offload: whether to copy each there only while it is used.
        remedy: what to do when the device's memory is too small, for the error.
    """

    def __init__(self, modules: Mapping[str, nn.Module], device: torch.device, offload: bool, remedy: str) -> None:
        self.modules, self.device, self.offload, self.remedy = dict(modules), device, offload, remedy
        self.present: list[str] = []  # what is in use now, the outermost first
        if not offload:
            for module in self.modules.values():
                with self._memory("the weights"):
                    module.to(device)

    @contextlib.contextmanager
    def using(self, name: str) -> Iterator[nn.Module]:
        """Let a component be on its device.

        Raises:
            OutOfMemoryError: the device's memory is too small; the message says which switch helps.
        """
        module = self.modules[name]
        if name in self.present or not self.offload:
            with self._memory(name):
                yield module
            return
        homes: list[tuple[Tensor, Tensor]] = []
        copies: dict[int, Tensor] = {}  # a table under two names is copied once
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
            if "allocate memory" not in str(error):  # what the CPU's allocator says
                raise
            raise OutOfMemoryError(f"the main memory is too small for {name}; {self.remedy}.") from error
