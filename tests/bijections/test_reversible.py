"""Chains with memory="reversible": the gradients of ordinary ones, in memory that does not grow with depth."""

import copy

import pytest
import torch
from torch.distributions.transforms import AffineTransform

import pushforward as pf
from pushforward import bijections
from pushforward.bijections import AdditiveCoupling, AffineCoupling, Chain, ImageActNorm, ImageCoupling, InvertibleConv, Multiscale, Squeeze
from pushforward.bijections.columns import moved
from pushforward.errors import UserError


def vectors(**options):
    options = {"activation": "tanh", **options}
    return [
        bijections.ActNorm(5),
        AffineCoupling(5, (8,), **options),
        bijections.LULinear(5),
        bijections.Inverse(bijections.AffineAutoregressive(5, (8,), **options)),
        AdditiveCoupling(5, (8,), swap=True, **options),
        bijections.Reverse(5),
        bijections.SplineCoupling(5, 4, (8,), **options),
    ]


def images(channels=2, **options):
    options = {"activation": "tanh", **options}
    return [
        ImageCoupling(channels, 4, mask="checkerboard", **options),
        Squeeze(),
        ImageActNorm(4 * channels),
        InvertibleConv(4 * channels),
        ImageCoupling(4 * channels, 4, swap=True, **options),
        InvertibleConv(4 * channels, "householder"),
        ImageCoupling(4 * channels, 4, change="additive", **options),
        InvertibleConv(4 * channels, "free"),
        ImageCoupling(4 * channels, 4, change="spline", mask="checkerboard", swap=True, bins=3, **options),
    ]


CHAINS = {
    "vectors": lambda memory, **options: (Chain(vectors(**options), memory), torch.randn(6, 5)),
    "images": lambda memory, **options: (Chain(images(**options), memory), torch.randn(6, 2, 4, 4)),
    "mixed": lambda memory, **options: (
        Chain([bijections.Logit(-9, 9), *vectors(**options), Chain([bijections.Scale(5), bijections.Scale(5)])], memory),
        torch.randn(6, 5),
    ),
    "image, then vector": lambda memory, **options: (
        Chain([*images(1, **options), AffineCoupling(16, (8,), **options), bijections.Transform(AffineTransform(1.0, 0.5))], memory),
        torch.randn(6, 1, 4, 4),
    ),
    "multiscale": lambda memory, **options: (
        Multiscale([Chain([*images(1, **options), ImageCoupling(4, None, **options)], memory), Chain(images(2, **options), memory)]),
        torch.randn(6, 1, 4, 4),
    ),
}
CONDITIONS = {
    "none": lambda: ({}, None),
    "vectors": lambda: ({"cond_features": 2}, torch.randn(6, 2)),
    "labels": lambda: ({"classes": 3}, torch.arange(6) % 3),
}


def pair(kind, options, std):
    """The same bijection twice, ordinary and reversible, away from the identity; and x."""
    torch.manual_seed(1)
    full, x = CHAINS[kind]("full", **options)
    with torch.no_grad():
        for p in full.parameters():
            p.add_(std * torch.randn_like(p))
    light = CHAINS[kind]("reversible", **options)[0]
    light.load_state_dict(full.state_dict())
    for one, other in zip(full.modules(), light.modules(), strict=True):
        for name, buffer in one.named_buffers(recurse=False):
            getattr(other, name).copy_(buffer)
    return full, light, x


def gradients(bijection, x, cond):
    """The gradients of something of value and log-determinant by x, the condition and all parameters."""
    x = x.clone().requires_grad_()
    by_cond = cond is not None and cond.is_floating_point()
    cond = cond.clone().requires_grad_() if by_cond else cond
    z, log_abs_det = bijection(x, cond)
    loss = (z * torch.linspace(-1, 2, z.numel(), dtype=z.dtype).view(z.shape)).sin().sum() + log_abs_det.cos().sum()
    return torch.autograd.grad(loss, [x, *([cond] if by_cond else []), *bijection.parameters()], allow_unused=True)


