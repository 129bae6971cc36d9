"""Joint blocks in training on a CPU: outputs and gradients are those of the plain blocks, which run wherever anything observes them."""

import contextlib

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import pushforward as pf
from benchmarks.memory import megabytes_held
from pushforward.conditions import TextContext
from pushforward.fast import joint_block_training
from pushforward.nn.joint_block import JointBlock

KINDS = [(False, 0), (True, 0), (True, (0, 2))]  # qk_norm, dual


def _net(qk_norm=True, dual=0, dtype=torch.float64, **sizes):
    torch.manual_seed(0)
    sizes = {"depth": 3, "heads": 2, "head_width": 8, "context_width": 6, "pooled_width": 5, "positions": 4, "null_tokens": 3} | sizes
    net = pf.nn.MMDiT((4, 8, 8), dual=dual, qk_norm=qk_norm, **sizes).to(dtype)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return net.train()


def _inputs(n=3, dtype=torch.float64):
    torch.manual_seed(1)
    made = [torch.randn(*shape, dtype=dtype, requires_grad=True) for shape in ((n, 4, 8, 6), (n, 5, 6), (n, 5))]
    return (*made, torch.rand(n, dtype=dtype))


def _gradients(net, n=3, skip=()):
    x, context, pooled, t = _inputs(n, next(net.parameters()).dtype)
    out = net(x, t, TextContext(context, pooled), skip=skip)
    return out, torch.autograd.grad(out.square().sum(), [x, context, pooled, *net.parameters()])


@pytest.fixture
def attentions(monkeypatch):
    """The list of attentions that are computed by the blocks in training."""
    real, found = joint_block_training.attend, []
    monkeypatch.setattr(joint_block_training, "attend", lambda joined: found.append(joined) or real(joined))
    return found


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(("qk_norm", "dual"), KINDS)
def test_outputs_and_gradients_are_those_of_the_plain_blocks(qk_norm, dual, recompute, attentions):
    net = _net(qk_norm, dual)
    net.activation_checkpointing = recompute
    for n in (1, 3):
        out, found = _gradients(net, n)
        assert attentions
        with pf.fast.disabled():
            plain, wanted = _gradients(net, n)
        torch.testing.assert_close(out, plain, rtol=1e-12, atol=1e-12)
        for one, other in zip(found, wanted, strict=True):
            assert (one - other).norm() <= 1e-11 * other.norm() + 1e-11  # a key's bias has the gradient zero, up to rounding


def test_the_gradient_is_the_slope():
    block = JointBlock(4, 2, 2, True, second=True).double()
    for p in block.parameters():
        torch.nn.init.normal_(p, std=0.5)
    weights = dict(block.named_parameters())
    tokens = [torch.randn(2, *shape, dtype=torch.float64, requires_grad=True) for shape in ((3, 4), (2, 4), (4,))]
    for recompute in (False, True):
        torch.autograd.gradcheck(
            lambda image, text, embedding, *_, again=recompute: joint_block_training.advance(block, weights, image, text, embedding, again),
            (*tokens, *weights.values()),
            fast_mode=True,
        )


def test_float32_agrees_up_to_rounding():
    net = _net(dtype=torch.float32)
    found = _gradients(net)[1]
    exact = _gradients(net.double())[1]
    with pf.fast.disabled():
        plain = _gradients(net.float())[1]
    error, usual = (sum((a - b).norm() for a, b in zip(one, exact, strict=True)) for one in (found, plain))
    assert error <= 2 * usual


def test_text_without_a_condition_and_skipped_blocks(attentions):
    net, (x, *_, t) = _net(), _inputs()
    found = net(x, t, skip=(1,))
    assert len(attentions) == 2
    with pf.fast.disabled():
        torch.testing.assert_close(found, net(x, t, skip=(1,)), rtol=1e-12, atol=1e-12)


def test_checkpointing_has_the_same_bits_and_computes_no_attention_again(attentions):
    net = _net(dtype=torch.float32)
    stored = _gradients(net)
    net.activation_checkpointing = True
    attentions.clear()
    again = _gradients(net)
    assert len(attentions) == 3
    assert torch.equal(stored[0], again[0])
    assert all(torch.equal(one, other) for one, other in zip(stored[1], again[1], strict=True))


