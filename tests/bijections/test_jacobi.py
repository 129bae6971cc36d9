"""Sequential equations solved at all places at once: exact, bounded, and robust to what overflows on the way."""

import pytest
import torch

import pushforward as pf
from pushforward.functional.jacobi import jacobi

LAYERS = {
    "affine": lambda **options: pf.bijections.AffineAutoregressive(7, (32,), classes=3, **options),
    "spline": lambda **options: pf.bijections.SplineAutoregressive(7, 4, (32,), classes=3, **options),
}


@pytest.mark.parametrize("name", LAYERS)
def test_both_solvers_invert_the_same_map(float64, name):
    layer = LAYERS[name](solver="jacobi")
    for p in layer.parameters():
        torch.nn.init.normal_(p, std=0.4)
    x, cond = torch.randn(5, 7), torch.tensor([0, 1, 2, 0, 1])
    with torch.no_grad():
        z, forward = layer(x, cond)
        back, inverse = layer.inverse(z, cond)
        layer.solver = "sequential"
        one, log_abs_det = layer.inverse(z, cond)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-9)
    torch.testing.assert_close(back, one, rtol=0, atol=1e-9)
    torch.testing.assert_close(inverse, log_abs_det, rtol=0, atol=1e-9)
    torch.testing.assert_close(inverse, -forward, rtol=0, atol=1e-9)


def test_as_many_iterations_as_places_are_exact_whatever_overflows_on_the_way():
    """x_k = z_k + 10^3 x_(k-1)²: later places of early iterates are far beyond float64."""
    mask = torch.ones(6, 6, dtype=torch.float64).tril(-1)
    z = torch.tensor([[1e-3, -1e-3, 2e-3, -2e-3, 1e-3, 0.5]], dtype=torch.float64)

    def update(x):
        return z + 1e3 * (x.square() @ (mask - mask.tril(-2)).T), None

    found, _ = jacobi(update, torch.full_like(z, 1e200), most=6)
    by_hand = z[0].clone()
    for k in range(1, 6):
        by_hand[k] = z[0, k] + 1e3 * by_hand[k - 1] ** 2
    torch.testing.assert_close(found[0], by_hand, rtol=1e-12, atol=0)


def test_it_stops_when_nothing_changes():
    calls = []

    def update(x):
        calls.append(1)
        return torch.ones_like(x), None

    jacobi(update, torch.zeros(2, 100), most=100)
    assert len(calls) == 2


def test_a_preset_passes_the_solver_on():
    model = pf.models.maf(4, layers=2, solver="jacobi")
    assert [layer.solver for layer in model.modules() if hasattr(layer, "solver")] == ["jacobi", "jacobi"]
    with pytest.raises(pf.errors.UserError, match="solver is 'fast', but it is 'auto', 'sequential' or 'jacobi'"):
        pf.models.maf(4, solver="fast")
