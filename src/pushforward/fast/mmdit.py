"""The blocks of an MMDiT on a CPU: without gradients in shared memory, and in training with gradients by hand."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

from pushforward._modes import untransformed
from pushforward.dispatch import fast_way, known, reads_parts
from pushforward.fast.joint_block import Workspace, advance, is_built
from pushforward.fast.joint_block_training import advance as advance_in_training
from pushforward.nn.joint_block import Attention, HeadNorm, JointBlock, Stream
from pushforward.nn.mmdit import MMDiT

known(JointBlock, Stream, Attention, HeadNorm)
reads_parts(MMDiT, lambda net: all(type(block) is JointBlock for block in net.blocks))
reads_parts(JointBlock, is_built)


@fast_way(MMDiT, "through_blocks", when=untransformed, inside=True)
def through_blocks(net: Any, image: Tensor, text: Tensor, embedding: Tensor, skip: Sequence[int] = ()) -> Tensor:
    """Return the image tokens after all blocks except those to skip."""
    if image.device.type != "cpu" or not image.shape[2] == text.shape[2] == embedding.shape[1]:
        return NotImplemented
    blocks = [block for k, block in enumerate(net.blocks) if k not in skip]
    if torch.is_grad_enabled():
        weights = [dict(block.named_parameters(remove_duplicate=False)) for block in blocks]  # of tied ones, each
        if net.placement is not None or not _trained(image, weights):
            return NotImplemented
        for block, own in zip(blocks, weights, strict=True):
            image, text = advance_in_training(block, own, image, text, embedding, net.activation_checkpointing and net.training)
        return image
    text, work = text.clone(memory_format=torch.contiguous_format), Workspace(image)  # a prepared text belongs to the caller
    for block, on_device in net.in_turn(blocks):
        with on_device:
            advance(block, image, text, embedding, work)
    return image


def _trained(image: Tensor, weights: Sequence[Mapping[str, Tensor]]) -> bool:
    """Return whether all weights are trained, on real tensors in float32 or wider, with the attention that is differentiated here.

    A divergence allows only attention with a second derivative. Observers of operations, such as counters of them, see the plain blocks.
    """
    return (
        type(image) is Tensor
        and image.dtype in (torch.float32, torch.float64)
        and torch.backends.cuda.flash_sdp_enabled()
        and _get_current_dispatch_mode() is None
        and all(one.requires_grad and one.dtype == image.dtype for own in weights for one in own.values())
    )
