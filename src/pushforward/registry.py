"""Public names: `@export` registers an object under the one name by which everything else finds it.

The name is the import path too (`@export("models.realnvp")` is `pushforward.models.realnvp`), and the namespace, the command line,
config files, laws and API reference are all derived from it. The idea is TensorFlow's `tf_export` and Keras' `keras_export`: a decorator
factory bound to a package with `functools.partial`; other packages can do the same for their own names.

All names are known without importing torch: those of this package are in the generated table `_names.py` (`make names`), those of
other packages are read from the entry points of the group `pushforward`, whose key is the public name.
"""

import functools
import importlib
import importlib.metadata
import sys
import types
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pushforward._exports import ExportError as ExportError
from pushforward._exports import check_export, check_form, check_thing
from pushforward._names import ALIASES, NAMES
from pushforward._suggestions import unknown as unknown

T = TypeVar("T")
ENTRY_POINTS = "pushforward"


class PluginError(ImportError):
    """An entry point of another package that cannot be used."""

    exit_status = 1  # of the command line: see `errors.PushforwardError`


class NameClashError(ValueError):
    """Two objects claim the same public name."""

    exit_status = 1


class UnknownNameError(LookupError, AttributeError):
    """Nothing has this public name; the message suggests the closest one."""

    exit_status = 2


@dataclass(frozen=True)
class Entry:
    """The entry of a public name whose module has been imported."""

    name: str
    thing: Any
    package: str
    example: Callable[..., Any] | None = None
    facts: dict[str, Any] = field(default_factory=dict)


_entries: dict[str, Entry] = {}
_aliases: dict[str, str] = dict(ALIASES)


def api_export(
    name: str, *, package: str, aliases: Iterable[str] = (), example: Callable[..., Any] | None = None, **facts: Any
) -> Callable[[T], T]:
    """Return a decorator that makes a function or class public under `name`.

    Args:
        name: dotted public name without the package, such as "models.realnvp".
        package: the package that owns the name; `export` fixes it to this one.
        aliases: former names, which keep working with a DeprecationWarning.
        example: a function without arguments that returns a small instance (with its inputs); the laws run on it.
        facts: metadata for the laws: `exactness` ("exact", "solved" or "one-way") of a bijection, `order` of a sampler; `loader` of data.

    Returns:
        A decorator that returns its argument unchanged, except for the attribute `public_name`.

    Raises:
        ExportError: the name is no import path in a group of public names; an alias, the example or a fact is not allowed; or what is
            decorated is no function or class.
        NameClashError: the name or one of the aliases is already taken, or the object has another public name.

    Example:
        >>> import functools
        >>> from pushforward.registry import api_export
        >>> export = functools.partial(api_export, package="my_flows")
        >>> @export("models.my_flow")
        ... def my_flow(features: int): ...
    """
    aliases = (aliases,) if isinstance(aliases, str) else tuple(aliases)
    check_export(name, example, facts)
    for alias in aliases:
        check_form(alias)

    def decorate(thing: T) -> T:
        check_thing(name, thing)
        former = vars(thing).get("public_name", name)
        if former != name:
            raise NameClashError(
                f"{_origin(thing)} has the public name {former!r} and cannot be {name!r} too; give one of them as an alias."
            )
        for wanted in (name, *aliases):
            _refuse_clash(wanted, thing, package)
        thing.public_name = name  # type: ignore[attr-defined]
        _entries[name] = Entry(name, thing, package, example, facts)
        _aliases.update(dict.fromkeys(aliases, name))
        return thing

    return decorate


export = functools.partial(api_export, package="pushforward")


def _refuse_clash(name: str, thing: Any, package: str) -> None:
    here, current = _origin(thing), _aliases.get(name, name)
    if package != "pushforward" and current in NAMES:  # also if the module that defines it is not imported yet
        raise NameClashError(f"the public name {name!r} is claimed by {here} of {package} but belongs to pushforward; choose another.")
    holder = _entries.get(current)
    there = here if holder is None else _origin(holder.thing)
    if there != here:  # a reloaded module registers itself again
        raise NameClashError(f"the public name {name!r} is claimed by {here} but belongs to {there}; rename one of them.")


def _origin(thing: Any) -> str:
    return f"{thing.__module__}.{thing.__qualname__}"


@functools.cache
def _plugins() -> dict[str, importlib.metadata.EntryPoint]:
    found: dict[str, importlib.metadata.EntryPoint] = {}
    for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        if point.name in NAMES or point.name in found:
            holder = f"of {_package(found[point.name])}" if point.name in found else "pushforward's own"
            raise NameClashError(
                f"the public name {point.name!r}, the entry point {point.value} of {_package(point)}, is {holder} already; rename it in "
                "@export and pyproject.toml, or uninstall one of the packages."
            )
        found[point.name] = point
    return found


def _package(point: importlib.metadata.EntryPoint) -> str:
    """Return the package of an entry point, with its version: "my-flows 1.0"."""
    return f"{point.dist.name} {point.dist.version}" if point.dist else point.value.partition(".")[0]


