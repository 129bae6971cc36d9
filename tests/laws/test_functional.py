"""What every pure function owes: any strides, an empty batch, bfloat16, gradients, untouched arguments, and a class with the same bits."""

import math
import typing

import pytest
import torch
from examples import examples, non_contiguous
from torch import Tensor

from pushforward import _random, registry
from pushforward.bijections.divergences import ExactDivergence, HutchinsonDivergence
from pushforward.bijections.spline import RationalQuadraticSpline
from pushforward.bijections.standardise import Standardise
from pushforward.functional.attention import self_attention
from pushforward.functional.divergence import exact_divergence, hutchinson_divergence
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
    layer = SelfAttention(8, 2, causal=True)
    weights = layer.qkv.weight, layer.qkv.bias, layer.out.weight, layer.out.bias
    return layer, lambda x: self_attention(x, *weights, 2, causal=True), torch.randn(2, 3, 8)


def _standardise():
    layer = Standardise((3,))
    layer.initialise(torch.randn(5, 3))
    return (
        lambda x: (*layer(x), *layer.inverse(x)),
        lambda x: (*standardise(x, layer.mean, layer.std), *standardise(x, layer.mean, layer.std, True)),
        torch.randn(4, 3),
    )


def _spline():
    layer = RationalQuadraticSpline((3,), bins=4)
    torch.nn.init.normal_(layer.raw)

    def function(x):
        knots = spline_knots(layer.raw, layer.bound)
        both = [rational_quadratic_spline(x, *knots, inverse=inverse) for inverse in (False, True)]
        return [one for y, log_slopes in both for one in (y, log_slopes.sum(1))]

    return lambda x: (*layer(x), *layer.inverse(x)), function, 3 * torch.randn(4, 3)


def _dequantise():
    def function(x):
        return dequantise(x, _random.uniform(x.shape, torch.Generator().manual_seed(3), None, x.dtype))

    return lambda x: Dequantise()(x, torch.Generator().manual_seed(3)), function, torch.arange(6.0).reshape(2, 3)


def _field(x, t, cond):
    return x.sin() * x.flip(1) * t[:, None] + cond


def _divergence(version, function):
    t, cond, x = torch.rand(4), torch.randn(4, 3), torch.randn(4, 3)
    probes = version.probes(x, torch.Generator().manual_seed(1))
    more = () if probes is None else (probes.transpose(0, 1),)  # a solver cuts probes with the batch, whose axis comes first
    return lambda x: version(_field, x, t, cond, probes), lambda x: function(lambda x: _field(x, t, cond), x, *more), x


# Each returns the class's version and the function, as functions of x, and x.
VERSIONS = {
    "functional.self_attention": _attention,
    "functional.standardise": _standardise,
    "functional.dequantise": _dequantise,
    "functional.rational_quadratic_spline": _spline,
    "functional.exact_divergence": lambda: _divergence(ExactDivergence(), exact_divergence),
    "functional.hutchinson_divergence": lambda: _divergence(HutchinsonDivergence(2), hutchinson_divergence),
    "functional.patchify": lambda: (Patchify(2), lambda x: patchify(x, 2), X),
    "functional.unpatchify": lambda: (Unpatchify(2, 4, 6), lambda x: unpatchify(x, 2, 4, 6), TOKENS),
    "functional.timestep_embedding": lambda: (
        TimestepEmbedding(8, 25.0, 100.0),
        lambda t: timestep_embedding(t, 8, 25.0, 100.0),
        torch.rand(5),
    ),
}
X, TOKENS = torch.randn(2, 3, 4, 6), torch.randn(2, 6, 12)


def test_all_functions_with_a_class_of_the_same_name_are_compared():
    assert registry.versions().keys() == VERSIONS.keys()
    assert registry.versions()["functional.self_attention"] == "nn.SelfAttention"


@pytest.mark.parametrize("name", VERSIONS)
def test_function_and_class_return_the_same_bits(name):
    """Also their gradients, which a version that only agrees in values would get wrong."""
    version, function, x = VERSIONS[name]()
    found = []
    for call in (version, function):
        leaf = x.clone().requires_grad_()
        values = call(leaf)
        values = [values] if isinstance(values, Tensor) else list(values)
        ends = [one for one in values if one.requires_grad]
        slopes = [torch.arange(one.numel(), dtype=one.dtype).view(one.shape) for one in ends]
        found.append([*values, torch.autograd.grad(ends, leaf, slopes)[0]])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_no_images_have_no_patches_of_the_same_sides():
    assert patchify(X[:0], 2).shape == (0, *patchify(X, 2).shape[1:])


def test_unpatchify_undoes_patchify():
    assert torch.equal(unpatchify(patchify(X, 2), 2, 4, 6), X)


def test_patchify_undoes_unpatchify():
    assert torch.equal(patchify(unpatchify(TOKENS, 2, 4, 6), 2), TOKENS)


@pytest.mark.parametrize("shape", [(2, 3, 8), (2, 3, 4, 6), (2, 1, 2, 4, 6), (0, 3, 8)])
def test_patches_of_series_images_and_volumes_come_back(shape):
    x = torch.randn(shape)
    tokens = patchify(x, 2)
    assert tokens.shape == (shape[0], math.prod(shape[2:]) // 2 ** len(shape[2:]), shape[1] * 2 ** len(shape[2:]))
    assert torch.equal(unpatchify(tokens, 2, *shape[2:]), x)


def test_a_patch_of_a_volume_is_a_cube():
    x = torch.arange(4.0 * 4 * 4).view(1, 1, 4, 4, 4)
    assert torch.equal(patchify(x, 2)[0, 1], x[0, 0, :2, :2, 2:].flatten())


def test_a_patch_is_a_square_of_neighbours():
    image = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert patchify(image, 2)[0, 1].tolist() == [2.0, 3.0, 6.0, 7.0]
