"""A joint block in training on a CPU: the same outputs and gradients as `JointBlock`, from fewer passes over fewer stored tensors.

Of 1,024 image and 333 text tokens, 80 % of a plain block's time is matrix products and torch's attention, which are the same here; only
the rest can be saved. With activation checkpointing only the inputs and the attentions' outputs are stored, and everything but the
attentions is computed again.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pushforward.fast.attention_gradients import Joined, Streams, attend, attend_backward, join
from pushforward.fast.stream_gradients import Finished, Projected, finish, finish_backward, project, project_backward
from pushforward.fast.token_gradients import Weights
from pushforward.nn.joint_block import JointBlock, Vectors


def advance(block: JointBlock, weights: Weights, image: Tensor, text: Tensor, embedding: Tensor, recompute: bool) -> tuple[Tensor, Tensor]:
    """Return the output of a block with these parameters by name, with gradients; `recompute` stores less for the backward pass."""
    made = _Block.apply(block, list(weights), recompute, image, text, embedding, *weights.values())
    return (made[0], made[1]) if len(made) == 2 else (made[0], text)


class _Block(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, block: JointBlock, names: list[str], recompute: bool, *inputs: Tensor) -> tuple[Tensor, ...]:
        ctx.block, ctx.names, ctx.recompute = block, names, recompute
        (image, text, embedding), w = inputs[:3], dict(zip(names, inputs[3:], strict=True))
        of_image, of_text = _vectors(w, embedding)
        projected = [project(*one) for one in _projections(w, block, image, text, of_image, of_text)]
        joined = [join(w, streams, block.image.attention.heads) for streams in _attentions(projected)]
        attended = [attend(one) for one in joined]
        kept, made = [], []
        for name, x, own, outs in _streams(block, image, text, of_image, of_text, [out for out, _ in attended]):
            kept.append(one := finish(w, name, x, own, outs))
            made.append(torch.addcmul(one.tokens, own[5][:, None], one.made))
        stored = [] if recompute else [one for part in (*projected, *joined, *kept) for one in part]
        ctx.save_for_backward(*inputs, *(one for pair in attended for one in pair), *stored)
        return tuple(made)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        saved = ctx.saved_tensors
        inputs, rest = saved[: 3 + len(ctx.names)], iter(saved[3 + len(ctx.names) :])
        if torch.is_grad_enabled():  # the gradient will be differentiated
            return None, None, None, *_differentiable(ctx, inputs, grads)
        (image, text, embedding), w, block = inputs[:3], dict(zip(ctx.names, inputs[3:], strict=True)), ctx.block
        of_image, of_text = _vectors(w, embedding)
        vectors = {"image": of_image, "text": of_text}
        asked = list(_projections(w, block, image, text, of_image, of_text))
        attended = [(next(rest), next(rest)) for _ in asked[1:]]
        projected = [project(*one) if ctx.recompute else _next(Projected, rest) for one in asked]
        joined = [join(w, one, block.image.attention.heads) if ctx.recompute else _next(Joined, rest) for one in _attentions(projected)]
        found: dict[str, Tensor] = {}
        of_tokens: dict[str, Tensor] = {}
        of_outs: dict[str, list[Tensor]] = {}
        of_vectors: dict[str, dict[int, Tensor]] = {"image": {}, "text": {}}
        streams = _streams(block, image, text, of_image, of_text, [out for out, _ in attended])
        for (name, x, own, outs), grad in zip(streams, grads, strict=True):
            kept = finish(w, name, x, own, outs) if ctx.recompute else _next(Finished, rest)
            of_tokens[name], of_outs[name], of_vectors[name] = finish_backward(w, name, own, outs, kept, grad, found)
        joint, *second = of_outs["image"]
        joint = joint if "text" not in of_outs else torch.cat((of_outs["text"][0], joint), dim=1)
        of_projected: list[Tensor] = []
        for (out, sums), parts, one, grad in zip(attended, _attentions(projected), joined, (joint, *second), strict=True):
            of_projected += attend_backward(w, parts, one, out, sums, grad.view(out.shape), found)
        for (_, prefix, x, shift, scale, _), made, grad in zip(asked, projected, of_projected, strict=True):
            name, place = prefix.partition(".")[0], 6 if prefix.endswith("second") else 0
            of_x, *of_modulation = project_backward(w, prefix, x, shift, scale, made, grad, found)
            of_tokens[name] = of_x.add_(of_tokens[name]) if name in of_tokens else of_x
            of_vectors[name] |= dict(enumerate(of_modulation, place))
        of_embedding = torch.zeros_like(embedding)
        for name in vectors:
            of_all = torch.cat([one for _, one in sorted(of_vectors[name].items())], dim=1)
            found[f"{name}.modulation.weight"], found[f"{name}.modulation.bias"] = of_all.T @ embedding, of_all.sum(0)
            of_embedding.addmm_(of_all, w[f"{name}.modulation.weight"])
        return None, None, None, of_tokens["image"], of_tokens["text"], of_embedding, *(found[name] for name in ctx.names)


def _differentiable(ctx: Any, inputs: Sequence[Tensor], grads: Sequence[Tensor]) -> list[Tensor | None]:
    """Return the gradients of the inputs as functions of the inputs, from the block itself."""
    own = [one.view_as(one) for one in inputs]  # an input may be a function of another one
    made = torch.func.functional_call(ctx.block, dict(zip(ctx.names, own[3:], strict=True)), tuple(own[:3]))[: len(grads)]
    needed = [k for k, needs in enumerate(ctx.needs_input_grad[3:]) if needs]
    found = torch.autograd.grad(made, [own[k] for k in needed], grads, create_graph=True, allow_unused=True)
    return [found[needed.index(k)] if k in needed else None for k in range(len(own))]


def _next(kind: Any, rest: Iterator[Any]) -> Any:
    return kind(*(next(rest) for _ in kind._fields))


def _vectors(w: Weights, embedding: Tensor) -> tuple[Vectors, Vectors]:
    """Return the vectors (n, width) that modulate image and text, as `JointBlock.vectors`."""
    of_image, of_text = (F.linear(embedding, w[f"{name}.modulation.weight"], w[f"{name}.modulation.bias"]) for name in ("image", "text"))
    return of_image.split(embedding.shape[1], 1), of_text.split(embedding.shape[1], 1)


def _projections(
    w: Weights, block: JointBlock, image: Tensor, text: Tensor, of_image: Vectors, of_text: Vectors
) -> Iterator[tuple[Weights, str, Tensor, Tensor, Tensor, bool]]:
    """Yield the arguments of `project` for text, image, and the image's second attention; the last block's text has no queries."""
    yield w, "text.attention", text, of_text[0], of_text[1], block.text.mlp is not None
    yield w, "image.attention", image, of_image[0], of_image[1], True
    if block.image.second is not None:
        yield w, "image.second", image, of_image[6], of_image[7], True


def _attentions(projected: Sequence[Projected]) -> list[Streams]:
    """Return the streams of the joint attention, and of the second one."""
    joint = [("text.attention", projected[0].made), ("image.attention", projected[1].made)]
    return [joint, *([("image.second", one.made)] for one in projected[2:])]


def _streams(
    block: JointBlock, image: Tensor, text: Tensor, of_image: Vectors, of_text: Vectors, attended: Sequence[Tensor]
) -> Iterator[tuple[str, Tensor, Vectors, list[Tensor]]]:
    """Yield name, tokens, vectors and the attentions' outputs (n, tokens, width) of the streams that continue after the attention."""
    joint, *second = (one.flatten(2) for one in attended)
    yield "image", image, of_image, [joint[:, joint.shape[1] - image.shape[1] :], *second]
    if block.text.mlp is not None:
        yield "text", text, of_text, [joint[:, : text.shape[1]]]