def test_checkpointing_stores_inputs_and_outputs_of_attentions():
    net = _net(dtype=torch.float32, depth=8, heads=4, null_tokens=20).train()
    x, *_, t = _inputs(dtype=torch.float32)
    held = {}
    for flag in (False, True):
        net.activation_checkpointing = flag
        held[flag] = megabytes_held(net, x, t)
    assert 4 * held[True] <= held[False]


def test_parameters_that_are_tied_get_the_sum_of_their_gradients(attentions):
    net = _net()
    first, second, _ = net.blocks
    first.text.attention.qkv.weight = first.image.attention.qkv.weight
    second.image.mlp[0].weight = first.image.mlp[0].weight
    _, found = _gradients(net)
    assert attentions
    with pf.fast.disabled():
        _, wanted = _gradients(net)
    for one, other in zip(found, wanted, strict=True):
        assert (one - other).norm() <= 1e-11 * other.norm() + 1e-11


def test_a_gradient_can_be_differentiated():
    net = _net(dual=1, depth=2)

    def second(inside):
        x, context, pooled, t = _inputs()
        with inside:
            out = net(x, t, TextContext(context, pooled))
        with sdpa_kernel(SDPBackend.MATH):  # the other kernels have no second derivative
            slopes = torch.autograd.grad(out.square().sum(), [x, context], create_graph=True)
            total = slopes[0].square().sum() + slopes[1].pow(3).sum()
            return torch.autograd.grad(total, [x, pooled, *net.blocks.parameters()])

    for one, other in zip(second(contextlib.nullcontext()), second(sdpa_kernel(SDPBackend.MATH)), strict=True):
        assert (one - other).norm() <= 1e-9 * other.norm() + 1e-9


def test_a_graph_that_is_kept_can_be_used_twice():
    net, (x, context, pooled, t) = _net(), _inputs()
    out = net(x, t, TextContext(context, pooled)).square().sum()
    first, again = (torch.autograd.grad(out, [x, *net.parameters()], retain_graph=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def _frozen(net):
    net.blocks[1].image.mlp[0].bias.requires_grad_(False)
    return contextlib.nullcontext()


def _replaced(net):
    net.blocks[1].image.mlp[1] = torch.nn.SiLU()
    return contextlib.nullcontext()


def _without_bias(net):
    net.blocks[0].text.attention.qkv.bias = None
    return contextlib.nullcontext()


def _hooked(net):
    net.blocks[2].text.attention.register_forward_hook(lambda *_: None)
    return contextlib.nullcontext()


@pytest.mark.parametrize(
    "change",
    [
        _frozen,
        _hooked,
        _replaced,
        _without_bias,
        lambda _: sdpa_kernel(SDPBackend.MATH),
        lambda _: FlopCounterMode(display=False),
        lambda _: torch.autocast("cpu", torch.bfloat16),
        lambda net: contextlib.nullcontext(net.bfloat16()),
    ],
    ids=["frozen", "hooked", "replaced", "without bias", "math", "counted", "autocast", "bfloat16"],
)
def test_plain_blocks_run(change, attentions):
    net, (x, *_, t) = _net(dtype=torch.float32), _inputs(dtype=torch.float32)
    with change(net):
        net(x, t).sum().backward()
    assert not attentions
    assert net.blocks[0].image.attention.qkv.weight.grad is not None


@pytest.mark.parametrize("change", [_replaced, _without_bias])
def test_replaced_parts_are_called_without_gradients_too(change):
    net, (x, *_, t) = _net(), _inputs()
    with torch.no_grad(), change(net):
        found = net(x, t)
        with pf.fast.disabled():
            torch.testing.assert_close(found, net(x, t), rtol=1e-10, atol=1e-10)


def test_transforms_of_functions_see_plain_blocks(attentions):
    net, (x, *_, t) = _net(), _inputs()
    slope = torch.func.grad(lambda one: net(one, t).sum())(x.detach())
    assert not attentions
    torch.testing.assert_close(slope, torch.autograd.grad(net(x, t).sum(), x)[0], rtol=1e-10, atol=1e-10)
