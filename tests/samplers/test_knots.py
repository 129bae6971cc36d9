"""Discrete paths: N steps of a sampler of diffusion are N evaluations, on every grid, and the last of them ends at the expected data."""

import dataclasses
import functools
import math

import pytest
import torch
from examples import examples, generators, some_of, things, truth_model

import pushforward as pf
from pushforward.errors import UserError
from pushforward.evaluation.explain import explain
from pushforward.formats.config import from_plain, to_plain
from pushforward.paths.discrete import Discrete
from pushforward.samplers.grids import Grid
from pushforward.samplers.linear import LinearSampler
from pushforward.samplers.sampler import Sampler

pytestmark = pytest.mark.usefixtures("float64")
PATH = Discrete()
LINEAR = [
    *[pytest.param(one.values[0].example, id=one.id) for one in examples("samplers", of=LinearSampler)],
    *[pytest.param(lambda n, v=v: pf.samplers.DPMSolverPP(n, v), id=v) for v in ("1S", "2S", "3M", "SDE-2M")],
    pytest.param(lambda n: pf.samplers.DPMSolverPP(n, "3M", lower_order_final=False), id="3M-not-lowered"),
    pytest.param(lambda n: pf.samplers.UniPC(n, 3), id="UniPC-3"),
    pytest.param(lambda n: pf.samplers.UniPC(n, solver_type="bh1"), id="UniPC-bh1"),
    pytest.param(lambda n: pf.samplers.EulerMaruyama(n, lambda t: 1 + t), id="EulerMaruyama-g"),
    pytest.param(lambda n: pf.samplers.EDM(n, churn=5.0), id="EDM-churn"),
    pytest.param(lambda n: pf.samplers.DDIM(n, 0.5, "brownian"), id="DDIM-brownian"),
]
KNOTS = [pf.samplers.Knots("trailing"), pf.samplers.Knots("leading"), pf.samplers.Knots("linspace"), pf.samplers.Knots("leading", 1)]
FIXED = [pf.samplers.Euler, pf.samplers.Midpoint, pf.samplers.Heun, pf.samplers.RK4]


def sampled(sampler, path=PATH, kind="noise", shape=(2,), **options):
    """Return samples of a model whose network returns tanh(x), and the times of its calls."""
    times = []

    def net(x, t, cond):
        times.append(float(t[0]))
        return torch.tanh(x)

    model = pf.families.PathModel(net, shape, path, kind, **options)
    return model.sample(3, sampler=sampler, generator=generators(3)), times


def evaluations(sampler, n):
    """Those of n steps: one each, but two of 2S off the knots and of EDM (one of their last), and the corrections."""
    if isinstance(sampler, pf.samplers.EDM):
        return 2 * n - 1
    if isinstance(sampler, pf.samplers.PredictorCorrector):
        return 2 * n - 1
    if isinstance(sampler, pf.samplers.DPMSolverPP) and not isinstance(sampler.grid, pf.samplers.Knots):
        return {"2S": 2 * n - 1, "3M": n + (n > 1)}.get(sampler.variant, n)
    return n


@pytest.mark.parametrize("n", [1, 6])
@pytest.mark.parametrize("grid", [*[one.values[0]() for one in things("samplers", of=Grid) if one.id != "samplers.Times"], *KNOTS], ids=str)
@pytest.mark.parametrize("make", LINEAR)
def test_steps_are_evaluations_on_a_discrete_path(make, grid, n):
    sampler = dataclasses.replace(make(n), grid=grid)
    x, times = sampled(sampler)
    assert len(times) == evaluations(sampler, n)
    assert x.isfinite().all()
    assert PATH.interval[0] - 1e-9 <= min(times) <= max(times) <= 1
    if isinstance(grid, pf.samplers.Knots) and not isinstance(sampler, pf.samplers.EDM):
        assert sorted(set(times), reverse=True) == sorted(grid.visited(PATH, n, sampler.spare), reverse=True)


@pytest.mark.parametrize("make", LINEAR)
def test_the_last_step_is_to_the_expected_data(make):
    x, times = sampled(make(4), kind="data")
    assert x.abs().max() <= 1, "tanh is all that such a network predicts"
    assert times[-1] <= times[-2]


@pytest.mark.parametrize(
    "make",
    [make for make in LINEAR if make.id not in ("2S", "3M", "3M-not-lowered", "samplers.EDM", "EDM-churn", "samplers.PredictorCorrector")],
)
def test_a_path_of_t_betas_takes_t_steps_and_no_more(make):
    path = Discrete("cosine", 40)
    grids = [make(40).grid, *KNOTS[:3], pf.samplers.Uniform()]
    for grid in grids:
        _, times = sampled(dataclasses.replace(make(40), grid=grid), path)
        assert len(times) == 40
    assert times == pytest.approx([k / 40 for k in range(40, 0, -1)])
    for grid in grids:
        with pytest.raises(UserError, match="steps is 41, but the path has only 40 knots; use at most 40"):
            sampled(dataclasses.replace(make(41), grid=grid), path)


