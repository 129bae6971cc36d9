"""Rows that count by their weights, rows with missing values, and outliers by typicality."""

import math

import numpy
import pandas
import pytest
import torch
from posteriors import conditioned, gaussian_model
from scipy.stats import kstest, norm

import pushforward as pf
from pushforward.data.raw import Raw
from pushforward.errors import NotInvertibleError, UserError
from pushforward.estimators.flow_density import FlowDensity
from pushforward.estimators.flow_sampler import FlowSampler
from pushforward.estimators.stacking import Stacked, stacking_weights
from pushforward.estimators.weights import Weighted, counted, repeated
from pushforward.evaluation.gaussians import GaussianSum
from pushforward.models.flow_matching import flow_matching
from pushforward.models.maf import maf
from pushforward.models.meanflow import meanflow
from pushforward.models.shortcut import shortcut
from pushforward.nn.mlp import MLP

TINY = {"layers": 1, "hidden": (8,)}


def density(**options):
    return FlowDensity(**{"max_steps": 5, "ensemble": 1, "gaussians": False, "preset_options": TINY, "random_state": 0} | options)


def normal(n=60, d=3, seed=0):
    return numpy.random.RandomState(seed).normal(size=(n, d))


def known(one, weights, means, covariances):
    """Replace what was fitted by a mixture of Gaussians, given in the units of the table."""
    centre, scale = one.reader_.centre, one.reader_.scale
    means = torch.stack([torch.from_numpy((one - centre) / scale) for one in means])
    covariances = torch.stack([torch.from_numpy(one / scale[:, None] / scale) for one in map(numpy.asarray, covariances)])
    mixture = GaussianSum(torch.tensor(weights, dtype=torch.float64), means, covariances)
    one.density_ = Stacked({"gaussian_mixture": [mixture]}, {"gaussian_mixture": 1.0})
    return one


# Weights.


@pytest.mark.parametrize(
    "make",
    [
        lambda: maf(shape=(2,), **TINY),
        lambda: flow_matching(MLP.Config((8,)), shape=(2,)),
        lambda: meanflow(MLP.Config((8,)), shape=(2,)),
    ],
)
def test_a_weighted_loss_is_the_mean_of_each_row_s_loss_times_its_weight(make):
    """A row's own loss is that of the batch by weights that are 0 for all others: the loss is linear in the weights."""
    torch.manual_seed(0)
    model = make().eval()
    weighted, x = Weighted(model), torch.randn(5, 2)
    weighted.initialise(torch.cat((x, torch.ones(5, 1)), 1))

    @torch.no_grad()
    def own(w):
        return weighted(torch.cat((x, w[:, None]), 1), generator=torch.Generator().manual_seed(1))

    assert float(own(torch.ones(5))) == pytest.approx(model.loss(x, generator=torch.Generator().manual_seed(1)).item(), rel=1e-6)
    w = torch.tensor([0.0, 0.5, 1.0, 2.0, 3.5])
    each = torch.stack([own(torch.eye(5)[k]) for k in range(5)])
    torch.testing.assert_close(own(w), (w * each).sum(), rtol=1e-5, atol=1e-6)
    assert model.row_weights is None


def test_a_weight_of_two_is_the_row_twice_in_the_loss_of_a_flow():
    model = maf(shape=(2,), **TINY)
    x, w = torch.randn(4, 2), torch.tensor([2.0, 1.0, 1.0, 1.0])
    twice = model.loss(torch.cat((x[:1], x)))
    torch.testing.assert_close(Weighted(model)(torch.cat((x, w[:, None]), 1)) * 4 / 5, twice)


def test_a_loss_with_averaged_weights_has_no_weighted_form():
    with pytest.raises(UserError, match="sample_weight is given, but the loss of this preset uses averaged weights"):
        Weighted(shortcut(MLP.Config((8,)), shape=(2,)))


