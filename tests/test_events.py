"""Events: where they are, their gradients by the implicit function theorem, and samples that meet none."""

import math

import pytest
import torch

from pushforward.errors import ShapeError, UserError
from pushforward.ode import odeint

pytestmark = pytest.mark.usefixtures("float64")
WAYS = [
    pytest.param({"method": "rk4", "steps": 40}, id="rk4"),
    pytest.param({"rtol": 1e-9, "atol": 1e-9}, id="dopri5"),
    pytest.param({"method": "dopri8", "rtol": 1e-9, "atol": 1e-9}, id="dopri8"),
    pytest.param({"rtol": 1e-9, "atol": 1e-9, "adjoint": True}, id="adjoint"),
]


def fall(x, t, g):
    return torch.stack((x[:, 1], -g), dim=1)


@pytest.mark.parametrize("options", WAYS)
def test_a_ball_meets_the_ground_when_it_must(options):
    """h = h_0 - g t² / 2: t = sqrt(2 h_0 / g), v = - sqrt(2 g h_0); the third one is still in the air at t = 2."""
    height, g = torch.tensor([1.0, 3.0, 50.0], requires_grad=True), torch.tensor([9.8, 1.6, 9.8], requires_grad=True)
    start = torch.stack((height, torch.zeros(3)), dim=1)
    end = odeint(fall, start, 0.0, 2.0, (g,), event=lambda x, t, g: x[:, 0], **options)
    assert end.happened.tolist() == [True, True, False]
    t = torch.where(end.happened, (2 * height / g).sqrt(), 2.0)
    speed = -g * t
    torch.testing.assert_close(end.t, t, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(end.x, torch.stack((height - g * t**2 / 2, speed), dim=1), rtol=1e-7, atol=1e-7)
    for got, right in ((end.t, t), (end.x[:, 1], speed)):
        for one, two in zip(*(torch.autograd.grad(value.sum(), (height, g), retain_graph=True) for value in (got, right)), strict=True):
            torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-6)
    with torch.no_grad():
        alone = odeint(fall, start, 0.0, 2.0, (g,), event=lambda x, t, g: x[:, 0], **options)
    torch.testing.assert_close(alone.t, end.t, rtol=1e-7, atol=1e-7)
    assert torch.equal(alone.happened, end.happened)


@pytest.mark.parametrize("options", WAYS)
@pytest.mark.parametrize("backwards", [False, True])
def test_an_event_may_read_time_and_have_parameters(options, backwards):
    """X = exp(t) meets level + t / 2; the level's gradient is 1 / (exp(t) - 1/2)."""
    level = torch.tensor(1.5 if backwards else 2.0, requires_grad=True)
    end = odeint(lambda x, t: x, torch.ones(1), 0.0, -3.0 if backwards else 3.0, event=lambda x, t: x - level - t / 2, **options)
    t = float(end.t.detach())
    assert bool(end.happened)
    assert math.exp(t) == pytest.approx(float(level.detach()) + t / 2, abs=1e-6)
    (by_level,) = torch.autograd.grad(end.t.sum(), level)
    assert float(by_level) == pytest.approx(1 / (math.exp(t) - 0.5), rel=1e-5)


@pytest.mark.parametrize("options", WAYS)
def test_a_sample_that_starts_at_the_event_stops_at_the_next(options):
    """X = sin t from its own zero: the next is at pi."""
    end = odeint(lambda x, t: t.cos()[:, None], torch.zeros(2, 1), 0.0, 5.0, event=lambda x, t: x[:, 0], **options)
    torch.testing.assert_close(end.t, torch.full((2,), math.pi), rtol=1e-6, atol=1e-6)


def test_args_travel_with_the_samples_that_are_left():
    rate = torch.tensor([0.1, 1000.0, 0.2, 0.3, 5.0])
    end = odeint(lambda x, t, r: -r[:, None] * x, torch.ones(5, 2), 0.0, 3.0, (rate,), event=lambda x, t, r: x[:, 0] - r.clamp(max=0.5))
    t = -rate.clamp(max=0.5).log() / rate
    assert end.happened.tolist() == (t < 3).tolist()
    torch.testing.assert_close(end.t, t.clamp(max=3.0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fewer_digits_find_events_too(dtype):
    end = odeint(lambda x, t: -x, torch.ones(2, dtype=dtype), 0.0, 3.0, event=lambda x, t: x - 0.5)
    assert (end.t.dtype, end.x.dtype) == (torch.float32, dtype)
    tolerance = 1e-4 if dtype == torch.float32 else 0.02
    torch.testing.assert_close(end.t, torch.full((2,), math.log(2)).float(), rtol=0, atol=tolerance)


@pytest.mark.parametrize("options", [{"method": "euler", "steps": 3}, {}])
def test_no_samples_meet_no_events(options):
    end = odeint(lambda x, t: x, torch.zeros(0, 2), 0.0, 1.0, event=lambda x, t: x[:, 0], **options)
    assert (end.x.shape, end.t.shape, end.happened.shape) == ((0, 2), (0,), (0,))


def test_what_is_not_supported_is_refused():
    with pytest.raises(UserError, match="event is given and t1 is several times"):
        odeint(lambda x, t: x, torch.ones(1, 1), 0.0, [0.5, 1.0], event=lambda x, t: x[:, 0])
    with pytest.raises(ShapeError, match=r"the event returns shape \(2, 1\) for 2 samples"):
        odeint(lambda x, t: x, torch.ones(2, 1), 0.0, 1.0, event=lambda x, t: x)
