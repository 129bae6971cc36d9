"""A discrete path without data at t = 1: algorithm 1 of Lin et al., every law of paths, and samplers that meet a log-SNR of -infinity."""

import itertools
import math

import numpy
import pytest
import torch
from examples import At, examples, generators, some_of, truth_model
from hypothesis import given, settings
from hypothesis import strategies as st

import pushforward as pf
from pushforward.errors import UserError
from pushforward.formats.config import from_plain, to_plain
from pushforward.paths import Path, Prediction
from pushforward.paths.discrete import Discrete, _betas
from pushforward.samplers.grids import LogSNR
from pushforward.samplers.sampler import Sampler

pytestmark = pytest.mark.usefixtures("float64")
PATH = Discrete("cosine", 120, zero_terminal_snr=True)
SAMPLERS = examples("samplers", of=Sampler)


@pytest.mark.parametrize(
    "schedule", ["linear", pytest.param("cosine", marks=pytest.mark.slow), pytest.param("sigmoid", marks=pytest.mark.slow)]
)
def test_it_keeps_the_laws_of_paths(schedule):
    pf.testing.check_path(Discrete(schedule, zero_terminal_snr=True))


@pytest.mark.parametrize("schedule", ["linear", "cosine", "sigmoid"])
def test_alpha_at_the_knots_is_algorithm_1(schedule):
    root = numpy.sqrt(numpy.cumprod(1 - _betas(schedule, 1000)))
    expected = torch.from_numpy((root - root[-1]) * root[0] / (root[0] - root[-1]))
    path, t = Discrete(schedule, zero_terminal_snr=True), (torch.arange(1000) + 1) / 1000
    torch.testing.assert_close(path.alpha(t), expected, rtol=1e-9, atol=1e-15)
    torch.testing.assert_close(path.sigma(t), (1 - expected**2).sqrt(), rtol=1e-9, atol=0)
    torch.testing.assert_close(path.alpha(t[:1]), Discrete(schedule).alpha(t[:1]), rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_ends_are_exact_and_never_nan(dtype):
    path, t = Discrete(zero_terminal_snr=True), torch.tensor([0.0, 0.001, 1.0], dtype=dtype)
    assert path.alpha(t)[[0, 2]].tolist() == [1.0, 0.0]
    assert path.sigma(t)[[0, 2]].tolist() == [0.0, 1.0]
    assert path.log_snr(t)[[0, 2]].tolist() == [math.inf, -math.inf]
    for kind, other in itertools.product(path.kinds, repeat=2):
        assert all(torch.as_tensor(one).isfinite().all() for one in path.coefficients(kind, other, t[1:])), (kind, other)
    float32, exact = path.sigma(torch.linspace(0.001, 1, 999, dtype=torch.float32)), path.sigma(torch.linspace(0.001, 1, 999))
    torch.testing.assert_close(float32.double(), exact, rtol=1e-4, atol=0)  # t itself is rounded, by 6e-5 of the first knot


@settings(max_examples=30)
@given(betas=st.lists(st.floats(1e-4, 0.9), min_size=3, max_size=20))
def test_any_betas_give_a_path_that_falls_to_no_data(betas):
    path = Discrete(tuple(betas), zero_terminal_snr=True)
    t = torch.linspace(1 / len(betas), 1, 1001, dtype=torch.float64)
    assert (path.log_snr(t).diff() < 0).all()
    assert float(path.alpha(t)[-1]) == 0


@pytest.mark.parametrize(("kind", "entry"), some_of(["v", "data", "velocity"], SAMPLERS, every=3))
def test_every_sampler_starts_there(entry, kind):
    model, _ = truth_model(PATH, kind, sampler=entry.example())
    x = model.sample(3, generator=generators(3))
    assert x.isfinite().all()
    assert x.abs().max() < 5
    if model.sampler.solves_ode:
        assert (model.decode(model.encode(x)) - x).abs().max() < 1.5


@pytest.mark.parametrize(
    "grid", [pf.samplers.Uniform(), LogSNR(), pf.samplers.Karras(), pf.samplers.Shifted(), pf.samplers.Knots()], ids=str
)
def test_every_grid_starts_there(grid):
    model, _ = truth_model(PATH, "v", sampler=pf.samplers.UniPC(6, grid=grid))
    assert model.sample(3, generator=generators(3)).isfinite().all()


@pytest.mark.parametrize("weighting", [None, pf.weightings.MinSNR(), pf.weightings.NoiseLoss(), pf.weightings.Unit()], ids=str)
@pytest.mark.parametrize("kind", ["v", "data", "velocity"])
def test_losses_are_finite_at_both_ends(kind, weighting):
    for t in (0.0, 1.0):
        model = pf.families.PathModel(pf.nn.MLP(2, 2, (8,), time_features=4), (2,), PATH, kind, At(t), weighting=weighting)
        loss = model.loss(torch.randn(5, 2))
        loss.backward()
        assert loss.isfinite()


@pytest.mark.parametrize("kind", ["noise", "score"])
def test_what_does_not_determine_the_data_is_refused(kind):
    with pytest.raises(UserError, match=f"prediction is '{kind}', but at t = 1 of a path of zero terminal SNR .*; use 'v' or 'data'"):
        pf.families.PathModel(pf.nn.MLP(2, 2), (2,), PATH, kind)
    x, t = torch.randn(2, 2), torch.ones(2)
    torch.testing.assert_close(Prediction(PATH, "v", -x, x, t).noise, x)  # as a conversion it is there


def test_a_config_file_keeps_it():
    assert from_plain(to_plain(PATH), Path, "path") == PATH != Discrete("cosine", 120)
