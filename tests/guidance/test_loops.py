"""Methods for inverse problems that are loops of their own: what they reach, that they under-cover, and what they refuse."""

import pytest
import torch
from examples import generators, truth_model
from posteriors import conditioned, coverage, gaussian_model

import pushforward as pf
from pushforward.errors import NotInvertibleError, UserError
from pushforward.guidance import DPS, MMPS, Clip, FlowDPS, PnPFlow
from pushforward.measurements import Linear, Mask, Nonlinear
from pushforward.samplers import Dopri5, Euler

pytestmark = pytest.mark.usefixtures("float64")
LOOPS = [FlowDPS, PnPFlow]
MEASUREMENT = Linear(torch.tensor([[1.0, 0.5]], dtype=torch.float64), 0.5)


@pytest.mark.parametrize("method", LOOPS)
@pytest.mark.parametrize("path", [pf.paths.Linear(), pf.paths.Cosine(), pf.paths.VarianceExploding(0.01, 50.0)])
def test_samples_agree_with_what_was_measured(method, path):
    """One of two correlated elements is measured with little noise, the other follows: exactly, by -0.8.

    Without y the first differs from 1 by 1.17 on average. The methods trade agreement for the prior: they end at about 0.2 and
    0.3, and -0.6 for the other.
    """
    covariance = torch.tensor([[1.0, -0.8], [-0.8, 1.0]])
    model = gaussian_model(torch.zeros(2), covariance, path)
    found = model.sample(100, guidance=method(Mask(torch.tensor([1.0, 0.0]), 0.01), torch.tensor([1.0, 0.0]), steps=40))
    assert float((found[:, 0] - 1).abs().mean()) < 0.35
    assert float(found[:, 1].mean()) == pytest.approx(-0.8, abs=0.35)


@pytest.mark.parametrize("method", LOOPS)
def test_their_credible_intervals_do_not_cover(method):
    """Of 150 events of a mixture, each with 40 samples: far below 0.8, of which the standard error is 0.03."""
    model, truth = truth_model()
    generator = torch.Generator().manual_seed(0)
    x = truth.sample(150, generator=generator)
    y = MEASUREMENT.draw(x, generator).repeat_interleave(40, 0)
    made = model.sample(len(y), guidance=method(MEASUREMENT, y), generator=generator).view(150, 40, 2)
    assert coverage(made, x, 0.8) < 0.7


def test_the_estimate_of_pnp_flow_is_near_the_posteriors_mean_and_varies_less_when_noises_are_averaged():
    mean, spread = conditioned(torch.zeros(2), torch.eye(2), MEASUREMENT.operator, 0.1, torch.tensor([1.0]))
    model = gaussian_model(torch.zeros(2), torch.eye(2), pf.paths.Linear())
    found = {
        draws: model.sample(100, guidance=PnPFlow(Linear(MEASUREMENT.operator, 0.1), torch.tensor([1.0]), steps=60, draws=draws))
        for draws in (1, 4)
    }
    assert float((found[1].mean(0) - mean).abs().max()) < 0.25
    assert float(found[1].var(0).sum()) < 0.75 * float(spread.trace())
    assert float(found[4].var(0).sum()) < 0.5 * float(found[1].var(0).sum())


def test_the_published_step_of_flow_dps_is_along_the_gradient_of_the_norm():
    model, _ = truth_model()
    loop = FlowDPS(MEASUREMENT, torch.tensor([2.0])).on_model(model)
    data = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    down = torch.tensor([[1.0, 0.5]]) * torch.tensor([[1.0], [1.0]])  # -d|2 - A m|/dm = A' sign(2 - A m)
    torch.testing.assert_close(loop.descended(data, 1, step=0.1), data + 0.1 * down)
    reached = loop.descended(data, 1)
    torch.testing.assert_close(MEASUREMENT(reached), torch.full((2, 1), 2.0))  # one row of A: the minimum along the gradient is 0


@pytest.mark.parametrize("method", LOOPS)
def test_chunks_cut_what_was_measured_of_each_sample(method):
    model, _ = truth_model()
    guidance = method(MEASUREMENT, torch.linspace(-1, 1, 6)[:, None], steps=5)
    whole = model.sample(6, guidance=guidance, generator=generators(6))
    parts = model.sample(6, guidance=guidance, generator=generators(6), batch_size=4)
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-9)


def test_a_loop_runs_on_a_guided_denoiser_and_inside_other_guidance():
    model, _ = truth_model()
    made = model.sample(20, guidance=Clip(-0.1, 0.1, guidance=PnPFlow(Nonlinear(torch.sin), torch.zeros(2), steps=5)))
    assert float(made.abs().max()) <= 0.1 + 1e-9
    net = pf.models.ddpm(pf.nn.MLP.Config((8,)), (2,), classes=3, drop_cond=0.1)
    cond = torch.arange(4) % 3
    plain, guided = (
        net.sample(4, cond, guidance=FlowDPS(MEASUREMENT, torch.zeros(1), w, steps=5), generator=generators(4)) for w in (None, 4.0)
    )
    assert torch.isfinite(guided).all()
    assert not torch.equal(plain, guided)


@pytest.mark.parametrize("method", LOOPS)
def test_what_a_loop_cannot_be_combined_with_is_refused(method):
    calls = []
    model = pf.families.PathModel(lambda x, t, cond: calls.append(0) or x, (2,))
    guidance = method(MEASUREMENT, torch.zeros(1))
    with pytest.raises(UserError, match="is a loop of its own; leave sampler out"):
        model.sample(2, guidance=guidance, sampler=Euler(3))
    with pytest.raises(UserError, match="is a loop of its own; leave sampler out"):
        model.sample(2, guidance=Clip(guidance=guidance), sampler=Dopri5())
    with pytest.raises(NotInvertibleError, match="solves no ODE; use sample"):
        model.decode(torch.zeros(2, 2), guidance=guidance)
    with pytest.raises(UserError, match="log_prob is set"):
        model.sample(2, guidance=guidance, log_prob=True)
    with pytest.raises(UserError, match="there is one measurement"):
        model.sample(2, guidance=MMPS(MEASUREMENT, torch.zeros(1), guidance))
    with pytest.raises(UserError, match="there is one measurement"):
        model.sample(2, guidance=method(MEASUREMENT, torch.zeros(1), Clip(guidance=DPS(MEASUREMENT, torch.zeros(1)))))
    with pytest.raises(UserError, match="steps is 0"):
        method(MEASUREMENT, torch.zeros(1), steps=0)
    assert not calls