def test_from_the_middle_there_are_the_knots_below():
    denoiser = pf.samplers.Denoiser(lambda x, t, cond: torch.tanh(x), PATH, "noise")
    for grid in (pf.samplers.Uniform(), pf.samplers.Knots(), pf.samplers.LogSNR()):
        assert pf.samplers.DDIM(5, grid=grid)(denoiser, torch.ones(1, 2), 0.3, 0.0).isfinite().all()
    assert pf.samplers.Knots().to_data(0.6, 4, PATH) == [0.6, 0.5, 0.25, 0.0]
    with pytest.raises(UserError, match=r"steps is 301, but the path has only 300 knots from t = 0.3; use at most 300"):
        pf.samplers.DDIM(301)(denoiser, torch.ones(1, 2), 0.3, 0.0)


@pytest.mark.parametrize("grid", KNOTS, ids=str)
@pytest.mark.parametrize("kind", FIXED)
def test_a_runge_kutta_method_ends_at_the_last_knot(kind, grid):
    """N - 1 steps to the last knot and the data prediction there; one step more, from t = 1, where the first knot is not that."""
    x, times = sampled(kind(4, grid))
    knots = grid.visited(PATH, 4)
    starts = [t for t in (1.0, *knots[:-1]) if t != 1.0] if knots[0] == 1.0 else knots[:-1]
    assert times[0] == 1.0
    assert times[-1] == knots[-1]
    assert set(starts) <= set(times)
    assert x.isfinite().all()
    if kind is pf.samplers.Euler:
        assert times == (knots if knots[0] == 1.0 else [1.0, *knots])


@functools.cache
def _encoded():
    """Return the exact model on the path, five points and their codes by a solver that chooses its steps, once for all."""
    model, truth = truth_model(PATH, "noise")
    x = truth.sample(5, generator=torch.Generator().manual_seed(0))
    return model, x, model.encode(x, sampler=pf.samplers.Dopri5(1e-3, 1e-3))


THERE_AND_BACK = [
    pytest.param(lambda g: pf.samplers.DDIM(100, grid=g), id="DDIM"),
    pytest.param(lambda g: pf.samplers.DPMSolverPP(100, grid=g), id="2M"),
    pytest.param(lambda g: pf.samplers.DPMSolverPP(100, "2S", grid=g), id="2S"),
    pytest.param(lambda g: pf.samplers.UniPC(100, grid=g), id="UniPC"),
    pytest.param(lambda g: pf.samplers.Euler(100, g), id="Euler"),
    pytest.param(lambda g: pf.samplers.Heun(100, g), id="Heun"),
]


@pytest.mark.parametrize(("make", "grid"), some_of(THERE_AND_BACK, KNOTS))
def test_encode_and_decode_go_through_the_knots_and_are_inverse(make, grid):
    """As far as 100 steps of first order are; both are about the path's interval, from knot to knot."""
    model, x, code = _encoded()
    sampler = make(grid)
    z = model.encode(x, sampler=sampler)
    assert (model.decode(z, sampler=sampler) - x).abs().max() < 0.3
    assert (z - code).abs().max() < 0.3
    assert model.log_prob(x, sampler=sampler).isfinite().all()


@pytest.mark.parametrize("n", [1, 4, 7])
@pytest.mark.parametrize("grid", KNOTS, ids=str)
def test_knots_lie_between_the_ends_either_way(grid, n):
    forth, back = grid(1.0, 0.001, n, PATH), grid(0.001, 1.0, n, PATH)
    assert forth == back[::-1] == sorted(set(forth), reverse=True)
    assert (forth[0], forth[-1]) == (1.0, 0.001)
    assert set(forth[1:-1]) <= set(grid.visited(PATH, n))


def test_a_path_in_continuous_time_ends_as_before():
    """N steps to t_min and the model's own evaluation there."""
    path = pf.paths.VariancePreserving()
    _, times = sampled(pf.samplers.DDIM(4), path)
    assert times == pytest.approx([1.0, *(1 - k * (1 - 1e-4) / 4 for k in (1, 2, 3)), 1e-4])
    _, times = sampled(pf.samplers.DDIM(4), pf.paths.Linear(), "velocity")
    assert times == [1.0, 0.75, 0.5, 0.25]


