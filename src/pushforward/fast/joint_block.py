"""A joint block on a CPU without gradients: the same result as `JointBlock` with less memory traffic.

Tokens are updated in place, biases and activations are applied while data are in the cache, text and image write their queries, keys and
values next to each other into one tensor, and all blocks share the memory of intermediate results: new memory pages cost most of all.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pushforward.fast.attention import Plan, attend_in_blocks
from pushforward.fast.parts import is_linear
from pushforward.nn.joint_block import EPS, Attention, HeadNorm, JointBlock, Stream, Vectors

_TOGETHER = 1024  # tokens of several images that pass an MLP together: its weights are read once for all of them
_AT_ONCE = 98304  # elements whose activation is computed together: 384 kB of float32, and as much for intermediate results


class Workspace:
    """Memory that the blocks of one evaluation share, by name; taking a name again overwrites its previous contents."""

    def __init__(self, like: Tensor) -> None:
        self.like = like
        self.held: dict[str, Tensor] = {}
        self.taken: dict[tuple[str, tuple[int, ...]], Tensor] = {}
        self.plans: dict[str, Plan] = {}
        self.large_scores = False  # whether an attention's scores were too large for their exponentials

    def take(self, name: str, *shape: int) -> Tensor:
        """Return an uninitialised contiguous tensor of this shape."""
        taken = self.taken.get((name, shape))
        if taken is None:
            size, held = math.prod(shape), self.held.get(name)
            if held is None or len(held) < size:
                self.taken = {key: view for key, view in self.taken.items() if key[0] != name}  # views of the smaller memory
                held = self.held[name] = self.like.new_empty(size)
            taken = self.taken[name, shape] = held[:size].view(shape)
        return taken


def is_built(block: Any) -> bool:
    """Return whether a block has the parts that `JointBlock` makes, in one dtype: what is read of them is then all that they compute."""
    image, text = block._modules["image"], block._modules["text"]
    if type(image) is not Stream or type(text) is not Stream:
        return False
    of_image: dict[str, Any] = image._modules
    of_text: dict[str, Any] = text._modules
    a: Any
    b: Any
    a, b, second, last = of_image.get("attention"), of_text.get("attention"), of_image.get("second"), of_text.get("mlp") is None
    first: Any = a._modules.get("qkv") if type(a) is Attention else None
    weight: Any = first._parameters.get("weight") if type(first) is nn.Linear else None
    if weight is None or type(b) is not Attention or (second is not None and type(second) is not Attention):
        return False
    width, dtype, heads = weight.shape[1], weight.dtype, a.heads
    for one, unused in ((a, False), (b, last), *(() if second is None else ((second, False),))):
        parts = one._modules
        if one.heads != heads or not is_linear(parts.get("qkv"), 3 * width, width, dtype):
            return False
        if not unused and not is_linear(parts.get("out"), width, width, dtype):
            return False
        norms = parts.get("norm_q"), parts.get("norm_k")
        if norms != (None, None) and not (_is_norm(norms[0], width // heads, dtype) and _is_norm(norms[1], width // heads, dtype)):
            return False
    if type(a._modules.get("norm_q")) is not type(b._modules.get("norm_q")):
        return False
    vectors = (of_image.get("modulation"), 6 if second is None else 9), (of_text.get("modulation"), 2 if last else 6)
    for layer, count in vectors:
        held = layer._parameters.get("weight") if type(layer) is nn.Linear else None
        if held is None or held.shape[0] != count * width:
            return False
    return _is_mlp(of_image.get("mlp"), width, dtype) and (last or _is_mlp(of_text["mlp"], width, dtype))


def _is_norm(norm: Any, size: int, dtype: torch.dtype) -> bool:
    if type(norm) is not HeadNorm:
        return False
    weight: Any = norm._parameters.get("weight")
    if weight is None:
        weight = norm._buffers.get("weight")  # of queries that are not used
    return weight is not None and weight.shape == (size,) and weight.dtype is dtype


def _is_mlp(mlp: Any, width: int, dtype: torch.dtype) -> bool:
    if type(mlp) is not nn.Sequential or len(mlp._modules) != 3:
        return False
    first, act, last = mlp._modules.values()
    weight = last._parameters.get("weight") if type(last) is nn.Linear else None
    if type(act) is not nn.GELU or act.approximate != "tanh" or weight is None:
        return False
    hidden = weight.shape[1]
    return is_linear(first, hidden, width, dtype) and is_linear(last, width, hidden, dtype)


def advance(block: JointBlock, image: Tensor, text: Tensor, embedding: Tensor, work: Workspace) -> None:
    """Replace the tokens of image (n, N, width) and text (n, T, width) by the block's output."""
    of_image, of_text = block.vectors(embedding)
    a, b, second = block.image.attention, block.text.attention, block.image.second
    (n, count, width), words, also = image.shape, text.shape[1], None
    sides = a.heads, width // a.heads
    if second is not None:
        own, values = work.take("joint", n, count, 2 * width), work.take("values", n, sides[0], count, sides[1])
        project(own, values, image, of_image[6:8], second, second, work)
        q, k = own.unflatten(2, (2, *sides)).unbind(2)
        also = attend_in_blocks(work, "also", q, k, values.transpose(1, 2))
    joint, values = work.take("joint", n, words + count, 2 * width), work.take("values", n, sides[0], words + count, sides[1])
    skipped = words if block.text.mlp is None else 0  # number of tokens with keys but no queries: the last block's text
    project(joint[:, :words, width if skipped else 0 :], values[:, :, :words], text, of_text, b, a, work)
    project(joint[:, words:], values[:, :, words:], image, of_image, a, a, work)
    q, k = joint.unflatten(2, (2, *sides)).unbind(2)
    attended = attend_in_blocks(work, "attended", q[:, skipped:], k, values.transpose(1, 2))
    finish(block.image, image, attended[:, words - skipped :], of_image, also, work)
    if block.text.mlp is not None:
        finish(block.text, text, attended[:, :words], of_text, None, work)


