"""Continuous flows: the loss is the likelihood and what the trajectories cost, its gradients through the steps are the adjoint's."""

import math

import pytest
import torch
from torch import nn

from pushforward.bijections.ode import ODE
from pushforward.errors import ConditionError, NotInvertibleError, UserError
from pushforward.families.continuous_flow import ContinuousFlow
from pushforward.models.ffjord import ffjord
from pushforward.nn.mlp import MLP
from pushforward.samplers.ddpm import DDPM
from pushforward.samplers.dopri5 import Dopri5
from pushforward.samplers.rk4 import RK4

pytestmark = pytest.mark.usefixtures("float64")
TIGHT = Dopri5(1e-10, 1e-10)
RATES = torch.tensor([0.5, -0.3, 0.2])


class Stretch(nn.Module):
    """v = r x, with the rates r as parameters: x(t) = x exp(r t), div v = sum r, |dv/dx|_F² = sum r²."""

    def __init__(self):
        super().__init__()
        self.rates = nn.Parameter(RATES.double())

    def forward(self, x, t, cond=None):
        return self.rates * x


@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
def test_the_loss_is_the_likelihood_and_the_costs_in_closed_form(divergence):
    """int |r x exp(r t)|² dt = sum r x² (exp(2 r) - 1) / 2; Hutchinson's signs are exact for a diagonal Jacobian."""
    x, r = torch.randn(5, 3), RATES.double()
    model = ContinuousFlow(Stretch(), (3,), kinetic=0.7, jacobian=0.3, divergence=divergence, loss_sampler=TIGHT)
    z = x * r.exp()
    log_prob = -0.5 * z.square().sum(1) - 1.5 * math.log(2 * math.pi) + r.sum()
    speed = (r * x.square() * torch.expm1(2 * r) / 2).sum(1)
    expected = (0.7 * speed + 0.3 * r.square().sum() - log_prob).mean() / 3
    torch.testing.assert_close(model.loss(x), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(model.log_prob(x, sampler=TIGHT), log_prob, rtol=1e-9, atol=1e-9)


def test_the_jacobians_norm_is_autograds():
    net, x = MLP(3, 3, (8,), activation="tanh", time_features=2), torch.randn(4, 3)
    t = torch.rand(4)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda one, s: net(one[None], s[None])[0]))(x, t)
    _, divergence, norm = ODE(net).divergence.with_norm(net, x, t, None, None)
    torch.testing.assert_close(norm, jacobian.square().sum((1, 2)), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(divergence, jacobian.diagonal(dim1=1, dim2=2).sum(1), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("weights", [(0.0, 0.0), (0.1, 0.1)])
def test_gradients_of_the_loss_by_the_adjoint_are_those_through_the_steps(weights):
    """RK4 with 60 steps: both are within some 1e-8 of the exact ones."""
    net, x, cond = MLP(2, 2, (8, 8), activation="tanh", time_features=2, classes=3), torch.randn(6, 2), torch.tensor([0, 1, 2, 2, 1, 0])
    gradients = []
    for adjoint in (False, True):
        model = ContinuousFlow(net, (2,), kinetic=weights[0], jacobian=weights[1], loss_sampler=RK4(60, adjoint=adjoint), classes=3)
        gradients.append(torch.autograd.grad(model.loss(x, cond, generator=torch.Generator().manual_seed(0)), [*net.parameters()]))
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-8)


def test_weights_keep_their_names():
    """The solver around the velocity must not enter the state dict."""
    model = ContinuousFlow(Stretch(), (3,))
    assert list(model.state_dict()) == ["velocity.rates"]


def test_condition_vectors_reach_the_network():
    model = ffjord(MLP.Config((8,), cond_features=3), (2,))
    x, cond = torch.randn(4, 2), torch.randn(4, 3)
    for p in model.parameters():
        nn.init.normal_(p, std=0.5)
    assert not torch.allclose(model.log_prob(x, cond), model.log_prob(x, cond.flip(0)))
    model.loss(x, cond).backward()
    assert model.velocity.label.linear.weight.grad.abs().sum() > 0
    with pytest.raises(ConditionError, match=r"cond is None, but this model needs vectors \(4, 3\)"):
        model.loss(x)


@pytest.mark.slow
def test_regularisers_shorten_trajectories_and_cost_little_likelihood():
    """Moons, 600 steps, seed 0: a fifth shorter at least, for 0.1 nats at most."""
    import pushforward as pf

    torch.set_default_dtype(torch.float32)
    train, test = pf.data.load("moons").x, pf.data.load("moons", "test", n=500).x
    nats, speeds = [], []
    for weight in (0.0, 0.02):
        torch.manual_seed(0)
        model = ffjord(MLP.Config((32, 32)), (2,), kinetic=weight, jacobian=weight, preprocess="standardise", loss_sampler=RK4(4))
        pf.Trainer(model, train, steps=600, batch_size=128, lr=1e-2).fit()
        with torch.no_grad():
            nats.append(float(model.log_prob(test).mean()))
            z = model.preprocess(test)[0]
            speeds.append(float(ODE(model.velocity, RK4(50)).with_costs(z, norm=False)[2].mean()))
    assert speeds[1] < 0.8 * speeds[0]
    assert nats[1] > nats[0] - 0.1


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ContinuousFlow(Stretch(), (3,), kinetic=-1.0), UserError, "kinetic is -1.0, but a regulariser's weight is at least 0"),
        (lambda: ContinuousFlow(Stretch(), (3,), jacobian=math.nan), UserError, "jacobian is nan"),
        (lambda: ContinuousFlow(Stretch(), (3,), divergence="exakt"), UserError, "did you mean 'exact'"),
        (lambda: ContinuousFlow(Stretch(), (3,), loss_sampler=DDPM(10)), NotInvertibleError, "does not solve the ODE"),
        (lambda: ContinuousFlow(Stretch(), (3,), base=object()), NotInvertibleError, "the base object has no log_prob"),
        (lambda: ContinuousFlow(Stretch(), (3,)).loss(torch.zeros(1, 3), noise=torch.zeros(1, 3)), UserError, "noise is given"),
        (lambda: MLP(2, 2, classes=2, cond_features=2), UserError, "a condition is labels, vectors or images"),
    ],
)
def test_what_it_cannot_do_is_refused_by_name(make, error, message):
    with pytest.raises(error, match=message):
        make()
