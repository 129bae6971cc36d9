"""Pictures of samples of any shape: images, volumes by a slice, series as curves."""

import numpy
import torch

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
