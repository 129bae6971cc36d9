"""A block of the multimodal diffusion transformer: image and text have their own weights and share one attention."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pushforward.functional.attention import attention
from pushforward.functional.modulation import modulated_norm

EPS = 1e-6
Vectors = tuple[Tensor, ...]


class HeadNorm(nn.RMSNorm):
    """Divide each head of queries or keys (n, tokens, heads, c) by its root mean square; the weight takes the dtype of the heads."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, x.shape[3:], self.weight.to(x.dtype), EPS)  # under autocast x is narrower than the weight


class Attention(nn.Module):
    """One stream's part of an attention: one map for queries, keys and values, their norms, and the output map (None if unused)."""

    def __init__(self, width: int, heads: int, qk_norm: bool, out: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width) if out else None
        self.norm_q: HeadNorm | None = None
        self.norm_k: HeadNorm | None = None
        if qk_norm:
            self.norm_q, self.norm_k = (HeadNorm(width // heads) for _ in range(2))
            # The queries of a stream without an output map are unused. Files contain the weight of their norm, but it never receives a
            # gradient, so it must not be a parameter: DDP waits for the gradients of all parameters.
            if not out:
                del self.norm_q.weight
                self.norm_q.register_buffer("weight", torch.ones(width // heads))

    def qkv_of(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values (n, tokens, heads, c)."""
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).unbind(2)
        return _normed(q, self.norm_q), _normed(k, self.norm_k), v


def _normed(x: Tensor, norm: HeadNorm | None) -> Tensor:
    return x if norm is None else norm(x)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return softmax(q k' / sqrt(c)) v for (n, tokens, heads, c), heads joined: (n, tokens, heads c)."""
    joined = attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
    return joined.transpose(1, 2).flatten(2)


class Stream(nn.Module):
    """One stream's weights in a block; with `second`, also a separate attention, as for the image in Stable Diffusion 3.5 medium."""

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

    def residual(self, x: Tensor, attended: Tensor, vectors: Vectors, also: Tensor | None = None) -> Tensor:
        """Return x plus the gated outputs of the attention (and of the second one) and of the MLP."""
        assert self.attention.out is not None
        assert self.mlp is not None
        x = torch.addcmul(x, vectors[2][:, None], self.attention.out(attended))
        if also is not None and self.second is not None and self.second.out is not None:
            x = torch.addcmul(x, vectors[8][:, None], self.second.out(also))
        return torch.addcmul(x, vectors[5][:, None], self.mlp(modulated_norm(x, vectors[3], vectors[4], EPS)))


class JointBlock(nn.Module):
    """Joint attention over image and text tokens, then an MLP for each, all shifted, scaled and gated by time and pooled text.

    In the last block (`last`) the text only provides keys and values: it is not used afterwards.
    """

    def __init__(self, width: int, heads: int, mlp_ratio: int, qk_norm: bool, *, second: bool = False, last: bool = False) -> None:
        super().__init__()
        self.image = Stream(width, heads, mlp_ratio, qk_norm, second=second)
        self.text = Stream(width, heads, mlp_ratio, qk_norm, out=not last)

    def vectors(self, embedding: Tensor) -> tuple[Vectors, Vectors]:
        """Return the vectors (n, width) that modulate image and text: shift, scale and gate of the attention, then of the MLP."""
        of_image = self.image.modulation(embedding).chunk(9 if self.image.second is not None else 6, dim=1)
        return of_image, self.text.modulation(embedding).chunk(2 if self.text.mlp is None else 6, dim=1)

    def forward(self, image: Tensor, text: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """Return the tokens of image (n, N, width) and text (n, T, width) under the embedding (n, width) of time and pooled text."""
        of_image, of_text = self.vectors(embedding)
        a, b = self.image.attention, self.text.attention
        x, y = modulated_norm(image, of_image[0], of_image[1], EPS), modulated_norm(text, of_text[0], of_text[1], EPS)
        also = None
        if self.image.second is not None:
            q, k, v = self.image.second.qkv_of(modulated_norm(image, of_image[6], of_image[7], EPS))
            also = attend(q, k, v)
        (q, k, v), (q_text, k_text, v_text) = a.qkv_of(x), b.qkv_of(y)
        k, v = torch.cat((k_text, k), dim=1), torch.cat((v_text, v), dim=1)
        if self.text.mlp is None:
            return self.image.residual(image, attend(q, k, v), of_image, also), text
        attended = attend(torch.cat((q_text, q), dim=1), k, v)
        count = text.shape[1]
        return self.image.residual(image, attended[:, count:], of_image, also), self.text.residual(text, attended[:, :count], of_text)
