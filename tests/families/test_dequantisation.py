"""Variational dequantisation: a bound on the probability of quantised data, by a density that is learned."""

import math

import pytest
import torch

from pushforward import evaluation, models
from pushforward.bijections import Chain, Scale
from pushforward.data.dataset import Dataset
from pushforward.errors import UserError
from pushforward.families.normalizing_flow import NormalizingFlow

STEPS = 100  # of the midpoint rule on each side of a cell


@pytest.fixture
def tiny(float64):
    """A flow of images of two pixels with three values, away from where it starts."""
    model = models.realnvp_image(shape=(1, 1, 2), levels=1, depth=2, hidden=4, activation="tanh", values=3, dequantise="variational")
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.15 * torch.randn_like(p))
    return model


@pytest.fixture
def images():
    return torch.tensor([[0.0, 0.0], [1.0, 2.0], [2.0, 1.0]], dtype=torch.float64).view(3, 1, 1, 2)


@torch.no_grad()
def on_a_grid(model, x):
    """Log p(x + u) and log q(u | x) at the midpoints of a grid over the cell of each image (n, STEPS²)."""
    axis = (torch.arange(STEPS, dtype=torch.float64) + 0.5) / STEPS
    u = torch.cartesian_prod(axis, axis).view(-1, 1, 1, 2)
    log_p, log_q = [], []
    for row in x:
        noise, log_abs_det = model.dequantisation.inverse(u, ((2 * row + 1) / 3 - 1).expand(len(u), 1, 1, 2))
        log_q.append(model.base.log_prob(noise) + log_abs_det)
        log_p.append(model.log_prob(row + u))
    return torch.stack(log_p), torch.stack(log_q)


def test_q_is_a_density_over_the_cell_and_what_is_drawn_has_it(tiny, images):
    _, log_q = on_a_grid(tiny, images)
    torch.testing.assert_close(log_q.exp().mean(1), torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-3)
    y, said = tiny.dequantised(images, torch.Generator().manual_seed(1))
    assert torch.equal(y.floor(), images)
    noise, log_abs_det = tiny.dequantisation.inverse(y - images, (2 * images + 1) / 3 - 1)
    torch.testing.assert_close(said, tiny.base.log_prob(noise) + log_abs_det)


def test_the_bound_is_below_the_probability_and_what_draws_give_on_average(tiny, images):
    """10,000 draws, to 4 standard errors."""
    log_p, log_q = on_a_grid(tiny, images)
    probability = log_p.logsumexp(1) - 2 * math.log(STEPS)
    bound = (log_q.exp() * (log_p - log_q)).mean(1)
    assert (bound < probability).all()
    with torch.no_grad():
        y, said = tiny.dequantised(images.repeat(10000, 1, 1, 1), torch.Generator().manual_seed(1))
        drawn = (tiny.log_prob(y) - said).view(10000, 3)
    assert ((drawn.mean(0) - bound).abs() < 4 * drawn.std(0) / 100 + 1e-3).all()


def test_the_loss_is_minus_the_bound_per_dimension_and_teaches_both_flows(tiny, images):
    loss = tiny.loss(images, generator=torch.Generator().manual_seed(1))
    y, log_q = tiny.dequantised(images, torch.Generator().manual_seed(1))
    torch.testing.assert_close(loss, (log_q - tiny.log_prob(y)).mean() / 2)
    loss.backward()
    assert all(bool((p.grad != 0).any()) for p in tiny.dequantisation.parameters())


@pytest.mark.slow
def test_learning_q_alone_tightens_the_bound(tiny, images):
    gaps = []
    optimizer = torch.optim.Adam(tiny.dequantisation.parameters(), 0.01)
    for _ in range(2):
        log_p, log_q = on_a_grid(tiny, images)
        gaps.append(float((log_p.logsumexp(1) - 2 * math.log(STEPS) - (log_q.exp() * (log_p - log_q)).mean(1)).mean()))
        for _ in range(40):
            optimizer.zero_grad()
            tiny.loss(images.repeat(30, 1, 1, 1), generator=torch.Generator().manual_seed(1)).backward()
            optimizer.step()
    assert 0 < gaps[1] < 0.7 * gaps[0]


def test_bits_per_dimension_are_those_of_the_bound(tiny, images):
    """50 draws are known to 0.05 bits."""
    found = evaluation.bits_per_dim(tiny, Dataset("three", images, levels=3), draws=50, generator=torch.Generator().manual_seed(1))
    log_p, log_q = on_a_grid(tiny, images)
    assert found.mean == pytest.approx(float(-(log_q.exp() * (log_p - log_q)).mean() / (2 * math.log(2))), abs=0.15)


def test_what_cannot_be_is_refused_by_name():
    for call, message in (
        (lambda: models.glow(1, 4, dequantise="variational"), "dequantise is 'variational', but values is None"),
        (lambda: models.glow(1, 4, dequantise="flow", values=3), "dequantise is 'flow', but it is 'uniform' or 'variational'"),
        (lambda: NormalizingFlow(Scale(2), dequantisation=Chain([])), "a dequantisation is given, but levels is None"),
    ):
        with pytest.raises(UserError, match=message):
            call()
