"""What every pure function owes: any strides, an empty batch, bfloat16, gradients, untouched arguments, and a Module with the same bits."""

import re
import typing

import pytest
import torch
from examples import examples, non_contiguous
from torch import Tensor

from pushforward import _random, registry
from pushforward.bijections.spline import RationalQuadraticSpline
from pushforward.bijections.standardise import Standardise
from pushforward.functional.attention import self_attention
from pushforward.functional.embedding import timestep_embedding
from pushforward.functional.patches import patchify, unpatchify
from pushforward.functional.spline import rational_quadratic_spline, spline_knots
from pushforward.functional.standardise import dequantise, standardise
from pushforward.nn.embedding import TimestepEmbedding
from pushforward.nn.layers import Dequantise, Patchify, SelfAttention, Unpatchify

FUNCTIONS = examples("functional")


@pytest.fixture(params=FUNCTIONS)
def subject(request):
    entry = request.param
    return entry.thing, entry.example()


def outputs(function, arguments):
    result = function(*arguments)
    return result if isinstance(result, tuple) else (result,)


def batch_axes(function):
    """Return for each parameter which axis is the batch, read off its annotated shape, or None."""
    hints = typing.get_type_hints(function)
    dims = [getattr(hints.get(name), "dim_str", "").split() for name in function.__code__.co_varnames[: function.__code__.co_argcount]]
    return [one.index("n") if "n" in one else None for one in dims]


def test_every_public_function_has_an_example():
    # prediction_coefficients is convert_prediction without the tensors, whose example covers both
    missing = [one.name for one in registry.entries("functional") if one.example is None]
    assert missing == ["functional.prediction_coefficients"]