def test_weights_are_rows_repeated_or_left_out():
    """Equal to the last bit, as copies of rows of real numbers are taken together: also in what is held out, and the offset."""
    x, w = normal(60), numpy.random.RandomState(1).randint(0, 3, 60)
    options = {"gaussians": True, "ensemble": 1, "max_steps": 3}
    weighted, copied = density(**options).fit(x, sample_weight=w), density(**options).fit(x.repeat(w, 0))
    numpy.testing.assert_array_equal(weighted.decision_function(x), copied.decision_function(x))
    assert weighted.held_out_score_ == copied.held_out_score_
    plain = density(**options).fit(x)
    numpy.testing.assert_array_equal(density(**options).fit(x, sample_weight=[3] * 60).score_samples(x), plain.score_samples(x))
    assert (plain.score_samples(x) != weighted.score_samples(x)).any()
    large = density(**options).fit(x, sample_weight=w * 2.0**1021)  # whose sum is infinite
    numpy.testing.assert_allclose(large.score_samples(x), weighted.score_samples(x), rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("make", [lambda **o: FlowDensity(ensemble=1, **o), lambda **o: FlowSampler("rectified_flow", **o)])
def test_a_density_follows_the_weights(make):
    """Two clusters at -3 and 3 whose weights are 1 and 9: 90 % of the samples are of the second, to four standard errors and the fit."""
    x = normal(400, 2) * 0.5 + numpy.repeat([-3.0, 3.0], 200)[:, None]
    one = make(max_steps=150, random_state=0, learning_rate=5e-3).fit(x, sample_weight=numpy.repeat([0.5, 4.5], 200))
    assert (one.sample(2000, 0)[:, 0] > 0).mean() == pytest.approx(0.9, abs=0.06)


def test_classes_are_drawn_by_weights():
    y = numpy.array(["a", "b"] * 30)
    one = density(condition="y").fit(normal(), y, sample_weight=numpy.where(y == "a", 3.0, 1.0))
    assert one.conditions_.frequencies == pytest.approx((0.75, 0.25))


def test_copies_are_taken_together_only_where_rows_cannot_be_equal_by_chance():
    x = normal(30, 2)
    copied = [Raw("a", x[:, 0].repeat(2)), Raw("b", x[:, 1].repeat(2))]
    rows, weights = counted(copied, None, 10)
    assert (rows.tolist(), weights) == (list(range(0, 60, 2)), None)
    for raws in (
        [Raw("die", numpy.arange(60) % 6 * 1.0), Raw("other", numpy.arange(60) % 3 * 1.0)],
        [Raw("rounded", (x[:, 0].repeat(2) * 2).round() / 2), Raw("other", numpy.zeros(60) + 0.5)],
        [Raw("alone", x[:, 0].repeat(2))],
    ):
        assert len(counted(raws, None, 10)[0]) == 60


def test_repeated_rows_have_the_shares_of_their_weights():
    assert numpy.bincount(repeated(numpy.array([1.0, 0.0, 2.0, 1.0]), 400)).tolist() == [100, 0, 200, 100]
    log_densities = torch.randn(30, 3, generator=torch.Generator().manual_seed(0))
    counts = torch.arange(30) % 3
    torch.testing.assert_close(stacking_weights(log_densities, counts), stacking_weights(log_densities.repeat_interleave(counts, 0)))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0] * 5, "sample_weight has shape (5,), but X has 60 rows"),
        (numpy.ones((60, 2)), "sample_weight has shape (60, 2)"),
        ([-1.0] + [1.0] * 59, "sample_weight is -1.0 in row 0"),
        ([math.nan] + [1.0] * 59, "sample_weight is nan in row 0"),
        ([0.0] * 60, "every sample_weight is zero"),
        ([1.0] * 59 + [1e300], "sample_weight 1e+300 in row 59 makes 60 rows count as 1.00 (sum(w)^2 / sum(w^2))"),
        (["heavy"] * 60, "sample_weight holds values that are no numbers"),
        ([1 + 1j] * 60, "sample_weight holds values that are no numbers"),
        ("heavy", "sample_weight is 'heavy', but it is one number"),
        ([0.0] * 55 + [1.0] * 5, "X has 60 samples (5 are used)"),
    ],
)
def test_weights_that_are_none_are_refused(weights, message):
    with pytest.raises(ValueError) as caught:
        density().fit(normal(), sample_weight=weights)
    assert message in str(caught.value)


# Missing values.


def test_imputed_cells_follow_the_exact_conditional_of_a_gaussian():
    S, m = numpy.array([[4, 1.2, 0.5], [1.2, 1, 0.3], [0.5, 0.3, 2]]), numpy.array([10, -3, 1.0])
    one = known(density(max_steps=1).fit(normal() * 3 + m), [1.0], [m], [S])
    x = numpy.tile([[12.0, numpy.nan, 2.0]], (800, 1))
    made = one.impute(x, random_state=1)
    slope = numpy.linalg.solve(S[::2, ::2], S[::2, 1])
    mean, variance = m[1] + slope @ ([12 - m[0], 2 - m[2]]), S[1, 1] - slope @ S[::2, 1]
    assert kstest(made[:, 1], norm(mean, math.sqrt(variance)).cdf).pvalue > 1e-3
    numpy.testing.assert_array_equal(made[:, ::2], x[:, ::2])
    numpy.testing.assert_array_equal(one.impute(x[:3], random_state=1), one.impute(x[:3], random_state=1))


