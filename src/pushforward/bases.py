"""Base distributions, which models push forward onto data."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pushforward import _random
from pushforward._checks import event_shape, is_real, is_whole, shown, whole
from pushforward._precision import wide
from pushforward.errors import ConditionError, ShapeError, UserError
from pushforward.registry import export, namespace

namespace(__name__)


class BaseDistribution(nn.Module):
    """What the bases here share: the shape of an event, and a buffer that follows the model's device and dtype."""

    like: Tensor

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = event_shape(shape)
        self.register_buffer("like", torch.empty(0), persistent=False)


def _check_draw(n: int, generator: _random.Generators) -> None:
    whole("n", n, 0)
    _random.checked(generator, n)


def _check_events(z: Tensor, shape: tuple[int, ...]) -> None:
    if not isinstance(z, Tensor) or tuple(z.shape[1:]) != shape or z.ndim == 0:
        what = f"has shape {tuple(z.shape)}" if isinstance(z, Tensor) else f"is {shown(z)}"
        raise ShapeError(f"z {what}, but this base needs a tensor (n, {', '.join(map(str, shape))}), one event per row; reshape it.")


@export("bases.Gaussian", example=lambda: Gaussian((2,)))
class Gaussian(BaseDistribution):
    """Independent Gaussian noise N(0, std²) in every element of the event.

        log p(z) = -|z|² / (2 std²) - d log(std sqrt(2 pi))

    Args:
        shape: the event's shape.
        std: standard deviation, positive.

    Raises:
        UserError: std <= 0.

    Example:
        >>> Gaussian((2,)).log_prob(torch.zeros(1, 2))
        tensor([-1.8379])
    """

    def __init__(self, shape: Sequence[int], std: float = 1.0) -> None:
        super().__init__(shape)
        if not is_real(std) or not std > 0:
            raise UserError(f"std is {std}, but it must be positive; 1 is usual.")
        self.std = float(std)

    def sample(self, n: int, generator: _random.Generators = None) -> Tensor:
        """Return n draws (n, *shape), on the device and in the dtype of the model."""
        _check_draw(n, generator)
        noise = _random.normal((n, *self.shape), generator, self.like.device, self.like.dtype)
        return noise if self.std == 1 else noise * self.std

    def log_prob(self, z: Tensor) -> Tensor:
        """Return the log-density (n,) in nats, in float32 or wider, of z (n, *shape)."""
        _check_events(z, self.shape)
        scaled = z.to(wide(z)).flatten(1)
        if self.std != 1:
            scaled = scaled / self.std
        constant = -scaled.shape[1] * (math.log(2 * math.pi) / 2 + math.log(self.std))
        return torch.rsub(torch.linalg.vecdot(scaled, scaled), constant, alpha=0.5)

    def extra_repr(self) -> str:
        return f"{self.shape}, std={self.std:g}"


@export("bases.Torus", example=lambda: Torus((2,)))
class Torus(BaseDistribution):
    """Independent angles, uniform on [-pi, pi): the noise of flows of circular variables.

        log p(z) = -d log(2 pi), also of angles outside [-pi, pi), as they are the same points

    Args:
        shape: the event's shape.

    Example:
        >>> Torus((2,)).log_prob(torch.zeros(1, 2))
        tensor([-3.6758])

    Source: Rezende et al., Normalizing flows on tori and spheres, 2020, arXiv 2002.02428.
    """

    def sample(self, n: int, generator: _random.Generators = None) -> Tensor:
        """Return n draws (n, *shape), on the device and in the dtype of the model."""
        _check_draw(n, generator)
        u = _random.uniform((n, *self.shape), generator, self.like.device, wide(self.like))
        return ((2 * u - 1) * math.pi).to(self.like.dtype)

    def log_prob(self, z: Tensor) -> Tensor:
        """Return the log-density (n,) in nats, in float32 or wider, of z (n, *shape)."""
        _check_events(z, self.shape)
        return z.new_full((len(z),), -math.prod(self.shape) * math.log(2 * math.pi), dtype=wide(z))

    def extra_repr(self) -> str:
        return f"{self.shape}"


