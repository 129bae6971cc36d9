"""The causal transformer token by token with cached keys and values: all tokens together cost about one pass."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pushforward.dispatch import fast_way, known
from pushforward.functional.attention import KeyValues
from pushforward.nn.causal import CausalBlock, CausalTransformer
from pushforward.nn.embedding import LabelEmbedding, VectorEmbedding
from pushforward.nn.layers import SelfAttention

known(CausalBlock, SelfAttention, LabelEmbedding, VectorEmbedding)


@fast_way(CausalTransformer, "sequential")
def sequential(net: Any, n: int, conds: Sequence[Any], solve: Callable[[int, Tensor], Tensor]) -> Tensor:
    """Return tokens (n, tokens, features), generated one at a time.

    Args:
        net: the network.
        n: number of samples.
        conds: the conditions under which the outputs of each token are predicted, each of n rows or None.
        solve: called as solve(k, outputs) with the predictions for token k, (conditions, n, outputs); returns that token (n, features).
    """
    past = [[KeyValues() for _ in net.blocks] for _ in conds]
    made: list[Tensor] = []
    for k in range(len(net.positions)):
        own = net.first(made[-1])[:, None] if made else net.start.expand(n, 1, -1)
        outputs = []
        for cond, kept in zip(conds, past, strict=True):
            h = net.placed(own, cond, slice(k, k + 1))
            for block, pair in zip(net.blocks, kept, strict=True):
                h = block(h, pair)
            outputs.append(net.out(net.norm(h))[:, 0])
        made.append(solve(k, torch.stack(outputs)))
    return torch.stack(made, 1)
