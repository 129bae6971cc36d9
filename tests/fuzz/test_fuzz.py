"""Every reader on thousands of damaged and hostile files: only errors of the library, of one sentence, in bounded time and memory.

Mutant k of a reader depends on the reader's name and k alone; `python tests/fuzz/show.py NAME K` shows it.
"""

import random
import zlib
from pathlib import Path

import pytest
from fuzz.guard import escapes
from fuzz.mutate import mutant
from fuzz.readers import READERS, Reader

QUICK, SLOW = 6, 560  # mutants of a reader of share 1: 20,000 in all, of which the quick tests have the first
HEAVY = ("sd3 file", "sd3 folder", "saved data set", "text encoder")  # making their files takes seconds


def planted(reader: Reader, folder: Path, first: int, last: int):
    """Yield a name and a call for each mutant; one file at a time is mutated, and put back afterwards."""
    files = sorted({path for pattern in reader.files for path in folder.glob(pattern) if path.is_file()})
    assert files, reader.name
    for k in range(first, last):
        rng = random.Random(zlib.crc32(reader.name.encode()) + k)
        file = files[rng.randrange(len(files))]
        intact = file.read_bytes()
        file.write_bytes(mutant(intact, rng))
        yield f"{reader.name} {k} ({file.name})", lambda: reader.read(folder)
        file.write_bytes(intact)


def check(reader: Reader, tmp_path: Path, first: int, last: int) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    reader.make(folder)
    reader.read(folder)  # the intact files are read without an error; and imports are not counted as memory
    found = escapes(planted(reader, folder, first, last), tmp_path / "log")
    assert not found, f"{len(found)} of {last - first}:\n" + "\n".join(found)


@pytest.mark.parametrize("reader", [one for one in READERS if one.name not in HEAVY], ids=lambda one: one.name)
def test_some_mutants(reader, tmp_path):
    check(reader, tmp_path, 0, round(QUICK * reader.share) + 1)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("reader", READERS, ids=lambda one: one.name)
def test_many_mutants(reader, tmp_path):
    check(reader, tmp_path, 0, round(SLOW * reader.share))


def test_there_are_twenty_thousand():
    assert sum(round(SLOW * reader.share) for reader in READERS) >= 20_000
