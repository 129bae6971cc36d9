"""The units of tables: densities on their scales, and the scales that are chosen."""

import math

import numpy
import pytest
import torch

from pushforward.bijections.table_units import TableUnits
from pushforward.column import Column
from pushforward.data.inference import numeric
from pushforward.errors import ShapeError, UserError
from pushforward.testing.laws import log_abs_det_by_autograd

COLUMNS = [
    Column("a"),
    Column("b", scale="log", lower=0.0),
    Column("c", scale="log", lower=-1.0, offset=0.5),
    Column("d", scale="logit", lower=2.0, upper=5.0, offset=0.25),
    Column("e", scale="quantile"),
]


def rows(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    u = torch.rand(n, 5, generator=generator, dtype=torch.float64)
    heavy = torch.tan(math.pi * (u[:, 4] - 0.5))  # Cauchy
    return torch.stack((4 * u[:, 0] - 7, -u[:, 1].log(), 3 * u[:, 2] - 1, 2 + 3 * u[:, 3], heavy), dim=1)


@pytest.fixture
def units():
    made = TableUnits(COLUMNS).double()
    made.initialise(rows(2000))
    return made


def test_log_abs_det_is_that_of_autograd_in_both_directions(units):
    x = rows(16, seed=1)
    z, log_abs_det = units(x)
    torch.testing.assert_close(log_abs_det, log_abs_det_by_autograd(lambda y: units(y)[0], x), rtol=0, atol=1e-9)
    back, inverse = units.inverse(z)
    torch.testing.assert_close(back, x, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(inverse, -log_abs_det, rtol=0, atol=1e-9)


def test_every_column_is_standardised(units):
    z = units(rows(2000))[0]
    torch.testing.assert_close(z.mean(0), torch.zeros(5, dtype=torch.float64), rtol=0, atol=1e-9)
    torch.testing.assert_close(z.std(0), torch.ones(5, dtype=torch.float64), rtol=0, atol=1e-9)


def test_a_quantile_scale_makes_a_cauchy_column_gaussian(units):
    z = units(rows(5000, seed=2))[0][:, 4]
    levels = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95], dtype=torch.float64)
    # A quantile of 5,000 numbers has a standard error of at most 0.03 here, and the fitted one of 2,000 of 0.05.
    torch.testing.assert_close(z.quantile(levels), torch.special.ndtri(levels), rtol=0, atol=0.2)


def test_the_inverse_never_leaves_a_scale(units):
    x = units.push(torch.tensor([[-30.0] * 5, [30.0] * 5], dtype=torch.float64))
    assert bool((x[:, 1] >= 0).all())
    assert bool((x[:, 2] >= -1.5).all())
    assert bool(((x[:, 3] >= 1.75) & (x[:, 3] <= 5.25)).all())


def test_outside_its_scale_a_row_has_density_zero(units):
    x = rows(4, seed=3)
    x[0, 1], x[1, 3] = -0.1, 6.0
    log_abs_det = units(x)[1]
    assert log_abs_det[:2].tolist() == [-math.inf, -math.inf]
    assert log_abs_det[2:].isfinite().all()


def test_gradients_of_other_rows_are_finite(units):
    x = rows(4, seed=3)
    x[0, 1] = -0.1
    x.requires_grad_()
    units(x)[1][1:].sum().backward()
    assert x.grad[1:].isfinite().all()


def test_the_density_of_a_lognormal_column_is_that_of_its_formula():
    """With log x ~ N(1, 0.5^2), the density of x under standard normal noise is the lognormal's."""
    units = TableUnits([Column("x", scale="log", lower=0.0)]).double()
    units.mean.fill_(1.0)
    units.std.fill_(0.5)
    x = torch.tensor([[0.3], [2.0], [9.0]], dtype=torch.float64)
    z, log_abs_det = units(x)
    density = torch.distributions.Normal(0.0, 1.0).log_prob(z[:, 0]) + log_abs_det
    torch.testing.assert_close(density, torch.distributions.LogNormal(1.0, 0.5).log_prob(x[:, 0]), rtol=0, atol=1e-6)


def test_equal_values_do_not_break_a_quantile_scale():
    units = TableUnits([Column("x", scale="quantile")])
    units.initialise(torch.cat((torch.zeros(900, 1), torch.randn(100, 1, generator=torch.Generator().manual_seed(0)))))
    x = torch.tensor([[-1.0], [0.0], [1.0]])
    z, log_abs_det = units(x)
    assert log_abs_det.isfinite().all()
    torch.testing.assert_close(units.push(z), x, rtol=0, atol=1e-4)