@export("bases.Logistic", example=lambda: Logistic((2,)))
class Logistic(BaseDistribution):
    """Independent logistic noise in every element of the event: heavier tails than a Gaussian's, NICE's prior for images.

        log p(z) = -sum log(1 + exp(z / scale)) + log(1 + exp(-z / scale)) + log scale

    Args:
        shape: the event's shape.
        scale: scale, positive; the standard deviation is pi / sqrt(3) times the scale.

    Example:
        >>> Logistic((2,)).log_prob(torch.zeros(1, 2))
        tensor([-2.7726])

    Source: Dinh, Krueger and Bengio, NICE, 2014, arXiv 1410.8516, section 3.4.
    """

    def __init__(self, shape: Sequence[int], scale: float = 1.0) -> None:
        super().__init__(shape)
        if not is_real(scale) or not scale > 0:
            raise UserError(f"scale is {scale}, but it must be positive; 1 is usual.")
        self.scale = float(scale)

    def sample(self, n: int, generator: _random.Generators = None) -> Tensor:
        """Return n draws (n, *shape), on the device and in the dtype of the model."""
        _check_draw(n, generator)
        # Drawn in float32 or wider and kept away from 0 and 1: a uniform bfloat16 number is too often 1, where the logit is infinite.
        dtype = wide(self.like)
        u = _random.uniform((n, *self.shape), generator, self.like.device, dtype)
        return torch.logit(u, torch.finfo(dtype).eps / 2).to(self.like.dtype) * self.scale

    def log_prob(self, z: Tensor) -> Tensor:
        """Return the log-density (n,) in nats, in float32 or wider, of z (n, *shape)."""
        _check_events(z, self.shape)
        dtype = wide(z)
        scaled = (z.to(dtype) / self.scale).flatten(1)
        return -(F.softplus(scaled) + F.softplus(-scaled)).sum(1) - scaled.shape[1] * math.log(self.scale)

    def extra_repr(self) -> str:
        return f"{self.shape}, scale={self.scale:g}"


@export("bases.Mixture", example=lambda: Mixture((2,), 3))
class Mixture(BaseDistribution):
    """A mixture of Gaussians with learned weights, means and scales: multimodal noise.

        log p(z) = log sum_k softmax(w)_k N(z; m_k, diag exp(2 s_k))

    Args:
        shape: the event's shape.
        components: number of Gaussians, at least 1.

    Example:
        >>> Mixture((2,), 4).sample(3).shape
        torch.Size([3, 2])

    Ours: the means are initialised from N(0, I), the scales as 1, the weights as equal.
    """

    def __init__(self, shape: Sequence[int], components: int) -> None:
        super().__init__(shape)
        if not is_whole(components) or components < 1:
            raise UserError(f"components is {shown(components)}, but a mixture has at least 1.")
        self.weights = nn.Parameter(torch.zeros(components))
        self.means = nn.Parameter(torch.randn(components, *shape))
        self.log_scales = nn.Parameter(torch.zeros(components, *shape))

    def sample(self, n: int, generator: _random.Generators = None) -> Tensor:
        """Return n draws (n, *shape); gradients reach means and scales."""
        _check_draw(n, generator)
        device, dtype = self.means.device, wide(self.means)
        u = _random.uniform((n, 1), generator, device, dtype)
        ends = self.weights.detach().to(dtype).softmax(0).cumsum(0)
        k = (u >= ends[:-1]).sum(1)
        noise = _random.normal((n, *self.shape), generator, device, self.means.dtype)
        return torch.addcmul(self.means[k], noise, self.log_scales[k].exp())

    def log_prob(self, z: Tensor) -> Tensor:
        """Return the log-density (n,) in nats, in float32 or wider, of z (n, *shape)."""
        _check_events(z, self.shape)
        dtype = wide(z)
        scaled = (z.to(dtype)[:, None] - self.means.to(dtype)) * (-self.log_scales.to(dtype)).exp()
        each = -0.5 * scaled.square().flatten(2).sum(2) - self.log_scales.to(dtype).flatten(1).sum(1)
        d = math.prod(self.shape)
        return torch.logsumexp(each + self.weights.to(dtype).log_softmax(0), 1) - d * math.log(2 * math.pi) / 2

    def extra_repr(self) -> str:
        return f"{self.shape}, components={len(self.weights)}"


