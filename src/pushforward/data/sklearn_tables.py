"""The small tables included in scikit-learn: iris, wine, breast_cancer and diabetes, in the units of their sources."""

import numpy

from pushforward.data.arrays import divided
from pushforward.data.dataset import Dataset
from pushforward.registry import export


@export("data.iris", example=lambda: iris(), loader=True)
def iris(split: str = "train", *, seed: int = 0) -> Dataset:
    """Iris flowers from scikit-learn: 150 flowers of 3 species, 4 lengths and widths in cm.

    Args:
        split: "train" (120), "validation" (15) or "test" (15), stratified.
        seed: seed of the split.

    Returns:
        The set with x (N, 4), its `columns`, and labels (N,) with their `class_names`.

    Raises:
        UserError: `split` is not one of the three.

    Example:
        >>> from pushforward import data
        >>> data.iris("test").class_names
        ('setosa', 'versicolor', 'virginica')

    Source: Fisher, The use of multiple measurements in taxonomic problems, 1936; sklearn.datasets.load_iris.
    """
    return _classified("iris", split, seed)


@export("data.wine", example=lambda: wine(), loader=True)
def wine(split: str = "train", *, seed: int = 0) -> Dataset:
    """Wines from scikit-learn: 178 wines of 3 growers, 13 chemical measurements, each in its own unit.

    Args:
        split: "train" (144), "validation" (17) or "test" (17), stratified.
        seed: seed of the split.

    Returns:
        The set with x (N, 13), its `columns`, and labels (N,) with their `class_names`.

    Raises:
        UserError: `split` is not one of the three.

    Example:
        >>> from pushforward import data
        >>> data.wine().columns[:3]
        ('alcohol', 'malic_acid', 'ash')

    Source: Aeberhard and Forina, Wine, UCI Machine Learning Repository, 1991; sklearn.datasets.load_wine.
    """
    return _classified("wine", split, seed)


@export("data.breast_cancer", example=lambda: breast_cancer(), loader=True)
def breast_cancer(split: str = "train", *, seed: int = 0) -> Dataset:
    """Breast tumours from scikit-learn: 569 tumours, malignant or benign, 30 measurements of their cells' nuclei.

    Args:
        split: "train" (457), "validation" (56) or "test" (56), stratified.
        seed: seed of the split.

    Returns:
        The set with x (N, 30), its `columns`, and labels (N,) with their `class_names`.

    Raises:
        UserError: `split` is not one of the three.

    Example:
        >>> from pushforward import data
        >>> data.breast_cancer("validation")
        Dataset('breast_cancer', 56 examples, shape (30,), 2 classes)

    Source: Wolberg, Mangasarian, Street and Street, Breast Cancer Wisconsin (Diagnostic), UCI Machine Learning Repository, 1993;
    sklearn.datasets.load_breast_cancer.
    """
    return _classified("breast_cancer", split, seed)


@export("data.diabetes", example=lambda: diabetes(), loader=True)
def diabetes(split: str = "train", *, seed: int = 0) -> Dataset:
    """Diabetes patients from scikit-learn: 442 patients, 10 measurements and the progression of the disease a year later.

    Args:
        split: "train" (354), "validation" (44) or "test" (44).
        seed: seed of the split.

    Returns:
        The set with x (N, 11), without labels: age in years, sex (1 or 2), body mass index, blood pressure, six blood serum values,
        and the progression (25 to 346); see its `columns`.

    Raises:
        UserError: `split` is not one of the three.

    Example:
        >>> from pushforward import data
        >>> data.diabetes().columns[-1]
        'progression'

    Source: Efron, Hastie, Johnstone and Tibshirani, Least angle regression, 2004; sklearn.datasets.load_diabetes(scaled=False).
    """
    from sklearn.datasets import load_diabetes  # takes half a second, which other data need not wait for

    table = load_diabetes(scaled=False)
    x = numpy.column_stack((table.data, table.target))
    return divided("diabetes", x, None, split, seed, columns=[*table.feature_names, "progression"])


def _classified(name: str, split: str, seed: int) -> Dataset:
    from sklearn import datasets

    table = getattr(datasets, f"load_{name}")()
    columns, class_names = ([str(one) for one in names] for names in (table.feature_names, table.target_names))
    return divided(name, table.data, table.target, split, seed, columns=columns, class_names=class_names)
