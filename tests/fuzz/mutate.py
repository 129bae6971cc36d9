"""Mutants of a file: of its bytes, of its numbers, and of the values in YAML and JSON."""

import json
import random
import re

import yaml

NUMBERS = ["0", "-1", "1", "255", "65536", "2147483648", "4294967295", "1000000000000", "9223372036854775807", "18446744073709551616"]
NUMBERS += ["9" * 400, "1e999", "-1e400", "1e-400", "nan", ".inf", "-.inf", "NaN", "Infinity", "0x7fffffff", "1:1:1:1", "2001-99-99", "1_0"]
WORDS = [
    "",
    "null",
    "~",
    "true",
    "[]",
    "{}",
    "[[]]",
    "'",
    '"',
    "&a *a",
    "*a",
    "!!python/object:os.system",
    "<<: *a",
    "\x00",
    "\ufeff",
    "é",
    "%",
]
VALUES = [None, True, -1, 0, 10**12, 2**63, -(2**63), 1e308, float("inf"), float("nan"), "", "x" * 3000, "../../etc", "a\x00b", [], {}]
VALUES += [[[]], [0], {"name": "nn.MLP"}, {"name": []}, [10**12], {"": None}, 0.5]
CHUNKS = [b"\x00" * 8, b"\xff" * 8, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"[" * 2000, b"(" * 500, b'{"a":' * 1500, b"- " * 1500]
# The shortest of the bombs for each format; `test_hostile.py` has them by name.
NUMBER = re.compile(rb"(?<![\w.])-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")


def mutant(seed: bytes, rng: random.Random) -> bytes:
    """Return a file like `seed` with one to three changes."""
    changed = seed
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        changed = rng.choice(WAYS)(changed, rng)
    return changed


def flip(data: bytes, rng: random.Random) -> bytes:
    """Flip bits; most of them near the start, where headers are."""
    held = bytearray(data)
    for _ in range(rng.choice((1, 2, 8)) if held else 0):
        end = len(held) if rng.random() < 0.5 else min(len(held), 256)
        held[rng.randrange(end)] ^= 1 << rng.randrange(8)
    return bytes(held)


def cut(data: bytes, rng: random.Random) -> bytes:
    """Keep a part of the file."""
    place = rng.randrange(len(data) + 1)
    return data[:place] if rng.random() < 0.8 else data[place:]


def splice(data: bytes, rng: random.Random) -> bytes:
    """Copy, move or remove a chunk."""
    start, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    start = max(start, end - rng.choice((4, 64, 4096)))
    place = rng.randrange(len(data) + 1)
    if rng.random() < 0.3:
        return data[:start] + data[end:]
    return data[:place] + data[start:end] * rng.choice((1, 1, 2, 16)) + data[place:]


def insert(data: bytes, rng: random.Random) -> bytes:
    """Insert something that is special in some format."""
    place = rng.randrange(len(data) + 1)
    what = rng.choice(CHUNKS) if rng.random() < 0.4 else rng.choice(WORDS + NUMBERS).encode()
    return data[:place] + what + data[place + (len(what) if rng.random() < 0.4 else 0) :]


def number(data: bytes, rng: random.Random) -> bytes:
    """Replace a number that is written as text, such as those in headers of .npy files."""
    found = list(NUMBER.finditer(data[:20_000]))
    if not found:
        return flip(data, rng)
    one = rng.choice(found)
    return data[: one.start()] + rng.choice(NUMBERS).encode() + data[one.end() :]


def word(data: bytes, rng: random.Random) -> bytes:
    """Replace bytes by an integer of 4 or 8 bytes, as in headers of IDX, zip, PNG and safetensors."""
    width, order = rng.choice((2, 4, 8)), rng.choice(("big", "little"))
    place = rng.randrange(max(1, min(len(data), 200)))
    value = rng.choice((0, 1, 2**31 - 1, 2**32 - 1, 2**40, 2**63 - 1, rng.getrandbits(20))) % (1 << 8 * width)
    return data[:place] + value.to_bytes(width, order) + data[place + width :]


def structure(data: bytes, rng: random.Random) -> bytes:
    """Change values of a YAML or JSON document, or of one line of JSON; of other files, change a number."""
    try:
        text = data.decode()
        line = rng.choice(text.splitlines()) if text.lstrip().startswith("{") and "\n{" in text else None
        if line is not None:
            return text.replace(line, json.dumps(_changed(json.loads(line), rng)), 1).encode()
        if text.lstrip().startswith("{"):
            return json.dumps(_changed(json.loads(text), rng)).encode()
        return yaml.safe_dump(_changed(yaml.safe_load(text), rng), allow_unicode=True).encode()
    except Exception:
        return number(data, rng)


def _changed(value: object, rng: random.Random) -> object:
    """Return a value of which one part, at any depth, was replaced, removed, renamed or put into the place of another."""
    if not isinstance(value, dict | list) or not value or rng.random() < 0.1:
        return rng.choice(VALUES)
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = rng.choice(keys)
    held = dict(value) if isinstance(value, dict) else list(value)
    what = rng.random()
    if what < 0.7:
        held[key] = _changed(value[key], rng)
    elif what < 0.8:
        del held[key]
    elif what < 0.9:
        held[key] = value[rng.choice(keys)]
    elif isinstance(held, dict):
        held[rng.choice([str(key) + "x", 0, None, 1.5, "name"])] = held.pop(key)
    else:
        held.append(value[key])
    return held


WAYS = (flip, cut, splice, insert, number, word, structure, structure)
