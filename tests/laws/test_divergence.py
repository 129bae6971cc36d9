"""Divergences: the exact one is the trace of the Jacobian by autograd, the estimate is unbiased."""

import itertools
import math

import pytest
import torch

from pushforward.bijections.divergences import ExactDivergence, HutchinsonDivergence
from pushforward.bijections.ode import ODE
from pushforward.errors import ShapeError, UserError
from pushforward.families.path_model import PathModel
from pushforward.functional.divergence import exact_divergence, hutchinson_divergence
from pushforward.nn.activation import ACTIVATIONS
from pushforward.nn.dit import DiT
from pushforward.nn.mlp import MLP
from pushforward.nn.unet import UNet
from pushforward.samplers.dopri5 import Dopri5
from pushforward.samplers.midpoint import Midpoint

EXACT = {"rtol": 1e-10, "atol": 1e-10}


def field(shape):
    """A field on events of this shape in which every number depends on every other."""
    d = math.prod(shape)
    matrix = torch.randn(d, d, generator=torch.Generator().manual_seed(1))
    return lambda x: (torch.sin(x.flatten(1) @ matrix) * x.flatten(1).square()).view_as(x)


def trace(function, x):
    """The trace of each row's Jacobian by reverse-mode autograd, one row after another."""
    d = x[0].numel()
    return torch.stack([torch.autograd.functional.jacobian(lambda one: function(one[None])[0], row).reshape(d, d).trace() for row in x])


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("chunk", [None, 1, 3, 100])
@pytest.mark.parametrize("shape", [(5,), (1, 4, 4), (2, 3, 2)])
def test_exact_divergence_is_the_trace_of_the_jacobian(shape, chunk, grad):
    x, function = torch.randn(3, *shape), field(shape)
    with torch.set_grad_enabled(grad):
        value, divergence = exact_divergence(function, x, chunk)
    torch.testing.assert_close(divergence, trace(function, x), **EXACT)
    torch.testing.assert_close(value, function(x), **EXACT)


@pytest.mark.parametrize("grad", [False, True])
def test_a_network_with_dropout_has_a_divergence_in_training(grad):
    """All directions must meet the same mask; with dropout before a linear map the divergence is that of the map that was drawn."""
    net = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(3, 3, bias=False))
    with torch.set_grad_enabled(grad):
        value, divergence = exact_divergence(net, torch.ones(1, 3))
    kept = torch.linalg.solve(net[1].weight, value[0])  # 0 or 2 for each input
    torch.testing.assert_close(divergence[0], net[1].weight.diagonal() @ kept, **EXACT)


def randomised(net):
    """Networks start with zeros in their last layers, whose divergence is 0: give all of them numbers."""
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return net


@pytest.mark.parametrize(
    "net",
    [
        pytest.param(lambda: DiT((1, 4, 4), width=8, depth=1, heads=2, classes=3), id="DiT"),
        pytest.param(lambda: UNet((1, 4, 4), channels=4, multipliers=(1,), depth=1, heads=2, classes=3), id="UNet"),
    ],
)
@pytest.mark.parametrize("grad", [False, True])
def test_networks_with_attention_have_an_exact_divergence(net, grad):
    net, x, t, cond = randomised(net()), torch.randn(2, 1, 4, 4), torch.rand(2), torch.tensor([0, 2])
    expected = torch.stack([trace(lambda row, k=k: net(row, t[k : k + 1], cond[k : k + 1]), x[k : k + 1])[0] for k in range(2)])
    with torch.set_grad_enabled(grad):
        _, divergence = exact_divergence(lambda x: net(x, t, cond), x)
    torch.testing.assert_close(divergence, expected, **EXACT)


@pytest.mark.parametrize(
    "net",
    [
        pytest.param(lambda: DiT((1, 4, 4), width=8, depth=2, heads=2), id="DiT"),
        pytest.param(lambda: UNet((1, 4, 4), channels=4, multipliers=(1,), depth=1, heads=2), id="UNet"),
    ],
)
@pytest.mark.parametrize("grad", [False, True])
def test_activation_checkpointing_changes_no_divergence(net, grad):
    """Checkpointing works by saved-tensor hooks, under which torch.func refuses to differentiate."""
    net, x, t = randomised(net()).train(), torch.randn(2, 1, 4, 4), torch.rand(2)
    results = {}
    for net.activation_checkpointing in (False, True):
        with torch.set_grad_enabled(grad):
            value, divergence = exact_divergence(lambda x: net(x, t, None), x)
        loss = value.square().sum() + divergence.square().sum()
        gradients = torch.autograd.grad(loss, list(net.parameters()), allow_unused=True) if grad else ()
        results[net.activation_checkpointing] = [value, divergence, *gradients]
    torch.testing.assert_close(results[True], results[False], **EXACT)


