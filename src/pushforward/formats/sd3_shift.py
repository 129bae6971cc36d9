"""The grid of times that the settings of a scheduler of diffusers state: its shift, a number or one by size, and its spacing."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pushforward._checks import shown
from pushforward.errors import ConfigError
from pushforward.formats.sd3_find import setting
from pushforward.samplers.grids import Spacing

STEPS_SHIFT = 3.0
DYNAMIC = "use_dynamic_shifting"
TERMINAL = "shift_terminal"
SPACINGS: Mapping[str, Spacing] = {"use_karras_sigmas": "karras", "use_exponential_sigmas": "exponential"}
Kind = Literal["exponential", "linear"]


@dataclass(frozen=True)
class DynamicShift:
    """A shift that grows with the size of the image.

        mu = base_shift + (max_shift - base_shift) (tokens - base_image_seq_len) / (max_image_seq_len - base_image_seq_len)

    Args:
        base_shift: mu at `base_image_seq_len` tokens, patches of latents.
        max_shift: mu at `max_image_seq_len` tokens; sizes beyond are extrapolated.
        base_image_seq_len: number of tokens.
        max_image_seq_len: another one.
        time_shift_type: "exponential" shifts by exp(mu), "linear" by mu.

    Raises:
        ConfigError: both numbers of tokens are equal.

    Source: calculate_shift and FlowMatchEulerDiscreteScheduler of diffusers, which have these names and defaults.
    """

    base_shift: float = 0.5
    max_shift: float = 1.15
    base_image_seq_len: int = 256
    max_image_seq_len: int = 4096
    time_shift_type: Kind = "exponential"

    def __post_init__(self) -> None:
        if self.base_image_seq_len == self.max_image_seq_len:
            raise ConfigError(
                f"base_image_seq_len and max_image_seq_len are both {self.base_image_seq_len}, but a shift by size needs two sizes; "
                "download the scheduler's config.json again."
            )

    def factor(self, tokens: int) -> float:
        """Return the shift of an image with this number of tokens.

        Raises:
            ConfigError: it is not positive, or not finite.
        """
        slope = (self.max_shift - self.base_shift) / (self.max_image_seq_len - self.base_image_seq_len)
        mu = self.base_shift + slope * (tokens - self.base_image_seq_len)
        try:
            factor = math.exp(mu) if self.time_shift_type == "exponential" else mu
        except OverflowError:
            factor = math.inf
        if not 0 < factor < math.inf:
            raise ConfigError(f"{self} shifts images of {tokens} tokens by {factor:g}, but a shift must be positive; give shift=.")
        return factor

    def settings(self) -> dict[str, Any]:
        """Return the settings of a scheduler that states this."""
        return {DYNAMIC: True, **vars(self)}


@dataclass(frozen=True)
class Schedule:
    """A shift, and what else a scheduler states about the times.

    Args:
        shift: the shift.
        terminal: `shift_terminal`, the time before the end to which the others are stretched; None if there is none.
        spacing: "karras" or "exponential" if `use_karras_sigmas` or `use_exponential_sigmas` is stated.
    """

    shift: float | DynamicShift
    terminal: float | None = None
    spacing: Spacing = "shifted"


GridShift = float | DynamicShift | Schedule


def grid_shift(scheduler: Mapping[str, Any]) -> GridShift:
    """Return the shift of the grid of times by a scheduler's config.json: diffusers' own default is 1, that of a file without one 3.

    Raises:
        ConfigError: a setting is none.
    """
    own = 1.0 if "_class_name" in scheduler else STEPS_SHIFT
    shift = _dynamic(scheduler) if scheduler.get(DYNAMIC) else setting(scheduler, "shift", own)
    terminal = setting(scheduler, TERMINAL, 0.5) if scheduler.get(TERMINAL) else None
    if terminal is not None and not 0 < terminal < 1:
        raise ConfigError(f"{TERMINAL} of a config.json is {terminal}, but it must be between 0 and 1; download the file again.")
    spacings = [spacing for name, spacing in SPACINGS.items() if scheduler.get(name)]
    if len(spacings) > 1:
        raise ConfigError(f"a config.json has both {' and '.join(SPACINGS)}, of which a scheduler can have one; download the file again.")
    return Schedule(shift, terminal, *spacings) if spacings or terminal is not None else shift


def shift_settings(shift: GridShift) -> dict[str, Any]:
    """Return the settings of a scheduler that `grid_shift` reads this shift of."""
    if not isinstance(shift, Schedule):
        return shift.settings() if isinstance(shift, DynamicShift) else {"shift": shift}
    terminal = {} if shift.terminal is None else {TERMINAL: shift.terminal}
    return shift_settings(shift.shift) | terminal | {name: True for name, spacing in SPACINGS.items() if spacing == shift.spacing}


def _dynamic(scheduler: Mapping[str, Any]) -> DynamicShift:
    kind = scheduler.get("time_shift_type", "exponential")
    if kind not in get_args(Kind):
        raise ConfigError(f"time_shift_type of a config.json is {shown(kind)}, but it must be 'exponential' or 'linear'.")
    own = DynamicShift()
    base, most = (setting(scheduler, name, getattr(own, name)) for name in ("base_shift", "max_shift"))
    fewest, largest = (int(setting(scheduler, name, getattr(own, name))) for name in ("base_image_seq_len", "max_image_seq_len"))
    return DynamicShift(base, most, fewest, largest, kind)
