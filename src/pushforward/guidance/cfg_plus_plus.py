"""CFG++: the data prediction is guided, and noise is added back as the unconditional model predicts it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pushforward.errors import UserError
from pushforward.functional.prediction import per_row
from pushforward.guidance.extrapolation import FromNegative
from pushforward.paths.path import Path
from pushforward.registry import export


@export("guidance.CFGPlusPlus", example=lambda: CFGPlusPlus(0.6))
@dataclass(frozen=True)
class CFGPlusPlus(FromNegative):
    """Classifier-free guidance with scales from 0 to 1, whose steps stay near the data: only the data prediction is guided.

        x_s = alpha_s D + sigma_s e_negative,    D = D_negative + scale (D_cond - D_negative)    for a step from t to s

    This is a step of DDIM under classifier-free guidance of the scale

        w = scale alpha_s sigma_t / (alpha_s sigma_t - alpha_t sigma_s),

    which grows as steps become shorter. Other samplers use w too, constant over each of their steps, so that with DDIM it is CFG++ exactly
    and with others in the same spirit. Samplers that choose their own steps cannot use it.

    Args:
        scale: 0 is the unconditional model; the paper uses 0.2 to 1, where 0.6 corresponds to a usual scale of 7.5.
        negative: condition to move away from, with leading dimension n; None is the model's null condition.
        interval: times (low, high) at which to guide; outside them the plain conditional velocity is used.
        times: the n + 1 times of a sampler's n steps, in the order of sampling. A model sets them: leave them out.

    Raises:
        UserError: interval or scale is out of range.
        ConditionError: the denoiser has no condition.

    Example:
        >>> import pushforward as pf
        >>> model = pf.models.ddpm(pf.nn.MLP.Config((16,)), (2,), classes=3, drop_cond=0.1)
        >>> model.sample(4, torch.arange(4) % 3, sampler=pf.samplers.DDIM(10), guidance=CFGPlusPlus(0.6)).shape
        torch.Size([4, 2])

    Source: Chung et al., CFG++: manifold-constrained classifier free guidance for diffusion models, 2024, arXiv 2406.08070, algorithm 2.
    """

    scale: float
    negative: Any = None
    interval: tuple[float, float] = (0.0, 1.0)
    times: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.scale <= 1:
            raise UserError(f"scale is {self.scale}, but the scale of CFG++ is from 0 to 1, such as 0.6; CFG takes larger ones.")

    @property
    def changes_nothing(self) -> bool:
        return False

    @property
    def needs_times(self) -> bool:
        return self.times is None

    def on(self, times: Sequence[float]) -> "CFGPlusPlus":
        return replace(self, times=tuple(dict.fromkeys(times)))  # some samplers evaluate the end of a step and the start of the next

    def combined(self, plain: Tensor, other: Tensor, path: Path, x: Tensor, t: Tensor) -> Tensor:
        if self.times is None:
            raise UserError("the scale of CFG++ depends on a sampler's steps, which are not known here; use on(times).")
        return torch.lerp(other, plain, per_row(self._scales(path, t).to(plain.dtype), plain))

    def _scales(self, path: Path, t: Tensor) -> Tensor:
        """Return the scale of classifier-free guidance (n,) at times (n,): that of the step which contains them."""
        times = torch.tensor(self.times, dtype=torch.float64, device=t.device)
        start, end = times[:-1], times[1:]
        kept = path.alpha(end) * path.sigma(start)
        at_data = kept.new_full((1,), self.scale)  # what is evaluated at the last time is the data prediction itself
        scales = torch.cat((self.scale * kept / (kept - path.alpha(start) * path.sigma(end)), at_data))
        # A time is rounded to float32 when it is compared: a step begins just above its start.
        return scales[(t.double()[:, None] <= end + 1e-4 * (start - end)).sum(1)]
