"""YAML of any content as plain data, in bounded time and memory.

PyYAML's safe loader builds mappings, lists, strings, numbers, booleans, null and dates, no other objects. What it leaves open is bounded
here: a file of a few lines can stand for gigabytes by aliases of aliases, or for a value that contains itself.
"""

from pathlib import Path
from typing import Any

import yaml

from pushforward._files import regular
from pushforward.errors import ConfigError

MOST_BYTES = 2 << 20  # of a file: PyYAML takes some 5 s for as many
MOST_WRITTEN_OUT = 16 << 20  # characters with each alias written out
MOST_DEPTH = 50  # levels of mappings and lists
MOST_BITS = 64  # of an integer


# libyaml parses five times as fast, where PyYAML was built with it. Its own composer recurses in C, where nothing counts the levels.
_FAST: dict[str, Any] = {"__init__": lambda self, text: yaml.CSafeLoader.__init__(self, text)}
_Parser: Any = type("_Parser", (yaml.composer.Composer, yaml.CSafeLoader), _FAST) if yaml.__with_libyaml__ else yaml.SafeLoader


class _Loader(_Parser):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.anchors: dict[str, yaml.Node] = {}  # of the composer, whose own __init__ is not called then

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        if len(node.value) <= 2 * MOST_BITS:  # a longer one takes quadratic time
            value: int = super().construct_yaml_int(node)
            if value.bit_length() <= MOST_BITS:
                return value
        raise yaml.constructor.ConstructorError(None, None, f"an integer of more than {MOST_BITS} bits", node.start_mark)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def read_yaml(path: Path) -> Any:
    """Return what a YAML file holds.

    Raises:
        FileNotFoundError: there is no file.
        ConfigError: it is no regular file, not YAML, too large or too deep, or it tries to build objects.
    """
    if regular(path, ConfigError).stat().st_size > MOST_BYTES:
        raise ConfigError(f"{path} has {path.stat().st_size} bytes, but a configuration has at most {MOST_BYTES}; give another file.")
    try:
        return _parsed(path.read_text(encoding="utf-8"))
    except IsADirectoryError:
        raise ConfigError(f"{path} is a folder, but a configuration is a file; give its config.yaml.") from None
    except OSError:
        raise
    except RecursionError:
        problem, line = f"it has more than {MOST_DEPTH} levels", ""
    except Exception as error:  # constructors of the safe loader raise many types, such as ValueError for the date 2001-99-99
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark else ""
        text = not isinstance(error, UnicodeDecodeError)
        problem = getattr(error, "problem", None) or ("a value that cannot be read" if text else "it is not text")
    raise ConfigError(f"{path} is not a plain YAML file{line}: {problem}; objects are never built from it.")


def _parsed(text: str) -> Any:
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _size(node, 0, {})
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _check_keys(node: yaml.Node) -> None:
    """Raise if a mapping states a key twice, of which the safe loader takes the last."""
    seen = set()
    for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
        if isinstance(key, yaml.ScalarNode):
            if (key.tag, key.value) in seen:
                raise yaml.composer.ComposerError(None, None, f"the key {key.value[:100]!r} is there twice", key.start_mark)
            seen.add((key.tag, key.value))


def _size(node: yaml.Node, depth: int, known: dict[int, int | None]) -> int:
    """Return the characters of a node with each alias written out, or raise if they are too many or without end."""
    key = id(node)
    if key in known:
        size = known[key]
        if size is None:
            raise yaml.composer.ComposerError(None, None, "a value that contains itself", node.start_mark)
        return size
    if depth > MOST_DEPTH:
        raise RecursionError
    known[key] = None
    size = 1
    if isinstance(node, yaml.ScalarNode):
        size += len(node.value)
    else:
        _check_keys(node)
        parts = [one for pair in node.value for one in pair] if isinstance(node, yaml.MappingNode) else node.value
        for part in parts:
            size += _size(part, depth + 1, known)
            if size > MOST_WRITTEN_OUT:
                raise yaml.composer.ComposerError(None, None, "aliases that stand for too much", node.start_mark)
    known[key] = size
    return size
