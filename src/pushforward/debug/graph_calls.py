"""Recording the calls of torch during a forward pass: which nodes each makes, what it writes in place, and where it cuts the graph."""

import re
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from pushforward.debug.places import Place
from pushforward.debug.sites import Site, decorated, site
from pushforward.debug.storages import storage_of

IN_PLACE = re.compile(r"[^_].*_$|__i(add|sub|mul|truediv|floordiv|mod|pow|and|or|xor|lshift|rshift)__$|__setitem__$|_[a-z]+_$")
PROPERTIES = {"data", "T", "mT", "H", "mH", "real", "imag"}  # those that compute something
TO_PYTHON = {"item", "tolist", "numpy", "__array__", "__float__", "__int__", "__index__"}
DETACH = {"detach", "detach_", "data"}


@dataclass
class Call:
    """A call of torch, with the range of the sequence numbers of the nodes it made."""

    name: str
    start: int
    end: int
    site: Site
    written: tuple[Any, ...] = ()  # what was saved inside an in-place write to a view, which its node does not show


@dataclass
class OpenCut:
    """A cut whose effects are still being recorded; `behind` are the tensors with gradients that it receives."""

    kind: str
    place: Place | None
    module: str
    behind: dict[int, Any] = field(default_factory=dict)  # nodes, or leaves
    uses: list[tuple[int, int]] = field(default_factory=list)  # the ranges of nodes of the calls that use its value


class Calls(TorchFunctionMode):
    """Records the calls of torch inside a `with` block.

    Args:
        modules: dotted names of modules by their id.
        parameters: names of parameters by the id of the tensor.
        end: the code of the function that makes the observed call.
    """

    def __init__(self, modules: Mapping[int, str], parameters: Mapping[int, str], end: types.CodeType) -> None:
        super().__init__()
        self.modules, self.parameters, self.end = modules, parameters, end
        self.calls: list[Call] = []
        self.functions: dict[int, Site] = {}  # where the autograd.Function was applied whose node has this sequence number
        self.cuts: dict[tuple[str, Place | None, str], OpenCut] = {}
        self.lost: Any = WeakTensorKeyDictionary()  # for values computed from a cut's: the keys of the cuts
        self.writes: dict[int, str] = {}  # the last write to a storage
        self.used: dict[str, Place | None] = {}  # the first use of each parameter
        self.no_grad: Place | None = None  # where gradients were disabled

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = _name(func)
        if name == "_set_grad_enabled" and args and not args[0] and torch.is_grad_enabled():
            self.no_grad = decorated(self.end) or site(self.modules, self.end).place
        if name is None or name.startswith("_set_grad"):
            return func(*args, **kwargs)
        tensors = list(_tensors((args, kwargs)))
        tracked = [(one, _origin(one)) for one in tensors if one.requires_grad]
        versions = [_version(one) for one in tensors]
        start = torch._C._autograd._get_sequence_nr()
        result, written = _called(func, args, kwargs, IN_PLACE.match(name) is not None and bool(tensors) and tensors[0]._is_view())
        end = torch._C._autograd._get_sequence_nr()
        changed = [one for one, version in zip(tensors, versions, strict=True) if _version(one) != version]
        lost = {key for one in tensors for key in self.lost.get(one, ())}
        if end == start and not changed and not tracked and not lost:
            return result
        at = site(self.modules, self.end)
        if end > start:
            self.calls.append(Call(name, start, end, at, written))
        elif at.inside:
            self.functions.setdefault(start - 1, at)
        for _, one in tracked:
            if id(one) in self.parameters:
                self.used.setdefault(self.parameters[id(one)], at.place)
        for one in changed:
            self.writes[storage_of(one)[0]] = f"{name} at {at.place}"
        targets = [one for one in _tensors(result) if all(one is not other for other in tensors)] + changed
        behind = [origin for one, origin in tracked if all(one is not other for other in targets)]
        self._follow(name, targets, behind, lost, at, (start, end))
        return result

    def _follow(self, name: str, targets: list[Tensor], behind: list[Any], lost: set[Any], at: Site, nodes: tuple[int, int]) -> None:
        """Record a cut, and which cuts a result is computed from, up to the first call that returns a gradient again.

        Args:
            name: the call.
            targets: what it returned or wrote.
            behind: the nodes or leaves behind its arguments with gradients.
            lost: the cuts that its arguments are computed from.
            at: where it is.
            nodes: the nodes that it made.
        """
        # Without gradients a view of a leaf has requires_grad too, but no node.
        reached = torch.is_grad_enabled() and any(one.requires_grad for one in targets)
        if behind and not reached and not at.inside and (targets or name in TO_PYTHON):
            kind = self._kind(name)
            # A block without gradients is one cut, whatever modules it calls.
            key = (kind, self.no_grad, "") if kind == "no_grad" else (kind, at.place, at.module)
            self.cuts.setdefault(key, OpenCut(*key)).behind.update((id(one), one) for one in behind)
            lost = lost | {key}
        if reached:
            for key in lost:
                self.cuts[key].uses.append(nodes)
        elif lost:
            self.lost.update((one, self.lost.get(one, set()) | lost) for one in targets)

    @staticmethod
    def _kind(name: str) -> str:
        if name in DETACH:
            return "detach"
        if torch.is_inference_mode_enabled():
            return "inference_mode"
        if not torch.is_grad_enabled():
            return "no_grad"
        return "item" if name in TO_PYTHON else name


def _name(func: Any) -> str | None:
    """Return the name of a call, or None if it only reads a property such as a shape."""
    name = getattr(func, "__name__", str(func))
    if name in ("__get__", "__set__"):
        name = getattr(getattr(func, "__self__", None), "__name__", "")
        return name if name in PROPERTIES else None
    return name


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for one in value:
            yield from _tensors(one)
    elif isinstance(value, dict):
        yield from _tensors(tuple(value.values()))


def _origin(one: Tensor) -> Any:
    """Return the node behind a tensor with a gradient, or the leaf that it is or, without gradients, a view of."""
    if one.grad_fn is not None or one._base is None:
        return one.grad_fn or one
    return one._base.grad_fn or one._base


def _version(one: Tensor) -> int:
    return 0 if one.is_inference() else one._version


def _called(func: Any, args: Any, kwargs: Any, in_view: bool) -> tuple[Any, tuple[Any, ...]]:
    """Return the result of a call, and the tensors that are saved inside it if it writes to a view.

    The node of such a write (CopySlices) holds the one that saves, and does not show it. torch.func and checkpointing have hooks of their
    own, in which ours have no place.
    """
    autograd: Any = torch._C._autograd
    if not in_view or not autograd._saved_tensors_hooks_is_enabled() or autograd._top_saved_tensors_default_hooks(True) is not None:
        return func(*args, **kwargs), ()
    written: list[Tensor] = []

    def pack(one: Tensor) -> Tensor:
        written.append(one)
        return one

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda one: one):
        return func(*args, **kwargs), tuple(written)
