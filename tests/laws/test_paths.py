"""What every path owes: its derivatives, its inverse in log-SNR, exact conversions, and marginals that its velocity carries."""

import math

import numpy
import pytest
import torch
from examples import At, kinds_of, things
from hypothesis import given, settings
from hypothesis import strategies as st

from pushforward.data.mixture import GaussianMixture, three_gaussians
from pushforward.errors import UserError
from pushforward.families.path_model import PathModel
from pushforward.functional.prediction import convert_prediction, prediction_coefficients
from pushforward.paths import Cosine, Heat, Linear, Path, Prediction, SubVariancePreserving, VarianceExploding, VariancePreserving
from pushforward.paths.discrete import Discrete, _betas
from pushforward.testing.paths import CONVERSIONS, LAWS, OF_A_KIND, density_of_the_exact_network, time_is_the_inverse_of_log_snr

PATHS = things("paths", of=Path)
inside = st.floats(0, 1, allow_subnormal=False)  # how far inside an interval


def at(path, share, kind="velocity", margin=0.0):
    low, high = path.interval_for(kind)
    low, high = low + margin, high - margin
    return torch.as_tensor(low + share * (high - low), dtype=torch.float64).reshape(-1)


def _names(laws):
    return [pytest.param(law, id=law.__name__) for law in laws]


@pytest.mark.parametrize("law", _names(LAWS))
@pytest.mark.parametrize("make", PATHS)
def test_a_law_of_paths_holds(make, law):
    law(make())


@pytest.mark.parametrize("make", PATHS)
@given(share=inside)
def test_time_inverts_log_snr(make, share):
    path = make()
    time_is_the_inverse_of_log_snr(path, at(path, share, margin=0.01))


