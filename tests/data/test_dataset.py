"""The one kind of data set: what it hands out, and what it refuses."""

import hashlib
import struct

import numpy
import pytest
import torch
from torch.utils.data import DataLoader

from pushforward.data.dataset import Dataset, keep_batch
from pushforward.data.pairs import Pairs
from pushforward.errors import DataError, UserError


def small(**changes):
    arguments = {"x": torch.arange(12.0).reshape(6, 2), "cond": torch.tensor([0, 1, 2, 0, 1, 2])} | changes
    return Dataset("small", **arguments)


def test_an_item_is_the_example_with_its_label():
    x, cond = small()[3]
    torch.testing.assert_close(x, torch.tensor([6.0, 7.0]))
    assert cond == 0


def test_a_loader_gets_whole_batches_that_are_the_items_one_by_one():
    data = small()
    batches = list(DataLoader(data, batch_size=4, collate_fn=keep_batch))
    torch.testing.assert_close(torch.cat([x for x, _ in batches]), torch.stack([data[i][0] for i in range(len(data))]))
    torch.testing.assert_close(torch.cat([cond for _, cond in batches]), data.cond)


def test_a_batch_without_labels_has_cond_none():
    (x, cond), *_ = DataLoader(small(cond=None), batch_size=4, collate_fn=keep_batch)
    assert x.shape == (4, 2)
    assert cond is None


def test_iteration_ends():
    assert len(list(small())) == 6


def test_integers_become_float32_and_labels_int64():
    data = small(x=torch.arange(12, dtype=torch.uint8).reshape(6, 2), cond=torch.zeros(6, dtype=torch.int32))
    assert (data.x.dtype, data.cond.dtype) == (torch.float32, torch.int64)


def test_a_subset_keeps_classes_and_levels():
    part = small(levels=12).subset([0, 3])
    assert (part.classes, part.levels, part.shape, part.cond.tolist()) == (3, 12, (2,), [0, 0])


def test_take_gives_the_first_examples():
    torch.testing.assert_close(small().take(2).x, torch.tensor([[0.0, 1.0], [2.0, 3.0]]))


def test_the_fingerprint_is_the_documented_hash():
    """Written out with struct, so that it is the same on every machine: old runs recognise their data by it."""
    content = repr(((6, 2), 3, None)).encode() + struct.pack("<12f", *range(12)) + struct.pack("<6q", 0, 1, 2, 0, 1, 2)
    assert small().fingerprint() == hashlib.sha256(content).hexdigest()[:16]


@pytest.mark.parametrize(
    "changes",
    [
        {"x": torch.arange(12.0).reshape(6, 2) + 1},
        {"cond": None},
        {"classes": 4},
        {"levels": 12},
        {"x": torch.arange(12.0).reshape(6, 2, 1)},
    ],
)
def test_the_fingerprint_changes_with_the_content(changes):
    assert small(**changes).fingerprint() != small().fingerprint()


def test_the_fingerprint_does_not_depend_on_memory_layout():
    transposed = torch.arange(12.0).reshape(6, 2).T.contiguous().T
    assert small(x=transposed).fingerprint() == small().fingerprint()


def test_few_levels_are_held_in_a_byte_and_come_out_as_float32():
    given = torch.arange(12, dtype=torch.uint8).reshape(6, 2)
    for x in (given, given.float(), given.long()):
        data = small(x=x, levels=12)
        assert data._held.dtype is torch.uint8
        assert [one.dtype for one in (data.x, data[0][0], data[:2][0], data.batch([1, 0])[0])] == [torch.float32] * 4
        torch.testing.assert_close(data.take(3).x, given[:3].float())
        assert data.fingerprint() == small(x=x, levels=12).subset(range(6)).fingerprint()
    assert small(levels=257)._held.dtype is torch.float32


def test_the_fingerprint_of_what_is_held_in_bytes_is_that_of_float32():
    content = repr(((6, 2), 3, 12)).encode() + struct.pack("<12f", *range(12)) + struct.pack("<6q", 0, 1, 2, 0, 1, 2)
    assert small(levels=12).fingerprint() == hashlib.sha256(content).hexdigest()[:16]


def test_conditions_may_be_vectors_instead_of_labels():
    encoded = torch.arange(18.0, dtype=torch.float64).reshape(6, 3)
    data = small(class_names=["a", "b", "c"]).with_cond(encoded)
    assert (data.classes, data.class_names, data.cond.dtype) == (None, None, torch.float32)
    assert torch.equal(data.subset([4, 1])[:][1], encoded[[4, 1]].float())
    assert small(cond=encoded).fingerprint() == data.fingerprint() != small().fingerprint()
    assert data.with_cond(torch.tensor([0, 1, 0, 1, 0, 1]), classes=5).classes == 5


