"""The base classes of guidance: it maps a denoiser to a guided denoiser, which samplers and solvers call like any other."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_map_only

from pushforward._checks import CheckedNumbers
from pushforward.errors import ConditionError
from pushforward.paths.path import Path
from pushforward.paths.prediction import Prediction
from pushforward.registry import export
from pushforward.samplers.denoiser import Denoiser
from pushforward.samplers.sampler import Sampler


class Guided:
    """A denoiser made from another one; `args` are its per-sample arguments, and `bind(*args)` returns a copy with others."""

    path: Path

    @property
    def args(self) -> tuple[Any, ...]:
        """The per-sample arguments, such as conditions."""
        raise NotImplementedError

    def bind(self, *args: Any) -> "Guided":
        """Return a copy with these per-sample arguments."""
        raise NotImplementedError

    def __call__(self, x: Tensor, t: Tensor) -> Prediction:
        """Return the guided prediction at x (n, *shape) and t (n,)."""
        return self.around(self.plain(x, t), x, t)

    def plain(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the conditional velocity without guidance."""
        raise NotImplementedError

    def around(self, plain: Tensor, x: Tensor, t: Tensor) -> Prediction:
        """Return the guided prediction, given the conditional velocity, so that nested guidance evaluates it only once."""
        raise NotImplementedError


def plain_of(inner: Denoiser | Guided, x: Tensor, t: Tensor) -> Tensor:
    """Return the conditional velocity of a (guided) denoiser, without guidance."""
    return inner.plain(x, t) if isinstance(inner, Guided) else inner(x, t).velocity


def around_inner(inner: Denoiser | Guided, plain: Tensor, x: Tensor, t: Tensor) -> Prediction:
    """Return the prediction of a (guided) denoiser, given its conditional velocity."""
    return inner.around(plain, x, t) if isinstance(inner, Guided) else Prediction(inner.path, "velocity", plain, x, t)


@export("guidance.Guidance")
class Guidance(CheckedNumbers):
    """Guidance of a denoiser; to add one, implement `__call__`, and `rows` and `prepared` if it holds per-sample data or conditions.

    Pass it to a model as `guidance=`; a float there means `CFG(scale)`.
    """

    @property
    def needs_unconditional(self) -> bool:
        """Whether it uses the model's unconditional prediction, for which training must have dropped conditions."""
        return False

    def __call__(self, denoiser: Denoiser) -> "Denoiser | Guided":
        """Return the guided denoiser."""
        raise NotImplementedError

    def rows(self, rows: slice, n: int) -> "Guidance":
        """Return the guidance for some samples of a batch of n."""
        return self

    def prepared(self, prepare: Callable[[Any], Any]) -> "Guidance":
        """Return the guidance with its conditions passed through the network's first maps, which do not depend on time."""
        return self

    @property
    def shares_condition(self) -> bool:
        """Whether it passes the samples' condition on to another network than the model's."""
        return False

    def check_model(self, model: Any) -> None:
        """Raise an error if it cannot guide this model."""

    def on_model(self, model: Any, units: Any = None) -> "Guidance":
        """Return the guidance for a model, with data of its own in the model's units, or raise an error if it cannot guide it.

        Args:
            model: the model.
            units: how the model's data become the user's, None for `model.units`.
        """
        self.check_model(model)
        return self

    @property
    def sampler(self) -> Sampler | None:
        """The steps of a method that is a loop of its own, in place of a sampler's; None for all others."""
        return None

    @property
    def has_density(self) -> bool:
        """Whether the log-density of samples under it is that of the distribution they are meant to have."""
        return True

    @property
    def needs_times(self) -> bool:
        """Whether it depends on the times of a sampler's steps, which `on` sets."""
        return False

    def on(self, times: Sequence[float]) -> "Guidance | None":
        """Return the guidance for the n + 1 times of a sampler's n steps, in the order of sampling; None if it does nothing there."""
        return self


def cut(value: Any, rows: slice, n: int, what: str) -> Any:
    """Return some rows of per-sample data of guidance: None, a tensor or a pytree of tensors.

    Raises:
        ConditionError: its leading dimension is not n.
    """

    def part(leaf: Tensor) -> Tensor:
        if leaf.ndim == 0 or len(leaf) != n:
            raise ConditionError(f"{what} has shape {tuple(leaf.shape)}, but its leading dimension must be {n}, one row per sample.")
        return leaf[rows]

    return tree_map_only(Tensor, part, value)
