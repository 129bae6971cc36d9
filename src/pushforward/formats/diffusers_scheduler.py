"""diffusers' scheduler_config.json as a path, a kind of prediction and a sampler."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pushforward._checks import is_real
from pushforward.errors import ConfigError
from pushforward.formats.diffusers_entries import Entries
from pushforward.functional.prediction import Kind
from pushforward.paths.discrete import Discrete
from pushforward.samplers.clipping import Clipping
from pushforward.samplers.ddim import DDIM
from pushforward.samplers.ddpm import DDPM
from pushforward.samplers.dpm_solver import DPMSolverPP
from pushforward.samplers.edm import EDM
from pushforward.samplers.knots import Knots
from pushforward.samplers.linear import LinearSampler
from pushforward.samplers.unipc import UniPC

PREDICTIONS: dict[str, Kind] = {"epsilon": "noise", "sample": "data", "v_prediction": "v"}
SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine", "sigmoid": "sigmoid"}
SPACINGS = ("leading", "trailing", "linspace")
VARIANCES = {"fixed_small": "small", "fixed_small_log": "small", "fixed_large": "large", "learned_range": "auto"}
STEPS = 50  # of samplers other than DDPM: the usual number of diffusers' pipelines
SIGMAS = {"use_karras_sigmas": False, "use_exponential_sigmas": False, "use_beta_sigmas": False}
FLOWS = {**SIGMAS, "use_flow_sigmas": False, "use_dynamic_shifting": False}


@dataclass(frozen=True)
class Scheduler:
    """What a scheduler's configuration states.

    Args:
        path: the path through its betas.
        prediction: what the network predicts.
        sampler: its steps.
        learned_variance: whether the network predicts the variance of the reverse steps too.
    """

    path: Discrete
    prediction: Kind
    sampler: LinearSampler
    learned_variance: bool


def read_scheduler(config: Mapping[str, Any], where: Path) -> Scheduler:
    """Return what a scheduler's configuration states.

    Args:
        config: the content of scheduler_config.json.
        where: that file, for messages.

    Raises:
        ConfigError: a scheduler without counterpart, an entry that is not known, or one whose value has no counterpart.
    """
    name = str(config.get("_class_name"))
    if name not in READERS:
        raise ConfigError(
            f"{where} is of a {name}, which has no counterpart here; change _class_name to one of {', '.join(READERS)}, with which the "
            "same network samples."
        )
    entries = Entries(config, where)
    entries.ignore("tensor_format")  # of the first versions
    path, prediction = _path(entries, *((0.00085, 0.012) if name == "HeunDiscreteScheduler" else (0.0001, 0.02))), _prediction(entries)
    path.interval_for(prediction)
    learned = entries.config.get("variance_type") == "learned_range"
    sampler = READERS[name](entries, path)
    entries.finish()
    return Scheduler(path, prediction, sampler, learned)


def _prediction(entries: Entries) -> Kind:
    """Return our name of prediction_type, which old files state as predict_epsilon."""
    old = entries.flag("predict_epsilon", True)
    return PREDICTIONS[entries.word("prediction_type", "epsilon" if old else "sample", tuple(PREDICTIONS))]


def _path(entries: Entries, first: float, last: float) -> Discrete:
    steps: int = entries.whole("num_train_timesteps", 1000, 3)
    schedule = SCHEDULES[entries.word("beta_schedule", "linear", tuple(SCHEDULES))]
    first, last = entries.number("beta_start", first), entries.number("beta_end", last)
    zero = entries.flag("rescale_betas_zero_snr", False)
    betas = entries.get("trained_betas")
    if betas is not None:
        given = entries.sequence("trained_betas", (0.0001, 0.02))
        if not all(is_real(beta) for beta in given):
            entries.refuse("trained_betas", "a list of numbers between 0 and 1")
        return Discrete(tuple(map(float, given)), zero_terminal_snr=zero)
    usual = schedule == "cosine" or (schedule != "scaled_linear" and math.isclose(first * steps, 0.1) and math.isclose(last * steps, 20))
    ends = {} if usual else {"first": first, "last": last}
    return Discrete(schedule, steps, zero, **ends)  # type: ignore[arg-type]


def _knots(entries: Entries, default: str, *spacings: str) -> Knots:
    """Return the grid of timestep_spacing and steps_offset."""
    offset: int = entries.whole("steps_offset", 0, 0)
    spacing = entries.word("timestep_spacing", default, spacings or SPACINGS)
    return Knots(spacing, offset if spacing == "leading" else 0)  # type: ignore[arg-type]


def _clipping(entries: Entries, clip: bool = False, keep_noise: bool = False) -> Clipping | None:
    """Return how data are clipped; thresholding comes before clip_sample, as in diffusers."""
    clip = entries.flag("clip_sample", clip)
    reach, ratio = entries.number("clip_sample_range", 1.0), entries.number("dynamic_thresholding_ratio", 0.995)
    limit = entries.number("sample_max_value", 1.0)
    if entries.flag("thresholding", False):
        return Clipping(1.0, ratio if limit > 1 else None, limit if limit > 1 else math.inf, keep_noise)
    return Clipping(reach, keep_noise=keep_noise) if clip else None


def _final(entries: Entries, grid: Knots) -> Knots:
    """Return a grid whose last step goes where final_sigmas_type states."""
    final = entries.word("final_sigmas_type", "zero", ("zero", "sigma_min"))
    return replace(grid, last="knot") if final == "sigma_min" else grid


def _steps(path: Discrete) -> int:
    return min(STEPS, path.knots)


def _ddpm(entries: Entries, path: Discrete) -> LinearSampler:
    variance = VARIANCES[entries.word("variance_type", "fixed_small", tuple(VARIANCES))]
    return DDPM(path.knots, grid=_knots(entries, "leading"), variance=variance, clip=_clipping(entries, True))  # type: ignore[arg-type]


def _ddim(entries: Entries, path: Discrete) -> LinearSampler:
    grid = _knots(entries, "leading", "leading", "trailing")
    grid = grid if entries.flag("set_alpha_to_one", True) else replace(grid, last="knot")
    return DDIM(_steps(path), grid=grid, clip=_clipping(entries, True, keep_noise=True))


def _multistep(entries: Entries, path: Discrete) -> LinearSampler:
    order: int = entries.whole("solver_order", 2)
    if order > 2:
        entries.refuse("solver_order", "1 or 2 (steps of third order start in another way here)")
    kind = entries.word("algorithm_type", "dpmsolver++", ("dpmsolver++", "sde-dpmsolver++"))
    if kind == "sde-dpmsolver++" and order == 1:
        entries.refuse("solver_order", "2 with sde-dpmsolver++")
    grid = _final(entries, _knots(entries, "linspace"))
    entries.only(**FLOWS, use_lu_lambdas=False, lambda_min_clipped=-math.inf)
    entries.ignore("flow_shift", "time_shift_type", "variance_type")
    if grid.last == "knot":
        entries.only(euler_at_final=False)
    entries.ignore("euler_at_final")
    variant = "SDE-2M" if kind.startswith("sde") else f"{order}{'S' if order == 1 else 'M'}"
    return DPMSolverPP(
        _steps(path),
        variant,  # type: ignore[arg-type]
        grid=grid,
        lower_order_final=entries.flag("lower_order_final", True),
        solver_type=entries.word("solver_type", "midpoint", ("midpoint", "heun")),  # type: ignore[arg-type]
        clip=_clipping(entries),
    )


def _singlestep(entries: Entries, path: Discrete) -> LinearSampler:
    order: int = entries.whole("solver_order", 2)
    if order > 2:
        entries.refuse("solver_order", "1 or 2")
    entries.only(algorithm_type="dpmsolver++", final_sigmas_type="zero", lambda_min_clipped=-math.inf, **FLOWS)
    entries.ignore("flow_shift", "time_shift_type", "variance_type", "lower_order_final")  # the last step is to sigma = 0 in any case
    solver = entries.word("solver_type", "midpoint", ("midpoint", "heun"))
    grid = _knots(entries, "linspace", "linspace")
    return DPMSolverPP(_steps(path), f"{order}S", grid=grid, solver_type=solver, clip=_clipping(entries))  # type: ignore[arg-type]


def _unipc(entries: Entries, path: Discrete) -> LinearSampler:
    order: int = entries.whole("solver_order", 2)
    if order > 3:
        entries.refuse("solver_order", "1, 2 or 3")
    grid = _final(entries, _knots(entries, "linspace"))
    entries.only(predict_x0=True, disable_corrector=[], solver_p=None, sigma_min=None, sigma_max=None, shift_terminal=None, **FLOWS)
    entries.ignore("flow_shift", "time_shift_type")
    solver = entries.word("solver_type", "bh2", ("bh1", "bh2"))
    lower = entries.flag("lower_order_final", True)
    return UniPC(_steps(path), order, grid, lower, solver, _clipping(entries))  # type: ignore[arg-type]


def _euler(entries: Entries, path: Discrete) -> LinearSampler:
    entries.only(interpolation_type="linear", timestep_type="discrete", sigma_min=None, sigma_max=None, **SIGMAS)
    return DDIM(_steps(path), grid=_final(entries, _knots(entries, "linspace")))


def _ancestral(entries: Entries, path: Discrete) -> LinearSampler:
    return DDPM(_steps(path), grid=_knots(entries, "linspace"), variance="small")


def _heun(entries: Entries, path: Discrete) -> LinearSampler:
    entries.only(clip_sample=False, **SIGMAS)
    entries.ignore("clip_sample_range")
    return EDM(_steps(path), grid=_knots(entries, "linspace"))


READERS: dict[str, Callable[[Entries, Discrete], LinearSampler]] = {
    "DDPMScheduler": _ddpm,
    "DDPMParallelScheduler": _ddpm,
    "DDIMScheduler": _ddim,
    "DDIMParallelScheduler": _ddim,
    "DPMSolverMultistepScheduler": _multistep,
    "DPMSolverSinglestepScheduler": _singlestep,
    "UniPCMultistepScheduler": _unipc,
    "EulerDiscreteScheduler": _euler,
    "EulerAncestralDiscreteScheduler": _ancestral,
    "HeunDiscreteScheduler": _heun,
}
