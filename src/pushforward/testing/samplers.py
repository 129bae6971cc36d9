"""The laws of samplers."""

import math
from collections.abc import Callable
from typing import Any

import torch

from pushforward.data.mixture import three_gaussians
from pushforward.families.path_model import PathModel
from pushforward.paths.linear import Linear
from pushforward.paths.path import Path
from pushforward.registry import export
from pushforward.samplers.denoiser import Denoiser
from pushforward.samplers.dopri8 import Dopri8
from pushforward.samplers.sampler import Sampler
from pushforward.testing.laws import agree, demand

BEST = Dopri8(1e-9, 1e-9)


@export("testing.check_sampler")
def check_sampler(make: Callable[[int], Sampler], order: float, path: Path | None = None) -> None:
    """Check the laws of a sampler that solves the ODE.

    Its error falls at its order, in both directions of time; encode and decode undo each other and its log_prob approaches the exact one; a
    sample does not depend on who shares its batch, the state keeps its dtype, and nothing is written to the caller's noise.

    Args:
        make: returns the sampler of so many steps.
        order: what the error is proportional to, as a power of the step.
        path: along which it is checked, on its middle part; None is the linear path.

    Returns:
        Nothing.

    Raises:
        AssertionError: a law does not hold; the law is named.

    Example:
        >>> check_sampler(pf.samplers.Heun, order=2)
    """
    path = Linear() if path is None else path
    truth = three_gaussians(torch.float64)
    net = truth.net(path, "velocity")
    denoiser = Denoiser(net, path)
    start, end = path.time(torch.tensor([-1.5, 1.5], dtype=torch.float64)).tolist()
    x = 2 * torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    before = x.clone()
    steps = {1: 200, 2: 100, 3: 50}.get(round(order), 20)
    for t, s in ((start, end), (end, start)):
        exact = BEST(denoiser, x, t, s)
        errors = [float((make(k)(denoiser, x, t, s) - exact).abs().max()) for k in (steps, 2 * steps)]
        measured = math.log2(errors[0] / errors[1])
        demand(f"the error falls at order {order:g} from t = {t:.2g} to {s:.2g}", measured > order - 0.2, f"order {measured:.2f}")
    together = make(8)(denoiser, x, start, end)
    alone = torch.cat([make(8)(denoiser, x[k : k + 1], start, end) for k in range(len(x))])
    agree("a sample does not depend on its batch", alone, together, 1e-9)
    demand("the noise is not written", torch.equal(x, before), "other noise")
    low = make(8)(Denoiser(lambda x, t, cond: -x, path), x.float(), start, end)
    demand("the state keeps its dtype", low.dtype == torch.float32, low.dtype)
    _check_model(make, net, path, order)


def _check_model(make: Callable[[int], Sampler], net: Any, path: Path, order: float) -> None:
    truth = three_gaussians(torch.float64)
    at = torch.tensor(path.interval_for("velocity")[1], dtype=torch.float64)
    base = truth.marginal(float(path.alpha(at)), float(path.sigma(at)))
    model = PathModel(net, truth.shape, path, base=base).double()
    x = truth.sample(5, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        exact, z = model.log_prob(x, sampler=BEST), model.encode(x, sampler=BEST)
        off = [float((model.log_prob(x, sampler=make(k)) - exact).abs().max()) for k in (50, 100)]
        demand("log_prob approaches the exact one", off[1] < max(0.75 * off[0], 1e-8), f"{off[0]:.2g} off, then {off[1]:.2g}")
        back = [float((model.decode(z, sampler=make(k)) - x).abs().max()) for k in (50, 100)]
        demand("decode undoes encode ever better", back[1] < max(0.75 * back[0], 1e-8), f"{back[0]:.2g} off, then {back[1]:.2g}")
