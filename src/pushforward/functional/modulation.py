"""Adaptive layer normalisation: scale and shift are given, so that time and condition can modulate the tokens of a transformer."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from pushforward.registry import export


def _example() -> tuple:
    return tuple(torch.randn(*shape, dtype=torch.float64) for shape in ((2, 3, 8), (2, 8), (2, 8)))


@export("functional.modulated_norm", example=_example)
def modulated_norm(
    x: Float[Tensor, "n tokens width"], shift: Float[Tensor, "n width"], scale: Float[Tensor, "n width"], eps: float = 1e-6
) -> Float[Tensor, "n tokens width"]:
    """Return layer-normalised tokens, scaled and shifted by one vector per sample.

        (x - mean) / sqrt(variance + eps) (1 + scale) + shift,    mean and variance over the channels of a token

    Args:
        x: tokens (n, tokens, width).
        shift: shift to add (n, width).
        scale: factor minus 1 (n, width).
        eps: prevents division by zero for a constant token.

    Returns:
        Tokens (n, tokens, width).

    Example:
        >>> modulated_norm(torch.tensor([[[1.0, 3.0]]]), torch.ones(1, 2), torch.ones(1, 2))  # -1 and 1, doubled, and 1 more
        tensor([[[-1.0000,  3.0000]]])

    Source: Peebles and Xie, Scalable diffusion models with transformers, 2022, arXiv 2212.09748, section 3.2 (adaLN).
    """
    shift, scale = shift.to(x.dtype), scale.to(x.dtype)  # under autocast they are narrower than x
    if x.shape[0] == 1:  # one pass over the tokens instead of two
        return F.layer_norm(x, x.shape[-1:], 1 + scale[0], shift[0], eps)
    normed = F.layer_norm(x, x.shape[-1:], x.new_ones(x.shape[-1]), eps=eps)  # torch takes nearly twice as long without a weight
    return torch.addcmul(shift[:, None], normed, 1 + scale[:, None])