def test_imputed_cells_of_two_modes_are_in_each_by_its_probability():
    """Given a = 0, b is at -4 or 4 by the density of a in each: 0.7 N(0; -1, 1) to 0.3 N(0; 1, 1), so that 70 % are at -4."""
    one = known(density(max_steps=1).fit(normal(60, 2) * 4), [0.7, 0.3], [[-1.0, -4.0], [1.0, 4.0]], [numpy.eye(2)] * 2)
    made = one.impute(numpy.tile([[0.0, numpy.nan]], (800, 1)), random_state=0)
    assert (made[:, 1] < 0).mean() == pytest.approx(0.7, abs=4 * math.sqrt(0.21 / 800))
    assert numpy.abs(made[:, 1]).mean() == pytest.approx(4, abs=4 / math.sqrt(800))


def test_a_row_of_nothing_is_a_sample():
    one = known(density(max_steps=1).fit(normal(60, 2) * 4), [1.0], [[5.0, -1.0]], [[[4.0, 1.0], [1.0, 1.0]]])
    made = one.impute(numpy.full((800, 2), numpy.nan), random_state=0)
    numpy.testing.assert_allclose(made.mean(0), [5, -1], atol=4 * 2 / math.sqrt(800))
    numpy.testing.assert_allclose(numpy.cov(made.T), [[4, 1], [1, 1]], atol=0.5)


def table(n=90):
    random = numpy.random.RandomState(0)
    x = pandas.DataFrame(
        {
            "income": random.lognormal(10, 1, n),
            "age": pandas.array(random.randint(18, 90, n), dtype="Int64"),
            "colour": random.choice(["red", "blue", "green"], n),
            "size": random.normal(size=n).astype("float32"),
        },
        index=range(5, 5 + n),
    )
    holes = x.copy()
    for k, name in enumerate(x):
        holes.loc[x.index[k :: 5 + k], name] = None
    return x, holes


@pytest.mark.parametrize("missing", [pytest.param("refuse", marks=pytest.mark.slow), pytest.param("drop", marks=pytest.mark.slow), "model"])
def test_tables_of_all_types_are_filled_in(missing):
    x, holes = table()
    one = density(missing=missing, gaussians=True, max_steps=20).fit(x if missing == "refuse" else holes)
    made = one.impute(holes, random_state=0)
    assert not made.isna().any().any()
    assert made.index.equals(x.index)
    assert made.dtypes.to_dict() == holes.dtypes.to_dict()
    assert made.where(holes.notna()).equals(holes.where(holes.notna()))
    assert set(made["colour"]) <= {"red", "blue", "green"}
    assert made["income"].min() >= 0
    assert made["age"].between(18, 90).all()
    assert numpy.isfinite(one.score_samples(made)).all()
    pandas.testing.assert_frame_equal(one.impute(x), x)


def test_words_drawn_beyond_the_cells_are_not_missing_again():
    """Gaussians have mass beyond the cells, where a draw becomes the outermost word, here the one for a missing value."""
    x = pandas.DataFrame({"size": normal(60)[:, 0], "colour": ["red", "blue", None] * 20})
    one = known(density(missing="model").fit(x), [1.0], [numpy.array([0.0, 3.2])], [numpy.eye(2)])
    made = one.impute(pandas.DataFrame({"size": [0.0] * 50, "colour": [None] * 50}), random_state=0)
    assert set(made["colour"]) == {"red", "blue"}


@pytest.mark.parametrize("make", [lambda: density(missing="drop"), lambda: FlowSampler(max_steps=2, missing="drop", random_state=0)])
def test_a_category_that_the_table_lacks_is_added_where_it_is_drawn(make):
    x = pandas.DataFrame({"size": normal(60)[:, 0], "kind": pandas.Categorical(["cat", "dog"] * 30)})
    holes = pandas.DataFrame({"size": 0.0, "kind": pandas.Categorical(["cat"] + [None] * 19, categories=["bird", "cat"])})
    made = make().fit(x).impute(holes, random_state=0)
    assert set(made["kind"]) == {"cat", "dog"}
    assert list(made["kind"].cat.categories) == ["bird", "cat", "dog"]


