"""The network of image couplings with activations in place: allocating their outputs would double their time."""

from typing import Any

from torch import Tensor

from pushforward.dispatch import fast_way, known
from pushforward.fast.coupling import overwriting
from pushforward.nn.conv import ConvNet
from pushforward.nn.embedding import LabelEmbedding, VectorEmbedding
from pushforward.nn.image_condition import ImageCondition

known(LabelEmbedding, VectorEmbedding, ImageCondition)


@fast_way(ConvNet, "hidden", inside=True)
def hidden(net: Any, h: Tensor, cond: Tensor | None) -> Tensor:
    """Return the output of the hidden layers; which overwrite the outputs of the convolutions."""
    act = overwriting(net)
    h = act(net.shifted(net.first(h), cond))
    h = act(net.middle(h))
    return h
