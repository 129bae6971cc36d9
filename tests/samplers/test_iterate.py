"""One step at a time: the states of every sampler end where its call ends, bit for bit, and the predictions are the denoiser's."""

import itertools

import pytest
import torch
from examples import examples, generators, some_of

import pushforward as pf
from pushforward.data.mixture import three_gaussians
from pushforward.errors import UserError
from pushforward.samplers.linear import LinearSampler
from pushforward.samplers.sampler import AdaptiveSampler, FixedStepSampler, Sampler

pytestmark = pytest.mark.usefixtures("float64")
SAMPLERS = examples("samplers", of=Sampler)
ENDS = {"cosine": (0.95, 0.05), "discrete": (1.0, 0.0), "heat": (1.0, 0.01)}
PATHS = {"cosine": pf.paths.Cosine(), "discrete": pf.paths.Discrete("cosine", 200), "heat": pf.paths.Heat(3.0)}


def denoiser(path, dtype=torch.float64, cond=None):
    return pf.samplers.Denoiser(three_gaussians(dtype).net(path), path, cond=cond)


@pytest.mark.parametrize(("entry", "name"), some_of(SAMPLERS, list(PATHS)))
def test_the_last_state_is_that_of_a_call(entry, name):
    """Samples leave the batch of an adaptive method as they finish; the states are of all of them in their order."""
    sampler, path, (start, end) = entry.example(), PATHS[name], ENDS[name]
    if not isinstance(sampler, LinearSampler):
        end = max(end, path.interval[0])
    x = (1 + float(path.sigma(torch.tensor(start)))) * torch.randn(7, 2, generator=torch.Generator().manual_seed(1))
    cond = torch.arange(7) % 4
    call = denoiser(path, cond=cond)
    states = list(sampler.iterate(call, x, start, end, generators(7)))
    assert torch.equal(states[-1].x, sampler(call, x, start, end, generators(7)))
    assert all(state.x.shape == x.shape for state in states)
    last = torch.as_tensor(states[-1].t)
    torch.testing.assert_close(last.double(), torch.full_like(last.double(), end), rtol=0, atol=1e-9)
    if isinstance(sampler, AdaptiveSampler):
        for before, after in itertools.pairwise(states):
            assert (after.t <= before.t).all()
            stayed = after.t == before.t
            assert torch.equal(after.x[stayed], before.x[stayed])
        assert len(states) > 2
    else:
        assert len(states) == (sampler.evaluations if not hasattr(sampler, "tableau") else sampler.steps) - (
            name == "discrete" and isinstance(sampler, pf.samplers.EDM)
        )


@pytest.mark.parametrize("entry", [one for one in SAMPLERS if not issubclass(one.values[0].thing, AdaptiveSampler)])
def test_a_prediction_is_that_at_the_start_of_its_step(entry):
    sampler, call = entry.example(), denoiser(PATHS["cosine"])
    t, x = 0.95, torch.randn(4, 2)
    for state in sampler.iterate(call, x, 0.95, 0.05, generators(4)):
        expected = call(x, torch.full((4,), t))
        torch.testing.assert_close(state.prediction.data, expected.data, rtol=1e-12, atol=1e-12)
        t, x = state.t, state.x


def test_it_is_one_step_at_a_time():
    """Nothing is evaluated before it is asked for, and the rest never is."""
    calls = []

    def net(x, t, cond):
        calls.append(float(t[0]))
        return torch.tanh(x)

    for sampler in (pf.samplers.DDIM(10), pf.samplers.Heun(10)):
        calls.clear()
        steps = sampler.iterate(pf.samplers.Denoiser(net, pf.paths.Linear()), torch.ones(2, 2), 1.0, 0.0)
        assert not calls
        assert next(steps).t == pytest.approx(0.9)
        assert len(calls) == sampler.evaluations / 10


@pytest.mark.parametrize(
    "sampler", [pf.samplers.Heun(5), pf.samplers.Dopri5(1e-3, 1e-3), pf.samplers.DDIM(5)], ids=lambda one: type(one).__name__
)
@pytest.mark.parametrize("kind", ["bfloat16", "autocast"])
def test_in_16_bits_too(sampler, kind):
    net = pf.nn.MLP(2, 2, (8,), time_features=4).float()
    model = pf.families.PathModel(net, (2,)).float()
    x = torch.randn(3, 2, dtype=torch.float32)
    if kind == "bfloat16":
        model, x = model.to(torch.bfloat16), x.to(torch.bfloat16)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=kind == "autocast"):
        for state in sampler.iterate(model.denoiser(), x, 1.0, 0.0):
            assert torch.is_autocast_enabled("cpu") == (kind == "autocast")
            assert state.x.dtype == x.dtype
        assert torch.equal(state.x, sampler(model.denoiser(), x, 1.0, 0.0))


def test_gradients_flow_through_the_states():
    x = torch.randn(3, 2, requires_grad=True)
    for sampler in (pf.samplers.Heun(3), pf.samplers.DDIM(3), pf.samplers.Dopri5(1e-3, 1e-3)):
        *_, last = sampler.iterate(denoiser(PATHS["cosine"]), x, 0.9, 0.1)
        (one,) = torch.autograd.grad(last.x.sum(), x)
        (other,) = torch.autograd.grad(sampler(denoiser(PATHS["cosine"]), x, 0.9, 0.1).sum(), x)
        assert torch.equal(one, other)


def test_an_empty_batch_and_no_time():
    call = denoiser(PATHS["cosine"])
    for sampler in (pf.samplers.Heun(3), pf.samplers.DDIM(3), pf.samplers.Dopri5()):
        *_, last = sampler.iterate(call, torch.zeros(0, 2), 0.9, 0.1)
        assert last.x.shape == (0, 2)
        *_, last = sampler.iterate(call, torch.ones(3, 2), 0.5, 0.5)
        torch.testing.assert_close(last.x, torch.ones(3, 2), rtol=1e-12, atol=1e-12)


def test_what_has_a_call_of_its_own_is_refused():
    class Doubled(pf.samplers.DDIM):
        def __call__(self, *args):
            return 2 * super().__call__(*args)

    class Mine(Sampler):
        def __call__(self, denoiser, x, t_start, t_end, generator=None):
            return x

    class Half(FixedStepSampler):
        tableau = pf.samplers.Euler.tableau

    for sampler in (Doubled(3), Mine()):
        with pytest.raises(UserError, match=f"{type(sampler).__name__} has a __call__ of its own"):
            sampler.iterate(denoiser(PATHS["cosine"]), torch.ones(1, 2), 0.9, 0.1)
    assert len(list(Half(3).iterate(denoiser(PATHS["cosine"]), torch.ones(1, 2), 0.9, 0.1))) == 3