@pytest.mark.parametrize(("type_", "scale", "wider"), [("Int8", 1000, "Int64"), ("UInt8", -100, "Int64"), ("float16", 1e6, "float64")])
def test_a_type_that_is_too_small_for_what_is_drawn_is_replaced(type_, scale, wider):
    numbers = scale * numpy.random.RandomState(0).randint(1, 9, 60)
    one = density(missing="drop").fit(pandas.DataFrame({"size": normal(60)[:, 0], "count": numbers}))
    holes = pandas.DataFrame({"size": 0.0, "count": pandas.array([None] * 9 + [3], dtype=type_)})
    made = one.impute(holes, random_state=0)
    assert str(made["count"].dtype) == wider
    assert made["count"].iloc[9] == 3
    assert numpy.isfinite(made["count"].to_numpy(dtype=float)).all()


def test_cells_are_filled_in_given_a_class():
    x, y = normal(200, 2), numpy.array(["low", "high"] * 100)
    x[:, 1] = x[:, 0] + 20 * (y == "high")
    one = FlowDensity(condition="y", max_steps=20, ensemble=1, random_state=0).fit(x, y)
    made = one.impute([[0.0, numpy.nan]] * 20, ["low", "high"] * 10, random_state=0)
    assert made[1::2, 1].min() > 10 > made[::2, 1].max()


def test_rows_with_missing_values_are_left_out_of_a_fit_with_their_conditions_and_weights():
    x, y, w = normal(80), numpy.arange(80) % 2 * 1.0, numpy.linspace(1, 2, 80)
    holes, gaps = x.copy(), numpy.arange(80) % 4 == 0
    holes[gaps, 1] = numpy.nan
    y[1] = numpy.nan
    kept = ~gaps & ~numpy.isnan(y)
    dropped = density(missing="drop", condition="y", contamination=0.1).fit(holes, y, sample_weight=w)
    plain = density(condition="y", contamination=0.1).fit(x[kept], y[kept], sample_weight=w[kept])
    numpy.testing.assert_array_equal(dropped.score_samples(x[kept], y[kept]), plain.score_samples(x[kept], y[kept]))
    assert dropped.offset_ == plain.offset_
    for call in (dropped.score_samples, dropped.predict):
        with pytest.raises(ValueError, match="NaN"):
            call(holes, y)
    frame = pandas.DataFrame(holes, columns=list("abc"))
    with pytest.raises(ValueError, match="column 'b' is missing in row 0 .counted from 0., but missing='drop' leaves such rows out"):
        density(missing="drop").fit(frame).score_samples(frame)
    with pytest.raises(ValueError, match=r"X has 12 samples \(9 are used\)"):
        density(missing="drop").fit(holes[:12])


def test_a_sampler_fills_in_by_the_exact_conditional_of_a_gaussian():
    """Columns in units of 1 and 1000, which the reader standardises; the network is that of perfect training."""
    units, S = numpy.array([1.0, 1000.0, 5.0]), torch.tensor([[1.0, 0.7, -0.4], [0.7, 1.0, 0.1], [-0.4, 0.1, 1.0]])
    one = FlowSampler("rectified_flow", max_steps=1, random_state=0).fit(normal(200) * units + 3 * units)
    exact = gaussian_model(torch.zeros(3).double(), S.double(), pf.paths.Linear()).double()
    exact.schema = one.model_.schema
    one.model_ = exact
    x = numpy.tile([[one.reader_.centre[0] + one.reader_.scale[0], numpy.nan, numpy.nan]], (1000, 1))
    z = (one.impute(x, random_state=1) - one.reader_.centre) / one.reader_.scale
    mean, spread = conditioned(torch.zeros(3), S, torch.tensor([[1.0, 0.0, 0.0]]), 0.0, torch.tensor([1.0]))
    numpy.testing.assert_allclose(z[:, 0], 1, atol=1e-9)
    numpy.testing.assert_allclose(z.mean(0)[1:], mean[1:], atol=0.1)
    numpy.testing.assert_allclose(numpy.cov(z.T)[1:, 1:], spread[1:, 1:], atol=0.15)
    numpy.testing.assert_array_equal(one.impute(x[:3], random_state=1), one.impute(x[:3], random_state=1))


