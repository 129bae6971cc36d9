"""Names of tensors, as the user's code has them: variables, attributes, parameters and buffers in the frames of the stack."""

import itertools
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any

from torch import Tensor, nn

from pushforward.debug.overlap import same_elements, storage_of, strided
from pushforward.debug.places import user_frames
from pushforward.debug.remedies import BUFFER, GRADIENT, PARAMETER, PLAIN

FRAMES = 8  # of the user, from the innermost
ITEMS = 64  # of a container


def name_of(tensor: Tensor, thread: int | None = None) -> tuple[str, str]:
    """Return the name of a tensor in the frames of the user's code, and its role.

    A variable comes first, with the name of the parameter, buffer or gradient that it is, as in "w (parameter layer.weight)"; then tensors
    with the same elements, then "a view of" another one on the same storage. The name is empty if there is none.
    """
    frames = list(itertools.islice(user_frames(thread), FRAMES))
    named = list(itertools.chain.from_iterable(map(_named, frames)))
    if same := [(name, role) for name, role, one in named if one is tensor] or [
        (name, role) for name, role, one in named if same_elements(one, tensor)
    ]:
        name = min((name for name, _ in same), key=lambda name: not name.isidentifier())
        known, role = next(((path, role) for path, role in same if role != PLAIN), (name, PLAIN))
        return (name if known == name or not name.isidentifier() else f"{name} ({role} {known})"), role
    views = (f"a view of {name}" for name, _, one in named if _on_one_storage(one, tensor))
    return next(views, ""), PARAMETER if isinstance(tensor, nn.Parameter) else PLAIN


def _on_one_storage(a: Tensor, b: Tensor) -> bool:
    return strided(a) and strided(b) and storage_of(a) == storage_of(b)


def variable(value: Any) -> str:
    """Return the name of the variable of the user's code that is this object, or an empty string."""
    for frame in itertools.islice(user_frames(), FRAMES):
        for name, one in list(frame.f_locals.items()):
            if one is value:
                return name
    return ""


def _named(frame: FrameType) -> Iterator[tuple[str, str, Tensor]]:
    own = list(frame.f_locals.items())
    others = [] if frame.f_locals is frame.f_globals else list(frame.f_globals.items())
    for name, value in (*own, *others):
        if not name.startswith("__"):
            yield from _inside(name, value)


def _inside(name: str, value: Any) -> Iterator[tuple[str, str, Tensor]]:
    """Yield the tensors of a variable: itself, those of a Module, of a container, or of an object's attributes."""
    if isinstance(value, Tensor):
        yield from _with_gradient(name, PARAMETER if isinstance(value, nn.Parameter) else PLAIN, value)
    elif isinstance(value, nn.Module):
        for path, parameter in value.named_parameters():
            yield from _with_gradient(f"{name}.{path}", PARAMETER, parameter)
        yield from ((f"{name}.{path}", BUFFER, buffer) for path, buffer in value.named_buffers())
        yield from _tensors(f"{name}.", vars(value))
    elif isinstance(value, Mapping):
        yield from ((f"{name}[{key!r}]", PLAIN, one) for key, one in itertools.islice(value.items(), ITEMS) if isinstance(one, Tensor))
    elif isinstance(value, list | tuple):
        yield from ((f"{name}[{place}]", PLAIN, one) for place, one in enumerate(value[:ITEMS]) if isinstance(one, Tensor))
    elif type(getattr(value, "__dict__", None)) is dict and not isinstance(value, type):
        yield from _tensors(f"{name}.", vars(value))


def _tensors(prefix: str, attributes: Mapping[str, Any]) -> Iterator[tuple[str, str, Tensor]]:
    for name, one in list(attributes.items()):
        if isinstance(one, Tensor):
            yield from _with_gradient(prefix + name, PARAMETER if isinstance(one, nn.Parameter) else PLAIN, one)


def _with_gradient(name: str, role: str, tensor: Tensor) -> Iterator[tuple[str, str, Tensor]]:
    yield name, role, tensor
    if tensor.is_leaf and tensor.grad is not None:
        yield f"{name}.grad", GRADIENT, tensor.grad
