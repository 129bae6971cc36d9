"""An MLP computed from its matrices: all hidden biases in one row, and a divergence that costs hardly more than the value."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pushforward._modes import values_alone
from pushforward._precision import wide
from pushforward.dispatch import fast_way, known, reads_parts
from pushforward.fast.parts import CONDITIONS, returns_rows
from pushforward.functional.embedding import frequencies
from pushforward.nn.activation import ACTIVATIONS
from pushforward.nn.embedding import Numbers, TimeNet, TimestepEmbedding
from pushforward.nn.mlp import MAX_PERIOD, MLP, SCALE

known(*CONDITIONS, Numbers, TimeNet, TimestepEmbedding)


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
    """An activation; a version that also returns its slope, called with x and the tensor 1; and both in place."""

    value: Callable[[Tensor], Tensor]
    with_slope: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    value_: Callable[[Tensor], Tensor]
    with_slope_: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


ACTS = {
    "silu": _Act(F.silu, _silu, torch._C._nn.silu_, _silu_),  # without the overhead of F.silu
    "tanh": _Act(torch.tanh, _tanh, torch.tanh_, _tanh),
    "relu": _Act(F.relu, _relu, torch.relu_, _relu),
    "elu": _Act(F.elu, _elu, partial(F.elu, inplace=True), _elu),
    "softplus": _Act(F.softplus, _softplus, F.softplus, _softplus),
}
_kept: dict[tuple[int, torch.dtype, torch.device], Tensor] = {}  # frequencies of time


def _built(mlp: Any) -> bool:
    """Return whether the parts are those that an MLP makes: what is read of them is then all that they compute."""
    state, modules = mlp.__dict__, mlp._modules
    layers, widths = modules["layers"]._modules, state["hidden"]
    if state.get("act") is not ACTIVATIONS.get(state["activation"]) or len(layers) != len(widths):
        return False
    dtype = None
    for layer, width in zip((*layers.values(), modules["out"]), (*widths, state["outputs"]), strict=True):
        if type(layer) is not nn.Linear:
            return False
        held = layer._parameters
        bias = held.get("bias")
        # They are read as one row, which would have another dtype or be split at other places.
        if bias is None or bias.numel() != width or (dtype is not None and bias.dtype is not dtype) or "weight" not in held:
            return False
        dtype = bias.dtype
    label = modules.get("label")
    if type(label) not in CONDITIONS or (label.conditional and not returns_rows(label, sum(widths))):
        return False
    features = state["time_features"]
    if not features:  # a part that is None is no module
        return mlp.time is None
    numbers, like = modules.get("numbers"), (features * sum(widths), dtype)
    own = numbers is None or (type(numbers) is Numbers and all(_embedded(net, features, *like) for net in numbers.nets))
    return own and _matrix(modules.get("time"), *like)


def _matrix(layer: Any, size: int, dtype: Any) -> bool:
    if type(layer) is not nn.Linear or layer._parameters.get("bias", layer) is not None:
        return False
    weight = layer._parameters.get("weight")
    return weight is not None and weight.numel() == size and weight.dtype is dtype


def _embedded(net: Any, features: int, size: int, dtype: Any) -> bool:
    """Return whether the embedding of a number is that of the time, times a matrix."""
    if type(net) is not TimeNet or len(net) != 2 or type(net[0]) is not TimestepEmbedding:
        return False
    return _matrix(net[1], size, dtype) and (net[0].features, net[0].scale, net[0].max_period) == (features, SCALE, MAX_PERIOD)


reads_parts(MLP, _built)


def _eager() -> bool:
    return not torch.compiler.is_compiling()  # a compiler merges the operations itself


@fast_way(MLP, "forward", when=_eager, inside=True)
def forward(
    mlp: Any, x: Tensor, t: Tensor | None = None, cond: Tensor | None = None, r: Tensor | None = None, guidance: Tensor | None = None
) -> Tensor:
    """Return the MLP's output, with the time features computed once if all rows share the times.

    With further numbers, one product has all shifts, which otherwise take as long as the layers: also in training.
    """
    if mlp.numbers is None:
        return _value(mlp, _constants(mlp), x, t, cond) if values_alone() and r is None and guidance is None else NotImplemented
    if t is None:
        return NotImplemented
    times = [t, *mlp.numbers.read(t, r, guidance)]
    if any(one.shape != x.shape[:1] for one in times):
        return NotImplemented
    return _value(mlp, _constants(mlp), x, torch.stack(times, dim=1), cond)


@fast_way(MLP, "value_and_divergence")
def value_and_divergence(mlp: MLP, x: Tensor, t: Tensor | None = None, cond: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the value and sum_i d f_i / d x_i (n,), as a trace of weights and slopes instead of by automatic differentiation.

    With slopes s_l = act'(pre-activation), the Jacobian is W diag(s_L) W_L ... diag(s_1) W_1; for two hidden layers its trace is
    s_2' M s_1 with M = W_2 * (W_1 W)', one matrix product for the entire batch.
    """
    if mlp.numbers is not None or mlp.outputs != mlp.inputs:
        return NotImplemented
    return _value_and_divergence(mlp, _constants(mlp, trace=True), x, t, cond)