def test_expanded_arguments_are_as_good_as_their_copies(subject):
    function, arguments = subject
    axes = batch_axes(getattr(function, "__wrapped__", function))
    expanded = [
        a if axis is None or not isinstance(a, Tensor) else a.narrow(axis, 0, 1).expand_as(a)
        for a, axis in zip(arguments, axes, strict=False)
    ]
    expanded += arguments[len(expanded) :]
    copies = [a.clone() if isinstance(a, Tensor) else a for a in expanded]
    for a, b in zip(outputs(function, expanded), outputs(function, copies), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_non_contiguous_arguments_are_as_good_as_their_copies(subject):
    function, arguments = subject
    strided = [non_contiguous(a) if isinstance(a, Tensor) else a for a in arguments]
    for a, b in zip(outputs(function, strided), outputs(function, arguments), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_an_empty_batch_stays_empty(subject):
    function, arguments = subject
    axes = [*batch_axes(getattr(function, "__wrapped__", function)), *[None] * len(arguments)]
    empty = [a if axis is None or not isinstance(a, Tensor) else a.narrow(axis, 0, 0) for a, axis in zip(arguments, axes, strict=False)]
    for a, b in zip(outputs(function, empty), outputs(function, arguments), strict=True):
        assert a.shape == (0, *b.shape[1:])


def test_the_callers_tensors_are_not_written(subject):
    function, arguments = subject
    before = [a.clone() if isinstance(a, Tensor) else a for a in arguments]
    outputs(function, arguments)
    assert all(torch.equal(a, b) for a, b in zip(arguments, before, strict=True) if isinstance(a, Tensor))


def test_bfloat16_arguments_give_the_rounded_result(subject):
    """To 2^-4 of the largest number: bfloat16 keeps 2^-8, and the functions sum some ten numbers."""
    function, arguments = subject
    low = [a.bfloat16() if isinstance(a, Tensor) and a.is_floating_point() else a for a in arguments]
    high = [a.double() if isinstance(a, Tensor) and a.is_floating_point() else a for a in low]
    for a, b in zip(outputs(function, low), outputs(function, high), strict=True):
        torch.testing.assert_close(a.double(), b, rtol=0, atol=float(b.abs().max()) / 16)


def test_gradcheck_holds(subject):
    """Steps of 1e-7, as the frequencies of timestep_embedding reach 1000: its differences are then wrong by 1000^3 1e-14 / 6."""
    function, arguments = subject
    places = [k for k, a in enumerate(arguments) if isinstance(a, Tensor) and a.is_floating_point()]

    def of_tensors(*tensors):
        filled = list(arguments)
        for place, tensor in zip(places, tensors, strict=True):
            filled[place] = tensor
        return outputs(function, filled)

    tensors = [arguments[k].clone().requires_grad_() for k in places]
    torch.autograd.gradcheck(of_tensors, tensors, eps=1e-7, atol=2e-5)


def _attention():
    layer, x = SelfAttention(8, 2), torch.randn(2, 3, 8)
    return layer(x), self_attention(x, layer.qkv.weight, layer.qkv.bias, layer.out.weight, layer.out.bias, 2)


def _standardise():
    layer, x = Standardise((3,)), torch.randn(4, 3)
    layer.initialise(torch.randn(5, 3))
    return (
        torch.cat([one.flatten() for direction in (layer.forward, layer.inverse) for one in direction(x)]),
        torch.cat([one.flatten() for inverse in (False, True) for one in standardise(x, layer.mean, layer.std, inverse)]),
    )


def _spline():
    layer, x = RationalQuadraticSpline((3,), bins=4), 3 * torch.randn(4, 3)
    torch.nn.init.normal_(layer.raw)
    knots = spline_knots(layer.raw, layer.bound)
    return (
        torch.cat([one for direction in (layer.forward, layer.inverse) for one in _with_sum(*direction(x))]),
        torch.cat([one for inverse in (False, True) for one in _with_sum(*rational_quadratic_spline(x, *knots, inverse=inverse))]),
    )


def _with_sum(y, log_slopes):
    return y.flatten(), log_slopes.sum(1) if log_slopes.ndim > 1 else log_slopes


def _dequantise():
    x = torch.arange(6.0).reshape(2, 3)
    uniform = _random.uniform(x.shape, torch.Generator().manual_seed(3), None, x.dtype)
    return Dequantise()(x, torch.Generator().manual_seed(3)), dequantise(x, uniform)


X, TOKENS, T = torch.randn(2, 3, 4, 6), torch.randn(2, 6, 12), torch.rand(5)
TWINS = {
    "self_attention": _attention,
    "standardise": _standardise,
    "dequantise": _dequantise,
    "rational_quadratic_spline": _spline,
    "patchify": lambda: (Patchify(2)(X), patchify(X, 2)),
    "unpatchify": lambda: (Unpatchify(2, 4, 6)(TOKENS), unpatchify(TOKENS, 2, 4, 6)),
    "timestep_embedding": lambda: (TimestepEmbedding(8, 25.0, 100.0)(T), timestep_embedding(T, 8, 25.0, 100.0)),
}


def test_all_twins_are_compared():
    """functional.x_y and a Module XY, found by their names."""
    public = [*registry.entries("nn"), *registry.entries("bijections")]
    modules = {one.name.rpartition(".")[2] for one in public if issubclass(one.thing, torch.nn.Module)}
    functions = [name.rpartition(".")[2] for name in registry.names("functional")]
    named = {one for one in functions if "".join(part.capitalize() for part in re.split("_", one)) in modules}
    assert named == set(TWINS)


@pytest.mark.parametrize("name", TWINS)
def test_function_and_module_return_the_same_bits(name):
    module, function = TWINS[name]()
    assert torch.equal(module, function)


def test_no_images_have_no_patches_of_the_same_sides():
    assert patchify(X[:0], 2).shape == (0, *patchify(X, 2).shape[1:])


def test_unpatchify_undoes_patchify():
    assert torch.equal(unpatchify(patchify(X, 2), 2, 4, 6), X)


def test_patchify_undoes_unpatchify():
    assert torch.equal(patchify(unpatchify(TOKENS, 2, 4, 6), 2), TOKENS)


def test_a_patch_is_a_square_of_neighbours():
    image = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert patchify(image, 2)[0, 1].tolist() == [2.0, 3.0, 6.0, 7.0]
