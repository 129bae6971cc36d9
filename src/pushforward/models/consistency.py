"""Consistency models: from any point of a trajectory to its end.

Papers: Song, Dhariwal, Chen and Sutskever, Consistency models, 2023, arXiv 2303.01469; Song and Dhariwal, Improved techniques for training
consistency models, 2023, arXiv 2310.14189 ("ict"); Geng et al., Consistency models made easy, 2024, arXiv 2406.14548 ("ect"); Lu and Song,
Simplifying, stabilizing and scaling continuous-time consistency models, 2024, arXiv 2410.11081 ("scm").
What they add to diffusion: the network's data prediction is no longer the expected data but the end of the trajectory, which is the
same from every point of it. Two neighbouring points are made to agree, the noisier one with the cleaner one, down to the data itself. "ict"
learns it from data on a grid of levels that gets finer; "ect" starts from a trained diffusion model and lets the gap shrink; "scm" has no
gap but the derivative along the trajectory. Samples with more steps add noise again (`Renoise`).
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from pushforward.errors import UserError
from pushforward.families.flow_map import FlowMap
from pushforward.families.path_model import PathModel
from pushforward.functional.prediction import Kind
from pushforward.models.flow_map_options import FlowMapOptions, start_from
from pushforward.models.preset import preset
from pushforward.nn.mlp import MLP
from pushforward.nn.preconditioned import Preconditioned
from pushforward.objectives.consistency import EasyConsistency, ImprovedConsistency, level_ends, level_time
from pushforward.objectives.continuous_consistency import ContinuousConsistency
from pushforward.objectives.objective import Objective
from pushforward.paths import Cosine, Path, VarianceExploding
from pushforward.registry import export
from pushforward.samplers.grids import clock

OBJECTIVES = {"ict": ImprovedConsistency, "ect": EasyConsistency, "scm": ContinuousConsistency}


@dataclass(frozen=True)
class ConsistencyOptions(FlowMapOptions):
    """Options of consistency models, whose path is that of their teacher."""

    @classmethod
    def follow(cls, arguments: dict[str, Any]) -> None:
        super().follow(arguments)
        teacher = arguments.get("teacher")
        if isinstance(teacher, PathModel) and arguments.get("method") != "scm":
            arguments["path"] = teacher.path
            if isinstance(teacher.net, Preconditioned):
                arguments["data_std"] = teacher.net.data_std


def _example() -> tuple:
    path = VarianceExploding(0.1, 5.0)
    return consistency(MLP.Config((16, 16)), (2,), path=path, grid=12, classes=3), torch.randn(4, 2), torch.tensor([0, 1, 2, 0])


@export("models.consistency", example=_example)
@preset
def consistency(
    shared: ConsistencyOptions,
    *,
    method: Literal["ict", "ect", "scm"] = "ict",
    path: Path = VarianceExploding(0.002, 80.0),
    data_std: float = 1.0,
    noise_mean: float = -1.1,
    noise_std: float = 2.0,
    grid: int = 1280,
) -> FlowMap:
    """Learn the end of the trajectory through any point.

    Args:
        method: "ict" from data (with a teacher: consistency distillation), "ect" from data and the weights of a teacher, "scm" in
            continuous time, from data or a teacher.
        path: the schedule of "ict" and "ect", with a teacher that of the teacher; "scm" has Cosine().
        data_std: standard deviation of the (preprocessed) data, for the preconditioning on a path with alpha = 1.
        noise_mean: mean of ln(sigma / alpha) in training.
        noise_std: deviation of ln(sigma / alpha) in training.
        grid: number of steps of the last grid of "ict", which doubles from 10 to it during the training.

    Returns:
        A FlowMap, which samples by Jumps(1) or `Renoise(steps)`.

    Example:
        >>> model = consistency(shape=(2,), path=VarianceExploding(0.01, 10.0))
        >>> model.sample(3, sampler=pf.samplers.Renoise(2)).shape
        torch.Size([3, 2])
    """
    if method not in OBJECTIVES:
        raise UserError(f"method is {method!r}, but it is 'ict', 'ect' or 'scm'.")
    own = {"first": min(10, grid), "last": grid} if method == "ict" else {}
    objective: Objective = OBJECTIVES[method](mean=noise_mean, std=noise_std, **own)
    if method == "scm" and getattr(shared.net, "time_scale", 0) is None:  # the loss contains the derivative by t; a teacher's is set
        shared = replace(shared, net=replace(shared.net, time_scale=30.0))  # type: ignore[type-var]
    network, teacher = shared.network(), shared.teacher
    net: Any = network
    kind: Kind = "velocity"
    interval: tuple[float, float] | None = None
    if method == "scm":
        path, kind = Cosine(), "v"
    elif level_ends(path, path.interval)[0] > 0:
        net, kind, interval = Preconditioned(network, path, data_std, boundary=True), "data", path.interval
    else:
        interval = _levels(path)
    distilled = None if method == "ect" else teacher  # which learns from data: a teacher is where it starts
    model = FlowMap(net, shared.event_shape, path, objective, kind, teacher=distilled, interval=interval, **shared.family_options)
    if isinstance(teacher, PathModel):
        start_from(model, teacher, shared.net)
    return model


def _levels(path: Path) -> tuple[float, float]:
    """Return the interval of a path on which sigma / alpha is from 0 to 80: the noise ends where hardly any data is left."""
    return path.interval[0], float(level_time(path, clock(path, (80.0,)), path.interval))
