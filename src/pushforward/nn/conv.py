"""The network inside an image coupling: it receives one part of an image and predicts the parameters of the other."""

from typing import Any

from torch import Tensor, nn

from pushforward._checks import whole
from pushforward.dispatch import dispatched
from pushforward.errors import ConditionError
from pushforward.nn.activation import Activation, activation_of
from pushforward.nn.embedding import condition_embedding
from pushforward.nn.image_condition import ImageCondition


class ConvNet(nn.Module):
    """Convolutions 3x3, 1x1, 3x3 from images (n, inputs, h, w) to (n, outputs, h, w); a condition shifts the first hidden layer.

    The last convolution starts at zero, so that a coupling starts as the identity. With `hidden=None` it is a single 3x3 convolution, and
    the condition shifts its output. Images are in the channels-last memory format, in which convolutions are fastest; the weights are
    contiguous, as required by optimisers that flatten all parameters into one vector.

    Args:
        inputs: input channels.
        outputs: output channels.
        hidden: channels of both hidden layers, or None for a single convolution.
        activation: "silu", "tanh", "relu", "elu" or "softplus".
        classes: number of labels, or None.
        cond_features: length of the condition vectors, or None.
        cond_channels: channels of condition images at x's resolution, which are concatenated to x (`ImageCondition`), or None; excludes
            other kinds of condition.

    Raises:
        UserError: hidden < 1, or an unknown activation.
        ConditionError: several kinds of condition, or condition images of the wrong shape.
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
        self.image = None if cond_channels is None else ImageCondition(cond_channels)
        inputs += 0 if self.image is None else self.image.added
        if hidden is not None:
            whole("hidden", hidden, 1, hint="128 is usual")
        self.act = activation_of(activation)
        self.first: Any = None if hidden is None else nn.Conv2d(inputs, hidden, 3, padding=1)
        self.middle: Any = None if hidden is None else nn.Conv2d(hidden, hidden, 1)
        self.condition = condition_embedding(outputs if hidden is None else hidden, classes, cond_features)
        self.out: Any = nn.Conv2d(inputs if hidden is None else hidden, outputs, 3, padding=1)
        for p in self.out.parameters():
            nn.init.zeros_(p)

    def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        if self.image is not None:
            x, cond = self.image(x, cond), None
        h = x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)  # channels_last, written so that torch.func.vmap supports it
        out: Tensor = self.shifted(self.out(h), cond) if self.first is None else self.out(self.hidden(h, cond))
        return out

    @dispatched
    def hidden(self, h: Tensor, cond: Tensor | None) -> Tensor:
        """Return the output of the hidden layers for images in channels-last memory."""
        h = self.act(self.shifted(self.first(h), cond))
        h = self.act(self.middle(h))
        return h

    def shifted(self, h: Tensor, cond: Tensor | None) -> Tensor:
        """Return images with the shift of each channel by the condition added."""
        shift = self.condition(cond, h.shape[0])
        return h if shift is None else h + shift[..., None, None]
