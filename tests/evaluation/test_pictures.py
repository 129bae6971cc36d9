"""Pictures of samples of any shape: images, volumes by a slice, series as curves."""

import numpy
import pytest
import torch
from PIL import Image

from pushforward.evaluation.captioned import captioned
from pushforward.evaluation.pictures import picture_of, tiles


def test_a_volume_is_drawn_by_its_middle_slice():
    x = torch.rand(3, 1, 4, 5, 6)
    low, high = x.amin(), x.amax()
    x[:, :, 2, 0, 0], x[:, :, 2, 0, 1] = low, high  # the grey scale is that of the slices
    assert numpy.array_equal(tiles(x, None, 3), tiles(x[:, :, 2], None, 3))


def test_of_two_channels_the_first_is_drawn():
    x = torch.randint(0, 4, (2, 2, 3, 3)).float()
    assert numpy.array_equal(tiles(x, 4, 2), tiles(x[:, :1], 4, 2))


def test_series_are_drawn_as_curves(tmp_path):
    picture_of(torch.randn(3, 2, 16), tmp_path / "x.png", columns=2)
    assert (tmp_path / "x.png").stat().st_size > 1000


@pytest.mark.parametrize("caption", ["a $\\frac{$ b", "$5 or $6", "\\$5", "$"])
def test_a_caption_is_drawn_as_it_is_and_never_as_a_formula(caption, tmp_path):
    def drawn(text):
        captioned(torch.zeros(1, 3, 4, 4), [text], tmp_path / "x.png")
        return numpy.asarray(Image.open(tmp_path / "x.png")).copy()

    assert not numpy.array_equal(drawn(caption), drawn(caption.replace("$", "")))
    assert not numpy.array_equal(drawn(caption), drawn(caption.replace("$", "\\$")))
