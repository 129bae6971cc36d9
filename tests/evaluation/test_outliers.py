"""Scores of outliers: Gaussians whose rates are known, groups, thresholds, and the area under the ROC curve."""

import math

import pytest
import torch
from torch import nn

import pushforward as pf
from pushforward.data.dataset import Dataset
from pushforward.data.mixture import GaussianMixture
from pushforward.errors import DataError, NotInvertibleError, ShapeError, UserError
from pushforward.evaluation import auroc, outlier_detector

D = 40


def seed(number):
    return torch.Generator().manual_seed(number)


def gaussian(std=1.0):
    return GaussianMixture(torch.zeros(1, D, dtype=torch.float64), std)


@pytest.fixture(scope="module")
def detector():
    return outlier_detector(gaussian(), gaussian().sample(4000, generator=seed(0)))


def test_the_entropy_is_that_of_the_gaussian(detector):
    """log2(2 pi e) / 2 bits per dimension; |x|² / d has the deviation sqrt(2 / d), and 4,000 examples a 63rd of it."""
    spread = math.sqrt(2 / D) / (2 * math.log(2))
    assert detector.reference.entropy == pytest.approx(math.log2(2 * math.pi * math.e) / 2, abs=5 * spread / math.sqrt(4000))
    assert float(detector.reference.likelihood.std()) == pytest.approx(spread, rel=0.1)


def test_the_scores_are_those_of_the_squared_norm(detector):
    x = gaussian(2.0).sample(5, generator=seed(1))
    bits = (x.square().mean(1) + math.log(2 * math.pi)) / (2 * math.log(2))
    scores = detector.score(x)
    torch.testing.assert_close(scores.likelihood, bits)
    torch.testing.assert_close(scores.typicality, (bits - detector.reference.entropy).abs())
    torch.testing.assert_close(scores.grouped(2).typicality, (torch.stack((bits[:2].mean(), bits[2:4].mean())) - scores.entropy).abs())


@pytest.mark.parametrize("std", [0.7, 0.9, 1.1])
def test_by_likelihood_a_narrower_gaussian_looks_better_at_a_known_rate(detector, std):
    """The area is P(std² chi²_d > chi²_d) = P(F_(d, d) > 1 / std²); its standard error with 4,000 of each is below 0.007."""
    from scipy.stats import f

    scores = detector.score(gaussian(std).sample(4000, generator=seed(2)))
    own = detector.score(gaussian().sample(4000, generator=seed(3)))
    assert auroc(own.likelihood, scores.likelihood) == pytest.approx(f.sf(1 / std**2, D, D), abs=0.035)
    assert (auroc(own.likelihood, scores.likelihood) < 0.5) == (std < 1)
    assert auroc(own.typicality, scores.typicality) > 0.55
    both = auroc(own.grouped(20).typicality, scores.grouped(20).typicality)
    assert 1 - both < (1 - auroc(own.typicality, scores.typicality)) / 2


@pytest.mark.parametrize(("score", "size"), [("typicality", 1), ("likelihood", 1), ("typicality", 10), ("likelihood", 10)])
def test_thresholds_keep_their_rate_of_false_alarms(detector, score, size):
    """Of 2,000 groups, whose share of 5 % has a standard error of 0.005; the reference adds that of a quantile of 4,000."""
    threshold = detector.threshold(score, size, false_alarms=0.05, generator=seed(4))
    fresh = detector.score(gaussian().sample(2000 * size, generator=seed(5))).grouped(size)
    assert float((getattr(fresh, score) > threshold).double().mean()) == pytest.approx(0.05, abs=0.025)


def test_the_area_is_the_share_of_pairs_in_order():
    inside, outside = (torch.randint(6, (count,), generator=seed(count)).double() for count in (30, 20))
    pairs = outside[:, None] - inside
    assert auroc(inside, outside) == pytest.approx(float((pairs > 0).double().mean() + (pairs == 0).double().mean() / 2), abs=1e-12)
    assert auroc(outside, inside) == pytest.approx(1 - auroc(inside, outside), abs=1e-12)
    assert auroc(torch.zeros(3), torch.full((2,), torch.inf)) == 1.0


class Classes(nn.Module):
    """A density that needs a class: N(c, 1) in each of two dimensions."""

    classes, levels = 2, None

    def log_prob(self, x, cond):
        return -0.5 * (x - cond[:, None]).square().sum(1) - math.log(2 * math.pi)


def test_data_without_labels_are_scored_by_a_mixture_over_the_models_classes():
    x = torch.tensor([[0.0, 1.0], [3.0, 3.0]])
    detector = outlier_detector(Classes(), x, cond="mixture")
    each = torch.stack([Classes().log_prob(x, torch.full((2,), c)) for c in range(2)])
    expected = -(torch.logsumexp(each, 0) - math.log(2)) / (2 * math.log(2))
    torch.testing.assert_close(detector.reference.likelihood, expected.double())


def test_levels_are_dequantised_as_the_models():
    """A uniform density over 4 levels has 2 bits per dimension, for every image of levels, and none outside."""

    class Uniform(nn.Module):
        levels = 4

        def log_prob(self, x, cond=None):
            return torch.where(((x >= 0) & (x < 4)).flatten(1).all(1), -x[0].numel() * math.log(4), -math.inf)

    detector = outlier_detector(Uniform(), Dataset("levelled", torch.randint(4, (50, 1, 2, 2)), levels=4))
    assert detector.reference.entropy == pytest.approx(2)
    assert detector.score(torch.full((3, 1, 2, 2), 3.0)).typicality.max() < 1e-6


def test_a_density_of_zero_is_the_most_unusual_score_and_no_reference():
    half = pf.models.nsf(2, layers=1, bins=4, hidden=(8,))
    half.log_prob = lambda x, cond=None, **options: torch.where(x[:, 0] > 0, 0.0, -math.inf)
    detector = outlier_detector(half, torch.ones(3, 2))
    assert detector.score(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])).typicality.tolist() == [0.0, math.inf]
    with pytest.raises(DataError, match="2 of 3 examples of density 0"):
        outlier_detector(half, torch.tensor([[1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]]))


def test_what_cannot_be_scored_is_refused(detector):
    model = pf.models.consistency(pf.nn.MLP.Config((8,)), (2,))
    for wrong, error, message in (
        (lambda: outlier_detector(gaussian(), torch.zeros(1, D)), DataError, "reference has 1 examples"),
        (lambda: outlier_detector(gaussian(), torch.zeros(9, D), cond="mixture"), DataError, "has no classes"),
        (
            lambda: outlier_detector(model, torch.zeros(4, 2)),
            NotInvertibleError,
            "log_prob",
        ),
        (lambda: detector.threshold("density"), UserError, "'density' is not a known score"),
        (lambda: detector.threshold(false_alarms=1.0), UserError, "false_alarms is 1.0"),
        (lambda: detector.threshold(size=0), UserError, "size is 0"),
        (lambda: detector.reference.grouped(5000), UserError, "size is 5000, but it must be at most 4000"),
        (lambda: auroc(torch.zeros(0), torch.zeros(2)), ShapeError, r"inside has shape \(0,\)"),
        (lambda: auroc(torch.zeros(2), torch.tensor([torch.nan])), UserError, "outside has NaN for 1 of 1"),
        (lambda: auroc([0.0], torch.zeros(2)), UserError, "inside is a list"),
    ):
        with pytest.raises(error, match=message):
            wrong()
