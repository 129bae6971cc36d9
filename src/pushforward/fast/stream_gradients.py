"""A stream of a joint block before and after the attention, with its gradients by hand.

`w` are the block's parameters by name, `found` their gradients; `vectors` are shift, scale and gate of the attention, then of the MLP, then
of the second attention, (n, width) each.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pushforward.fast.token_gradients import (
    Weights,
    gated_backward,
    gelu,
    linear,
    linear_backward,
    modulated,
    modulated_backward,
)
from pushforward.nn.joint_block import Vectors


class Projected(NamedTuple):
    """Modulated tokens, their queries, keys and values (n, tokens, 3 width), or keys and values, and the tokens' statistics."""

    normed: Tensor
    made: Tensor
    mean: Tensor
    inverse: Tensor


class Finished(NamedTuple):
    """What a stream computes after the attention: outputs of the attentions' maps, tokens, and the MLP's input, hidden layer and output."""

    first: Tensor
    second: Tensor | None
    tokens: Tensor
    mean: Tensor
    inverse: Tensor
    normed: Tensor
    hidden: Tensor
    activated: Tensor
    made: Tensor


def project(w: Weights, prefix: str, x: Tensor, shift: Tensor, scale: Tensor, queries: bool) -> Projected:
    """Return the projection of modulated tokens x by an attention's module."""
    skipped = 0 if queries else x.shape[2]
    normed, mean, inverse = modulated(x, shift, scale)
    return Projected(normed, linear(normed, w[f"{prefix}.qkv.weight"][skipped:], w[f"{prefix}.qkv.bias"][skipped:]), mean, inverse)


def project_backward(
    w: Weights, prefix: str, x: Tensor, shift: Tensor, scale: Tensor, kept: Projected, grad: Tensor, found: dict[str, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x, shift and scale."""
    skipped = 3 * x.shape[2] - grad.shape[2]
    of_normed, of_weight, of_bias = linear_backward(grad, kept.normed, w[f"{prefix}.qkv.weight"][skipped:])
    found[f"{prefix}.qkv.weight"], found[f"{prefix}.qkv.bias"] = F.pad(of_weight, (0, 0, skipped, 0)), F.pad(of_bias, (skipped, 0))
    return modulated_backward(of_normed, x, shift, scale, kept.mean, kept.inverse)


def finish(w: Weights, stream: str, x: Tensor, vectors: Vectors, attended: Sequence[Tensor]) -> Finished:
    """Return what follows the outputs of the attentions, (n, tokens, width) each."""
    first, *more = (
        linear(one, w[f"{stream}.{name}.out.weight"], w[f"{stream}.{name}.out.bias"])
        for one, name in zip(attended, ("attention", "second"), strict=False)
    )
    tokens = torch.addcmul(x, vectors[2][:, None], first)
    for second in more:
        tokens.addcmul_(vectors[8][:, None], second)
    normed, mean, inverse = modulated(tokens, vectors[3], vectors[4])
    hidden = linear(normed, w[f"{stream}.mlp.0.weight"], w[f"{stream}.mlp.0.bias"])
    activated = gelu(hidden)
    made = linear(activated, w[f"{stream}.mlp.2.weight"], w[f"{stream}.mlp.2.bias"])
    return Finished(first, more[0] if more else None, tokens, mean, inverse, normed, hidden, activated, made)


def finish_backward(
    w: Weights, stream: str, vectors: Vectors, attended: Sequence[Tensor], kept: Finished, grad: Tensor, found: dict[str, Tensor]
) -> tuple[Tensor, list[Tensor], dict[int, Tensor]]:
    """Return the gradients of x, of the attentions' outputs, and of vectors by their place, from that of tokens plus the gated MLP."""
    up, down = f"{stream}.mlp.0", f"{stream}.mlp.2"
    weight, of_vectors = w[f"{down}.weight"], dict[int, Tensor]()
    of_made, of_vectors[5] = gated_backward(grad, vectors[5], kept.made)
    rows = of_made.flatten(0, 1)
    of_hidden = torch.mm(rows, weight).unflatten(0, grad.shape[:2])
    torch.ops.aten.gelu_backward.grad_input(of_hidden, kept.hidden, approximate="tanh", grad_input=of_hidden)
    found[f"{down}.weight"], found[f"{down}.bias"] = torch.mm(rows.T, kept.activated.flatten(0, 1)), rows.sum(0)
    of_normed, found[f"{up}.weight"], found[f"{up}.bias"] = linear_backward(of_hidden, kept.normed, w[f"{up}.weight"])
    of_x, of_vectors[3], of_vectors[4] = modulated_backward(of_normed, kept.tokens, vectors[3], vectors[4], kept.mean, kept.inverse)
    of_x.add_(grad)
    of_attended = []
    for one, name, made, place in zip(attended, ("attention", "second"), (kept.first, kept.second), (2, 8), strict=False):
        assert made is not None
        out = f"{stream}.{name}.out"
        of_made, of_vectors[place] = gated_backward(of_x, vectors[place], made)
        of_one, found[f"{out}.weight"], found[f"{out}.bias"] = linear_backward(of_made, one, w[f"{out}.weight"])
        of_attended.append(of_one)
    return of_x, of_attended, of_vectors
