"""PathModel beside the truth: with the analytic mixture's network its densities are the mixture's, on every path and prediction."""

import pytest
import torch
from examples import SOLVED, TIGHT, At, marginal, some_of, things, truth_model

from pushforward.bases import Gaussian
from pushforward.data.mixture import GaussianMixture
from pushforward.errors import ConditionError, NotInvertibleError, UserError
from pushforward.families.path_model import PathModel
from pushforward.functional.prediction import KINDS
from pushforward.nn.mlp import MLP
from pushforward.paths import Cosine, Linear, Path, VarianceExploding
from pushforward.paths.discrete import Discrete
from pushforward.samplers.dopri5 import Dopri5
from pushforward.samplers.euler import Euler
from pushforward.samplers.heun import Heun
from pushforward.samplers.sampler import Sampler

pytestmark = pytest.mark.usefixtures("float64")
PATHS = things("paths", of=Path)


@pytest.mark.parametrize(
    ("solver", "within"), [(Dopri5(1e-6, 1e-6), 1e-5), pytest.param(TIGHT, SOLVED, marks=pytest.mark.slow)], ids=["quick", "tight"]
)
@pytest.mark.parametrize(
    ("prediction", "make"),
    [*some_of(KINDS, PATHS), *some_of(["v"], [one for one in PATHS if one.values[0]().variance_preserving])],
)
def test_the_exact_network_has_the_mixtures_density(make, prediction, solver, within):
    """Of x at t_min, whose law is the marginal there; base is the marginal at t_max.

    A solver takes its field to be smooth; a discrete path is made of pieces, which costs it a digit.
    """
    path = make()
    model, truth = truth_model(path, prediction, sampler=solver)
    x = truth.sample(3)
    expected = marginal(truth, path, model.interval[0]).log_prob(x)
    with torch.no_grad():
        torch.testing.assert_close(model.log_prob(x), expected, rtol=0, atol=(100 if isinstance(path, Discrete) else 10) * within)


@pytest.mark.slow
def test_with_its_own_base_a_velocity_model_on_lines_has_the_mixtures_density():
    model, truth = truth_model(Linear(), exact_base=False)
    x, cond = truth.draw(5)
    torch.testing.assert_close(model.log_prob(x), truth.log_prob(x), rtol=0, atol=SOLVED)
    torch.testing.assert_close(model.log_prob(x, cond), truth.log_prob(x, cond), rtol=0, atol=SOLVED)


def test_images_have_the_mixtures_density_too():
    truth = GaussianMixture(torch.randn(2, 1, 2, 2), 0.7)
    model, _ = truth_model(truth=truth, exact_base=False)
    x = truth.sample(3)
    torch.testing.assert_close(model.log_prob(x), truth.log_prob(x), rtol=0, atol=SOLVED)


def test_hutchinsons_log_prob_is_right_on_average():
    """400 estimates, seed 0: their mean is within 5 of its own standard errors."""
    model, truth = truth_model(exact_base=False, sampler=Dopri5(1e-5, 1e-5))
    x = truth.sample(1)
    with torch.no_grad():
        estimates = model.log_prob(x.expand(400, 2), divergence="hutchinson", generator=torch.Generator().manual_seed(0))
    assert abs(estimates.mean() - truth.log_prob(x)[0]) < 5 * estimates.std() / 20


@pytest.mark.parametrize("prediction", [*KINDS, "v"])
def test_an_mlp_that_predicts_anything_has_its_analytic_divergence(prediction):
    """The same model behind a plain function, which hides `value_and_divergence`, has the same likelihood by forward mode."""
    net, x, path = MLP(2, 2, (8, 8), time_features=4), torch.randn(3, 2), Cosine() if prediction == "v" else Linear()
    fast = PathModel(net, (2,), path, prediction, sampler=Heun(10))
    slow = PathModel(lambda x, t, cond: net(x, t, cond), (2,), path, prediction, sampler=Heun(10))
    torch.testing.assert_close(fast.log_prob(x), slow.log_prob(x), rtol=1e-4, atol=1e-4)


def test_the_base_is_the_noise_at_the_intervals_end():
    assert float(PathModel(MLP(2, 2), (2,), VarianceExploding()).base.std) == pytest.approx(50.0)


def test_where_noise_is_left_sampling_ends_with_the_expected_data():
    """Along VE sigma(0) = 0.01: the last evaluation takes it away, and a mixture of points gives points."""
    truth = GaussianMixture(torch.tensor([[-2.0], [2.0]]), 1e-6)
    model, _ = truth_model(VarianceExploding(), truth=truth, sampler=Dopri5(1e-6, 1e-6))
    x = model.sample(20)
    torch.testing.assert_close(x.abs(), torch.full((20, 1), 2.0), rtol=0, atol=1e-5)


