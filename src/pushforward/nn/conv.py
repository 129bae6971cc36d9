"""The network inside a coupling of images: reads one part of an image, says the parameters of the other."""

from typing import Any

import torch
from torch import Tensor, nn

from pushforward.errors import ConditionError, UserError
from pushforward.nn.activation import Activation, activation_of
from pushforward.nn.coupling import Condition


class ConvNet(nn.Module):
    """Convolutions 3x3, 1x1 and 3x3 from images (n, inputs, h, w) to (n, outputs, h, w); a condition shifts the first hidden layer.

    The last one is zero at the start, so that a coupling starts as the identity. Without hidden units it is a single such convolution,
    whose output the condition shifts. Channels of the images are innermost in memory, where convolutions are fastest; the weights are
    contiguous, as optimisers that see all parameters as one vector need them.

    Args:
        inputs: channels that are read.
        outputs: channels that are said.
        hidden: channels of both hidden layers, or None for a single convolution.
        activation: "silu", "tanh", "relu", "elu" or "softplus".
        classes: number of labels, or None.
        cond_features: length of the condition vectors, or None.
        cond_channels: channels of images (n, cond_channels, h, w) that are the condition and are read beside x, or None; the only kind
            then.

    Raises:
        UserError: hidden < 1, or an unknown activation.
        ConditionError: several kinds of condition; images that are missing or of another shape.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        hidden: int | None,
        activation: Activation = "relu",
        classes: int | None = None,
        cond_features: int | None = None,
        cond_channels: int | None = None,
    ) -> None:
        super().__init__()
        if cond_channels is not None and (classes is not None or cond_features is not None):
            raise ConditionError(
                f"cond_channels is {cond_channels}, but classes is {classes} and cond_features is {cond_features}; give one of them."
            )
        self.cond_channels = cond_channels
        inputs += cond_channels or 0
        if hidden is not None and hidden < 1:
            raise UserError(f"hidden is {hidden}, but the network needs at least 1 hidden channel; try 128.")
        self.act = activation_of(activation)
        self.first: Any = None if hidden is None else nn.Conv2d(inputs, hidden, 3, padding=1)
        self.middle: Any = None if hidden is None else nn.Conv2d(hidden, hidden, 1)
        self.condition = Condition(outputs if hidden is None else hidden, classes, cond_features)
        self.conditional = self.condition.conditional
        self.out: Any = nn.Conv2d(inputs if hidden is None else hidden, outputs, 3, padding=1)
        for p in self.out.parameters():
            nn.init.zeros_(p)

    def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        if self.cond_channels is not None:
            needed = (len(x), self.cond_channels, *x.shape[2:])
            if cond is None or tuple(cond.shape) != needed:
                what = "None" if cond is None else f"of shape {tuple(cond.shape)}"
                raise ConditionError(f"cond is {what}, but this network reads images {needed} beside x.")
            x, cond = torch.cat((x, cond), dim=1), None
        h = x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)  # channels_last, in words that torch.func.vmap knows too
        if self.first is None:
            return self._shifted(self.out(h), cond)
        h = self.act(self._shifted(self.first(h), cond))
        out: Tensor = self.out(self.act(self.middle(h)))
        return out

    def _shifted(self, h: Tensor, cond: Tensor | None) -> Tensor:
        if cond is None and not self.conditional:
            return h
        shift = self.condition(cond)
        return h if shift is None else h + shift[..., None, None]
