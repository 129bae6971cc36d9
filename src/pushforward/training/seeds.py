"""Vectorised seeds: numpy's SeedSequence over arrays, since a single call takes longer than the draws of a micro-block."""

import numpy

_POOL = 4


def _hashes(constant: int, factor: int, count: int) -> list[tuple[numpy.uint32, numpy.uint32]]:
    found = []
    for _ in range(count):
        before, constant = constant, constant * factor % 2**32
        found.append((numpy.uint32(before), numpy.uint32(constant)))
    return found


_IN, _OUT = _hashes(0x43B0D7E5, 0x931E8875, _POOL * _POOL), _hashes(0x8B51F9DD, 0x58F38DED, 2)
_LEFT, _RIGHT, _HALF = numpy.uint32(0xCA01F9DD), numpy.uint32(0x4973F715), numpy.uint32(16)


def seeds_of(places: numpy.ndarray) -> numpy.ndarray:
    """Return a 63-bit seed for each place (n, words), up to 4 words below 2^32, as `order.seed_of` does for one.

    Source: the hash of numpy.random.SeedSequence (O'Neill, Developing a seed_seq alternative, 2015), whose state it equals word for word.
    """
    words = numpy.zeros((_POOL, len(places)), numpy.uint32)
    words[: places.shape[1]] = places.T
    pool = [_hashed(word, *pair) for word, pair in zip(words, _IN, strict=False)]
    pairs = iter(_IN[_POOL:])
    for source in range(_POOL):
        for target in range(_POOL):
            if source != target:
                mixed: numpy.ndarray = _LEFT * pool[target] - _RIGHT * _hashed(pool[source], *next(pairs))
                pool[target] = mixed ^ (mixed >> _HALF)
    low, high = (_hashed(word, *pair).astype(numpy.uint64) for word, pair in zip(pool, _OUT, strict=False))
    return (high << numpy.uint64(32) | low) >> numpy.uint64(1)


def _hashed(word: numpy.ndarray, before: numpy.uint32, after: numpy.uint32) -> numpy.ndarray:
    word = (word ^ before) * after
    return word ^ (word >> _HALF)
