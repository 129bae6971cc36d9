"""What all guidance shares: a denoiser in, a guided denoiser out, which samplers and solvers call as they call any other."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_map_only

from pushforward.errors import ConditionError
from pushforward.paths import Path, Prediction
from pushforward.registry import export
from pushforward.samplers.denoiser import Denoiser


class Guided:
    """A denoiser made of another one. `args` is what it reads for each sample, and `bind(*args)` is itself with other such."""

    path: Path

    @property
    def args(self) -> tuple[Any, ...]:
        """What is read for each sample."""
        raise NotImplementedError

    def bind(self, *args: Any) -> "Guided":
        """Return the same guidance that reads these."""
        raise NotImplementedError

    def __call__(self, x: Tensor, t: Tensor) -> Prediction:
        """Return the guided prediction at x (n, *shape) and t (n,)."""
        return self.around(self.plain(x, t), x, t)

    def plain(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the velocity under the condition alone."""
        raise NotImplementedError

    def around(self, plain: Tensor, x: Tensor, t: Tensor) -> Prediction:
        """Return the guided prediction, given the velocity under the condition alone: guidance around guidance asks for it once."""
        raise NotImplementedError


@export("guidance.Guidance")
class Guidance:
    """A way to steer a denoiser; to add one, write `__call__`, and `rows` and `prepared` where it holds rows or conditions.

    A model takes it where it takes `guidance=`; a float there is `CFG(scale)`.
    """

    @property
    def needs_unconditional(self) -> bool:
        """Whether it asks the model for its prediction without a condition, which training must then have left out at times."""
        return False

    def __call__(self, denoiser: Denoiser) -> "Denoiser | Guided":
        """Return the guided denoiser."""
        raise NotImplementedError

    def rows(self, rows: slice, n: int) -> "Guidance":
        """Return the guidance of some samples of a batch of n."""
        return self

    def prepared(self, prepare: Callable[[Any], Any]) -> "Guidance":
        """Return the guidance whose conditions went through the network's own first maps, which do not depend on time."""
        return self


def cut(value: Any, rows: slice, n: int, what: str) -> Any:
    """Return the rows of what guidance holds for each of n samples: None, a tensor or a pytree of tensors.

    Raises:
        ConditionError: its leading dimension is not n.
    """

    def part(leaf: Tensor) -> Tensor:
        if leaf.ndim == 0 or len(leaf) != n:
            raise ConditionError(f"{what} has shape {tuple(leaf.shape)}, but its leading dimension must be {n}, one row a sample.")
        return leaf[rows]

    return tree_map_only(Tensor, part, value)
