"""The packages that a configuration depends on: their versions, and those that other packages' public names come from."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy
import torch

import pushforward
from pushforward import registry
from pushforward.errors import ConfigError

PACKAGES = "packages"
MOST_NAME = 200  # letters of a public name, or of a package with its version
HOLDERS = {"preset": "models", "data": "data"}  # sections that name a public object without its group


def versions() -> dict[str, str]:
    """Return the versions recorded in a configuration."""
    return {"pushforward": pushforward.__version__, "torch": str(torch.__version__), "numpy": numpy.__version__}


def stamped(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration as plain data with its section versions and, if it uses names of other packages, a section packages."""
    known = registry.names()
    owners = {name: registry.owner(name) for name in dict.fromkeys(_names(config)) if name in known}
    others = {name: owner for name, owner in owners.items() if owner != "pushforward"}
    rest = {key: value for key, value in config.items() if key not in (PACKAGES, "versions")}
    return {**rest, **({PACKAGES: others} if others else {}), "versions": versions()}


def check_packages(config: Mapping[str, Any], where: str) -> None:
    """Raise if a name that a configuration uses is of a package that is not installed here.

    Raises:
        ConfigError: it is not; the message names the package and the version that wrote the configuration. Or the section is malformed.
    """
    section = config.get(PACKAGES, {})
    if not isinstance(section, Mapping) or not all(_is_line(one) for pair in section.items() for one in pair):
        raise ConfigError(f"{where} has a section {PACKAGES} that does not state the package of each public name; leave it out.")
    known = registry.names()
    for name, owner in section.items():
        if name not in known:
            package = owner.partition(" ")[0]
            raise ConfigError(
                f"{where} uses {name}, which is of the package {owner}; install {package} here, or import the module that defines it first."
            )


def _is_line(text: Any) -> bool:
    return isinstance(text, str) and text.isprintable() and 0 < len(text.strip()) == len(text) <= MOST_NAME


def _names(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield the public names that a configuration uses, or what may be one."""
    for section, group in HOLDERS.items():
        value = config.get(section)
        name = value.get("name") if isinstance(value, Mapping) else value
        if isinstance(name, str):
            yield f"{group}.{name}"
    yield from _named(config)


def _named(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        if isinstance(value.get("name"), str):
            yield value["name"]
        value = list(value.values())
    if isinstance(value, list | tuple):
        for one in value:
            yield from _named(one)