def test_a_model_that_stops_above_the_first_knot_ends_there():
    _, times = sampled(pf.samplers.DDIM(4), interval=(0.2, 1.0))
    assert times == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])
    _, times = sampled(pf.samplers.DDIM(4, grid=pf.samplers.Knots()), interval=(0.2, 1.0))
    assert times == pytest.approx([1.0, 0.75, 0.5, 0.25])


def test_ddpm_on_a_thousand_betas_is_the_papers_algorithm():
    """Algorithm 2 of 2006.11239 by hand, with sigma² the posterior's variance, on the same noise."""
    path, net = Discrete(steps=50, betas=tuple(torch.linspace(0.002, 0.4, 50).tolist())), torch.tanh
    beta = torch.linspace(0.002, 0.4, 50)
    kept = (1 - beta).cumprod(0)
    x, generator = torch.randn(3, 2), torch.Generator().manual_seed(0)
    denoiser = pf.samplers.Denoiser(lambda x, t, cond: net(x), path, "noise")
    made = pf.samplers.DDPM(50)(denoiser, x, 1.0, 0.0, torch.Generator().manual_seed(0))
    for k in range(49, -1, -1):
        x = (x - beta[k] / (1 - kept[k]).sqrt() * net(x)) / (1 - beta[k]).sqrt()
        if k:
            x = x + ((1 - kept[k - 1]) / (1 - kept[k]) * beta[k]).sqrt() * torch.randn(3, 2, generator=generator)
    torch.testing.assert_close(made, x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("variant", "order"), [("1S", 1), ("2S", 2), ("2M", 2), ("3M", 3)])
def test_a_variant_keeps_its_order_on_knots(variant, order):
    """Between 0.8 and 0.2, where steps from knot to knot are short in lambda; the last ones of a whole way are not."""
    denoiser, x = truth_model(PATH, "noise")[0].denoiser(), torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    exact = pf.samplers.Dopri5(1e-10, 1e-10)(denoiser, x, 0.8, 0.2)
    errors = [
        (pf.samplers.DPMSolverPP(n, variant, grid=pf.samplers.Knots())(denoiser, x, 0.8, 0.2) - exact).abs().max() for n in (250, 500)
    ]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.15)


def test_the_data_end_of_a_discrete_path():
    t = torch.tensor([0.0, 0.001])
    assert (float(PATH.alpha(t)[0]), float(PATH.sigma(t)[0])) == (1.0, 0.0)
    assert PATH.knots == 1000
    assert pf.paths.Linear().knots is None


def test_explain_counts_the_evaluations_of_a_sample():
    model = pf.models.ddim(pf.nn.MLP.Config((8,)), (2,), sampler=pf.samplers.DDIM(7))
    assert explain({"ddim": model}, torch.randn(4, 2))["evaluations a sample"]["ddim"] == "7"


@pytest.mark.parametrize("grid", KNOTS, ids=str)
def test_a_config_file_keeps_it(grid):
    plain = to_plain(pf.samplers.DDIM(4, grid=grid))
    assert plain["grid"] == {"name": "samplers.Knots", "spacing": grid.spacing, "offset": grid.offset, "last": grid.last}
    assert from_plain(plain, Sampler, "sampler") == pf.samplers.DDIM(4, grid=grid)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pf.samplers.Knots("trialing"), "'trialing' is not a known spacing; did you mean 'trailing'"),
        (lambda: pf.samplers.Knots("leading", -1), "offset is -1"),
        (lambda: pf.samplers.Knots("trailing", 1), "offset is 1 with 'trailing'"),
        (lambda: pf.samplers.Knots("leading", 1).visited(PATH, 1000), "offset is 1, but 1000 leading steps"),
        (
            lambda: sampled(pf.samplers.DDIM(4, grid=KNOTS[0]), pf.paths.Linear(), "velocity"),
            r"discrete path, but the path is Linear\(\); use",
        ),
        (lambda: sampled(pf.samplers.Euler(4, KNOTS[0]), pf.paths.Linear(), "velocity"), "the grid Knots needs a discrete path"),
        (lambda: pf.samplers.Euler(4, KNOTS[0])(lambda x, t: x, torch.ones(1, 1), 1.0, 0.5), "the grid Knots needs a discrete path"),
        (lambda: sampled(pf.samplers.Euler(1001, KNOTS[0])), "steps is 1001, but the path has only 1000 knots; use at most 1000"),
        (lambda: pf.samplers.Euler(4)(pf.samplers.Denoiser(torch.add, PATH), torch.ones(1, 1), 1.0, 0.0), "t is 0, but .* is defined from"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(UserError, match=message):
        call()
