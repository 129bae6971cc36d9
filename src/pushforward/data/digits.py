"""Handwritten digits of 8 by 8 pixels, included in scikit-learn: nothing to download.

Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998: the 1,797 examples
of its test part, from 13 people, each pixel the number (0 to 16) of ink dots in a 4 by 4 field.
"""

import functools

import numpy
import torch

from pushforward.data.dataset import Dataset
from pushforward.data.splits import split_indices
from pushforward.registry import export

SIZES = (1257, 180, 360)  # train, validation, test: 70, 10 and 20 %


@export("data.digits", example=lambda: digits("test"), loader=True)
def digits(split: str = "train", *, seed: int = 0) -> Dataset:
    """Handwritten digits from scikit-learn: 1,797 pictures of 8 by 8 pixels in 17 levels, 10 classes, nothing to download.

    1,257 train, 180 validation and 360 test, stratified: each class has 17 to 19 examples in validation and 35 to 37 in test.
    The split only depends on `seed`. Published numbers use seed 0; do not pass the seed of a training run here.
    The source does not identify the writers, so train and test share the same 13 writers.

    Args:
        split: "train", "validation" or "test".
        seed: seed of the split.

    Returns:
        The set with x (N, 1, 8, 8), integers 0 (no ink) to 16, and labels (N,) in 0 to 9.

    Raises:
        UserError: `split` is not one of the three.

    Example:
        >>> from pushforward import data
        >>> data.digits("test")
        Dataset('digits', 360 examples, shape (1, 8, 8), 10 classes, 17 levels)

    Source: scikit-learn, sklearn.datasets.load_digits.
    """
    images, labels = _arrays()
    chosen = split_indices(split, SIZES, seed, labels)
    x = torch.from_numpy(images).to(torch.float32)[:, None]
    return Dataset("digits", x[chosen], torch.from_numpy(labels)[chosen], classes=10, levels=17)


@functools.cache
def _arrays() -> tuple[numpy.ndarray, numpy.ndarray]:
    from sklearn.datasets import load_digits  # importing it takes half a second, which other data sets avoid

    loaded = load_digits()
    return loaded.images, loaded.target.astype(numpy.int64)
