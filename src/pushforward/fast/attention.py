"""Attention on a CPU without gradients, in blocks of scores that fit into the cache and are exponentiated without a shift.

Softmax does not depend on what is subtracted from a row's scores, so nothing is subtracted as long as the exponentials fit into float32.
This saves the cost of a maximum: a pass over the scores before the exponential, and blocks so small that their sums can be corrected.
It is used with one thread, where it saves a tenth of the time; with several, torch's attention parallelises over heads and is faster.
"""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pushforward.nn.joint_block import attend

if TYPE_CHECKING:
    from pushforward.fast.joint_block import Workspace

_QUERIES, _KEYS, _ALIGNED = 340, 680, 16  # a block of scores has about this many rows and columns: 0.9 MB
_LEAST, _MOST = 1e-17, 1e17  # bounds of a row's sum of exponentials, so that it and its products with values fit into float32


def attend_in_blocks(work: "Workspace", name: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return the same as `attend`, in the workspace's memory of that name; with one thread the faster way, if scores are not large."""
    if q.dtype != torch.float32 or work.large_scores or torch.get_num_threads() > 1:
        return attend(q, k, v)
    plan = work.plans.get(name)
    if plan is None or not plan.is_of(q, k, v):
        plan = work.plans[name] = Plan(work, name, q, k, v)
    scale = 1 / math.sqrt(q.shape[3])
    for query, key, scores, own, total, value, out, before in plan.steps:
        torch.addmm(scores, query, key, beta=0, alpha=scale, out=scores).exp_()
        torch.sum(own, 1, out=total)
        torch.addmm(out, own, value, beta=before, out=out)
    total = plan.sums.sum(0)
    if not _fit(total):
        work.large_scores = True  # later blocks are likely to have large scores too
        return attend(q, k, v)
    return plan.out.div_(total.unsqueeze(3)).flatten(2)


class Plan:
    """Views of all parts of an attention's tensors in the order of computation: the same in each block of a network."""

    def __init__(self, work: "Workspace", name: str, q: Tensor, k: Tensor, v: Tensor) -> None:
        n, queries, heads, c = q.shape
        rows, columns = _parts(queries, _QUERIES), _parts(length := k.shape[1], _KEYS, _ALIGNED)
        # The first block of scores includes some keys of the next, so that rows of scores start at cache lines.
        scored = [range(min(length, len(columns[0]) + -len(columns[0]) % _ALIGNED)), *columns[1:]]
        held = work.take("scores", len(rows[-1]) * max(len(part) for part in scored))
        blocks = [[held[: len(row) * len(part)].view(len(row), len(part)) for part in scored] for row in rows]
        parts = [[(block, block[:, : len(part)]) for block, part in zip(of_row, columns, strict=True)] for of_row in blocks]
        self.tensors = q, k, v
        self.out, self.sums = work.take(name, n, queries, heads, c), work.take("sums", len(columns), n, queries, heads)
        self.steps: list[tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, int]] = []
        for image in range(n):
            asked, outs = _by_head(q[image], rows), _by_head(self.out[image], rows)
            keys, values = _by_head(k[image], scored), _by_head(v[image], columns)
            totals = [_by_head(part, rows) for part in self.sums[:, image]]
            for head in range(heads):
                of_head = [(key.T, value, total[head]) for key, value, total in zip(keys[head], values[head], totals, strict=True)]
                for row, (query, out, of_row) in enumerate(zip(asked[head], outs[head], parts, strict=True)):
                    for index, ((scores, own), (key, value, total)) in enumerate(zip(of_row, of_head, strict=True)):
                        self.steps.append((query, key, scores, own, total[row], value, out, min(index, 1)))

    def is_of(self, *tensors: Tensor) -> bool:
        """Return whether the plan is for the memory of these queries, keys and values, which it keeps alive."""
        return all(type(one) is Tensor and one.is_set_to(other) for one, other in zip(self.tensors, tensors, strict=True))


def _by_head(x: Tensor, parts: list[range]) -> list[tuple[Tensor, ...]]:
    """Return the parts of x (tokens, heads, ...) for each head."""
    return list(zip(*(x[part.start : part.stop].unbind(1) for part in parts), strict=True))


def _fit(sums: Tensor) -> bool:
    """Return whether all sums of exponentials are within the bounds for float32; NaN is not, and fake or empty tensors always are."""
    if type(sums) is not Tensor or not sums.numel():
        return True
    least, most = sums.aminmax()
    return bool(least >= _LEAST) and bool(most <= _MOST)


def _parts(count: int, usual: int, aligned: int = 1) -> list[range]:
    """Split a count into parts of equal size near `usual` (a multiple of `aligned` if there are several); the first may be smaller."""
    parts = max(1, round(count / usual))
    size = min(count, -(-count // (parts * aligned)) * aligned)
    return [range(max(0, stop - size), stop) for stop in range(count, 0, -size)][::-1]
