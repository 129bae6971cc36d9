"""Tensors sharded over processes as files, by torch's distributed checkpoints (DCP): each process writes its part, any number reads them.

DCP keeps where each part lies in a pickled file `.metadata`. It is read with an unpickler that builds DCP's own records, sizes and dtypes,
and nothing else; the parts are checked (see `saved_file`), and read with `weights_only`.
"""

import io
import os
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from pushforward._files import is_file_name, regular
from pushforward.errors import CheckpointError
from pushforward.formats.saved_file import check_pickle, check_saved

METADATA = ".metadata"
MOST_BYTES = 256 << 20  # of the metadata: about a hundred for each part of a tensor
_RECORDS = ("ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta", "TensorProperties", "TensorStorageMetadata")
_ALLOWED = {
    *(("torch.distributed.checkpoint.metadata", name) for name in (*_RECORDS, "_MEM_FORMAT_ENCODING")),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),
    ("torch", "Size"),
}


def write_shards(folder: Path, tensors: Mapping[str, Tensor], group: Any) -> None:
    """Write the parts of sharded tensors that are this process's into a folder that exists; all processes of a group call it.

    Raises:
        OSError: one of them could not write.
        CheckpointError: one of them failed otherwise.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.filesystem import FileSystemWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    try:
        save(dict(tensors), storage_writer=FileSystemWriter(folder), process_group=group)
    except CheckpointException as error:  # no Exception
        rank, cause = next((rank, one[0]) for rank, one in sorted(error.failures.items()))
        if isinstance(cause, OSError):
            raise OSError(cause.errno, f"{os.strerror(cause.errno or 0)} in process {rank}", str(folder)) from None
        raise CheckpointError(f"process {rank} cannot write its part of {folder}: {cause}; see its own message.") from None


def read_shards(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Fill tensors, sharded in any way or not at all, from the files of any number of processes.

    Raises:
        CheckpointError: the files are damaged, hold something else than tensors, or have none of this name or shape.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.state_dict_loader import load

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # each process reads for itself
            load(dict(tensors), storage_reader=_reader(folder), no_dist=True)
    except CheckpointException as error:  # no Exception
        cause = next(iter(error.failures.values()))[0]
        reason = " ".join(str(cause).split())[:300] or type(cause).__name__
        raise CheckpointError(f"the shards of {folder} cannot be read: {reason}; resume from another checkpoint.") from None


def stored_shards(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of the tensors of a folder; none if it holds no shards.

    Raises:
        CheckpointError: their metadata is damaged, or holds something else.
    """
    if not (folder / METADATA).exists():
        return {}
    found = _metadata(folder).state_dict_metadata
    return {name: tuple(one.size) for name, one in found.items()}


class _Unpickler(pickle.Unpickler):
    """Builds DCP's records, and nothing that could act."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and isinstance(kind := getattr(torch, name, None), torch.dtype):
            return kind
        if module.startswith("pathlib") and name in ("PosixPath", "WindowsPath", "PurePosixPath"):  # of the folder where it was written
            return lambda *parts: "/".join(map(str, parts))
        if (module, name) not in _ALLOWED:
            raise CheckpointError(f"its metadata names {module}.{name}, which no checkpoint of this library does; it may be harmful.")
        return super().find_class(module, name)


def _metadata(folder: Path) -> Any:
    """Return DCP's metadata of a folder, all of whose files are in it.

    Raises:
        CheckpointError: it is damaged, or names anything else.
    """
    from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

    path = regular(folder / METADATA, CheckpointError)
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"it has more than {MOST_BYTES} bytes")
        content = path.read_bytes()
        check_pickle(content)
        found = _Unpickler(io.BytesIO(content)).load()
        tensors = found.state_dict_metadata.values() if isinstance(found, Metadata) else [None]
        if not all(isinstance(one, TensorStorageMetadata) and isinstance(one.size, torch.Size) for one in tensors):
            raise ValueError("it describes something else than tensors")
        for one in found.storage_data.values():
            if not is_file_name(one.relative_path) or getattr(one, "transform_descriptors", None):
                raise ValueError(f"a part lies in {one.relative_path!r}")
    except CheckpointError as error:
        raise CheckpointError(f"{path} is refused: {error}") from None
    except Exception as error:  # unpickling raises many types
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise CheckpointError(f"{path} is damaged ({reason}); resume from another checkpoint.") from None
    return found


class _Part(io.RawIOBase):
    """A part of an open file, as a file."""

    def __init__(self, file: IO[bytes], start: int, length: int) -> None:
        self.file, self.start, self.length, self.place = file, start, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        place = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.place, os.SEEK_END: self.length}[whence]
        if place < 0:
            raise ValueError("it is truncated")
        self.place = place
        return place

    def readinto(self, buffer: Any) -> int:
        self.file.seek(self.start + self.place)
        read = self.file.read(max(0, min(len(buffer), self.length - self.place)))
        buffer[: len(read)] = read
        self.place += len(read)
        return len(read)


def _reader(folder: Path) -> Any:
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.metadata import StorageMeta

    found = _metadata(folder)  # first: torch before 2.11 takes an error of its reader for missing metadata

    class Reader(FileSystemReader):  # here, as importing DCP takes a second
        def read_metadata(self, *args: Any, **kwargs: Any) -> Any:
            found.storage_meta = StorageMeta(load_id=self.load_id)
            return found

        def _slice_file(self, file: Any, place: Any) -> Any:
            check_saved(io.BufferedReader(_Part(file, place.offset, place.length)))
            return super()._slice_file(file, place)

    return Reader(folder)
