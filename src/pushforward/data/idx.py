"""The IDX format of MNIST and similar data sets: a magic number, sizes as big-endian integers, then bytes; plain or gzipped.

Source: Y. LeCun, C. Cortes and C. Burges, The MNIST database of handwritten digits, section "File formats".
"""

import gzip
import math
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy

from pushforward._files import regular
from pushforward._memory import check_room, check_unpacked
from pushforward.errors import DamagedDataError, DataError

UNSIGNED_BYTE = 0x08


def read_idx(path: Path, axes: int) -> numpy.ndarray:
    """Return the array of an IDX file of unsigned bytes.

    Args:
        path: the file; gzip is detected from the first bytes.
        axes: required number of axes: 1 for labels, 3 for images.

    Raises:
        DataError: the file is missing, damaged, of another type or number of axes, or its length does not match its sizes.
    """
    start = 4 + 4 * axes
    try:
        with _unpacked(regular(path, DataError)) as file:
            header = file.read(start)
            magic, expected = header[:4].hex(), bytes((0, 0, UNSIGNED_BYTE, axes)).hex()
            if magic != expected:
                raise DataError(
                    f"{path} begins with {magic or 'nothing'}, but an IDX file of bytes with {axes} axes begins with {expected}."
                )
            if len(header) < start:
                raise DamagedDataError(f"{path} ends within its header, so it is truncated: download it again.")
            shape = struct.unpack(f">{axes}I", header[4:])
            needed = math.prod(shape)
            if isinstance(file, gzip.GzipFile):
                check_unpacked(f"{path}, of shape {shape},", needed, path.stat().st_size)
            elif path.stat().st_size - start < needed:
                raise DamagedDataError(
                    f"{path} has {path.stat().st_size - start} bytes of data, but its shape {shape} needs {needed}: download it again."
                )
            else:
                check_room(str(path), needed, "give a smaller file")
            content = file.read(needed)
            excess = file.read(1)  # also reaches the checksum of gzip
    except (OSError, EOFError, zlib.error) as error:
        raise DamagedDataError(f"{path} cannot be read ({error}); it may be truncated: download it again.") from None
    if len(content) != needed or excess:
        has = f"more than {needed}" if excess else str(len(content))
        raise DamagedDataError(f"{path} has {has} bytes of data, but its shape {shape} needs {needed}: download it again.")
    return numpy.frombuffer(bytearray(content), dtype=numpy.uint8).reshape(shape)


@contextmanager
def _unpacked(path: Path) -> Iterator[IO[bytes] | gzip.GzipFile]:
    """Context in which a plain or gzipped file is open for reading what it holds."""
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        if not packed:
            yield file
            return
        with gzip.GzipFile(fileobj=file) as inside:
            yield inside