@pytest.mark.parametrize(
    "law", [*_names(OF_A_KIND), pytest.param(density_of_the_exact_network, id="density_of_the_exact_network", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(("make", "kind"), kinds_of(PATHS))
def test_a_law_of_each_prediction_holds(make, kind, law):
    law(make(), kind)


@pytest.mark.parametrize("law", _names(CONVERSIONS))
@pytest.mark.parametrize(("make", "source", "target"), kinds_of(PATHS, 2))
def test_a_law_of_conversions_holds(make, source, target, law):
    law(make(), source, target)


def test_on_the_linear_path_data_is_x_minus_t_v():
    t, x, v = torch.tensor([0.25]), torch.tensor([[1.0, -2.0]]), torch.tensor([[2.0, 3.0]])
    torch.testing.assert_close(Prediction(Linear(), "velocity", v, x, t).data, x - 0.25 * v, rtol=1e-14, atol=1e-14)


def test_on_the_linear_path_noise_is_x_plus_one_minus_t_v():
    t, x, v = torch.tensor([0.25]), torch.tensor([[1.0, -2.0]]), torch.tensor([[2.0, 3.0]])
    torch.testing.assert_close(Prediction(Linear(), "velocity", v, x, t).noise, x + 0.75 * v, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("make", PATHS)
@pytest.mark.parametrize("other", PATHS)
def test_paths_agree_on_the_data_where_their_log_snr_is_the_same(make, other):
    """x_t / alpha_t is data + noise / SNR on every path, so one path's model is another's, scaled by alpha / alpha."""
    one, two, truth = make(), other(), three_gaussians(torch.float64)
    log_snr, x = torch.tensor([-1.5, 0.0, 2.0]), torch.randn(3, 2)
    t, s = one.time(log_snr), two.time(log_snr)
    scale = (two.alpha(s) / one.alpha(t))[:, None]
    torch.testing.assert_close(
        truth.net(two, "data")(scale * x, s), Prediction(one, "velocity", truth.net(one, "velocity")(x, t), x, t).data, rtol=1e-9, atol=1e-9
    )


def test_v_by_hand():
    """Salimans and Ho, section 4 and appendix D: v = alpha eps - sigma x_0, x_0 = alpha x - sigma v, eps = sigma x + alpha v."""
    path, t, data, noise = Cosine(), torch.tensor([0.0, 0.3, 1.0]), torch.randn(3, 2), torch.randn(3, 2)
    alpha, sigma = path.alpha(t)[:, None], path.sigma(t)[:, None]
    x, v = path.mix(data, noise, t), path.target("v", data, noise, t)
    torch.testing.assert_close(v, alpha * noise - sigma * data, rtol=1e-12, atol=1e-12)
    prediction = Prediction(path, "v", v, x, t)
    torch.testing.assert_close(prediction.data, data, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(prediction.noise, noise, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(prediction.velocity, torch.pi / 2 * v, rtol=1e-12, atol=1e-12)  # on this path they are one up to a factor
    assert prediction.v is v
    assert path.interval_for("v") == (0.0, 1.0)


@pytest.mark.parametrize("path", [Linear(), SubVariancePreserving(), VarianceExploding(), Heat()], ids=str)
def test_v_on_another_path_is_refused(path):
    x, t = torch.ones(1, 2), torch.full((1,), 0.5)
    for call in (
        lambda: PathModel(torch.nn.Linear(2, 2), (2,), path, "v"),
        lambda: path.target("v", x, x, t),
        lambda: Prediction(path, "velocity", x, x, t).v,
        lambda: Prediction(path, "v", x, x, t).data,
    ):
        with pytest.raises(
            UserError, match=r"prediction is 'v', but .* is not variance preserving \(alpha² \+ sigma² = 1\); use 'velocity'"
        ):
            call()


def test_a_function_refuses_an_unknown_prediction():
    one = torch.ones(1)
    with pytest.raises(ValueError, match="source is 'w', but a prediction is one of velocity, noise, data, score, v"):
        prediction_coefficients("w", "data", one, one, one, one)
    with pytest.raises(ValueError, match="target is 'w'"):
        convert_prediction(one, one, one, one, one, one, "v", "w")


def test_the_interval_stops_short_of_a_time_that_says_nothing_of_the_velocity():
    assert Linear().interval_for("velocity") == (0.0, 1.0)
    assert Linear().interval_for("data") == (0.001, 1.0)
    assert Cosine().interval_for("noise") == (0.0, 0.999)
    assert Linear().interval_for("score") == (0.001, 0.999)
    assert VariancePreserving().interval_for("noise") == (1e-4, 1.0)
    assert VarianceExploding().interval_for("score") == (0.0, 1.0)


def test_the_score_where_there_is_no_noise_is_refused():
    x, t = torch.ones(1, 2), torch.zeros(1)
    with pytest.raises(UserError, match="the score is not defined at t = 0"):
        _ = Prediction(Linear(), "velocity", x, x, t).score


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: VariancePreserving(0.0, 1.0), "beta_min is 0.0"),
        (lambda: VariancePreserving(3.0, 1.0), "0 < beta_min <= beta_max"),
        (lambda: VarianceExploding(1.0, 0.5), "sigma_min is 1.0"),
        (lambda: Heat(0.0), "duration is 0.0"),
        (lambda: Discrete("liner"), "'liner' is not a known schedule; did you mean 'linear'"),
        (lambda: Discrete((0.1, 0.2, 0.3), 4), "steps is 4, but there are 3 betas"),
        (lambda: Discrete((0.1, 0.2)), "steps is 2, but a discrete path needs at least 3"),
        (lambda: Discrete((0.1, 1.2, 0.3)), "beta 1 of 3 is 1.2, but each must be between 0 and 1"),
        (lambda: Discrete("linear", 10), "beta 5 of 10 is .*; use more steps"),
        (lambda: Linear().interval_for("velocty"), "prediction is 'velocty', but it is one of velocity, noise, data, score\\."),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(UserError, match=message):
        call()


@pytest.mark.parametrize("at", [1e-3, 0.1, 0.9])
def test_density_along_the_heat_path_solves_the_heat_equation(at):
    """dp/ds = laplacian p at heat time s = T t, on a mixture whose density is written out so that autograd sees t and x."""
    path, truth = Heat(3.0), three_gaussians(torch.float64)

    def density(s, x):
        variance = truth.stds**2 + path.sigma(s / path.duration) ** 2
        squares = (x - truth.means).square().sum(1)
        return (truth.weights * torch.exp(-squares / (2 * variance)) / (2 * math.pi * variance)).sum()

    s = torch.tensor(at * path.duration)
    for x in torch.tensor([[0.3, -0.4], [1.5, 1.0], [-2.0, 0.0]]):
        laplacian = torch.func.hessian(density, 1)(s, x).trace()
        torch.testing.assert_close(torch.func.grad(density)(s, x), laplacian, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("t", [0.01, 0.5])
def test_the_heat_paths_velocity_is_minus_the_score(t):
    path, truth = Heat(3.0), three_gaussians(torch.float64)
    x, t = torch.randn(4, 2), torch.full((4,), t)
    torch.testing.assert_close(truth.net(path, "velocity")(x, t), -3 * truth.net(path, "score")(x, t), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "sigmoid"])
@pytest.mark.parametrize("steps", [30, 1000])
def test_a_discrete_path_goes_through_its_knots_and_never_turns(schedule, steps):
    path = Discrete(schedule, steps)
    kept = numpy.cumprod(1 - _betas(schedule, steps))
    t = (torch.arange(steps) + 1) / steps
    torch.testing.assert_close(path.alpha(t) ** 2, torch.from_numpy(kept), rtol=1e-9, atol=1e-12)
    assert (path.log_snr(torch.linspace(1 / steps, 1, 20 * steps)).diff() < 0).all()
    torch.testing.assert_close(path.alpha(t) ** 2 + path.sigma(t) ** 2, torch.ones(steps), rtol=1e-12, atol=1e-12)


def test_betas_given_as_numbers_are_those_of_the_name():
    numbers = Discrete(tuple(_betas("cosine", 50).tolist()))
    t = torch.linspace(0.02, 1, 77)
    assert torch.equal(numbers.log_snr(t), Discrete("cosine", 50).log_snr(t))


@settings(max_examples=30)
@given(betas=st.lists(st.floats(1e-4, 0.9), min_size=3, max_size=20))
def test_any_betas_give_a_path_that_falls(betas):
    path = Discrete(tuple(betas))
    assert (path.log_snr(torch.linspace(1 / len(betas), 1, 1001, dtype=torch.float64)).diff() < 0).all()


def test_the_linear_discrete_path_is_nearly_the_continuous_one():
    """Its betas are those of the SDE over T: to 1 / T."""
    t = torch.linspace(0.05, 1, 50)
    torch.testing.assert_close(Discrete().alpha(t), VariancePreserving().alpha(t), rtol=0.05, atol=2e-3)


# The loss that remains.

SIGNS = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)  # (data, noise) with covariance exactly I


@pytest.mark.parametrize("t", [0.0, 0.1, 0.5, 0.8, 1.0])
def test_the_irreducible_loss_of_a_gaussian_is_known(t):
    """For N(0, I) on the linear path 2 - (2t - 1)² / ((1-t)² + t²). The exact net is linear, so four points with covariance I do."""
    truth = GaussianMixture(torch.zeros(1, 1), 1.0)
    model = PathModel(truth.net(Linear()), (1,), times=At(t))
    loss = model.loss(SIGNS[:, :1], noise=SIGNS[:, 1:])
    expected = 2 - (2 * t - 1) ** 2 / ((1 - t) ** 2 + t**2)
    torch.testing.assert_close(loss, torch.tensor(expected), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("make", "kind"), kinds_of(PATHS))
def test_a_loss_is_the_velocity_loss_times_the_square_of_its_coefficient(make, kind):
    """Of kind = a x + b velocity only b meets the error: for the noise b = alpha / D, on the linear path 1 - t."""
    path, data, noise = make(), torch.randn(50, 2), torch.randn(50, 2)
    net = torch.nn.Linear(2, 2)
    share = 0.3

    def loss(kind):
        t = at(path, share, "score")

        def predict(x, t, cond):
            return Prediction(path, "velocity", net(x), x, t).to(kind)

        low, high = path.interval_for(kind)
        model = PathModel(predict, (2,), path, kind, times=At(float((t - low) / (high - low))))
        return model.loss(data, noise=noise * float(path.sigma(torch.tensor(high)))), t

    ours, t = loss(kind)
    _, b = path.coefficients("velocity", kind, t)
    torch.testing.assert_close(ours, loss("velocity")[0] * torch.as_tensor(b).square().squeeze(), rtol=1e-9, atol=1e-9)
    if kind == "noise" and isinstance(path, Linear):
        torch.testing.assert_close(b, 1 - t, rtol=1e-12, atol=1e-12)
