"""The classifier is good enough to judge by, and sees what it should."""

import pytest
import torch

from pushforward.data.dataset import Dataset
from pushforward.data.densities import checkerboard, moons
from pushforward.data.digits import digits
from pushforward.errors import DataError, ShapeError
from pushforward.evaluation.classifier import classifier


@pytest.fixture(scope="module")
def judge():
    return classifier(digits("train"), digits("validation"))


def test_it_knows_the_test_digits(judge):
    """Measured: 356 of 360."""
    test = digits("test")
    assert judge.recognised(test.x, test.cond) >= 0.985
    assert judge.validation_accuracy >= 0.985


def test_samples_within_a_level_are_taken_for_that_level(judge):
    test = digits("test")
    noise = torch.rand(test.x.shape, generator=torch.Generator().manual_seed(0)) * 0.999
    assert torch.equal(judge.predict(test.x + noise), judge.predict(test.x))


def test_the_wrong_class_is_not_recognised(judge):
    test = digits("test")
    assert judge.recognised(test.x, (test.cond + 1) % 10) < 0.02


@pytest.mark.slow
def test_it_is_the_same_again(judge):
    again = classifier(digits("train"), digits("validation"))
    assert (again.name, again.validation_accuracy) == (judge.name, judge.validation_accuracy)


def test_a_class_with_one_example_is_no_obstacle():
    train = Dataset("lonely", moons(n=40).x, torch.arange(40).clamp(max=1))
    assert classifier(train, train).predict(train.x).shape == (40,)


def test_no_samples_have_no_classes(judge):
    assert judge.predict(torch.zeros(0, 1, 8, 8)).shape == (0,)


def test_bad_input_is_refused(judge):
    with pytest.raises(ShapeError, match=r"events of shape \(1, 8, 8\)"):
        judge.predict(torch.zeros(3, 64))
    with pytest.raises(DataError, match="NaN"):
        judge.predict(torch.full((3, 1, 8, 8), torch.nan))
    with pytest.raises(ShapeError, match="3 samples need one each"):
        judge.recognised(torch.zeros(3, 1, 8, 8), torch.zeros(2))
    with pytest.raises(DataError, match="checkerboard has no labels"):
        classifier(checkerboard(n=20), checkerboard(n=20))
    with pytest.raises(DataError, match="only one class"):
        classifier(Dataset("one", torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64)), moons(n=20))
