"""Multilayer perceptrons, with a divergence that costs hardly more than the value."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pushforward.errors import UserError
from pushforward.functional.embedding import timestep_embedding
from pushforward.nn.config import NetConfig, features_of
from pushforward.nn.embedding import LabelEmbedding
from pushforward.registry import export

Activation = Literal["silu", "tanh", "relu", "elu", "softplus"]


def _silu(x: Tensor) -> tuple[Tensor, Tensor]:
    gate = torch.sigmoid(x)
    value = x * gate
    return value, torch.lerp(value, torch.ones_like(value[:1]), gate)  # value + gate (1 - value) in one pass


def _tanh(x: Tensor) -> tuple[Tensor, Tensor]:
    value = torch.tanh(x)
    return value, torch.addcmul(torch.ones_like(value), value, value, value=-1)


def _relu(x: Tensor) -> tuple[Tensor, Tensor]:
    return F.relu(x), (x > 0).to(x.dtype)


def _elu(x: Tensor) -> tuple[Tensor, Tensor]:
    value = F.elu(x)
    return value, value.clamp(max=0) + 1


def _softplus(x: Tensor) -> tuple[Tensor, Tensor]:
    return F.softplus(x), torch.sigmoid(x)


# Each activation, and the function that returns its value with its slope.
ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], tuple[Tensor, Tensor]]]] = {
    "silu": (F.silu, _silu),
    "tanh": (torch.tanh, _tanh),
    "relu": (F.relu, _relu),
    "elu": (F.elu, _elu),
    "softplus": (F.softplus, _softplus),
}


@export(
    "nn.MLP",
    example=lambda: (MLP(4, 4, (16, 16), time_features=8, classes=3), (torch.randn(5, 4), torch.rand(5), torch.tensor([0, 1, 2, 0, 1]))),
)
class MLP(nn.Module):
    """Linear maps with activations between; time and label shift every hidden layer.

        h_l = act(W_l h_(l-1) + b_l + A_l features(t) + B_l[label]),    output = W h_L + b

    Shapes: x (n, inputs) or (n, *shape) with inputs numbers; the output has x's shape when outputs = inputs, else (n, outputs).
    Its divergence needs no automatic differentiation (`value_and_divergence`).

    Args:
        inputs: numbers a sample.
        outputs: numbers it becomes.
        hidden: widths of the hidden layers.
        activation: "silu", "tanh", "relu", "elu" or "softplus".
        time_features: cosines and sines of t that each hidden layer reads, even; 0 for a network without time.
        classes: number of classes, or None.
    """

    @dataclass(frozen=True)
    class Config(NetConfig):
        """Settings of an MLP over vectors (or flattened events): the widths, the activation, the features of time."""

        hidden: tuple[int, ...] = (256, 256)
        activation: Activation = "silu"
        time_features: int = 16
        name: ClassVar[str] = "nn.MLP"

        def build(self, shape: Sequence[int], classes: int | None = None) -> "MLP":
            features = features_of(shape)
            return MLP(features, features, self.hidden, activation=self.activation, time_features=self.time_features, classes=classes)

    def __init__(
        self,
        inputs: int,
        outputs: int,
        hidden: Sequence[int] = (256, 256),
        *,
        activation: Activation = "silu",
        time_features: int = 0,
        classes: int | None = None,
    ) -> None:
        super().__init__()
        if not hidden or min(hidden) < 1:
            raise UserError(f"hidden is {tuple(hidden)}, but an MLP needs at least one hidden layer of at least 1 unit; try (256, 256).")
        if activation not in ACTIVATIONS:
            raise UserError(f"activation is {activation!r}, but it is one of {', '.join(ACTIVATIONS)}.")
        if time_features % 2:
            raise UserError(f"time_features is {time_features}, but cosines and sines come in pairs; make it even.")
        widths = [inputs, *hidden]
        self.inputs, self.outputs, self.hidden, self.activation = inputs, outputs, tuple(hidden), activation
        self.layers: Any = nn.ModuleList(nn.Linear(a, b) for a, b in zip(widths, hidden, strict=False))  # Any: else bare Modules to mypy
        self.time_features = time_features
        self.time = nn.Linear(time_features, sum(hidden), bias=False) if time_features else None
        self.label = LabelEmbedding(classes, sum(hidden))
        self.out = nn.Linear(widths[-1], outputs)

    def forward(self, x: Tensor, t: Tensor | None = None, cond: Tensor | None = None) -> Tensor:
        act = ACTIVATIONS[self.activation][0]
        h = x.flatten(1)
        for layer, shift in zip(self.layers, self._shifts(h, t, cond), strict=True):
            h = act(_shifted(layer, h, shift))
        return self._shaped(self.out(h), x)

    def value_and_divergence(self, x: Tensor, t: Tensor | None = None, cond: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the value and sum_i d f_i / d x_i (n,), by a trace of weights and slopes rather than by differentiation.

        With slopes s_l = act'(pre-activation), the Jacobian is W diag(s_L) W_L ... diag(s_1) W_1; for two hidden layers its trace is
        s_2' M s_1 with M = W_2 * (W_1 W)', one matrix product for the whole batch.
        """
        with_slope = ACTIVATIONS[self.activation][1]
        h = x.flatten(1)
        slopes = []
        for layer, shift in zip(self.layers, self._shifts(h, t, cond), strict=True):
            h, slope = with_slope(_shifted(layer, h, shift))
            slopes.append(slope)
        return self._shaped(self.out(h), x), self._trace(slopes)

    def _trace(self, slopes: list[Tensor]) -> Tensor:
        first, last = self.layers[0].weight, self.out.weight
        if len(slopes) == 1:
            return slopes[0] @ (first * last.T).sum(1)
        if len(slopes) == 2:
            middle = self.layers[1].weight * (first @ last).T
            return torch.linalg.vecdot(slopes[1], slopes[0] @ middle.T)
        tangents = slopes[0][:, None, :] * first.T  # (n, inputs, width): one row a direction
        for layer, slope in zip(self.layers[1:], slopes[1:], strict=True):
            tangents = tangents @ layer.weight.T * slope[:, None, :]
        return torch.einsum("nih,ih->n", tangents, last)

    def _shifts(self, h: Tensor, t: Tensor | None, cond: Tensor | None) -> Sequence[Tensor | None]:
        """Return what each hidden layer is shifted by: rows (n, width), or one row (1, width) when it is the same for all."""
        total = self.label(cond, h.shape[0] if cond is not None else 1)
        if self.time is not None:
            if t is None:
                raise UserError("this MLP reads the time, but none was given; call it as mlp(x, t) or build it with time_features=0.")
            t = t[:1] if _one_for_all(t) else t
            # Low frequencies alone (periods from 0.25 up, in t): the field stays smooth in time, which adaptive solvers reward.
            moved = self.time(timestep_embedding(t, self.time_features, scale=25.0, max_period=100.0).to(self.time.weight.dtype))
            total = moved if total is None else total + moved
        return [None] * len(self.hidden) if total is None else total.split(self.hidden, dim=1)

    def _shaped(self, out: Tensor, x: Tensor) -> Tensor:
        return out.view(x.shape) if self.outputs == self.inputs else out


def _shifted(layer: nn.Linear, h: Tensor, shift: Tensor | None) -> Tensor:
    """Return the layer's output, moved by a shift of each row (n, width) or by one of all (1, width), which costs no pass of its own."""
    if shift is None:
        return layer(h)
    if shift.shape[0] == 1:
        return F.linear(h, layer.weight, layer.bias + shift[0])
    return layer(h).add_(shift)


def _one_for_all(t: Tensor) -> bool:
    """Whether all rows have one time, as in every fixed-step solver: then its features are computed once (a quarter of a small MLP's call).

    Only where looking is cheap and nothing is differentiated: each row keeps its own derivative otherwise.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or t.device.type != "cpu" or len(t) < 2:
        return False
    return torch._C._functorch.maybe_current_level() is None and bool((t == t[0]).all())
