"""Module versions of the functions of the same name: attention, patches, standardisation, dequantisation."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from pushforward import _random
from pushforward._checks import sizes
from pushforward._modes import forward_mode
from pushforward.errors import UserError
from pushforward.functional.attention import KeyValues, attend
from pushforward.functional.patches import patchify, unpatchify
from pushforward.functional.standardise import dequantise
from pushforward.registry import export


@export("nn.SelfAttention", example=lambda: (SelfAttention(8, 2, causal=True), (torch.randn(2, 3, 8),)))
class SelfAttention(nn.Module):
    """Multi-head self-attention over tokens (n, tokens, width): `functional.self_attention` with its own weights.

    Args:
        width: channels of a token.
        heads: number of heads; must divide the width.
        causal: whether a token attends only to itself and the tokens before it.
    """

    def __init__(self, width: int, heads: int, causal: bool = False) -> None:
        super().__init__()
        sizes(width=width, heads=heads)
        if width % heads:
            raise UserError(f"heads is {heads}, which does not divide the width {width}; use a divisor.")
        self.heads, self.causal = heads, causal
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, past: KeyValues | None = None) -> Tensor:
        return self.out(attend(self.qkv(x), self.heads, self.causal, past))


@export("nn.Patchify", example=lambda: (Patchify(2), (torch.randn(2, 3, 4, 6),)))
class Patchify(nn.Module):
    """Images (n, channels, *sides) as patches (n, tokens, channels size²): `functional.patchify`."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        return patchify(x, self.size)


@export("nn.Unpatchify", example=lambda: (Unpatchify(2, 4, 6), (torch.randn(2, 6, 12),)))
class Unpatchify(nn.Module):
    """Patches (n, tokens, channels size²) as images of these sides: `functional.unpatchify`."""

    def __init__(self, size: int, *sides: int) -> None:
        super().__init__()
        self.size, self.sides = size, sides

    def forward(self, tokens: Tensor) -> Tensor:
        return unpatchify(tokens, self.size, *self.sides)


@export("nn.Dequantise")
class Dequantise(nn.Module):
    """Integer levels spread over their unit cells by uniform noise: `functional.dequantise` with noise that it draws itself."""

    def forward(self, x: Tensor, generator: _random.Generators = None) -> Tensor:
        return dequantise(x, _random.uniform(x.shape, generator, x.device, x.dtype))


class Blocks(nn.Module):
    """A network made of blocks, which are recomputed (`activation_checkpointing`), compiled and sharded one by one.

    With `activation_checkpointing` their activations are recomputed in the backward pass instead of stored.

    Source: Chen et al., Training deep nets with sublinear memory cost, 1604.06174.
    """

    activation_checkpointing: bool = False
    blocks: Any
    placement: Any = None  # device placement of the blocks: see `in_turn`

    def in_turn(self, blocks: Sequence[nn.Module]) -> list[tuple[nn.Module, AbstractContextManager[None]]]:
        """Return blocks that are computed in this order, with contexts in which they are on their device."""
        if self.placement is None:
            return [(block, nullcontext()) for block in blocks]
        return [(one, self.placement.using(one, after)) for one, after in zip(blocks, [*blocks[1:], None], strict=True)]

    def units(self) -> list[nn.Module]:
        """Return the blocks, in the order of `run`."""
        return list(self.blocks)

    def run(self, block: nn.Module, *args: Tensor | None) -> Any:
        """Return the outputs of a block."""
        recomputed = self.activation_checkpointing and self.training and torch.is_grad_enabled()
        if recomputed and not forward_mode():  # a recomputation in the backward pass would know nothing of the tangents
            return checkpoint(block, *args, use_reentrant=False, context_fn=lambda: (nullcontext(), _SameAttention()))
        return block(*args)


class _SameAttention:
    """Enters, as often as asked, the attention kernels that were enabled when it was made.

    A block's recomputation runs elsewhere than its forward pass, and a divergence enables only kernels with a second derivative.
    """

    def __init__(self) -> None:
        enabled = {
            SDPBackend.MATH: torch.backends.cuda.math_sdp_enabled(),
            SDPBackend.FLASH_ATTENTION: torch.backends.cuda.flash_sdp_enabled(),
            SDPBackend.EFFICIENT_ATTENTION: torch.backends.cuda.mem_efficient_sdp_enabled(),
            SDPBackend.CUDNN_ATTENTION: torch.backends.cuda.cudnn_sdp_enabled(),
        }
        self.backends = [backend for backend, on in enabled.items() if on]
        self.entered: list[AbstractContextManager[None]] = []

    def __enter__(self) -> None:
        self.entered.append(sdpa_kernel(self.backends))
        self.entered[-1].__enter__()

    def __exit__(self, *error: Any) -> None:
        self.entered.pop().__exit__(*error)
