"""The laws of paths."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from pushforward.data.mixture import three_gaussians
from pushforward.families.path_model import PathModel
from pushforward.functional.prediction import Kind
from pushforward.paths.path import Path
from pushforward.paths.prediction import Prediction
from pushforward.registry import export
from pushforward.samplers.dopri5 import Dopri5
from pushforward.testing.laws import agree, demand


@export("testing.check_path")
def check_path(path: Path) -> None:
    """Check the laws of a path.

    alpha and sigma are finite and not negative on the interval, the sum of their squares is 1 if and only if the path states that it is
    variance preserving, their derivatives are autograd's, log-SNR falls and `time` is its inverse, predictions convert into each other and
    back and give finite velocities, the velocity carries the marginals of a Gaussian mixture (the continuity equation), and the mixture's
    exact network has its density under every prediction.

    Args:
        path: what is checked.

    Returns:
        Nothing.

    Raises:
        AssertionError: a law does not hold; the law is named.

    Example:
        >>> check_path(pf.paths.Cosine())
    """
    for law in LAWS:
        law(path)
    time_is_the_inverse_of_log_snr(path, times(path, 99, inside=0.01))
    for kind in path.kinds:
        for of_kind in (*OF_A_KIND, density_of_the_exact_network):
            of_kind(path, kind)
        for other in path.kinds:
            for conversion in CONVERSIONS:
                conversion(path, kind, other)


def times(path: Path, count: int, kind: Kind = "velocity", inside: float = 0.0) -> Tensor:
    """Return equally spaced times (count,) of the interval, without a share of it at both ends."""
    low, high = path.interval_for(kind)
    margin = inside * (high - low)
    return torch.linspace(low + margin, high - margin, count, dtype=torch.float64)


def derivatives_of_autograd(path: Path) -> None:
    """Demand that alpha_dot and sigma_dot are the derivatives of alpha and sigma."""
    t = torch.linspace(*path.interval, 101, dtype=torch.float64, requires_grad=True)
    for name in ("alpha", "sigma"):
        value = getattr(path, name)(t)
        derivative = torch.autograd.grad(value.sum(), t)[0] if value.requires_grad else torch.zeros_like(t)  # alpha = 1 forgets t
        agree(f"{name}_dot is the derivative of {name}", getattr(path, f"{name}_dot")(t).detach(), derivative, 1e-9)


def log_snr_falls(path: Path) -> None:
    """Demand a log-SNR that falls everywhere."""
    t = torch.linspace(*path.interval, 1001, dtype=torch.float64)[1:-1]
    demand("log-SNR falls", bool((path.log_snr(t).diff() < 0).all()), "one that rises")


def finite_and_not_negative(path: Path) -> None:
    """Demand finite alpha and sigma that are not negative, with finite derivatives."""
    t = torch.linspace(*path.interval, 1001, dtype=torch.float64)
    values = torch.stack([path.alpha(t), path.sigma(t), path.alpha_dot(t).abs(), path.sigma_dot(t).abs()])
    demand("alpha, sigma and their derivatives are finite", bool(values.isfinite().all()), "infinity or NaN on the interval")
    demand("alpha and sigma are not negative", bool((values >= 0).all()), "a negative one")


def variance_is_preserved_as_stated(path: Path) -> None:
    """Demand alpha² + sigma² = 1 where the path states it, and there only, and the prediction v there."""
    t = torch.linspace(*path.interval, 101, dtype=torch.float64)
    off = float((path.alpha(t) ** 2 + path.sigma(t) ** 2 - 1).abs().max())
    demand(
        "alpha² + sigma² is 1 if and only if variance_preserving is True", path.variance_preserving == (off <= 1e-9), f"1 up to {off:.2g}"
    )
    demand("v is a prediction of variance preserving paths", path.variance_preserving == ("v" in path.kinds), path.kinds)


def mix_is_alpha_data_plus_sigma_noise(path: Path) -> None:
    """Demand x_t = alpha_t data + sigma_t noise, with a time for each row."""
    t = times(path, 2, inside=0.2)
    data, noise = _normal(2, 1, 2, 2), _normal(2, 1, 2, 2, seed=1)
    by_hand = torch.stack([path.alpha(t[k]) * data[k] + path.sigma(t[k]) * noise[k] for k in range(2)])
    agree("mix is alpha data + sigma noise", path.mix(data, noise, t), by_hand, 1e-12)


def velocity_carries_the_marginals(path: Path) -> None:
    """Demand d log p_t / dt = -div v - v . score, on a mixture whose marginals are written out so that autograd sees t."""
    truth = three_gaussians(torch.float64)
    net, x = truth.net(path, "velocity"), torch.tensor([0.3, -0.4], dtype=torch.float64)

    def log_prob(t: Tensor, x: Tensor) -> Tensor:
        alpha, sigma = path.alpha(t), path.sigma(t)
        variance = (alpha * truth.stds) ** 2 + sigma**2
        squares = (x - alpha * truth.means).square().sum(1)
        return torch.logsumexp(truth.weights.log() - squares / (2 * variance) - (2 * math.pi * variance).log(), 0)

    for t in times(path, 3, inside=0.1):
        velocity = net(x[None], t[None])[0]
        divergence = torch.func.jacrev(lambda x, t=t: net(x[None], t[None])[0])(x).trace()
        slope, score = torch.func.grad(log_prob, (0, 1))(t, x)
        agree("the velocity carries the marginals", slope, -divergence - velocity @ score, 1e-9)


def time_is_the_inverse_of_log_snr(path: Path, t: Tensor) -> None:
    """Demand time(log_snr(t)) = t, for times away from the ends: there a log-SNR is known to 1e-16, and its slope is at least 1."""
    agree("time is the inverse of log_snr", path.time(path.log_snr(t)), t, 1e-12)


def finite_velocity(path: Path, kind: Kind) -> None:
    """Demand a finite velocity of a prediction on its interval."""
    one = torch.ones(101, 1, dtype=torch.float64)
    found = Prediction(path, kind, one, one, times(path, 101, kind)).velocity
    demand(f"a {kind} gives a finite velocity", bool(found.isfinite().all()), "infinity or NaN on the interval")


def density_of_the_exact_network(path: Path, kind: Kind) -> None:
    """Demand the mixture's density of the model of its exact network."""
    truth = three_gaussians(torch.float64)
    x = truth.sample(4, generator=torch.Generator().manual_seed(0))
    ends = torch.tensor(path.interval_for(kind), dtype=torch.float64)
    alpha, sigma = path.alpha(ends).tolist(), path.sigma(ends).tolist()
    base, data = truth.marginal(alpha[1], sigma[1]), truth.marginal(alpha[0], sigma[0])
    model = PathModel(truth.net(path, kind), truth.shape, path, kind, base=base, sampler=Dopri5(1e-6, 1e-6)).double()
    with torch.no_grad():
        agree(f"the exact {kind} has the mixture's density", model.log_prob(x), data.log_prob(x), 1e-3)


