"""The teacher of a few-step model: a trained path model whose velocity it learns from."""

import copy
from typing import Any

import torch
from torch import Tensor

from pushforward._precision import uncast, wide
from pushforward.bijections.bijection import Bijection
from pushforward.errors import UserError
from pushforward.families.checks import device_of
from pushforward.families.path_model import PathModel
from pushforward.functional.prediction import per_row
from pushforward.paths.prediction import Prediction


class Teacher:
    """A frozen path model that gives velocities along the student's path; copies of the student share it.

    Args:
        model: the path model.
        student: what learns from it: events, conditions and path must fit.

    Raises:
        UserError: they do not.
    """

    def __init__(self, model: Any, student: Any) -> None:
        check_teacher(model, student.shape, vars(student.conditioning))
        if student.drop_cond and not model.drop_cond:
            raise UserError(
                f"drop_cond is {student.drop_cond}, but the teacher's is 0, so it has no velocity without a condition; use drop_cond=0, or "
                "train the teacher with drop_cond=0.1."
            )
        self.model: PathModel = copy.deepcopy(model).eval().requires_grad_(False)
        same = type(model.path) is type(student.path) and model.path == student.path
        self._denoising = self.model if same else self.model.follow(student.path)

    def __deepcopy__(self, memo: Any) -> "Teacher":
        return self

    @torch.no_grad()
    def step(self, x: Tensor, t: Tensor, r: Tensor, cond: Any) -> Tensor:
        """Return the state at r (n,) from x (n, *shape) at t: a step of Heun's method in the level of noise s = sigma / alpha.

        d(x / alpha) / ds is the expected noise.
        """
        path = self._denoising.path
        (s, a), (end, b) = ((path.sigma(one) / path.alpha(one), path.alpha(one)) for one in (t, r))
        first = self._noise(x, t, cond)
        ahead = (x / per_row(a, x) + per_row(end - s, x) * first) * per_row(b, x)
        noise = torch.where(per_row(end > 0, x).bool(), (first + self._noise(ahead, r, cond)) / 2, first)
        return (x / per_row(a, x) + per_row(end - s, x) * noise) * per_row(b, x)

    def _noise(self, x: Tensor, t: Tensor, cond: Any) -> Tensor:
        return self._prediction(x, t, cond).noise.to(x.dtype)

    @torch.no_grad()
    def velocity(self, x: Tensor, t: Tensor, cond: Any) -> Tensor:
        """Return the velocity (n, *shape) at x (n, *shape) and t (n,), in float32 or wider."""
        return self._prediction(x, t, cond).velocity.to(wide(x))

    def _prediction(self, x: Tensor, t: Tensor, cond: Any) -> Prediction:
        if self._denoising.dtype != x.dtype or device_of(self._denoising) != x.device:
            self._denoising.to(x.device, x.dtype)
        low, high = self._denoising.interval
        with uncast(x):
            prediction: Prediction = self._denoising.denoiser(cond)(x, t.clamp(low, high))
        return prediction


def check_teacher(model: Any, shape: Any, condition: dict[str, Any]) -> None:
    """Raise unless a model is a path model of events of this shape under this kind of condition.

    Raises:
        UserError: it is not.
    """
    if not isinstance(model, PathModel):
        raise UserError(f"teacher is a {type(model).__name__}, but a few-step model learns from a path model, such as flow_matching's.")
    if model.one_step:
        raise UserError("teacher was distilled into one step, so it has no velocity to learn from; give the model it was distilled from.")
    if model.shape != tuple(shape):
        raise UserError(f"teacher has events of shape {model.shape}, but the student's are {tuple(shape)}; they must be equal.")
    for name, value in vars(model.conditioning).items():
        if value != condition[name]:
            raise UserError(f"teacher has {name} {value}, but the student has {condition[name]}; they must be equal.")


def taught_units(own: Bijection | None, units: Bijection | None) -> Bijection | None:
    """Return the units of a student, with the values of its teacher's: a copy of these if it has none of its own.

    Raises:
        UserError: they are of another kind.
    """
    if own is None:
        return copy.deepcopy(units)
    if units is None:
        kind = type(own).__name__
        raise UserError(f"preprocess is {kind}, but the teacher has none, and a student has its teacher's units; leave it out.")
    if not same_units(own, units):
        raise UserError(
            f"preprocess is {own}, but the teacher's is {units}, and a student has its teacher's units; leave it out, or give that."
        )
    own.load_state_dict(units.state_dict())
    return own


def same_units(one: Bijection, other: Bijection) -> bool:
    """Return whether units are of the same kind and settings, whatever data they were fitted to."""
    shapes = ({name: tensor.shape for name, tensor in units.state_dict().items()} for units in (one, other))
    return repr(one) == repr(other) and len({frozenset(own.items()) for own in shapes}) == 1
