"""Joint attention in training on a CPU, from each stream's queries, keys and values, and its gradient, both by torch's own kernels."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pushforward.fast.token_gradients import Weights, normed_heads, normed_heads_backward

Streams = Sequence[tuple[str, Tensor]]  # each stream's module, and its queries, keys and values (n, tokens, 3 width), or keys and values


class Joined(NamedTuple):
    """Queries divided by sqrt(c), keys and values (n, heads, tokens, c) of all streams, normalised."""

    q: Tensor
    k: Tensor
    v: Tensor


def attend(joined: Joined) -> tuple[Tensor, Tensor]:
    """Return the attention (n, tokens, heads, c), and the logarithms of the softmax's sums (n, heads, tokens)."""
    out, sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*joined, scale=1.0)
    return out.transpose(1, 2), sums


def attend_backward(
    w: Weights, streams: Streams, joined: Joined, out: Tensor, sums: Tensor, grad: Tensor, found: dict[str, Tensor]
) -> list[Tensor]:
    """Return the gradients of each stream's queries, keys and values from that of the output; those of weights are added to `found`."""
    tensors, heads = (grad.transpose(1, 2), *joined, out.transpose(1, 2), sums), out.shape[2]
    grads = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(*tensors, 0.0, False, scale=1.0)
    made = [(prefix, torch.empty_like(one)) for prefix, one in streams]
    for (prefix, kind, x, of_joined), (*_, of_x, _) in zip(_views(streams, heads, grads), _views(made, heads, grads), strict=True):
        weight = w.get(name := f"{prefix}.norm_{kind}.weight")
        of_weight = normed_heads_backward(of_joined, x, weight, _factor(kind, x), of_x)
        if of_weight is not None:
            found[name] = of_weight
    return [one for _, one in made]


def join(w: Weights, streams: Streams, heads: int) -> Joined:
    """Return queries divided by sqrt(c), keys and values (n, heads, tokens, c), normalised, of all streams."""
    made, width = [one for _, one in streams], streams[-1][1].shape[2] // 3
    asking, tokens = sum(one.shape[1] for one in made if one.shape[2] == 3 * width), sum(one.shape[1] for one in made)
    q, k, v = (made[0].new_empty(len(made[0]), heads, count, width // heads) for count in (asking, tokens, tokens))
    for prefix, kind, x, out in _views(streams, heads, (q, k, v)):
        normed_heads(x, w.get(f"{prefix}.norm_{kind}.weight"), _factor(kind, x), out)
    return Joined(q, k, v)


def _factor(kind: str, x: Tensor) -> float:
    return float(x.shape[-1] ** -0.5) if kind == "q" else 1.0


def _views(streams: Streams, heads: int, joined: Sequence[Tensor]) -> Iterator[tuple[str, str, Tensor, Tensor]]:
    """Yield module, kind, and the same heads (n, heads, tokens, c) of a stream's own tensor and of the joined ones."""
    places = dict.fromkeys("qkv", 0)
    for prefix, made in streams:
        parts = made.unflatten(2, (-1, heads, joined[0].shape[3])).permute(2, 0, 3, 1, 4)
        for kind, part, one in zip("vkq", reversed(parts.unbind()), reversed(joined), strict=False):
            yield prefix, kind, part, one.narrow(2, places[kind], made.shape[1])
            places[kind] += made.shape[1]