class Prepared:
    """An MLP with precomputed terms that depend only on the weights, for a solver that calls it many times with fixed weights.

    Args:
        mlp: the network.
        times: all t at which it will be called, each the same for all rows; None if they are not known.
    """

    def __init__(self, mlp: MLP, times: Sequence[float] | None = None) -> None:
        self.mlp, self.constants = mlp, _constants(mlp, mlp.outputs == mlp.inputs, not torch.is_grad_enabled(), times)

    def __call__(self, x: Tensor, t: Tensor | None = None, cond: Tensor | None = None) -> Tensor:
        """Return the MLP's output."""
        return _value(self.mlp, self.constants, x, t, cond)

    def value_and_divergence(self, x: Tensor, t: Tensor | None = None, cond: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the MLP's output and divergence."""
        if self.mlp.outputs != self.mlp.inputs:
            return self.mlp.value_and_divergence(x, t, cond)  # the plain method's error
        return _value_and_divergence(self.mlp, self.constants, x, t, cond)


@fast_way(MLP, "prepared")
def prepared(mlp: MLP, times: Sequence[float] | None = None) -> MLP | Prepared:
    """Return the MLP prepared for many calls; one that reads further numbers as it is."""
    return Prepared(mlp, times) if mlp.numbers is None else mlp


class _Constants(NamedTuple):
    """Terms that depend only on the weights."""

    act: _Act
    matrices: Sequence[Tensor]  # of the hidden layers (inputs, outputs)
    last: Tensor  # the output's matrix
    bias: Tensor  # the output's bias
    biases: Tensor  # of all hidden layers, in one row
    times: Any  # the matrix of the features of time, and of further numbers (width, features), or None
    frequencies: Tensor  # of time
    middle: Tensor  # of the trace
    one: Tensor
    at: Mapping[float, tuple[Tensor, ...]]  # each layer's bias plus the shift by time, for times known in advance


def _constants(mlp: Any, trace: bool = False, ready: bool = False, times: Sequence[float] | None = None) -> _Constants:
    first, *inner, last = (layer.weight for layer in (*mlp.layers, mlp.out))
    middle = last
    if trace and not inner:
        middle = (first * last.T).sum(1)
    elif trace and len(inner) == 1:
        middle = (inner[0] * (last.T @ first.T)).T
    matrices = [weight.T for weight in (first, *inner, last)]
    biases = torch.cat([layer.bias for layer in mlp.layers])
    rates = _rates(mlp.time_features, biases)
    at: dict[float, tuple[Tensor, ...]] = {}
    # On other devices than the CPU, reading t would synchronise.
    if ready and times is not None and mlp.time is not None and biases.device.type == "cpu":
        t = torch.tensor(times, dtype=rates.dtype)
        shifted = torch.addmm(biases, _features(mlp, t, rates), mlp.time.weight.T)
        at = dict(zip(t.tolist(), zip(*(part.unbind() for part in shifted.split_with_sizes(mlp.hidden, 1)), strict=True), strict=True))
    *hidden, out = [matrix.contiguous() for matrix in matrices] if ready else matrices
    by_time: Any = None if mlp.time is None else mlp.time.weight
    if mlp.numbers is not None:
        by_time = torch.cat((by_time, *(net[1].weight for net in mlp.numbers.nets)), dim=1)
    return _Constants(ACTS[mlp.activation], hidden, out, mlp.out.bias, biases, by_time, rates, middle, biases.new_ones(()), at)


def _rates(features: int, like: Tensor) -> Tensor:
    """Return the frequencies of time, cached where nothing traces or transforms: computing them takes as long as a layer."""
    if type(like) is not Tensor or not values_alone():
        return frequencies(features, SCALE, MAX_PERIOD).to(like.device, wide(like))
    key = features, like.dtype, like.device
    kept = _kept.get(key)
    if kept is None:
        with torch.inference_mode(False):  # they are also used where gradients are
            kept = _kept[key] = frequencies(features, SCALE, MAX_PERIOD).to(like.device, wide(like))
    return kept


def _value(mlp: MLP, constants: _Constants, x: Tensor, t: Tensor | None, cond: Tensor | None) -> Tensor:
    act = constants.act.value if torch.is_grad_enabled() else constants.act.value_
    h = x if x.dim() == 2 else x.flatten(1)
    for matrix, bias in zip(constants.matrices, _biases(mlp, constants, x, t, cond), strict=True):
        own = bias.shape[:-1] == h.shape[:-1] and values_alone()  # each row's shifts are of this call: the values take their place
        h = act(bias.addmm_(h, matrix) if own else torch.addmm(bias, h, matrix))
    return _shaped(mlp, torch.addmm(constants.bias, h, constants.last), x)


def _value_and_divergence(mlp: MLP, constants: _Constants, x: Tensor, t: Tensor | None, cond: Tensor | None) -> tuple[Tensor, Tensor]:
    act = constants.act.with_slope if torch.is_grad_enabled() else constants.act.with_slope_
    h = x if x.dim() == 2 else x.flatten(1)
    slopes = []
    for matrix, bias in zip(constants.matrices, _biases(mlp, constants, x, t, cond), strict=True):
        h, slope = act(torch.addmm(bias, h, matrix), constants.one)
        slopes.append(slope)
    return _shaped(mlp, torch.addmm(constants.bias, h, constants.last), x), _trace(mlp, constants, slopes)


def _trace(mlp: Any, constants: _Constants, slopes: list[Tensor]) -> Tensor:
    if len(slopes) == 1:
        return slopes[0] @ constants.middle
    if len(slopes) == 2:
        return torch.linalg.vecdot(slopes[1], slopes[0] @ constants.middle)
    tangents = slopes[0][:, None, :] * mlp.layers[0].weight.T  # (n, inputs, width): one row per direction
    for layer, slope in zip(list(mlp.layers)[1:], slopes[1:], strict=True):
        tangents = tangents @ layer.weight.T * slope[:, None, :]
    return torch.einsum("nih,ih->n", tangents, mlp.out.weight)


def _biases(mlp: Any, constants: _Constants, x: Tensor, t: Tensor | None, cond: Tensor | None) -> Sequence[Tensor]:
    """Return the shift of each hidden layer: rows (n, width), or one row (width,) if it is the same for all.

    Times t are (n,), or (n, k) with further numbers.
    """
    known = constants.at.get(t[0].item()) if constants.at and t is not None and t.numel() else None
    label = mlp.label(cond, x.shape[0] if cond is not None else 1)
    if known is not None and label is None:
        return known
    total = constants.biases if known is None else torch.cat(known)
    features = None
    if mlp.time is not None and known is None:
        if t is None:
            raise mlp.no_time()
        t = t.to(constants.frequencies.dtype)
        if _one_for_all(t):
            total = torch.addmv(total, constants.times, _features(mlp, t[:1], constants.frequencies)[0])
        else:
            features = _features(mlp, t, constants.frequencies)
    if label is not None:
        # Without gradients the rows of labels are this function's own.
        own = cond is not None and values_alone() and label.dtype is total.dtype and label.shape[1:] == total.shape[-1:]
        total = label.add_(total) if own else total + (label[0] if cond is None else label)
    if features is not None:
        total = torch.addmm(total, features, constants.times.T)
    return total.split_with_sizes(mlp.hidden, -1)


def _features(mlp: Any, t: Tensor, rates: Tensor) -> Tensor:
    """Return cosines and sines of times (n,), or of k numbers (n, k) one after another."""
    phase = t[..., None] * rates
    return torch.cat((phase.cos(), phase.sin()), dim=-1).flatten(1).to(mlp.time.weight.dtype)


def _shaped(mlp: MLP, out: Tensor, x: Tensor) -> Tensor:
    return out.view(x.shape) if mlp.outputs == mlp.inputs and x.dim() != 2 else out


def _one_for_all(t: Tensor) -> bool:
    """Whether all rows share one time, as in fixed-step solvers, whose features are then computed once (a quarter of a small call)."""
    # Only where the check is cheap and nothing is differentiated: otherwise each row needs its own derivative.
    return values_alone() and t.device.type == "cpu" and len(t) > 1 and bool((t == t[0]).all())
