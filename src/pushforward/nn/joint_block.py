"""A block of the multimodal diffusion transformer: image and text keep their own weights and meet in one attention."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pushforward.functional.modulation import modulated_norm

EPS = 1e-6


class Attention(nn.Module):
    """One stream's maps of an attention: queries, keys and values in one, their norms, and the way out (None if nothing comes out)."""

    def __init__(self, width: int, heads: int, qk_norm: bool, out: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width) if out else None
        self.norm_q = self.norm_k = None
        if qk_norm:
            self.norm_q, self.norm_k = (nn.RMSNorm(width // heads, eps=EPS) for _ in range(2))
            # The queries of a stream without a way out are never asked. Files have their norm's weight, which no gradient ever reaches,
            # and which must therefore be no parameter: DDP waits for the gradients of all of them.
            if not out:
                del self.norm_q.weight
                self.norm_q.register_buffer("weight", torch.ones(width // heads))


class Stream(nn.Module):
    """One stream's weights in a block; with `second`, also an attention of its own, as the image has in Stable Diffusion 3.5 medium."""

    def __init__(self, width: int, heads: int, mlp_ratio: int, qk_norm: bool, *, second: bool = False, out: bool = True) -> None:
        super().__init__()
        self.modulation = nn.Linear(width, (2 if not out else 9 if second else 6) * width)
        self.attention = Attention(width, heads, qk_norm, out)
        self.second = Attention(width, heads, qk_norm) if second else None
        self.mlp = None
        if out:
            hidden = mlp_ratio * width
            self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, width))
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def added(self, x: Tensor, attended: Tensor, vectors: tuple[Tensor, ...], also: Tensor | None = None) -> Tensor:
        """Return x after what the attention (and the second one) says and after the MLP, each through its gate."""
        assert self.attention.out is not None
        assert self.mlp is not None
        x = gated(x, vectors[2], linear(attended, self.attention.out.weight, self.attention.out.bias))
        if also is not None:
            x = gated(x, vectors[8], also)
        hidden = self.mlp[0](modulated_norm(x, vectors[3], vectors[4], EPS))
        hidden = F.gelu(hidden, approximate="tanh", out=hidden) if plain(x) else self.mlp[1](hidden)  # type: ignore[call-arg]
        return gated(x, vectors[5], self.mlp[2](hidden))


class JointBlock(nn.Module):
    """Attention over image and text tokens together, then an MLP for each, all shifted, scaled and gated by time and pooled text.

    In the last block (`last`) the text only gives keys and values: nothing reads it afterwards.
    """

    def __init__(self, width: int, heads: int, mlp_ratio: int, qk_norm: bool, *, second: bool = False, last: bool = False) -> None:
        super().__init__()
        self.image = Stream(width, heads, mlp_ratio, qk_norm, second=second)
        self.text = Stream(width, heads, mlp_ratio, qk_norm, out=not last)

    def forward(self, image: Tensor, text: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """Return the tokens of image (n, N, width) and text (n, T, width) under the embedding (n, width) of time and pooled text."""
        of_image = self.image.modulation(embedding).chunk(9 if self.image.second is not None else 6, dim=1)
        last = self.text.mlp is None
        of_text = self.text.modulation(embedding).chunk(2 if last else 6, dim=1)
        x, y = modulated_norm(image, of_image[0], of_image[1], EPS), modulated_norm(text, of_text[0], of_text[1], EPS)
        also = None
        if self.image.second is not None:
            also = _alone(modulated_norm(image, of_image[6], of_image[7], EPS), self.image.second)
        if last:
            return self.image.added(image, _asking(x, self.image.attention, y, self.text.attention), of_image, also), text
        from_image, from_text = _together(x, self.image.attention, y, self.text.attention)
        return self.image.added(image, from_image, of_image, also), self.text.added(text, from_text, of_text)


def _together(x: Tensor, a: Attention, y: Tensor, b: Attention) -> tuple[Tensor, Tensor]:
    """Return what image tokens x and text tokens y hear from each other and themselves, before the ways out."""
    count = y.shape[1]
    qkv = joined((y, b.qkv.weight, b.qkv.bias), (x, a.qkv.weight, a.qkv.bias)).unflatten(2, (3, a.heads, -1))
    q, k, v = qkv.unbind(2)
    heard = attend(normed(q, count, b.norm_q, a.norm_q), normed(k, count, b.norm_k, a.norm_k), v)
    return heard[:, count:], heard[:, :count]


def _asking(x: Tensor, a: Attention, y: Tensor, b: Attention) -> Tensor:
    """Return what image tokens hear when text tokens only answer."""
    width, count = x.shape[2], y.shape[1]
    q = F.linear(x, a.qkv.weight[:width], a.qkv.bias[:width]).unflatten(2, (a.heads, -1))
    rows = slice(width, None)
    kv = joined((y, b.qkv.weight[rows], b.qkv.bias[rows]), (x, a.qkv.weight[rows], a.qkv.bias[rows])).unflatten(2, (2, a.heads, -1))
    k, v = kv.unbind(2)
    return attend(normed(q, 0, None, a.norm_q), normed(k, count, b.norm_k, a.norm_k), v)


def _alone(x: Tensor, a: Attention) -> Tensor:
    """Return self-attention over the image tokens, with its way out."""
    assert a.out is not None
    q, k, v = a.qkv(x).unflatten(2, (3, a.heads, -1)).unbind(2)
    return linear(attend(normed(q, 0, None, a.norm_q), normed(k, 0, None, a.norm_k), v), a.out.weight, a.out.bias)


def plain(x: Tensor) -> bool:
    """Whether results may be written into tensors of our own: nobody differentiates, compiles, maps or casts what happens to x."""
    return not (
        torch.is_grad_enabled()
        or torch.compiler.is_compiling()
        or torch._C._functorch.maybe_current_level() is not None
        or torch.autograd.forward_ad._current_level >= 0
        or torch.is_autocast_enabled(x.device.type)
    )


def gated(x: Tensor, gate: Tensor, value: Tensor) -> Tensor:
    """Return x + gate value for vectors gate (n, width); `value` is used up."""
    return torch.addcmul(x, gate[:, None], value, out=value if plain(x) else None)


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return weight x + bias; for a part of a longer sequence torch would add the bias in a pass of its own."""
    return F.linear(x.contiguous(), weight, bias)


def joined(*parts: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Return weight x + bias of each part (x, weight, bias), one after the other along the tokens, each written where it belongs."""
    first = parts[0][0]
    if not plain(first):
        return torch.cat([F.linear(*part) for part in parts], dim=1)
    whole = first.new_empty(len(first), sum(x.shape[1] for x, _, _ in parts), len(parts[0][1]))
    start = 0
    for x, weight, bias in parts:
        for row, out in zip(x, whole[:, start : start + x.shape[1]], strict=True):
            torch.addmm(bias, row, weight.T, out=out)
        start += x.shape[1]
    return whole


def normed(x: Tensor, count: int, first: nn.RMSNorm | None, rest: nn.RMSNorm | None) -> Tensor:
    """Return queries or keys (n, tokens, heads, c) normalised over c: the first `count` tokens by one norm, the rest by another."""
    if rest is None:
        return x
    if first is None or count == 0:
        return rest(x)
    return torch.cat((first(x[:, :count]), rest(x[:, count:])), dim=1)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return softmax(q k' / sqrt(c)) v for (n, tokens, heads, c), heads joined: (n, tokens, heads c)."""
    heard = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
    return heard.transpose(1, 2).flatten(2)
