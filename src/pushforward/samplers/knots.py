"""The knots of a discrete path that diffusers' schedulers visit."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy

from pushforward.errors import UserError
from pushforward.registry import export, unknown
from pushforward.samplers.visiting import Visiting

Spacing = Literal["trailing", "leading", "linspace"]
Last = Literal["data", "knot"]


@export("samplers.Knots", example=lambda: Knots())
@dataclass(frozen=True)
class Knots(Visiting):
    """The knots of a discrete path that diffusers uses for `timestep_spacing`: N steps are N evaluations, with the same results.

        trailing    1 - k / N,                       k = 0 ... N - 1, rounded to knots: starts at the last knot
        leading     (k floor(T / N) + 1 + offset) / T, k = N - 1 ... 0: ends at the first knot, does not start at the last
        linspace    from the last knot to the first, equally spaced and rounded

    of the T knots t = 1 / T, ..., 1; diffusers counts them from 0, so its timestep is k = T t - 1. The last step goes from the last of
    these to the expected data, as in diffusers with `final_sigmas_type="zero"` (DPM-Solver++, UniPC) or `set_alpha_to_one=True` (DDIM).
    With "leading", and a single step of "linspace", the first of these is not t = 1; the noise is used as x there, as in diffusers.
    For samplers whose scheduler spaces one extra knot and omits the last (`DPMSolverPP`, `UniPC`) this grid does so too, except with
    "trailing".

    `encode`, `decode` and `log_prob` use the same knots from one end of the interval to the other, and stay inverse to each other.

    Args:
        spacing: "trailing", which starts at pure noise and is the best of the three for few steps, "leading" or "linspace".
        offset: for "leading", shift of all knots: diffusers' `steps_offset`, 1 in Stable Diffusion 1 and 2.
        last: where the last step goes: to the expected "data", or only to the first "knot", with its noise left in the samples: diffusers'
            `set_alpha_to_one=False` and `final_sigmas_type="sigma_min"`.

    Raises:
        UserError: an unknown spacing or last, a negative offset, or one without "leading"; when used, a path without knots, or more steps
            than it has knots.

    Example:
        >>> from pushforward.paths.discrete import Discrete
        >>> Knots("trailing").visited(Discrete(), 4), Knots("leading").visited(Discrete(), 4)
        ([1.0, 0.75, 0.5, 0.25], [0.751, 0.501, 0.251, 0.001])

    Source: Lin et al., Common diffusion noise schedules and sample steps are flawed, 2305.08891, section 3.3 and table 2.
    """

    spacing: Spacing = "trailing"
    offset: int = 0
    last: Last = "data"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, allowed in (("spacing", get_args(Spacing)), ("last", get_args(Last))):
            if getattr(self, name) not in allowed:
                raise UserError(unknown(name, str(getattr(self, name)), allowed))
        if self.offset < 0 or (self.offset and self.spacing != "leading"):
            raise UserError(f"offset is {self.offset} with {self.spacing!r}, but it is at least 0 and for 'leading' alone; leave it out.")

    def visited(self, path: Any, steps: int, spare: int = 0) -> list[float]:
        """Return the times of `steps` knots, from noise to data; with `spare`, the first of `steps + spare` knots.

        Raises:
            UserError: the path has no knots, or fewer than that.
        """
        knots = checked_knots(path, steps)
        spread = steps + spare if steps + spare <= knots else steps
        index = {
            "trailing": lambda: numpy.arange(knots, 0, -knots / steps).round() - 1,
            "leading": lambda: numpy.arange(spread)[::-1] * (knots // spread) + self.offset,
            "linspace": lambda: numpy.linspace(0, knots - 1, spread).round()[::-1],
        }[self.spacing]()[:steps]
        if index[0] >= knots:
            raise UserError(
                f"offset is {self.offset}, but {steps} leading steps then start behind the last of {knots} knots; use offset=0."
            )
        return [(int(k) + 1) / knots for k in index]

    def to_data(self, t_start: float, steps: int, path: Any, spare: int = 0) -> list[float]:
        *visited, end = super().to_data(t_start, steps, path, spare)
        return [*visited, path.interval[0] if self.last == "knot" else end]


def checked_knots(path: Any, steps: int, t_start: float = 1.0) -> int:
    """Return the number of a path's knots.

    Raises:
        UserError: it has none, or fewer than `steps` from t_start on.
    """
    knots: int | None = None if path is None else path.knots
    if knots is None:
        raise UserError(f"the grid Knots needs a discrete path, but the path is {path}; use paths.Discrete(), or the grid Uniform().")
    most = int(t_start * knots + 1e-6)
    if steps > most:
        start = "" if most == knots else f" from t = {t_start:g}"
        raise UserError(f"steps is {steps}, but the path has only {most} knots{start}; use at most {most}.")
    return knots
