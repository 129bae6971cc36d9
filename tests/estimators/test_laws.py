"""What holds of every density: it integrates to 1, its samples have it, and a row's value depends on that row alone."""

import math

import numpy
import pandas
import pytest
import torch
from sklearn.mixture import GaussianMixture

from pushforward.data.dataset import Dataset
from pushforward.estimators.fitting import held_out_rows
from pushforward.estimators.flow_density import FlowDensity
from pushforward.estimators.reading import Layout
from pushforward.estimators.stacking import stacking_weights
from pushforward.evaluation.baselines import fit_baselines
from pushforward.evaluation.gaussians import ConditionalSum, GaussianSum

SMALL = {"layers": 2, "hidden": (16,), "bins": 4}


def quick(**options):
    return FlowDensity(**{"preset": "nsf", "preset_options": SMALL, "max_steps": 60, "ensemble": 2, "random_state": 0} | options)


def two_bumps(n, seed=0):
    """Rows (n, 2), the first of two bumps far from 0, the second depends on it."""
    random = numpy.random.RandomState(seed)
    first = 1000 + 3 * random.choice([-1.0, 1.0], n) + random.normal(size=n)
    return numpy.column_stack((first, 0.01 * (first - 1000) ** 2 + 0.01 * random.normal(size=n)))


@pytest.fixture(scope="module")
def density():
    return quick(max_steps=40, ensemble=1).fit(two_bumps(300))


def test_a_density_of_one_column_integrates_to_one():
    random = numpy.random.RandomState(0)
    one = quick(gaussians=False, max_steps=20, ensemble=1).fit(numpy.exp(random.normal(size=(200, 1))))
    edges = numpy.geomspace(1e-4, 1e4, 20_001)  # its log scale ends at 0; nearly nothing is below and above these
    middle = numpy.sqrt(edges[1:] * edges[:-1])
    assert (numpy.exp(one.score_samples(middle[:, None])) * numpy.diff(edges)).sum() == pytest.approx(1, abs=0.01)


def test_a_density_of_two_columns_integrates_to_one(density):
    x, y = numpy.linspace(980, 1020, 201), numpy.linspace(-1.5, 2.5, 201)
    grid = numpy.stack(numpy.meshgrid(x, y), -1).reshape(-1, 2)
    assert numpy.exp(density.score_samples(grid)).sum() * 0.2 * 0.02 == pytest.approx(1, abs=0.01)


def test_samples_have_the_density_they_were_drawn_from(density):
    """The share of 4,000 samples in a box is the integral of the density over it, to four standard errors and 1 % of the grid."""
    x = density.sample(4000, random_state=1)
    inside = (numpy.abs(x - [1003, 0.09]) < [2, 0.1]).all(1)
    box = numpy.stack(numpy.meshgrid(numpy.linspace(1001.01, 1004.99, 200), numpy.linspace(-0.0095, 0.1895, 200)), -1).reshape(-1, 2)
    expected = numpy.exp(density.score_samples(box)).mean() * 4 * 0.2
    assert 0.1 < expected < 0.9
    assert inside.mean() == pytest.approx(expected, abs=4 * 0.5 / math.sqrt(4000) + 0.01)


def test_the_log_density_of_a_row_depends_on_that_row_alone(density):
    x = two_bumps(50, seed=2)
    whole, alone = density.score_samples(x), numpy.concatenate([density.score_samples(one[None]) for one in x])
    numpy.testing.assert_allclose(whole, alone, rtol=0, atol=1e-9)


@pytest.mark.slow
def test_units_shift_a_log_density_by_the_logarithm_of_their_factor(density):
    x = two_bumps(300)
    other = quick(max_steps=40, ensemble=1).fit(x * [60.0, 1e-3])
    numpy.testing.assert_allclose(other.score_samples(x * [60.0, 1e-3]), density.score_samples(x) - math.log(0.06), atol=2e-2)


def test_digits_far_behind_the_first_are_kept():
    """Seconds since 1970 with deviations of 1: in float32 they would be multiples of 128."""
    x = 1.7e9 + numpy.random.RandomState(0).normal(size=(200, 2))
    one = quick(max_steps=2, ensemble=1, gaussians=False).fit(x)
    assert one.score_samples(x).mean() == pytest.approx(-math.log(2 * math.pi * math.e), abs=0.6)
    assert one.sample(400, random_state=0).std() == pytest.approx(1, abs=0.2)


def test_the_same_seed_gives_the_same_density_and_the_global_state_is_left_as_it_was():
    x = two_bumps(60)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = quick(max_steps=5, gaussians=False).fit(x)
    assert torch.equal(before, torch.get_rng_state())
    second = quick(max_steps=5, gaussians=False).fit(x)
    numpy.testing.assert_array_equal(first.score_samples(x), second.score_samples(x))
    numpy.testing.assert_array_equal(first.sample(3, random_state=0), second.sample(3, random_state=0))
    other = quick(max_steps=5, gaussians=False, random_state=1).fit(x)
    assert (first.score_samples(x) != other.score_samples(x)).any()


@pytest.mark.slow
def test_a_density_is_no_worse_than_a_mixture_of_gaussians_on_three_of_them():
    """Rows of three Gaussians, for which scikit-learn's mixture of three has the right form: 0.05 nats are sampling error."""
    random = numpy.random.RandomState(0)
    x = random.normal(size=(900, 2)) * 0.3 + random.choice(3, 900)[:, None] * [2.0, -1.0]
    truth = GaussianMixture(3, random_state=0).fit(x[:300]).score(x[300:])
    assert quick(max_steps=20).fit(x[:300]).score(x[300:]) > truth - 0.05


