"""Checks of the feature sets that metrics compare."""

from torch import Tensor

from pushforward.errors import DataError, ShapeError


def check_features(x: Tensor, y: Tensor, names: tuple[str, str] = ("x", "y")) -> None:
    """Raise unless two sets of features (n, *shape) and (m, *shape) can be compared.

    Raises:
        ShapeError: their rows differ in shape.
        DataError: a value is NaN or infinite.
    """
    if x.ndim < 2 or x.shape[1:] != y.shape[1:]:
        shapes = f"{names[0]} has shape {tuple(x.shape)} and {names[1]} {tuple(y.shape)}"
        raise ShapeError(f"{shapes}, but both need rows of one shape: (n, *shape) and (m, *shape).")
    for name, one in zip(names, (x, y), strict=True):
        check_finite_features(name, one)


def check_finite_features(name: str, x: Tensor) -> None:
    """Raise a DataError unless all features are finite."""
    if not x.isfinite().all():
        raise DataError(f"{name} holds NaN or infinity, which has no distance to anything; check where it comes from.")
