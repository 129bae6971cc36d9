"""Parts of a joint block and their gradients by hand, on tokens (n, count, width): modulated norm, Linear, MLP, norm of the heads.

Autograd passes over the tokens for the gradient of each operation. Here a part has one gradient, in as few passes as torch's kernels allow.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from pushforward.nn.joint_block import EPS

Weights = Mapping[str, Tensor]  # the parameters of a block by name
_AT_ONCE = 98304  # elements of an activation that are computed together: 384 kB of float32, and as much for each intermediate result
_LINEAR, _CUBIC = 2 * math.sqrt(2 / math.pi), 2 * 0.044715 * math.sqrt(2 / math.pi)  # 2 u = y (_LINEAR + _CUBIC y^2)


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return `modulated_norm` of x, and the means and inverse deviations (n, count, 1) of its tokens."""
    normed, mean, inverse = torch.native_layer_norm(x, x.shape[2:], x.new_ones(x.shape[2]), None, EPS)
    return torch.addcmul(shift[:, None], normed, 1 + scale[:, None], out=normed), mean, inverse


def modulated_backward(
    grad: Tensor, x: Tensor, shift: Tensor, scale: Tensor, mean: Tensor, inverse: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x, shift and scale; for one sample, scale and shift are weight and bias of a layer norm."""
    found = [
        torch.ops.aten.native_layer_norm_backward(*one, (True, True, True))
        for one in zip(grad, x, [x.shape[2:]] * len(x), mean, inverse, 1 + scale, shift, strict=True)
    ]
    of_x, of_scale, of_shift = (part[0][None] if len(part) == 1 else torch.stack(part) for part in zip(*found, strict=True))
    return of_x, of_shift, of_scale


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return weight x + bias; adding the bias afterwards costs less."""
    return torch.mm(x.flatten(0, 1), weight.T).add_(bias).unflatten(0, x.shape[:2])


def linear_backward(grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x, weight and bias."""
    rows = grad.flatten(0, 1)
    return torch.mm(rows, weight).unflatten(0, grad.shape[:2]), torch.mm(rows.T, x.flatten(0, 1)), rows.sum(0)


def gelu(y: Tensor) -> Tensor:
    """Return y sigmoid(2 u), u = sqrt(2 / pi) (y + 0.044715 y^3), which is gelu with a tanh; torch's own takes a third longer."""
    made, linear = torch.empty_like(y), y.new_tensor(_LINEAR)
    for part, out in zip(*(_parts(one) for one in (y, made)), strict=True):
        torch.mul(torch.addcmul(linear, part, part, value=_CUBIC).mul_(part).sigmoid_(), part, out=out)
    return made


def gated_backward(grad: Tensor, gate: Tensor, made: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of what was gated, made, and of the gate (n, width)."""
    return grad * gate[:, None], (grad * made).sum(1)


def inverse_sizes(x: Tensor) -> Tensor:
    """Return one over the root mean square of each head of x (n, heads, count, c): (n, heads, count, 1)."""
    return torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(EPS).rsqrt_()


def normed_heads(x: Tensor, weight: Tensor | None, factor: float, out: Tensor) -> None:
    """Write heads x (n, heads, count, c) times a factor, normalised if there is a weight (c,), into out."""
    if weight is None:
        torch.mul(x, factor, out=out)
    else:
        torch.mul(x, inverse_sizes(x), out=out).mul_(weight * factor)


def normed_heads_backward(grad: Tensor, x: Tensor, weight: Tensor | None, factor: float, out: Tensor) -> Tensor | None:
    """Write the gradient of x into out and return that of the weight; grad is overwritten."""
    if weight is None:
        torch.mul(grad, factor, out=out)
        return None
    inverse, scaled, width = inverse_sizes(x), weight * factor, x.shape[-1]
    product = torch.mul(grad, x, out=torch.empty(x.shape, dtype=x.dtype)).view(-1, width)
    of_weight = torch.mv(product.T, inverse.reshape(-1)).mul_(factor)
    along = torch.mv(product, scaled).view(inverse.shape).mul_(inverse.pow(3)).div_(width)
    torch.addcmul(grad.mul_(scaled).mul_(inverse), x, along, value=-1, out=out)
    return of_weight


def _parts(x: Tensor) -> tuple[Tensor, ...]:
    return x.view(-1).split(_AT_ONCE)
