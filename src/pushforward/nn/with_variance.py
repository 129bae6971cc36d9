"""A network that says, beside its prediction, how much noise each step of the reversal should draw."""

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
    """Split what a network of twice the channels says into a prediction and a share of the reversal's variance.

        net(x, t, cond) = (prediction, v),    variance = small^(1 - share) large^share,    share = (v + 1) / 2

    Called as any network it returns the prediction alone, so that likelihoods, ODE samplers and guidance take no notice; `DDPM` asks
    `with_variance`. Between the smallest variance (right for data that are one point) and the largest (right for N(0, I)) lies the
    variance of any data.

    Args:
        net: called as net(x, t, cond), which returns (n, 2 channels, ...), or rows of so many numbers: `Config.build(shape, classes,
            outputs=2)` makes one.

    Raises:
        ShapeError: the network does not say twice as many channels as x has.

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
        said = self.net(x, t, cond)
        if len(said) != len(x) or said[:1].numel() != 2 * x[:1].numel():
            raise ShapeError(
                f"the network said {tuple(said.shape)} of x {tuple(x.shape)}, but a learned variance needs twice the channels; "
                "build it with outputs=2."
            )
        prediction, v = said.reshape(len(x), 2 * x.shape[1], *x.shape[2:]).chunk(2, dim=1)  # an MLP over images says rows
        return prediction, (v + 1) / 2
