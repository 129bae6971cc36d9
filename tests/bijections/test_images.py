"""Bijections of images: where numbers go, what is folded and kept, what a hundred layers cost in precision, and what is refused."""

import copy

import pytest
import torch

from pushforward import bijections
from pushforward.bijections import ActNorm, Chain, ImageActNorm, ImageCoupling, InvertibleConv, Multiscale, Squeeze
from pushforward.bijections.columns import moved
from pushforward.errors import ConditionError, ShapeError, UserError
from pushforward.families.normalizing_flow import NormalizingFlow


def glow_steps(channels, depth, hidden=8):
    return [
        step
        for _ in range(depth)
        for step in (ImageActNorm(channels), InvertibleConv(channels), ImageCoupling(channels, hidden, activation="tanh"))
    ]


def exactly_inverse(bijection, x, cond=None, tolerance=1e-9):
    """Inverse, cancelling log-determinants, and the Jacobian's determinant, as the laws have them."""
    z, forward = bijection(x, cond)
    back, inverse = bijection.inverse(z, cond)
    torch.testing.assert_close(back, x, rtol=0, atol=tolerance)
    torch.testing.assert_close(forward + inverse, torch.zeros_like(forward), rtol=0, atol=tolerance)
    jacobian = torch.autograd.functional.jacobian(lambda x: bijection(x, cond)[0].flatten(1).sum(0), x)
    by_hand = torch.linalg.slogdet(jacobian.flatten(2).transpose(0, 1)).logabsdet
    torch.testing.assert_close(forward, by_hand, rtol=0, atol=tolerance)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("change", ["affine", "additive", "spline"])
@pytest.mark.parametrize("mask", ["channel", "checkerboard"])
@pytest.mark.parametrize("swap", [False, True])
def test_every_change_under_every_mask_is_exactly_inverse(change, mask, swap):
    coupling = moved(ImageCoupling(3, 4, change=change, mask=mask, swap=swap, bins=3, activation="tanh", cond_features=2))
    exactly_inverse(coupling, torch.randn(2, 3, 2, 3), torch.randn(2, 2))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("mask", ["channel", "checkerboard"])
def test_an_image_as_condition_is_read_at_every_pixel(mask):
    coupling, x, cond = (
        moved(ImageCoupling(2, 4, mask=mask, activation="tanh", cond_channels=3)),
        torch.randn(2, 2, 2, 3),
        torch.randn(2, 3, 2, 3),
    )
    exactly_inverse(coupling, x, cond)
    by_cond = torch.autograd.functional.jacobian(lambda cond: coupling(x, cond)[1].sum(), cond)
    assert (by_cond != 0).all()


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("parametrisation", ["plu", "free", "householder"])
def test_every_parametrisation_of_the_convolution_is_exactly_inverse_and_starts_as_a_rotation(parametrisation):
    layer, x = InvertibleConv(3, parametrisation), torch.randn(2, 3, 2, 3)
    torch.testing.assert_close(layer(x)[0].square().sum(1), x.square().sum(1))
    torch.testing.assert_close(layer(x)[1], torch.zeros(2), rtol=0, atol=1e-12)
    exactly_inverse(moved(layer), x)


@pytest.mark.usefixtures("float64")
def test_the_convolution_is_torchs_own_of_size_one():
    layer, x = moved(InvertibleConv(4)), torch.randn(2, 4, 3, 5)
    matrix, _, log_abs_det = layer.affine()
    z, total = layer(x)
    torch.testing.assert_close(z, torch.nn.functional.conv2d(x, matrix[:, :, None, None]))
    torch.testing.assert_close(total, torch.linalg.slogdet(matrix)[1].expand(2) * 15)
    torch.testing.assert_close(log_abs_det, torch.linalg.slogdet(matrix)[1])


