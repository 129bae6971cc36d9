"""A warning about elements that no coupling of a flow transforms."""

import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch

from pushforward.bijections.bijection import Bijection
from pushforward.bijections.columns import features_of
from pushforward.bijections.coupling import Coupling
from pushforward.bijections.image_coupling import ImageCoupling


def warn_of_untouched(bijection: Bijection, shape: Sequence[int]) -> None:
    """Warn of elements of the event that pass through a chain of couplings unchanged."""
    if not any(isinstance(one, Coupling | ImageCoupling) for one in bijection.modules()):
        return
    flat = features_of(bijection) is not None
    left = ~bijection.reaches(torch.zeros(math.prod(shape) if flat else tuple(shape), dtype=torch.bool))
    if left.is_meta or not bool(left.any()):  # on the meta device there are no permutations yet to go by
        return
    if left.ndim == 3:
        whole = left.flatten(1).all(1)
        some = [] if bool(whole.any()) else [tuple(place) for place in left.nonzero().tolist()]
        what = f"channels {_listed(whole.nonzero().flatten().tolist())}" if not some else f"pixels (channel, row, column) {_listed(some)}"
        remedy = "alternate swap=True, or put InvertibleConv between the couplings."
    else:
        what = f"features {_listed(left.flatten().nonzero().flatten().tolist())}"
        remedy = "alternate swap=True, or put Reverse or Permutation between the couplings."
    warnings.warn(f"{what} pass through all couplings unchanged, so the model cannot fit them; {remedy}", stacklevel=3)


def _listed(places: Sequence[Any]) -> str:
    shown = ", ".join(str(place) for place in places[:20])
    return shown if len(places) <= 20 else f"{shown} and {len(places) - 20} more"
