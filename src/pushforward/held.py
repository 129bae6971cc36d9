"""Finding the parameters and other tensors with gradients that a function can reach through its references."""

import functools
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

MOST = 10_000  # longer lists and sets are data
PLAIN = (str, bytes, int, float, complex, type, types.ModuleType, torch.dtype, torch.device, torch.Generator)


def held_by(f: Callable[..., Any]) -> list[Tensor]:
    """Return the leaf tensors with gradients that are reachable from a callable.

    The search covers modules, closures, default arguments, bound objects, `functools.partial`, attributes and slots of objects, lists,
    tuples, sets and mappings, and the globals of its own file that a function uses: tensors, modules and functions.

    Args:
        f: any callable.

    Returns:
        Leaves, each once; for a computed tensor, the leaves that it was computed from.

    Example:
        >>> weight = torch.ones(2, requires_grad=True)
        >>> [one is weight for one in held_by(lambda x: x * weight)]
        [True]
    """
    return leaves_in(reachable(f))


def leaves_in(objects: Iterable[Any]) -> list[Tensor]:
    """Return the leaves with gradients of the tensors among objects, each once."""
    return list({id(leaf): leaf for one in objects if isinstance(one, Tensor) for leaf in leaves_of(one)}.values())


def reachable(one: Any) -> Iterator[Any]:
    """Yield an object and all objects that are reachable from it, each once, as `held_by` searches them; not what a tensor refers to."""
    seen: dict[int, Any] = {}  # keeps the objects alive, so that no id is reused
    pending: list[Any] = [one]
    while pending:
        one = pending.pop()
        if one is None or isinstance(one, PLAIN) or id(one) in seen:
            continue
        seen[id(one)] = one
        yield one
        if not isinstance(one, Tensor):
            pending += reversed(list(_parts(one)))


def leaves_of(value: Tensor) -> list[Tensor]:
    """Return the leaves with gradients of the graph behind a tensor."""
    if value.grad_fn is None:
        return [value] if value.requires_grad else []
    found: list[Tensor] = []
    pending: list[Any] = [value.grad_fn]
    seen: set[Any] = set()
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if isinstance(variable, Tensor):
            found.append(variable)
        pending += [before for before, _ in node.next_functions]
    return found


def _parts(one: Any) -> Iterator[Any]:
    if isinstance(one, Mapping):
        yield from one.values()
    elif isinstance(one, list | tuple | set | frozenset):
        yield from one if len(one) <= MOST else ()
    elif isinstance(one, types.FunctionType):
        yield from _read_by(one)
    elif isinstance(one, types.MethodType):
        yield from (one.__self__, one.__func__)
    elif isinstance(one, functools.partial):
        yield from (one.func, one.args, one.keywords)
    elif isinstance(one, types.BuiltinMethodType):
        yield one.__self__
    yield from getattr(one, "__dict__", {}).values()
    for kind in type(one).__mro__:
        slots = vars(kind).get("__slots__", ())
        yield from (getattr(one, name, None) for name in ((slots,) if isinstance(slots, str) else slots) if name[:2] != "__")


def _read_by(function: types.FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not filled yet
            continue
    yield function.__defaults__
    yield function.__kwdefaults__
    codes = [function.__code__]
    while codes:
        code = codes.pop()
        codes += [one for one in code.co_consts if isinstance(one, types.CodeType)]
        for name in code.co_names:
            one = function.__globals__.get(name)
            own = isinstance(one, types.FunctionType) and one.__globals__ is function.__globals__
            if own or isinstance(one, Tensor | nn.Module):
                yield one
