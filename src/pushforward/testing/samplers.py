"""The laws of samplers."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pushforward.data.mixture import three_gaussians
from pushforward.families.path_model import PathModel
from pushforward.functional.prediction import Kind
from pushforward.paths.linear import Linear
from pushforward.paths.path import Path
from pushforward.registry import export
from pushforward.samplers.denoiser import Denoiser
from pushforward.samplers.dopri5 import Dopri5
from pushforward.samplers.dopri8 import Dopri8
from pushforward.samplers.sampler import Sampler
from pushforward.testing.laws import agree, demand, non_contiguous

BEST = Dopri8(1e-9, 1e-9)
FEW = {1: 50, 2: 40, 3: 30, 4: 20}  # steps by order, from which on a method converges at it to 0.1
Make = Callable[[int], Sampler]


@export("testing.check_sampler")
def check_sampler(make: Make, order: float, path: Path | None = None) -> None:
    """Check the laws of a sampler that solves the ODE.

    Its error falls at its order, in both directions of time and there and back; all predictions give the same samples, finite ones from
    end to end of the path; encode and decode undo each other and its log_prob approaches the exact one; a sample does not depend on who
    shares its batch, also under guidance; the state keeps its dtype; noise of any strides is as good as its copy and is not written, and
    no rows stay none.

    Args:
        make: returns the sampler of so many steps.
        order: what the error is proportional to, as a power of the step.
        path: along which it is checked; None is the linear path.

    Returns:
        Nothing.

    Raises:
        AssertionError: a law does not hold; the law is named.

    Example:
        >>> check_sampler(pf.samplers.Heun, order=2)
    """
    path = Linear() if path is None else path
    problem = problem_along(path)
    for of_order in OF_ITS_ORDER:
        of_order(make, order, problem)
    for law in OF_ONE:
        law(make(8), path)
    all_predictions_give_the_same_samples(make(20), path, 1e-6)  # a sampler may round its times to float32
    for kind in path.kinds:
        finite_from_end_to_end(make(20), path, kind)
    for guidance in (None, 2.0):
        independent_of_its_batch(make(8), guidance, 1e-9)
    log_prob_and_decode_converge(make, path)


class Problem(NamedTuple):
    """The mixture's ODE on the middle part of a path, in which the mixture takes its shape."""

    denoiser: Denoiser
    x: Tensor  # (5, 2) at `start`
    start: float
    end: float
    exact: Tensor  # where x goes, to 4e-9


def problem_along(path: Path) -> Problem:
    """Return the problem of a path."""
    denoiser, (start, end) = _denoiser(path), _middle(path)
    x = _noisy(path)
    return Problem(denoiser, x, start, end, Dopri5(1e-10, 1e-10)(denoiser, x, start, end))


def converges_at_its_order(make: Make, order: float, problem: Problem) -> None:
    """Demand an error that falls at the order, to 0.1."""
    denoiser, x, start, end, exact = problem
    errors = [float((make(k)(denoiser, x, start, end) - exact).abs().max()) for k in _steps(order)]
    measured = math.log2(errors[0] / errors[1])
    demand(f"the error falls at order {order:g} from t = {start:.2g} to {end:.2g}", abs(measured - order) < 0.1, f"order {measured:.2f}")


def converges_towards_noise(make: Make, order: float, problem: Problem) -> None:
    """Demand an error that falls at the order, or better, in the other direction of time: from more steps on."""
    denoiser, x, end, start, _ = problem
    exact, steps = BEST(denoiser, x, start, end), {1: 200, 2: 100, 3: 50}.get(round(order), 20)
    errors = [float((make(k)(denoiser, x, start, end) - exact).abs().max()) for k in (steps, 2 * steps)]
    measured = math.log2(errors[0] / errors[1])
    demand(f"the error falls at order {order:g} from t = {start:.2g} to {end:.2g}", measured > order - 0.2, f"order {measured:.2f}")


def there_and_back_converges(make: Make, order: float, problem: Problem) -> None:
    """Demand that steps there and back differ from the identity by what each direction errs.

    Where the leading terms cancel, it is an order better.
    """
    denoiser, x, start, end, _ = problem
    errors = []
    for steps in _steps(order):
        sampler = make(steps)
        errors.append(float((sampler(denoiser, sampler(denoiser, x, start, end), end, start) - x).abs().max()))
    measured, most = math.log2(errors[0] / errors[1]), (0.1 if round(order) == 1 else 0.02) * max(1.0, float(x.abs().max()))
    demand(f"the error there and back falls at order {order:g}", measured > order - 0.1, f"order {measured:.2f}")
    demand(f"the error there and back is below {most:.2g}", errors[1] < most, f"{errors[1]:.2g}")


def any_strides_and_nothing_written(sampler: Sampler, path: Path) -> None:
    """Demand that rows of any strides are mapped as their copies, and that the caller's noise is not written."""
    denoiser, (start, end), x = _denoiser(path), _middle(path), _noisy(path, 4)

    def solve(x: Tensor) -> Tensor:
        return sampler(denoiser, x, start, end, [torch.Generator().manual_seed(0) for _ in range(4)])

    expected, strided = solve(x.clone()), non_contiguous(x)
    agree("non-contiguous noise is as good as its copy", solve(strided), expected, 1e-12)
    demand("the noise is not written", torch.equal(strided, x), "other noise")
    agree("expanded noise is as good as its copy", solve(x[:1].expand(4, 2)), expected[:1].expand(4, 2), 1e-9)


