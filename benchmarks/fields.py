"""The velocity that all contenders of a row share: one network, called in everybody's own way."""

import torch
from torch import Tensor, nn

import pushforward as pf


def velocity(features: int, gain: float = 1.0) -> nn.Module:
    """Return an MLP velocity with two hidden layers of 128 that reads 16 features of time; `gain` makes it turn faster."""
    torch.manual_seed(features)
    net = pf.nn.MLP(features, features, (128, 128), time_features=16)
    with torch.no_grad():
        for layer in (*net.layers, net.out):
            layer.weight *= gain
    return net.requires_grad_(False)


class Plain(nn.Module):
    """The same network seen as a plain Module: nothing is known of it but that it can be called."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        return self.net(x, t, cond)


def at_one_time(net: nn.Module, t: Tensor, x: Tensor) -> Tensor:
    """Call the network as solvers with one time for the whole batch do: the features of time are computed once, not for each row."""
    return net(x, t.reshape(1))
