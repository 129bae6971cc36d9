"""Configurations of networks: frozen records with `.build(shape, classes)`, which a preset takes where it takes a network."""

import math
from collections.abc import Sequence
from typing import ClassVar

from torch import nn

from pushforward.errors import UserError


class NetConfig:
    """A network's settings without its data's: `name` is the network's public name."""

    name: ClassVar[str]

    def build(self, shape: Sequence[int], classes: int | None = None, outputs: int = 1) -> nn.Module:
        """Return the network for events of this shape, with labels 0 to classes - 1 if given, that says `outputs` times the channels."""
        raise NotImplementedError


def image_sides(name: str, shape: Sequence[int]) -> tuple[int, int, int]:
    """Return (channels, height, width), or refuse a shape that is no image's by the network's name."""
    if len(shape) != 3:
        raise UserError(f"shape is {tuple(shape)}, but {name} needs images (channels, height, width); use MLP for vectors.")
    channels, height, width = shape
    return channels, height, width


def features_of(shape: Sequence[int]) -> int:
    """Return how many numbers an event of this shape has."""
    return math.prod(shape)
