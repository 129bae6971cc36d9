"""Train, validation and test splits from a seed, identical on every machine and with every version of numpy."""

from collections.abc import Mapping, Sequence

import numpy
import torch
from torch import Tensor

from pushforward._checks import whole
from pushforward.errors import DataError, UserError
from pushforward.registry import unknown

SPLITS = ("train", "validation", "test")
LEAST = 10  # examples that can be split


def check_split(split: str) -> None:
    """Raise if split is not train, validation or test."""
    if split not in SPLITS:
        raise UserError(unknown("split", split, SPLITS))


def split_sizes(count: int) -> tuple[int, int, int]:
    """Return the sizes of an 80/10/10 split of `count` examples, which must be at least 10."""
    if count < LEAST:
        raise DataError(f"there are {count} examples, but a split into train, validation and test needs at least {LEAST}.")
    tenth = count // 10
    return count - 2 * tenth, tenth, tenth


def split_indices(split: str, sizes: Sequence[int], seed: int, labels: numpy.ndarray | None = None) -> Tensor:
    """Return the indices of one split of a seeded permutation, stratified when there are labels.

    The permutation is sorted by class; then every (n / n_test)-th example goes to test, and validation takes evenly spaced examples of
    the rest: each class is represented proportionally in each split, to within 1. RandomState is numpy's frozen stream (NEP 19).

    Args:
        split: "train", "validation" or "test".
        sizes: sizes of train, validation and test; they sum to the number of examples n.
        seed: seed of the permutation.
        labels: class of each example (n,), or None.

    Returns:
        Indices (size of the split,) int64, in permuted order, so that the first few are a representative mixture of the classes.
    """
    check_split(split)
    whole("seed", seed, 0, 2**32 - 1)
    count = sum(sizes)
    order = numpy.random.RandomState(seed).permutation(count)
    by_class = order if labels is None else order[numpy.argsort(labels[order], kind="stable")]
    in_test = _spread(count, sizes[2])
    rest = by_class[~in_test]
    in_validation = _spread(len(rest), sizes[1])
    members = {"test": by_class[in_test], "validation": rest[in_validation], "train": rest[~in_validation]}[split]
    return torch.from_numpy(order[numpy.isin(order, members)])


def _spread(count: int, chosen: int) -> numpy.ndarray:
    """Return a mask (count,) with `chosen` evenly spaced entries set."""
    steps = numpy.arange(count + 1, dtype=numpy.int64) * chosen // max(count, 1)
    return steps[1:] > steps[:-1]


def split_within(split: str, counts: Mapping[str, int], seed: int, labels: numpy.ndarray | None = None) -> tuple[str, Tensor]:
    """Return the part of a source that holds a split, and the indices in it, for a source that may already have splits.

    Missing validation and test splits are each a seeded, stratified tenth of train; of fewer than 10 examples all are train.

    Args:
        split: "train", "validation" or "test".
        counts: number of examples of each part of the source; a source without splits only has train.
        seed: seed of the permutation.
        labels: class of each example of the part train, or None.

    Returns:
        The name of the part and indices (size of the split,) int64, in permuted order.
    """
    check_split(split)
    if split != "train" and split in counts:
        return split, split_indices("train", (counts[split], 0, 0), seed)
    count = counts["train"]
    lacking = [one for one in SPLITS[1:] if one not in counts]
    if lacking and count < LEAST and split != "train":
        split_sizes(count)  # raises
    taken = [count // 10 if one in lacking else 0 for one in SPLITS[1:]]
    return "train", split_indices(split, (count - sum(taken), *taken), seed, labels)


def split_named(name: str) -> str | None:
    """Return the split that the name of a folder or part refers to, or None."""
    return {
        "train": "train",
        "validation": "validation",
        "valid": "validation",
        "val": "validation",
        "dev": "validation",
        "test": "test",
    }.get(name.lower())
