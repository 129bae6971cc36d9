"""Targets: their normalisers against sums over all of space."""

import math

import pytest
import torch

import pushforward as pf

pytestmark = pytest.mark.usefixtures("float64")


def by_grid(energy, low, high, count, periodic=False):
    """Return log Z as a sum over a grid of all features."""
    axis = torch.linspace(low, high, count + periodic)[: count or None]
    points = torch.cartesian_prod(*[axis] * energy.shape[0])
    return (torch.logsumexp(-energy(points), 0) + energy.shape[0] * math.log((high - low) / (count - (not periodic)))).item()


@pytest.mark.parametrize(
    ("energy", "grid"),
    [
        (pf.energies.DoubleWell(2, depth=3.0), (-6, 6, 401)),
        (pf.energies.LatticeField(2, spring=0.7, depth=1.5), (-4, 4, 401)),
        (pf.energies.LatticeField(3), (-3.5, 3.5, 101)),
        (pf.energies.Rotors(3, coupling=1.5), (-math.pi, math.pi, 60, True)),
        (pf.energies.Rotors(2), (-math.pi, math.pi, 100, True)),
    ],
    ids=str,
)
def test_the_normaliser_is_the_integral(energy, grid):
    assert energy.log_normaliser == pytest.approx(by_grid(energy, *grid), abs=1e-8)


def test_a_lattice_without_springs_is_independent_wells():
    field, well = pf.energies.LatticeField(5, spring=0.0, depth=3.0), pf.energies.DoubleWell(1, depth=3.0)
    assert field.log_normaliser == pytest.approx(5 * well.log_normaliser, abs=1e-10)


@pytest.mark.parametrize(
    "make", [lambda: pf.energies.DoubleWell(0), lambda: pf.energies.LatticeField(1), lambda: pf.energies.Rotors(3, -1.0)]
)
def test_settings_that_cannot_be_are_refused(make):
    with pytest.raises(pf.errors.UserError):
        make()
