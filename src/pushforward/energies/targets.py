"""Energies whose normaliser is known, to test training from an energy against.

Their one-dimensional integrals are sums over an even grid: of smooth functions that vanish at its ends, or are periodic, those converge
faster than any power of the spacing.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pushforward._checks import real, whole
from pushforward.errors import UserError
from pushforward.registry import export

POINTS = 1025  # of a grid, at least: more where the density is narrow
MOST = {"one": 2**22, "matrix": 2**11}  # points of a grid, and of one whose transfer operator is a matrix
TINY = 700.0  # exp(-energy) beyond a grid's ends is below exp(-700)


@export("energies.DoubleWell")
@dataclass(frozen=True)
class DoubleWell:
    """A double well in the first feature, of which the others are independent: modes at -1 and 1.

        E(x) = depth (x_1² - 1)² + |x_2 .. x_d|² / 2,    log Z = log int exp(-depth (u² - 1)²) du + (d - 1) / 2 log(2 pi)

    Args:
        features: d, at least 1.
        depth: height of the barrier between both wells, positive.

    Example:
        >>> round(DoubleWell(2).log_normaliser, 4)
        0.7375
    """

    features: int = 2
    depth: float = 5.0

    def __post_init__(self) -> None:
        whole("features", self.features, 1)
        real("depth", self.depth, 0.01)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one event."""
        return (self.features,)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the energies (n,) of x (n, features)."""
        return self.depth * (x[:, 0].square() - 1).square() + x[:, 1:].square().sum(1) / 2

    @property
    def log_normaliser(self) -> float:
        """Log Z, in nats; a UserError for a density too narrow to be summed."""
        u, spacing = _grid(_points("depth", self.depth, 8 * self.depth, _edge(self.depth)), _edge(self.depth))
        one = torch.logsumexp(-self.depth * (u.square() - 1).square(), 0).item() + math.log(spacing)
        return one + (self.features - 1) / 2 * math.log(2 * math.pi)


@export("energies.LatticeField")
@dataclass(frozen=True)
class LatticeField:
    """A ring of particles in double wells, neighbours joined by springs: the Boltzmann distribution of the phi^4 chain.

        E(x) = sum_i spring (x_(i+1) - x_i)² / 2 + depth (x_i² - 1)²,    x_(sites+1) = x_1,    Z = tr T^sites

    with T(a, b) = exp(-spring (a - b)² / 2 - depth ((a² - 1)² + (b² - 1)²) / 2), the transfer operator.

    Args:
        sites: number of particles, at least 2.
        spring: stiffness of the springs, not negative.
        depth: height of the barrier, positive.

    Example:
        >>> round(LatticeField(4).log_normaliser, 4)
        -0.6086

    Source: Parisi, Statistical field theory, 1988 (lattice phi^4); the transfer operator: Scalapino, Sears and Ferrell, 1972.
    """

    sites: int = 4
    spring: float = 1.0
    depth: float = 2.0

    def __post_init__(self) -> None:
        whole("sites", self.sites, 2)
        real("spring", self.spring, 0.0)
        real("depth", self.depth, 0.01)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one event."""
        return (self.sites,)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the energies (n,) of x (n, sites)."""
        springs = self.spring / 2 * (x.roll(-1, 1) - x).square()
        return (springs + self.depth * (x.square() - 1).square()).sum(1)

    @property
    def log_normaliser(self) -> float:
        """Log Z, in nats; a UserError for a density too narrow to be summed."""
        name = "spring" if self.spring > 4 * self.depth else "depth"
        points = _points(name, getattr(self, name), 2 * self.spring + 8 * self.depth, _edge(self.depth), "matrix")
        u, spacing = _grid(points, _edge(self.depth))
        own = -self.depth / 2 * (u.square() - 1).square()
        transfer = (own[:, None] + own - self.spring / 2 * (u[:, None] - u).square()).exp() * spacing
        return _log_trace(torch.linalg.eigvalsh(transfer), self.sites)


@export("energies.Rotors")
@dataclass(frozen=True)
class Rotors:
    """A ring of rotors that align with their neighbours (the XY chain): events are angles, in radians.

        E(x) = -coupling sum_i cos(x_(i+1) - x_i),    x_(sites+1) = x_1,    Z = sum_k (2 pi I_k(coupling))^sites

    with the modified Bessel functions I_k, k over all integers; Z is the integral over one period of each angle.

    Args:
        sites: number of rotors, at least 2.
        coupling: strength of the alignment, positive.

    Example:
        >>> round(Rotors(3).log_normaliser, 4)
        8.5374

    Source: Joyce, Classical Heisenberg model, 1967 (the chain's transfer operator); angles in flows: Rezende et al., 2002.02428.
    """

    sites: int = 3
    coupling: float = 2.0

    def __post_init__(self) -> None:
        whole("sites", self.sites, 2)
        real("coupling", self.coupling, 0.01)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one event."""
        return (self.sites,)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the energies (n,) of angles x (n, sites)."""
        return -self.coupling * torch.cos(x.roll(-1, 1) - x).sum(1)

    @property
    def log_normaliser(self) -> float:
        """Log Z, in nats; a UserError for a density too narrow to be summed."""
        points = _points("coupling", self.coupling, 2 * self.coupling, math.pi)
        angles = torch.arange(points, dtype=torch.float64) * (2 * math.pi / points)
        # Divided by exp(coupling), so that nothing overflows; the transform of one row of T are its eigenvalues 2 pi I_k.
        eigenvalues = torch.fft.fft((self.coupling * (angles.cos() - 1)).exp()).real * (2 * math.pi / points)
        return _log_trace(eigenvalues, self.sites) + self.sites * self.coupling


def _edge(depth: float) -> float:
    """Return where a double well of this depth is as high as `TINY`."""
    return math.sqrt(1 + math.sqrt(TINY / depth))


def _points(name: str, value: float, curvature: float, edge: float, kind: str = "one") -> int:
    """Return the number of points between -edge and edge by which a density of this curvature is summed to rounding.

    Their spacing is at most the density's deviation, 1 / sqrt(curvature): the sum is wrong by exp(-2 pi²) at most.

    Raises:
        UserError: there are too many.
    """
    points = max(POINTS, math.ceil(2 * edge * math.sqrt(curvature)) + 1)
    if points > MOST[kind]:
        raise UserError(f"{name} is {value:g}, so narrow a density that its normaliser takes a grid of {points} points; use a smaller one.")
    return points


def _grid(points: int, edge: float) -> tuple[Tensor, float]:
    return torch.linspace(-edge, edge, points, dtype=torch.float64), 2 * edge / (points - 1)


def _log_trace(eigenvalues: Tensor, power: int) -> float:
    """Return log sum_k eigenvalue_k^power, which neither overflows nor vanishes; the largest is positive."""
    largest = eigenvalues.amax().item()
    return power * math.log(largest) + math.log(((eigenvalues / largest) ** power).sum().item())
