"""Another path after training: the same data at the end, and the same density on the way."""

import pytest
import torch
from examples import marginal, some_of, things, truth_model

from pushforward.data.mixture import GaussianMixture
from pushforward.errors import UserError
from pushforward.families.path_model import PathModel
from pushforward.functional.prediction import KINDS
from pushforward.models.ddpm import ddpm
from pushforward.paths import Cosine, Linear, Path, VarianceExploding, VariancePreserving
from pushforward.samplers.dopri5 import Dopri5
from pushforward.samplers.euler import Euler

pytestmark = pytest.mark.usefixtures("float64")
PATHS = things("paths", of=Path)


@pytest.mark.parametrize(
    ("path", "other", "prediction"),
    [
        *some_of([VariancePreserving(), VarianceExploding()], [Linear(), Cosine()], KINDS),
        (VariancePreserving(), Linear(), "v"),
    ],
)
def test_samples_end_at_the_same_data(path, other, prediction):
    """Linear and Cosine have every log-SNR, so that both solves go over the same ones: x_tau = c x_t at both ends."""
    model, _ = truth_model(path, prediction, exact_base=False)
    following = model.follow(other)
    (low, high), (t_min, t_max) = (torch.tensor(one.interval) for one in (following, model))
    torch.testing.assert_close(other.log_snr(high), path.log_snr(t_max), rtol=1e-9, atol=1e-9)
    z = model.base.sample(4)
    there = following.decode(other.sigma(high) / path.sigma(t_max) * z, sampler=Dopri5(1e-6, 1e-6))
    expected = other.sigma(low) / path.sigma(t_min) * model.decode(z, sampler=Dopri5(1e-6, 1e-6))
    torch.testing.assert_close(there, expected, rtol=0, atol=2e-3)


@pytest.mark.parametrize(("trained", "make"), some_of([VariancePreserving(), Linear()], PATHS))
def test_the_density_is_the_mixtures_along_any_path(trained, make):
    """Of x at the common t_min, with the marginal at the common t_max as base.

    Solved at 1e-6 and right within 100 times that, as a discrete path is made of pieces.
    """
    model, truth = truth_model(trained, exact_base=False)
    following = model.follow(make())
    t_min, t_max = following.interval
    following.base = marginal(truth, following.path, t_max)
    x = marginal(truth, following.path, t_min).sample(3)
    expected = marginal(truth, following.path, t_min).log_prob(x)
    with torch.no_grad():
        torch.testing.assert_close(following.log_prob(x, sampler=Dopri5(1e-6, 1e-6)), expected, rtol=0, atol=1e-4)


def test_it_shares_the_network_and_its_condition():
    model = ddpm(shape=(2,), classes=3, drop_cond=0.1)
    following, cond = model.follow(Linear()), torch.tensor([0, 1, 2])
    assert {id(p) for p in following.parameters()} == {id(p) for p in model.parameters()}
    samples = [following.sample(3, c, sampler=Euler(2), generator=torch.Generator().manual_seed(0)) for c in (cond, cond.flip(0))]
    assert samples[0].shape == (3, 2)
    assert following.sample(3, cond, sampler=Euler(2), guidance=2.0).isfinite().all()


def test_another_base_is_refused():
    truth = GaussianMixture(torch.zeros(1, 2), 1.0)
    with pytest.raises(UserError, match="the base is GaussianMixture, but only a model from the Gaussian noise of its path can follow"):
        PathModel(truth.net(Linear()), (2,), base=truth).follow(Cosine())
