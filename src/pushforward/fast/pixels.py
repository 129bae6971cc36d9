"""The matrix of pixel-affine bijections and its inverse, cached as long as the values of their parameters do not change.

Autograd's version counter would be cheaper to check, but torch's fused optimisers and writes through `.data` do not increment it. Values
are compared only on the CPU; on other devices the comparison synchronises, which costs more than the matrices.
"""

import weakref
from typing import Any

import torch
from torch import Tensor

from pushforward._modes import values_alone
from pushforward.bijections.invertible_conv import InvertibleConv
from pushforward.bijections.pixels import Affine, PixelAffines, composed
from pushforward.bijections.scaling import ImageActNorm
from pushforward.dispatch import as_defined, fast_way, known

known(ImageActNorm, InvertibleConv)

_kept: "weakref.WeakKeyDictionary[PixelAffines, dict[bool, tuple[list[Tensor], Affine]]]" = weakref.WeakKeyDictionary()


@fast_way(PixelAffines, "affine", when=values_alone)
def affine(run: Any, inverse: bool = False) -> Affine:
    """Return the matrix, the shift and log|det| of all steps, or of their inverse."""
    now = [one for step in run.steps for held in (step._parameters, step._buffers) for one in held.values() if one is not None]
    if any(one.device.type != "cpu" for one in now) or not all(map(as_defined, run.steps)):
        return NotImplemented
    of_run = _kept.setdefault(run, {})
    kept = of_run.get(inverse)
    if kept is None or len(kept[0]) != len(now) or not all(map(_same, kept[0], now)):
        kept = of_run[inverse] = [one.detach().clone() for one in now], composed(run.steps, inverse)
    return kept[1]


def _same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a, b)
