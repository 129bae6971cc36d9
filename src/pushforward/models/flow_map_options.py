"""The options that few-step models share, and how they start from a teacher."""

import contextlib
import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any, get_args

import torch

from pushforward.errors import UserError
from pushforward.families.flow_map import FlowMap
from pushforward.families.path_model import PathModel
from pushforward.families.teaching import check_teacher, same_units, taught_units
from pushforward.formats.model import check_intact, described, located, with_weights
from pushforward.models.path_options import PathOptions
from pushforward.models.units import Preprocess, units
from pushforward.nn.config import NetConfig
from pushforward.objectives.objective import Objective
from pushforward.paths.linear import Linear
from pushforward.samplers.jumps import Jumps
from pushforward.samplers.sampler import Sampler

MANY = 16  # numbers of an event
FOLLOWS = ("shape", "net", "classes", "cond_features", "cond_image", "levels", "schema")


@dataclass(frozen=True)
class FlowMapOptions(PathOptions):
    """Options of few-step models.

    Args:
        teacher: a trained path model, or its run folder: its velocity replaces that of data and noise in the loss. Where no other network
            is given it has the teacher's, and starts with its weights if that predicts the velocity along straight lines. Units and
            conditions are the teacher's.
        drop_cond: share of conditions dropped in training, for guidance.
        sampler: how samples are made by default: Jumps(steps), Renoise(steps), or a sampler of ODEs.
    """

    teacher: PathModel | str | None = field(default=None, kw_only=True)
    sampler: Sampler = field(default=Jumps(), kw_only=True)

    @classmethod
    def follow(cls, arguments: dict[str, Any]) -> None:
        teacher = arguments.get("teacher")
        if teacher is None:
            return
        given = {name: arguments[name] for name in FOLLOWS if arguments.get(name) is not None}
        teacher = _loaded(teacher, given) if isinstance(teacher, str | FilePath) else teacher
        _check(teacher, given)
        own = teacher.config["model"] if teacher.config is not None else {}
        known = {"shape": teacher.shape, "levels": teacher.levels, "schema": teacher.schema, **vars(teacher.conditioning)}
        known["net"] = _of_one_time(own.get("net"))
        if known["net"] is None and "net" not in given:
            raise UserError("net is left out, but the teacher was given a live network instead of settings; give net= to the student too.")
        arguments.update({name: value for name, value in known.items() if name not in given}, teacher=teacher)
        arguments["preprocess"] = own["preprocess"] if "preprocess" in own else _named_units(teacher)

    @classmethod
    def recorded(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        return {**arguments, "teacher": getattr(arguments["teacher"], "run", None)}

    def power(self, given: float | None) -> float:
        """Return the power of adaptive weights: 1 for events of at least 16 numbers.

        The error of an event of many numbers is nearly the same in all rows, and so is its weight. That of few numbers is not: weighting
        rows by their own errors would change what is learned.
        """
        return (1.0 if math.prod(self.event_shape) >= MANY else 0.0) if given is None else given

    def flow_map(self, objective: Objective) -> FlowMap:
        """Return the model of an objective of an average velocity."""
        network = self.network(objective.outputs, objective.numbers)
        model = FlowMap(network, self.event_shape, Linear(), objective, teacher=self.teacher, **self.family_options)
        if isinstance(self.teacher, PathModel):
            start_from(model, self.teacher, self.net)
        return model


def _named_units(teacher: PathModel) -> Preprocess:
    """Return the option of presets that stands for a teacher's units.

    Raises:
        UserError: there is none.
    """
    if teacher.preprocess is None:
        return "none"
    for name in get_args(Preprocess):
        with contextlib.suppress(UserError):  # which the events of this teacher cannot have
            made = units(name, teacher.shape, teacher.levels, teacher.schema)
            if made is not None and same_units(made, teacher.preprocess):
                return name
    raise UserError(
        f"teacher has the units {teacher.preprocess}, for which presets have no name; use pf.families.FlowMap(net, shape, teacher=teacher)."
    )


def _of_one_time(net: Any) -> Any:
    """Return the settings of a teacher's network with the factor of t that it has, which would be another one in a network of two times."""
    return dataclasses.replace(net, time_scale=1000.0) if getattr(net, "time_scale", 0) is None else net


def _loaded(run: str | FilePath, given: Mapping[str, Any]) -> PathModel:
    """Return the path model of a run, whose description is checked before its weights are read."""
    folder = located(run)
    model = described(folder)
    _check(model, given)
    check_intact(folder)
    model = with_weights(model, folder)
    model.run = str(run)  # type: ignore[assignment]
    return model  # type: ignore[return-value]


def _check(teacher: Any, given: Mapping[str, Any]) -> None:
    kinds = ("classes", "cond_features", "cond_image")
    own = {name: getattr(getattr(teacher, "conditioning", None), name, None) for name in kinds}
    condition = {name: given.get(name) for name in kinds} if any(name in given for name in kinds) else own
    check_teacher(teacher, given.get("shape", getattr(teacher, "shape", ())), condition)


@torch.no_grad()
def start_from(student: FlowMap, teacher: Any, net: Any) -> None:
    """Give a student the units of its teacher, and its weights where the teacher's network has the same settings and a velocity.

    Outputs of which the student's network has two copies start as the teacher's both times.
    """
    student.fitted = True
    student.preprocess = taught_units(student.preprocess, teacher.preprocess)
    own = None if teacher.config is None else teacher.config["model"].get("net")
    straight = teacher.prediction == student.prediction and teacher.path == student.path
    if not isinstance(net, NetConfig) or _of_one_time(own) != net or not straight:
        return
    network: Any = student.net
    weights, state = teacher.net.state_dict(), network.state_dict()
    for name, target in state.items():
        if name in weights:
            target.copy_(torch.cat([weights[name]] * (len(target) // len(weights[name]))) if target.ndim else weights[name])
    student.started = True
