"""Classifier-free guidance: its formula on known velocities, and what it costs."""

import pytest
import torch
from examples import truth_model

import pushforward as pf
from pushforward.errors import ConditionError, UserError
from pushforward.guidance.cfg import CFG
from pushforward.paths import Linear
from pushforward.samplers.denoiser import Denoiser
from pushforward.samplers.euler import Euler

pytestmark = pytest.mark.usefixtures("float64")
SLOPES = torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64)  # the last one is the unconditional row


class Linearly:
    """velocity = slope[cond] x, and how often it was asked."""

    def __init__(self):
        self.calls = 0

    def __call__(self, x, t, cond):
        self.calls += 1
        slope = SLOPES[-1].expand(len(x)) if cond is None else SLOPES[cond]
        return slope[:, None] * x


@pytest.fixture
def net():
    return Linearly()


X, T, COND = (
    torch.tensor([[1.0, 3.0], [2.0, -2.0]], dtype=torch.float64),
    torch.tensor([0.3, 0.7], dtype=torch.float64),
    torch.tensor([0, 1]),
)


def guided(guidance, net, cond=COND):
    return guidance(Denoiser(net, Linear(), cond=cond))(X, T).velocity


@pytest.mark.parametrize("scale", [0.0, 0.5, 2.0, 7.5])
def test_guidance_goes_away_from_the_unconditional_velocity(net, scale):
    slopes = 0.5 + scale * (SLOPES[COND] - 0.5)
    torch.testing.assert_close(guided(CFG(scale), net), slopes[:, None] * X, rtol=1e-12, atol=1e-12)


def test_a_negative_condition_takes_the_unconditional_ones_place(net):
    slopes = SLOPES[1 - COND] + 3 * (SLOPES[COND] - SLOPES[1 - COND])
    torch.testing.assert_close(guided(CFG(3.0, negative=1 - COND), net), slopes[:, None] * X, rtol=1e-12, atol=1e-12)


def test_scale_one_costs_no_second_evaluation(net):
    torch.testing.assert_close(guided(CFG(1.0), net), SLOPES[COND][:, None] * X)
    assert net.calls == 1


def test_outside_the_interval_the_condition_is_followed_plainly(net):
    velocity = guided(CFG(3.0, interval=(0.5, 1.0)), net)
    slopes = torch.tensor([2.0, 0.5 + 3 * (-1.0 - 0.5)])
    torch.testing.assert_close(velocity, slopes[:, None] * X, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rescale", [0.5, 1.0])
def test_rescaling_brings_the_spread_back(net, rescale):
    """Deviations over the event: that of the plain velocity at rescale 1, half way to it at 0.5."""
    plain, full = SLOPES[COND][:, None] * X, guided(CFG(4.0), net)
    wanted = (1 - rescale) * full.std(1) + rescale * plain.std(1)
    torch.testing.assert_close(guided(CFG(4.0, rescale=rescale), net).std(1), wanted, rtol=1e-12, atol=1e-12)


def test_rescaling_a_constant_velocity_stays_finite(net):
    assert CFG(4.0, rescale=0.7)(Denoiser(net, Linear(), cond=COND))(torch.ones(2, 2), T).velocity.isfinite().all()


@pytest.mark.parametrize("shape", [(1,), (1, 1, 1), (5,)])
def test_what_has_no_spread_is_not_rescaled(net, shape):
    """One number, or equal ones, whose deviation is rounding: the guided velocity stays what it is."""
    x = torch.full((2, *shape), 0.1)
    net = Denoiser(lambda x, t, cond: x * (0.3 if cond is None else 0.7), Linear(), cond=COND)
    torch.testing.assert_close(CFG(4.0, rescale=0.7)(net)(x, T).velocity, CFG(4.0)(net)(x, T).velocity, rtol=1e-12, atol=0)


def test_guidance_under_autocast_is_in_the_states_dtype():
    x, low = torch.tensor([[1.0, -1.0]], dtype=torch.float32), torch.bfloat16
    net = Denoiser(lambda x, t, cond: torch.full_like(x, 1.0 if cond is None else 1.0078125, dtype=low), Linear(), cond=COND[:1])
    velocity = CFG(1.3)(net)(x, T[:1]).velocity
    torch.testing.assert_close(velocity, torch.full_like(x, 1 + 1.3 * 0.0078125), rtol=1e-6, atol=0)  # which bfloat16 rounds


def test_guidance_without_a_condition_is_refused(net):
    with pytest.raises(ConditionError, match="guidance 3 needs a condition to follow"):
        guided(CFG(3.0), net, cond=None)


def test_a_float_means_cfg():
    model, _ = truth_model(classes=3)
    z, cond = torch.randn(3, 2), torch.tensor([0, 1, 2])
    assert torch.equal(model.decode(z, cond, guidance=2.0), model.decode(z, cond, guidance=CFG(2.0)))


def test_guidance_moves_samples_towards_their_class():
    """Guidance 3 sharpens p(class | x): the mean posterior of the class asked for rises."""
    model, truth = truth_model(classes=3)
    cond = torch.arange(60) % 3

    def share(guidance):
        x = model.sample(60, cond, sampler=Euler(50), guidance=guidance, generator=torch.Generator().manual_seed(0))
        return (truth.weights[cond].log() + truth.log_prob(x, cond) - truth.log_prob(x)).exp().mean()

    assert share(3.0) > share(1.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: CFG(2.0, interval=(0.5, 0.2)), "interval is"),
        (lambda: CFG(2.0, interval=(0.0, 1.2)), "interval is"),
        (lambda: CFG(2.0, rescale=1.5), "rescale is 1.5"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(UserError, match=message):
        call()


@pytest.mark.parametrize("kind", [pf.models.flow_matching, pf.models.meanflow])
def test_a_negative_condition_is_of_the_models_kind(kind):
    """The label after the last, which stands for none in the network, once passed; others ended in the embedding's IndexError."""
    model, cond = kind(pf.nn.MLP.Config((8,)), (2,), classes=3, drop_cond=0.1).eval(), torch.arange(3)
    assert model.sample(3, cond, guidance=CFG(2.0, cond.flip(0))).shape == (3, 2)
    for negative, message in (
        (cond + 1, r"negative\[2\] is 3, but labels go from 0 to 2; use negative=None"),
        (cond.double(), "negative is torch.float64 of shape .* needs integer labels"),
    ):
        with pytest.raises(ConditionError, match=message):
            model.sample(3, cond, guidance=CFG(2.0, negative))
