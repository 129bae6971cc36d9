"""The floors of vector flows: optimised hand-written eager PyTorch of the same mathematics for exactly one case.

All use a features-first layout, columns (features, n), and only the parameters of one case, without conditions, units or checks.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _Net(nn.Module):
    """Two hidden layers of relu, from columns to columns."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.one, self.two, self.out = nn.Linear(inputs, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, outputs)

    def forward(self, a: Tensor) -> Tensor:
        h = torch.relu_(torch.addmm(self.one.bias[:, None], self.one.weight, a))
        h = torch.relu_(torch.addmm(self.two.bias[:, None], self.two.weight, h))
        return torch.addmm(self.out.bias[:, None], self.out.weight, h)


def _scale(raw: Tensor) -> Tensor:
    """Return 2 tanh(raw / 2)."""
    return torch.rsub(torch.sigmoid(-raw), 2, alpha=4)


class _Coupled(nn.Module):
    """Couplings that transform the two halves alternately; the halves are only merged at the end."""

    outputs: int

    def __init__(self, features: int, layers: int, hidden: int) -> None:
        super().__init__()
        self.features = features
        self.nets = nn.ModuleList(_Net(features // 2, hidden, self.outputs * features // 2) for _ in range(layers))

    def changed(self, b: Tensor, raw: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def log_prob(self, x: Tensor) -> Tensor:
        a, b = x.T.contiguous().chunk(2)
        slopes = None
        for net in self.nets:
            b, log_slope = self.changed(b, net(a), False)
            slopes = log_slope if slopes is None else slopes + log_slope
            a, b = b, a
        return torch.sub(slopes, 0.5 * (a * a + b * b)).sum(0) - 0.5 * self.features * math.log(2 * math.pi)

    def sample(self, n: int) -> Tensor:
        a, b = torch.randn(self.features, n).chunk(2)
        for net in reversed(self.nets):
            a, b = b, a
            b, _ = self.changed(b, net(a), True)
        return torch.cat((a, b)).T.contiguous()


class RealNVPFloor(_Coupled):
    outputs = 2

    def changed(self, b: Tensor, raw: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        scale, shift = raw.view(2, *b.shape)
        s = _scale(scale)
        return ((b - shift) * (-s).exp() if inverse else torch.addcmul(shift, b, s.exp())), s


class SplineFloor(_Coupled):
    """Rational-quadratic splines of 8 bins on [-5, 5], Durkan et al. (1906.04032), equations 4 to 8."""

    outputs, bins, bound, least = 23, 8, 5.0, 1e-3

    def __init__(self, features: int, layers: int, hidden: int) -> None:
        super().__init__(features, layers, hidden)
        share = self.least / (1 - self.least * self.bins)
        counts = torch.arange(self.bins + 1.0)[:, None]
        self.sums = torch.ones(self.bins + 1, self.bins).tril(-1) + counts * share
        self.one = math.log(math.expm1(1 - self.least))

    def changed(self, b: Tensor, raw: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        bins, bound = self.bins, self.bound
        sizes, slopes = raw.view(3 * bins - 1, *b.shape).split((2 * bins, bins - 1))
        sizes = sizes.view(2, bins, -1)
        ends = (self.sums @ (sizes - sizes.detach().amax(1, keepdim=True)).exp()).view(2, bins + 1, *b.shape)
        unit = 2 * bound / ends[:, -1]
        x = b.clamp(-bound, bound)
        side = int(inverse)
        k = ((x + bound) / unit[side] >= ends[side, 1:-1]).sum(0)
        both = torch.stack((k, k + 1))
        places = ends.gather(1, both.expand(2, 2, *b.shape))
        end = slopes.new_full((1, *b.shape), self.one)
        d_0, d_1 = F.softplus(torch.cat((end, slopes + self.one, end)).gather(0, both)) + self.least
        (x_0, y_0), (w, h) = places[:, 0] * unit - bound, (places[:, 1] - places[:, 0]) * unit
        s = h / w
        if inverse:
            eta = ((x - y_0) / h).clamp(0, 1)
            rest = 1 - eta
            g = d_0 * rest - d_1 * eta
            part = 2 * s * torch.where(g >= 0, eta, rest)
            theta = part / (g.abs() + part + torch.addcmul(g * g, 4 * s * s, eta * rest).sqrt())
            theta = torch.where(g >= 0, theta, 1 - theta)
        else:
            theta = ((x - x_0) / w).clamp(0, 1)
        rest = 1 - theta
        q = theta * rest
        scale = s / torch.addcmul(s, d_0 + d_1 - 2 * s, q)
        slope = scale * scale * (d_1 * theta * theta + 2 * s * q + d_0 * rest * rest)
        if inverse:
            return torch.addcmul(x_0, w, theta) + (b - x) / slope, -slope.log()
        return torch.addcmul(y_0 + w * scale * torch.addcmul(d_0 * q, s, theta * theta), b - x, slope), slope.log()


class MAFFloor(nn.Module):
    """Masked affine autoregressive layers, every other one over the features in reverse; masks are staircases, because units are sorted."""

    def __init__(self, features: int, layers: int, hidden: int) -> None:
        super().__init__()
        self.features = features
        self.nets = nn.ModuleList(_Net(features, hidden, 2 * features) for _ in range(layers))
        degrees = (1 + torch.arange(hidden) * (features - 1) // (hidden - 1)).clamp(max=features - 1)
        inputs, outputs = torch.arange(1, features + 1), torch.arange(features).repeat(2)
        pairs = ((degrees, inputs), (degrees, degrees), (outputs, degrees))
        self.masks = [(reads[:, None] >= below).float() for reads, below in pairs]
        self.known = [int((degrees <= k).sum()) for k in range(features)]  # hidden units determined by the first k features
        self.masked: list[list[Tensor]] | None = None

    def weights(self) -> list[list[Tensor]]:
        """Return the masked weights of all layers, cached when no gradient is needed: parameters are then constant in this benchmark."""
        if torch.is_grad_enabled() or self.masked is None:
            layers = [(net.one, net.two, net.out) for net in self.nets]
            found = [[one.weight * mask for one, mask in zip(layer, self.masks, strict=True)] for layer in layers]
            if torch.is_grad_enabled():
                return found
            self.masked = found
        return self.masked

    def log_prob(self, x: Tensor) -> Tensor:
        x = x.T.contiguous()
        slopes = None
        for net, (one, two, out) in zip(self.nets, self.weights(), strict=True):
            h = torch.relu_(torch.addmm(net.one.bias[:, None], one, x))
            h = torch.relu_(torch.addmm(net.two.bias[:, None], two, h))
            raw, shift = torch.addmm(net.out.bias[:, None], out, h).chunk(2)
            s = _scale(raw)
            x = torch.addcmul(shift, x, s.exp()).flip(0)
            slopes = s if slopes is None else slopes + s.flip(0)
        return torch.sub(slopes, 0.5 * x * x).sum(0) - 0.5 * self.features * math.log(2 * math.pi)

    def sample(self, n: int) -> Tensor:
        z = torch.randn(self.features, n)
        one, two = (torch.empty(len(self.masks[1]), n) for _ in range(2))
        for net in reversed(self.nets):
            z, x = z.flip(0), torch.empty_like(z)
            pairs = net.out.weight.view(2, self.features, -1).transpose(0, 1).contiguous()
            biases = net.out.bias.view(2, self.features).T[..., None].contiguous()
            done = 0
            for k in range(self.features):
                now = self.known[k]
                if now > done:  # the units determined by feature k - 1
                    torch.addmm(net.one.bias[done:now, None], net.one.weight[done:now, :k], x[:k], out=one[done:now]).relu_()
                    torch.addmm(net.two.bias[done:now, None], net.two.weight[done:now, :now], one[:now], out=two[done:now]).relu_()
                    done = now
                raw, shift = torch.addmm(biases[k], pairs[k, :, :now], two[:now])
                torch.mul(z[k] - shift, _scale(raw).neg_().exp_(), out=x[k])
            z = x
        return z.T.contiguous()
