"""The network of image couplings with activations in place: allocating their outputs would double their time."""

from typing import Any

from torch import Tensor, nn

from pushforward.dispatch import fast_way, known, reads_parts
from pushforward.fast.coupling import overwriting
from pushforward.fast.parts import CONDITIONS
from pushforward.nn.conv import ConvNet
from pushforward.nn.image_condition import ImageCondition

known(*CONDITIONS, ImageCondition)


def _built(net: Any) -> bool:
    """Return whether the hidden layers are convolutions: others may return their input, which is not to be overwritten."""
    return type(net._modules.get("first")) is type(net._modules.get("middle")) is nn.Conv2d


reads_parts(ConvNet, _built)


@fast_way(ConvNet, "hidden", inside=True)
def hidden(net: Any, h: Tensor, cond: Tensor | None) -> Tensor:
    """Return the output of the hidden layers; which overwrite the outputs of the convolutions."""
    act = overwriting(net)
    h = act(net.shifted(net.first(h), cond))
    h = act(net.middle(h))
    return h
