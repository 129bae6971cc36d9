"""The laws of paths."""

import torch

from pushforward.data.mixture import three_gaussians
from pushforward.families.path_model import PathModel
from pushforward.paths.path import Path
from pushforward.paths.prediction import Prediction
from pushforward.registry import export
from pushforward.samplers.dopri5 import Dopri5
from pushforward.testing.laws import agree, demand


@export("testing.check_path")
def check_path(path: Path) -> None:
    """Check the laws of a path.

    alpha and sigma are finite and not negative on the interval, the sum of their squares is 1 if the path states that it is variance
    preserving, their derivatives are autograd's, log-SNR falls and `time` is its inverse, predictions convert into each other and back, and
    the exact network of a Gaussian mixture has the mixture's density under every prediction.

    Args:
        path: what is checked.

    Returns:
        Nothing.

    Raises:
        AssertionError: a law does not hold; the law is named.

    Example:
        >>> check_path(pf.paths.Cosine())
    """
    low, high = path.interval
    t = torch.linspace(low, high, 101, dtype=torch.float64)
    values = torch.stack([path.alpha(t), path.sigma(t), path.alpha_dot(t).abs(), path.sigma_dot(t).abs()])
    demand("alpha, sigma and their derivatives are finite", bool(values.isfinite().all()), "infinity or NaN on the interval")
    demand("alpha and sigma are not negative", bool((values >= 0).all()), "a negative one")
    if path.variance_preserving:
        agree("alpha² + sigma² is 1", values[0] ** 2 + values[1] ** 2, torch.ones_like(t), 1e-9)
    for name in ("alpha", "sigma"):
        at = t.clone().requires_grad_()
        value = getattr(path, name)(at)
        derivative = torch.autograd.grad(value.sum(), at)[0] if value.requires_grad else torch.zeros_like(at)
        agree(f"{name}_dot is the derivative of {name}", getattr(path, f"{name}_dot")(t), derivative, 1e-9)
    inside = t[2:-2]
    log_snr = path.log_snr(inside)
    demand("log-SNR falls", bool((log_snr.diff() < 0).all()), "one that rises")
    agree("time is the inverse of log_snr", path.time(log_snr), inside, 1e-9)
    _check_conversions(path)
    _check_density(path)


def _check_conversions(path: Path) -> None:
    low, high = path.interval
    t = torch.linspace(low, high, 9, dtype=torch.float64)[1:-1]
    generator = torch.Generator().manual_seed(0)
    data, noise = (torch.randn(len(t), 3, dtype=torch.float64, generator=generator) for _ in range(2))
    x = path.mix(data, noise, t)
    for source in path.kinds:
        for target in path.kinds:
            converted = Prediction(path, source, path.target(source, data, noise, t), x, t).to(target)
            agree(f"a {source} converts into the {target}", converted, path.target(target, data, noise, t), 1e-8)


def _check_density(path: Path) -> None:
    truth = three_gaussians(torch.float64)
    x = truth.sample(4, generator=torch.Generator().manual_seed(0))
    for prediction in path.kinds:
        low, high = path.interval_for(prediction)
        ends = torch.tensor([low, high], dtype=torch.float64)
        alpha, sigma = path.alpha(ends).tolist(), path.sigma(ends).tolist()
        base, data = truth.marginal(alpha[1], sigma[1]), truth.marginal(alpha[0], sigma[0])
        model = PathModel(truth.net(path, prediction), truth.shape, path, prediction, base=base, sampler=Dopri5(1e-6, 1e-6)).double()
        with torch.no_grad():
            agree(f"the exact {prediction} has the mixture's density", model.log_prob(x), data.log_prob(x), 1e-3)
