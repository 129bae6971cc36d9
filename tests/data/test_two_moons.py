"""The two-moons task: densities that integrate to 1, Bayes' rule, exact draws of the posterior, and bad input."""

import math

import pytest
import torch

import pushforward as pf

seed = torch.Generator().manual_seed
MOONS = pf.data.TwoMoons()
# In the square both moons are whole; at the next two x they are cut by an edge, and at the last one by |s| >= 0 too.
OBSERVED = [(0.0, 0.0), (-0.95, 0.15), (-0.3, 0.7), (0.32, 0.1)]


def grid(low, high, step, centre=(0.0, 0.0)):
    """Return the midpoints (n, 2) of a square's cells in float64, and the area of a cell."""
    line = torch.arange(low + step / 2, high, step, dtype=torch.float64)
    return torch.cartesian_prod(line, line) + torch.tensor(centre, dtype=torch.float64), step**2


@pytest.mark.parametrize("theta", [(0.0, 0.0), (0.5, 0.4), (-0.9, 0.3)])
def test_the_likelihood_integrates_to_one(theta):
    theta = torch.tensor([theta], dtype=torch.float64)
    shift = MOONS.simulate(theta.expand(4000, 2), seed(0)).mean(0)
    x, area = grid(-0.3, 0.3, 0.002, shift.tolist())
    assert float(MOONS.log_likelihood(theta.expand(len(x), 2), x).exp().sum() * area) == pytest.approx(
        1, abs=3e-3
    )  # the ends of the moon cut cells


@pytest.mark.parametrize("x", OBSERVED)
def test_the_posterior_integrates_to_one(x):
    """A cell that the edge of the square or s = 0 cuts is counted as a whole or not at all: 2 % at a step of 0.002 and a width of 0.01."""
    theta, area = grid(-1, 1, 0.002)
    mass = float(MOONS.log_posterior(theta, torch.tensor([x], dtype=torch.float64)).exp().sum() * area)
    assert mass == pytest.approx(1, abs=4e-3 if x == (0.0, 0.0) else 0.02)


def test_the_evidence_is_the_mean_likelihood_of_the_prior():
    """Bayes: log p(theta | x) = log p(x | theta) - log 4 - log p(x). 400,000 draws of the prior have a relative error below 1.5 %."""
    wide = pf.data.TwoMoons(width=0.03)
    draws = wide.prior(400_000, seed(0)).double()
    for x in OBSERVED:
        x = torch.tensor([x], dtype=torch.float64)
        theta = wide.sample_posterior(1, x, seed(1)).double()
        evidence = float(wide.log_likelihood(theta, x) - math.log(4) - wide.log_posterior(theta, x))
        assert wide.log_likelihood(draws, x).exp().mean().log().item() == pytest.approx(evidence, abs=0.06)


@pytest.mark.parametrize("x", OBSERVED)
def test_draws_have_the_density_of_the_posterior(x):
    """Counts in cells of 0.1 against the integral of the density: for 20,000 draws in k cells a distance of about sqrt(k / 20,000) / 2."""
    x = torch.tensor(x)
    draws = MOONS.sample_posterior(20_000, x, seed(0))
    theta, area = grid(-1, 1, 0.004)
    mass = MOONS.log_posterior(theta, x.double()).exp() * area
    expected = torch.zeros(400, dtype=torch.float64).index_add(0, cell(theta), mass)
    counts = cell(draws).bincount(minlength=400) / 20_000
    assert 0.5 * float((counts - expected / expected.sum()).abs().sum()) < 0.04
    assert MOONS.log_posterior(draws, x).isfinite().all()


def cell(theta):
    index = ((theta + 1) * 10).long().clamp(0, 19)
    return 20 * index[:, 0] + index[:, 1]


def test_pairs_are_scored_in_chunks_as_one_by_one():
    theta, x = MOONS.draw(600, seed(0))
    one = torch.cat([MOONS.log_posterior(theta[k : k + 1], x[k]) for k in (0, 255, 256, 599)])
    assert torch.equal(MOONS.log_posterior(theta, x)[[0, 255, 256, 599]], one)


def test_the_set_has_what_was_simulated_as_condition():
    data = MOONS.dataset(10, seed(3))
    theta, x = MOONS.draw(10, seed(3))
    assert torch.equal(data.x, theta)
    assert torch.equal(data.cond, x)
    assert data.cond_features == 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pf.data.TwoMoons(width=0.0), "width is 0.0, but it must be positive"),
        (lambda: pf.data.TwoMoons(radius=math.inf), "radius is inf, but it must be a finite number"),
        (lambda: MOONS.prior(-1), "n is -1"),
        (lambda: MOONS.simulate(torch.zeros(3, 3)), "theta has shape (3, 3), but two moons have two numbers a row"),
        (lambda: MOONS.sample_posterior(3, torch.zeros(2, 2)), "x has 2 rows, but the posterior is drawn for one"),
        (lambda: MOONS.sample_posterior(3, torch.tensor([5.0, 0.0])), "parameters reach with probability 0"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace(")", r"\)")):
        call()


@pytest.mark.slow
def test_a_trained_flow_has_the_known_posterior():
    """A spline flow of 10,000 simulations: KL(p || q) below 1 nat over new pairs, where the prior has 6; samples in both moons."""
    torch.manual_seed(0)
    model = pf.models.nsf(2, 5, hidden=(64, 64), cond_features=2, preprocess="standardise")
    model = pf.Trainer(model, MOONS.dataset(10_000, seed(0)), steps=1500, batch_size=256, lr=2e-3, ema=0.99).fit().averaged_model.eval()
    theta, x = MOONS.draw(2000, seed(1))
    with torch.no_grad():
        gap = MOONS.log_posterior(theta, x) - model.log_prob(theta, x)
        made = model.sample(4000, torch.zeros(4000, 2), generator=seed(2))
    assert 0 < float(gap.mean()) < 1.0
    assert float((MOONS.log_posterior(theta, x) + math.log(4)).mean()) > 5
    assert 0.4 < float((made.sum(1) > 0).float().mean()) < 0.6
    exact = MOONS.sample_posterior(4000, torch.zeros(2), seed(3))
    counts = [cell(draws).bincount(minlength=400) / 4000 for draws in (made, exact)]
    assert 0.5 * float((counts[0] - counts[1]).abs().sum()) < 0.15
