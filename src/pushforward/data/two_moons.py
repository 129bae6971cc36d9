"""The two-moons task of simulation-based inference: a simulator whose posterior is known in closed form."""

import math

import torch
from torch import Generator, Tensor

from pushforward._checks import real, whole
from pushforward.data.dataset import Dataset
from pushforward.errors import ShapeError, UserError
from pushforward.registry import export

ANGLES = 4000  # nodes of the integral over the angle, a multiple of 4, so that none is at pi / 4
ROWS = 256  # of x, whose integrals are computed together
SHIFT = 0.25  # of the moon along the first coordinate of x
RAREST = 1e-3  # the smallest probability at which the posterior is still drawn by rejection


@export("data.TwoMoons", example=lambda: TwoMoons())
class TwoMoons:
    """Infer two parameters from two numbers: a posterior of two moons, for an inference network to be compared with.

        theta ~ U([-1, 1]^2),    x = u + (1/4, 0) + (-|s|, d),    s = (theta_1 + theta_2) / sqrt 2,    d = (theta_2 - theta_1) / sqrt 2,
        u = r (cos a, sin a),    a ~ U(-pi/2, pi/2),    r ~ N(radius, width^2)

    (s, d) is theta turned by 45 degrees, and |s| forgets its sign. So for given x every u leads to two parameters, with
    s = +-(1/4 + u_1 - x_1) and d = x_2 - u_2, both with the density of u, where they are in the square of the prior:

        p(theta | x) = p_u(x - (1/4, 0) + (|s|, -d)) / Z(x),    p_u(u) = N(sign(u_1) |u|; radius, width^2) / (pi |u|),
        Z(x) = 2 P(1/4 + u_1 - x_1 >= 0 and the parameters are in the square)

    Given a, the condition in Z is an interval of r, so that Z is an integral over a of differences of the normal distribution function. It
    is 2 where both moons are within the square.

    Shapes: theta and x (n, 2), densities (n,) in nats, in the dtype of theta. One x (2,) or (1, 2) serves all rows.

    Args:
        radius: mean radius of the moons, in units of theta.
        width: standard deviation of the radius; 0.01 is the task of the papers, and larger is easier.

    Raises:
        UserError: a radius or width that is not positive; draws of a posterior for x that no parameters of the prior lead to.
        ShapeError: theta or x does not have two columns.

    Example:
        >>> moons = TwoMoons()
        >>> theta, x = moons.draw(3, torch.Generator().manual_seed(0))
        >>> moons.log_posterior(theta, x) > moons.log_posterior(-theta.flip(1) + 0.3, x)
        tensor([True, True, True])
        >>> moons.sample_posterior(5, torch.zeros(2), torch.Generator().manual_seed(0)).shape
        torch.Size([5, 2])

    Source: Greenberg, Nonnenmacher and Macke, Automatic posterior transformation, 2019, arXiv 1905.07488, appendix (the simulator);
    Lueckmann et al., Benchmarking simulation-based inference, 2021, arXiv 2101.04653, task T.8 (its constants).
    Ours: the normalised density of the posterior.
    """

    def __init__(self, radius: float = 0.1, width: float = 0.01) -> None:
        self.radius, self.width = real("radius", radius), real("width", width)
        for name, value in (("radius", self.radius), ("width", self.width)):
            if not value > 0:
                raise UserError(f"{name} is {value}, but it must be positive; the task of the papers has radius=0.1, width=0.01.")

    def prior(self, n: int, generator: Generator | None = None) -> Tensor:
        """Return n parameters (n, 2) of the prior, uniform on [-1, 1]^2."""
        return 2 * torch.rand(whole("n", n, 0), 2, generator=generator) - 1

    def simulate(self, theta: Tensor, generator: Generator | None = None) -> Tensor:
        """Return one draw x (n, 2) for each row of parameters theta (n, 2)."""
        s, d = self._turned(theta)
        u = self._noise(len(s), generator).to(s)
        return torch.stack((u[:, 0] + SHIFT - s.abs(), u[:, 1] + d), 1)

    def draw(self, n: int, generator: Generator | None = None) -> tuple[Tensor, Tensor]:
        """Return n pairs of the joint distribution: theta (n, 2) and x (n, 2)."""
        theta = self.prior(n, generator)
        return theta, self.simulate(theta, generator)

    def dataset(self, n: int, generator: Generator | None = None) -> Dataset:
        """Return n pairs as a set to train on: parameters, with what was simulated as their condition."""
        return Dataset("two_moons", *self.draw(n, generator))

    def log_likelihood(self, theta: Tensor, x: Tensor) -> Tensor:
        """Return log p(x | theta) (n,) in nats."""
        s, d = self._turned(theta)
        x = _columns("x", x).to(s)
        u1, u2 = x[:, 0] - SHIFT + s.abs(), x[:, 1] - d
        r = torch.hypot(u1, u2)
        error = (torch.where(u1 < 0, -r, r) - self.radius) / self.width
        return -0.5 * error.square() - math.log(self.width * math.sqrt(2 * math.pi) * math.pi) - r.log()

    def log_posterior(self, theta: Tensor, x: Tensor) -> Tensor:
        """Return log p(theta | x) (n,) in nats, normalised; -inf outside the prior's square."""
        value = self.log_likelihood(theta, x) - torch.cat([self._log_mass(rows) for rows in _columns("x", x).split(ROWS)]).to(theta)
        return torch.where((theta.abs() <= 1).all(1), value, -math.inf)

    def sample_posterior(self, n: int, x: Tensor, generator: Generator | None = None) -> Tensor:
        """Return n exact draws (n, 2) of the posterior given one x (2,), by rejection of those outside the prior's square."""
        whole("n", n, 0)
        x = _columns("x", x)
        if len(x) != 1:
            raise ShapeError(f"x has {len(x)} rows, but the posterior is drawn for one; call it for each row, x[0], x[1], ...")
        mass = float(self._log_mass(x).exp()) / 2
        if not mass >= RAREST:
            raise UserError(f"x is {x[0].tolist()}, which the prior's parameters reach with probability {mass:.1g}; give a simulated x.")
        kept, missing = [torch.empty(0, 2)], n
        while missing > 0:
            u = self._noise(math.ceil(1.2 * missing / mass) + 10, generator)
            s, d = u[:, 0] + SHIFT - x[0, 0], x[0, 1] - u[:, 1]
            signed = torch.where(torch.rand(len(s), generator=generator) < 0.5, -s, s)
            theta = torch.stack((signed - d, signed + d), 1) / math.sqrt(2)
            kept.append(theta[(s >= 0) & (theta.abs() <= 1).all(1)][:missing])
            missing -= len(kept[-1])
        return torch.cat(kept)

    def _noise(self, n: int, generator: Generator | None) -> Tensor:
        r = self.radius + self.width * torch.randn(n, generator=generator)
        a = math.pi * (torch.rand(n, generator=generator) - 0.5)
        return torch.stack((r * a.cos(), r * a.sin()), 1)

    def _turned(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        theta = _columns("theta", theta)
        return (theta[:, 0] + theta[:, 1]) / math.sqrt(2), (theta[:, 1] - theta[:, 0]) / math.sqrt(2)

    def _log_mass(self, x: Tensor) -> Tensor:
        """Return log Z (n,) in float64: the square is |s| + |d| <= sqrt 2, which bounds r on both sides for each angle."""
        x = x.double()[:, :, None]
        a = math.pi * ((torch.arange(ANGLES, dtype=torch.float64, device=x.device) + 0.5) / ANGLES - 0.5)
        room = math.sqrt(2) - SHIFT + x[:, 0]
        low, high = (x[:, 0] - SHIFT) / a.cos(), torch.full_like(x[:, 0] + a, math.inf)
        for slope, bound in ((a.cos() - a.sin(), room - x[:, 1]), (a.cos() + a.sin(), room + x[:, 1])):
            end = bound / slope  # slope r <= bound
            low, high = torch.where(slope < 0, low.maximum(end), low), torch.where(slope > 0, high.minimum(end), high)
        cdf = [torch.special.ndtr((end - self.radius) / self.width) for end in (low, high)]
        return (2 * (cdf[1] - cdf[0]).clamp(min=0).mean(1)).log()


def _columns(name: str, value: Tensor) -> Tensor:
    """Return rows (n, 2); one pair (2,) is one row."""
    value = value[None] if value.ndim == 1 else value
    if value.ndim != 2 or value.shape[1] != 2:
        raise ShapeError(f"{name} has shape {tuple(value.shape)}, but two moons have two numbers a row, (n, 2).")
    return value
