"""How a sampler clips the data prediction at each of its steps."""

import math
from dataclasses import dataclass

from torch import Tensor

from pushforward._checks import CheckedNumbers
from pushforward.errors import UserError
from pushforward.functional.clipping import clipped
from pushforward.registry import export


@export("samplers.Clipping", example=lambda: Clipping())
@dataclass(frozen=True)
class Clipping(CheckedNumbers):
    """Keep the data prediction of each step within [-reach, reach], in the model's units (of `preprocess`), as diffusers' schedulers do.

    `guidance.Clip` does the same for any sampler, and in other ranges; it cannot keep the noise.

    Args:
        reach: the largest absolute value of the data: diffusers' `clip_sample_range`.
        threshold: the quantile of dynamic thresholding, such as 0.995 (`dynamic_thresholding_ratio`), or None to clip.
        limit: the largest value to which thresholding lets data grow before it divides by it (`sample_max_value`).
        keep_noise: whether the noise remains that of the unclipped prediction, as in diffusers' DDIM (`use_clipped_model_output=False`);
            otherwise it follows from x and the clipped data.

    Raises:
        UserError: reach is not positive, the quantile is not above 0 and at most 1, or limit is below 1.

    Source: Saharia et al. (Imagen), 2205.11487, section 2.3.
    """

    reach: float = 1.0
    threshold: float | None = None
    limit: float = math.inf
    keep_noise: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.reach > 0:
            raise UserError(f"reach is {self.reach}, but it is the largest absolute value of the data, such as 1.")
        if self.threshold is not None and not 0 < self.threshold <= 1:
            raise UserError(f"threshold is {self.threshold}, but it is a quantile above 0 and at most 1, such as 0.995; None clips.")
        if self.limit < 1:
            raise UserError(f"limit is {self.limit}, but data within the range are never divided; use at least 1.")

    def applied(self, x: Tensor, value: Tensor, of_x: float, of_value: float) -> tuple[Tensor, Tensor | None]:
        """Return the network's output for clipped data, and None; or the output as it is, and the change of the data, with `keep_noise`.

        Args:
            x: the state (n, *shape).
            value: the network's output (n, *shape).
            of_x: factor of x in data = of_x x + of_value value.
            of_value: factor of the output.
        """
        data = of_x * x + of_value * value
        change = clipped(data, -self.reach, self.reach, self.threshold, self.limit) - data
        if self.keep_noise:
            return value, change
        return value.add(change, alpha=1 / of_value), None