@pytest.mark.slow
def test_integers_have_unit_cells_and_their_scores_are_bounds_of_probabilities():
    """A die: 2 columns, 36 equally likely rows, so that the mean log-probability is -log 36 and no bound is above it by much."""
    x = numpy.random.RandomState(0).randint(1, 7, (500, 2))
    assert quick(max_steps=150).fit(x).score(x) == pytest.approx(-math.log(36), abs=0.25)
    assert set(numpy.unique(quick(max_steps=2).fit(x).sample(100, random_state=0))) <= set(range(1, 7))


def test_held_out_parts_cover_all_rows_once_and_divide_classes_equally():
    cond = torch.tensor([0] * 30 + [1] * 12)
    parts = numpy.stack(held_out_rows(42, 3, 0.5, cond, 0))
    assert (parts.sum(0) == 1).all()
    assert [part[:30].sum() for part in parts] == [10, 10, 10]
    (one,) = held_out_rows(42, 1, 0.25, cond, 0)
    assert one[30:].sum() == 3
    assert [part.sum() for fraction in (0.001, 0.999) for part in held_out_rows(10, 1, fraction, None, 0)] == [1, 9]


def test_weights_of_densities_are_the_shares_of_a_mixture():
    """Rows from 0.7 N(-3, 1) + 0.3 N(3, 1): the densities hardly overlap, so that the weights are the shares, to 2 / sqrt(n)."""
    random = numpy.random.RandomState(0)
    x = torch.from_numpy(numpy.where(random.uniform(size=4000) < 0.7, -3, 3) + random.normal(size=4000))
    log_densities = torch.stack([-((x - mean) ** 2) / 2 for mean in (-3, 3, 40)], 1)
    weights = stacking_weights(log_densities)
    assert weights[0] == pytest.approx(0.7, abs=0.03)
    assert 0 < weights[2] < 1e-3, "the third covers none of the rows, and keeps a weight of one row among them"
    impossible = torch.full((1, 3), -torch.inf)
    torch.testing.assert_close(stacking_weights(torch.cat((log_densities, impossible))), weights)


def test_a_conditional_of_gaussians_is_their_joint_density_over_the_marginal():
    """One Gaussian with covariance [[1, r], [r, 1]]: x given c is N(r c, 1 - r^2)."""
    r = 0.8
    joint = GaussianSum(torch.ones(1), torch.zeros(1, 2, dtype=torch.float64), torch.tensor([[[1, r], [r, 1]]], dtype=torch.float64))
    conditional = ConditionalSum(joint, 1)
    c = torch.full((5000, 1), 1.5, dtype=torch.float64)
    x = conditional.sample(c, torch.Generator().manual_seed(0))
    assert float(x.mean()) == pytest.approx(r * 1.5, abs=4 * 0.6 / math.sqrt(5000))
    assert float(x.std()) == pytest.approx(0.6, abs=0.03)
    expected = torch.distributions.Normal(r * 1.5, 0.6).log_prob(x)[:, 0]
    torch.testing.assert_close(conditional.log_prob(x, c), expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gaussian_mixture", "gaussian_mixture_per_class"])
def test_samples_of_mixtures_have_their_moments(name):
    x = torch.randn(300, 2, generator=torch.Generator().manual_seed(0)) @ torch.tensor([[1.0, 0.5], [0.0, 0.3]])
    labels = (x[:, 0] > 0).long()
    data = Dataset("two", x, labels)
    fit = fit_baselines(data, data, torch.Generator().manual_seed(0), only=[name])[name]
    own = torch.Generator().manual_seed(1)
    drawn = fit.sample(labels.repeat(20), own) if name.endswith("class") else fit.sample(6000, own)
    torch.testing.assert_close(torch.cov(drawn.T), torch.cov(x.double().T), rtol=0.1, atol=0.1)


@pytest.mark.slow
def test_missing_values_are_modelled_and_their_scores_do_not_depend_on_other_rows():
    random = numpy.random.RandomState(0)
    x = random.normal(size=(120, 2))
    x[random.uniform(size=120) < 0.3, 1] = numpy.nan
    one = quick(missing="model", max_steps=40, ensemble=1, gaussians=False).fit(x)
    numpy.testing.assert_allclose(one.score_samples(x)[:7], one.score_samples(x[:7]), atol=1e-9)
    share = numpy.isnan(one.sample(500, random_state=0)[:, 1]).mean()
    assert share == pytest.approx(0.3, abs=0.15)
    frame = pandas.DataFrame(x, columns=["a", "b"])
    assert quick(missing="model", max_steps=2, gaussians=False).fit(frame).sample(50, random_state=0)["b"].isna().any()


@pytest.mark.parametrize("dtype", ["int64", "Int64", "uint8", "int64[pyarrow]"])
def test_samples_of_columns_of_integers_are_the_nearest_ones(dtype):
    """Real numbers of a column that is not dequantised: 2.7 is 3, as 2 would bias each column by a half, and 300 is 255 of uint8."""
    pytest.importorskip("pyarrow")
    layout = Layout(("a",), pandas.Index(["a"]), (pandas.Series([1], dtype=dtype).dtype,))
    found = layout.rows({"a": numpy.array([0.2, 1.5, 2.7, 300.0])})["a"]
    assert str(found.dtype) == dtype
    assert found.tolist() == [0, 2, 3, 255 if dtype == "uint8" else 300]
    if dtype[0] in "I":
        assert layout.rows({"a": numpy.array([0.7, numpy.nan])})["a"].isna().tolist() == [False, True]
