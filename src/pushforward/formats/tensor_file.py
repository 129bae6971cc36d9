"""Zero-copy safetensors files: memory-mapped tensors, and files written tensor by tensor.

The format is eight bytes with the length of a JSON header, the header (name to dtype, shape and offsets), then the data
(https://github.com/huggingface/safetensors). The header is read by safetensors itself, which refuses gaps, overlaps and leftover bytes.
A checkpoint is never in memory twice: tensors used as stored are memory-mapped, and tensors that change are read in chunks with ordinary
reads, because pages touched through the map would count as memory too.
"""

import json
import math
import mmap
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pushforward.errors import CheckpointError, NoCheckpointError

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_CODES = {dtype: code for code, dtype in DTYPES.items()}
_LONGEST_HEADER = 100_000_000
_LONGEST_SIDE = 2**63 - 1
_BUFFER = 1 << 22


@dataclass(frozen=True)
class Entry:
    """One tensor of a file: dtype, shape and the offset of its data; `coded` if it is stored in fewer bits than its dtype has."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    coded: bool = False

    @property
    def size(self) -> int:
        """Its size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


class TensorFile:
    """An open safetensors file, with the strings of its header as `metadata`.

    Args:
        path: the file.

    Raises:
        CheckpointError: it is missing, truncated or not a safetensors file; the message describes what it is instead, if known.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._map: mmap.mmap | None = None
        self._of_thread = threading.local()
        if not path.is_file():
            raise NoCheckpointError(f"there is no file {path}; give the path of a .safetensors file.")
        size = path.stat().st_size
        with path.open("rb") as file:
            start = _start_of_data(path, file.read(8), size)
        try:
            with safe_open(path, framework="np") as header:
                names = header.offset_keys()
                slices = [header.get_slice(name) for name in names]
                self.metadata: dict[str, str] = header.metadata() or {}
        except (SafetensorError, OSError) as error:
            raise CheckpointError(_fault(path, start, size, error)) from None
        self.entries: dict[str, Entry] = {}
        for name, one in zip(names, slices, strict=True):  # in the order of the data, which has no gaps
            code = one.get_dtype()
            if code not in DTYPES:
                raise NoCheckpointError(f"{path} holds {name} as {code}, a dtype that is not supported here; convert it to BF16.")
            self.entries[name] = entry = Entry(DTYPES[code], tuple(one.get_shape()), start)
            if max(entry.shape, default=0) > _LONGEST_SIDE:
                raise CheckpointError(f"{path} holds {name} of shape {entry.shape}, which no tensor can have; download it again.")
            start += entry.size

    def mapped(self, name: str) -> Tensor:
        """Return a memory-mapped tensor: loaded on use, copied on write."""
        entry = self.entries[name]
        if entry.size == 0 or entry.start % entry.dtype.itemsize:
            tensor = torch.empty(math.prod(entry.shape), dtype=entry.dtype).view(entry.shape)
            self.read_into(name, tensor)
            return tensor
        if self._map is None:
            with self.path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        count = math.prod(entry.shape)
        return torch.frombuffer(self._map, dtype=entry.dtype, count=count, offset=entry.start).view(entry.shape)

    def read_into(self, name: str, out: Tensor) -> None:
        """Fill a contiguous tensor of the stored size without the map; a different dtype is converted through one small buffer."""
        entry, flat = self.entries[name], out.view(-1)
        with self.path.open("rb", buffering=0) as file:
            file.seek(entry.start)
            if entry.dtype == out.dtype:
                self._fill(file, _bytes(flat), name)
                return
            buffer = self._buffer()
            for part in flat.split(_BUFFER // entry.dtype.itemsize):
                read = buffer[: len(part) * entry.dtype.itemsize]
                self._fill(file, _bytes(read), name)
                part.copy_(read.view(entry.dtype))

    def _buffer(self) -> Tensor:
        """Return the buffer of this thread: one for all tensors, as one for each leaves holes between them in the process's memory."""
        if not hasattr(self._of_thread, "buffer"):
            self._of_thread.buffer = torch.empty(_BUFFER, dtype=torch.uint8)
        buffer: Tensor = self._of_thread.buffer
        return buffer

    def _fill(self, file: FileIO, place: memoryview, name: str) -> None:
        while place:
            got = file.readinto(place)
            if not got:
                raise CheckpointError(f"{self.path} is truncated in {name}; download it again.")
            place = place[got:]


