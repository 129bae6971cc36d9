"""Splines beside other libraries', and where they are hard: the tails, the knots, extreme parameters, low precision."""

import math

import pytest
import torch
import torch.nn.functional as F

from pushforward.errors import UserError
from pushforward.functional.spline import MIN_DERIVATIVE, rational_quadratic_spline, spline_knots, spline_of_columns

BINS, BOUND = 8, 5.0


def test_values_and_slopes_are_zukos_on_the_same_knots():
    zuko = pytest.importorskip("zuko")
    raw = torch.randn(400, 3 * BINS - 1, dtype=torch.float64)
    theirs = zuko.transforms.MonotonicRQSTransform(*(2 * raw).split((BINS, BINS, BINS - 1), -1), bound=BOUND)
    x = 2.5 * torch.randn(400, dtype=torch.float64)  # one in twenty lies in a tail
    y, log_slope = rational_quadratic_spline(x, theirs.horizontal, theirs.vertical, theirs.derivatives)
    expected, expected_slope = theirs.call_and_ladj(x)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(log_slope, expected_slope, rtol=0, atol=1e-10)
    back, _ = rational_quadratic_spline(y, theirs.horizontal, theirs.vertical, theirs.derivatives, inverse=True)
    torch.testing.assert_close(back, theirs.inv(y), rtol=0, atol=1e-10)


@pytest.mark.parametrize("inverse", [False, True])
def test_values_and_slopes_are_nflows_from_the_same_free_numbers(inverse):
    module = pytest.importorskip("nflows.transforms.splines.rational_quadratic")
    raw = 2 * torch.randn(400, 3 * BINS - 1, dtype=torch.float64)
    widths, heights, slopes = raw.split((BINS, BINS, BINS - 1), -1)
    one = math.log(math.expm1(1 - MIN_DERIVATIVE))  # what their softplus takes to a slope of 1, which our zeros are
    theirs = F.pad(slopes + one, (1, 1), value=one)
    x = 2 * BOUND * torch.rand(400, dtype=torch.float64) - BOUND
    ends = {"left": -BOUND, "right": BOUND, "bottom": -BOUND, "top": BOUND}
    expected, expected_slope = module.rational_quadratic_spline(x, widths, heights, theirs, inverse=inverse, **ends)
    y, log_slope = rational_quadratic_spline(x, *spline_knots(raw, BOUND), inverse=inverse)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(log_slope, expected_slope, rtol=0, atol=1e-10)


@pytest.mark.parametrize("inverse", [False, True])
def test_the_splines_of_columns_are_those_of_rows(inverse):
    raw, x = 2 * torch.randn(30, 3, 3 * BINS - 1, dtype=torch.float64), 4 * torch.randn(30, 3, dtype=torch.float64)
    rows = rational_quadratic_spline(x, *spline_knots(raw, BOUND), inverse=inverse)
    columns = spline_of_columns(x.T, raw.permute(2, 1, 0), BINS, BOUND, inverse)
    for a, b in zip(rows, columns, strict=True):
        torch.testing.assert_close(a, b.T, rtol=0, atol=1e-10)


@pytest.mark.parametrize("inverse", [False, True])
def test_all_in_the_tails_is_the_identity(inverse):
    x = torch.tensor([-1e30, -7.0, 6.0, 1e30])
    y, log_slope = spline_of_columns(x[:, None], torch.randn(3 * BINS - 1, 4, 1), BINS, BOUND, inverse)
    torch.testing.assert_close(y[:, 0], x, rtol=1e-5, atol=0)
    torch.testing.assert_close(log_slope, torch.zeros(4, 1), rtol=0, atol=1e-5)


def test_a_knot_is_mapped_to_its_height_whichever_bin_it_falls_into():
    positions, heights, slopes = (one[0] for one in spline_knots(torch.randn(1, 3 * BINS - 1, dtype=torch.float64), BOUND))
    y, log_slope = rational_quadratic_spline(positions, positions, heights, slopes)
    torch.testing.assert_close(y, heights, rtol=0, atol=1e-12)
    torch.testing.assert_close(log_slope, slopes.log(), rtol=0, atol=1e-10)
    torch.testing.assert_close(
        rational_quadratic_spline(heights, positions, heights, slopes, inverse=True)[0], positions, rtol=0, atol=1e-10
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [10.0, 1000.0])
@pytest.mark.parametrize("inverse", [False, True])
def test_extreme_parameters_stay_finite_and_rise(dtype, size, inverse):
    """A softmax of such numbers puts all width into one bin; the least bin and the least slope are what is left of the others."""
    raw = size * torch.randn(3 * BINS - 1, 50, 1)
    x = torch.linspace(-6, 6, 400).expand(50, 400)
    y, log_slope = spline_of_columns(x.to(dtype), raw.expand(-1, 50, 400).to(dtype), BINS, BOUND, inverse)
    assert y.isfinite().all()
    assert log_slope.isfinite().all()
    assert (y.float().diff(dim=1) >= -(2**-6 if dtype == torch.bfloat16 else 1e-5)).all()


def test_bins_that_leave_no_room_are_refused():
    with pytest.raises(UserError, match="bins is 1000, but each is at least 0.001 of the whole; use fewer than 1000"):
        spline_knots(torch.zeros(1, 2999), BOUND)