def test_squeezing_keeps_each_square_together_and_a_coupling_the_other_part():
    x = torch.arange(2 * 1 * 4 * 4.0).view(2, 1, 4, 4)
    z = Squeeze()(x)[0]
    assert z.shape == (2, 4, 2, 2)
    assert z[0, :, 0, 1].tolist() == [2, 3, 6, 7]
    for coupling, kept in (
        (ImageCoupling(3, 4), lambda x: x[:, :1]),
        (ImageCoupling(3, 4, swap=True), lambda x: x[:, 1:]),
        (ImageCoupling(3, 4, mask="checkerboard"), lambda x: x[:, :, ::2, ::2]),
        (ImageCoupling(3, 4, mask="checkerboard", swap=True), lambda x: x[:, :, ::2, 1::2]),
    ):
        moved(coupling)
        x = torch.randn(2, 3, 4, 4)
        z = coupling(x)[0]
        assert torch.equal(kept(z), kept(x))
        assert (z != x).any(1).any()


def test_a_coupling_starts_as_the_identity():
    x = torch.randn(2, 4, 3, 3)
    for change in ("affine", "additive", "spline"):
        z, log_abs_det = ImageCoupling(4, 8, change=change)(x)
        torch.testing.assert_close(z, x, rtol=0, atol=1e-5)
        torch.testing.assert_close(log_abs_det, torch.zeros(2), rtol=0, atol=1e-4)


def test_noise_is_put_back_where_it_came_from():
    """Levels that squeeze alone: every number is at home in z."""
    x = torch.randn(2, 3, 8, 8)
    flow = Multiscale([Chain([Squeeze()]), Chain([Squeeze()]), Chain([])])
    assert torch.equal(flow(x)[0], x)
    assert torch.equal(flow.inverse(x)[0], x)


def test_the_half_that_is_done_never_meets_the_levels_below_and_has_its_learned_prior():
    below = moved(ImageCoupling(2, 4))
    prior = moved(ImageCoupling(4, None))
    x = torch.randn(2, 4, 3, 3)
    z = Multiscale([Chain([prior]), below])(x)[0]
    torch.testing.assert_close(z[:, 2:], prior(x)[0][:, 2:])
    torch.testing.assert_close(z[:, :2], below(x[:, :2])[0])


def test_actnorm_starts_every_channel_from_what_reaches_it():
    x = 5 + 2 * torch.randn(20, 3, 4, 4)
    flow = Multiscale([Chain([ImageActNorm(3), Squeeze(), *glow_steps(12, 1)]), Chain(glow_steps(6, 1))])
    flow.initialise(x)
    h = Chain(list(flow.levels[0].steps))(x)[0][:, :6]
    for layer, at in ((flow.levels[0].steps[0], x), (flow.levels[1].steps[0], h)):
        z = layer(at)[0]
        torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(z.shape[1]), rtol=0, atol=1e-5)
        torch.testing.assert_close(z.std((0, 2, 3)), torch.ones(z.shape[1]), rtol=1e-5, atol=0)


def test_actnorm_of_images_of_one_pixel_is_that_of_vectors():
    x = 3 + torch.randn(10, 4)
    images, vectors = ImageActNorm(4), ActNorm(4)
    images.initialise(x[..., None, None])
    vectors.initialise(x)
    torch.testing.assert_close(images(x[..., None, None])[0].flatten(1), vectors(x)[0])


# Neighbours that are affine at each pixel become one matrix.


@pytest.mark.usefixtures("float64")
def test_folding_neighbours_changes_no_number():
    steps = [moved(step) for step in (ImageActNorm(4), InvertibleConv(4), ImageActNorm(4), InvertibleConv(4, "free"))]
    x = torch.randn(2, 4, 3, 3)
    for no_gradient in (False, True):
        with torch.set_grad_enabled(not no_gradient):
            z, log_abs_det = Chain(steps)(x)
            one, total = x, torch.zeros(2)
            for step in steps:
                one, more = step(one)
                total = total + more
            torch.testing.assert_close(z, one)
            torch.testing.assert_close(log_abs_det, total)
            torch.testing.assert_close(Chain(steps).inverse(z)[0], x)


def written_in_place(layer):
    with torch.no_grad():
        layer.log_diagonal.add_(0.5)


def replaced(layer):
    layer.log_diagonal = torch.nn.Parameter(layer.log_diagonal.detach() + 0.5)


