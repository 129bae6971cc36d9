"""A network that also predicts the variance of the noise that each reverse step draws."""

from typing import Any

from torch import Tensor, nn

from pushforward.errors import ShapeError
from pushforward.registry import export


def _example() -> tuple:
    import torch

    from pushforward.nn.mlp import MLP

    return WithVariance(MLP.Config((16,)).build((2,), outputs=2)), (torch.randn(3, 2), torch.rand(3))


@export("nn.WithVariance", example=_example)
class WithVariance(nn.Module):
    """Split the output of a network with twice the channels into a prediction and an interpolation of the reverse variance.

        net(x, t, cond) = (prediction, v),    variance = small^(1 - share) large^share,    share = (v + 1) / 2

    Called like any network it returns the prediction only, so likelihoods, ODE samplers and guidance are unaffected; `DDPM` calls
    `with_variance`. The variance of any data lies between the smallest (exact if the data are one point) and the largest (exact for
    N(0, I)).

    Args:
        net: called as net(x, t, cond), returns (n, 2 channels, ...), or flat rows of as many numbers: `Config.build(shape, classes,
            outputs=2)` builds one.

    Raises:
        ShapeError: the network does not return twice the channels of x.

    Source: Nichol and Dhariwal, Improved denoising diffusion probabilistic models, 2021, arXiv 2102.09672, equation 15.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        """Return the prediction (n, *shape)."""
        return self.with_variance(x, t, cond)[0]

    def with_variance(self, x: Tensor, t: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        """Return the prediction and the share, both (n, *shape)."""
        output = self.net(x, t, cond)
        if len(output) != x.shape[0] or output[:1].numel() != 2 * x[:1].numel():
            raise ShapeError(
                f"the network returned {tuple(output.shape)} for x {tuple(x.shape)}, but a learned variance needs twice the channels; "
                "build it with outputs=2."
            )
        prediction, v = output.reshape(x.shape[0], 2 * x.shape[1], *x.shape[2:]).chunk(2, dim=1)  # an MLP over images returns rows
        return prediction, (v + 1) / 2
