"""Distances between sets: against closed forms."""

import math

import pytest
import torch

from pushforward.errors import DataError, ShapeError, UserError
from pushforward.evaluation.distances import memorisation, nearest_neighbours, sliced_wasserstein, sliced_wasserstein_draws
from pushforward.evaluation.kernel_distance import kernel_distance


def seeded():
    return torch.Generator().manual_seed(0)


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(6,), (1, 2, 3)])
def test_a_shift_by_d_is_d_over_the_root_of_the_dimension(shape):
    """Along w it is (w . d)^2, whose mean is |d|^2 / D; 20,000 directions: relative error sqrt(2 D / (D + 2) / 20,000) / 2 < 0.5 %."""
    x, shift = normal(50, *shape), normal(*shape, seed=1)
    expected = shift.norm() / math.sqrt(shift.numel())
    torch.testing.assert_close(sliced_wasserstein(x, x + shift, 20_000, seeded()), expected, rtol=0.02, atol=0)


def test_a_scaling_about_the_mean_is_known():
    """Along w the sorted values are scaled too: SW^2 = (s - 1)^2 E[(w . x)^2] = (s - 1)^2 mean |x|^2 / D."""
    x = normal(200, 4)
    torch.testing.assert_close(sliced_wasserstein(x, 3 * x, 20_000, seeded()), 2 * x.square().mean().sqrt(), rtol=0.02, atol=0)


def test_in_one_dimension_it_is_the_wasserstein_distance():
    x, y = normal(30, 1), normal(30, 1, seed=1) + 1
    expected = (x.sort(0).values - y.sort(0).values).square().mean().sqrt()
    torch.testing.assert_close(sliced_wasserstein(x, y, 3), expected)


def test_order_does_not_matter():
    x = normal(100, 5)
    assert sliced_wasserstein(x, x.flip(0)) < 1e-12
    torch.testing.assert_close(
        sliced_wasserstein(x, x[:50].repeat(2, 1), 10, seeded()), sliced_wasserstein(x[:50].repeat(2, 1), x, 10, seeded())
    )


def test_chunks_of_directions_change_nothing(monkeypatch):
    x, y = normal(20, 3), normal(20, 3, seed=1)
    whole = sliced_wasserstein(x, y, 50, seeded())
    monkeypatch.setattr("pushforward.evaluation.distances.CHUNK", 64)
    torch.testing.assert_close(sliced_wasserstein(x, y, 50, seeded()), whole)


