"""What every sampler owes: its order on the analytic mixture along every path, the way back, and a sample that no other sample changes."""

import dataclasses
import functools
import itertools
import math

import pytest
import torch
from examples import TIGHT, examples, one_in, some_of, things, truth_model

from pushforward import registry
from pushforward.bijections.bijection import Bijection
from pushforward.data.mixture import three_gaussians
from pushforward.errors import UserError
from pushforward.functional.prediction import KINDS
from pushforward.paths import Cosine, Heat, Linear, Path, Prediction
from pushforward.paths.discrete import Discrete
from pushforward.samplers.ddim import DDIM
from pushforward.samplers.ddpm import DDPM
from pushforward.samplers.denoiser import Denoiser
from pushforward.samplers.dopri5 import Dopri5
from pushforward.samplers.dpm_solver import DPMSolverPP
from pushforward.samplers.edm import EDM
from pushforward.samplers.euler import Euler
from pushforward.samplers.euler_maruyama import EulerMaruyama
from pushforward.samplers.grids import Grid, LogSNR, Uniform
from pushforward.samplers.linear import LinearSampler, Step
from pushforward.samplers.midpoint import Midpoint
from pushforward.samplers.predictor_corrector import PredictorCorrector
from pushforward.samplers.rk4 import RK4
from pushforward.samplers.sampler import AdaptiveSampler, FixedStepSampler, Sampler
from pushforward.samplers.unipc import UniPC
from pushforward.tableaux import Tableau
from pushforward.testing.samplers import (
    FEW,
    OF_ONE,
    all_predictions_give_the_same_samples,
    converges_at_its_order,
    converges_towards_noise,
    finite_from_end_to_end,
    independent_of_its_batch,
    log_prob_and_decode_converge,
    problem_along,
    state_keeps_its_dtype,
    there_and_back_converges,
)


class Ralston(FixedStepSampler):
    """A method as a user writes it: its tableau is all."""

    tableau = Tableau(nodes=(0, 2 / 3), stages=((2 / 3,),), weights=(1 / 4, 3 / 4))


def entry_of(kind, **facts):
    return pytest.param(
        registry.Entry(f"samplers.{kind.__name__}", kind, "mine", lambda steps=20: kind(steps), facts), id=f"mine.{kind.__name__}"
    )


PATHS = things("paths", of=Path)
PRESERVING = [one for one in PATHS if one.values[0]().variance_preserving]
VISITING = ("samplers.Knots", "samplers.Times")  # whose laws are in tests/samplers/test_knots.py and test_times.py
GRIDS = [one for one in things("samplers", of=Grid) if one.id not in VISITING]
SAMPLERS = [*examples("samplers", of=Sampler), entry_of(Ralston, order=2)]
ADAPTIVE = [one for one in SAMPLERS if issubclass(one.values[0].thing, AdaptiveSampler)]
RUNGE_KUTTA = [one for one in SAMPLERS if hasattr(one.values[0].thing, "tableau")]
STOCHASTIC = [one for one in SAMPLERS if not one.values[0].example().solves_ode]
MORE_STOCHASTIC = [  # settings under which samplers for the ODE draw noise, and others that draw less or more
    pytest.param(lambda: DDIM(300, eta=0.5), id="DDIM"),
    pytest.param(lambda: DPMSolverPP(200, "SDE-2M"), id="SDE-2M"),
    pytest.param(lambda: EDM(60, churn=20), id="EDM"),
    pytest.param(lambda: EulerMaruyama(500, lambda t: 1 + t), id="EulerMaruyama-g"),
    pytest.param(lambda: DDPM(300, "brownian"), id="DDPM-brownian"),
]
ORDERED = [one for one in SAMPLERS if "order" in one.values[0].facts]


@functools.cache
def problem(make):
    """Return the mixture's ODE on the middle of a path, solved once for all samplers."""
    return problem_along(made(make))


@functools.cache
def made(make):
    """Return a path: a frozen value, of which one a process is enough."""
    return make()


COSINE = made(PATHS[0].values[0])


def denoiser(path, cond=None):
    return Denoiser(three_gaussians(torch.float64).net(path, "velocity"), path, cond=cond)


def middle(path):
    """The part of the way in which the mixture takes its shape: log-SNR from -1.5 to 1.5."""
    return path.time(torch.tensor([-1.5, 1.5])).tolist()