def test_a_sampler_fills_in_tables_of_all_types():
    x, holes = table()
    one = FlowSampler("rectified_flow", missing="model", max_steps=20, random_state=0).fit(holes)
    made = one.impute(holes, random_state=0, sampler=pf.samplers.EulerMaruyama(10))
    assert not made.isna().any().any()
    assert made.dtypes.to_dict() == holes.dtypes.to_dict()
    assert made.index.equals(x.index)
    assert made.where(holes.notna()).equals(holes.where(holes.notna()))
    assert set(made["colour"]) <= {"red", "blue", "green"}
    assert made["income"].min() >= 0
    pandas.testing.assert_frame_equal(one.impute(x), x)


def test_a_sampler_fills_in_given_a_class():
    x, y = normal(100, 2), numpy.array(["low", "high"] * 50)
    x[:, 1] = x[:, 0] + 20 * (y == "high")
    one = FlowSampler("rectified_flow", condition="y", max_steps=100, random_state=0).fit(x, y)
    made = one.impute([[0.0, numpy.nan]] * 20, ["low", "high"] * 10, random_state=0)
    assert made[1::2, 1].mean() > 10 > made[::2, 1].mean()
    with pytest.raises(ValueError, match="y is None, but condition='y'"):
        one.impute([[0.0, numpy.nan]])


def test_a_sampler_without_a_path_fills_in_nothing():
    one = FlowSampler("maf", max_steps=1, random_state=0).fit(normal(60))
    with pytest.raises(NotInvertibleError, match="preset is 'maf', whose model is not on a path"):
        one.impute([[0.0, numpy.nan, 1.0]])
    with pytest.raises(ValueError, match="noise is -1"):
        FlowSampler("rectified_flow", max_steps=1, random_state=0).fit(normal(60)).impute([[0.0, numpy.nan, 1.0]], noise=-1)


def test_what_cannot_be_filled_in_is_refused():
    one = density().fit(numpy.exp(normal()))
    with pytest.raises(ValueError, match=r"what is known of row 0 .* \(x0, x2\) has density 0"):
        one.impute([[-1e9, numpy.nan, 1.0]])
    with pytest.raises(ValueError, match="Input X contains infinity"):
        one.impute([[numpy.inf, numpy.nan, 1.0]])
    given = density(condition=[0]).fit(normal())
    with pytest.raises(ValueError, match="column 'x0' is missing in row 0"):
        given.impute([[numpy.nan, 0.0, 1.0]])
    with pytest.raises(ValueError, match="y is None, but condition='y'"):
        density(condition="y").fit(normal(), numpy.arange(60) % 2).impute([[numpy.nan, 0.0, 1.0]])


# Typicality.


def test_the_most_likely_row_of_many_columns_is_no_outlier_by_likelihood_and_one_by_typicality():
    """N(0, I) in 50 dimensions: 0 has the highest density of all, and no sample is near it."""
    x = normal(300, 50)
    one = FlowDensity(ensemble=1, max_steps=2, random_state=0, contamination=0.02).fit(x)
    odd = FlowDensity(ensemble=1, max_steps=2, random_state=0, contamination=0.02, outliers="typicality").fit(x)
    mode, far = numpy.zeros((1, 50)), numpy.full((1, 50), 9.0)
    assert (one.predict(mode), one.predict(far), odd.predict(mode), odd.predict(far)) == (1, -1, -1, -1)
    assert (odd.predict(x) == -1).mean() == pytest.approx(0.02, abs=0.01)
    assert odd.entropy_ == -odd.held_out_score_
    numpy.testing.assert_allclose(odd.decision_function(x), -numpy.abs(odd.score_samples(x) + odd.entropy_) - odd.offset_, rtol=1e-12)


def test_another_score_is_refused():
    with pytest.raises(ValueError, match="outliers: 'typical' is not a known score; did you mean 'typicality'"):
        density(outliers="typical").fit(normal())


def test_a_column_without_any_value_is_missing_in_either_form():
    frame = pandas.DataFrame(normal(d=2), columns=["a", "b"])
    frame.loc[::5, "b"] = numpy.nan
    one = density(missing="model", preset="maf").fit(frame)
    rows = [pandas.DataFrame({"a": [0.0, 1.0], "b": [gap, gap]}) for gap in (numpy.nan, None)]
    assert numpy.array_equal(*(one.score_samples(row) for row in rows))
