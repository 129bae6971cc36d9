"""Data whose condition is a vector or an image: from files, arrays and sets, in all splits."""

import numpy
import pytest
import torch

import pushforward as pf
from pushforward.errors import DataError

X, VECTORS = numpy.arange(40.0).reshape(20, 2), numpy.arange(60.0).reshape(20, 3)
IMAGES = numpy.arange(20 * 4 * 5, dtype=numpy.uint8).reshape(20, 4, 5)


def parts(source, **options):
    return [pf.data.load(source, split, **options) for split in ("train", "validation", "test")]


def check(sets, expected):
    """Demand that each condition is that of its own example, whose first number is twice its row."""
    for one in sets:
        rows = (one.x[:, 0] / 2).long()
        assert torch.equal(one.cond, torch.as_tensor(expected, dtype=torch.float32)[rows])
        assert one.classes is None
    assert [len(one) for one in sets] == [16, 2, 2]


@pytest.mark.parametrize(
    "y", [VECTORS, IMAGES, IMAGES % 2 == 0, VECTORS.reshape(20, 3, 1, 1)], ids=["vectors", "images", "masks", "floats"]
)
def test_an_archive_an_array_a_folder_and_a_set_hold_conditions(y, tmp_path):
    expected = y[:, None] if y.ndim == 3 else y
    numpy.savez(tmp_path / "a.npz", x=X, y=y)
    (tmp_path / "folder").mkdir()
    numpy.save(tmp_path / "folder" / "x.npy", X)
    numpy.save(tmp_path / "folder" / "y.npy", y)
    check(parts(tmp_path / "a.npz"), expected)
    check(parts(X, y=y), expected)
    check([one.in_memory() for one in parts(tmp_path / "folder")], expected)
    check(parts(torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(expected))), expected)
    found = pf.data.Dataset("own", torch.tensor(X), torch.tensor(expected))
    shape = tuple(expected.shape[1:])
    assert (found.cond_features, found.cond_image) == ((3, None) if y.ndim == 2 else (None, shape))
    assert f"conditions {shape}" in repr(found)


def test_an_archive_that_is_split_already_and_a_table_have_conditions(tmp_path):
    cut = {"train": slice(0, 16), "validation": slice(16, 18), "test": slice(18, 20)}
    arrays = {f"{what}_{name}": values[rows] for name, rows in cut.items() for what, values in (("x", X), ("y", VECTORS))}
    numpy.savez(tmp_path / "a.npz", **arrays)
    check(parts(tmp_path / "a.npz"), VECTORS)
    numpy.savez(tmp_path / "t.npz", x=X, y=VECTORS, columns=numpy.array(["a", "b"]))
    check(parts(tmp_path / "t.npz"), VECTORS)
    assert pf.data.load(tmp_path / "t.npz").columns == ("a", "b")


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (VECTORS[:5], r"cond has shape \(5, 3\) and no classes, but conditions other than labels need \(20, features\) or"),
        (numpy.where(VECTORS > 30, numpy.nan, VECTORS), "finite numbers"),
        (VECTORS.astype(int), r"the labels have shape \(20, 3\), but 20 examples need shape \(20,\); vectors hold real numbers"),
    ],
)
def test_conditions_that_do_not_fit_are_refused(y, message, tmp_path):
    numpy.savez(tmp_path / "a.npz", x=X, y=y)
    with pytest.raises(DataError, match=message):
        pf.data.load(tmp_path / "a.npz")
