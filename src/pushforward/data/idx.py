"""The IDX format of MNIST and similar data sets: a magic number, sizes as big-endian integers, then bytes; plain or gzipped.

Source: Y. LeCun, C. Cortes and C. Burges, The MNIST database of handwritten digits, section "File formats".
"""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy

from pushforward.errors import DataError

UNSIGNED_BYTE = 0x08


def read_idx(path: Path, axes: int) -> numpy.ndarray:
    """Return the array of an IDX file of unsigned bytes.

    Args:
        path: the file; gzip is detected from the first bytes.
        axes: required number of axes: 1 for labels, 3 for images.

    Raises:
        DataError: the file is missing, damaged, of another type or number of axes, or its length does not match its sizes.
    """
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error}); it may be truncated: download it again.") from None
    magic, expected = content[:4].hex(), bytes((0, 0, UNSIGNED_BYTE, axes)).hex()
    if magic != expected:
        raise DataError(f"{path} begins with {magic or 'nothing'}, but an IDX file of bytes with {axes} axes begins with {expected}.")
    start = 4 + 4 * axes
    if len(content) < start:
        raise DataError(f"{path} ends within its header, so it is truncated: download it again.")
    shape = struct.unpack(f">{axes}I", content[4:start])
    if len(content) - start != math.prod(shape):
        raise DataError(
            f"{path} has {len(content) - start} bytes of data, but its shape {shape} needs {math.prod(shape)}: download it again."
        )
    return numpy.frombuffer(bytearray(content[start:]), dtype=numpy.uint8).reshape(shape)
