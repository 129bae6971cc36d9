"""Networks: shapes, time and label are read, each row on its own, and what does not fit is refused by name."""

import conditional
import pytest
import torch
from examples import examples

from pushforward.conditions import TextContext, dropped
from pushforward.errors import ConditionError, UserError
from pushforward.nn.autoencoder_kl import AutoencoderKL
from pushforward.nn.config import NetConfig
from pushforward.nn.dit import DiT
from pushforward.nn.embedding import LabelEmbedding, fit_condition
from pushforward.nn.layers import SelfAttention
from pushforward.nn.mlp import MLP
from pushforward.nn.mmdit import MMDiT
from pushforward.nn.unet import UNet

pytestmark = pytest.mark.usefixtures("float64")
NETWORKS = [one for one in examples("nn") if hasattr(one.values[0].thing, "Config")]


@pytest.fixture(params=[*NETWORKS, *conditional.NETWORKS])
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


def null(net, cond):
    """Return what `cond=None` stands for: the row after the last label, texts of zeros, dropped vectors or images."""
    if isinstance(net, MMDiT):
        return cond.where(torch.zeros(len(cond), dtype=torch.bool), None)
    return dropped(cond, torch.ones(len(cond), dtype=torch.bool)) if cond.is_floating_point() else torch.full_like(cond, 3)


def test_no_condition_is_the_null_row(subject):
    net, (x, t, cond) = subject
    torch.testing.assert_close(net(x, t, None), net(x, t, null(net, cond)), rtol=1e-12, atol=1e-12)


def test_time_and_label_are_read(subject):
    net, (x, t, cond) = subject
    value = net(x, t, cond)
    assert not torch.allclose(net(x, 1 - t, cond), value)
    assert not torch.allclose(net(x, t, cond[torch.arange(len(cond)).roll(1)]), value)


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


def test_some_dropped_rows_are_each_its_own(subject):
    """Half of the rows dropped: these are the unconditional network's, the others the conditional one's, with finite gradients."""
    net, (x, t, cond) = subject
    if not isinstance(cond, torch.Tensor) or not cond.is_floating_point():
        pytest.skip("labels and texts have null rows of their own")
    mask = torch.arange(len(x)) % 2 == 0
    mixed = net(x, t, dropped(cond, mask))
    expected = torch.where(mask.view(-1, *(1,) * (x.ndim - 1)), net(x, t, None), net(x, t, cond))
    torch.testing.assert_close(mixed, expected, rtol=1e-12, atol=1e-12)
    mixed.sum().backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())


def test_a_condition_of_zeros_is_not_none(subject):
    net, (x, t, cond) = subject
    if not isinstance(cond, torch.Tensor) or not cond.is_floating_point():
        pytest.skip("labels and texts are no numbers")
    assert not torch.allclose(net(x, t, torch.zeros_like(cond)), net(x, t, None))


