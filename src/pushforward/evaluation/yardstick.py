"""What all models of a comparison are measured with: the same test examples, classifier, features and random directions."""

from collections.abc import Callable

import torch
from torch import Tensor

from pushforward.data.dataset import Dataset
from pushforward.errors import UserError
from pushforward.evaluation.classifier import Classifier, classifier
from pushforward.evaluation.coverage import density_coverage, precision_recall
from pushforward.evaluation.distances import sliced_wasserstein
from pushforward.evaluation.kernel_distance import kernel_distance
from pushforward.evaluation.units import distance_unit, likelihood_unit
from pushforward.families.model import GenerativeModel

PROJECTIONS = 1000
LEAST = 6  # examples: balls reach to the fifth neighbour of each
SCALED = 4000  # training examples that give the units of features, at most: margins of 54,000 images take five minutes


class Yardstick:
    """Scores of sets of samples against test data.

    Args:
        train: the training set, to fit the classifier and the units of features.
        validation: the set to select the classifier on.
        test: the set to compare with.
        size: number of test examples and of samples that are compared, at most; always equally many of both.
        seed: seed of the classifier's folds, of directions, and of the choice of training examples.

    Raises:
        UserError: there are too few examples.

    Attributes:
        features_are: what the features of KID, precision, recall, density and coverage are, in words.
    """

    def __init__(self, train: Dataset, validation: Dataset, test: Dataset, size: int, seed: int = 0) -> None:
        if min(len(test), len(train)) < LEAST:
            raise UserError(
                f"there are {len(test)} examples to measure on and {len(train)} to train on, but models are compared by {LEAST} of each at "
                "least; give more data."
            )
        self.size, self.seed = min(size, len(test), len(train)), seed
        self.train, self.test = train, test.take(self.size)
        self.distance_unit, self.coordinates = distance_unit(train)
        self.likelihood_unit = likelihood_unit(test)
        labelled = train.classes is not None and train.cond is not None and len(train.cond.unique()) > 1
        self.classifier: Classifier | None = classifier(train, validation, seed) if labelled else None
        self._raw: Callable[[Tensor], Tensor] = self.coordinates
        self.features_are = "the values of an example, standardised"
        if self.classifier is not None and len(train.shape) == 3:
            self._raw = self.classifier.features
            self.features_are = "the classifier's margins between each two classes, standardised"
        fitted = self._raw(self.train.batch(self._training_order()[:SCALED])[0]).flatten(1).double()
        self._mean, std = fitted.mean(0), fitted.std(0, correction=0)
        self._scale = torch.where(std > 0, std, torch.ones_like(std))
        self.real = self.features(self.test.x)

    def features(self, x: Tensor) -> Tensor:
        """Return the features (n, D) of examples (n, *shape), with the mean and standard deviation of the training set taken out."""
        return (self._raw(x).flatten(1).double() - self._mean) / self._scale

    def scores(self, samples: Tensor, labels: Tensor | None = None) -> dict[str, float]:
        """Return the metrics of samples (n, *shape), with as many as test examples, and the labels they were drawn for if any."""
        made = self.features(samples)
        shares, balls = precision_recall(self.real, made), density_coverage(self.real, made)
        generator = torch.Generator().manual_seed(self.seed)
        x, y = self.coordinates(samples), self.coordinates(self.test.x)
        found = {
            "sliced_wasserstein": float(sliced_wasserstein(x, y, PROJECTIONS, generator)),
            "kernel_distance": float(kernel_distance(self.real, made)),
            "precision": shares.precision, "recall": shares.recall, "density": balls.density, "coverage": balls.coverage,
        }  # fmt: skip
        if self.classifier is not None and labels is not None:
            found["recognised"] = self.classifier.recognised(samples, labels)
        return found

    def of_training_data(self) -> dict[str, float]:
        """Return the metrics of as many training examples in the place of samples: what a perfect model would have."""
        return self.scores(*self.train.batch(self._training_order()[: self.size]))

    def _training_order(self) -> Tensor:
        return torch.randperm(len(self.train), generator=torch.Generator().manual_seed(self.seed))

    def conditions(self, model: GenerativeModel) -> Tensor | None:
        """Return the conditions of the test examples for a conditional model, so that samples have the same; None for one without."""
        return self.test.cond if model.conditioning and self.test.cond is not None else None
