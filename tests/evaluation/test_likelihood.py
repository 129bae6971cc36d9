"""Bits per dimension: against entropies that are known."""

import math

import pytest
import torch
from torch import nn

from pushforward.data.dataset import Dataset
from pushforward.data.mixture import GaussianMixture, mixture, three_gaussians
from pushforward.errors import DataError, UserError
from pushforward.evaluation.likelihood import bits_per_dim
from pushforward.evaluation.quantise import quantise
from pushforward.functional.standardise import dequantise
from pushforward.nn.layers import Dequantise


class Uniform:
    """The density 1 / levels^D on [0, levels)^D: a model of levelled data that knows nothing, log2(levels) bits a dimension."""

    def __init__(self, levels):
        self.levels = levels

    def log_prob(self, x, cond=None):
        inside = ((x >= 0) & (x < self.levels)).flatten(1).all(1)
        return torch.where(inside, -x[0].numel() * math.log(self.levels), -math.inf)


class Slope:
    """The density 2 u on each unit interval, u = x - floor(x), so that E_u[log2 p] and log2 E_u[p] differ and are known."""

    def log_prob(self, x, cond=None):
        return (2 * (x - x.floor())).log().flatten(1).sum(1)


def levelled(n=100, levels=17):
    return Dataset("levelled", torch.randint(levels, (n, 1, 2, 2), generator=torch.Generator().manual_seed(0)), levels=levels)


def test_knowing_nothing_costs_log2_of_the_levels():
    bits = bits_per_dim(Uniform(17), levelled(), draws=3)
    assert bits.mean == pytest.approx(math.log2(17), rel=1e-6)
    assert bits.standard_error == pytest.approx(0, abs=1e-6)


def test_a_continuous_density_costs_its_entropy():
    """N(0, s^2) costs log2(s sqrt(2 pi e)) bits; the standard error of 10,000 draws is 0.01, and 5 of them fail once in 2 million."""
    gaussian = GaussianMixture(torch.zeros(1, 1), 3.0)
    data = Dataset("gaussian", gaussian.sample(10_000, generator=torch.Generator().manual_seed(0)))
    bits = bits_per_dim(gaussian, data)
    assert abs(bits.mean - math.log2(3 * math.sqrt(2 * math.pi * math.e))) < 5 * bits.standard_error
    assert bits.standard_error == pytest.approx(math.sqrt(0.5) / math.log(2) / 100, rel=0.1)


def test_the_mean_over_draws_is_outside_the_log_by_default_and_inside_for_importance():
    """E[log2 2u] = 1 - 1 / ln 2 = -0.4427 and log2 E[2u] = 0; with 4 dimensions and 2,000 draws the latter has an error of 0.02."""
    data, generator = levelled(n=20), torch.Generator().manual_seed(0)
    outside = bits_per_dim(Slope(), data, draws=2000, generator=generator).mean
    inside = bits_per_dim(Slope(), data, draws=2000, average="importance", generator=generator).mean
    assert outside == pytest.approx(1 / math.log(2) - 1, abs=0.02)
    assert inside == pytest.approx(0, abs=0.02)


def test_continuous_data_are_not_dequantised():
    seen = []

    class Spy:
        def log_prob(self, x, cond=None):
            seen.append(x)
            return torch.zeros(len(x))

    data = Dataset("floats", torch.randn(5, 2))
    bits_per_dim(Spy(), data, draws=4)
    assert len(seen) == 1
    assert torch.equal(seen[0], data.x)


