"""Fashion-MNIST: its splits, its sources, and IDX files that are damaged."""

import gzip
import importlib.util
import struct
import sys

import numpy
import pytest
import torch

from pushforward.data import hub
from pushforward.data.fashion_mnist import CLASSES, DEBIAN, fashion_mnist
from pushforward.data.idx import read_idx
from pushforward.data.load import load
from pushforward.errors import DataError

MODULE = sys.modules["pushforward.data.fashion_mnist"]  # the attribute of that name is the function
installed = pytest.mark.skipif(not DEBIAN.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")


def write_idx(path, array):
    content = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(numpy.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.fixture
def small(tmp_path):
    """Image k is all of the value k, and its class is k % 10; train is gzipped and test is plain."""
    for part, count, suffix in (("train", 120, ".gz"), ("t10k", 20, "")):
        write_idx(tmp_path / f"{part}-images-idx3-ubyte{suffix}", numpy.arange(count)[:, None, None] * numpy.ones((28, 28)))
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte{suffix}", numpy.arange(count) % 10)
    return tmp_path


def test_the_splits_of_files_are_stratified_and_share_none(small):
    parts = {split: load("fashion_mnist", split, path=small) for split in ("train", "validation", "test")}
    values = {split: part.x[:, 0, 0, 0].long() for split, part in parts.items()}
    assert sorted([*values["train"].tolist(), *values["validation"].tolist()]) == list(range(120))
    assert parts["validation"].cond.sort().values.tolist() == list(range(10))
    assert sorted(values["test"].tolist()) == list(range(20))
    assert all(torch.equal(part.cond, values[split] % 10) for split, part in parts.items())
    assert load("fashion_mnist", "test", path=small, seed=1).fingerprint() == parts["test"].fingerprint()
    assert load("fashion_mnist", path=small, seed=1).fingerprint() != parts["train"].fingerprint()


@installed
@pytest.mark.parametrize(("split", "count"), [("train", 55_000), ("validation", 5_000), ("test", 10_000)])
def test_the_official_files(split, count):
    data = fashion_mnist(split)
    assert (len(data), data.shape, data.levels, data.class_names) == (count, (1, 28, 28), 256, CLASSES)
    assert data.cond.bincount().tolist() == [count // 10] * 10


@installed
def test_the_official_test_images_are_the_known_ones():
    """Mean and deviation of all their pixels are 73.1466 and 89.8733 of 255."""
    x = fashion_mnist("test").x.double()
    assert [x.mean().item(), x.std().item()] == pytest.approx([73.1466, 89.8733], abs=1e-4)


def test_where_it_is_nowhere_the_ways_to_get_it_are_said(monkeypatch, tmp_path):
    monkeypatch.setattr(MODULE, "DEBIAN", tmp_path / "none")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"apt-get install dataset-fashion-mnist, give path=FOLDER .* pip install 'pushforward\[data\]'"):
        fashion_mnist("test")


def test_the_hub_is_asked_where_debian_has_it_not(monkeypatch, tmp_path):
    """The Hub itself is not reached here: its table is made by hand."""
    table = {"image": [numpy.full((28, 28), k, numpy.uint8) for k in range(24)], "label": [k % 10 for k in range(24)]}
    monkeypatch.setattr(MODULE, "DEBIAN", tmp_path / "none")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(hub, "load_parts", lambda name: {"train": table, "test": table})
    assert [len(fashion_mnist(split)) for split in ("train", "validation", "test")] == [22, 2, 24]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "begins with nothing, but an IDX file of bytes with 1 axes begins with 00000801"),
        (b"\0\0\x0d\x01" + bytes(8), "begins with 00000d01"),
        (b"\0\0\x08\x03" + bytes(12), "begins with 00000803"),
        (b"\0\0\x08\x01\0\0", "ends within its header"),
        (b"\0\0\x08\x01\0\0\0\x05abc", r"has 3 bytes of data, but its shape \(5,\) needs 5"),
        (gzip.compress(bytes(100), mtime=0)[:-12], "cannot be read .* truncated"),
    ],
)
def test_a_damaged_file_is_refused_by_name(tmp_path, content, message):
    (tmp_path / "labels").write_bytes(content)
    with pytest.raises(DataError, match=f"labels {message}"):
        read_idx(tmp_path / "labels", 1)


def test_files_that_do_not_fit_each_other_or_lack_are_refused(small):
    write_idx(small / "t10k-labels-idx1-ubyte", numpy.zeros(19))
    with pytest.raises(DataError, match="20 images but 19 labels in its files t10k"):
        load("fashion_mnist", "test", path=small)
    (small / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match=r"has no file t10k-labels-idx1-ubyte \(or t10k-labels-idx1-ubyte.gz\)"):
        load("fashion_mnist", "test", path=small)
    with pytest.raises(DataError, match="which is not a folder"):
        load("fashion_mnist", "test", path=small / "none")
