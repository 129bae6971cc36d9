"""Attention on a CPU where nobody wants a gradient, in blocks of scores that stay in the cache and are exponentiated as they are.

Softmax is the same whatever is subtracted from a row's scores, so that nothing need be while their exponentials fit into float32. What a
maximum costs is saved: a look at each score before the exponential, and products in blocks so small that their sums can be corrected.
That is for one thread, where it takes a twentieth off; torch's own attention shares heads out among several, and is then the quicker.
"""

import itertools
import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from pushforward.nn.lean_block import Workspace

_QUERIES, _KEYS = 340, 680  # a block of scores has about so many rows and columns: 0.9 MB
_LEAST, _MOST = 1e-17, 1e17  # a row's sum of exponentials, so that neither it nor its products with values leave float32


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return softmax(q k' / sqrt(c)) v for (n, tokens, heads, c), heads joined: (n, tokens, heads c)."""
    heard = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
    return heard.transpose(1, 2).flatten(2)


def lean_attend(work: "Workspace", name: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return what `attend` does, in the workspace's memory of that name; in one thread by the quicker way, if scores are not large."""
    if q.dtype != torch.float32 or work.large_scores or torch.get_num_threads() > 1:
        return attend(q, k, v)
    n, asking, heads, c = q.shape
    answering, scale = k.shape[1], 1 / math.sqrt(c)
    rows, columns = _sizes(asking, _QUERIES), _sizes(answering, _KEYS)
    held, some = work.take("scores", rows[0] * columns[0]), work.take("some", asking)
    scores = {size: held[: math.prod(size)].view(size) for size in itertools.product(set(rows), set(columns))}
    out, sums, values = work.take(name, n, asking, heads, c), work.take("sums", n, heads, asking), work.take("values", heads, answering, c)
    for image in range(n):
        values.copy_(v[image].transpose(0, 1))
        for head in range(heads):
            keys = [part.T for part in k[image, :, head].split(columns)]
            blocks = list(zip(columns, keys, values[head].split(columns), strict=True))
            parts = (one.split(rows) for one in (q[image, :, head], out[image, :, head], sums[image, head], some))
            for size, asked, heard, total, more in zip(rows, *parts, strict=True):
                for index, (count, key, value) in enumerate(blocks):
                    block = scores[size, count]
                    torch.addmm(block, asked, key, beta=0, alpha=scale, out=block).exp_()
                    if index == 0:
                        torch.sum(block, 1, out=total)
                        torch.mm(block, value, out=heard)
                    else:
                        total.add_(torch.sum(block, 1, out=more))
                        torch.addmm(heard, block, value, out=heard)
    if not _fit(sums):
        work.large_scores = True  # the blocks that follow are likely to have them too
        return attend(q, k, v)
    return out.div_(sums.transpose(1, 2).unsqueeze(3)).flatten(2)


def _fit(sums: Tensor) -> bool:
    """Return whether all sums of exponentials are within what float32 can go on with; NaN is not, and fake tensors have no numbers."""
    if type(sums) is not Tensor:
        return True
    least, most = sums.aminmax()
    return bool(least >= _LEAST) and bool(most <= _MOST)


def _sizes(count: int, usual: int) -> list[int]:
    """Return the sizes of about equal blocks, of about the usual size, of so many; the first is the largest."""
    size = -(-count // max(1, round(count / usual)))
    return [min(size, count - start) for start in range(0, count, size)]
