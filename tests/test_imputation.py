"""Missing cells of a table: drawn as the conditional distribution of a known one, in the frame's own form; and what is refused."""

import numpy
import pandas
import pytest
import torch
from posteriors import conditioned, gaussian_model

import pushforward as pf
from pushforward.bijections.chain import Chain
from pushforward.bijections.table_units import TableUnits
from pushforward.bijections.whiten import Whiten
from pushforward.data import Column, Schema
from pushforward.errors import DataError, NotInvertibleError, UserError
from pushforward.samplers import Euler, Heun

COVARIANCE = torch.tensor([[1.0, 0.7, -0.4], [0.7, 1.0, 0.1], [-0.4, 0.1, 1.0]], dtype=torch.float64)
SCHEMA = Schema((Column("a"), Column("b", scale="log", lower=0.0), Column("c")))


@pytest.fixture
def model(float64):
    """Standardised columns are a correlated Gaussian; a has mean 5 and deviation 2, b is log-normal."""
    units = TableUnits(SCHEMA.columns)
    units.mean, units.std = torch.tensor([5.0, 0.5, -1.0]), torch.tensor([2.0, 0.3, 10.0])
    made = gaussian_model(torch.zeros(3), COVARIANCE, pf.paths.Linear(), preprocess=units)
    made.schema = SCHEMA
    return made


def seed(k=0):
    return torch.Generator().manual_seed(k)


@pytest.mark.parametrize(("sampler", "off"), [(None, 0.09), (Heun(40), 0.05)])
def test_imputed_mean_and_spread_are_the_conditional_ones(model, sampler, off):
    """a = 7 is one deviation above its mean: b and c given it, on their own scales; 4,000 rows, standard errors below 0.02."""
    n = 4000
    filled = pf.impute(
        model, pandas.DataFrame({"a": 7.0, "b": numpy.full(n, numpy.nan), "c": numpy.nan}), sampler=sampler, generator=seed()
    )
    mean, spread = conditioned(torch.zeros(3), COVARIANCE, torch.tensor([[1.0, 0.0, 0.0]]), 0.0, torch.tensor([1.0]))
    found = torch.stack([torch.tensor((numpy.log(filled["b"]) - 0.5) / 0.3), torch.tensor((filled["c"] + 1) / 10)])
    torch.testing.assert_close(found.mean(1), mean[1:], rtol=0, atol=0.05)
    torch.testing.assert_close(torch.cov(found), spread[1:, 1:], rtol=0, atol=off)
    assert (filled["a"] == 7).all()


@pytest.mark.parametrize("path", [pf.paths.Heat(), pf.paths.VariancePreserving(), pf.paths.VarianceExploding()], ids=repr)
def test_the_default_sampler_reaches_the_data_on_every_path(float64, path):
    model = gaussian_model(torch.zeros(2), COVARIANCE[:2, :2], path)
    model.schema = Schema((Column("a"), Column("b")))
    filled = pf.impute(model, pandas.DataFrame({"a": 1.5, "b": numpy.full(2000, numpy.nan)}), generator=seed())
    assert float(filled["b"].mean()) == pytest.approx(0.7 * 1.5, abs=0.1)
    assert float(filled["b"].std()) == pytest.approx((1 - 0.7**2) ** 0.5, rel=0.15)


@pytest.mark.parametrize("apart", [False, True])
def test_units_that_mix_columns_have_the_same_conditional_distribution(float64, apart):
    units = Whiten(3) if not apart else Chain([TableUnits([Column(name) for name in "abc"]), Whiten(3)])
    x = torch.distributions.MultivariateNormal(torch.tensor([1.0, 2.0, 3.0]), 4 * COVARIANCE).sample((20_000,))
    units.initialise(x)
    model = gaussian_model(torch.zeros(3), torch.eye(3), pf.paths.Linear(), preprocess=units)
    model.schema = Schema((Column("a"), Column("b"), Column("c")))
    filled = pf.impute(model, pandas.DataFrame({"a": 3.0, "b": numpy.full(3000, numpy.nan), "c": 3.0}), generator=seed())
    rows = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    mean, spread = conditioned(x.mean(0), torch.cov(x.T), rows, 0.0, torch.tensor([3.0, 3.0]))
    assert float(filled["b"].mean()) == pytest.approx(float(mean[1]), abs=0.08)
    assert float(filled["b"].var()) == pytest.approx(float(spread[1, 1]), rel=0.1)


def test_rows_with_different_gaps_are_filled_together_and_known_cells_stay(model):
    frame = pandas.DataFrame(
        {"note": ["x", "y", "z", "w"], "c": [1.0, None, None, 4.0], "a": [None, 5.5, None, 4.0], "b": [2.0, 1.0, None, 1.5]},
        index=[10, 20, 30, 40],
    )
    filled = pf.impute(model, frame, generator=seed())
    assert list(filled.columns) == ["note", "c", "a", "b"]
    assert list(filled.index) == [10, 20, 30, 40]
    assert not filled.isna().any().any()
    assert (filled["b"] > 0).all()
    known = frame.notna()
    assert filled.where(known).equals(frame.where(known))
    assert frame.isna().sum().sum() == 5  # the user's own is not written
    assert filled.equals(pf.impute(model, frame, generator=seed()))
    pandas.testing.assert_frame_equal(pf.impute(model, frame, generator=seed(), batch_size=2), filled)
    complete = frame.loc[[40]]
    assert pf.impute(model, complete).equals(complete)


