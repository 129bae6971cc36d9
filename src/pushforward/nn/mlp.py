"""Multilayer perceptrons."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pushforward._checks import whole, widths_of
from pushforward._precision import dtype_of
from pushforward.conditions import Conditioning
from pushforward.dispatch import dispatched
from pushforward.errors import UserError
from pushforward.functional.divergence import exact_divergence
from pushforward.functional.embedding import timestep_embedding
from pushforward.nn.activation import Activation, activation_of
from pushforward.nn.config import NetConfig, features_of
from pushforward.nn.embedding import Numbers, TimestepEmbedding, condition_embedding, no_interval
from pushforward.registry import export

# Low frequencies only (periods of at least 0.25 in t): the field stays smooth in time, so adaptive solvers take fewer steps.
SCALE, MAX_PERIOD = 25.0, 100.0


@export(
    "nn.MLP",
    example=lambda: (MLP(4, 4, (16, 16), time_features=8, classes=3), (torch.randn(5, 4), torch.rand(5), torch.tensor([0, 1, 2, 0, 1]))),
)
class MLP(nn.Module):
    """A multilayer perceptron; time and label shift every hidden layer.

        h_l = act(W_l h_(l-1) + b_l + A_l features(t) + B_l[label]),    output = W h_L + b

    Shapes: x (n, inputs), or (n, *shape) with `inputs` elements; the output has x's shape if outputs = inputs, else (n, outputs).

    Args:
        inputs: input features.
        outputs: output features.
        hidden: widths of the hidden layers.
        activation: "silu", "tanh", "relu", "elu" or "softplus".
        time_features: number of cosines and sines of t that each hidden layer receives, even; 0 for a network without time.
        classes: number of classes, or None.
        cond_features: length of condition vectors, used instead of labels, or None; images are taken as the vectors of their pixels.
        numbers: how many further numbers per sample it reads, called as net(x, t, cond, r=r, guidance=guidance): 1 is the length t - r of
            an interval, 4 also a guidance scale and its interval (n, 3); 0 is none.

    Raises:
        UserError: no hidden layer, an unknown activation, or an odd number of time features.
        ConditionError: both classes and cond_features.
    """

    @dataclass(frozen=True)
    class Config(NetConfig):
        """Settings of an MLP over vectors (or flattened events): widths, activation, time features, length of condition vectors."""

        hidden: tuple[int, ...] = (256, 256)
        activation: Activation = "silu"
        time_features: int = 16
        cond_features: int | None = None
        name: ClassVar[str] = "nn.MLP"

        def build(
            self,
            shape: Sequence[int],
            classes: int | None = None,
            outputs: int = 1,
            *,
            cond_features: int | None = None,
            cond_image: Sequence[int] | None = None,
            numbers: int = 0,
        ) -> "MLP":
            features = features_of(shape)
            options: Any = {"activation": self.activation, "time_features": self.time_features, "numbers": numbers}
            cond_features = self.cond_features if cond_features is None else cond_features
            length = Conditioning(classes, cond_features, cond_image).length
            return MLP(features, outputs * features, self.hidden, classes=classes, cond_features=length, **options)

    def __init__(
        self,
        inputs: int,
        outputs: int,
        hidden: Sequence[int] = (256, 256),
        *,
        activation: Activation = "silu",
        time_features: int = 0,
        classes: int | None = None,
        cond_features: int | None = None,
        numbers: int = 0,
    ) -> None:
        super().__init__()
        hidden = widths_of(hidden, "an MLP", (256, 256))
        if whole("time_features", time_features, 0) % 2:
            raise UserError(f"time_features is {time_features}, but cosines and sines come in pairs; make it even.")
        self.inputs, self.outputs, self.hidden, self.activation = inputs, outputs, tuple(hidden), activation
        self.act = activation_of(activation)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip([inputs, *hidden], hidden, strict=False))
        self.time_features = time_features
        self.time = nn.Linear(time_features, sum(hidden), bias=False) if time_features else None
        self.label: nn.Module = condition_embedding(sum(hidden), classes, cond_features)
        if numbers and not time_features:
            raise UserError(f"numbers is {numbers}, but this MLP reads no time, of which they are a part; give time_features=16.")
        self.numbers = Numbers(TimestepEmbedding(time_features, SCALE, MAX_PERIOD), sum(hidden), numbers) if numbers else None
        self.out = nn.Linear(hidden[-1], outputs)

    @dispatched
    def forward(
        self,
        x: Tensor,
        t: Tensor | None = None,
        cond: Tensor | None = None,
        r: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> Tensor:
        h = x.flatten(1)
        shifts = self._shifts(t, cond, x.shape[0], r, guidance)
        for k, layer in enumerate(self.layers):
            h = layer(h) if shifts is None else layer(h) + shifts[k]
            h = self.act(h)
        out: Tensor = self.out(h)
        return out.view(x.shape) if self.outputs == self.inputs and x.dim() != 2 else out

    @dispatched
    def value_and_divergence(self, x: Tensor, t: Tensor | None = None, cond: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the value and sum_i d f_i / d x_i (n,)."""
        return exact_divergence(lambda x: self(x, t, cond), x)

    def _shifts(self, t: Tensor | None, cond: Tensor | None, n: int, r: Tensor | None, guidance: Tensor | None) -> Sequence[Tensor] | None:
        """Return the shifts of the hidden layers by time and condition, (n, width) each, or None for none."""
        total = self.label(cond, n)
        if self.time is not None:
            if t is None:
                raise self.no_time()
            features = timestep_embedding(t, self.time_features, SCALE, MAX_PERIOD)
            by_time = self.time(features.to(dtype_of(self.time)))
            total = by_time if total is None else total + by_time
            if self.numbers is not None:
                total = total + self.numbers(t, r, guidance)
        if self.numbers is None and (r is not None or guidance is not None):
            raise no_interval()
        return None if total is None else total.split(self.hidden, dim=-1)

    @staticmethod
    def no_time() -> UserError:
        """Return the error for a call without the time that the network requires."""
        return UserError("this MLP reads the time, but none was given; call it as mlp(x, t) or build it with time_features=0.")
