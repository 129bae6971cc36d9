"""The function that samplers call: a denoiser maps (x, t) to a prediction, available as velocity, data, noise or score."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from pushforward._checks import like_input
from pushforward.dispatch import ability
from pushforward.functional.prediction import Kind
from pushforward.paths.path import Path
from pushforward.paths.prediction import Prediction
from pushforward.registry import export


@export("samplers.Denoiser")
class Denoiser:
    """A network, its path and its condition as one function of (x, t).

    `args` are its per-sample arguments, and `bind(*args)` returns the same denoiser with other arguments: an adaptive solver uses this to
    index the condition together with the batch.

    Args:
        net: called as net(x, t, cond).
        path: the path it was trained on.
        prediction: what it predicts: "velocity", "noise", "data" or "score", or "v" on a variance preserving path.
        cond: condition of each sample, or None.

    Raises:
        ShapeError: the network returns a shape other than x's.

    Example:
        >>> import torch
        >>> from pushforward.paths import Linear
        >>> still = Denoiser(lambda x, t, cond: torch.zeros_like(x), Linear())
        >>> still(torch.ones(2, 3), torch.rand(2)).velocity.sum()
        tensor(0.)
    """

    def __init__(self, net: Callable[..., Tensor], path: Path, prediction: Kind = "velocity", cond: Any = None) -> None:
        self.net, self.path, self.prediction, self.cond = net, path, prediction, cond

    @property
    def args(self) -> tuple[Any, ...]:
        """The per-sample arguments: the condition."""
        return (self.cond,)

    def bind(self, cond: Any) -> "Denoiser":
        """Return the same denoiser under another condition."""
        return Denoiser(self.net, self.path, self.prediction, cond)

    def __call__(self, x: Tensor, t: Tensor) -> Prediction:
        """Return the prediction at x (n, *shape) and t (n,)."""
        return Prediction(self.path, self.prediction, like_input(self.net(x, t, self.cond), x), x, t)

    def with_variance(self, x: Tensor, t: Tensor) -> Prediction:
        """Return the prediction, with the reverse variance if the network predicts it (`nn.WithVariance`)."""
        own = ability(self.net, "with_variance")
        if own is None:
            return self(x, t)
        value, share = own(x, t, self.cond)
        return Prediction(self.path, self.prediction, like_input(value, x), x, t, like_input(share, x))
