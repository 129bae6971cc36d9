"""The arrays in .npy and .npz files of any content. Pickled objects are never loaded, since a pickle can run code.

A header states shape and dtype of its array, and the directory of an archive the unpacked size of each: both are compared with what the
file can hold, and with `most_unpacked`, before anything is read.
"""

import contextlib
import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy
from numpy.lib import format as npy
from numpy.lib.npyio import NpzFile

from pushforward._files import regular
from pushforward._memory import check_room, check_unpacked
from pushforward.errors import DamagedDataError, DataError, PushforwardError

Array = numpy.ndarray


def open_npy(path: Path, mapped: bool = False) -> Array:
    """Return the array of a .npy file, in memory, or memory-mapped so that only the requested rows are read.

    Raises:
        DataError: it is truncated, no .npy file or pickled.
    """
    with _readable(path):
        with path.open("rb") as file:
            if file.read(len(npy.MAGIC_PREFIX)) == npy.MAGIC_PREFIX:
                file.seek(0)
                _check_header(path, file, path.stat().st_size)
        if not mapped:
            check_room(str(path), path.stat().st_size, "read it with mapped=True, which leaves it on the disk")
        array = numpy.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    if not isinstance(array, Array):
        array.close()
        raise DataError(f"{path} is an archive of arrays; rename it to .npz.")
    return array


@contextlib.contextmanager
def opened_npz(path: Path) -> Iterator[NpzFile]:
    """Context in which a .npz file is open.

    Raises:
        DataError: it is truncated or no .npz file.
    """
    with _readable(path):
        content = numpy.load(path, mmap_mode="r", allow_pickle=False)  # a single array is mapped, not read
    if not isinstance(content, NpzFile):
        raise DataError(f"{path} holds a single array; rename it to .npy.")
    with content:
        yield content


def read_member(path: Path, archive: NpzFile, key: str) -> Array:
    """Return an array of an open .npz file.

    Raises:
        DataError: it is damaged, pickled or unpacks to more than `most_unpacked`.
    """
    with _readable(path):
        assert archive.zip is not None  # only of a closed archive
        entry = archive.zip.getinfo(key if key in archive.zip.namelist() else f"{key}.npy")
        check_unpacked(f"{path}: {key}", entry.file_size, path.stat().st_size)
        with archive.zip.open(entry) as file:
            _check_header(path, file, entry.file_size)
        array = archive[key]
    assert isinstance(array, Array)
    return array


def array_of(name: str, content: bytes) -> Array:
    """Return the array in the bytes of a .npy file.

    Args:
        name: what the file is called in messages.
        content: its bytes.

    Raises:
        DataError: it is truncated, no .npy file or pickled.
    """
    try:
        if not content.startswith(npy.MAGIC_PREFIX):
            raise ValueError("it does not begin as one")
        _check_header(name, io.BytesIO(content), len(content))
        found: Array = npy.read_array(io.BytesIO(content), allow_pickle=False)
        return found
    except PushforwardError:
        raise
    except Exception as error:  # as in `_readable`
        raise _refusal(name, error) from None


def _check_header(path: Path | str, file: IO[bytes], size: int) -> None:
    """Raise if a header states more data than its file, of `size` bytes, can hold."""
    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read(file)
    count = math.prod(shape)
    if dtype.hasobject:
        return  # numpy refuses it
    if min(shape, default=0) < 0 or count * max(1, dtype.itemsize) > size:
        raise DamagedDataError(
            f"{path} states an array of shape {shape} and dtype {dtype}, but holds {size} bytes: it is truncated or damaged."
        )


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Context that converts errors of numpy to DataError: headers and archives that are damaged raise nearly every type."""
    try:
        regular(path, DataError)
        yield
    except PushforwardError:
        raise
    except Exception as error:
        raise _refusal(path, error) from None


def _refusal(path: Path | str, error: Exception) -> DataError:
    if "pickle" in str(error):
        return DataError(
            f"{path} holds pickled objects or no numpy array; pickles are never loaded, since they can run code: save arrays with numpy."
        )
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return DamagedDataError(f"{path} cannot be read as a numpy file ({reason}); it may be truncated: write it again.")