def names(group: str | None = None) -> list[str]:
    """Return all public names, or those of one group such as "models", sorted, without importing them.

    Example:
        >>> from pushforward.registry import names
        >>> "models.rectified_flow" in names("models")
        True
    """
    known = {*NAMES, *_plugins(), *_entries}
    return sorted(name for name in known if group is None or name.rpartition(".")[0] == group)


def summary(name: str) -> str:
    """Return the first sentence of a public object's docstring, without an import if it is in the generated table."""
    return NAMES[name][1] if name in NAMES else first_sentence(get(name))


def first_sentence(thing: Any) -> str:
    """Return the first line of an object's own docstring, or an empty string."""
    return (getattr(thing, "__doc__", None) or "").strip().partition("\n")[0]


def entry(name: str) -> Entry:
    """Return the entry of a public name, importing the module that defines it.

    Raises:
        UnknownNameError: there is no such name; the message suggests the closest.
    """
    current = _aliases.get(name, name)
    if current != name:
        warnings.warn(f"{name} is an old name of {current}, please use the new one.", DeprecationWarning, stacklevel=3)
    if current in NAMES:  # also if it is known: another thread may be in the middle of this import, which then is waited for
        importlib.import_module(NAMES[current][0])
    if current not in _entries and current in _plugins():
        _load(_plugins()[current])
    if current not in _entries:
        raise UnknownNameError(unknown("public name", name, names()))
    return _entries[current]


def _load(point: importlib.metadata.EntryPoint) -> None:
    """Import what an entry point refers to, which must register the entry point's name.

    Raises:
        PluginError: it cannot be imported, or registers no such name.
    """
    owner = f"the entry point {point.name} = {point.value}" + (f" of the package {point.dist.name}" if point.dist else "")
    try:
        point.load()
    except (Exception, SystemExit) as error:  # SystemExit: of a script that was not meant to be imported
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        raise PluginError(f"{owner} cannot be imported ({reason}); correct the package, or uninstall it.") from error
    if point.name not in _entries:
        raise PluginError(f"{owner} registers no {point.name!r}; its @export must name exactly that.")


def get(name: str) -> Any:
    """Return the object with a public name, importing the module that defines it (see `entry`)."""
    return entry(name).thing


def owner(name: str) -> str:
    """Return the package that a public name comes from, of an installed one with its version: "pushforward", "my-flows 1.0"."""
    if name in NAMES:
        return "pushforward"
    return _package(_plugins()[name]) if name in _plugins() else entry(name).package


def entries(group: str, **facts: Any) -> list[Entry]:
    """Return the entries of a group whose facts include the given ones, importing them: the subjects of a law."""
    found = [entry(name) for name in names(group)]
    return [one for one in found if all(one.facts.get(key) == value for key, value in facts.items())]


def versions() -> dict[str, str]:
    """Return the functions of `functional` that have a class of the same name, as in `self_attention` and `SelfAttention`, by public names.

    Example:
        >>> from pushforward.registry import versions
        >>> versions()["functional.patchify"]
        'nn.Patchify'
    """
    classes = {name.rpartition(".")[2]: name for name in names() if not name.startswith("functional.")}
    spelled = {name: "".join(part.capitalize() for part in name.rpartition(".")[2].split("_")) for name in names("functional")}
    return {name: classes[one] for name, one in spelled.items() if one in classes}


class _MissingNameError(AttributeError):
    """A module has no such public name; the closest is sought where the message is read, as `hasattr` and imports ask for names too."""

    def __init__(self, module: str, name: str) -> None:
        super().__init__(module, name)
        self.module, self.wanted = module, name

    def __str__(self) -> str:
        inside = self.module.partition(".")[2]
        allowed = [known.removeprefix(f"{inside}.") for known in names(inside or None)]
        return f"module {self.module!r}: {unknown('name', self.wanted, allowed)}"


class _Namespace(types.ModuleType):
    """A package whose public names are attributes, imported at first use."""

    def __getattr__(self, name: str) -> Any:
        inside = self.__name__.partition(".")[2]
        public = f"{inside}.{name}" if inside else name
        if name == "__all__":  # what `from pushforward.samplers import *` binds
            return self._public()
        if not name.startswith("_"):
            if public in _aliases or public in NAMES or public in _entries or public in _plugins():
                return get(public)
            if public in _groups():
                return importlib.import_module(f"pushforward.{public}")
        raise _MissingNameError(self.__name__, name)

    def __setattr__(self, name: str, value: Any) -> None:
        # The import system binds a submodule to its package; it must not hide the public object of the same name (models.rectified_flow).
        inside = self.__name__.partition(".")[2]
        if isinstance(value, types.ModuleType) and (f"{inside}.{name}" if inside else name) in NAMES:
            return
        super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._public()})

    def _public(self) -> list[str]:
        inside = self.__name__.partition(".")[2]
        return [name.rpartition(".")[2] for name in names(inside)] if inside else [*names(""), *_groups()]


def _groups() -> set[str]:
    return {name.rpartition(".")[0] for name in (*NAMES, *_entries)} - {""}


def namespace(module: str) -> None:
    """Make a module import its public names on first use (called in its `__init__.py`)."""
    sys.modules[module].__class__ = _Namespace
