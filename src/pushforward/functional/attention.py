"""Self-attention as a pure function of its weights, and the attention that all networks share."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from pushforward._modes import forward_mode
from pushforward.registry import export


class KeyValues:
    """Cached keys and values of the tokens so far, so that they are not recomputed for later tokens."""

    def __init__(self) -> None:
        self.pair: tuple[Tensor, Tensor] | None = None

    def add(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append those of the next tokens (n, heads, tokens, width / heads) and return all."""
        if self.pair is not None:
            keys, values = torch.cat((self.pair[0], keys), 2), torch.cat((self.pair[1], values), 2)
        self.pair = keys, values
        return self.pair


def _example() -> tuple:
    return (
        torch.randn(2, 3, 8, dtype=torch.float64),
        torch.randn(24, 8, dtype=torch.float64),
        None,
        torch.eye(8, dtype=torch.float64),
        None,
        2,
        True,
    )


@export("functional.self_attention", example=_example)
def self_attention(
    x: Float[Tensor, "n tokens width"],
    qkv_weight: Float[Tensor, "width3 width"],
    qkv_bias: Float[Tensor, " width3"] | None,
    out_weight: Float[Tensor, "width width"],
    out_bias: Float[Tensor, " width"] | None,
    heads: int,
    causal: bool = False,
    past: KeyValues | None = None,
) -> Float[Tensor, "n tokens width"]:
    """Return multi-head self-attention over the tokens of x.

        softmax(q k' / sqrt(width / heads)) v in each head, then a linear map of the joined heads

    Args:
        x: tokens (n, tokens, width).
        qkv_weight: weights of queries, keys and values, stacked (3 width, width).
        qkv_bias: their bias (3 width,), or None.
        out_weight: weights of the output map (width, width).
        out_bias: its bias (width,), or None.
        heads: number of heads; must divide the width.
        causal: whether a token attends only to itself and the tokens before it.
        past: keys and values of the tokens before x, to which x (a single token) attends; those of x are appended.

    Returns:
        Tokens (n, tokens, width).

    Example:
        >>> x = torch.randn(1, 5, 4)
        >>> self_attention(x, torch.randn(12, 4), None, torch.eye(4), None, heads=2).shape
        torch.Size([1, 5, 4])

    Source: Vaswani et al., Attention is all you need, 2017, arXiv 1706.03762, section 3.2.
    """
    return F.linear(attend(F.linear(x, qkv_weight, qkv_bias), heads, causal, past), out_weight, out_bias)


def attend(qkv: Tensor, heads: int, causal: bool = False, past: KeyValues | None = None) -> Tensor:
    """Return the attention output, heads joined (n, tokens, width), of queries, keys and values (n, tokens, 3 width)."""
    n, tokens, width = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    q, k, v = qkv.view(n, tokens, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
    if past is not None:
        k, v = past.add(k, v)
    return attention(q, k, v, causal and past is None).transpose(1, 2).reshape(n, tokens, width)


def attention(q: Tensor, k: Tensor, v: Tensor, causal: bool = False) -> Tensor:
    """Return softmax(q k' / sqrt(c)) v in each head, for queries, keys and values (n, heads, tokens, c).

    The fused kernels have no derivative in forward mode, on any device, so there it is written out.
    """
    if not forward_mode():
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    if causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(later, -math.inf)
    return scores.softmax(-1).to(v.dtype) @ v
