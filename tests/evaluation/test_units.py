"""Units of likelihoods and distances: by hand for Gaussians, and independent of the units of a table's columns."""

import math

import numpy
import pytest
import torch

import pushforward as pf
from pushforward.column import Column
from pushforward.data.dataset import Dataset
from pushforward.evaluation.units import BITS, DATA, NATS, STANDARDISED, Standardised, distance_unit, likelihood_unit, per_bit
from pushforward.schema import Schema


def drawn(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def set_of(x, *columns, levels=None):
    return Dataset("table", x, schema=Schema(columns) if columns else None, levels=levels)


REAL, WHOLE = Column("a"), Column("b", "integer", low=0, high=3, dequantised=True)
COLOUR = Column("colour", "category", words=("blue", "green", "red"))


@pytest.mark.parametrize(
    ("data", "likelihood", "distance"),
    [
        (set_of(torch.zeros(4, 2)), NATS, DATA),  # points of a plane
        (set_of(torch.zeros(4, 3)), NATS, STANDARDISED),
        (set_of(torch.zeros(4, 1), REAL), NATS, STANDARDISED),
        (set_of(torch.zeros(4, 2), REAL, WHOLE), NATS, STANDARDISED),
        (set_of(torch.zeros(4, 2), WHOLE, COLOUR), BITS, STANDARDISED),
        (set_of(torch.zeros(4, 64), levels=17), BITS, DATA),  # pixels in a row
        (set_of(torch.zeros(4, 1, 2, 2), levels=17), BITS, DATA),
        (set_of(torch.zeros(4, 1, 2, 2)), BITS, DATA),
    ],
)
def test_the_units_follow_from_what_is_continuous_and_what_has_columns(data, likelihood, distance):
    assert (likelihood_unit(data), distance_unit(data)[0]) == (likelihood, distance)


def flow(bijection):
    return pf.families.NormalizingFlow(bijection, pf.bases.Gaussian((3,)))


def test_a_gaussians_likelihood_in_nats_is_the_one_by_hand():
    """-log N(x; 0, I) = |x|^2 / 2 + D/2 log 2 pi; the mean over rows, which the judgement holds in bits per dimension."""
    train, validation, test = (drawn(40, 3, seed) for seed in range(3))
    model = flow(pf.bijections.Scale(3))
    judged = pf.evaluation.judge(model, train, validation, test, samples=40)[0]
    by_hand = float(test.square().sum(1).mean() / 2 + 1.5 * math.log(2 * math.pi))
    assert judged.likelihood_unit == NATS
    assert judged.per_bit * judged.likelihood[0].pooled == pytest.approx(by_hand, rel=1e-5)
    assert judged.likelihood[0].pooled == pytest.approx(by_hand / (3 * math.log(2)), rel=1e-5)
    assert (per_bit(BITS, 3), judged.dimensions) == (1.0, 3)


def test_comparisons_are_of_the_same_rows():
    """The mean of the paired differences is the difference of the means; its error is smaller than that of independent rows."""
    train, validation, test = (3 * drawn(200, 3, seed) for seed in range(3))
    model = flow(pf.bijections.Scale(3))
    judged = pf.evaluation.judge(model, train, validation, test, samples=40)[0]
    own, gaussian = judged.likelihood[0], judged.likelihood[1]
    compared = judged.comparisons[0]
    assert (compared.part, compared.density) == ("pooled", "gaussian")
    assert compared.difference == pytest.approx(own.pooled - gaussian.pooled)
    assert compared.error < math.hypot(own.pooled_error, gaussian.pooled_error)
    assert compared.share > 0.5


def people(n, unit=1.0, words=("blue", "green", "red"), seed=0):
    """A table of a number in this unit, a number with gaps, and a category."""
    random = numpy.random.default_rng(seed)
    x = numpy.stack((unit * random.normal(5, 2, n), random.normal(0, 1, n), random.integers(0, 3, n), random.random(n) < 0.2), 1)
    x[:, 2] = [words.index(("blue", "green", "red")[int(k)]) for k in x[:, 2]]
    gaps = Column("b is missing", "missing", of="b")
    return set_of(torch.tensor(x), REAL, Column("b"), Column("colour", "category", words=words), gaps)


def distances(train, x):
    z = Standardised(train)(x)
    return torch.cdist(z, z, compute_mode="donot_use_mm_for_euclid_dist")


def test_distances_do_not_depend_on_a_columns_unit():
    expected = distances(people(50), people(30, seed=1).x)
    torch.testing.assert_close(distances(people(50, 1000.0), people(30, 1000.0, seed=1).x), expected)


def test_a_judgements_distances_do_not_depend_on_a_columns_unit():
    found = []
    for unit in (1.0, 1000.0):
        scale = torch.tensor([unit, 1.0, 1.0])
        bijection = pf.bijections.Scale(3)
        with torch.no_grad():
            bijection.log_scale.copy_(-scale.log())
        parts = [scale * drawn(60, 3, seed) for seed in (11, 12, 13)]
        found.append(pf.evaluation.judge(flow(bijection), *parts, samples=60)[0])
    assert found[1].distance == pytest.approx(found[0].distance, rel=1e-4)
    assert found[1].closer_to_train == found[0].closer_to_train
    assert list(found[1].neighbours.values()) == pytest.approx(list(found[0].neighbours.values()), rel=1e-3)
    assert found[0].distance_unit == STANDARDISED


def test_distances_do_not_depend_on_the_order_of_words():
    order = ("red", "blue", "green")
    torch.testing.assert_close(
        distances(people(50, words=order), people(30, words=order, seed=1).x), distances(people(50), people(30, seed=1).x)
    )


def test_each_column_counts_equally():
    """Independent rows are at mean squared distance 2 in each column; of all pairs (n - 1) / n of it, as a row is at 0 from itself."""
    train = people(200)
    squared = distances(train, train.x).square().mean()
    filled = train.x[:, 3] > 0
    z = Standardised(train)(train.x)[:, 1]
    assert bool((z[filled] == 0).all())  # the mean, whatever value fills the gap
    assert float(z[~filled].var(correction=0)) == pytest.approx(1.0, rel=1e-5)
    assert float(squared) == pytest.approx(2 * (3 + float((~filled).double().mean())), rel=1e-4)


def test_the_value_that_fills_a_gap_counts_for_nothing():
    train, x = people(50), people(30, seed=1).x
    other = torch.where((x[:, 3] > 0)[:, None] & (torch.arange(4) == 1), 1e6, x)
    torch.testing.assert_close(Standardised(train)(other), Standardised(train)(x))


@pytest.mark.parametrize(("constant", "scale"), [(0.0, 1.0), (5.0, 5.0), (-0.1, 0.1)])
def test_constant_columns_have_a_finite_scale(constant, scale):
    train = set_of(torch.full((7, 1), constant), REAL)
    z = Standardised(train)(torch.tensor([[constant], [constant + 1.0]]))
    torch.testing.assert_close(z, torch.tensor([[0.0], [1.0 / scale]]))


def test_many_words_share_a_coordinate_after_the_most_frequent_ones():
    words = tuple(f"word {k}" for k in range(300))
    train = set_of(torch.arange(300.0).repeat(2)[:, None], Column("a", "category", words=words))
    assert Standardised(train)(train.x).shape == (600, 100)
