"""Bijections of vectors: what a hundred layers cost in precision, what is refused, and what data start."""

import pytest
import torch
from examples import one_in

from pushforward import bijections
from pushforward.bijections.coupling import AdditiveCoupling, AffineCoupling, SplineCoupling
from pushforward.errors import ConditionError, NotInvertibleError, ShapeError, UserError

HUNDRED = {
    "additive": lambda k: AdditiveCoupling(16, (64, 64), swap=k % 2 == 1),
    "affine": lambda k: AffineCoupling(16, (64, 64), swap=k % 2 == 1),
    "spline": lambda k: SplineCoupling(16, 8, (64, 64), swap=k % 2 == 1),
    "affine autoregressive": lambda k: bijections.AffineAutoregressive(16, (64, 64)),
    "spline autoregressive": lambda k: bijections.SplineAutoregressive(16, 8, (64, 64)),
    "lu": lambda k: bijections.LULinear(16),
    "orthogonal": lambda k: bijections.Orthogonal(16),
}


@pytest.mark.parametrize("kind", one_in(2, HUNDRED))
def test_a_hundred_layers_are_undone_in_float32_to_1e_4(kind):
    """Layers that change little each, as in a trained stack: at most 2e-5 was measured, in numbers of size up to 5.

    Layers that each stretch by much are another matter: the map's own condition number then multiplies the rounding.
    """
    chain = bijections.Chain([HUNDRED[kind](k) for k in range(100)])
    x = torch.randn(64, 16)
    with torch.no_grad():
        for name, p in chain.named_parameters():
            if kind in ("lu", "orthogonal"):
                torch.nn.init.normal_(p, std=0.02)
            elif ".out." in name:
                p.mul_(0.3)
        z, forward = chain(x)
        back, inverse = chain.inverse(z)
    assert float((z - x).abs().max()) > 0.1
    assert float((back - x).abs().max()) < 1e-4
    assert float((forward + inverse).abs().max()) < 2e-4


@pytest.mark.parametrize("kind", [AdditiveCoupling, AffineCoupling, SplineCoupling])
def test_a_coupling_of_one_feature_is_refused(kind):
    with pytest.raises(UserError, match="features is 1, but a coupling needs at least 2: one to keep, one to change"):
        kind(1)


def test_an_odd_number_is_split_into_the_smaller_half_and_the_rest():
    x = torch.randn(3, 5)
    assert torch.equal(AffineCoupling(5)(x)[0][:, :2], x[:, :2])
    assert torch.equal(AffineCoupling(5, swap=True)(x)[0][:, 2:], x[:, 2:])


def test_wrong_sizes_and_settings_are_refused_by_name():
    for call, error, message in (
        (lambda: AffineCoupling(4)(torch.randn(2, 5)), ShapeError, r"x has shape \(2, 5\), but this bijection needs \(n, 4\)"),
        (lambda: bijections.Chain([AffineCoupling(4), AffineCoupling(6)]), ShapeError, "vectors of 4 and of 6 features"),
        (lambda: bijections.AffineAutoregressive(0), UserError, "features is 0, but it must be at least 1"),
        (lambda: AffineCoupling(4, ()), UserError, r"hidden is \(\), but the network needs at least one"),
        (lambda: AffineCoupling(4, bound=0.0), UserError, "bound is 0.0, but the bound of a log-scale must be positive"),
        (lambda: SplineCoupling(4, 1), UserError, "bins is 1, but a spline has from 2 to 999"),
        (lambda: SplineCoupling(4, (8, 8)), UserError, "bins is a tuple, but a spline has from 2 to 999"),
        (lambda: bijections.Permutation(4), UserError, "order is 4, but it is a permutation, such as"),
        (lambda: bijections.Reverse((4,)), UserError, "features is a tuple, but it must be an integer"),
        (lambda: SplineCoupling(4, bound=-1.0), UserError, "bound is -1.0"),
        (lambda: AffineCoupling(4, activation="swish"), UserError, "activation is 'swish', but it is one of"),
        (lambda: AffineCoupling(4, classes=2, cond_features=3), ConditionError, "a condition is labels, vectors or images"),
        (
            lambda: AffineCoupling(4, cond_features=3)(torch.randn(2, 4), torch.randn(2, 4)),
            ConditionError,
            r"cond is torch.float32 of shape \(2, 4\), but this network needs vectors \(2, 3\), one per row",
        ),
        (lambda: bijections.Permutation([0, 0, 1]), UserError, r"order is \[0, 0, 1\], but a permutation has each of 0 to 2 once"),
        (lambda: bijections.Orthogonal(3, 4), UserError, "reflections is 4"),
        (lambda: bijections.Logit(1.0, 1.0), UserError, "low is 1.0 and high is 1.0"),
        (lambda: bijections.Transform(torch.distributions.transforms.AbsTransform()), NotInvertibleError, "AbsTransform is not bijective"),
        (lambda: bijections.ActNorm(3).initialise(torch.randn(1, 3)), ShapeError, "at least two rows of 3 features"),
        (lambda: bijections.BatchNorm(3)(torch.randn(1, 3)), ShapeError, "a batch of 1 has no moments"),
        (lambda: bijections.Planar(3).inverse(torch.randn(1, 3)), NotInvertibleError, "Planar is one-way"),
    ):
        with pytest.raises(error, match=message):
            call()


def test_actnorm_is_the_identity_until_data_start_it():
    layer, x = bijections.ActNorm(3), 5 + 2 * torch.randn(50, 3)
    z, log_abs_det = layer(x)
    assert torch.equal(z, x)
    assert torch.equal(log_abs_det, torch.zeros(50))
    layer.initialise(x)
    z = layer(x)[0]
    torch.testing.assert_close(z.mean(0), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(z.std(0), torch.ones(3), rtol=1e-5, atol=0)


def test_a_chain_starts_each_actnorm_from_what_reaches_it():
    chain = bijections.Chain([bijections.ActNorm(2), bijections.LULinear(2), bijections.ActNorm(2)])
    torch.nn.init.normal_(chain.steps[1].off_diagonal)
    x = 5 + 2 * torch.randn(50, 2)
    chain.initialise(x)
    z = chain(x)[0]
    torch.testing.assert_close(z.mean(0), torch.zeros(2), rtol=0, atol=1e-5)
    torch.testing.assert_close(z.std(0), torch.ones(2), rtol=1e-5, atol=0)


@pytest.mark.parametrize("make", [bijections.LULinear, bijections.Orthogonal])
def test_no_parameters_make_a_mixing_matrix_singular(make):
    layer = make(3)
    for value in (-30.0, 0.0, 30.0):
        for p in layer.parameters():
            torch.nn.init.constant_(p, value)
        assert layer(torch.randn(2, 3))[1].isfinite().all()


def test_batch_norm_moves_its_moments_in_training_alone():
    layer, x = bijections.BatchNorm(2), 3 + torch.randn(100, 2)
    z = layer(x)[0]
    torch.testing.assert_close(z.mean(0).detach(), torch.zeros(2), rtol=0, atol=1e-5)
    moved = layer.mean.clone()
    assert (moved != 0).all()
    layer.eval()
    layer(x)
    assert torch.equal(layer.mean, moved)


@pytest.mark.parametrize("make", [AffineCoupling, bijections.AffineAutoregressive])
def test_no_output_of_an_autoregressive_layer_reads_its_own_or_a_later_feature(make):
    layer, x = make(6).double(), torch.randn(6, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda x: layer(x[None])[0][0], x)
    assert torch.equal(jacobian.triu(1), torch.zeros(6, 6, dtype=torch.float64))
