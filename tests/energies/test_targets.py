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
    ("energy", "expected"),
    [
        (pf.energies.DoubleWell(1, 1e5), math.log(math.sqrt(math.pi / 1e5))),  # two Gaussians of variance 1 / (8 depth)
        (pf.energies.Rotors(2, 1e6), math.log(2 * math.pi * math.sqrt(math.pi / 1e6)) + 2e6),  # one in the difference of both angles
        (pf.energies.LatticeField(2, 1e4, 2.0), math.log(math.sqrt(math.pi / 1e4)) + pf.energies.DoubleWell(1, 4.0).log_normaliser),
        (pf.energies.Rotors(3000), 3000 * math.log(2 * math.pi * 2.279585302336067)),  # I_0(2): the largest eigenvalue alone
        (pf.energies.LatticeField(2000, 0.0), 2000 * pf.energies.DoubleWell(1, 2.0).log_normaliser),
    ],
    ids=str,
)
def test_narrow_densities_and_long_chains_have_their_limits(energy, expected):
    """They once were summed on a grid coarser than they are, or overflowed."""
    assert energy.log_normaliser == pytest.approx(expected, rel=3e-7, abs=3e-4)


def test_what_is_too_narrow_to_be_summed_has_an_energy_alone():
    field = pf.energies.LatticeField(4, 1e6)
    assert field(torch.ones(2, 4)).tolist() == [0.0, 0.0]
    with pytest.raises(pf.errors.UserError, match=r"spring is 1e\+06, so narrow a density that its normaliser takes a grid of"):
        _ = field.log_normaliser


@pytest.mark.parametrize(
    "make", [lambda: pf.energies.DoubleWell(0), lambda: pf.energies.LatticeField(1), lambda: pf.energies.Rotors(3, -1.0)]
)
def test_settings_that_cannot_be_are_refused(make):
    with pytest.raises(pf.errors.UserError):
        make()