def no_rows(sampler: Sampler, path: Path) -> None:
    """Demand that an empty batch stays empty."""
    found = sampler(_denoiser(path), torch.zeros(0, 2, dtype=torch.float64), *_middle(path)).shape
    demand("no rows stay none", found == (0, 2), tuple(found))


def state_keeps_its_dtype(sampler: Sampler, path: Path) -> None:
    """Demand states in float32 and bfloat16 that stay so."""
    still = Denoiser(lambda x, t, cond: torch.zeros_like(x), path)
    for dtype in (torch.float32, torch.bfloat16):
        found = sampler(still, torch.ones(2, 3, dtype=dtype), *_middle(path), _generators(2)).dtype
        demand("the state keeps its dtype", found == dtype, found)


def independent_of_its_batch(sampler: Sampler, guidance: float | None, tolerance: float) -> None:
    """Demand samples that do not depend on who shares their batch: conditions are cut together with it, under guidance too."""
    truth, cond = three_gaussians(torch.float64), torch.tensor([0, 1, 2])
    model = PathModel(truth.net(Linear(), "velocity"), truth.shape, Linear(), classes=3, sampler=sampler).double()
    together = model.sample(3, cond, guidance=guidance, generator=_generators(3))
    alone = [model.sample(1, cond[k : k + 1], guidance=guidance, generator=_generators(3)[k : k + 1]) for k in range(3)]
    agree("a sample does not depend on its batch", torch.cat(alone), together, tolerance)


def all_predictions_give_the_same_samples(sampler: Sampler, path: Path, tolerance: float) -> None:
    """Demand the same samples of all predictions: they are one function written in several ways, so what is left is rounding."""
    x, ends, truth = _noisy(path), _middle(path), three_gaussians(torch.float64)
    first, *others = (sampler(Denoiser(truth.net(path, kind), path, kind), x, *ends) for kind in path.kinds)
    for kind, other in zip(path.kinds[1:], others, strict=True):
        agree(f"the {kind} gives the samples of the {path.kinds[0]}", other, first, tolerance)


def finite_from_end_to_end(sampler: Sampler, path: Path, kind: Kind) -> None:
    """Demand finite samples from end to end of the path."""
    x = _model(path, kind, sampler).sample(3, generator=_generators(3))
    demand(f"samples of the {kind} are finite from end to end", bool(x.isfinite().all()), "infinity or NaN")


def log_prob_and_decode_converge(make: Make, path: Path) -> None:
    """Demand that log_prob approaches the exact one, and decode the inverse of encode."""
    model = _model(path, "velocity", BEST)
    x = three_gaussians(torch.float64).sample(5, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        exact, z = model.log_prob(x), model.encode(x)
        off = [float((model.log_prob(x, sampler=make(k)) - exact).abs().max()) for k in (50, 100)]
        demand("log_prob approaches the exact one", off[1] < max(0.75 * off[0], 1e-8), f"{off[0]:.2g} off, then {off[1]:.2g}")
        back = [float((model.decode(z, sampler=make(k)) - x).abs().max()) for k in (50, 100)]
        demand("decode undoes encode ever better", back[1] < max(0.75 * back[0], 1e-8), f"{back[0]:.2g} off, then {back[1]:.2g}")


OF_ITS_ORDER: tuple[Callable[[Make, float, Problem], None], ...] = (
    converges_at_its_order,
    converges_towards_noise,
    there_and_back_converges,
)
OF_ONE: tuple[Callable[[Sampler, Path], None], ...] = (any_strides_and_nothing_written, no_rows, state_keeps_its_dtype)


def _steps(order: float) -> tuple[int, int]:
    steps = FEW.get(round(order), 20)
    return steps, 2 * steps


def _denoiser(path: Path) -> Denoiser:
    return Denoiser(three_gaussians(torch.float64).net(path, "velocity"), path)


def _middle(path: Path) -> tuple[float, float]:
    start, end = path.time(torch.tensor([-1.5, 1.5], dtype=torch.float64)).tolist()
    return start, end


def _noisy(path: Path, n: int = 5) -> Tensor:
    """Return noise (n, 2) of about the size of the states where the middle part of the path begins."""
    start = torch.tensor(_middle(path)[0], dtype=torch.float64)
    noise = torch.randn(n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return (float(path.sigma(start)) + 1) * noise


def _model(path: Path, kind: Kind, sampler: Sampler) -> PathModel:
    truth = three_gaussians(torch.float64)
    at = torch.tensor(path.interval_for(kind)[1], dtype=torch.float64)
    base = truth.marginal(float(path.alpha(at)), float(path.sigma(at)))
    return PathModel(truth.net(path, kind), truth.shape, path, kind, base=base, sampler=sampler).double()


def _generators(n: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(k) for k in range(n)]