def close(found, expected, tolerance):
    """To a share of the largest number of each gradient."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=0, atol=tolerance * max(1.0, float(other.abs().max())))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("kind", CHAINS)
def test_gradients_are_the_ordinary_ones(kind, condition):
    options, cond = CONDITIONS[condition]()
    full, light, x = pair(kind, options, 0.3)
    for one, other in zip(light(x, cond), full(x, cond), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    close(gradients(light, x, cond), gradients(full, x, cond), 1e-9)


@pytest.mark.parametrize("kind", CHAINS)
def test_gradients_are_the_ordinary_ones_in_float32(kind):
    full, light, x = pair(kind, {}, 0.1)
    close(gradients(light, x, None), gradients(full, x, None), 1e-5)


@pytest.mark.slow
def test_thirty_two_steps_of_glow_have_the_ordinary_gradients_in_float32():
    full = moved(pf.models.glow(1, 8, 2, 32, 8).bijection)
    for p in full.parameters():
        p.data.mul_(0.1)
    light = copy.deepcopy(full)
    for level in light.levels:
        level.memory = "reversible"
    x = torch.randn(4, 1, 8, 8)
    close(gradients(light, x, None), gradients(full, x, None), 1e-5)


def test_parameters_without_a_part_and_frozen_ones_have_no_gradient():
    full, light, x = pair("images", {}, 0.1)
    for one in (full, light):
        one.steps[3].requires_grad_(False)
        one.steps[0].register_parameter("spare", torch.nn.Parameter(torch.ones(2)))
        one(x)[1].sum().backward()
    close([p.grad for p in light.parameters()], [p.grad for p in full.parameters()], 1e-5)
    assert light.steps[0].spare.grad is None
    assert light.steps[3].off_diagonal.grad is None


def test_one_parameter_in_two_steps_gets_both_gradients():
    shared = AffineCoupling(4, (8,))
    full, light = Chain([shared, bijections.Reverse(4), shared]), Chain([shared, bijections.Reverse(4), shared], "reversible")
    x = torch.randn(3, 4)
    close(gradients(light, x, None), gradients(full, x, None), 1e-5)


def test_hooks_on_saved_tensors_take_no_gradients_away():
    full, light, x = pair("images", {}, 0.1)
    with torch.autograd.graph.save_on_cpu():
        loss = light(x)[1].sum()
    loss.backward()
    full(x)[1].sum().backward()
    close([p.grad for p in light.parameters()], [p.grad for p in full.parameters()], 1e-5)


def test_a_parameter_written_before_the_backward_pass_is_an_error():
    _, light, x = pair("vectors", {}, 0.1)
    loss = light(x)[1].sum()
    with torch.no_grad():
        light.steps[0].shift.add_(1)
    with pytest.raises(RuntimeError, match="a parameter was written between the forward and the backward pass"):
        loss.backward()


def held(model, x):
    """Bytes that the graph of one loss keeps for its backward pass, parameters excluded, each piece of memory once."""
    own, kept = {p.untyped_storage().data_ptr() for p in model.parameters()}, {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)  # the tensor too, lest its place be given to another
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model.loss(x)
    loss.backward()
    return sum(size for size, _ in kept.values())


@pytest.mark.parametrize("preset", [pf.models.glow, pf.models.realnvp_image])
def test_memory_does_not_grow_with_depth(preset):
    """4 against 32 steps a level; the ordinary chain's grows nearly eightfold."""
    x = torch.randn(8, 1, 8, 8)
    shallow, deep = (held(preset(1, 8, 2, depth, 16, memory="reversible"), x) for depth in (4, 32))
    assert deep <= 1.15 * shallow
    shallow, deep = (held(preset(1, 8, 2, depth, 16), x) for depth in (4, 32))
    assert deep > 5 * shallow


def test_each_coupling_network_runs_once_forward_and_once_backward():
    calls = []
    _, light, x = pair("images", {}, 0.1)
    for step in light.steps:
        if isinstance(step, ImageCoupling):
            step.net.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    light(x)[0].sum().backward()
    assert sorted(calls) == [False] * 4 + [True] * 4


def test_autocast_gives_the_gradients_of_ordinary_autocast():
    """The networks run in bfloat16, in both passes, even if the backward pass is outside of the region."""
    full, light, x = pair("multiscale", {}, 0.1)
    found = []
    for one in (full, light):
        with torch.autocast("cpu", torch.bfloat16):
            z, log_abs_det = one(x)
            one(x)[0].sum().backward()  # weights cast within the region must not have lost their graph
        assert (z.dtype, log_abs_det.dtype) == (torch.float32, torch.float32)
        one.zero_grad()
        (z.square().sum() - log_abs_det.sum()).backward()
        found.append([p.grad for p in one.parameters()])
    close(found[1], found[0], 0.05)  # bfloat16 keeps 2^-8, a few layers of them


def test_compiled_it_gives_the_same():
    full, light, x = pair("images", {}, 0.1)
    compiled = torch.compile(light, backend="eager")
    close(gradients(compiled, x, None), gradients(full, x, None), 1e-5)


def test_without_gradients_nothing_is_recomputed():
    _, light, x = pair("images", {}, 0.1)
    with torch.no_grad():
        assert not light(x)[0].requires_grad


@pytest.mark.parametrize("layer", [bijections.BatchNorm(4), bijections.Inverse(bijections.BatchNorm(4))])
def test_what_says_something_else_each_time_is_refused_in_training(layer):
    chain = Chain([AffineCoupling(4), layer], "reversible")
    with pytest.raises(UserError, match='memory="reversible" evaluates each step twice, but BatchNorm in training mode'):
        chain(torch.randn(3, 4))
    chain.eval()(torch.randn(3, 4))[0].sum().backward()
    dropped = AffineCoupling(4)
    dropped.net.act = torch.nn.Dropout(0.5)
    with pytest.raises(UserError, match="but Dropout in training mode"):
        Chain([dropped], "reversible")(torch.randn(3, 4))


def test_another_memory_is_refused_by_name():
    with pytest.raises(UserError, match="memory is 'low', but it is 'full' or 'reversible'"):
        Chain([], "low")
    assert torch.equal(Chain([], "reversible")(torch.ones(2, 3))[0], torch.ones(2, 3))
