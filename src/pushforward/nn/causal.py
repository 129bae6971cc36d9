"""The causal transformer: it predicts the parameters of each token from the tokens before it."""

import torch
from torch import Tensor, nn

from pushforward._checks import sizes
from pushforward.functional.attention import KeyValues
from pushforward.nn.embedding import condition_embedding
from pushforward.nn.layers import Blocks, SelfAttention
from pushforward.registry import export


class CausalBlock(nn.Module):
    """A pre-norm transformer block: causal self-attention and an MLP, each with a residual connection."""

    def __init__(self, width: int, heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads, causal=True)
        self.mlp = nn.Sequential(nn.Linear(width, mlp_ratio * width), nn.GELU(approximate="tanh"), nn.Linear(mlp_ratio * width, width))

    def forward(self, x: Tensor, past: KeyValues | None = None) -> Tensor:
        x = x + self.attention(self.norm1(x), past)
        return x + self.mlp(self.norm2(x))


def _example() -> tuple:
    net = CausalTransformer(5, 3, 6, width=8, depth=2, heads=2, classes=3)
    nn.init.normal_(net.out.weight, std=0.5)
    return net, (torch.randn(4, 5, 3), torch.tensor([0, 1, 2, 0]))


@export("nn.CausalTransformer", example=_example)
class CausalTransformer(Blocks):
    """A transformer whose output at each token depends only on the tokens before it (and the condition); the output starts at zero.

    Its input at position k is token k - 1, and a learned start token at position 0.

    Shapes: x (n, tokens, features); the output is (n, tokens, outputs).

    Args:
        tokens: number of tokens per sample.
        features: features per token.
        outputs: numbers predicted for each token.
        width: hidden channels, divisible by `heads`.
        depth: number of blocks.
        heads: number of attention heads.
        mlp_ratio: width of a block's hidden layer in units of `width`.
        classes: number of labels, or None.
        cond_features: length of the condition vectors, or None.

    Raises:
        UserError: fewer than 1 token or block, or heads does not divide the width.
        ConditionError: a condition that the network was not built for, or a missing condition vector.

    Source: Vaswani et al., Attention is all you need, 2017, arXiv 1706.03762.
    """

    def __init__(
        self,
        tokens: int,
        features: int,
        outputs: int,
        *,
        width: int = 128,
        depth: int = 4,
        heads: int = 4,
        mlp_ratio: int = 4,
        classes: int | None = None,
        cond_features: int | None = None,
    ) -> None:
        super().__init__()
        sizes(tokens=tokens, features=features, outputs=outputs, width=width, depth=depth, heads=heads, mlp_ratio=mlp_ratio)
        self.tokens = tokens
        self.first = nn.Linear(features, width)
        self.start = nn.Parameter(torch.zeros(width))
        self.positions = nn.Parameter(0.02 * torch.randn(tokens, width))
        self.condition = condition_embedding(width, classes, cond_features)
        self.blocks = nn.ModuleList(CausalBlock(width, heads, mlp_ratio) for _ in range(depth))
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, outputs)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        begin = self.start.expand(x.shape[0], 1, -1)
        h = self.placed(torch.cat((begin, self.first(x[:, :-1])), 1), cond, slice(None))
        for block in self.blocks:
            h = self.run(block, h)
        return self.out(self.norm(h))

    def placed(self, h: Tensor, cond: Tensor | None, places: slice) -> Tensor:
        """Return the tokens at these positions with position embeddings and the condition added."""
        h = h + self.positions[places]
        shift = self.condition(cond, h.shape[0])
        return h if shift is None else h + shift[:, None]