@pytest.mark.parametrize("function", [lambda x: field((4,))(x), torch.ones_like], ids=["field", "constant"])
@pytest.mark.parametrize("grad", [False, True])
def test_saved_tensors_may_be_kept_elsewhere(function, grad):
    x = torch.randn(3, 4)
    with torch.set_grad_enabled(grad):
        expected = exact_divergence(function, x)
        with torch.autograd.graph.saved_tensors_hooks(lambda one: one.numpy(force=True), torch.from_numpy):
            found = exact_divergence(function, x)
    torch.testing.assert_close(found, expected, **EXACT)


LAYERS = {
    "layer_norm": lambda h: torch.nn.functional.layer_norm(h, (4,)),
    "group_norm": lambda h: torch.nn.functional.group_norm(h, 2),
    "attention": lambda h: torch.nn.functional.scaled_dot_product_attention(*[h.view(-1, 1, 2, 2)] * 3).reshape(h.shape),
    "gelu": torch.nn.functional.gelu,
}


@pytest.mark.parametrize("estimate", [False, True])
@pytest.mark.parametrize("layer", LAYERS)
def test_the_divergence_through_a_layer_has_the_right_gradients(layer, estimate):
    """torch 2.13's layer_norm differentiates its own forward-mode derivative wrongly, in silence: likelihood training would follow it."""
    x, probes, inner = torch.randn(2, 4), torch.randn(2, 2, 4), torch.randn(4, 4)

    def divergence(weight):
        def function(x):
            return LAYERS[layer](x @ weight) @ inner

        return hutchinson_divergence(function, x, probes)[1] if estimate else exact_divergence(function, x)[1]

    torch.autograd.gradcheck(divergence, torch.randn(4, 4, requires_grad=True))


def mlp(hidden, activation):
    net = MLP(3, 3, (7, 5, 6, 4)[:hidden], activation=activation, time_features=4, classes=2)
    return net, torch.randn(4, 3), torch.rand(4), torch.tensor([0, 1, 1, 0])


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("hidden", [1, 2, 3, 4])
def test_the_analytic_trace_of_an_mlp_is_its_exact_divergence(hidden, activation, grad):
    net, x, t, cond = mlp(hidden, activation)
    with torch.set_grad_enabled(grad):
        value, divergence = net.value_and_divergence(x, t, cond)
        expected_value, expected = exact_divergence(lambda x: net(x, t, cond), x)
    torch.testing.assert_close(divergence, expected, **EXACT)
    torch.testing.assert_close(value, expected_value, **EXACT)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("hidden", [1, 2, 3, 4])
def test_the_analytic_trace_has_the_gradients_of_the_exact_divergence(hidden, activation):
    """First by the parameters and x, then a second time by x, as likelihood training through a solver needs."""
    net, x, t, cond = mlp(hidden, activation)
    x.requires_grad_()

    def gradients(divergence):
        first = torch.autograd.grad(divergence.sum(), [x, *net.parameters()], create_graph=True, allow_unused=True, materialize_grads=True)
        (second,) = torch.autograd.grad(first[0].square().sum(), x, allow_unused=True, materialize_grads=True)
        return [*first, second]

    ours = gradients(net.value_and_divergence(x, t, cond)[1])
    for a, b in zip(ours, gradients(exact_divergence(lambda x: net(x, t, cond), x)[1]), strict=True):
        torch.testing.assert_close(a, b, **EXACT)


def test_the_divergence_is_right_in_inference_mode():
    x, function = torch.randn(3, 4), field((4,))
    with torch.inference_mode():
        divergence = exact_divergence(function, x)[1]
    torch.testing.assert_close(divergence.clone(), trace(function, x), **EXACT)


