"""The coupling study's law: optimal transport's trajectories spend the least energy, on every pair of distributions."""

import json
import statistics

import pytest

from benchmarks.coupling_study import FEW, NAMES, OUT, measured, models, transport


def numbers(pair, method, what):
    rows = json.loads((OUT / "couplings.json").read_text())["rows"][pair].values()
    return [row["methods"][method][what] for row in rows if method in row["methods"]]


@pytest.mark.parametrize("pair", NAMES)
def test_of_the_committed_numbers_optimal_transport_spends_the_least_energy(pair):
    least = statistics.mean(numbers(pair, "OT-CFM", "energy"))
    assert all(least < statistics.mean(numbers(pair, method, "energy") or [float("inf")]) for method in ("I-CFM", "FM"))


def test_of_the_committed_numbers_optimal_transport_is_nearest_on_moons_to_gaussians():
    nearest = statistics.mean(numbers("m-8g", "OT-CFM", "W2"))
    assert all(nearest < statistics.mean(numbers("m-8g", method, "W2")) for method in ("I-CFM", "RF, reflowed"))


@pytest.mark.slow
@pytest.mark.parametrize("pair", NAMES)
def test_optimal_transport_spends_the_least_energy(pair):
    """600 steps, seed 7."""
    ends, found = transport(pair, 7, FEW), models(pair, 7, 600, ("OT-CFM", "I-CFM", "FM"))
    energies = {name: measured(pair, model, ends, 7, FEW)["energy"] for name, model in found.items()}
    assert energies["OT-CFM"] < min(energy for name, energy in energies.items() if name != "OT-CFM")
