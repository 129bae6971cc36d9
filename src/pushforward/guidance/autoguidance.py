"""Autoguidance: extrapolation away from the prediction of a worse model of the same data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pushforward.errors import UserError
from pushforward.guidance.extrapolation import Extrapolation
from pushforward.registry import export
from pushforward.samplers.denoiser import Denoiser


@export("guidance.AutoGuidance", example=lambda: AutoGuidance(lambda x, t, cond: 0.9 * x, 2.0))
@dataclass(frozen=True, eq=False)
class AutoGuidance(Extrapolation):
    """Guidance of a model by a worse version of itself: smaller, trained for less time, or on fewer data.

        v = v_worse + scale (v - v_worse),    both with the same condition, or both without

    It corrects what the worse model does more wrongly than the model, without the loss of variety that a large scale of classifier-free
    guidance has, and needs no dropped conditions.

    Args:
        worse: a `PathModel` of the same data, or a network net(x, t, cond) that predicts what the model's network predicts, on its path.
        scale: 1 is no guidance; the paper uses 1.4 to 2.4.
        interval: times (low, high) at which to guide; outside them the plain prediction is used.

    Raises:
        UserError: interval is out of range, worse cannot be called, or is a model of another shape, path or units.

    Example:
        >>> import pushforward as pf
        >>> net = pf.nn.MLP.Config((16,))
        >>> model, early = pf.models.rectified_flow(net, (2,)), pf.models.rectified_flow(net, (2,))
        >>> model.sample(5, guidance=AutoGuidance(early, 2.0)).shape
        torch.Size([5, 2])

    Source: Karras et al., Guiding a diffusion model with a bad version of itself, 2024, arXiv 2406.02507, equation 3.
    """

    worse: Any
    scale: float = 2.0
    interval: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(self.worse):
            raise UserError(f"worse is {type(self.worse).__name__}, but it must be a model or a network net(x, t, cond).")

    @property
    def shares_condition(self) -> bool:
        return True

    def check_model(self, model: Any) -> None:
        """Raise an error unless a worse model has the path, the shape and the units of a model."""
        if not hasattr(self.worse, "denoiser"):
            return
        for name in ("shape", "path"):
            own, worse = getattr(model, name), getattr(self.worse, name)
            if own != worse:
                raise UserError(f"worse has the {name} {worse}, but the model has {own}; guide by a model of the same {name}.")
        own, worse = model.preprocess, self.worse.preprocess
        if type(own) is not type(worse) or not (own is None or _same(own.state_dict(), worse.state_dict())):
            raise UserError("worse has other units than the model, as their preprocess differs; train both on the same data.")

    def other(self, denoiser: Denoiser) -> Denoiser:
        """Return the denoiser of the worse model under the denoiser's condition."""
        make = getattr(self.worse, "denoiser", None)
        if make is None:
            return Denoiser(self.worse, denoiser.path, denoiser.prediction, denoiser.cond)
        other: Denoiser = make(denoiser.cond)
        return other


def _same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name].to(other[name]), other[name]) for name in one)
