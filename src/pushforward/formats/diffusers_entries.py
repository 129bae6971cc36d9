"""Entries of diffusers' config.json files, read one by one: each must be known, and of a kind that has a counterpart here."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from pushforward._checks import is_real, is_whole, shown
from pushforward.errors import ConfigError

MOST = 65536  # the largest integer that a config.json may reasonably state


class Entries:
    """The entries of one config.json: read by name with their default, and at the end none may be left unread.

    Args:
        config: the entries.
        where: the file, for messages.
    """

    def __init__(self, config: Mapping[str, Any], where: Path) -> None:
        self.config, self.where = config, where
        self.read = {name for name in config if name.startswith("_")}

    def get(self, name: str, default: Any = None) -> Any:
        """Return an entry of any kind."""
        self.read.add(name)
        return self.config.get(name, default)

    def whole(self, name: str, default: int | None, least: int = 1) -> Any:
        """Return an integer, or the default None."""
        value = self.get(name, default)
        if (value is None and default is None) or (is_whole(value) and least <= value <= MOST):
            return value
        self.refuse(name, f"an integer from {least} to {MOST}")

    def number(self, name: str, default: float) -> float:
        """Return a finite number."""
        value = self.get(name, default)
        if not is_real(value):
            self.refuse(name, f"a finite number, such as {default}")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """Return true or false; null is the default."""
        value = self.get(name, default)
        value = default if value is None else value
        if not isinstance(value, bool):
            self.refuse(name, "true or false")
        return value

    def word(self, name: str, default: str, known: Sequence[str]) -> str:
        """Return one of the words that are known."""
        value = self.get(name, default)
        if value not in known:
            self.refuse(name, " or ".join(repr(one) for one in known))
        return str(value)

    def sequence(self, name: str, default: Sequence[Any]) -> tuple[Any, ...]:
        """Return a list."""
        value = self.get(name, default)
        if not isinstance(value, list | tuple) or not value:
            self.refuse(name, f"a list, such as {list(default)}")
        return tuple(value)

    def only(self, **usual: Any) -> None:
        """Refuse entries that have another value than the one with which they change nothing (or one of a tuple of such)."""
        for name, value in usual.items():
            allowed = value if isinstance(value, tuple) else (value,)
            given = self.get(name, allowed[0])
            if given is not None and given not in allowed:
                self.refuse(name, " or ".join(repr(one) for one in allowed))

    def ignore(self, *names: str) -> None:
        """Count entries as read that change nothing here."""
        self.read.update(names)

    def finish(self) -> None:
        """Refuse entries that were not read: what they mean is not known here, unless they are null, false or empty."""
        for name, value in self.config.items():
            if name not in self.read and value is not None and value is not False and value != []:
                raise ConfigError(
                    f"{self.where} has the entry {name}, {_short(value)}, which is not known here, and results may depend on it; remove it "
                    "if they do not."
                )

    def refuse(self, name: str, allowed: str) -> NoReturn:
        """Raise for the value of an entry.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(f"{self.where}: {name} is {_short(self.config.get(name))}, but only {allowed} can be read here.")


def _short(value: Any) -> str:
    if isinstance(value, list | tuple) and len(value) <= 8 and all(isinstance(one, str | int | float | None) for one in value):
        return repr(list(value))
    return shown(value)