def suited(sampler, path):
    """Equal steps in t see nothing of the heat path's beginning, where sigma is the root of t; equal ones in log-SNR do."""
    return dataclasses.replace(sampler, grid=LogSNR()) if isinstance(path, Heat) and hasattr(sampler, "grid") else sampler


def noisy(path, n=5):
    start, _ = middle(path)
    return (float(path.sigma(torch.tensor(start))) + 1) * torch.randn(n, 2, generator=torch.Generator().manual_seed(1))


def test_every_public_sampler_has_an_example_and_those_of_fixed_steps_for_the_ode_state_their_order():
    without = [one.values[0].example() for one in SAMPLERS if one not in ORDERED]
    assert all(isinstance(one, AdaptiveSampler) for one in without if one.solves_ode)


@pytest.mark.parametrize("entry", RUNGE_KUTTA)
def test_a_stated_order_is_that_of_the_conditions_of_order(entry):
    tableau = entry.thing.tableau
    assert entry.facts.get("order", tableau.order) == tableau.order
    assert not tableau.error or tableau.error_order == tableau.order - 1


def of_order(law, entry, make):
    path = made(make)
    law(lambda steps: suited(entry.example(steps), path), entry.facts["order"], problem(make))


@pytest.mark.parametrize(("entry", "make"), some_of(ORDERED, PATHS, every=3))
def test_a_sampler_converges_at_its_order(entry, make):
    of_order(converges_at_its_order, entry, make)


@pytest.mark.slow
@pytest.mark.parametrize(("entry", "make"), some_of(ORDERED, PATHS))
def test_a_sampler_converges_towards_noise_too(entry, make):
    of_order(converges_towards_noise, entry, make)


@pytest.mark.parametrize(("entry", "make"), some_of(ORDERED, PATHS))
def test_there_and_back_converges_at_the_order(entry, make):
    of_order(there_and_back_converges, entry, make)


@pytest.mark.parametrize(
    ("entry", "make", "tolerance"), some_of(ADAPTIVE, PATHS, [1e-4, 1e-6, pytest.param(1e-8, marks=pytest.mark.slow)], every=2)
)
def test_an_adaptive_sampler_is_right_within_its_tolerance(entry, make, tolerance):
    """Errors grow along the way by at most the flow's own stretching, here below 10."""
    path = made(make)
    call, x, ends = denoiser(path), noisy(path), middle(path)
    error = entry.thing(tolerance, tolerance)(call, x, *ends) - problem(make).exact
    assert error.abs().max() < 10 * tolerance * max(1.0, float(x.abs().max()))


@pytest.mark.parametrize("make", one_in(2, PATHS))
def test_decode_undoes_encode(make):
    model, _ = truth_model(make(), sampler=Dopri5(1e-8, 1e-8))
    x = torch.randn(5, 2)
    tolerance = 1e-4 if isinstance(model.path, Discrete) else 1e-6  # its pieces cost a solver a digit
    torch.testing.assert_close(model.decode(model.encode(x)), x, rtol=0, atol=tolerance)