def loaded(layer):
    layer.load_state_dict({**layer.state_dict(), "log_diagonal": layer.log_diagonal.detach() + 0.5})


def written_beside_autograd(layer):
    layer.log_diagonal.data.add_(0.5)


def optimised_by_a_fused_kernel(layer):
    """Of which autograd's counter of writes learns nothing (torch 2.13); a first step of Adam is the learning rate."""
    layer.log_diagonal.grad = -torch.ones(3)
    torch.optim.Adam([layer.log_diagonal], lr=0.5, fused=True).step()


@pytest.mark.parametrize("change", [written_in_place, replaced, loaded, written_beside_autograd, optimised_by_a_fused_kernel])
def test_what_is_kept_goes_when_a_parameter_changes(change):
    layer, x = InvertibleConv(3), torch.randn(2, 3, 2, 2)
    with torch.no_grad():
        before, twin = layer(x), copy.deepcopy(layer)
        assert layer(x)[0].equal(before[0])
        back = layer.inverse(before[0])[0]
        change(layer)
        torch.testing.assert_close(layer(x)[1], before[1] + 4 * 3 * 0.5)
        torch.testing.assert_close(layer.inverse(layer(x)[0])[0], back, rtol=0, atol=1e-5)
        assert twin(x)[0].equal(before[0])
    with torch.inference_mode():
        torch.testing.assert_close(layer(x)[1], before[1] + 4 * 3 * 0.5)
    torch.testing.assert_close(layer.double()(x.double())[1].float(), before[1] + 4 * 3 * 0.5)


def test_kept_matrices_have_no_gradient_to_lose():
    layer, x = InvertibleConv(3), torch.randn(2, 3, 2, 2)
    with torch.no_grad():
        layer(x)
    layer(x)[0].sum().backward()
    assert layer.off_diagonal.grad.abs().sum() > 0


def test_a_hundred_steps_of_glow_are_undone_in_float32_to_1e_4():
    """Steps that change little each, as in a trained stack; 1e-5 was measured."""
    chain = Chain(glow_steps(4, 100))
    with torch.no_grad():
        for name, p in chain.named_parameters():
            if ".out." in name or "log_scale" in name or "shift" in name:
                torch.nn.init.normal_(p, std=0.05)
        x = torch.randn(8, 4, 4, 4)
        z, forward = chain(x)
        back, inverse = chain.inverse(z)
    assert float((z - x).abs().max()) > 0.1
    assert float((back - x).abs().max()) < 1e-4
    assert float((forward + inverse).abs().max()) < 1e-3


def test_autocast_leaves_the_mixing_of_channels_and_the_inverse_exact():
    chain, x = moved(Chain(glow_steps(4, 3))), torch.randn(4, 4, 4, 4)
    for p in chain.parameters():
        p.data.mul_(0.2)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        z, log_abs_det = chain(x)
        back = chain.inverse(z)[0]
    assert (z.dtype, log_abs_det.dtype) == (torch.float32, torch.float32)
    torch.testing.assert_close(back, x, rtol=0, atol=0.05)  # the network reads a half that is off by float32 rounding: one bfloat16 step


def test_what_no_coupling_changes_is_warned_of():
    for steps, shape, said in (
        ([ImageCoupling(3, 4)], (3, 2, 2), "channels 0 pass"),
        ([ImageCoupling(4, 4), ImageCoupling(4, 4)], (4, 2, 2), "channels 0, 1 pass through all couplings unchanged, so the model cannot"),
        ([ImageCoupling(1, 4, mask="checkerboard")], (1, 1, 3), r"pixels \(channel, row, column\) \(0, 0, 0\), \(0, 0, 2\) pass"),
        ([Multiscale([Chain([Squeeze(), ImageCoupling(4, 4, swap=True)])])], (1, 2, 2), r"\(0, 1, 0\), \(0, 1, 1\) pass .*InvertibleConv"),
        ([ImageCoupling(1, 4, mask="checkerboard")], (1, 8, 8), "and 12 more pass"),
    ):
        with pytest.warns(UserWarning, match=said):
            NormalizingFlow(Chain(steps), shape=shape)


