"""Tweedie's formula as a sampler: one step from noisy data to the expected clean data."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pushforward import _random
from pushforward.registry import export
from pushforward.samplers.sampler import Sampler
from pushforward.samplers.state import State


@export("samplers.Tweedie")
@dataclass(frozen=True)
class Tweedie(Sampler):
    """Return the expected data in one step.

        E[x_0 | x_t] = (x_t + sigma² grad log p_t(x_t)) / alpha

    For a normalizing flow trained on noisy data (`noise=`) it removes that noise from the samples, with the flow's own score; for a path
    model it is one step to the data prediction, the posterior mean of the data.

    Source: Robbins, An empirical Bayes approach to statistics, 1956; Zhai et al., 2024, arXiv 2412.06329, equation 8.
    """

    @property
    def evaluations(self) -> int:
        return 1

    def __call__(
        self, denoiser: Callable[[Tensor, Tensor], Any], x: Tensor, t_start: float, t_end: float, generator: _random.Generators = None
    ) -> Tensor:
        (state,) = self._states(denoiser, x, t_start, t_end, generator)
        return state.x

    def _states(
        self, denoiser: Callable[[Tensor, Tensor], Any], x: Tensor, t_start: float, t_end: float, generator: _random.Generators
    ) -> Iterator[State]:
        prediction = denoiser(x, x.new_full((x.shape[0],), t_start))
        yield State(t_end, prediction.data, prediction)
