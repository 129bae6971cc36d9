"""PnP-Flow: the model as the denoiser of a plug-and-play method."""

from dataclasses import dataclass
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


@export("guidance.PnPFlow", example=lambda: PnPFlow(Linear(torch.tensor([[1.0, -1.0]]), 0.1), torch.zeros(1)))
@dataclass(frozen=True, eq=False, repr=False)
class PnPFlow(Loop):
    """Reconstruct the event by steps towards the measurement, each followed by fresh noise and denoising.

        x -> x + w_t^power (step down |y - A(x)|²),    w = sigma / (alpha + sigma)
        x -> mean over draws of E[x_0 | x_t = alpha_t x + sigma_t noise]

    It takes the place of a sampler: leave `sampler` out. Results are estimates of one event, near the posterior's mean, and no posterior
    samples: they vary too little, the less the more draws, and their intervals fail to cover. It needs no derivatives of the network, and
    `draws` evaluations a step.

    Args:
        measurement: A, any function; the deviation of its noise is not used.
        y: what was measured, of one event for all samples or of n, in the user's units; NaN where nothing was.
        guidance: the model's guidance by a condition: another guidance, a scale, or None.
        steps: number of steps.
        grid: the times of the steps.
        power: how fast the steps towards the measurement shrink; 1 is as fast as the noise.
        draws: noises to average over in each step.

    Raises:
        UserError: the model is not on a path of Gaussian noise, or an argument is out of range.
        ShapeError: measurement, y and the model's events do not fit each other.

    Example:
        >>> import pushforward as pf
        >>> model = pf.models.rectified_flow(pf.nn.MLP.Config((16,)), (2,))
        >>> total = pf.measurements.Linear(torch.ones(1, 2), noise=0.1)
        >>> model.sample(4, guidance=PnPFlow(total, torch.tensor([1.0]), steps=8)).shape
        torch.Size([4, 2])

    Source: Martin et al., PnP-Flow: plug-and-play image restoration with flow matching, 2024, arXiv 2410.02423, algorithm 3.
    Ours: a step towards the measurement is measured by the one to the minimum along the gradient, so that no step size depends on A.
    """

    power: float = 1.0
    draws: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        real("power", self.power, 0)
        whole("draws", self.draws, 1)

    def run(self, denoiser: Any, x: Tensor, times: list[float], generator: _random.Generators) -> Tensor:
        path = denoiser.path

        def denoised(state: Tensor, now: float) -> Tensor:
            data: Tensor = denoiser(state, state.new_full((len(state),), now, dtype=wide(state))).data
            return data.to(state.dtype)

        data = denoised(x, times[0])
        for now in times:
            t = x.new_full((len(x),), now, dtype=wide(x))
            share = per_row(noise_share(path, t) ** self.power, x).to(x.dtype)
            data = self.descended(data, share=share)
            states = [path.mix(data, _random.normal(x.shape, generator, x.device, x.dtype), t) for _ in range(self.draws)]
            data = torch.stack([denoised(state, now) for state in states]).mean(0)
        return data
