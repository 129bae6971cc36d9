"""Numbers of tables that float64 or float32 does not hold: refused where rows would lose what distinguishes them."""

import warnings

import numpy
import pandas
import pytest
import torch

from pushforward.data.given import as_dataset
from pushforward.data.load import load
from pushforward.errors import DataError


@pytest.mark.parametrize("values", [2**60 + numpy.arange(50), 2**64 - 1 - numpy.arange(50, dtype="uint64"), [2**70 + k for k in range(50)]])
def test_integers_that_float64_would_merge_are_refused(values, tmp_path):
    frame = pandas.DataFrame({"a": numpy.arange(50) / 7, "id": values})
    path = tmp_path / "ids.csv"
    frame.to_csv(path, index=False)
    for source in (frame, path):
        with pytest.raises(DataError, match=r"column 'id' holds integers beyond 2\^53, such as \d+, some of which are equal in float64"):
            load(source)


def test_large_integers_that_stay_apart_are_read():
    frame = pandas.DataFrame({"a": numpy.arange(50) / 7, "ns": 1_700_000_000 * 10**9 + 10**15 * numpy.arange(50)})
    data = load(frame)
    assert data.schema.columns[1].kind == "continuous"
    assert numpy.isclose(data.schema.frame(data.x)["ns"].max(), frame["ns"].max(), rtol=1e-2)


def test_a_column_below_the_range_of_float32_is_refused():
    """A data set would hold zeros."""
    with pytest.raises(DataError, match=r"column 'b' has values up to 4.9e-59, below the range of float32; multiply it by a constant"):
        load(pandas.DataFrame({"a": numpy.arange(50) / 7, "b": numpy.arange(50) * 1e-60}))


@pytest.mark.parametrize(
    ("values", "first", "remedy"),
    [
        (1.7e9 + numpy.arange(50.0), 1, "subtract 1700000000 from it"),
        (2**30 + numpy.arange(50), 1, "subtract 1073741824 from it"),
        (2**60 + numpy.arange(50), 1, "subtract 1152921504606846976 from it"),
        (numpy.arange(50) * 1e-60, 0, "multiply it by a constant"),
    ],
)
def test_arrays_that_float32_rounds_together_are_warned_of(values, first, remedy, tmp_path):
    """Without a word a model would be trained on a constant."""
    rows = numpy.column_stack((numpy.zeros_like(values), values)) if first else values
    path = tmp_path / "x.npy"
    numpy.save(path, rows)
    message = rf"column {first} \(counted from 0\) has values around .* which float32 rounds to multiples of .*; {remedy} first"
    with pytest.warns(UserWarning, match=message):
        as_dataset(torch.from_numpy(rows.reshape(50, -1)))
    for source in (rows, torch.from_numpy(rows), path):
        with pytest.warns(UserWarning, match=message):
            load(source)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(1000 + numpy.random.default_rng(0).normal(size=(50, 2)))
