"""Five standard densities in the plane: moons, eight Gaussians, a checkerboard, spirals and a pinwheel.

Each is a sampler, `draw(n, generator) -> (x, labels)`, and a name for `data.load`. Train, validation and test are drawn
independently: the generator is seeded by (seed, split), so that a split does not depend on the size of another.
"""

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from pushforward._checks import is_whole, real, shown, whole
from pushforward.data.dataset import Dataset
from pushforward.data.splits import SPLITS, check_split
from pushforward.errors import UserError
from pushforward.registry import export

Draw = Callable[[int, Generator], tuple[Tensor, Tensor | None]]
SIZES = {"train": 10_000, "validation": 2_000, "test": 2_000}


def drawn(name: str, draw: Draw, split: str, n: int | None, seed: int, classes: int | None = None) -> Dataset:
    """Return n new examples of a sampler as one split of a data set.

    Args:
        name: name of the set.
        draw: sampler from (n, generator) to x (n, features) and labels (n,), or None for labels.
        split: "train", "validation" or "test".
        n: number of examples, by default 10,000 for train and 2,000 for the others.
        seed: seed of the draws; each split has its own stream.
        classes: number of classes; None for a set without labels.
    """
    check_split(split)
    count = SIZES[split] if n is None else n
    whole("seed", seed, 0, 2**32 - 1)
    if not is_whole(count) or count < 1:
        raise UserError(f"n is {shown(n)}, but a set needs at least 1 example; try n=1000.")
    generator = torch.Generator().manual_seed(len(SPLITS) * seed + SPLITS.index(split))
    x, labels = draw(count, generator)
    return Dataset(name, x, labels, classes=classes)