def test_it_has_a_gradient():
    x, y = normal(8, 3).requires_grad_(), normal(8, 3, seed=1)
    assert torch.autograd.gradcheck(lambda one: sliced_wasserstein(one, y, 7, seeded()), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_its_value_has_the_same_bits_where_a_gradient_is_asked_for(dtype):
    x, y = normal(300, 3).to(dtype), normal(300, 3, seed=1).to(dtype)
    x[::7] = x[0]  # ties
    assert torch.equal(sliced_wasserstein(x, y, 50, seeded()), sliced_wasserstein(x.clone().requires_grad_(), y, 50, seeded()).detach())


def test_it_has_a_derivative_by_forward_mode():
    x, y, direction = normal(20, 3), normal(20, 3, seed=1), normal(20, 3, seed=2)
    call = lambda one: sliced_wasserstein(one, y, 7, seeded())  # noqa: E731
    _, derivative = torch.func.jvp(call, (x,), (direction,))
    torch.testing.assert_close(derivative, (torch.func.grad(call)(x) * direction).sum())


def test_draws_have_a_mean_and_a_spread():
    spread = sliced_wasserstein_draws(normal(40, 3), normal(60, 3, seed=1) + 1, draws=8, projections=20, generator=seeded())
    assert spread.values.shape == (8,)
    assert spread.mean == pytest.approx(float(spread.values.mean()))
    assert spread.std == pytest.approx(float(spread.values.std()))
    assert len(spread.values.unique()) == 8


def test_draws_of_equal_sets_use_all_of_them():
    x = normal(40, 3)
    assert sliced_wasserstein_draws(x, x.flip(0), draws=3).mean < 1e-12


def test_draws_of_a_size_use_subsets():
    x = normal(40, 3)
    assert sliced_wasserstein_draws(x, x, draws=3, size=20).mean > 0.05


def test_one_draw_has_no_spread():
    assert sliced_wasserstein_draws(normal(4, 3), normal(5, 3, seed=1), draws=1).std == 0


@pytest.mark.parametrize("chunk", [1, 100, 2**24])
def test_nearest_neighbours_are_those_of_all_distances(monkeypatch, chunk):
    monkeypatch.setattr("pushforward.evaluation.distances.CHUNK", chunk)
    x, reference = normal(30, 1, 2, 3), normal(50, 1, 2, 3, seed=1)
    expected = (x[:, None] - reference).flatten(2).norm(dim=2).min(dim=1).values
    torch.testing.assert_close(nearest_neighbours(x, reference), expected)


def test_a_copy_is_at_distance_zero():
    """Far from the origin in float32, where the product form alone would say some 4."""
    reference = torch.randn(50, 64, generator=seeded()) + 1000
    assert nearest_neighbours(reference.flip(0), reference).max() == 0


def test_a_model_that_copies_is_seen():
    train, test = normal(300, 8), normal(100, 8, seed=1)
    record = memorisation(train[:50] + 1e-3, train[:100], test, seeded())
    assert record.closer_to_train == 1
    assert record.medians["samples_to_train"] < 0.01 < record.medians["samples_to_test"]


def test_a_model_that_does_not_copy_is_even():
    """The share of 2,000 fresh samples; with sets of 1,000 its standard deviation is about 0.02, so 0.1 is 5 of them."""
    draw = torch.randn(5000, 4, generator=seeded())
    record = memorisation(draw[:2000], draw[2000:4000], draw[4000:], seeded())
    assert record.closer_to_train == pytest.approx(0.5, abs=0.1)
    assert record.test_to_train.shape == (1000,)
    assert record.medians["samples_to_train"] == pytest.approx(record.medians["test_to_train"], rel=0.1)


def test_ties_count_half():
    x = torch.zeros(4, 2)
    assert memorisation(x, x, x).closer_to_train == 0.5


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: sliced_wasserstein(torch.zeros(3, 2), torch.zeros(4, 2)), ShapeError, "or sliced_wasserstein_draws"),
        (lambda: sliced_wasserstein(torch.zeros(0, 2), torch.zeros(0, 2)), ShapeError, "not empty"),
        (lambda: sliced_wasserstein(torch.zeros(3, 2), torch.zeros(3, 2), 0), UserError, "projections is 0"),
        (lambda: sliced_wasserstein_draws(torch.zeros(3, 2), torch.zeros(4, 2), draws=0), UserError, "draws is 0"),
        (lambda: sliced_wasserstein_draws(torch.zeros(3, 2), torch.zeros(4, 2), size=4), UserError, "between 1 and 3"),
        (lambda: nearest_neighbours(torch.zeros(3, 2), torch.zeros(4, 3)), ShapeError, "reference"),
        (lambda: nearest_neighbours(torch.zeros(3, 2), torch.zeros(0, 2)), ShapeError, "m > 0"),
        (lambda: memorisation(torch.zeros(0, 2), torch.zeros(3, 2), torch.zeros(3, 2)), UserError, "samples is empty"),
    ],
)
def test_bad_input_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.uint8, torch.int64])
def test_distances_of_pixels_are_those_of_their_numbers(dtype):
    """Squares of 784 pixels overflow float16, and integers have no mean."""
    train, test = (torch.randint(0, 256, (50, 784), generator=torch.Generator().manual_seed(k)).to(dtype) for k in range(2))
    assert memorisation(train.clone(), train, test).closer_to_train == 1
    assert nearest_neighbours(train, train).max() == 0
    torch.testing.assert_close(nearest_neighbours(test, train), nearest_neighbours(test.float(), train.float()))
    torch.testing.assert_close(sliced_wasserstein(test, train, 50, seeded()), sliced_wasserstein(test.float(), train.float(), 50, seeded()))
    torch.testing.assert_close(kernel_distance(test, train), kernel_distance(test.double(), train.double()).float(), rtol=1e-6, atol=0)


def test_numbers_are_events_too():
    x = torch.tensor([0.0, 1.0, 5.0])
    assert nearest_neighbours(x, torch.tensor([0.5, 4.0])).tolist() == [0.5, 0.5, 1.0]
    assert sliced_wasserstein(x, x + 2, 10, seeded()) == 2


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("place", range(3))
def test_a_copy_without_a_value_is_not_taken_for_a_new_sample(bad, place):
    sets = [normal(10, 2, seed=k) for k in range(3)]
    sets[place][3, 1] = bad
    with pytest.raises(DataError, match=f"^{('samples', 'train', 'test')[place]} holds NaN or infinity"):
        memorisation(*sets)