def test_mixed_or_alternating_couplings_warn_of_nothing(recwarn):
    for steps in (glow_steps(4, 2), [ImageCoupling(4, 4), ImageCoupling(4, 4, swap=True)]):
        NormalizingFlow(Multiscale([Chain([Squeeze(), *steps]), Chain([Squeeze(), *glow_steps(8, 2)])]), shape=(1, 8, 8))
    assert not recwarn.list


def test_wrong_sizes_and_settings_are_refused_by_name():
    x = torch.randn(2, 3, 4, 5)
    singular = InvertibleConv(3, "free")
    torch.nn.init.ones_(singular.weight)
    for call, error, message in (
        (lambda: Squeeze()(x), ShapeError, r"x has shape \(2, 3, 4, 5\), but squeezing needs images whose height and width 2 divides"),
        (lambda: Squeeze()(x[0]), ShapeError, r"x has shape \(3, 4, 5\)"),
        (lambda: Squeeze().inverse(x), ShapeError, "a number of channels that 4 divides"),
        (lambda: InvertibleConv(4)(x), ShapeError, r"but this bijection needs images \(n, 4, height, width\)"),
        (lambda: ImageCoupling(4)(x), ShapeError, r"but this coupling needs images \(n, 4, height, width\)"),
        (lambda: Multiscale([Chain([]), Chain([])])(x), ShapeError, "3 channels leave a level, but half of them are done there"),
        (lambda: Multiscale([]), UserError, "levels is empty"),
        (lambda: InvertibleConv(0), UserError, "channels is 0"),
        (lambda: InvertibleConv(3, "qr"), UserError, "parametrisation is 'qr', but it is 'plu', 'free' or 'householder'"),
        (lambda: singular(x), UserError, r"the 3 x 3 matrix of an InvertibleConv is singular \(log\|det\| is -inf\)"),
        (lambda: singular.inverse(x), UserError, "is singular"),
        (lambda: ImageCoupling(1), UserError, "channels is 1, but a coupling of mask 'channel' needs at least 2; squeeze first"),
        (lambda: ImageCoupling(2, 0), UserError, "hidden is 0"),
        (lambda: ImageCoupling(2, mask="halves"), UserError, "mask is 'halves'"),
        (lambda: ImageCoupling(2, change="scale"), UserError, "change is 'scale', but it is 'affine', 'additive' or 'spline'"),
        (lambda: ImageCoupling(2, bound=-1.0), UserError, "bound is -1.0"),
        (
            lambda: ImageCoupling(3, 4, cond_features=2)(x, torch.zeros(2)),
            ConditionError,
            r"cond is torch.float32 of shape \(2,\), but this network needs vectors \(\d+, 2\), one per row",
        ),
        (
            lambda: ImageCoupling(3, 4, cond_channels=1)(x, x),
            ConditionError,
            r"of shape \(2, 3, 4, 5\), but .* needs images \(2, 1, 4, 5\)",
        ),
        (
            lambda: ImageCoupling(3, 4, cond_channels=1)(x, x[:, :1, :3, :5]),
            ConditionError,
            r"of shape \(2, 1, 3, 5\), but .* needs images",
        ),
        (lambda: ImageCoupling(3, 4, cond_channels=1, classes=2), ConditionError, "cond_channels is 1, but classes is 2"),
        (lambda: ImageActNorm(3).initialise(x[:1, :, :1, :1]), ShapeError, "needs at least two rows of 3 features"),
        (lambda: bijections.Chain([ActNorm(7)])(x), ShapeError, "7"),
    ):
        with pytest.raises(error, match=message):
            call()


def test_the_condition_of_each_image_is_its_own():
    coupling, x, cond = moved(ImageCoupling(2, 4, cond_features=3)), torch.randn(4, 2, 3, 3), torch.randn(4, 3)
    together = coupling(x, cond)[1]
    alone = torch.cat([coupling(x[k : k + 1], cond[k : k + 1])[1] for k in range(4)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
