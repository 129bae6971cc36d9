"""What models of a Gaussian path share: the path with its interval and noise, the network, and dropped conditions."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from pushforward.bases import BaseDistribution, Gaussian
from pushforward.families.dropped import checked_drop_cond
from pushforward.families.model import GenerativeModel
from pushforward.families.path_noise import ends_of, noise_of
from pushforward.paths.path import Path
from pushforward.types import has_log_prob

LEFT = 1.5  # largest deviation of the base in units of the path's noise at its end


class OnPath(GenerativeModel):
    """A model of a network along a path x_t = alpha_t data + sigma_t noise.

    Args:
        net: the network.
        shape: shape of one event.
        path: the schedule.
        interval: (t_min, t_max) within the path's.
        base: the noise's distribution; None is N(0, sigma(t_max)²).
        drop_cond: share of samples whose condition is dropped in training.
        null: what a network of your own takes for no condition, or None.
        options: those of `GenerativeModel`.
    """

    watch: Callable[[Tensor, Tensor], None] | None = None  # called with the times (n,) and losses (n,) of each training batch

    def __init__(
        self,
        net: nn.Module | Callable[..., Tensor],
        shape: Sequence[int],
        path: Path,
        interval: tuple[float, float],
        base: Any = None,
        *,
        drop_cond: float = 0.0,
        null: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(shape, noise_of(path, shape, interval) if base is None else base, **options)
        self.net, self.path, self.interval, self.null = net, path, interval, null
        self.drop_cond = checked_drop_cond(drop_cond, self.conditioning, null)
        self._ends = None if isinstance(path, nn.Module) else ends_of(path, interval).tolist()

    @property
    def _sigmas(self) -> list[float]:
        """Sigma at both ends of the interval, with the current parameters of the path, if it has any."""
        ends: list[float] = ends_of(self.path, self.interval).tolist() if self._ends is None else self._ends
        return ends

    @property
    def _noise_scale(self) -> float:
        """The noise at the interval's end in units of the base's: 1 unless the interval ends before t = 1."""
        return self._sigmas[1]

    @property
    def gaussian(self) -> bool:
        """Whether the base is the Gaussian noise that the path ends at, as needed to draw noise of a lower level, or for a score.

        Its deviation may contain what is left of the data there. A distribution that is no base of this library counts as such noise too.
        """
        if isinstance(self.base, Gaussian):
            return 0.999 < self.base.std / self._noise_scale < LEFT
        return has_log_prob(self.base) and not isinstance(self.base, BaseDistribution)

    @property
    def _noise_left(self) -> bool:
        """Whether sigma is positive at the start of the interval."""
        return self._sigmas[0] > 1e-9

    def networks(self) -> list[nn.Module]:
        return [self.net] if isinstance(self.net, nn.Module) else []