def test_given_mixture_and_none_are_what_they_say():
    truth, data = three_gaussians(), mixture("test", n=500)
    weights = torch.tensor([0.5, 0.3, 0.2])
    scale = -1 / (2 * math.log(2))
    torch.testing.assert_close(bits_per_dim(truth, data).per_example, scale * truth.log_prob(data.x, data.cond).double())
    whole = scale * truth.log_prob(data.x).double()
    torch.testing.assert_close(bits_per_dim(truth, data, cond="none").per_example, whole)
    torch.testing.assert_close(bits_per_dim(truth, data, cond="mixture", class_weights=weights).per_example, whole, rtol=1e-5, atol=1e-5)
    equal = GaussianMixture(truth.means, truth.stds)
    torch.testing.assert_close(
        bits_per_dim(truth, data, cond="mixture").per_example, scale * equal.log_prob(data.x).double(), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_the_batch_size_changes_nothing(batch_size):
    truth, data = three_gaussians().double(), mixture("test", n=50)
    whole = bits_per_dim(truth, data).per_example
    torch.testing.assert_close(bits_per_dim(truth, data, batch_size=batch_size).per_example, whole, rtol=1e-12, atol=1e-12)


def test_the_same_generator_gives_the_same_bits():
    first, second = (bits_per_dim(Slope(), levelled(), generator=torch.Generator().manual_seed(3)).mean for _ in range(2))
    assert first == second


def test_a_model_is_judged_in_eval_mode_and_gets_its_modes_back():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.frozen, self.weight = nn.Dropout(), nn.Parameter(torch.zeros(()))

        def log_prob(self, x, cond=None):
            assert not self.training
            assert not self.frozen.training
            return x.flatten(1).sum(1) * self.weight

    model = Model().train()
    model.frozen.eval()
    assert not bits_per_dim(model, levelled()).per_example.requires_grad
    assert model.training
    assert not model.frozen.training


def test_options_reach_log_prob():
    class Model:
        def log_prob(self, x, cond=None, *, sampler=None):
            return torch.full((len(x),), float(sampler))

    assert bits_per_dim(Model(), levelled(), sampler=4 * math.log(2)).mean == pytest.approx(-1)


def test_one_example_has_no_standard_error():
    assert math.isnan(bits_per_dim(Uniform(17), levelled(n=1)).standard_error)


def test_the_record_prints():
    assert str(bits_per_dim(Uniform(16), levelled(levels=16))) == "4.000 +- 0.000 bits/dim"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"cond": "mix"}, UserError, "'mix' is not a known way to condition; did you mean 'mixture'"),
        ({"average": "median"}, UserError, "'median' is not a known average"),
        ({"draws": 0}, UserError, "draws is 0"),
        ({"cond": "mixture"}, DataError, "levelled has no classes"),
    ],
)
def test_bad_arguments_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        bits_per_dim(Uniform(17), levelled(), **options)


def test_class_weights_that_do_not_fit_are_refused():
    for weights in (torch.ones(2), torch.tensor([1.0, -1.0, 1.0]), torch.zeros(3)):
        with pytest.raises(UserError, match="3 classes need one non-negative weight each"):
            bits_per_dim(three_gaussians(), mixture(n=5), cond="mixture", class_weights=weights)


def test_nan_is_refused_with_its_row():
    class Broken:
        def log_prob(self, x, cond=None):
            return torch.where(torch.arange(len(x)) < 3, 0.0, math.nan)

    with pytest.raises(ArithmeticError, match="NaN for 97 of 100 examples of levelled, first for row 3"):
        bits_per_dim(Broken(), levelled())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_quantise_undoes_dequantise(dtype):
    """2^22 draws a level in float32: some of 255 + u would round to 256 (u > 1 - 2^-18), so that the test is not empty."""
    x = torch.tensor([0.0, 16.0, 255.0], dtype=dtype).repeat_interleave(2**20)
    uniform = torch.rand(x.shape, generator=torch.Generator().manual_seed(0), dtype=dtype)
    assert torch.equal(quantise(dequantise(x, uniform), 256), x)


def test_dequantised_values_are_uniform_within_their_level():
    """The mean of 100,000 uniform numbers has standard error 0.0009."""
    noise = Dequantise()(torch.full((100_000,), 3.0), torch.Generator().manual_seed(0)) - 3
    assert 0 <= noise.min() < 1e-3
    assert 1 - 1e-3 < noise.max() < 1
    assert (noise.mean() - 0.5).abs() < 0.0045


def test_quantise_clamps():
    assert quantise(torch.tensor([-5.0, 0.999, 300.0]), 17).tolist() == [0, 0, 16]
    with pytest.raises(UserError, match="levels is 1"):
        quantise(torch.zeros(3), 1)
