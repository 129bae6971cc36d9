"""The walk along a masked network keeps views of its weights: they follow whatever happens to the weights."""

import copy
import io

import pytest
import torch

import pushforward as pf

pytestmark = pytest.mark.usefixtures("float64")


def flow(seed: int = 0):
    torch.manual_seed(seed)
    made = pf.bijections.SplineAutoregressive(5, 4, (9, 7)) if seed else pf.bijections.AffineAutoregressive(5, (9, 7))
    for p in made.parameters():
        torch.nn.init.normal_(p, std=0.4)
    return made


def written_in_place(layer):
    for p in layer.parameters():
        p.data.mul_(0.5)
    return layer


def given_other_memory(layer):
    for p in layer.parameters():
        p.data = 0.5 * p.data
    return layer


def assigned(layer):
    layer.load_state_dict({name: 0.5 * p for name, p in layer.state_dict().items()}, assign=True)
    return layer


def copied_and_changed(layer):
    return written_in_place(copy.deepcopy(layer))


def pickled_and_changed(layer):
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    return written_in_place(torch.load(file, weights_only=False))


def in_float32_and_back(layer):
    return layer.float().double()


CHANGES = [written_in_place, given_other_memory, assigned, copied_and_changed, pickled_and_changed, in_float32_and_back]


@pytest.mark.parametrize("change", CHANGES, ids=lambda one: one.__name__)
@pytest.mark.parametrize("seed", [0, 1], ids=["affine", "spline"])
def test_the_walk_has_the_weights_of_the_moment(change, seed):
    layer, z = flow(seed), torch.randn(6, 5)
    with torch.no_grad():
        before = layer.inverse(z)[0]
        changed = change(layer)
        after, _ = changed.inverse(z)
        torch.testing.assert_close(changed(after)[0], z, rtol=1e-9, atol=1e-9)
    assert change is in_float32_and_back or (after - before).abs().max() > 0.01


@pytest.mark.parametrize("name", [name for name, _ in flow().named_parameters()])
def test_the_walk_sees_that_one_weight_alone_has_other_memory(name):
    layer, z = flow(), torch.randn(6, 5)
    with torch.no_grad():
        layer.inverse(z)
        p = layer.get_parameter(name)
        p.data = 0.5 * p.data
        torch.testing.assert_close(layer(layer.inverse(z)[0])[0], z, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("seed", [0, 1], ids=["affine", "spline"])
def test_the_walk_is_the_same_with_gradients_and_without(seed):
    layer, z = flow(seed), torch.randn(6, 5)
    x, log_abs_det = layer.inverse(z)
    with torch.no_grad():
        values = layer.inverse(z)
        mapped = torch.func.vmap(lambda row: layer.inverse(row[None])[0][0])(z)
    assert x.requires_grad
    for one, other in ((values[0], x), (values[1], log_abs_det), (mapped, x)):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