def _start_of_data(path: Path, first: bytes, size: int) -> int:
    """Return the offset of the data, given the first eight bytes of a file, or raise if it cannot be a safetensors file of this size."""
    if first.startswith(b"version "):
        raise CheckpointError(f"{path} is a Git LFS pointer instead of the weights; run `git lfs pull`.")
    start = 8 + int.from_bytes(first, "little")
    if len(first) < 8 or size < start <= 8 + _LONGEST_HEADER:
        raise CheckpointError(f"{path} is truncated: it ends in its header, after {size} bytes; download it again.")
    if start > 8 + _LONGEST_HEADER:
        raise NoCheckpointError(f"{path} is not a safetensors file; give one that is.")
    return start


def _fault(path: Path, start: int, size: int, error: Exception) -> str:
    """Return what is wrong with a file that safetensors refuses: its size, if that is all, or the reason that safetensors gives."""
    reason = str(error).removeprefix("Error while deserializing header: ")
    if "not fully covered" in reason:
        with path.open("rb") as file:
            file.seek(8)
            header = json.loads(file.read(start - 8))
        records = [record for name, record in header.items() if name != "__metadata__"]
        # safetensors takes a record as a mapping or as the sequence of its three fields
        end = start + max((one["data_offsets"][1] if isinstance(one, dict) else one[2][1] for one in records), default=0)
        if size < end:
            return f"{path} is truncated: it has {size} of {end} bytes; download it again."
        return f"{path} has bytes behind its last tensor ({size} instead of {end} in all), so it is damaged; download it again."
    return f"{path} is not a valid safetensors file: its header cannot be read ({reason}); download it again."


def write_tensors(path: Path, tensors: Mapping[str, Callable[[], Tensor]], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, one tensor at a time.

    Args:
        path: the file.
        tensors: names to functions that return the tensor; each is called twice, and only one result is kept at a time.
        metadata: strings for the header.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    start = 0
    # Wider dtypes first, so that every tensor starts at a multiple of its element size and can be mapped.
    forms = {name: (one.dtype, one.shape) for name, make in tensors.items() for one in [make()]}
    order = sorted(forms, key=lambda name: (-forms[name][0].itemsize, name))
    for name in order:
        dtype, shape = forms[name]
        end = start + shape.numel() * dtype.itemsize
        header[name] = {"dtype": _CODES[dtype], "shape": list(shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            file.write(_bytes(tensors[name]().detach().cpu().contiguous()))
        file.flush()
        os.fsync(file.fileno())


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().reshape(-1).view(torch.uint8).numpy().data


class Stored:
    """The tensors of one part of a model, by names without prefix, in one or more files.

    Args:
        where: name of the location in messages.
        places: name to (file, name in the file).
    """

    def __init__(self, where: Path, places: Mapping[str, tuple[TensorFile, str]]) -> None:
        self.where, self.places = where, dict(places)

    @classmethod
    def of(cls, where: Path, files: Mapping[Path, TensorFile]) -> "Stored":
        """Return all tensors of some files."""
        return cls(where, {name: (file, name) for file in files.values() for name in file.entries})

    def under(self, prefix: str) -> "Stored":
        """Return the tensors whose names begin with a prefix, without it."""
        return Stored(self.where, {name[len(prefix) :]: place for name, place in self.places.items() if name.startswith(prefix)})

    def __contains__(self, name: str) -> bool:
        return name in self.places

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)

    def entry(self, name: str) -> Entry:
        """Return the entry of a tensor."""
        file, inside = self.places[name]
        return file.entries[inside]

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor; raise if there is none of this name."""
        if name not in self.places:
            raise CheckpointError(f"{self.where} lacks the tensor {name}; download it again, or convert it again.")
        return self.entry(name).shape

    def mapped(self, name: str) -> Tensor:
        """Return a memory-mapped tensor."""
        file, inside = self.places[name]
        return file.mapped(inside)

    def read_into(self, name: str, out: Tensor) -> None:
        """Fill a contiguous tensor of the stored size without the map."""
        file, inside = self.places[name]
        file.read_into(inside, out)