@pytest.mark.parametrize("sampler", [Midpoint(3), Dopri5(1e-6, 1e-6)], ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_likelihood_without_gradients_is_the_one_with_them_and_may_enter_others(activation, sampler):
    net = MLP(3, 3, (7, 5), activation=activation, time_features=4, classes=2)
    model = PathModel(net, (3,), classes=2)
    x, cond, scale = torch.randn(4, 3), torch.tensor([0, 1, 1, 0]), torch.ones(4, requires_grad=True)
    before = x.clone()
    with torch.no_grad():
        values = model.log_prob(x, cond, sampler=sampler)
    torch.testing.assert_close(values, model.log_prob(x, cond, sampler=sampler), rtol=1e-6, atol=1e-6)  # relu has kinks
    torch.testing.assert_close(torch.autograd.grad((values * scale).sum(), scale)[0], values, **EXACT)
    assert torch.equal(x, before)


def test_hutchinson_with_all_signs_is_exact():
    """The mean of e' J e over all 2^d sign vectors is the trace: mixed terms cancel in pairs."""
    x, function = torch.randn(2, 4), field((4,))
    signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=4)))[:, None].expand(-1, 2, -1)
    value, estimate = hutchinson_divergence(function, x, signs)
    torch.testing.assert_close(estimate, trace(function, x), **EXACT)
    torch.testing.assert_close(value, function(x), **EXACT)


@pytest.mark.parametrize("distribution", ["rademacher", "gaussian"])
def test_hutchinson_is_unbiased(distribution):
    """20,000 directions, seed 0: the mean is within 5 of its own standard errors, a false alarm in 1.7 million."""
    x, function = torch.randn(1, 3), field((3,))
    k = 20_000
    divergence = HutchinsonDivergence(distribution=distribution)
    probes = divergence.probes(x.expand(k, 3), torch.Generator().manual_seed(0))
    estimates = divergence(lambda x, t, cond: function(x), x.expand(k, 3), torch.zeros(k), None, probes)[1]
    error = estimates.mean() - trace(function, x)[0]
    assert abs(error) < 5 * estimates.std() / math.sqrt(k)


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("k", [1, 2])
def test_hutchinson_takes_expanded_points(k, grad):
    x, probes, function = torch.randn(1, 3).expand(4, 3), torch.randn(k, 4, 3), field((3,))
    with torch.set_grad_enabled(grad):
        expanded = hutchinson_divergence(function, x, probes)[1]
    torch.testing.assert_close(expanded, hutchinson_divergence(function, x.clone(), probes)[1], **EXACT)


def test_several_probes_are_averaged():
    x, probes, function = torch.randn(2, 3), torch.randn(2, 4, 3), field((3,))
    each = [HutchinsonDivergence()(lambda x, t, c: function(x), x, torch.zeros(2), None, probes[:, k : k + 1])[1] for k in range(4)]
    together = HutchinsonDivergence(4)(lambda x, t, c: function(x), x, torch.zeros(2), None, probes)[1]
    torch.testing.assert_close(together, torch.stack(each).mean(0), **EXACT)


def test_exact_divergence_in_chunks_is_chosen_by_memory():
    x = torch.randn(3, 2, 3, 2)
    function = field((2, 3, 2))
    few = ExactDivergence(numbers=100)(lambda x, t, c: function(x), x, torch.zeros(3), None, None)
    torch.testing.assert_close(few[1], trace(function, x), **EXACT)


@pytest.mark.slow
def test_the_likelihood_of_a_bijection_with_a_hutchinson_estimate_does_not_depend_on_the_batch():
    net, x = MLP(3, 3, (8,), time_features=4), torch.randn(4, 3)
    ode = ODE(net, Dopri5(1e-8, 1e-8), "hutchinson")
    generators = [torch.Generator().manual_seed(k) for k in range(4)]
    together = ode(x, generator=generators)[1]
    alone = torch.cat([ode(x[k : k + 1], generator=[torch.Generator().manual_seed(k)])[1] for k in range(4)])
    torch.testing.assert_close(together, alone, rtol=1e-7, atol=1e-7)


def test_a_field_of_another_shape_is_refused():
    with pytest.raises(ShapeError, match=r"maps \(2, 3\) to \(2, 2\)"):
        exact_divergence(lambda x: x[:, :2], torch.zeros(2, 3))


def test_an_unknown_divergence_is_refused_with_the_nearest():
    with pytest.raises(UserError, match="'hutchison' is not a known divergence; did you mean 'hutchinson'"):
        ODE(MLP(2, 2), divergence="hutchison")
