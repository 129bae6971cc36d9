"""RF-Inversion: without control it is encode and decode, with full control it returns the noise or the event."""

import pytest
import torch
from examples import generators, truth_model

import pushforward as pf
from pushforward.editing import RFInversion
from pushforward.samplers import DDIM

pytestmark = pytest.mark.usefixtures("float64")
PATHS = [
    (pf.paths.Linear(), "velocity"),
    (pf.paths.Linear(), "data"),
    (pf.paths.Cosine(), "v"),
    (pf.paths.VariancePreserving(), "noise"),
    (pf.paths.VarianceExploding(0.01, 50.0), "noise"),
    (pf.paths.Discrete(steps=100), "noise"),
]
X = torch.tensor([[-1.9, -0.3], [-1.0, -0.6], [0.0, 1.0]], dtype=torch.float64)
FIRST, SECOND = torch.zeros(3, dtype=torch.int64), torch.ones(3, dtype=torch.int64)


def exact(path=None, prediction="velocity"):
    return truth_model(path, prediction, exact_base=False, classes=3)[0]


def test_without_control_it_is_encode_and_decode():
    model = exact()
    steps = DDIM(9)
    plain = model.decode(model.encode(X, FIRST, sampler=steps), SECOND, sampler=steps)
    assert torch.equal(RFInversion(steps=9, gamma=0.0, eta=0.0)(model, X, FIRST, SECOND), plain)


@pytest.mark.parametrize(("path", "prediction"), PATHS)
def test_with_full_control_it_returns_the_event_on_every_path(path, prediction):
    edit = RFInversion(steps=9, gamma=0.5, eta=1.0, interval=(0.0, 1.0))
    torch.testing.assert_close(edit(exact(path, prediction), X, FIRST, SECOND), X, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("path", "prediction"), PATHS)
def test_inversion_under_full_control_ends_at_the_drawn_noise(path, prediction):
    model = exact(path, prediction)
    made = RFInversion(steps=9, gamma=1.0, eta=0.0)(model, X, FIRST, SECOND, generator=generators(3))
    torch.testing.assert_close(made, model.sample(3, SECOND, sampler=DDIM(9), generator=generators(3)), rtol=0, atol=1e-2)


def test_on_the_linear_path_it_is_the_papers_mixture_of_velocities():
    model, n, gamma, eta = exact(), 8, 0.4, 0.7
    e = model.base.sample(3, generator=generators(3))
    y = X
    for k in range(n):
        t = torch.full((3,), k / n)
        v = model.net(y, t, FIRST)
        y = y + (v + gamma * ((e - y) / (1 - t[:, None]) - v)) / n
    for k in range(n, 0, -1):
        t = torch.full((3,), k / n)
        v = model.net(y, t, SECOND)
        y = y - (v + (eta if k / n >= 0.5 else 0.0) * ((y - X) / t[:, None] - v)) / n
    made = RFInversion(steps=n, gamma=gamma, eta=eta, interval=(0.5, 1.0))(model, X, FIRST, SECOND, generator=generators(3))
    torch.testing.assert_close(made, y, rtol=0, atol=1e-9)


def test_more_control_stays_closer_to_the_event():
    model = exact()
    distances = [
        float((RFInversion(eta=eta, interval=(0.2, 1.0))(model, X, FIRST, SECOND, generator=generators(3)) - X).norm())
        for eta in (0.0, 0.5, 0.9, 1.0)
    ]
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 0.7 * distances[0]