@export("bases.ConditionalGaussian", example=lambda: ConditionalGaussian((2,), nn.Linear(3, 4)))
class ConditionalGaussian(BaseDistribution):
    """Gaussian noise whose mean and scale a network predicts from the condition: N(m(cond), diag exp(2 s(cond))), |s| < 5.

    Args:
        shape: the event's shape.
        net: called as net(cond); returns (n, 2 numbers): the means, then the unbounded log-scales.

    Raises:
        ConditionError: the condition is missing.

    Example:
        >>> base = ConditionalGaussian((2,), nn.Linear(3, 4))
        >>> base.sample(5, torch.randn(5, 3)).shape
        torch.Size([5, 2])
    """

    conditional = True  # `NormalizingFlow` then passes it the condition

    def __init__(self, shape: Sequence[int], net: nn.Module) -> None:
        super().__init__(shape)
        self.net = net

    def sample(self, n: int, cond: Tensor | None = None, generator: _random.Generators = None) -> Tensor:
        """Return n draws (n, *shape), one per row of cond; gradients reach the network."""
        _check_draw(n, generator)
        mean, s = self._moments(cond)
        return torch.addcmul(mean, _random.normal((n, *self.shape), generator, mean.device, mean.dtype), s.exp())

    def log_prob(self, z: Tensor, cond: Tensor | None = None) -> Tensor:
        """Return the log-density (n,) in nats, in float32 or wider, of z (n, *shape) given cond."""
        _check_events(z, self.shape)
        dtype = wide(z)
        mean, s = (one.to(dtype).flatten(1) for one in self._moments(cond))
        scaled = (z.to(dtype).flatten(1) - mean) * (-s).exp()
        return -0.5 * scaled.square().sum(1) - s.sum(1) - scaled.shape[1] * math.log(2 * math.pi) / 2

    def _moments(self, cond: Tensor | None) -> tuple[Tensor, Tensor]:
        if cond is None:
            raise ConditionError("cond is None, but this base predicts its mean and scale from the condition; give one per row.")
        out, needed = self.net(cond), (len(cond), 2 * math.prod(self.shape))
        if not isinstance(out, Tensor) or out.ndim < 2 or (len(out), out.shape[1:].numel()) != needed:
            what = f"shape {tuple(out.shape)}" if isinstance(out, Tensor) else shown(out)
            raise ShapeError(f"the network of the base returned {what}, but means and log-scales of {len(cond)} rows need {needed}.")
        mean, raw = out.chunk(2, dim=1)
        return mean.reshape(-1, *self.shape), (5 * torch.tanh(raw / 5)).reshape(-1, *self.shape)


@export("bases.Samples", example=lambda: Samples(torch.randn(5, 2)))
class Samples(BaseDistribution):
    """Draws from the rows of a data set, with replacement: data instead of noise, so that a model maps data to data.

    It has no density, so a model with this base has none either; features that need Gaussian noise raise an error that names the base.

    Args:
        x: the rows (N, *shape), in the units of the model.

    Example:
        >>> Samples(torch.randn(5, 2)).sample(3).shape
        torch.Size([3, 2])
    """

    x: Tensor

    def __init__(self, x: Tensor) -> None:
        if not isinstance(x, Tensor):
            raise UserError(f"x is {shown(x)}, but rows to draw from are a tensor (N, *shape); use torch.as_tensor(x).")
        if x.ndim < 2 or len(x) == 0:
            raise UserError(f"x has shape {tuple(x.shape)}, but rows to draw from need (N, *shape) with N at least 1.")
        super().__init__(x.shape[1:])
        self.register_buffer("x", x.detach().clone(), persistent=False)

    @classmethod
    def of(cls, name: str, shape: Sequence[int]) -> "Samples":
        """Return the base of a data set's training split, whose events must have this shape."""
        from pushforward.data.load import load  # imported here, as data depends on bases: needed only for a base by name

        rows = load(name, "train")
        if rows.shape != tuple(shape):
            raise UserError(
                f"source is {name!r}, whose events have shape {rows.shape}, but the data's have {tuple(shape)}; make them agree."
            )
        return cls(rows.x.to(torch.get_default_dtype()))

    def sample(self, n: int, generator: _random.Generators = None) -> Tensor:
        """Return n of the rows (n, *shape)."""
        _check_draw(n, generator)
        u = _random.uniform((n,), generator, self.x.device, torch.float32)
        return self.x[(u * len(self.x)).long().clamp_max(len(self.x) - 1)]

    def extra_repr(self) -> str:
        return f"{len(self.x)} of {self.shape}"
