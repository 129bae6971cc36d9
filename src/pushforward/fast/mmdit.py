"""The blocks of an MMDiT on a CPU without gradients, in shared memory."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pushforward._modes import values_alone
from pushforward.dispatch import fast_way, known, reads_parts
from pushforward.fast.joint_block import Workspace, advance, is_built
from pushforward.nn.joint_block import Attention, HeadNorm, JointBlock, Stream
from pushforward.nn.mmdit import MMDiT

known(JointBlock, Stream, Attention, HeadNorm)
reads_parts(MMDiT, lambda net: all(type(block) is JointBlock for block in net.blocks))
reads_parts(JointBlock, is_built)


@fast_way(MMDiT, "through_blocks", when=values_alone, inside=True)
def through_blocks(net: Any, image: Tensor, text: Tensor, embedding: Tensor, skip: Sequence[int] = ()) -> Tensor:
    """Return the image tokens after all blocks except those to skip."""
    if image.device.type != "cpu" or not image.shape[2] == text.shape[2] == embedding.shape[1]:
        return NotImplemented
    text, work = text.clone(memory_format=torch.contiguous_format), Workspace(image)  # a prepared text belongs to the caller
    for block, on_device in net.in_turn([block for k, block in enumerate(net.blocks) if k not in skip]):
        with on_device:
            advance(block, image, text, embedding, work)
    return image
