"""A classifier trained on real data only, to check whether samples match their labels."""

import math
from typing import Any

import torch
from torch import Tensor

from pushforward.data.given import as_datasets
from pushforward.errors import DataError, ShapeError
from pushforward.evaluation.quantise import quantise
from pushforward.functional.levels import Levels
from pushforward.registry import export

FITTED = 10_000  # training examples used at most: the cost of an SVM is quadratic
CHOSEN_ON = 1000  # validation examples used at most


class Classifier:
    """A fitted scikit-learn classifier for tensors (n, *shape) in data units; samples are quantised to the data's levels.

    Attributes:
        name: name of the selected candidate.
        validation_accuracy: its accuracy on validation, by which it was selected.
        machine: the best support vector machine, whose margins are the `features`; the classifier itself unless neighbours are better.
    """

    def __init__(self, name: str, fitted: Any, levels: Levels, shape: tuple[int, ...], validation_accuracy: float = math.nan) -> None:
        self.name, self.fitted, self.levels, self.shape = name, fitted, levels, shape
        self.validation_accuracy, self.machine = validation_accuracy, fitted

    def predict(self, x: Tensor) -> Tensor:
        """Return the class (n,) int64, on the CPU, of each x (n, *shape)."""
        rows = self._rows(x)
        return torch.from_numpy(self.fitted.predict(rows)).to(torch.int64) if len(rows) else torch.zeros(0, dtype=torch.int64)

    def features(self, x: Tensor) -> Tensor:
        """Return the features (n, K (K - 1) / 2) of each x (n, *shape), on the CPU: its margins between each two of K classes.

        A margin is the signed distance to the boundary between two classes in the kernel's space, in units in which the nearest training
        examples are at -1 and 1.
        """
        rows = self._rows(x)
        pairs = len(self.machine.classes_) * (len(self.machine.classes_) - 1) // 2
        return torch.from_numpy(self.machine.decision_function(rows)).float().reshape(-1, pairs) if len(rows) else torch.zeros(0, pairs)

    def _rows(self, x: Tensor) -> Any:
        """Return x as rows of scikit-learn, quantised."""
        if tuple(x.shape[1:]) != self.shape:
            raise ShapeError(f"x has shape {tuple(x.shape)}, but the classifier was trained on events of shape {self.shape}.")
        held = x.detach().cpu().to(torch.float32)
        if not held.isfinite().all():
            raise DataError("x holds NaN or infinity, which cannot be classified; check where it comes from.")
        return quantise(held, self.levels).flatten(1).numpy()

    def recognised(self, samples: Tensor, labels: Tensor) -> float:
        """Return the share of samples (n, *shape) that are classified as their labels (n,)."""
        if tuple(labels.shape) != (len(samples),) or len(labels) == 0:
            raise ShapeError(f"labels has shape {tuple(labels.shape)}, but {len(samples)} samples need one each, and at least one sample.")
        return float((self.predict(samples) == labels.cpu()).double().mean())


@export("evaluation.classifier")
def classifier(train: Any, validation: Any, seed: int = 0) -> Classifier:
    """Train a classifier on real data: the best of support vector machines and nearest neighbours on held-out examples.

    Held-out examples are validation plus up to 5,000 training examples by cross-validation, since the 180 validation digits
    cannot distinguish 99 % from 98 %. It is fitted on train only and never sees test data or samples. On the digits it takes half a
    second and reaches 98.9 % test accuracy.

    Args:
        train: the set to train on, with labels; its first 10,000 examples at most.
        validation: the set to select on, with labels; its first 1,000 examples at most.
        seed: seed of the folds of the cross-validation.

    Returns:
        A classifier with predict(x) -> labels (n,), recognised(samples, labels) -> share, features(x) -> margins between classes, name and
        validation_accuracy; x is (n, *shape) in the units of the data, continuous samples of levelled data are rounded down to their
        level first.

    Raises:
        DataError: a set has no labels, or train has fewer than two classes.

    Example:
        >>> from pushforward import data, evaluation
        >>> train, validation, test = (data.load("moons", split, n=200) for split in ("train", "validation", "test"))
        >>> judge = evaluation.classifier(train, validation)
        >>> judge.recognised(test.x, test.cond)
        1.0

    Source: scikit-learn, sklearn.svm.SVC and sklearn.neighbors.KNeighborsClassifier.
    """
    train, validation = as_datasets(train, validation)
    for data in (train, validation):
        if data.classes is None:
            raise DataError(f"{data.name} has no labels, but a classifier needs them; for a CSV file give their column as label=.")
    assert train.cond is not None
    assert validation.cond is not None
    sizes = train.cond.unique(return_counts=True)[1]
    if len(sizes) < 2:
        raise DataError(f"{train.name} has only one class, but a classifier needs at least two.")
    train, validation = train.take(min(FITTED, len(train))), validation.take(min(CHOSEN_ON, len(validation)))
    assert train.cond is not None
    assert validation.cond is not None
    x, labels = train.x.cpu().flatten(1).numpy(), train.cond.cpu().numpy()
    folds = min(5, int(sizes.min())) if len(train) <= 5000 else 1
    best, most, best_machine, most_of_machine = None, -1.0, None, -1.0
    for name, candidate in _candidates(len(train)).items():
        judge = Classifier(name, candidate.fit(x, labels), train.levels, train.shape)
        judge.validation_accuracy = judge.recognised(validation.x, validation.cond)
        right = judge.validation_accuracy * len(validation) + _cross_validated(candidate, x, labels, folds, seed)
        if hasattr(candidate, "decision_function") and right > most_of_machine:
            best_machine, most_of_machine = judge.fitted, right
        if right > most:
            best, most = judge, right
    assert best is not None
    best.machine = best_machine
    return best


def _candidates(count: int) -> dict[str, Any]:
    from sklearn.neighbors import KNeighborsClassifier  # importing it takes half a second, only needed here
    from sklearn.svm import SVC

    penalties = (1, 10, 100) if count < FITTED else (10,)  # each takes half a minute with this many examples
    machines = {f"support vector machine, C={penalty}": SVC(C=penalty, decision_function_shape="ovo") for penalty in penalties}
    return {**machines, **{f"{k} nearest neighbours": KNeighborsClassifier(min(k, count)) for k in (1, 3)}}


def _cross_validated(candidate: Any, x: Any, labels: Any, folds: int, seed: int) -> float:
    """Number of training examples classified correctly in cross-validation; 0 for fewer than 2 folds."""
    if folds < 2:
        return 0.0
    from sklearn.base import clone
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    answers = cross_val_predict(clone(candidate), x, labels, cv=StratifiedKFold(folds, shuffle=True, random_state=seed))
    return float((answers == labels).sum())
