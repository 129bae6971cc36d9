"""Networks: shapes, time and label are read, each row on its own, and what does not fit is refused by name."""

import pytest
import torch
from examples import examples

from pushforward.errors import ConditionError, UserError
from pushforward.nn.config import NetConfig
from pushforward.nn.dit import DiT
from pushforward.nn.embedding import LabelEmbedding
from pushforward.nn.layers import SelfAttention
from pushforward.nn.mlp import MLP
from pushforward.nn.unet import UNet

pytestmark = pytest.mark.usefixtures("float64")
NETWORKS = [one for one in examples("nn") if hasattr(one.values[0].thing, "Config")]


@pytest.fixture(params=NETWORKS)
def subject(request):
    """The network with numbers in the layers that start at zero, and (x, t, cond)."""
    net, arguments = request.param.example()
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.2)
    return net, arguments


def test_the_output_has_the_inputs_shape(subject):
    net, (x, t, cond) = subject
    assert net(x, t, cond).shape == x.shape


def test_each_row_is_its_own(subject):
    net, (x, t, cond) = subject
    alone = torch.cat([net(x[k : k + 1], t[k : k + 1], cond[k : k + 1]) for k in range(len(x))])
    torch.testing.assert_close(net(x, t, cond), alone, rtol=1e-10, atol=1e-10)


def test_no_condition_is_the_null_row(subject):
    net, (x, t, _) = subject
    torch.testing.assert_close(net(x, t, None), net(x, t, torch.full((len(x),), 3)), rtol=1e-12, atol=1e-12)


def test_time_and_label_are_read(subject):
    net, (x, t, cond) = subject
    value = net(x, t, cond)
    assert not torch.allclose(net(x, 1 - t, cond), value)
    assert not torch.allclose(net(x, t, (cond + 1) % 3), value)


def test_no_rows_give_no_rows(subject):
    net, (x, t, cond) = subject
    assert net(x[:0], t[:0], cond[:0]).shape == (0, *x.shape[1:])


def test_any_strides_do(subject):
    net, (x, t, cond) = subject
    rows = x[:1].expand_as(x)
    torch.testing.assert_close(net(rows, t, cond), net(rows.clone(), t, cond), rtol=1e-12, atol=1e-12)


def test_gradients_reach_every_parameter(subject):
    net, (x, t, cond) = subject
    (net(x, t, cond).sum() + net(x, t, None).square().sum()).backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision_keeps_its_dtype(subject, dtype):
    """With times in float32, as losses and solvers give them."""
    net, (x, t, cond) = subject
    assert net.to(dtype)(x.to(dtype), t.float(), cond).dtype == dtype


@pytest.mark.parametrize("entry", NETWORKS)
def test_a_configuration_builds_its_network(entry):
    config = entry.thing.Config
    assert isinstance(config(), NetConfig)
    assert config().name == entry.name


def test_a_network_of_images_starts_at_zero():
    x, t = torch.randn(2, 1, 4, 4), torch.rand(2)
    assert UNet((1, 4, 4), channels=4)(x, t).abs().sum() == 0
    assert DiT((1, 4, 4), width=8, depth=1, heads=2)(x, t).abs().sum() == 0


def test_an_mlp_takes_events_of_any_shape():
    net = MLP.Config((8,)).build((1, 2, 3), classes=2)
    x, t = torch.randn(4, 1, 2, 3), torch.rand(4)
    assert net(x, t, None).shape == x.shape
    assert net.value_and_divergence(x, t, None)[1].shape == (4,)


def test_a_condition_for_a_network_without_classes_is_refused():
    with pytest.raises(ConditionError, match="built without classes; build it with classes=K"):
        LabelEmbedding(None, 4)(torch.tensor([0]), 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MLP(2, 2, ()), r"hidden is \(\), but an MLP needs at least one hidden layer"),
        (lambda: MLP(2, 2, (0,)), r"hidden is \(0,\)"),
        (lambda: MLP(2, 2, activation="selu"), "activation is 'selu', but it is one of silu"),
        (lambda: MLP(2, 2, time_features=3), "time_features is 3"),
        (lambda: MLP(2, 2, time_features=4)(torch.zeros(1, 2)), "reads the time, but none was given"),
        (lambda: UNet((2,)), r"shape is \(2,\), but UNet needs images .*; use MLP for vectors"),
        (lambda: DiT((2,)), r"shape is \(2,\), but DiT needs images"),
        (lambda: UNet((1, 6, 6), multipliers=(1, 2, 4)), "use sides divisible by 4, or fewer multipliers"),
        (lambda: DiT((1, 5, 4)), "patch is 2, which does not divide an image of 5x4"),
        (lambda: DiT((1, 4, 4), width=6, heads=2), "width is 6, but positions need a multiple of 4"),
        (lambda: SelfAttention(8, 3), "heads is 3, which does not divide the width 8"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(UserError, match=message):
        call()