def test_nan_is_refused_with_the_first_row_and_how_many():
    x = torch.zeros(6, 2)
    x[2, 1] = x[4, 0] = torch.nan
    with pytest.raises(DataError, match=r"small: row 2 \(counted from 0\) holds NaN; 2 of 6 rows"):
        small(x=x)


def test_float64_beyond_float32_is_refused():
    x = torch.zeros(6, 2, dtype=torch.float64)
    x[5] = 1e300
    with pytest.raises(DataError, match="row 5 .* holds an infinite value"):
        small(x=x)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": torch.zeros(0, 2), "cond": None}, "at least one example"),
        ({"x": torch.zeros(6)}, r"x\[:, None\]"),
        ({"x": torch.zeros(6, 2, dtype=torch.complex64)}, "must hold real numbers"),
        ({"cond": torch.tensor([0, 1, 2, 0, 1, 3]), "classes": 3}, r"row 5 has label 3, but labels must be 0 to 2 \(1 of 6 are not\)"),
        ({"cond": torch.tensor([0, 1, 2, -1, 1, 2])}, "row 3 has label -1"),
        ({"cond": -torch.ones(6, dtype=torch.int64)}, "row 0 has label -1, but labels must be 0 or more"),
        (
            {"cond": torch.tensor([0, 1, 2, 0, 999_999_999, 3])},
            "label 999999999, which would make 1000000000 classes of 6 examples",
        ),
        ({"cond": torch.zeros(6)}, "classes must be integers"),
        ({"cond": torch.zeros(5, 3)}, r"cond has shape \(5, 3\) and no classes, but conditions other than labels need \(6, features\)"),
        ({"cond": torch.zeros(6, 3), "classes": 2}, "and 2 classes"),
        ({"cond": torch.full((6, 3), torch.nan)}, "finite numbers"),
        ({"x": torch.full((6, 2), 200, dtype=torch.uint8), "levels": 200}, "row 0 .* not an integer in 0 to 199"),
        ({"cond": torch.zeros(5, dtype=torch.int64)}, r"6 examples need shape \(6,\)"),
        ({"cond": None, "classes": 3}, "there are no labels"),
        ({"levels": 1}, "at least 2 values"),
        ({"levels": 11}, "row 5 .* not an integer in 0 to 10"),
        ({"x": torch.full((6, 2), 0.5), "levels": 4}, "row 0 .* leave levels out"),
        ({"class_names": ["a"]}, "1 names for 3 classes"),
    ],
)
def test_bad_content_is_refused(changes, message):
    with pytest.raises(DataError, match=message):
        small(**changes)


@pytest.mark.parametrize("n", [0, 7])
def test_taking_none_or_too_many_is_refused(n):
    with pytest.raises(UserError, match=f"n is {n}, but small has 6 examples"):
        small().take(n)


@pytest.mark.parametrize("kind", ["labels", "none", "pairs", "unlabelled pairs"])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_plain_loader_gives_what_keep_batch_gives(kind, workers):
    x, cond = torch.randn(10, 3), torch.arange(10) % 2
    data = {
        "labels": Dataset("points", x, cond),
        "none": Dataset("points", x),
        "pairs": Pairs(x, cond, x + 1),
        "unlabelled pairs": Pairs(x, None, x + 1),
    }[kind]
    plain = list(DataLoader(data, batch_size=4, num_workers=workers))
    for batch, own in zip(plain, DataLoader(data, batch_size=4, collate_fn=keep_batch), strict=True):
        assert len(batch) == len(own)
        for one, other in zip(batch, own, strict=True):
            assert one is other is None or torch.equal(one, other)


def test_arrays_of_numpy_are_as_good_as_tensors():
    x = numpy.random.default_rng(0).standard_normal((6, 2))
    for given in (x, x[::-1], x.astype(">f4"), x.astype(numpy.longdouble), numpy.broadcast_to(x[:1], (6, 2))):
        held = Dataset("points", given, numpy.array([0, 1, 2, 0, 1, 2]))
        assert torch.equal(held.x, torch.from_numpy(given.astype(numpy.float32)))
        assert held.classes == 3
    for bad, message in (([[0.0]], "x is a list"), (x.astype(str), "x has dtype <U"), (x.astype(object), "x has dtype object")):
        with pytest.raises(DataError, match=message):
            Dataset("points", bad)
