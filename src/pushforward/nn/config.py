"""Configurations of networks: frozen dataclasses with `.build(shape, classes)`; a preset accepts one in place of a network."""

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

from torch import nn

from pushforward._checks import CheckedNumbers
from pushforward.errors import UserError

CondBy = Literal["concat", "attention"]  # how a network reads condition images


class NetConfig(CheckedNumbers):
    """Settings of a network, independent of the data; `name` is the network's public name."""

    name: ClassVar[str]

    def build(
        self,
        shape: Sequence[int],
        classes: int | None = None,
        outputs: int = 1,
        *,
        cond_features: int | None = None,
        cond_image: Sequence[int] | None = None,
        numbers: int = 0,
    ) -> nn.Module:
        """Return the network for events of this shape.

        Args:
            shape: shape of one event.
            classes: number of labels that the condition may be, or None.
            outputs: output channels per channel of the event.
            cond_features: length of the condition vectors, or None.
            cond_image: shape of the condition images, or None. A configuration whose `build` lacks one of the two is for networks
                without such conditions.
            numbers: how many numbers per sample it reads in addition to t: 1 is the length of a flow map's interval, 4 also its
                guidance. One whose `build` lacks it is for networks that read only t.
        """
        raise NotImplementedError


def image_sides(name: str, shape: Sequence[int]) -> tuple[int, int, int]:
    """Return (channels, height, width), or raise an error that names the network if the shape is not an image's."""
    if len(shape) != 3:
        raise UserError(f"shape is {tuple(shape)}, but {name} needs images (channels, height, width); use MLP for vectors.")
    channels, height, width = shape
    return channels, height, width


def grid_sides(name: str, shape: Sequence[int]) -> tuple[int, tuple[int, ...]]:
    """Return (channels, sides), or raise an error that names the network if the shape is not that of series, images or volumes."""
    channels, *sides = shape
    if not 1 <= len(sides) <= 3:
        raise UserError(
            f"shape is {tuple(shape)}, but {name} needs series (channels, length), images (channels, height, width) or volumes "
            "(channels, depth, height, width); use MLP for vectors."
        )
    return channels, tuple(sides)


def features_of(shape: Sequence[int]) -> int:
    """Return the number of elements of an event of this shape."""
    return math.prod(shape)
