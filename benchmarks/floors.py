"""The floors: optimised hand-written eager PyTorch of the same mathematics for exactly one case."""

import itertools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.fields import Joined
from pushforward.functional import timestep_embedding
from pushforward.methods import DOPRI5


class Layers:
    """An MLP velocity's weights, laid out for addmm, with the time-dependent biases of each layer computed for many times together."""

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
        """The same by pushing every direction through the network, as is necessary for a black-box network."""
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
        middle = torch.add(x, layers.value(x, biases[2 * k]), alpha=h / 2)  # the divergence of the first stage is not needed
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
    tables = torch.tensor([(*row, *(0.0,) * (7 - len(row))) for row in (*DOPRI5.stages, DOPRI5.error)])
    slopes = x.new_empty(7, *x.shape)
    flat = slopes.view(7, -1)
    slopes[0] = layers.value(x, layers.biases(torch.ones(1))[0])
    while left > 0:
        h = min(h, left)
        biases = layers.biases(torch.tensor([left - node * h for node in DOPRI5.nodes[1:]]))
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


class GlowFloor(nn.Module):
    """Glow for one case, channels innermost throughout: actnorm and PLU matrix are one product, cached with its inverse for inference."""

    def __init__(self, channels: int, side: int, levels: int, depth: int, hidden: int) -> None:
        super().__init__()
        self.side, self.channels = side, channels
        self.steps, self.priors = nn.ModuleList(), nn.ModuleList()
        for level in range(levels):
            channels *= 4
            self.steps.append(nn.ModuleList(_GlowStep(channels, hidden) for _ in range(depth)))
            if level < levels - 1:
                self.priors.append(_zero(nn.Conv2d(channels // 2, channels, 3, padding=1)))
            channels //= 2

    def log_prob(self, x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        squares, sums = [], []
        for level, steps in enumerate(self.steps):
            x = _squeezed(x)
            for step in steps:
                x, s, log_abs_det = step(x)
                sums += [s.sum((1, 2, 3)) + log_abs_det * (x.shape[2] * x.shape[3])]
            if level < len(self.priors):
                x, done = x.chunk(2, 1)
                s, t = self.priors[level](x.contiguous(memory_format=torch.channels_last)).chunk(2, 1)
                s = torch.tanh(s * 0.5) * 2
                squares += [torch.addcmul(t, done, s.exp()).square().sum((1, 2, 3))]
                sums += [s.sum((1, 2, 3))]
        squares += [x.square().sum((1, 2, 3))]
        return sum(sums) - 0.5 * sum(squares) - self.channels * self.side**2 * math.log(2 * math.pi) / 2

    def sample(self, n: int) -> Tensor:
        side, channels = self.side >> len(self.steps), self.channels << (len(self.steps) + 1)
        x = torch.randn(n, channels, side, side).contiguous(memory_format=torch.channels_last)
        for level in reversed(range(len(self.steps))):
            if level < len(self.priors):
                s, t = self.priors[level](x).chunk(2, 1)
                done = (torch.randn_like(x) - t) * (torch.tanh(s * 0.5) * -2).exp()
                x = torch.cat((x, done), 1)
            for step in reversed(self.steps[level]):
                x = step.inverse(x)
            x = _spread(x)
        return x


class _GlowStep(nn.Module):
    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        rotation = torch.linalg.qr(torch.randn(channels, channels))[0]
        permutation, lower, upper = torch.linalg.lu(rotation)
        self.permutation, self.sign, self.one = permutation, upper.diagonal().sign(), torch.eye(channels)
        self.lower, self.upper = nn.Parameter(lower.tril(-1)), nn.Parameter(upper.triu(1))
        self.log_diagonal = nn.Parameter(upper.diagonal().abs().log())
        self.log_scale, self.shift = nn.Parameter(torch.zeros(channels)), nn.Parameter(torch.zeros(channels))
        self.first = nn.Conv2d(channels // 2, hidden, 3, padding=1)
        self.middle = nn.Conv2d(hidden, hidden, 1)
        self.last = _zero(nn.Conv2d(hidden, channels, 3, padding=1))
        self.to(memory_format=torch.channels_last)
        self.kept: tuple[Tensor, ...] | None = None

    def matrices(self) -> tuple[Tensor, Tensor, Tensor]:
        upper = self.upper.triu(1) + torch.diag(self.sign * self.log_diagonal.exp())
        matrix = self.permutation @ ((self.lower.tril(-1) + self.one) @ upper)
        return matrix * self.log_scale.exp(), matrix @ self.shift, self.log_diagonal.sum() + self.log_scale.sum()

    def values(self) -> tuple[Tensor, ...]:
        """Return cached matrices; in this benchmark the parameters are constant whenever no gradient is needed."""
        if self.kept is None:
            matrix, shift, log_abs_det = self.matrices()
            self.kept = matrix.T.contiguous(), shift, log_abs_det, torch.linalg.inv(matrix).T.contiguous()
        return self.kept

    def net(self, x: Tensor) -> Tensor:
        h = F.relu_(self.first(x.contiguous(memory_format=torch.channels_last)))
        return self.last(F.relu_(self.middle(h)))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if torch.is_grad_enabled():
            matrix, shift, log_abs_det = self.matrices()
            matrix = matrix.T
        else:
            matrix, shift, log_abs_det, _ = self.values()
        x = _pixels(x, matrix, shift)
        a, b = x.chunk(2, 1)
        s, t = self.net(a).chunk(2, 1)
        s = torch.tanh(s * 0.5) * 2
        return torch.cat((a, torch.addcmul(t, b, s.exp())), 1), s, log_abs_det

    def inverse(self, x: Tensor) -> Tensor:
        _, shift, _, back = self.values()
        a, b = x.chunk(2, 1)
        s, t = self.net(a).chunk(2, 1)
        x = torch.cat((a, (b - t) * (torch.tanh(s * 0.5) * -2).exp()), 1)
        return _pixels(x, back, -(shift @ back))


def _zero(layer: nn.Module) -> nn.Module:
    for p in layer.parameters():
        nn.init.zeros_(p)
    return layer


def _pixels(x: Tensor, matrix: Tensor, shift: Tensor) -> Tensor:
    n, channels, height, width = x.shape
    return torch.addmm(shift, x.permute(0, 2, 3, 1).reshape(-1, channels), matrix).view(n, height, width, channels).permute(0, 3, 1, 2)


def _squeezed(x: Tensor) -> Tensor:
    n, channels, height, width = x.shape
    squares = x.permute(0, 2, 3, 1).reshape(n, height // 2, 2, width // 2, 2, channels)
    return squares.transpose(2, 3).reshape(n, height // 2, width // 2, 4 * channels).permute(0, 3, 1, 2)


def _spread(x: Tensor) -> Tensor:
    n, channels, height, width = x.shape
    squares = x.permute(0, 2, 3, 1).reshape(n, height, width, 2, 2, channels // 4)
    return squares.transpose(2, 3).reshape(n, 2 * height, 2 * width, channels // 4).permute(0, 3, 1, 2)
