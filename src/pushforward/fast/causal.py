"""The causal transformer token by token with cached keys and values: all tokens together cost about one pass."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pushforward.dispatch import fast_way, known, reads_parts
from pushforward.fast.parts import CONDITIONS, is_tokenwise, of_one_dtype
from pushforward.functional.attention import KeyValues
from pushforward.nn.causal import CausalBlock, CausalTransformer
from pushforward.nn.layers import SelfAttention

known(CausalBlock, SelfAttention, *CONDITIONS)


def _built(net: Any) -> bool:
    """Return whether only the attentions mix tokens, each those before it: one token at a time is then the same."""
    modules, held = net._modules, net._parameters
    start, positions = held.get("start"), held.get("positions")
    if start is None or positions is None or len(positions) != net.tokens or type(modules.get("condition")) not in CONDITIONS:
        return False
    width = start.numel()
    layers = [modules.get("first"), modules.get("norm"), modules.get("out")]
    for block in modules["blocks"]._modules.values():
        if type(block) is not CausalBlock:
            return False
        parts = block._modules
        attention = parts.get("attention")
        if type(attention) is not SelfAttention or not attention.causal:
            return False
        layers += [parts.get("norm1"), parts.get("norm2"), parts.get("mlp"), *attention._modules.values()]
    return all(is_tokenwise(layer, width) for layer in layers) and of_one_dtype(net)


reads_parts(CausalTransformer, _built)


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
