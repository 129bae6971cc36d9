"""A variance that is learned: its bound is least at the variance of the reversal itself, and sampling draws with it."""

import pytest
import torch

import pushforward as pf
from pushforward.errors import ShapeError, UserError
from pushforward.families.path_model import PathModel
from pushforward.families.variance_bound import variance_bound
from pushforward.paths import Cosine, Linear
from pushforward.samplers.ddpm import DDPM


class Known(torch.nn.Module):
    """The exact noise prediction for data N(0, std²) along the cosine path, and a share that is the same everywhere."""

    def __init__(self, std, share):
        super().__init__()
        self.std, self.share = std, share

    def forward(self, x, t, cond=None):
        alpha, sigma = (one(t)[:, None] for one in (Cosine().alpha, Cosine().sigma))
        return torch.cat((sigma * x / (alpha**2 * self.std**2 + sigma**2), torch.full_like(x, 2 * self.share - 1)), 1)


def model(std, share):
    return PathModel(pf.nn.WithVariance(Known(std, share)), (1,), Cosine(), "noise")


@pytest.mark.parametrize("std", [0.3, 1.0, 2.0])
def test_the_bound_is_least_at_the_variance_of_the_reversal(float64, std):
    """x_s given x_t varies by kappa² + c² Var[data | x_t]; in units of kappa² that is 1 + (snr_s - snr_t) Var[data | x_t]."""
    path, t = Linear(), torch.tensor([0.5])
    s = t - 1e-3
    alpha, sigma = path.alpha(t), path.sigma(t)
    left = 1 / (1 / std**2 + alpha**2 / sigma**2)  # variance of the data given x_t
    snr_t, snr_s = (path.alpha(one) ** 2 / path.sigma(one) ** 2 for one in (t, s))
    best = torch.log1p((snr_s - snr_t) * left) / (2 * (sigma.log() - path.sigma(s).log()))
    share = best.view(1, 1).clone().requires_grad_()
    error = left.sqrt().view(1, 1)  # of a prediction that is off by one deviation: the expected square
    variance_bound(path, torch.zeros(1, 1), error, share, t, 0.0).sum().backward()
    assert share.grad.abs().item() < 1e-12
    least, more = (variance_bound(path, torch.zeros(1, 1), error, one, t, 0.0).item() for one in (share, share + 0.1))
    assert least < more


@pytest.mark.parametrize(("variance", "share"), [("auto", 1.0), ("auto", 0.3), ("large", 0.0), ("small", 1.0)])
def test_few_steps_draw_with_the_variance_that_was_asked_for(float64, variance, share):
    """For N(0, 1) the large variance makes x_s exactly N(0, 1), so that only the last step, to the expected data, takes some away."""
    one, sampler = model(1.0, share), DDPM(5, variance=variance)
    made = one.sample(40_000, sampler=sampler, generator=torch.Generator().manual_seed(0))
    times = torch.tensor(sampler.grid(one.interval[1], one.interval[0], 5, one.path))
    alpha, sigma = one.path.alpha(times).tolist(), one.path.sigma(times).tolist()
    used = {"small": 0.0, "large": 1.0}.get(variance, share)
    expected = 1.0
    for k in range(4):  # x' = (alpha' alpha + rho sigma' sigma) x + kappa (sigma / sigma')^used xi
        rho = alpha[k] * sigma[k + 1] / (alpha[k + 1] * sigma[k])
        kappa = sigma[k + 1] * (1 - rho**2) ** 0.5 * (sigma[k] / sigma[k + 1]) ** used
        expected = (alpha[k + 1] * alpha[k] + rho * sigma[k + 1] * sigma[k]) ** 2 * expected + kappa**2
    assert used < 1 or expected == pytest.approx(1, abs=1e-12)
    # The deviation of a variance of 40,000 normal numbers is 0.0071 of it: five of them are wrong once in two million.
    assert made.var().item() == pytest.approx(alpha[4] ** 2 * expected, rel=0.036)


def test_the_loss_teaches_the_share_of_normal_data():
    torch.manual_seed(0)
    one = pf.models.ddpm(pf.nn.MLP.Config((32,)), (1,), path=pf.paths.Discrete((0.3,) * 10), learn_variance=True)
    optimiser, generator = torch.optim.Adam(one.parameters(), 1e-2), torch.Generator().manual_seed(0)
    for _ in range(400):
        loss = one.loss(torch.randn(256, 1, generator=generator), generator=generator)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    share = one.net.with_variance(torch.randn(200, 1, generator=generator), torch.full((200,), 0.5))[1]
    assert 0.8 < share.mean().item() < 1.2  # at the start it is near 1/2, for N(0, 1) it is 1


@pytest.mark.parametrize("config", [pf.nn.MLP.Config((8,)), pf.nn.UNet.Config(channels=8), pf.nn.DiT.Config(width=16, depth=1, heads=2)])
def test_every_network_can_say_a_variance_and_keeps_its_verbs(config, tmp_path):
    one = pf.models.ddpm(config, (1, 8, 8), learn_variance=True, classes=3, drop_cond=0.1, sampler=DDPM(3))
    x, labels = torch.randn(2, 1, 8, 8), torch.tensor([0, 2])
    one.loss(x, labels).backward()
    assert all(p.grad is not None for p in one.net.net.parameters() if p.requires_grad)
    assert one.sample(2, labels, guidance=2.0).shape == x.shape
    assert one.log_prob(x, labels, divergence="hutchinson", sampler=pf.samplers.Euler(2)).shape == (2,)
    again = pf.load(pf.save(one, tmp_path / "model"))
    t = torch.rand(2)
    assert torch.equal(again.net.with_variance(x, t, labels)[1], one.eval().net.with_variance(x, t, labels)[1])


def test_guidance_keeps_the_variance_that_the_network_says():
    one = pf.models.ddpm(pf.nn.MLP.Config((8,)), (2,), learn_variance=True, classes=3, drop_cond=0.1)
    torch.nn.init.normal_(one.net.net.out.weight)
    x, t, labels = torch.randn(4, 2), torch.full((4,), 0.5), torch.tensor([0, 1, 2, 0])
    guided, plain = one.denoiser(labels, 3.0).with_variance(x, t), one.denoiser(labels).with_variance(x, t)
    assert torch.equal(guided.share, plain.share)
    assert not torch.allclose(guided.velocity, plain.velocity)


def test_a_network_that_says_too_little_and_an_unknown_variance_are_refused():
    with pytest.raises(ShapeError, match="a learned variance needs twice the channels; build it with outputs=2"):
        pf.models.ddpm(pf.nn.MLP(2, 2, time_features=4), (2,), learn_variance=True).loss(torch.randn(3, 2))
    with pytest.raises(UserError, match="'huge' is not a known variance; known are auto, large, small"):
        DDPM(5, variance="huge")
