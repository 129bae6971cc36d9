"""The analytic truth is true: against autograd, against quadrature and against samples, in float64."""

import math

import pytest
import torch

from pushforward.data.mixture import GaussianMixture, mixture, three_gaussians
from pushforward.errors import ConditionError, DtypeError, ShapeError, UserError
from pushforward.paths import Cosine, Linear

EXACT = {"rtol": 1e-12, "atol": 1e-12}
MIXTURES = {
    "line": lambda: GaussianMixture(torch.tensor([[-2.0], [1.0]], dtype=torch.float64), torch.tensor([0.5, 1.5]), torch.tensor([3.0, 1.0])),
    "plane": lambda: three_gaussians(torch.float64),
    "image": lambda: GaussianMixture(torch.linspace(-2, 2, 18, dtype=torch.float64).sin().reshape(3, 1, 2, 3), 0.7),
}


@pytest.fixture(params=MIXTURES)
def truth(request):
    return MIXTURES[request.param]()


def points(truth, n=7):
    return 2 * torch.randn(n, *truth.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_the_density_integrates_to_one():
    """The sum over a grid of step h is wrong by exp(-2 (pi s / h)^2), here below 1e-70; the border is 13 standard deviations away."""
    axis = torch.arange(-12, 12, 0.05, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    total = three_gaussians(torch.float64).log_prob(grid).exp().sum() * 0.05**2
    torch.testing.assert_close(total, torch.ones((), dtype=torch.float64), **EXACT)


def test_log_prob_is_that_of_torch_distributions(truth):
    components = torch.distributions.Independent(
        torch.distributions.Normal(truth.means, truth.stds.reshape(-1, *[1] * len(truth.shape)).expand_as(truth.means)), len(truth.shape)
    )
    other = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(truth.weights), components)
    torch.testing.assert_close(truth.log_prob(points(truth)), other.log_prob(points(truth)), **EXACT)


def test_the_score_is_the_gradient_of_log_prob(truth):
    x = points(truth).requires_grad_()
    (gradient,) = torch.autograd.grad(truth.log_prob(x).sum(), x)
    torch.testing.assert_close(truth.score(x), gradient, **EXACT)


@pytest.mark.parametrize(("alpha", "sigma"), [(0.9, 0.1), (0.3, 0.7), (1.0, 5.0), (1e-3, 1.0), (1.0, 1e-3)])
def test_the_posterior_mean_is_tweedies(truth, alpha, sigma):
    """E[x_0 | x] = (x + sigma^2 score_t(x)) / alpha, the score by autograd of the marginal (Robbins 1956)."""
    x = points(truth).requires_grad_()
    (score,) = torch.autograd.grad(truth.marginal(alpha, sigma).log_prob(x).sum(), x)
    rounding = 1e-12 / alpha  # of the division
    torch.testing.assert_close(truth.posterior_mean(x, alpha, sigma), (x + sigma**2 * score) / alpha, rtol=1e-12, atol=rounding)
    torch.testing.assert_close(truth.posterior_noise(x, alpha, sigma), -sigma * score, **EXACT)


def test_the_posterior_mean_is_that_of_quadrature():
    truth, x, alpha, sigma = MIXTURES["line"](), torch.tensor([[0.7]], dtype=torch.float64), 0.6, 0.8
    grid = torch.arange(-20, 20, 0.005, dtype=torch.float64)[:, None]
    log_joint = truth.log_prob(grid) - (x[0] - alpha * grid[:, 0]) ** 2 / (2 * sigma**2)
    torch.testing.assert_close(truth.posterior_mean(x, alpha, sigma)[0], log_joint.softmax(0) @ grid, **EXACT)


def test_the_posterior_is_stated_at_both_ends(truth):
    """At sigma = 0 the data is x / alpha and the noise unknown; at alpha = 0 the noise is x / sigma and the data unknown."""
    x = points(truth)
    zero = torch.zeros(len(x), dtype=torch.float64)
    scale = torch.linspace(0.5, 2, len(x), dtype=torch.float64)
    column = scale.reshape(-1, *[1] * len(truth.shape))
    mean = torch.einsum("k,k...->...", truth.weights, truth.means)
    torch.testing.assert_close(truth.posterior_mean(x, scale, zero), x / column, **EXACT)
    torch.testing.assert_close(truth.posterior_noise(x, scale, zero), torch.zeros_like(x), **EXACT)
    torch.testing.assert_close(truth.posterior_mean(x, zero, scale), mean.expand_as(x), **EXACT)
    torch.testing.assert_close(truth.posterior_noise(x, zero, scale), x / column, **EXACT)


def test_data_and_noise_add_up_to_x(truth):
    x = points(truth)
    alpha, sigma = torch.linspace(0, 1, len(x), dtype=torch.float64), torch.linspace(1, 0, len(x), dtype=torch.float64)
    a, s = (one.reshape(-1, *[1] * len(truth.shape)) for one in (alpha, sigma))
    torch.testing.assert_close(a * truth.posterior_mean(x, alpha, sigma) + s * truth.posterior_noise(x, alpha, sigma), x, **EXACT)


@pytest.mark.parametrize(("path", "prediction"), [(path, kind) for path in (Linear(), Cosine()) for kind in path.kinds])
def test_the_net_predicts_what_the_path_converts_the_data_to(truth, path, prediction):
    x = points(truth)
    t = torch.linspace(0.1, 0.9, len(x), dtype=torch.float64)
    data = truth.posterior_mean(x, path.alpha(t), path.sigma(t))
    a, b = path.coefficients("data", prediction, t)
    a, b = (torch.as_tensor(one, dtype=torch.float64).expand(len(x)).reshape(-1, *[1] * len(truth.shape)) for one in (a, b))
    torch.testing.assert_close(truth.net(path, prediction)(x, t), a * x + b * data, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("prediction", ["velocity", "noise", "data", "score"])
def test_the_net_is_finite_at_both_ends(truth, prediction):
    x = points(truth, n=2)
    assert truth.net(Linear(), prediction)(x, torch.tensor([0.0, 1.0], dtype=torch.float64)).isfinite().all()


def test_the_velocity_carries_the_density():
    """The continuity equation: d log p_t / dt = -div v - v . score along the linear path, all by autograd."""
    truth, x, t = three_gaussians(torch.float64), torch.tensor([0.3, -0.4], dtype=torch.float64), torch.tensor(0.4, dtype=torch.float64)

    def log_prob(x, t):  # of the marginal, written out so that autograd sees t
        variance = ((1 - t) * truth.stds) ** 2 + t**2
        squares = (x - (1 - t) * truth.means).square().sum(1)
        return torch.logsumexp(truth.weights.log() - squares / (2 * variance) - (2 * math.pi * variance).log(), 0)

    def velocity(x):
        return truth.net(Linear(), "velocity")(x[None], t[None])[0]

    rate = torch.func.grad(log_prob, argnums=1)(x, t)
    divergence = torch.func.jacrev(velocity)(x).trace()
    torch.testing.assert_close(rate, -divergence - velocity(x) @ torch.func.grad(log_prob)(x, t), **EXACT)


def test_the_condition_is_the_component(truth):
    x, count = points(truth), len(truth.weights)
    alone = GaussianMixture(truth.means[1:2], truth.stds[1:2])
    torch.testing.assert_close(truth.log_prob(x, torch.ones(len(x), dtype=torch.int64)), alone.log_prob(x), **EXACT)
    torch.testing.assert_close(truth.log_prob(x, torch.full((len(x),), count)), truth.log_prob(x), **EXACT)
    t = torch.linspace(0, 1, len(x), dtype=torch.float64)
    conditional = truth.net(Linear(), "velocity")(x, t, torch.ones(len(x), dtype=torch.int64))
    torch.testing.assert_close(conditional, alone.net(Linear(), "velocity")(x, t), **EXACT)


def test_samples_have_the_moments_of_the_mixture():
    """Mean and second moment of 100,000 draws, within 5 standard errors (each about 0.005 and 0.015): a false alarm in a million."""
    truth = three_gaussians(torch.float64)
    x = truth.sample(100_000, generator=torch.Generator().manual_seed(0))
    second = (truth.weights * (truth.stds**2 + truth.means.square().sum(1) / 2)).sum()
    assert (x.mean(0) - truth.weights @ truth.means).abs().max() < 0.025
    assert (x.square().mean() - second).abs() < 0.05


def test_the_data_set_is_drawn_from_the_truth():
    """The mean log p of 10,000 draws is minus the entropy, here by quadrature; its standard error is 0.0105."""
    data, truth = mixture(), three_gaussians(torch.float64)
    axis = torch.arange(-10, 10, 0.05, dtype=torch.float64)
    log_prob = truth.log_prob(torch.cartesian_prod(axis, axis))
    entropy = -(log_prob.exp() * log_prob).sum() * 0.05**2
    assert (three_gaussians().log_prob(data.x).mean() + entropy).abs() < 0.05


def test_it_is_a_module_that_moves_as_one(truth):
    net = truth.net(Linear(), "velocity").to(torch.float32)
    assert net(points(truth).float(), torch.rand(7)).dtype == torch.float32
    assert truth.means.dtype == torch.float64


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: GaussianMixture(torch.zeros(3), 1.0), UserError, r"shape \(K, \*shape\)"),
        (lambda: GaussianMixture(torch.zeros(3, 2), 0.0), UserError, "stds is .* must be positive"),
        (lambda: GaussianMixture(torch.zeros(3, 2), 1.0, torch.ones(2)), UserError, "weights has shape"),
        (lambda: GaussianMixture(torch.zeros(3, 2), 1.0, torch.tensor([1.0, 0.0, 1.0])), UserError, "weights is .* must be positive"),
        (lambda: three_gaussians().log_prob(torch.zeros(4, 3)), ShapeError, r"need \(n, 2\)"),
        (lambda: three_gaussians().score(torch.zeros(4, 2).double()), DtypeError, "torch.float64"),
        (lambda: three_gaussians().log_prob(torch.zeros(1, 2), torch.tensor([4])), ConditionError, "0 to 2, or 3 for all"),
        (lambda: three_gaussians().net(Linear(), "nose"), UserError, "did you mean 'noise'"),
    ],
)
def test_bad_input_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
