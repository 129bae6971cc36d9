"""Whether a class and its objects still have the methods that the class defined: a method may be replaced on either."""

from operator import attrgetter
from typing import Any

from torch import nn

METHODS = (property, staticmethod, classmethod)
# Methods on which the values of no other one depend.
UNREAD = ("extra_repr", "fit_condition", "initialise", "no_time", "pull", "push", "reaches", "units")


class Methods:
    """The methods of a class and of its bases as they were defined; of torch's modules only their forward and their call.

    Args:
        kind: the class.
    """

    def __init__(self, kind: type) -> None:
        found: dict[str, Any] = {}
        for base in reversed(kind.__mro__):
            if base not in nn.Module.__mro__:
                found.update(vars(base))
        found = {name: value for name, value in found.items() if name not in UNREAD and _is_method(name, value)}
        if _package(kind.__module__) == "torch":
            found = {name: value for name, value in found.items() if name == "forward"}
        # A property cannot be replaced on an object: its class decides.
        self.names = frozenset(name for name, value in found.items() if not isinstance(value, property))
        self.besides_forward = tuple(self.names - {"forward"})
        names = [*(["__call__"] if any("__call__" in vars(base) for base in kind.__mro__) else []), *found]
        self.read = attrgetter("__mro__", *names)
        # A class is registered when it is first used, and may have been changed before.
        self.held: tuple[Any, ...] = self.read(kind) if all(_is_own(kind, name) for name in names) else ()
        self.by_name = dict(zip(names, self.held[1:], strict=False))

    def kept_by(self, kind: type) -> bool:
        """Return whether the class has them still."""
        try:
            return bool(self.read(kind) == self.held)
        except AttributeError:  # one was deleted
            return False

    def inherited_by(self, kind: type, names: tuple[str, ...]) -> bool:
        """Return whether a class derived from this one has the methods of these names still."""
        return all(name in self.by_name and getattr(kind, name, None) == self.by_name[name] for name in names)

    def replaced_on(self, thing: Any) -> bool:
        """Return whether the object has an attribute of its own in the place of one of them."""
        return not thing.__dict__.keys().isdisjoint(self.names)


def _is_method(name: str, value: Any) -> bool:
    """Return whether an attribute in the body of a class is a method or a property; special methods are not looked up on objects."""
    return not name.startswith("__") and not isinstance(value, type) and (callable(value) or isinstance(value, METHODS))


def _is_own(kind: type, name: str) -> bool:
    """Return whether a method was written in the package of the class that has it; it may be decorated by that package or by torch."""
    base = next(base for base in kind.__mro__ if name in vars(base))
    value = vars(base)[name]
    function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
    return _package(getattr(function, "__globals__", {}).get("__name__", "")) in ("torch", _package(base.__module__))


def _package(module: str) -> str:
    return module.partition(".")[0]
