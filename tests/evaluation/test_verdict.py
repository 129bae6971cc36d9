"""Verdicts: a sentence where something is wrong, and none where nothing is."""

import math

import pytest
import torch

from pushforward.evaluation.distances import memorisation
from pushforward.evaluation.judgement import Comparison, Judgement, Likelihood
from pushforward.evaluation.units import NATS
from pushforward.evaluation.verdict import verdict


def judged(*comparisons, closer=0.5, error=0.02, n=100):
    found = Judgement("test", n, [], likelihood_unit=NATS, dimensions=10, scored=n, closer_to_train=closer, closer_to_train_error=error)
    found.likelihood, found.comparisons = [Likelihood("this model", pooled=1.0)], list(comparisons)
    return found


def losses(*values, every=10):
    return [{"step": every * (k + 1), "validation_loss": value} for k, value in enumerate(values)]


GOOD = losses(3.0, 2.0, 1.5, 1.4)


def worse(density, difference, error=0.01, share=0.7, part="pooled"):
    return Comparison(part, density, difference, error, share)


def test_nothing_is_said_where_all_is_well():
    better = [worse("gaussian", -0.5, share=0.2), worse("kernel density", -0.1, share=0.4)]
    assert verdict(judged(*better), GOOD) == []
    assert verdict(judged(), []) == []


def test_a_model_behind_a_gaussian_is_in_nats_with_what_to_try():
    """0.5 bits per dimension in 10 dimensions are 0.5 * 10 * log 2 = 3.47 nats."""
    (sentence,) = verdict(judged(worse("gaussian", 0.5), worse("gaussian mixture", 0.6)), GOOD)
    assert "worse than a Gaussian by 3.466 ± 0.069 nats per row" in sentence
    assert "the best baseline, a Gaussian mixture, by 4.159 ± 0.069" in sentence
    assert "still improving at the end, so train longer" in sentence


def test_a_model_behind_another_baseline_only_names_that_one():
    (sentence,) = verdict(judged(worse("gaussian", -1.0, share=0.0), worse("kernel density, per class", 0.2, part="mixture")), [])
    assert "worse than a kernel density per class by" in sentence
    assert "Gaussian" not in sentence


def test_a_difference_within_its_errors_is_none():
    assert verdict(judged(worse("gaussian", 0.019, error=0.01, share=0.55)), GOOD) == []
    assert verdict(judged(worse("gaussian", 0.021, error=0.01, share=0.55)), GOOD) != []


def test_one_outlier_does_not_hide_that_most_examples_are_worse():
    """One of 100 examples 1,000 bits worse: the mean is 1.1 standard errors from 0, although nearly all examples are worse."""
    difference = torch.cat((torch.full((99,), 1.0), torch.tensor([1000.0])))
    error = float(difference.std()) / 10
    assert float(difference.mean()) < 2 * error
    assert verdict(judged(worse("gaussian", float(difference.mean()), error, 1.0)), GOOD) != []


def test_probability_zero_is_infinitely_worse():
    (sentence,) = verdict(judged(worse("gaussian", math.inf, math.nan, 0.1)), GOOD)
    assert "infinitely many nats per row" in sentence


@pytest.mark.parametrize(
    ("validated", "advice"),
    [
        (losses(2.0), "only measured at step 10"),
        (losses(2.0, 2.005), "best at its first measurement, step 10, so validate earlier"),
        (losses(3.0, 2.0, 2.01), "a smaller network"),
        ([], "train with a validation set"),
    ],
)
def test_the_advice_depends_on_when_validation_was_best(validated, advice):
    assert advice in verdict(judged(worse("gaussian", 0.5)), validated)[0]


def test_training_that_continued_while_validation_worsened_is_reported():
    (sentence,) = verdict(judged(), losses(3.0, 1.5, 2.0, 2.5), steps=40, evaluated=20)
    assert "from a loss of 1.5 at step 20 of 40 to 2.5 at the end, 1 more; the weights of step 20 are evaluated here" in sentence


@pytest.mark.parametrize(
    ("validated", "steps"),
    [
        (losses(3.0, 1.5, 1.6), 30),  # a fifteenth of what it had fallen
        (losses(0.5, 0.499, 0.505), 30),  # less than 0.01
        (losses(3.0, 1.5, 2.5), 1000),  # stopped at step 30, before the end
        (losses(3.0, 1.5, math.nan), None),
        (losses(3.0), 10),
    ],
)
def test_a_small_rise_or_an_early_stop_is_not(validated, steps):
    assert verdict(judged(), validated, steps=steps) == []


def test_copies_are_reported_and_chance_is_not():
    (sentence,) = verdict(judged(closer=0.8), GOOD)
    assert "80% of samples are closer to training data" in sentence
    assert verdict(judged(closer=0.8, error=0.11), GOOD) == []  # few examples: 2.7 standard deviations of chance
    assert verdict(judged(closer=0.58, error=0.01), GOOD) == []


def test_the_error_of_the_share_is_that_of_exchanging_the_two_sets():
    """Over 400 random halves of the same points the share has this standard deviation; its own relative error is 1 / sqrt(800) = 3.5 %."""
    generator = torch.Generator().manual_seed(0)
    points, samples = torch.randn(40, 3, generator=generator), torch.randn(300, 3, generator=generator)
    found = []
    for _ in range(400):
        order = torch.randperm(40, generator=generator)
        found.append(memorisation(samples, points[order[:20]], points[order[20:]]))
    share = torch.tensor([one.closer_to_train for one in found])
    assert float(share.mean()) == pytest.approx(0.5, abs=4 * float(share.std()) / 20)
    assert float(share.std()) == pytest.approx(found[0].chance, rel=0.15)
    assert found[0].chance == pytest.approx(found[1].chance)
