"""Energies whose normaliser is known, to test training from an energy against.

Their one-dimensional integrals are sums over an even grid: of smooth functions that vanish at its ends, or are periodic, those converge
faster than any power of the spacing.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pushforward._checks import real, whole
from pushforward.registry import export

EDGE, POINTS = 6.0, 1025  # exp(-energy) of a field of this size is below 1e-300


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
        """Log Z, in nats."""
        u, spacing = _grid()
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
        """Log Z, in nats."""
        u, spacing = _grid()
        own = -self.depth / 2 * (u.square() - 1).square()
        transfer = (own[:, None] + own - self.spring / 2 * (u[:, None] - u).square()).exp() * spacing
        return math.log(torch.linalg.matrix_power(transfer, self.sites).trace().item())


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
        """Log Z, in nats."""
        angles = torch.arange(POINTS, dtype=torch.float64) * (2 * math.pi / POINTS)
        # Divided by exp(coupling), so that nothing overflows; the transform of one row of T are its eigenvalues 2 pi I_k.
        eigenvalues = torch.fft.fft((self.coupling * (angles.cos() - 1)).exp()).real * (2 * math.pi / POINTS)
        return math.log((eigenvalues**self.sites).sum().item()) + self.sites * self.coupling


def _grid() -> tuple[Tensor, float]:
    return torch.linspace(-EDGE, EDGE, POINTS, dtype=torch.float64), 2 * EDGE / (POINTS - 1)
