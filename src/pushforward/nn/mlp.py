"""Multilayer perceptrons, with a divergence that costs hardly more than the value."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pushforward._modes import values_alone
from pushforward.errors import UserError
from pushforward.functional.embedding import frequencies
from pushforward.nn.config import NetConfig, features_of
from pushforward.nn.embedding import LabelEmbedding, VectorEmbedding
from pushforward.registry import export

Activation = Literal["silu", "tanh", "relu", "elu", "softplus"]


def _silu(x: Tensor, one: Tensor) -> tuple[Tensor, Tensor]:
    gate = torch.sigmoid(x)
    value = x * gate
    return value, torch.lerp(gate, one, value)  # gate + value (1 - gate) in one pass


def _silu_(x: Tensor, one: Tensor) -> tuple[Tensor, Tensor]:
    gate = torch.sigmoid(x)
    value = x.mul_(gate)
    return value, gate.lerp_(one, value)


def _tanh(x: Tensor, one: Tensor) -> tuple[Tensor, Tensor]:
    value = torch.tanh(x)
    return value, torch.addcmul(one, value, value, value=-1)


def _relu(x: Tensor, one: Tensor) -> tuple[Tensor, Tensor]:
    return F.relu(x), (x > 0).to(x.dtype)


def _elu(x: Tensor, one: Tensor) -> tuple[Tensor, Tensor]:
    value = F.elu(x)
    return value, value.clamp(max=0) + 1


def _softplus(x: Tensor, one: Tensor) -> tuple[Tensor, Tensor]:
    return F.softplus(x), torch.sigmoid(x)


class _Act(NamedTuple):
    """An activation; one that also returns its slope, called with x and the tensor 1; the same two where they may overwrite x."""

    value: Callable[[Tensor], Tensor]
    with_slope: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    value_: Callable[[Tensor], Tensor]
    with_slope_: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


ACTIVATIONS = {
    "silu": _Act(F.silu, _silu, torch._C._nn.silu_, _silu_),  # without F.silu's detour
    "tanh": _Act(torch.tanh, _tanh, torch.tanh_, _tanh),
    "relu": _Act(F.relu, _relu, torch.relu_, _relu),
    "elu": _Act(F.elu, _elu, partial(F.elu, inplace=True), _elu),
    "softplus": _Act(F.softplus, _softplus, F.softplus, _softplus),
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
        cond_features: length of condition vectors, which take the labels' place, or None.

    Raises:
        UserError: no hidden layer, an unknown activation, an odd number of time features, or both classes and cond_features.
    """

    @dataclass(frozen=True)
    class Config(NetConfig):
        """Settings of an MLP over vectors (or flattened events): widths, activation, features of time, length of condition vectors."""

        hidden: tuple[int, ...] = (256, 256)
        activation: Activation = "silu"
        time_features: int = 16
        cond_features: int | None = None
        name: ClassVar[str] = "nn.MLP"

        def build(self, shape: Sequence[int], classes: int | None = None, outputs: int = 1) -> "MLP":
            features = features_of(shape)
            options: Any = {"activation": self.activation, "time_features": self.time_features, "cond_features": self.cond_features}
            return MLP(features, outputs * features, self.hidden, classes=classes, **options)

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
    ) -> None:
        super().__init__()
        if classes is not None and cond_features is not None:
            raise UserError(
                f"classes is {classes} and cond_features {cond_features}, but a condition is labels or vectors; give one of them."
            )
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
        self.label: Any = LabelEmbedding(classes, sum(hidden)) if cond_features is None else VectorEmbedding(cond_features, sum(hidden))
        self.out = nn.Linear(widths[-1], outputs)
        self.unlabelled = classes is None and cond_features is None

    def forward(self, x: Tensor, t: Tensor | None = None, cond: Tensor | None = None) -> Tensor:
        return self._value(self._constants(), x, t, cond)

    def value_and_divergence(self, x: Tensor, t: Tensor | None = None, cond: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the value and sum_i d f_i / d x_i (n,), by a trace of weights and slopes rather than by differentiation.

        With slopes s_l = act'(pre-activation), the Jacobian is W diag(s_L) W_L ... diag(s_1) W_1; for two hidden layers its trace is
        s_2' M s_1 with M = W_2 * (W_1 W)', one matrix product for the whole batch.
        """
        return self._value_and_divergence(self._constants(trace=True), x, t, cond)

    def prepared(self, times: Sequence[float] | None = None) -> "Prepared":
        """Return the same function with what depends on the weights alone computed once, for a solver that calls it many times.

        Args:
            times: all t that it will be asked for, each of them the same for a whole batch; None where they are not known.
        """
        return Prepared(self, self._constants(trace=True, ready=not torch.is_grad_enabled(), times=times))

    def _value(self, constants: "_Constants", x: Tensor, t: Tensor | None, cond: Tensor | None) -> Tensor:
        act = constants.act.value if torch.is_grad_enabled() else constants.act.value_
        h = x if x.dim() == 2 else x.flatten(1)
        for matrix, bias in zip(constants.matrices, self._biases(constants, x, t, cond), strict=True):
            h = act(torch.addmm(bias, h, matrix))
        return self._shaped(torch.addmm(constants.bias, h, constants.last), x)

    def _value_and_divergence(self, constants: "_Constants", x: Tensor, t: Tensor | None, cond: Tensor | None) -> tuple[Tensor, Tensor]:
        act = constants.act.with_slope if torch.is_grad_enabled() else constants.act.with_slope_
        h = x if x.dim() == 2 else x.flatten(1)
        slopes = []
        for matrix, bias in zip(constants.matrices, self._biases(constants, x, t, cond), strict=True):
            h, slope = act(torch.addmm(bias, h, matrix), constants.one)
            slopes.append(slope)
        return self._shaped(torch.addmm(constants.bias, h, constants.last), x), self._trace(constants, slopes)

    def _trace(self, constants: "_Constants", slopes: list[Tensor]) -> Tensor:
        if len(slopes) == 1:
            return slopes[0] @ constants.middle
        if len(slopes) == 2:
            return torch.linalg.vecdot(slopes[1], slopes[0] @ constants.middle)
        tangents = slopes[0][:, None, :] * self.layers[0].weight.T  # (n, inputs, width): one row a direction
        for layer, slope in zip(self.layers[1:], slopes[1:], strict=True):
            tangents = tangents @ layer.weight.T * slope[:, None, :]
        return torch.einsum("nih,ih->n", tangents, self.out.weight)

    def _constants(self, trace: bool = False, ready: bool = False, times: Sequence[float] | None = None) -> "_Constants":
        first, *inner, last = (layer.weight for layer in (*self.layers, self.out))
        middle = last
        if trace and not inner:
            middle = (first * last.T).sum(1)
        elif trace and len(inner) == 1:
            middle = (inner[0] * (last.T @ first.T)).T
        matrices = [weight.T for weight in (first, *inner, last)]
        biases = torch.cat([layer.bias for layer in self.layers])
        # Low frequencies alone (periods from 0.25 up, in t): the field stays smooth in time, which adaptive solvers reward.
        rates = frequencies(self.time_features, scale=25.0, max_period=100.0)
        rates = rates.to(biases.device, torch.promote_types(biases.dtype, torch.float32))
        at: dict[float, tuple[Tensor, ...]] = {}
        # Elsewhere than on a CPU asking for t would stall the queue.
        if ready and times is not None and self.time is not None and biases.device.type == "cpu":
            t = torch.tensor(times, dtype=rates.dtype)
            shifted = torch.addmm(biases, self._features(t[:, None] * rates), self.time.weight.T)
            at = dict(zip(t.tolist(), zip(*(part.unbind() for part in shifted.split_with_sizes(self.hidden, 1)), strict=True), strict=True))
        *hidden, out = [matrix.contiguous() for matrix in matrices] if ready else matrices
        return _Constants(ACTIVATIONS[self.activation], hidden, out, self.out.bias, biases, rates, middle, biases.new_ones(()), at)

    def _biases(self, constants: "_Constants", x: Tensor, t: Tensor | None, cond: Tensor | None) -> Sequence[Tensor]:
        """Return what is added in each hidden layer: rows (n, width), or one (width,) where it is the same for all."""
        known = constants.at.get(t[0].item()) if constants.at and t is not None and t.numel() else None
        if known is not None and cond is None and self.unlabelled:
            return known
        total = constants.biases if known is None else torch.cat(known)
        label = self.label(cond, len(x) if cond is not None else 1)
        if label is not None:
            total = total + (label if cond is not None else label[0])
        if self.time is not None and known is None:
            if t is None:
                raise UserError("this MLP reads the time, but none was given; call it as mlp(x, t) or build it with time_features=0.")
            t = t.to(constants.frequencies.dtype)
            if _one_for_all(t):
                total = total + self.time.weight @ self._features(t[0] * constants.frequencies)
            else:
                features = self._features(t[:, None] * constants.frequencies)
                total = torch.addmm(total, features, self.time.weight.T)
        return total.split_with_sizes(self.hidden, -1)

    def _features(self, phase: Tensor) -> Tensor:
        assert self.time is not None
        return torch.cat((phase.cos(), phase.sin()), dim=-1).to(self.time.weight.dtype)

    def _shaped(self, out: Tensor, x: Tensor) -> Tensor:
        return out.view(x.shape) if self.outputs == self.inputs and x.dim() != 2 else out


class _Constants(NamedTuple):
    """What depends on the weights alone."""

    act: _Act
    matrices: Sequence[Tensor]  # of the hidden layers (inputs, outputs)
    last: Tensor  # the output's matrix
    bias: Tensor  # the output's bias
    biases: Tensor  # of all hidden layers, in one row
    frequencies: Tensor  # of time
    middle: Tensor  # of the trace
    one: Tensor
    at: Mapping[float, tuple[Tensor, ...]]  # each layer's bias with what times add that are known beforehand


class Prepared:
    """An MLP whose weights stay as they are while this is used (see `MLP.prepared`)."""

    def __init__(self, mlp: MLP, constants: _Constants) -> None:
        self.mlp, self.constants = mlp, constants

    def __call__(self, x: Tensor, t: Tensor | None = None, cond: Tensor | None = None) -> Tensor:
        """Return the MLP's value."""
        return self.mlp._value(self.constants, x, t, cond)

    def value_and_divergence(self, x: Tensor, t: Tensor | None = None, cond: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the MLP's value and divergence."""
        return self.mlp._value_and_divergence(self.constants, x, t, cond)


def _one_for_all(t: Tensor) -> bool:
    """Whether all rows have one time, as in every fixed-step solver: then its features are computed once (a quarter of a small MLP's call).

    Only where looking is cheap and nothing is differentiated: each row keeps its own derivative otherwise.
    """
    return values_alone() and t.device.type == "cpu" and len(t) > 1 and bool((t == t[0]).all())