@export("data.moons", example=lambda: moons(n=16), loader=True)
def moons(split: str = "train", *, n: int | None = None, seed: int = 0, noise: float = 0.05) -> Dataset:
    """Two interleaved half circles in the plane, each a class.

        x = (cos a, sin a)  or  (1 - cos a, 1/2 - sin a),    a uniform in (0, pi),    plus N(0, noise^2)

    Args:
        split: "train", "validation" or "test", independent draws.
        n: number of examples, by default 10,000 for train and 2,000 for the others.
        seed: seed of the draws.
        noise: standard deviation of the Gaussian noise, in units of the radius.

    Returns:
        The set with x (n, 2) and labels (n,): 0 for the upper moon, 1 for the lower.

    Raises:
        UserError: `split` is not one of the three, n < 1, or noise < 0.

    Example:
        >>> from pushforward import data
        >>> data.moons(n=100)
        Dataset('moons', 100 examples, shape (2,), 2 classes)

    Source: the curves of sklearn.datasets.make_moons; there the angles are equidistant, here they are random.
    """
    real("noise", noise, 0)

    def draw(count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        labels = torch.randint(2, (count,), generator=generator)
        angle = math.pi * torch.rand(count, generator=generator)
        sign = 1 - 2.0 * labels
        curve = torch.stack((labels + sign * angle.cos(), 0.5 * labels + sign * angle.sin()), dim=1)
        return curve + noise * torch.randn(count, 2, generator=generator), labels

    return drawn("moons", draw, split, n, seed, classes=2)


@export("data.eight_gaussians", example=lambda: eight_gaussians(n=16), loader=True)
def eight_gaussians(split: str = "train", *, n: int | None = None, seed: int = 0) -> Dataset:
    """Eight Gaussians on a circle in the plane, each a class.

        x = 2 sqrt(2) (cos a, sin a) + N(0, 1/8),    a = k pi / 4,    k = 0 .. 7 the class

    Args:
        split: "train", "validation" or "test", independent draws.
        n: number of examples, by default 10,000 for train and 2,000 for the others.
        seed: seed of the draws.

    Returns:
        The set with x (n, 2) and labels (n,): which Gaussian, anticlockwise from the right.

    Raises:
        UserError: `split` is not one of the three, or n < 1.

    Example:
        >>> from pushforward import data
        >>> data.eight_gaussians(n=100)
        Dataset('eight_gaussians', 100 examples, shape (2,), 8 classes)

    Source: the sampler of FFJORD, Grathwohl et al., 2018, arXiv 1810.01367 (radius 4, standard deviation 0.5, over sqrt(2)).
    """

    def draw(count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        labels = torch.randint(8, (count,), generator=generator)
        angle = labels * (math.pi / 4)
        centre = 4 * torch.stack((angle.cos(), angle.sin()), dim=1)
        return (centre + 0.5 * torch.randn(count, 2, generator=generator)) / math.sqrt(2), labels

    return drawn("eight_gaussians", draw, split, n, seed, classes=8)


@export("data.checkerboard", example=lambda: checkerboard(n=16), loader=True)
def checkerboard(split: str = "train", *, n: int | None = None, seed: int = 0) -> Dataset:
    """The uniform density on the dark fields of a 4 by 4 board in the plane, without labels.

        p(x) = 1/32 where floor(x_1 / 2) + floor(x_2 / 2) is even and |x_1|, |x_2| < 4, else 0

    Its entropy is known: log 32 = 3.4657 nats, the lowest cross-entropy a model can reach.

    Args:
        split: "train", "validation" or "test", independent draws.
        n: number of examples, by default 10,000 for train and 2,000 for the others.
        seed: seed of the draws.

    Returns:
        The set with x (n, 2) in [-4, 4].

    Raises:
        UserError: `split` is not one of the three, or n < 1.

    Example:
        >>> from pushforward import data
        >>> data.checkerboard(n=100)
        Dataset('checkerboard', 100 examples, shape (2,))

    Source: the board of FFJORD, Grathwohl et al., 2018, arXiv 1810.01367.
    """

    def draw(count: int, generator: Generator) -> tuple[Tensor, None]:
        row = torch.randint(4, (count,), generator=generator)
        column = 2 * torch.randint(2, (count,), generator=generator) + row % 2
        corner = 2.0 * torch.stack((column, row), dim=1) - 4
        return corner + 2 * torch.rand(count, 2, generator=generator), None

    return drawn("checkerboard", draw, split, n, seed)


@export("data.spirals", example=lambda: spirals(n=16), loader=True)
def spirals(split: str = "train", *, n: int | None = None, seed: int = 0, noise: float = 0.1) -> Dataset:
    """Two interleaved spiral arms in the plane, each a class.

        x = +-(-a cos a + u_1, a sin a + u_2) / 3 + N(0, noise^2),    a = 3 pi sqrt(u_0),    u_1, u_2 uniform in (0, 1/2)

    Args:
        split: "train", "validation" or "test", independent draws.
        n: number of examples, by default 10,000 for train and 2,000 for the others.
        seed: seed of the draws.
        noise: standard deviation of the Gaussian noise; the arms reach to a radius of about 3.3.

    Returns:
        The set with x (n, 2) and labels (n,): 0 for the sign +, 1 for the sign -.

    Raises:
        UserError: `split` is not one of the three, n < 1, or noise < 0.

    Example:
        >>> from pushforward import data
        >>> data.spirals(n=100)
        Dataset('spirals', 100 examples, shape (2,), 2 classes)

    Source: the two spirals of FFJORD, Grathwohl et al., 2018, arXiv 1810.01367.
    """
    real("noise", noise, 0)

    def draw(count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        labels = torch.randint(2, (count,), generator=generator)
        angle = 3 * math.pi * torch.rand(count, generator=generator).sqrt()
        arm = torch.stack((-angle * angle.cos(), angle * angle.sin()), dim=1) + torch.rand(count, 2, generator=generator) / 2
        sign = 1 - 2.0 * labels[:, None]
        return sign * arm / 3 + noise * torch.randn(count, 2, generator=generator), labels

    return drawn("spirals", draw, split, n, seed, classes=2)


@export("data.pinwheel", example=lambda: pinwheel(n=16), loader=True)
def pinwheel(split: str = "train", *, n: int | None = None, seed: int = 0) -> Dataset:
    """Five curved blades around the origin of the plane, each a class.

        x = 2 R(a) (1 + 0.3 g_1, 0.1 g_2),    a = 2 pi k / 5 + exp(1 + 0.3 g_1) / 4,    g ~ N(0, I),    k = 0 .. 4 the class

    Args:
        split: "train", "validation" or "test", independent draws.
        n: number of examples, by default 10,000 for train and 2,000 for the others.
        seed: seed of the draws.

    Returns:
        The set with x (n, 2) and labels (n,): which blade, anticlockwise. R(a) is the rotation by the angle a.

    Raises:
        UserError: `split` is not one of the three, or n < 1.

    Example:
        >>> from pushforward import data
        >>> data.pinwheel(n=100)
        Dataset('pinwheel', 100 examples, shape (2,), 5 classes)

    Source: Johnson et al., Composing graphical models with neural networks, 2016, arXiv 1603.06277; scaled as in FFJORD.
    """

    def draw(count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        labels = torch.randint(5, (count,), generator=generator)
        radial, tangential = torch.randn(2, count, generator=generator) * torch.tensor([[0.3], [0.1]])
        radius = 1 + radial
        angle = labels * (2 * math.pi / 5) + radius.exp() / 4
        first = radius * angle.cos() - tangential * angle.sin()
        second = radius * angle.sin() + tangential * angle.cos()
        return 2 * torch.stack((first, second), dim=1), labels

    return drawn("pinwheel", draw, split, n, seed, classes=5)