class Heard(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.cond = None

    def forward(self, x, t, cond):
        self.cond = cond
        return x


def test_labels_are_dropped_in_training_at_their_rate():
    """2,000 labels at rate 0.3: 600 with a deviation of 20.5; 5 of them, a false alarm in 1.7 million."""
    model = PathModel(Heard(), (1,), classes=3, drop_cond=0.3)
    model.train().loss(torch.randn(2000, 1), torch.ones(2000, dtype=torch.int64), generator=torch.Generator().manual_seed(0))
    assert abs(int((model.net.cond == 3).sum()) - 600) < 103
    assert set(model.net.cond.tolist()) == {1, 3}


def test_labels_are_never_dropped_in_eval_mode():
    model, cond = PathModel(Heard(), (1,), classes=3, drop_cond=0.9), torch.arange(30) % 3
    model.eval().loss(torch.randn(30, 1), cond)
    assert torch.equal(model.net.cond, cond)


@pytest.mark.parametrize("prediction", KINDS)
def test_the_exact_network_has_the_least_loss(prediction):
    """Any other network does worse on the same draws: here one that is off by 0.1 everywhere, which costs 0.01 but for its covariance."""
    model, truth = truth_model(prediction=prediction, exact_base=False)
    x = truth.sample(5000, generator=torch.Generator().manual_seed(0))
    off = PathModel(lambda x, t, cond: model.net(x, t) + 0.1, (2,), Linear(), prediction)
    losses = [one.loss(x, generator=torch.Generator().manual_seed(1)) for one in (model, off)]
    assert losses[0] < losses[1]


def test_given_noise_is_used_and_not_paired_anew():
    model = PathModel(Heard(), (1,), times=At(1.0))
    x, noise = torch.zeros(3, 1), torch.tensor([[1.0], [2.0], [3.0]])
    torch.testing.assert_close(model.loss(x, noise=noise), torch.zeros(()))  # at t = 1 the net returns x_1 = noise, the target


def test_levels_are_spread_over_their_cells():
    model = PathModel(Heard(), (1,), times=At(0.0), levels=4)
    loss = model.loss(torch.full((2000, 1), 2.0), generator=torch.Generator().manual_seed(0))
    # at t = 0 the net says x and the target is noise - x: (2x - noise)², for x uniform on [2, 3] 4 (19/3) + 1, deviation 11.7
    assert float(loss) == pytest.approx(4 * 19 / 3 + 1, abs=5 * 11.7 / 2000**0.5)
    # a row with noise of its own is a model's sample and stays what it is: (2 2.5)²
    assert float(model.loss(torch.full((3, 1), 2.5), noise=torch.zeros(3, 1))) == 25.0


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"drop_cond": 1.0, "classes": 2}, UserError, "drop_cond is 1.0"),
        ({"drop_cond": 0.1}, ConditionError, "the model has no conditions to drop"),
        ({"prediction": "veloctiy"}, UserError, "prediction is 'veloctiy'"),
    ],
)
def test_bad_options_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        PathModel(MLP(2, 2), (2,), **options)


class Stochastic(Sampler):
    """A sampler that does not solve the ODE."""

    def __call__(self, denoiser, x, t_start, t_end, generator=None):
        return x


@pytest.mark.parametrize("verb", ["log_prob", "encode", "decode"])
def test_a_sampler_that_does_not_solve_the_ode_is_refused(verb):
    model = PathModel(MLP(2, 2, time_features=4), (2,))
    with pytest.raises(NotInvertibleError, match="does not solve the ODE"):
        getattr(model, verb)(torch.zeros(1, 2), sampler=Stochastic())


def test_a_stochastic_sampler_samples():
    assert PathModel(MLP(2, 2, time_features=4), (2,)).sample(3, sampler=Stochastic()).shape == (3, 2)


def test_a_base_without_density_has_no_likelihood_but_samples():
    class Points(torch.nn.Module):
        def sample(self, n, generator=None):
            return torch.ones(n, 2)

    model = PathModel(MLP(2, 2, time_features=4), (2,), base=Points())
    assert model.sample(3).shape == (3, 2)
    with pytest.raises(NotInvertibleError, match="the base Points has no log_prob"):
        model.log_prob(torch.zeros(1, 2))


def test_euler_on_a_point_needs_one_step():
    """Lines to one point do not cross: one Euler step is exact."""
    model, _ = truth_model(truth=GaussianMixture(torch.tensor([[1.0, -2.0]]), 1e-9), exact_base=False)
    torch.testing.assert_close(model.sample(3, sampler=Euler(1)), torch.tensor([[1.0, -2.0]]).expand(3, 2), rtol=0, atol=1e-6)


@pytest.mark.parametrize("std", [0.5, 1.0, 3.0])
def test_the_gaussian_base_is_that_of_torch_distributions(std):
    z = torch.randn(4, 2, 3)
    expected = torch.distributions.Normal(0.0, std).log_prob(z).flatten(1).sum(1)
    torch.testing.assert_close(Gaussian((2, 3), std).log_prob(z), expected, rtol=1e-12, atol=1e-12)
    assert Gaussian((2, 3), std).log_prob(z.bfloat16()).dtype == torch.float32
    assert Gaussian((2, 3), std).log_prob(z.round().long()).dtype == torch.float32


@pytest.mark.parametrize("std", [0.0, -1.0, float("nan")])
def test_a_gaussian_base_without_spread_is_refused(std):
    with pytest.raises(UserError, match="std is .*, but it must be positive"):
        Gaussian((2,), std)


def test_no_divergence_is_computed_where_no_likelihood_is_asked_for():
    """Encode, decode and samples without their log_prob call the network once an evaluation, and differentiate nothing."""
    calls = []

    def net(x, t, cond=None):
        calls.append(x.requires_grad or torch._C._functorch.maybe_current_level() is not None)
        return -x

    model = PathModel(net, (2,), sampler=Euler(3))
    x = torch.randn(4, 2)
    for verb in (lambda: model.encode(x), lambda: model.decode(x), lambda: model.sample(4)):
        calls.clear()
        verb()
        assert calls == [False] * 3
