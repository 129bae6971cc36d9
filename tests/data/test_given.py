"""Arrays, tensors and sets of torch, wherever data are taken."""

import numpy
import pandas
import pytest
import scipy.sparse
import torch
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data import Dataset as TorchDataset

import pushforward as pf
from pushforward.data.given import as_dataset
from pushforward.data.load import load
from pushforward.errors import ConditionError, DataError, UserError
from pushforward.evaluation.likelihood import bits_per_dim

X, Y = torch.arange(60.0).reshape(30, 2), torch.arange(30) % 3


class Pictures(TorchDataset):
    """A set as torchvision's are: an array and a number a row."""

    def __len__(self):
        return 30

    def __getitem__(self, k):
        return X[k].numpy(), int(Y[k])


SOURCES = {"TensorDataset": TensorDataset(X, Y), "own": Pictures(), "list": [(X[k], Y[k]) for k in range(30)]}


@pytest.mark.parametrize("name", SOURCES)
def test_a_map_style_set_is_split_like_an_array(name):
    data = load(SOURCES[name], "validation")
    assert torch.equal(data.x, load(X.numpy(), "validation", y=Y.numpy()).x)
    assert (data.classes, len(data)) == (3, 3)
    assert torch.equal(data.cond, (data.x[:, 0] / 2).long() % 3)


@pytest.mark.parametrize("x", [X, X.numpy()], ids=["tensor", "array"])
def test_arrays_have_labels_by_y(x):
    data = load(x, y=["a", "b", "c"] * 10)
    assert data.class_names == ("a", "b", "c")
    assert load(x).cond is None


def test_a_list_of_lists_is_rows_of_numbers():
    assert torch.equal(load(X.tolist()).x, load(X).x)


def test_labels_may_be_a_series_of_words():
    words = pandas.Series(["a", "b", "c"] * 10)
    assert load(X, y=words).class_names == ("a", "b", "c")


def test_a_series_is_a_table_of_one_column():
    data = load(pandas.Series(range(20), name="count"))
    assert (data.columns, data.shape) == (("count",), (1,))


def test_a_set_of_ours_is_split_and_keeps_what_it_knows():
    wine = load("wine")
    part = load(wine, "test")
    assert (len(part), part.schema) == (len(wine) // 10, wine.schema)


@pytest.mark.parametrize("name", SOURCES)
def test_the_trainer_takes_sets_and_loaders(name):
    model = pf.models.realnvp(2, layers=2, hidden=(4,), classes=3)
    for data in (SOURCES[name], DataLoader(SOURCES[name], batch_size=4)):
        assert pf.Trainer(model, data, validation=data, steps=2, batch_size=8).fit().best < float("inf")
        assert bits_per_dim(model, data).per_example.shape == (30,)


def test_the_trainer_takes_rows_of_arrays():
    model = pf.models.realnvp(2, layers=2, hidden=(4,))

    class Rows(Pictures):
        def __getitem__(self, k):
            return X[k].numpy()

    assert pf.Trainer(model, Rows(), steps=1, batch_size=8).fit().step == 1


def test_arrays_take_the_levels_of_the_model():
    model = pf.models.realnvp(2, layers=2, hidden=(4,), levels=60, preprocess="standardise")
    model.initialise(X)
    a, b = (bits_per_dim(model, X, generator=torch.Generator().manual_seed(k)).mean for k in (0, 1))
    assert a != b, "the data are dequantised"


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (7, UserError, "the data are 7, but load takes a name, a path, a DataFrame"),
        (iter([1]), UserError, "load takes a name"),
        (numpy.ma.masked_greater(X.numpy(), 50), DataError, "9 values are masked"),
        ([], DataError, "is empty"),
        ([(X[0], 1), (X[0],)], DataError, "has 2 parts"),
        ([X[0], X[0, :1]], DataError, r"x of example 1 has shape \(1,\), but that of example 0 has \(2,\)"),
        ([("word", 1)] * 20, DataError, "the x of an example is 'word'"),
    ],
)
def test_what_is_no_data_is_refused(data, error, message):
    with pytest.raises(error, match=message):
        load(data)


def test_other_values_are_no_data_set():
    with pytest.raises(UserError, match="data is 3, but it must be a DataFrame, a tensor or array"):
        as_dataset(3)


@pytest.mark.parametrize("condition", [{"classes": 2}, {"cond_features": 3}])
def test_data_without_conditions_do_not_train_a_model_that_needs_some(condition):
    model, x = pf.models.rectified_flow(pf.nn.MLP.Config((4,)), (2,), **condition), torch.randn(8, 2)
    labelled = pf.data.Dataset("points", x, torch.arange(8) % 2 if "classes" in condition else torch.randn(8, 3))
    for data, validation, what in ((x, None, "training"), (labelled, x, "validation")):
        with pytest.raises(ConditionError, match=f"the {what} data has no labels or other conditions, but the model needs"):
            pf.Trainer(model, data, validation=validation, steps=1, batch_size=8)


def test_a_table_of_other_columns_or_words_is_refused():
    frame = pandas.DataFrame({"a": [0.5, 1.5] * 15, "b": ["x", "y", "z"] * 10, "kind": ["cat", "dog"] * 15})
    model = pf.models.nice(schema=load(frame, label="kind").schema, layers=1, hidden=(4,))
    others = {
        "has the columns b, a, but the model was built for a, b": frame[["b", "a", "kind"]],
        "has other words in column 'b' than the model's schema: w, x, y, not x, y, z": frame.replace("z", "w"),
        "has other words in column 'kind'.*: cat, wolf, not cat, dog": frame.replace("dog", "wolf"),
    }
    for message, other in others.items():
        data = load(other, label="kind")
        with pytest.raises(UserError, match=message):
            pf.Trainer(model, data, steps=1, batch_size=8)
        with pytest.raises(UserError, match="has the columns|has other words"):
            pf.evaluation.judge(model, data, data, data, samples=4)
    assert pf.Trainer(model, load(frame, label="kind"), steps=1, batch_size=8).fit().step == 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (torch.eye(20).to_sparse(), "x is a tensor of layout torch.sparse_coo"),
        (torch.empty(20, 2, device="meta"), "x is a tensor on the device meta"),
        (scipy.sparse.eye(20).tocsr(), "the data are a scipy"),
    ],
    ids=["sparse", "meta", "scipy"],
)
def test_arrays_without_plain_values_are_refused(data, message):
    with pytest.raises(UserError, match=message):
        load(data)


@pytest.mark.parametrize("name", ["moons", "spirals"])
@pytest.mark.parametrize("noise", [-0.1, float("nan"), "0.1"])
def test_noise_that_is_none_is_refused(name, noise):
    with pytest.raises(UserError, match="noise is"):
        load(name, noise=noise)