def test_fitted_units_make_the_networks_numbers_independent_of_the_conditions_units(subject):
    """Conditions 5 + 3 c, after fitting to them, give what c gives after fitting to it."""
    net, (x, t, cond) = subject
    if not isinstance(cond, torch.Tensor) or not cond.is_floating_point():
        pytest.skip("labels and texts have no units")
    fit_condition(net, cond)
    value = net(x, t, cond)
    fit_condition(net, 5 + 3 * cond)
    torch.testing.assert_close(net(x, t, 5 + 3 * cond), value, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(net(x, t, cond), value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision_keeps_its_dtype(subject, dtype):
    """With times in float32, as losses and solvers give them."""
    net, (x, t, cond) = subject
    cond = cond.to(dtype) if isinstance(cond, torch.Tensor) and cond.is_floating_point() else cond
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
    assert MMDiT((1, 4, 4), depth=1, heads=2, head_width=4, positions=2)(x, t).abs().sum() == 0


def test_an_mlp_takes_events_of_any_shape():
    net = MLP.Config((8,)).build((1, 2, 3), classes=2)
    x, t = torch.randn(4, 1, 2, 3), torch.rand(4)
    assert net(x, t, None).shape == x.shape
    assert net.value_and_divergence(x, t, None)[1].shape == (4,)


def test_a_condition_for_a_network_without_classes_is_refused():
    with pytest.raises(ConditionError, match="was built without conditions; build it with classes=K"):
        LabelEmbedding(None, 4)(torch.tensor([0]), 1)


X, T = torch.zeros(1, 1, 4, 4), torch.zeros(1)


def small_mmdit():
    return MMDiT((1, 4, 4), depth=1, heads=1, head_width=4, context_width=8, pooled_width=4, positions=2).float()


def small_autoencoder():
    return AutoencoderKL(latent_channels=2, widths=(4, 8), groups=2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MLP(2, 2, ()), r"hidden is \(\), but an MLP needs at least one hidden layer"),
        (lambda: MLP(2, 2, (0,)), r"hidden is \(0,\)"),
        (lambda: MLP(2, 2, activation="selu"), "activation is 'selu', but it is one of silu"),
        (lambda: MLP(2, 2, time_features=3), "time_features is 3"),
        (lambda: MLP(2, 2, time_features=4)(torch.zeros(1, 2)), "reads the time, but none was given"),
        (lambda: UNet((2,)), r"shape is \(2,\), but UNet needs series .*, images .* or volumes .*; use MLP for vectors"),
        (lambda: DiT((2,)), r"shape is \(2,\), but DiT needs series"),
        (lambda: UNet((1, 6, 6), multipliers=(1, 2, 4)), "use sides divisible by 4, or fewer multipliers"),
        (lambda: DiT((1, 5, 4)), "patch is 2, which does not divide an image of 5x4"),
        (lambda: DiT((1, 4, 4), width=6, heads=2), "width is 6, but the positions along 2 sides need a multiple of 4"),
        (lambda: MMDiT((2,)), r"shape is \(2,\), but MMDiT needs images"),
        (lambda: MMDiT((1, 4, 4), depth=0), "depth is 0, but it must be at least 1"),
        (lambda: MMDiT((1, 4, 4), depth=2, heads=1, dual=3), "dual is 3, but it counts blocks, of which there are 2"),
        (
            lambda: MMDiT((1, 4, 4), depth=2, heads=1, dual=(0, 2)),
            r"dual is \(0, 2\), but it is a number of blocks, or different ones of 0 to 1",
        ),
        (lambda: MMDiT((1, 4, 4), depth=2, heads=1, dual="1"), "dual is '1'"),
        (lambda: MMDiT((1, 4, 4), depth=1, heads=1, head_width=6), "heads and head_width are 1 and 6"),
        (lambda: MMDiT.Config().build((1, 4, 4), 3), "classes is 3, but MMDiT reads text .*; use DiT for labels"),
        (lambda: MMDiT.Config().build((1, 4, 4), cond_features=3), "cond_features is 3, but MMDiT reads text"),
        (
            lambda: UNet((1, 4, 4), classes=2, cond_features=3),
            "classes is 2 and cond_features is 3, but a condition is labels, vectors or im",
        ),
        (lambda: DiT((1, 4, 4), cond_features=0), "cond_features is 0"),
        (lambda: UNet((1, 4, 4), cond_by="adding"), "cond_by is 'adding', but it is 'concat' or 'attention'"),
        (lambda: DiT((1, 4, 4), cond_image=(1, 5, 4), cond_by="attention"), r"cond_patch is 2, which does not divide .* \(1, 5, 4\)"),
        (lambda: DiT((1, 4, 4), cond_image=(3,)), r"cond_image is \(3,\), but an image has \(channels, height, width\)"),
        (
            lambda: UNet((1, 4, 4), cond_image=(1, 6, 6)),
            r"cond_image is \(1, 6, 6\), but x has the sides \(4, 4\): concatenated images have",
        ),
        (
            lambda: UNet((1, 4, 4), channels=4)(X, T, torch.zeros(1, 3)),
            r"of shape \(1, 3\), but .* without conditions; build it with cond_fea",
        ),
        (lambda: UNet((1, 4, 4), channels=4)(X, T, X), r"without conditions; build it with cond_image=\(1, 4, 4\), or leave it out"),
        (
            lambda: DiT((1, 4, 4), cond_image=(1, 4, 4))(X, T, X[:, :, :3]),
            r"of shape \(1, 1, 3, 4\), but this network needs images \(1, 1, 4, 4\)",
        ),
        (
            lambda: DiT((1, 4, 4), classes=3)(X, T, torch.zeros(1, 3)),
            r"needs integer labels \(1,\), one per row \(it was built with classes\)",
        ),
        (lambda: small_mmdit()(X, T, torch.tensor([0])), r"cond is torch.int64 of shape \(1,\), but MMDiT reads text"),
        (
            lambda: small_mmdit()(X, T, TextContext(X[0, :, :2, :3], X[0, 0, :1])),
            "cond has 3 channels .* and 4 in .* needs 8 and 4",
        ),
        (lambda: small_mmdit()(X[:, :, :3], T), "an image of 3x4 cannot be cut into patches"),
        (lambda: AutoencoderKL(widths=(4, 6), groups=4), r"groups is 4, which does not divide all of the widths \(4, 6\)"),
        (lambda: small_autoencoder().encode(torch.zeros(1, 3, 5, 4)), "images are 5x4, but sides must be divisible by 2; use 4x4"),
        (lambda: small_autoencoder().decode(torch.zeros(1, 3, 2, 2)), r"latents has shape \(1, 3, 2, 2\), but .* needs \(n, 2, "),
        (lambda: SelfAttention(8, 3), "heads is 3, which does not divide the width 8"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(UserError, match=message):
        call()
