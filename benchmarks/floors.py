"""The floors: careful hand-written eager PyTorch of the same mathematics for exactly one case, and nothing else."""

import itertools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.fields import Joined
from pushforward.functional import timestep_embedding
from pushforward.ode import ERROR, NODES, STAGES


class Layers:
    """An MLP velocity's weights, laid out for addmm, with what time adds to each layer computed for many times at once."""

    def __init__(self, net: nn.Module) -> None:
        mlp = net.net if isinstance(net, Joined) else net
        (self.w1, self.b1), (self.w2, self.b2) = ((layer.weight.T.contiguous(), layer.bias) for layer in mlp.layers)
        self.w3, self.b3 = mlp.out.weight.T.contiguous(), mlp.out.bias
        self.joined = mlp is not net
        self.time = self.w1[-1:].T if self.joined else mlp.time.weight
        self.w1 = self.w1[:-1] if self.joined else self.w1
        self.middle = (self.w2 * (self.w3 @ self.w1).T).contiguous()

    def biases(self, times: Tensor) -> list[tuple[Tensor, Tensor]]:
        if self.joined:
            return [(bias, self.b2) for bias in torch.outer(times, self.time[:, 0]).add_(self.b1).unbind()]
        features = timestep_embedding(times, self.time.shape[1], scale=25.0, max_period=100.0)
        first, second = (features @ self.time.T).chunk(2, dim=1)
        return list(zip((first + self.b1).unbind(), (second + self.b2).unbind(), strict=True))

    def value(self, x: Tensor, biases: tuple[Tensor, Tensor]) -> Tensor:
        h = F.silu(torch.addmm(biases[0], x, self.w1), inplace=True)
        h = F.silu(torch.addmm(biases[1], h, self.w2), inplace=True)
        return torch.addmm(self.b3, h, self.w3)

    def value_and_divergence(self, x: Tensor, biases: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        h, slope1 = _silu(torch.addmm(biases[0], x, self.w1))
        h, slope2 = _silu(torch.addmm(biases[1], h, self.w2))
        return torch.addmm(self.b3, h, self.w3), torch.linalg.vecdot(slope1 @ self.middle, slope2)

    def value_and_divergence_in_directions(self, x: Tensor, biases: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """The same by pushing every direction through the network, as must be done for a network that is not known."""
        h, slope1 = _silu(torch.addmm(biases[0], x, self.w1))
        h, slope2 = _silu(torch.addmm(biases[1], h, self.w2))
        tangents = self.w1[:, None, :] * slope1
        tangents = (tangents @ self.w2).mul_(slope2) @ self.w3
        return torch.addmm(self.b3, h, self.w3), tangents.diagonal(dim1=0, dim2=2).sum(1)


def _silu(x: Tensor) -> tuple[Tensor, Tensor]:
    gate = torch.sigmoid(x)
    value = x * gate
    return value, torch.addcmul(value, gate, 1 - value)


def likelihood(layers: Layers, x: Tensor, steps: int, rates: Callable) -> Tensor:
    """Return log p(x) by midpoint steps from 0 to 1."""
    h, log_abs_det = 1 / steps, torch.zeros(len(x))
    biases = layers.biases(torch.arange(2 * steps) * (h / 2))
    for k in range(steps):
        middle = torch.add(x, layers.value(x, biases[2 * k]), alpha=h / 2)  # the first stage's divergence is never used
        value, divergence = rates(middle, biases[2 * k + 1])
        x = torch.add(x, value, alpha=h)
        log_abs_det.add_(divergence, alpha=h)
    return -0.5 * (x.square().sum(1) + x.shape[1] * math.log(2 * math.pi)) + log_abs_det


def euler(field: Callable, x: Tensor, steps: int) -> Tensor:
    times = torch.arange(float(steps)).div_(steps).unbind()
    for t in times:
        x = torch.add(x, field(x, t), alpha=1 / steps)
    return x


def heun(field: Callable, x: Tensor, steps: int) -> Tensor:
    times = torch.arange(steps + 1.0).div_(steps).unbind()
    for t, s in itertools.pairwise(times):
        k1 = field(x, t)
        k2 = field(torch.add(x, k1, alpha=1 / steps), s)
        x = torch.add(x, k1.add(k2), alpha=0.5 / steps)
    return x


def dopri5(layers: Layers, x: Tensor, tolerance: float) -> Tensor:
    """Solve from 1 to 0 with one step size for the whole batch, that of its root mean square, as torchdiffeq does."""
    left, h = 1.0, 0.05
    tables = torch.tensor([(*row, *(0.0,) * (7 - len(row))) for row in (*STAGES, ERROR)])
    slopes = x.new_empty(7, *x.shape)
    flat = slopes.view(7, -1)
    slopes[0] = layers.value(x, layers.biases(torch.ones(1))[0])
    while left > 0:
        h = min(h, left)
        biases = layers.biases(torch.tensor([left - node * h for node in NODES]))
        weights = tables * -h
        for k in range(6):
            end = torch.addmv(x.view(-1), flat[: k + 1].T, weights[k, : k + 1]).view_as(x)
            slopes[k + 1] = layers.value(end, biases[k])
        scale = torch.maximum(x.abs(), end.abs()).mul_(tolerance).add_(tolerance)
        ratio = torch.mv(flat.T, weights[6]).view_as(x).div_(scale).square_().mean().sqrt_().item()
        if ratio <= 1:
            left, x = left - h, end
            slopes[0] = slopes[6]
        h *= min(10.0, max(0.2, 0.9 * max(ratio, 1e-10) ** -0.2))
    return x
