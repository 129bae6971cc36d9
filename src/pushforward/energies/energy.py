"""What an energy is: a function of events, the negative logarithm of a density that need not be normalised."""

from typing import Protocol

import torch
from torch import Tensor

from pushforward._checks import per_sample
from pushforward.errors import ShapeError, UserError


class Energy(Protocol):
    """A function that returns the energies (n,) of events x (n, *shape): p(x) is proportional to exp(-energy(x))."""

    def __call__(self, x: Tensor, /) -> Tensor:
        """Return the energies (n,), differentiable."""
        ...


def energies_of(energy: Energy, x: Tensor) -> Tensor:
    """Return the energies (n,) of x, or raise an error if they are not one number each, or NaN (infinity is a density of 0).

    An energy with an attribute `shape`, that of one event, is only called with such events.
    """
    shape = getattr(energy, "shape", None)
    if isinstance(shape, tuple) and shape != tuple(x.shape[1:]):
        raise ShapeError(f"the energy is of events of shape {shape}, but those of the model have {tuple(x.shape[1:])}; make them equal.")
    value = per_sample(energy(x), x, "the energy")
    if torch.isnan(value).any():
        row = int(torch.isnan(value).nonzero()[0, 0])
        raise UserError(f"the energy of sample {row} is NaN; return infinity where the density is 0.")
    return value
