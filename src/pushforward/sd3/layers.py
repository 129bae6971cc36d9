"""Device placement of the repeated layers of networks, one at a time: with it, the largest network needs the memory of two layers."""

import contextlib
import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pushforward.nn.layers import Blocks

Homes = list[tuple[Tensor, Tensor]]
MOVING = threading.Lock()  # one component at a time, so that a thread does not use weights of which another has moved half


def layers_of(network: nn.Module) -> list[list[nn.Module]]:
    """Return the outermost lists of layers of a network."""
    paths = [path for path, one in network.named_modules() if isinstance(one, nn.ModuleList)]
    outer = [path for path in paths if not any(path.startswith(f"{other}.") for other in paths)]
    return [list(network.get_submodule(path).children()) for path in outer]


def tensors_of(module: nn.Module) -> Iterator[Tensor]:
    """Yield the parameters and buffers of a module."""
    return itertools.chain(module.parameters(), module.buffers())


def copy_to(tensors: Iterator[Tensor], device: torch.device, **how: Any) -> Homes:
    """Let tensors hold copies on the device, and return them with their own data, by which `restore` brings them back."""
    homes: Homes = []
    copies: dict[int, Tensor] = {}  # tied weights are copied once
    for tensor in tensors:
        homes.append((tensor, tensor.data))
        tensor.data = copies.setdefault(tensor.data_ptr() or id(tensor), tensor.data.to(device, **how))
    return homes


def restore(homes: Homes) -> None:
    """Let tensors hold the data from before `copy_to`."""
    for tensor, home in homes:
        tensor.data = home


class Layers:
    """Copies each layer of some networks to the device while it is used, and the next one while a layer computes, where it has streams.

    Args:
        networks: networks by name; those that call their layers by themselves get hooks, an MMDiT asks for them (`Blocks.in_turn`).
        device: device of the computation.
        in_use: whether a network is in use, by its name; if not, its layers stay where they are.
    """

    def __init__(self, networks: Mapping[str, nn.Module], device: torch.device, in_use: Callable[[str], bool]) -> None:
        self.device, self.in_use = device, in_use
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.owners: dict[nn.Module, str] = {}
        self._users: Counter[nn.Module] = Counter()
        self._homes: dict[nn.Module, Homes] = {}
        self._copied: dict[nn.Module, Any] = {}  # events of the device, at which copies are complete
        self._own = threading.local()  # of each thread: the layer that is copied ahead, and the event at which the last one was computed
        for name, network in networks.items():
            for layers in layers_of(network):
                self.owners.update(dict.fromkeys(layers, name))
                if isinstance(network, Blocks):
                    network.placement = self
                    continue
                for layer, following in zip(layers, [*layers[1:], None], strict=True):
                    layer.register_forward_pre_hook(lambda module, args: self.begin(module))
                    layer.register_forward_hook(
                        lambda module, args, output, following=following: self.end(module, following), always_call=True
                    )

    def __deepcopy__(self, memo: Any) -> "Layers":
        return self  # of a copied network, whose layers it does not know and leaves alone

    @property
    def present(self) -> list[nn.Module]:
        """The layers on the device."""
        return list(self._homes)

    @contextlib.contextmanager
    def using(self, layer: nn.Module, following: nn.Module | None) -> Iterator[None]:
        """Context in which a layer is on the device; the following one is copied when the layer's work is under way."""
        self.begin(layer)
        try:
            yield
        finally:
            self.end(layer, following)

    def begin(self, layer: nn.Module) -> None:
        """Copy a layer to the device, unless this thread has done so ahead."""
        if layer not in self.owners or not self.in_use(self.owners[layer]):
            return
        ahead = getattr(self._own, "ahead", None)
        self._own.ahead = None
        if ahead is not layer:
            self._release(ahead)
            self._take(layer)
        if self.stream is not None:
            torch.cuda.current_stream(self.device).wait_event(self._copied[layer])

    def end(self, layer: nn.Module, following: nn.Module | None) -> None:
        """Release a layer, whose work has been given to the device, and copy the following one meanwhile."""
        if layer not in self._homes:
            return
        if self.stream is not None:
            computed = torch.cuda.current_stream(self.device).record_event()
            before, self._own.computed = getattr(self._own, "computed", None), computed
            if before is not None:
                before.synchronize()  # the host may be ahead of the device by one layer: no more than two are there
            if following is not None:
                self._take(following)
                self._own.ahead = following
        self._release(layer)

    def finish(self) -> None:
        """Release what this thread has copied ahead: a computation may end between two layers."""
        ahead = getattr(self._own, "ahead", None)
        self._own.ahead = self._own.computed = None
        self._release(ahead)

    def _take(self, layer: nn.Module) -> None:
        with MOVING:
            self._users[layer] += 1
            if self._users[layer] > 1:
                return
            if self.stream is None:
                self._homes[layer] = copy_to(tensors_of(layer), self.device)
                return
            with torch.cuda.stream(self.stream):
                self._homes[layer] = copy_to(tensors_of(layer), self.device, non_blocking=True)
                self._copied[layer] = self.stream.record_event()

    def _release(self, layer: nn.Module | None) -> None:
        if layer is None:
            return
        with MOVING:
            self._users[layer] -= 1
            if self._users[layer]:
                return
            homes = self._homes.pop(layer)
            if self.stream is not None:
                for tensor, _ in homes:  # allocated for the copying stream, and used by the computing one
                    tensor.data.record_stream(torch.cuda.current_stream(self.device))
            restore(homes)
