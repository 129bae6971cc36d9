"""Augmentations: what they do to an image, and that it belongs to the image's place and not to who shares its batch."""

import pytest
import torch
from torch.nn.functional import pad

from pushforward import registry
from pushforward.augmentations import Flip, Shift
from pushforward.errors import ShapeError, UserError
from pushforward.formats.config import from_plain, to_plain

ALL = [entry.name for entry in registry.entries("augmentations")]


def generator(seed):
    return torch.Generator().manual_seed(seed)


def images(n=64, shape=(3, 6, 5)):
    return torch.randn(n, *shape, generator=generator(9))


@pytest.mark.parametrize("name", ALL)
def test_blocks_are_each_alone_and_the_same_again(name):
    augment, x = registry.entry(name).example(), images()
    whole = augment(x, [generator(k) for k in range(4)])
    assert torch.equal(whole, torch.cat([augment(x[16 * k : 16 * k + 16], generator(k)) for k in range(4)]))
    assert not torch.equal(whole, augment(x, [generator(k + 4) for k in range(4)]))


@pytest.mark.parametrize("name", ALL)
def test_shape_and_dtype_stay_and_the_input_is_not_written(name):
    augment = registry.entry(name).example()
    for x in (images(), images(8).to(torch.float64), images(8)[:, :1].expand(-1, 3, -1, -1), images(8)[:0]):
        before = x.clone()
        changed = augment(x, generator(0))
        assert (changed.shape, changed.dtype) == (x.shape, x.dtype)
        assert torch.equal(x, before)


@pytest.mark.parametrize("name", ALL)
def test_a_configuration_brings_it_back(name):
    augment = registry.entry(name).example()
    assert from_plain(to_plain(augment), type(augment), "augmentation") == augment


@pytest.mark.parametrize("name", ALL)
def test_vectors_are_refused(name):
    with pytest.raises(ShapeError, match=r"x has shape \(4, 2\), but .* expects images"):
        registry.entry(name).example()(torch.zeros(4, 2))


def test_a_flip_mirrors_left_and_right_for_its_share_of_images():
    """1,000 draws at 0.3: standard deviation 14.5, so 5 of them fail once in 1.7 million seeds."""
    x = images(1000)
    changed = Flip(0.3)(x, generator(0))
    flipped = (changed == x.flip(-1)).flatten(1).all(dim=1)
    assert torch.equal(changed[~flipped], x[~flipped])
    assert abs(int(flipped.sum()) - 300) < 5 * 14.5
    assert torch.equal(Flip(0.0)(x), x)
    assert torch.equal(Flip(1.0)(x), x.flip(-1))


def test_a_shift_is_a_window_of_the_padded_image_and_all_windows_are_alike():
    """25 windows in 5,000 draws: 200 each, standard deviation 13.9; 5 of them in any of 25 fail once in 70,000 seeds."""
    x = images(5000, (1, 6, 5))
    windows = pad(x, (2, 2, 2, 2), mode="replicate").unfold(2, 6, 1).unfold(3, 5, 1).flatten(2, 3)[:, 0]
    same = (windows == Shift(2)(x, generator(0))).flatten(2).all(dim=2)
    assert (same.sum(dim=1) == 1).all()
    assert (same.sum(dim=0) - 200).abs().max() < 5 * 13.9
    assert torch.equal(Shift(0)(x), x)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Flip(1.5), "probability is 1.5"),
        (lambda: Shift(-1), "pixels is -1, but it must be an integer"),
        (lambda: Shift(1.5), "pixels is 1.5"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()
