"""The velocity networks shared by all contenders of a row, called as net(x, t) with scalar t or t (n,)."""

import torch
from torch import Tensor, nn

import pushforward as pf


def velocity(features: int) -> nn.Module:
    """Return an MLP velocity with two hidden layers of 128 that each read 16 features of time, as it is initialised."""
    torch.manual_seed(features)
    return pf.nn.MLP(features, features, (128, 128), time_features=16).requires_grad_(False)


class Joined(nn.Module):
    """The velocity network of most papers on neural ODEs: an MLP (two hidden layers of 128, SiLU) of x and t side by side."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.net = pf.nn.MLP(features + 1, features, (128, 128))

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        return self.net(torch.cat((x, t.expand(len(x))[:, None]), dim=1))


def trained(features: int, steps: int = 1500) -> nn.Module:
    """Return a velocity after some seconds of flow matching: two moons (2 features) or handwritten digits (64)."""
    data = pf.data.load("moons" if features == 2 else "digits", "train")
    x = torch.stack([data[k][0] for k in range(len(data))]).float().flatten(1)
    x = (x - x.mean(0)) / x.std(0).clamp_min(0.1 * x.std())
    torch.manual_seed(0)
    net = Joined(features)
    model = pf.families.PathModel(net, (features,))
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        model.loss(x[torch.randint(len(x), (256,))]).backward()
        optimizer.step()
        schedule.step()
    return net.requires_grad_(False)


class Plain(nn.Module):
    """The same network as a plain Module, with no interface except the call."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        return self.net(x, t, cond)


def at_one_time(net: nn.Module, t: Tensor, x: Tensor) -> Tensor:
    """Call the network as a solver with one time for the whole batch can: the MLP's features of time are computed for one row."""
    return net(x, t.reshape(1))
