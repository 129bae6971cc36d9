"""Precision, recall, density and coverage, and the kernel distance: what they are on sets whose values are known."""

import math

import pytest
import torch

from pushforward import evaluation
from pushforward.errors import DataError, ShapeError, UserError

REAL = torch.tensor([[0.0], [1.0], [2.0], [10.0]])  # radii for k = 1: 1, 1, 1, 8
SAMPLES = torch.tensor([[0.5], [0.6], [30.0]])  # radii 0.1, 0.1, 29.4


def gaussian(n, seed, features=4):
    return torch.randn(n, features, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def all_of(real, samples):
    shares, by_balls = evaluation.precision_recall(real, samples), evaluation.density_coverage(real, samples)
    return torch.tensor([shares.precision, shares.recall, by_balls.density, by_balls.coverage], dtype=torch.float64)


def test_small_sets_have_the_values_found_by_hand():
    """0.5 and 0.6 are in the balls of 0 and 1; that of 10 ends at 2. The ball of 30 ends at 0.6 and holds 1, 2 and 10."""
    found = evaluation.precision_recall(REAL, SAMPLES, k=1)
    assert (found.precision, found.recall) == (2 / 3, 3 / 4)
    balls = evaluation.density_coverage(REAL, SAMPLES, k=1)  # each of the two is in two balls; those of 0 and 1 hold a sample
    assert (balls.density, balls.coverage) == (4 / 3, 2 / 4)


def test_equal_sets_have_one():
    x = gaussian(50, 0)
    assert all_of(x, x[torch.randperm(50)]).tolist() == [1, 1, 1, 1]


def test_collapse_takes_recall_and_coverage_but_not_precision():
    real = gaussian(200, 0)
    made = real[:2].repeat(100, 1)
    precision, recall, density, coverage = all_of(real, made).tolist()
    assert precision == 1
    assert recall == 2 / 200
    assert density > 0.5
    assert coverage < 0.1


def test_samples_far_away_have_zero_and_outliers_do_not_raise_coverage():
    real = gaussian(100, 0)
    assert all_of(real, gaussian(100, 1) + 100).tolist() == [0, 0, 0, 0]
    made = torch.cat((gaussian(4, 1) + 1000, gaussian(4, 2) - 1000))  # balls between the two groups hold all data
    assert evaluation.precision_recall(real, made, k=5).recall == 1  # which is what density and coverage correct
    assert evaluation.density_coverage(real, made).coverage == 0


def test_independent_samples_of_one_distribution_have_the_expected_values():
    """Density is 1 and coverage 1 - 2^-5 = 0.97 on average; over 10 draws of 200 the error of the mean is below 0.02, 5 sigma 0.1."""
    found = torch.stack([all_of(gaussian(200, 2 * k), gaussian(200, 2 * k + 1)) for k in range(10)]).mean(0)
    assert found[2].item() == pytest.approx(1, abs=0.1)
    assert found[3].item() == pytest.approx(1 - 2**-5, abs=0.03)


def test_kernel_distance_is_its_sum_over_pairs():
    x, y = gaussian(5, 0, 3), gaussian(7, 1, 3)

    def mean(a, b, same):
        values = [(float(p @ q) / 3 + 1) ** 3 for i, p in enumerate(a) for j, q in enumerate(b) if not (same and i == j)]
        return math.fsum(values) / len(values)

    expected = mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)
    assert float(evaluation.kernel_distance(x, y)) == pytest.approx(expected, rel=1e-12)


def test_kernel_distance_has_no_bias_at_any_size():
    """Of one distribution the mean over 2,000 pairs of sets of 4 and 6 is 0 within 4 standard errors (false alarms: 6e-5)."""
    draws = torch.stack([evaluation.kernel_distance(gaussian(4, 2 * k, 2), gaussian(6, 2 * k + 1, 2)) for k in range(2000)])
    assert abs(float(draws.mean())) < 4 * float(draws.std()) / math.sqrt(len(draws))
    assert float(draws.min()) < 0 < float(draws.max())
    # x = 0 and y = 1 without spread: 1 + (1 + 1)^3 - 2
    assert float(evaluation.kernel_distance(torch.zeros(3, 2), torch.ones(5, 2))) == 7


def test_order_does_not_matter():
    real, made = gaussian(60, 0), gaussian(40, 1) + 0.3
    shuffled = real[torch.randperm(60)], made[torch.randperm(40)]
    assert all_of(*shuffled).tolist() == all_of(real, made).tolist()
    torch.testing.assert_close(evaluation.kernel_distance(*shuffled), evaluation.kernel_distance(real, made), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("function", [evaluation.precision_recall, evaluation.density_coverage, evaluation.kernel_distance])
def test_sets_that_cannot_be_compared_are_refused(function):
    with pytest.raises(UserError, match="at least"):
        function(gaussian(20, 0), gaussian(1, 1))
    with pytest.raises(ShapeError, match="rows of one shape"):
        function(gaussian(20, 0), gaussian(20, 1, 3))
    with pytest.raises(DataError, match="NaN"):
        function(gaussian(20, 0), gaussian(20, 1) * math.nan)


@pytest.mark.parametrize("function", [evaluation.precision_recall, evaluation.density_coverage])
def test_k_is_at_least_1_and_below_the_size(function):
    with pytest.raises(UserError, match="neighbour 4 need at least 5"):
        function(gaussian(4, 0), gaussian(10, 1), k=4)
    with pytest.raises(UserError, match="k is 0"):
        function(gaussian(4, 0), gaussian(10, 1), k=0)


def test_features_of_the_classifier_are_margins_between_pairs_of_classes():
    from pushforward import data

    train, validation = data.load("digits").take(300), data.load("digits", "validation").take(60)
    judge = evaluation.classifier(train, validation)
    features = judge.features(train.x[:40])
    assert features.shape == (40, 45)
    assert judge.features(train.x[:0]).shape == (0, 45)
    # on its own training data the winner of the votes over pairs of classes is the label
    pairs = [(i, j) for i in range(10) for j in range(i + 1, 10)]
    votes = torch.zeros(40, 10)
    for margin, (i, j) in zip(features.T, pairs, strict=True):
        votes[:, i] += margin > 0
        votes[:, j] += margin <= 0
    assert (votes.argmax(1) == train.cond[:40]).float().mean() > 0.95
    # the margins do not depend on which other rows are asked for
    torch.testing.assert_close(judge.features(train.x[5:7]), features[5:7])