def conversions_round_trip(path: Path, source: Kind, target: Kind) -> None:
    """Demand that a prediction converted into another and back is what it was.

    At times where one of alpha and sigma is less than a hundredth of the other, conditioning, not the formula, decides.
    """
    t = times(path, 101)
    alpha, sigma = path.alpha(t).abs(), path.sigma(t).abs()
    t = t[torch.minimum(alpha, sigma) >= 0.01 * torch.maximum(alpha, sigma)]
    demand("alpha and sigma are of similar size at some times", len(t) > 0, f"on the interval {path.interval_for(source)} they are not")
    x, value = (torch.tensor([row], dtype=torch.float64).expand(len(t), 2) for row in ([0.3, -1.2], [0.7, 2.0]))
    there = Prediction(path, source, value, x, t).to(target)
    agree(f"a {source} converted into the {target} and back is the same", Prediction(path, target, there, x, t).to(source), value, 1e-9)


def targets_convert(path: Path, source: Kind, target: Kind) -> None:
    """Demand that the target of one prediction converts into that of another."""
    t, data, noise = times(path, 9)[1:-1], _normal(7, 3), _normal(7, 3, seed=1)
    x = path.mix(data, noise, t)
    converted = Prediction(path, source, path.target(source, data, noise, t), x, t).to(target)
    agree(f"a {source} converts into the {target}", converted, path.target(target, data, noise, t), 1e-8)


LAWS: tuple[Callable[[Path], None], ...] = (
    finite_and_not_negative,
    variance_is_preserved_as_stated,
    derivatives_of_autograd,
    log_snr_falls,
    mix_is_alpha_data_plus_sigma_noise,
    velocity_carries_the_marginals,
)
OF_A_KIND: tuple[Callable[[Path, Kind], None], ...] = (finite_velocity,)
CONVERSIONS: tuple[Callable[[Path, Kind, Kind], None], ...] = (conversions_round_trip, targets_convert)


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