def test_rows_of_another_width_are_refused():
    with pytest.raises(ShapeError, match="at least two rows of 5 columns"):
        TableUnits(COLUMNS).initialise(torch.zeros(3, 2))


RNG = numpy.random.default_rng(0)


@pytest.mark.parametrize(
    ("values", "kind", "scale", "lower", "upper"),
    [
        (RNG.standard_normal(500), "continuous", "none", None, None),
        (numpy.exp(RNG.standard_normal(500)), "continuous", "log", 0.0, None),
        (numpy.maximum(RNG.standard_normal(500), 0), "continuous", "log", 0.0, None),
        (RNG.beta(2, 3, 500), "continuous", "logit", 0.0, 1.0),
        (numpy.round(RNG.beta(0.3, 0.3, 500), 2), "continuous", "logit", 0.0, 1.0),
        (RNG.standard_cauchy(500), "continuous", "quantile", None, None),
        (RNG.integers(-5, 6, 500), "integer", "none", None, None),
        (numpy.rint(numpy.exp(3 + 1.5 * RNG.standard_normal(500))), "integer", "log", 0.0, None),
        (RNG.integers(0, 50, 500), "integer", "none", 0.0, None),
        (numpy.full(20, 3.5), "continuous", "none", 3.5, 3.5),
    ],
)
def test_a_scale_is_chosen_by_the_values(values, kind, scale, lower, upper):
    column = numeric("x", values)
    assert (column.kind, column.scale, column.lower, column.upper) == (kind, scale, lower, upper)
    inner = torch.from_numpy(numpy.asarray(values, dtype=numpy.float64))[:, None] + 0.5 * column.dequantised
    units = TableUnits([column]).double()
    units.initialise(inner)
    assert units(inner)[1].isfinite().all()


@pytest.mark.parametrize("scale", ["none", "log", "logit", "quantile"])
def test_a_scale_that_is_given_is_taken(scale):
    assert numeric("x", numpy.exp(RNG.standard_normal(100)), scale).scale == scale


def test_a_positive_column_stays_positive_on_any_scale():
    column = numeric("x", numpy.exp(RNG.standard_normal(100)), "none")
    assert column.rounded(torch.tensor([-1.0, 2.0])).tolist() == [0.0, 2.0]


def test_large_integers_are_rounded_without_cells():
    column = numeric("x", numpy.arange(100) * 10**7)
    assert (column.kind, column.levels) == ("integer", None)


def test_an_unknown_scale_is_refused():
    with pytest.raises(UserError, match="'lgo' is not a known scale; did you mean 'log'"):
        numeric("x", numpy.ones(3), "lgo")


def test_values_that_float32_rounds_to_zero_have_a_density():
    column = numeric("x", numpy.array([1e-50, 1.0, 2.0, 3.0]))
    assert column.offset > 0
    units = TableUnits([column])
    assert units(torch.tensor([[0.0], [1.0]]))[1].isfinite().all()


def test_a_single_value_has_no_scale():
    assert numeric("x", numpy.zeros(10), "log").scale == "none"


@pytest.mark.parametrize("scale", [1e-35, 1e-19, 1e30])
def test_units_of_a_column_change_nothing_but_its_scale(scale):
    """z of c x is z of x, and its log-determinant less by log c, in whatever units a table has its columns: coulombs, metres, electrons."""
    x = torch.randn(300, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * torch.tensor([1.0, 2.0])
    for kind in ("none", "quantile"):
        plain, scaled = TableUnits([Column("a", scale=kind), Column("b")]), TableUnits([Column("a", scale=kind), Column("b")])
        factor = torch.tensor([scale, scale], dtype=torch.float64)
        plain.initialise(x)
        scaled.initialise(x * factor)
        (z, before), (other, after) = plain(x), scaled(x * factor)
        torch.testing.assert_close(other, z, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(after, before - 2 * math.log(scale), rtol=1e-5, atol=1e-4)


def test_numbers_that_are_too_large_to_have_fractions_are_real():
    """Every float64 beyond 2^53 is an integer, and int64 ends at 9e18: light years in metres, numbers of molecules."""
    values = numpy.random.default_rng(0).normal(size=50) * 1e30
    column = numeric("a", values)
    assert (column.kind, numeric("b", numpy.arange(50.0)).kind) == ("continuous", "integer")
    assert numpy.allclose(column.values(column.rounded(torch.from_numpy(values)).numpy()), values)