@pytest.mark.parametrize("entry", SAMPLERS)
def test_a_plain_function_is_denoiser_enough_where_no_schedule_is_read(entry):
    path = COSINE
    net, x, sampler = three_gaussians(torch.float64).net(path), torch.randn(3, 2), entry.example()

    def function(x, t):
        return Prediction(path, "velocity", net(x, t), x, t)

    if isinstance(sampler, LinearSampler):
        with pytest.raises(UserError, match=f"{type(sampler).__name__} needs a denoiser with a path; use Euler"):
            sampler(function, x, 0.9, 0.1)
        return
    plain = sampler(function, x, 0.9, 0.1)
    torch.testing.assert_close(plain, sampler(Denoiser(net, path), x, 0.9, 0.1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("law", [pytest.param(law, id=law.__name__) for law in OF_ONE])
@pytest.mark.parametrize("entry", SAMPLERS)
def test_a_law_of_all_samplers_holds(entry, law):
    coarse = law is state_keeps_its_dtype and issubclass(entry.thing, AdaptiveSampler)  # a field in bfloat16 is known to 2^-8 at best
    law(entry.thing(0.05, 0.05) if coarse else entry.example(), COSINE)


@pytest.mark.parametrize(("entry", "guidance"), some_of(SAMPLERS, [None, 2.0]))
def test_a_sample_does_not_depend_on_who_shares_its_batch(entry, guidance):
    """An adaptive sampler's errors are 10 rtol, 1e-4 for Dopri5's default."""
    independent_of_its_batch(entry.example(), guidance, 1e-4 if issubclass(entry.thing, AdaptiveSampler) else 1e-9)


@pytest.mark.parametrize("entry", [one for one in SAMPLERS if one not in ADAPTIVE])
def test_evaluations_are_those_that_are_made(entry):
    calls = []

    def net(x, t, cond):
        calls.append(1)
        return x

    sampler = entry.example(7)
    sampler(Denoiser(net, COSINE), torch.ones(2, 1), 1.0, 0.0)
    assert len(calls) == sampler.evaluations


@pytest.mark.parametrize("entry", SAMPLERS)
def test_a_sampler_is_a_frozen_value(entry):
    sampler = entry.example()
    assert sampler == entry.example()
    with pytest.raises(dataclasses.FrozenInstanceError):
        sampler.steps = 3


@pytest.mark.parametrize("backwards", [True, False])
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("grid", GRIDS)
def test_a_grid_goes_from_end_to_end_without_turning(grid, path, backwards):
    path = made(path)
    start, end = sorted(path.interval, reverse=backwards)
    for steps in (1, 2, 17):
        times = grid()(start, end, steps, path)
        assert (times[0], times[-1], len(times)) == (start, end, steps + 1)
        assert all((a - b) * (start - end) > 0 for a, b in itertools.pairwise(times))


@pytest.mark.parametrize("path", PATHS)
def test_the_log_snr_grid_has_equal_steps_in_log_snr(path):
    path = made(path)
    ends = middle(path)
    times = torch.tensor(LogSNR()(*ends, 9, path))
    steps = path.log_snr(times).diff()
    torch.testing.assert_close(steps, torch.full_like(steps, 3 / 9), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("entry", [one for one in examples("samplers", of=Grid) if one.id not in ("samplers.Uniform", *VISITING)])
def test_the_order_holds_on_other_grids(entry):
    path = COSINE
    call, x, ends = denoiser(path), noisy(path), middle(path)
    grid = entry.example()
    errors = [(Euler(k, grid)(call, x, *ends) - problem(PATHS[0].values[0]).exact).abs().max() for k in (100, 200)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(1, abs=0.1)


def test_a_grid_in_log_snr_needs_a_path():
    with pytest.raises(UserError, match="the grid LogSNR needs a denoiser with a path; use Uniform"):
        Euler(3, LogSNR())(lambda x, t: None, torch.ones(1, 1), 1.0, 0.0)


def test_uniform_steps_are_equal():
    assert Uniform()(1.0, 0.0, 4) == [1.0, 0.75, 0.5, 0.25, 0.0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Euler(0), "steps is 0, but Euler needs at least 1"),
        (lambda: Dopri5(-1.0), "rtol is -1.0"),
        (lambda: Dopri5(0.0, 0.0), "one positive"),
        (lambda: DDIM(0), "steps is 0, but DDIM needs at least 1"),
        (lambda: DDIM(eta=1.5), "eta is 1.5, but it is a share of the noise from 0"),
        (lambda: DDIM(noise="pink"), "'pink' is not a known noise"),
        (lambda: DDPM(noise="frsh"), "did you mean 'fresh'"),
        (lambda: DPMSolverPP(variant="2N"), "'2N' is not a known variant"),
        (lambda: DPMSolverPP(solver_type="bh2"), "'bh2' is not a known solver_type; known are heun, midpoint"),
        (lambda: UniPC(order=4), "order is 4, but UniPC has 1, 2 and 3"),
        (lambda: UniPC(solver_type="bh3"), "'bh3' is not a known solver_type; did you mean 'bh"),
        (lambda: EulerMaruyama(g=-1.0), "g is -1.0, but it must be at least 0"),
        (lambda: EulerMaruyama(2, lambda t: -t)(denoiser(Linear()), torch.zeros(1, 2), 1.0, 0.1), "g\\(t\\) is -1 somewhere"),
        (lambda: PredictorCorrector(corrections=-1), "corrections is -1"),
        (lambda: EDM(churn=-1.0), "churn is -1.0"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(UserError, match=message):
        call()


def moments_are_right(sampler, path=None, prediction="velocity"):
    """1,000 samples, seed 0: mean and second moment within 5 standard errors (0.044 a coordinate, 0.12): a false alarm in 400,000."""
    model, truth = truth_model(path, prediction, sampler=sampler)
    n = 1000
    x = model.sample(n, generator=torch.Generator().manual_seed(0))
    mean = truth.weights @ truth.means
    spread = (truth.weights[:, None] * (truth.stds[:, None] ** 2 + truth.means**2)).sum(0)
    assert ((x.mean(0) - mean).abs() < 5 * ((spread - mean**2) / n).sqrt()).all()
    assert ((x.square().mean(0) - spread).abs() < 5 * x.square().std(0) / math.sqrt(n)).all()


def test_moments_of_samples_are_those_of_the_mixture():
    moments_are_right(Dopri5(1e-4, 1e-4))


@pytest.mark.parametrize(("entry", "make"), some_of(STOCHASTIC, PATHS))
def test_moments_of_stochastic_samples_are_right_along_every_path(entry, make):
    moments_are_right(suited(entry.example(150), made(make)), made(make))


@pytest.mark.parametrize("prediction", [one if one == "noise" else pytest.param(one, marks=pytest.mark.slow) for one in (*KINDS, "v")])
@pytest.mark.parametrize("make", MORE_STOCHASTIC)
def test_moments_of_stochastic_samples_are_right_with_every_prediction(make, prediction):
    moments_are_right(make(), Cosine() if prediction == "v" else Linear(), prediction)


@pytest.mark.parametrize(("entry", "make"), some_of(ORDERED, PATHS))
def test_all_predictions_give_the_same_samples(entry, make):
    all_predictions_give_the_same_samples(entry.example(), made(make), 1e-9)


FROM_END_TO_END = [*some_of(KINDS, PATHS, SAMPLERS, every=10), *some_of(["v"], PRESERVING, SAMPLERS, every=3)]


@pytest.mark.parametrize(("kind", "make", "entry"), FROM_END_TO_END)
def test_samples_are_finite_from_end_to_end_of_every_path(entry, kind, make):
    finite_from_end_to_end(entry.example(), made(make), kind)


@pytest.mark.parametrize("make", one_in(2, [*[one for one in SAMPLERS if one in ORDERED], *ADAPTIVE]))
def test_a_sampler_for_the_ode_carries_a_likelihood(make):
    """On the linear path, to 0.05 nats: 400 steps of first order err by less, 25 of a Runge-Kutta method, and 100 of all others."""
    steps = 400 if make.facts.get("order") == 1 else 25 if make in RUNGE_KUTTA else 100
    sampler = make.example(steps) if "order" in make.facts else make.example()
    model, truth = truth_model(exact_base=False, sampler=sampler)
    x = truth.sample(20, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model.log_prob(x), truth.log_prob(x), rtol=0, atol=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("entry", ORDERED)
def test_log_prob_and_decode_converge(entry):
    log_prob_and_decode_converge(entry.example, Linear())


@pytest.mark.parametrize("make", [*STOCHASTIC, *MORE_STOCHASTIC])
def test_what_draws_noise_goes_from_noise_to_data_only(make):
    sampler = make.example() if hasattr(make, "example") else make()
    with pytest.raises(UserError, match=r"t goes from 0.1 to 0.9, but .* draws noise: it goes from noise to data only"):
        sampler(denoiser(Linear()), torch.zeros(1, 2), 0.1, 0.9)


def test_the_samplers_tolerance_is_the_models_when_none_is_given():
    model, _ = truth_model()
    z = torch.randn(3, 2)
    assert torch.equal(model.decode(z), model.decode(z, sampler=TIGHT))


class Extrapolated(Midpoint):
    """Richardson's: two solves whose errors cancel; the state that it returns is none that a loop ended at."""

    def __call__(self, denoiser, x, t_start, t_end, generator=None):
        fine = Midpoint(2 * self.steps, self.grid)(denoiser, x, t_start, t_end)
        return (4 * fine - super().__call__(denoiser, x, t_start, t_end)) / 3


class Wrapped(Sampler):
    solves_ode = True

    def __init__(self, inner):
        self.inner = inner

    def __call__(self, denoiser, x, t_start, t_end, generator=None):
        return self.inner(lambda x, t: denoiser(x, t), x, t_start, t_end)


@functools.cache
def _likelihood_of_twenty():
    """To 1e-5."""
    model, truth = truth_model(exact_base=False, sampler=Dopri5(1e-6, 1e-6))
    return model.log_prob(truth.sample(20, generator=torch.Generator().manual_seed(0))).detach()


@pytest.mark.parametrize("sampler", [Extrapolated(20), Wrapped(RK4(20)), Wrapped(Dopri5(1e-6, 1e-6)), Wrapped(Ralston(100))])
def test_a_sampler_that_does_something_else_is_obeyed_by_log_prob(sampler):
    model, truth = truth_model(exact_base=False, sampler=sampler)
    x = truth.sample(20, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model.log_prob(x), _likelihood_of_twenty(), rtol=0, atol=2e-3)


@pytest.mark.parametrize("entry", [one for one in RUNGE_KUTTA if one not in ADAPTIVE])
def test_rates_beside_the_state_are_those_in_the_state(entry):
    """log_prob gathers the divergence beside the state in the library's own loop, and within the state anywhere else."""
    model, truth = truth_model(exact_base=False)
    x, sampler = truth.sample(20, generator=torch.Generator().manual_seed(0)), entry.example(7)
    beside, within = (model.log_prob(x, sampler=one) for one in (sampler, Wrapped(sampler)))
    torch.testing.assert_close(beside, within, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("entry", [one for one in RUNGE_KUTTA if one not in ADAPTIVE])
def test_gradients_by_the_adjoint_are_those_through_the_steps(entry):
    """As far as both are solved: they differ by what the steps err, at their order or better."""
    x, (start, end), order = torch.randn(3, 2, requires_grad=True), (0.9, 0.1), entry.facts["order"]
    errors = []
    for steps in (FEW[order], 2 * FEW[order]):
        found = []
        for adjoint in (True, False):
            sampler = dataclasses.replace(entry.example(steps), adjoint=adjoint)
            found += torch.autograd.grad(sampler(denoiser(Linear()), x, start, end).square().sum(), x)
        errors.append(float((found[0] - found[1]).abs().max() / (0.2 + found[1].abs().max())))
    assert errors[1] < 5e-3 * (10 if order == 1 else 1)
    assert math.log2(errors[0] / errors[1]) > order - 0.2


class Noisy(LinearSampler):
    """A plan that adds noise, in a class that does not say so."""

    steps, grid = 3, Uniform()

    def plan(self, path, times):
        return [Step(t, data=0.5, noise=0.5, random=0.1) for t in times[:-1]]


def test_a_plan_with_noise_belongs_to_a_stochastic_sampler():
    model, _ = truth_model()
    with pytest.raises(UserError, match=r"the plan of Noisy adds noise \(Step.random\), but its property stochastic is False"):
        model.log_prob(torch.zeros(1, 2), sampler=Noisy())


def test_a_missing_method_is_named():
    class Half(Path):
        interval = (0.0, 1.0)

        def alpha(self, t):
            return 1 - t

    for call, words in (
        (lambda: Half().sigma(torch.zeros(1)), "Half has no sigma; define it: it returns sigma_t, the factor of the noise"),
        (lambda: type("Empty", (Bijection,), {})()(torch.zeros(1, 2)), "Empty has no forward; define it: it returns z and log_abs_det"),
        (lambda: type("Empty", (Sampler,), {})()(None, torch.zeros(1), 1.0, 0.0), "Empty has no __call__; define it"),
        (lambda: type("Empty", (LinearSampler,), {})().plan(Linear(), [1.0, 0.0]), "Empty has no plan; define it"),
    ):
        with pytest.raises(NotImplementedError, match=words):
            call()


def test_a_path_without_time_finds_it_by_bisection():
    class Straight(Path):
        alpha = staticmethod(lambda t: 1 - t)
        sigma = staticmethod(lambda t: t)
        alpha_dot = staticmethod(lambda t: -torch.ones_like(t))
        sigma_dot = staticmethod(torch.ones_like)

    log_snr = torch.linspace(-3, 3, 7)
    torch.testing.assert_close(Straight().time(log_snr), Linear().time(log_snr), rtol=1e-12, atol=1e-12)
    assert Euler(3, LogSNR())(denoiser(Linear()), torch.ones(1, 2), 0.9, 0.1).isfinite().all()


def test_a_class_without_a_method_is_refused():
    class Nothing(FixedStepSampler):
        pass

    with pytest.raises(UserError, match="Nothing.tableau is None, but a Runge-Kutta method is a pf.ode.Tableau"):
        Nothing(3)
    with pytest.raises(UserError, match="Text.tableau is 'rk4'"):
        type("Text", (FixedStepSampler,), {"tableau": "rk4"})
    with pytest.raises(UserError, match="Rough.tableau has no error weights"):
        type("Rough", (AdaptiveSampler,), {"tableau": Ralston.tableau})
