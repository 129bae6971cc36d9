"""Files of `torch.save`, checked before torch reads them: tensors, numbers, strings, and lists, tuples and mappings of these.

`torch.load(weights_only=True)` runs no code, but it takes compressed entries that unpack to any size, classes that are no data of ours, and
tuples of tuples that are a few kilobytes in the file and take longer than anyone waits to hash. The pickle inside is read here as a list of
instructions, of which none is carried out.
"""

import pickletools
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

MOST_BYTES = 16 << 20  # of a pickle, which holds names and shapes: the numbers of tensors are other entries of the archive
MOST_VALUES = 10_000_000  # of a pickle, with everything that is referred to again written out
_FLOATS = ("Double", "Float", "Half", "BFloat16", "ComplexFloat", "ComplexDouble")
_STORAGES = (*_FLOATS, "Long", "Int", "Short", "Char", "Byte", "Bool", "Untyped")
_FLOAT8 = ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
_UNSIGNED = ("uint16", "uint32", "uint64")
ALLOWED = frozenset(
    (
        *("collections OrderedDict", "torch Size", "torch._utils _rebuild_parameter"),
        *("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor_v3", "torch.storage UntypedStorage"),
        *(f"torch {one}Storage" for one in _STORAGES),
        *(f"torch {one}" for one in (*_FLOAT8, *_UNSIGNED)),
    )
)
_MARK = -1


def load_saved(path: Path, place: torch.device | str = "cpu") -> Any:
    """Return what `torch.save` wrote, on a device.

    Raises:
        ValueError: it holds anything else than tensors and plain data, is compressed, or stands for too much.
        Exception: of other types, which torch raises for a damaged file.
    """
    with path.open("rb") as file:
        check_saved(file)
    found = torch.load(path, map_location=place, weights_only=True)
    _check_stored(found)
    return found


def check_saved(file: IO[bytes]) -> None:
    """Raise unless an open file is an archive of `torch.save` with tensors and plain data; nothing of it is built.

    Raises:
        ValueError: it is not; zipfile.BadZipFile where it is no archive.
    """
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if len({one.filename for one in entries}) < len(entries):
            raise ValueError("its archive holds two entries of one name")
        if any(one.compress_type != zipfile.ZIP_STORED for one in entries):
            raise ValueError("its archive is compressed, which torch.save never does")
        pickles = [one for one in entries if one.filename.rpartition("/")[2] == "data.pkl"]
        if len(pickles) != 1:
            raise ValueError(f"its archive has {len(pickles)} entries data.pkl instead of one")
        if pickles[0].file_size > MOST_BYTES:
            raise ValueError(f"its data.pkl has {pickles[0].file_size} bytes, but at most {MOST_BYTES} are read")
        check_pickle(archive.read(pickles[0]), ALLOWED)


def check_pickle(content: bytes, allowed: Collection[str] | None = None) -> None:
    """Raise unless a pickle names only what is allowed, and stands for at most MOST_VALUES values; it is not loaded.

    Args:
        content: the pickle.
        allowed: "module name" of what may be named; None leaves this to the unpickler's find_class.

    Raises:
        ValueError: it does not.
    """
    parts: list[list[int]] = []  # of each value
    stack: list[int] = []
    memo: dict[int, int] = {}
    try:
        for code, argument, _ in pickletools.genops(content):
            if allowed is not None and (code.name in _NAMING and (code.name != "GLOBAL" or argument not in allowed)):
                raise ValueError(f"it names {argument or code.name}, which is no tensor and no plain data, so it may be harmful")
            _follow(code, argument, parts, stack, memo)
    except (IndexError, KeyError, OverflowError):
        raise ValueError("its pickle is damaged") from None
    _check_size(parts)


_NAMING = ("GLOBAL", "STACK_GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4", "PERSID")
_CHANGING = ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD")


def _follow(code: pickletools.OpcodeInfo, argument: Any, parts: list[list[int]], stack: list[int], memo: dict[int, int]) -> None:
    """Do with numbers of values what an instruction does with values."""
    if code.name in ("GET", "BINGET", "LONG_BINGET"):
        stack.append(memo[int(argument)])
    elif code.name in ("PUT", "BINPUT", "LONG_BINPUT"):
        memo[int(argument)] = stack[-1]
    elif code.name == "MEMOIZE":
        memo[len(memo)] = stack[-1]
    elif code.name == "DUP":
        stack.append(stack[-1])
    elif code.name == "MARK":
        stack.append(_MARK)
    else:
        taken = _taken(code, stack)
        if code.name in _CHANGING:
            parts[stack[-1]].extend(taken)
        elif code.stack_after:
            parts.append(taken)
            stack.append(len(parts) - 1)


def _taken(code: pickletools.OpcodeInfo, stack: list[int]) -> list[int]:
    """Take from the stack what an instruction takes, without the container that it changes."""
    taken: list[int] = []
    before = code.stack_before
    if pickletools.stackslice in before or code.name == "POP_MARK":
        while (one := stack.pop()) != _MARK:
            taken.append(one)
        count = 0 if code.name in _CHANGING else sum(kind not in (pickletools.markobject, pickletools.stackslice) for kind in before)
    else:
        count = len(before) - (code.name in _CHANGING)
    taken += [stack.pop() for _ in range(count)]
    return [one for one in taken if one != _MARK]


def _check_size(parts: list[list[int]]) -> None:
    """Raise if a value stands for too many values, or contains itself."""
    sizes = [0] * len(parts)  # 0 of a value that is not counted yet, -1 of one that is being counted
    for root in range(len(parts)):
        waiting = [root]
        while waiting:
            one = waiting[-1]
            if sizes[one] > 0:
                waiting.pop()
                continue
            missing = [part for part in parts[one] if sizes[part] <= 0]
            if sizes[one] == -1 and missing:
                raise ValueError("it contains itself")
            if missing:
                sizes[one] = -1
                waiting += dict.fromkeys(missing)
                continue
            sizes[one] = 1 + sum(sizes[part] for part in parts[one])
            if sizes[one] > MOST_VALUES:
                raise ValueError(f"it stands for more than {MOST_VALUES} values")
            waiting.pop()


def _check_stored(value: Any) -> None:
    """Raise if a tensor has more elements than are stored: a view with strides of 0 takes any size when it is copied."""
    if isinstance(value, Tensor):
        if value.layout == torch.strided and value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ValueError(f"a tensor of shape {tuple(value.shape)} is stored as {value.untyped_storage().nbytes()} bytes")
    elif isinstance(value, dict):
        for one in value.values():
            _check_stored(one)
    elif isinstance(value, list | tuple):
        for one in value:
            _check_stored(one)
