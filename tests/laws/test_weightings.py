"""What every weighting owes: the same loss in every prediction, finite at all times."""

import pytest
import torch
from examples import kinds_of, things

from pushforward.data.mixture import three_gaussians
from pushforward.errors import UserError
from pushforward.families.path_model import PathModel
from pushforward.nn.preconditioned import Preconditioned
from pushforward.paths import Path, VarianceExploding, VariancePreserving
from pushforward.weightings import MinSNR, NoiseLoss, Unit, Weighting

WEIGHTINGS = things("weightings", of=Weighting)
PATHS = things("paths", of=Path)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("make", WEIGHTINGS)
def test_the_weighted_loss_does_not_depend_on_the_prediction(make, path):
    """For one function in several ways, here off the truth by a tenth of x, the weighted errors agree."""
    path, weighting, truth = path(), make(), three_gaussians(torch.float64)
    low, high = path.interval_for("score")
    t = low + (high - low) * torch.tensor([0.1, 0.4, 0.8])
    x, data = torch.randn(3, 2), torch.randn(3, 2)
    errors = []
    for kind in path.kinds:
        _, b = path.coefficients("data", kind, t)
        error = torch.as_tensor(b)[..., None] * (truth.net(path, "data")(x, t) - data)  # of what the net says, in this prediction
        errors.append((weighting(path, kind, t)[:, None] * error.square()).sum(1))
    for other in errors[1:]:
        torch.testing.assert_close(other, errors[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("path", "kind"), kinds_of(PATHS))
@pytest.mark.parametrize("make", WEIGHTINGS)
def test_weights_are_finite_and_not_negative(make, path, kind, dtype):
    path = path()
    weights = make()(path, kind, torch.linspace(*path.interval_for(kind), 101, dtype=dtype))
    assert (weights.isfinite() & (weights >= 0)).all()
    assert weights.dtype == dtype


def test_the_noise_loss_weighs_noise_by_one_and_min_snr_by_at_most_one():
    path, t = VariancePreserving(), torch.linspace(0.001, 1, 50)
    torch.testing.assert_close(NoiseLoss()(path, "noise", t), torch.ones(50), rtol=1e-9, atol=1e-9)
    snr = (path.alpha(t) / path.sigma(t)) ** 2
    torch.testing.assert_close(MinSNR(5.0)(path, "noise", t), snr.clamp_max(5) / snr, rtol=1e-9, atol=1e-9)


def test_a_model_counts_its_loss_by_the_weight():
    from examples import At

    path, x, noise = VariancePreserving(), torch.randn(9, 2), torch.randn(9, 2)
    plain, weighted = (
        PathModel(lambda x, t, cond: 0 * x, (2,), path, "noise", At(0.3), weighting=one).loss(x, noise=noise) for one in (None, MinSNR())
    )
    low, high = path.interval
    torch.testing.assert_close(weighted / plain, MinSNR()(path, "noise", torch.tensor(low + 0.3 * (high - low))), rtol=1e-6, atol=0)


@pytest.mark.parametrize("data_std", [0.5, 2.0])
def test_preconditioned_inputs_and_targets_have_unit_variance(data_std):
    """20,000 pairs, seed 0, at noise from 0.002 to 80: input and target (data - c_skip x) / c_out, to 5 standard errors of 0.01."""
    path, heard = VarianceExploding(0.002, 80.0), []

    def net(x, t, cond):
        heard.append((x, t))
        return torch.zeros_like(x)

    preconditioned = Preconditioned(net, path, data_std)
    data, noise = data_std * torch.randn(20_000, 1), torch.randn(20_000, 1)
    for t in (0.0, 0.4, 0.7, 1.0):
        t = torch.full((20_000,), t)
        x = path.mix(data, noise, t)
        skipped = preconditioned(x, t)
        target = (data - skipped) * (Unit(data_std)(path, "data", t)[:, None]).sqrt()  # 1 / c_out² is EDM's weight
        torch.testing.assert_close(heard[-1][1], t, rtol=0, atol=1e-9)
        for one in (heard[-1][0], target):
            assert abs(float(one.var()) - 1) < 0.05


def test_preconditioning_reads_a_paths_parameters_as_they_are():
    class Learnable(torch.nn.Module, VarianceExploding):
        def __init__(self):
            torch.nn.Module.__init__(self)
            self.high = torch.nn.Parameter(torch.tensor(3.0))

        interval = (0.1, 1.0)

        def alpha(self, t):
            return torch.ones_like(t)

        def sigma(self, t):
            return self.high * t

    path, x, t = Learnable(), torch.randn(3, 1), torch.full((3,), 0.5)
    times = []
    net = Preconditioned(lambda x, t, cond: times.append(t) or x, path)
    net(x, t)
    with torch.no_grad():
        path.high.fill_(300.0)
    net(x, t)
    torch.testing.assert_close(times[0], times[1])  # sigma(t) / sigma's ends is as before, so is the position between them


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MinSNR(0.0), "gamma is 0.0"),
        (lambda: Unit(-1.0), "data_std is -1.0"),
        (lambda: Preconditioned(torch.nn.Identity(), VarianceExploding(), 0.0), "data_std is 0.0"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(UserError, match=message):
        call()
