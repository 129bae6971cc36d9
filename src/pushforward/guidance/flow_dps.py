"""FlowDPS: the expected data of a flow are moved towards the measurement, and the noise is partly drawn again."""

from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

from pushforward import _random
from pushforward._checks import real, whole
from pushforward._precision import wide
from pushforward.functional.prediction import per_row
from pushforward.guidance.loop import Loop, noise_share
from pushforward.measurements.linear import Linear
from pushforward.registry import export


@export("guidance.FlowDPS", example=lambda: FlowDPS(Linear(torch.tensor([[1.0, -1.0]]), 0.1), torch.zeros(1)))
@dataclass(frozen=True, eq=False, repr=False)
class FlowDPS(Loop):
    """Sample with data moved towards the measurement and noise partly drawn again, without derivatives of the network.

        m = E[x_0 | x_t],    m' = m after `inner` steps down |y - A(m)|²,    m_y = (1 - w_t) m + w_t m'
        x_s = alpha_s m_y + sigma_s (sqrt(w_s) E[noise | x_t] + sqrt(1 - w_s) fresh),    w = sigma / (alpha + sigma), t on the linear path

    It takes the place of a sampler: leave `sampler` out. An evaluation costs the model's own, and of the measurement three for each inner
    step. The mixture of m and m' is a heuristic, so that samples are not the posterior's: they under-cover, the more the less noise the
    measurement has.

    Args:
        measurement: A, any function; the deviation of its noise is not used.
        y: what was measured, of one event for all samples or of n, in the user's units; NaN where nothing was.
        guidance: the model's guidance by a condition: another guidance, a scale, or None.
        steps: number of evaluations of the model.
        grid: the times of the steps.
        inner: number of gradient steps in each.
        step: length of a gradient step along the gradient of |y - A(m)|, as in the paper's code, which uses 30 for latents of Stable
            Diffusion 3; None goes to the minimum along the gradient.

    Raises:
        UserError: the model is not on a path of Gaussian noise, or an argument is out of range.
        ShapeError: measurement, y and the model's events do not fit each other.

    Example:
        >>> import pushforward as pf
        >>> model = pf.models.rectified_flow(pf.nn.MLP.Config((16,)), (2,))
        >>> total = pf.measurements.Linear(torch.ones(1, 2), noise=0.1)
        >>> model.sample(4, guidance=FlowDPS(total, torch.tensor([1.0]), steps=8)).shape
        torch.Size([4, 2])

    Source: Kim et al., FlowDPS: flow-driven posterior sampling for inverse problems, 2025, arXiv 2503.08136, algorithm 1.
    """

    inner: int = 3
    step: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("inner", self.inner, 1)
        if self.step is not None:
            real("step", self.step, 0, hint="None goes to the minimum along the gradient")

    def run(self, denoiser: Any, x: Tensor, times: list[float], generator: _random.Generators) -> Tensor:
        path = denoiser.path
        data = x
        for now, after in zip_longest(times, times[1:]):
            t = x.new_full((len(x),), now, dtype=wide(x))
            prediction = denoiser(x, t)
            data = prediction.data.to(x.dtype)
            near = self.descended(data, self.inner, step=self.step)
            data = torch.lerp(data, near, per_row(noise_share(path, t), x).to(x.dtype))
            if after is None:
                break  # the last step is to the data
            s = torch.full_like(t, after)
            kept = per_row(noise_share(path, s), x).to(x.dtype)
            fresh = _random.normal(x.shape, generator, x.device, x.dtype)
            x = path.mix(data, kept.sqrt() * prediction.noise.to(x.dtype) + (1 - kept).sqrt() * fresh, s)
        return data