def test_words_integers_labels_and_marks_of_missing_values_keep_their_kind():
    """A small model trained on rows where the word fixes the number: colours and counts follow each other."""
    rng = numpy.random.RandomState(0)
    colours = rng.choice(["blue", "red"], 600)
    table = pandas.DataFrame(
        {
            "colour": numpy.where(rng.rand(600) < 0.1, None, colours),
            "count": numpy.where(colours == "red", 8, 2) + rng.randint(0, 2, 600),
            "size": numpy.where(rng.rand(600) < 0.2, numpy.nan, rng.randn(600)),
            "kind": rng.choice(["p", "q"], 600),
        }
    )
    data = pf.data.load(table, label="kind", missing="model")
    torch.manual_seed(0)
    model = pf.models.flow_matching(pf.nn.MLP.Config((64, 64)), schema=data.schema, drop_cond=0.1)
    model = pf.Trainer(model, data, steps=200, batch_size=256, lr=5e-3).fit().model.eval()
    rows = pandas.DataFrame(
        {
            "colour": ["red"] * 40 + ["blue"] * 40 + [None] * 40,
            "count": pandas.array([None] * 80 + [2] * 40, dtype="Int64"),
            "size": numpy.nan,
            "kind": "p",
        }
    )
    filled = pf.impute(model, rows, generator=seed())
    assert not filled.isna().any().any()
    assert filled["count"].dtype == "Int64"
    assert float(filled["count"][:40].mean()) > float(filled["count"][40:80].mean()) + 2
    assert float((filled["colour"][80:] == "blue").mean()) > 0.7
    assert set(filled["colour"]) <= {"blue", "red"}
    without = pf.impute(model, rows.drop(columns="kind"), generator=seed())
    assert list(without.columns) == ["colour", "count", "size"]


def refused(frame):
    columns = (Column("a", scale="log", lower=0.0), Column("w", "category", words=("x", "y")))
    schema = Schema(columns, Column("y", "category", words=("0", "1")))
    model = pf.models.rectified_flow(lambda x, t, cond: pytest.fail("computed"), schema=schema)
    pf.impute(model, pandas.DataFrame(frame))


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ({"w": ["x"], "y": ["0"]}, "frame has no column 'a', which the model has"),
        ({"a": [1.0], "w": ["z"], "y": ["0"]}, "row 0 (counted from 0), column 'w' is 'z'"),
        ({"a": ["much"], "w": ["x"], "y": ["0"]}, "column 'a' holds words"),
        ({"a": [None, -1.0], "w": ["x", "x"], "y": ["0", "1"]}, "column 'a' is -1, which is beyond the end of its log scale"),
        ({"a": [numpy.inf, None], "w": ["x", "x"], "y": ["0", "1"]}, "row 0 (counted from 0), column 'a' is inf"),
        ({"a": [1.0, None], "w": ["x", "x"], "y": ["0", None]}, "the label 'y' is missing in row 1"),
    ],
)
def test_rows_that_the_model_does_not_know_are_refused(frame, message):
    with pytest.raises(DataError) as caught:
        refused(frame)
    assert message in str(caught.value)


def test_two_columns_of_one_name_are_refused(model):
    frame = pandas.DataFrame([[1.0, 2.0, 3.0, None]], columns=["a", "b", "c", "a"])
    with pytest.raises(DataError, match="frame has two columns 'a', but each needs a name of its own; rename one"):
        pf.impute(model, frame)


def test_models_without_a_table_or_a_path_are_refused(model):
    frame = pandas.DataFrame({"a": [1.0]})
    with pytest.raises(UserError, match="without a table's schema"):
        pf.impute(pf.models.rectified_flow(pf.nn.MLP.Config((8,)), (2,)), frame)
    with pytest.raises(NotInvertibleError, match="no model on a path"):
        pf.impute(pf.models.realnvp(schema=Schema((Column("a"), Column("b")))), frame)
    with pytest.raises(UserError, match="frame is a tensor of shape"):
        pf.impute(model, torch.zeros(1, 3))
    with pytest.raises(UserError, match="here it is one torch.Generator"):
        pf.impute(model, frame, generator=[seed()])


def test_rows_are_filled_in_given_their_condition(float64):
    """The velocity is that of data N(c, 0) on the linear path, (x - c) / t, so that each cell is its row's condition c."""

    def velocity(x, t, cond):
        return (x - cond) / t[:, None].clamp(min=1e-3)

    schema = Schema((Column("a"), Column("b")), given=(Column("c"),), given_places=(0,))
    model = pf.models.rectified_flow(velocity, schema=schema).double()
    frame = pandas.DataFrame({"c": [3.0, -2.0], "a": [numpy.nan] * 2, "b": [numpy.nan] * 2})
    filled = pf.impute(model, frame, sampler=Euler(20), generator=seed())
    numpy.testing.assert_allclose(filled.to_numpy(), [[3] * 3, [-2] * 3], atol=1e-2)
    with pytest.raises(DataError, match="frame has no column 'c', which the model is conditional on"):
        pf.impute(model, frame.drop(columns="c"))
    with pytest.raises(DataError, match=r"column 'c' is missing in row 1 \(counted from 0\)"):
        pf.impute(model, frame.assign(c=[1.0, None]))
