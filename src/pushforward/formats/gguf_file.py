"""GGUF files, the containers of llama.cpp: tensors in blocks of a few bits, widened when they are read.

Files of Stable Diffusion 3 hold the transformer under the names of the original single file, or the encoder of T5 under those of llama.cpp,
which are read as transformers' names. The package gguf of llama.cpp reads the container, memory-mapped, and knows how each kind of block is
widened.
"""

import math
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy
import torch
from torch import Tensor

from pushforward.errors import CheckpointError, NoCheckpointError, UserError
from pushforward.formats.gguf_names import transformers_names
from pushforward.formats.tensor_file import Entry, TensorFile

PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
SHAPE = "comfy.gguf.orig_shape."  # of tensors that the converter for ComfyUI has flattened
MOST_READS = 1 << 22  # numbers and strings of a header; the vocabularies of language models have a million
ROWS = 1 << 22  # numbers that are widened together


class GGUFFile(TensorFile):
    """An open GGUF file, whose coded tensors are float32 when they are read.

    Args:
        path: the file.

    Raises:
        UserError: the package gguf is not installed.
        CheckpointError: the file is truncated or damaged.
        NoCheckpointError: it is missing, no GGUF, or its tensors have llama.cpp's names of another network than T5's encoder.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise NoCheckpointError(f"there is no file {path}; give the path of a .gguf file.")
        self.gguf = _imported_gguf()
        self.path, self.metadata = path, {}
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise NoCheckpointError(f"{path} is not a GGUF file; give one that is, or a .safetensors file.")
        try:
            self.reader: Any = _reader_of(self.gguf)(path)
            if self.reader.byte_order == "S":
                raise ValueError("its bytes are in the order of another machine")
            tensors: dict[str, Any] = {one.name: one for one in self.reader.tensors}
            entries = {name: self._entry(one) for name, one in tensors.items()}
            architecture = self._architecture()
        except Exception as error:  # gguf and numpy raise many types of damaged numbers, RecursionError of nested lists
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise CheckpointError(f"{path} cannot be read ({reason}); download it again.") from None
        names = transformers_names(path, tensors, architecture)
        self.tensors = {names[name]: one for name, one in tensors.items()}
        self.entries = {names[name]: one for name, one in entries.items()}

    def _architecture(self) -> str:
        field = self.reader.fields.get("general.architecture")
        return "" if field is None else bytes(field.parts[field.data[0]]).decode("utf-8", errors="replace")[:40]

    def _entry(self, one: Any) -> Entry:
        kind = one.tensor_type.name
        field = self.reader.fields.get(f"{SHAPE}{one.name}")
        shape = tuple(int(side) for side in (reversed(one.shape.tolist()) if field is None else [field.parts[k][0] for k in field.data]))
        if min(shape, default=0) < 0 or math.prod(shape) != one.n_elements:
            raise ValueError(f"{one.name} has {one.n_elements} numbers, but the shape {shape}")
        return Entry(PLAIN.get(kind, torch.float32), shape, one.data_offset, kind not in PLAIN)

    def mapped(self, name: str) -> Tensor:
        """Return a tensor: a copy, as blocks of bits cannot be used as they are."""
        entry = self.entries[name]
        made = torch.empty(entry.shape, dtype=entry.dtype)
        self.read_into(name, made)
        return made

    def read_into(self, name: str, out: Tensor) -> None:
        """Fill a contiguous tensor of the stored size, some rows of blocks at a time."""
        one = self.tensors[name]
        kind, flat, start = one.tensor_type, out.view(-1), 0
        data = one.data.reshape(-1, one.data.shape[-1]) if one.data.ndim else one.data.reshape(1, 1)
        rows = max(1, ROWS // data.shape[1])
        for k in range(0, len(data), rows):
            try:
                wide = self.gguf.quants.dequantize(numpy.array(data[k : k + rows]), kind)
            except NotImplementedError:
                raise NoCheckpointError(f"{self.path} holds {name} as {kind.name}, which gguf cannot widen; give another file.") from None
            part = torch.from_numpy(wide).reshape(-1)
            flat[start : start + len(part)].copy_(part)
            start += len(part)


def _reader_of(gguf: ModuleType) -> Any:
    """Return a GGUFReader that ends with its file: what gguf reads behind it is empty, so that a list of 2^60 numbers has no end."""

    class Reader(gguf.GGUFReader):  # type: ignore[name-defined]
        reads = 0

        def _get(self, offset: Any, dtype: Any, count: Any = 1, *args: Any, **kwargs: Any) -> Any:
            self.reads += 1
            if int(offset) + int(count) * numpy.dtype(dtype).itemsize > len(self.data) or self.reads > MOST_READS:
                raise ValueError("its header states more than the file holds")
            return super()._get(offset, dtype, count, *args, **kwargs)

    return Reader


def _imported_gguf() -> ModuleType:
    try:
        import gguf
    except ImportError:
        raise UserError("GGUF files need the package gguf, which is not installed; run: pip install 'pushforward[sd3]'.") from None
    module: ModuleType = gguf
    return module