def project(made: Tensor, values: Tensor, x: Tensor, vectors: Vectors, attention: Attention, base: Attention, work: Workspace) -> None:
    """Write queries and keys of modulated tokens x (n, tokens, width) into made (n, tokens, 2 width), or only keys if it has `width`.

    Values are written head by head into values (n, heads, tokens, c), the layout in which they are read. A bias shared by all keys does not
    change the softmax: without normalisation, keys of `base` omit their bias, and the others use the difference from it.
    """
    (count, width), outputs = x.shape[1:], made.shape[2]
    weight, of_values = attention.qkv.weight[-outputs - width :].split((outputs, width))
    bias, added = attention.qkv.bias[-outputs - width :].split((outputs, width))
    norms = (attention.norm_q, attention.norm_k)[-(outputs // width) :]
    weights: list[Tensor] = [norm.weight for norm in norms if norm is not None]
    if not weights and x.dtype == torch.float32:
        of_queries, of_keys = bias.split((outputs - width, width))
        bias = of_queries if attention is base else torch.cat((of_queries, of_keys - base.qkv.bias[width : 2 * width]))
    value = work.take("value", count, width)
    in_heads = value.unflatten(1, values.shape[1::2]).transpose(0, 1)
    for row, shift, scale, queries_keys, own_values in zip(x, vectors[0], 1 + vectors[1], made, values, strict=True):
        normed = F.layer_norm(row, (width,), scale, shift, EPS)
        affine(normed, weight, bias, queries_keys)
        if weights:
            normalise(queries_keys, attention.heads, weights)
        if x.dtype == torch.float32:
            torch.mm(normed, of_values.T, out=value)
            torch.add(in_heads, added.unflatten(0, values.shape[1::2]).unsqueeze(1), out=own_values)
        else:
            affine(normed, of_values, added, value)
            own_values.copy_(in_heads)


def normalise(x: Tensor, heads: int, weights: list[Tensor]) -> None:
    """Divide each head of queries and keys x (tokens, kinds heads c) by its root mean square and multiply it by its kind's weights (c,).

    In float32 this takes less than half the time of torch's norm, which does not work in place.
    """
    if x.dtype != torch.float32:
        for of_kind, weight in zip(x.unflatten(1, (len(weights), heads, -1)).unbind(1), weights, strict=True):
            of_kind.copy_(F.rms_norm(of_kind, weight.shape, weight, EPS))
        return
    along = torch.cat([weight.repeat(heads) for weight in weights])
    for part in x.split(max(1, _AT_ONCE // x.shape[1])):
        split = part.unflatten(1, (len(weights) * heads, -1))
        size = torch.linalg.vector_norm(split, dim=-1, keepdim=True)
        split.mul_(size.square_().div_(split.shape[-1]).add_(EPS).rsqrt_())
        part.mul_(along)


def finish(stream: Stream, x: Tensor, attended: Tensor, vectors: Vectors, also: Tensor | None, work: Workspace) -> None:
    """Add to x (n, tokens, width) the outputs of the attention and of the second one, and then that of the MLP."""
    out, mlp, second = stream.attention.out, stream.mlp, stream.second
    assert out is not None
    assert mlp is not None
    first, (n, count, width), scales = mlp[0], x.shape, 1 + vectors[4]
    assert isinstance(first, nn.Linear)
    together, of_hidden = max(1, _TOGETHER // max(1, count)), first.weight.shape[0]
    hidden, value = (work.take(name, min(n, together) * count, size) for name, size in (("hidden", of_hidden), ("value", width)))
    for image, row in enumerate(x):
        affine(attended[image], out.weight, out.bias, value[:count])
        torch.addcmul(row, vectors[2][image], value[:count], out=row)
        if also is not None and second is not None and second.out is not None:
            affine(also[image], second.out.weight, second.out.bias, value[:count])
            torch.addcmul(row, vectors[8][image], value[:count], out=row)
    for start in range(0, n, together):
        rows, gates = x[start : start + together], vectors[5][start : start + together, None]
        normed = [F.layer_norm(row, (width,), scales[k], vectors[3][k], EPS) for k, row in enumerate(rows, start)]
        size = len(normed) * count
        run_mlp(mlp, normed[0] if len(normed) == 1 else torch.cat(normed), hidden[:size], value[:size])
        torch.addcmul(rows, gates, value[:size].view_as(rows), out=rows)


def affine(x: Tensor, weight: Tensor, bias: Tensor, out: Tensor) -> None:
    """Write weight x + bias into out; in float32 the bias, which may be shorter, is added afterwards, which costs less."""
    if x.dtype == torch.float32:
        torch.mm(x, weight.T, out=out)[:, : len(bias)].add_(bias)
    else:  # addmm rounds once
        torch.addmm(bias, x, weight.T, out=out)


def run_mlp(mlp: nn.Sequential, x: Tensor, hidden: Tensor, out: Tensor) -> None:
    """Write the MLP's output into out, with hidden as memory for the hidden layer."""
    first, last = mlp[0], mlp[2]
    assert isinstance(first, nn.Linear)
    assert isinstance(last, nn.Linear)
    if x.dtype != torch.float32:
        affine(x, first.weight, first.bias, hidden)
        affine(F.gelu(hidden, approximate="tanh", out=hidden), last.weight, last.bias, out)  # type: ignore[call-arg]
        return
    torch.mm(x, first.weight.T, out=hidden)
    twice_gelu(hidden, first.bias)
    torch.mm(hidden, last.weight.T, out=out)
    torch.add(last.bias, out, alpha=0.5, out=out)


def twice_gelu(x: Tensor, bias: Tensor) -> None:
    """Replace x by 2 gelu(y) = y (1 + tanh(u)), u = sqrt(2 / pi) (y + 0.044715 y^3), y = x + bias, in half the time of torch's own gelu.

    Its tanh is slower than torch.tanh.
    """
    linear = x.new_tensor(math.sqrt(2 / math.pi))
    cubic = 0.044715 * math.sqrt(2 / math.pi)
    for part in x.split(max(1, _AT_ONCE // x.shape[1])):
        part.add_(bias)
        part.addcmul_(part, torch.addcmul(linear, part, part, value=cubic).mul_(part).tanh_())
