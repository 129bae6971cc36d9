"""Embeddings of time and of positions."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pushforward._precision import wide
from pushforward.registry import export


@export("functional.timestep_embedding", example=lambda: (torch.rand(3, dtype=torch.float64), 8))
def timestep_embedding(
    t: Float[Tensor, " n"], features: int, scale: float = 1000.0, max_period: float = 10000.0
) -> Float[Tensor, "n features"]:
    """Return cosines and sines of t at geometrically spaced frequencies.

        [cos(scale t f_k), sin(scale t f_k)],    f_k = max_period^(-k / (features / 2))

    Args:
        t: times in [0, 1], (n,).
        features: size of the embedding; even.
        scale: factor applied to t; networks of diffusion models usually receive times in [0, 1000].
        max_period: the longest period, in units of scale t / (2 pi).

    Returns:
        The features (n, features), computed in at least float32.

    Raises:
        ValueError: features is odd.

    Example:
        >>> timestep_embedding(torch.zeros(1), 4)
        tensor([[1., 1., 0., 0.]])

    Source: Ho, Jain and Abbeel, Denoising diffusion probabilistic models, 2020, arXiv 2006.11239, appendix B (cosines first).
    """
    if features % 2:
        raise ValueError(f"features is {features}, but cosines and sines come in pairs; make it even.")
    t = t.to(wide(t))
    phase = t[:, None] * frequencies(features, scale, max_period).to(t)
    return torch.cat((phase.cos(), phase.sin()), dim=1)


def frequencies(features: int, scale: float, max_period: float) -> Tensor:
    """Return scale max_period^(-k / (features / 2)) for k < features / 2, in float64 on the CPU, for use as constants of a layer."""
    half = features // 2
    return torch.tensor([scale * max_period ** (-k / half) for k in range(half)], dtype=torch.float64)


def grid_positions(sides: Sequence[int], width: int) -> Tensor:
    """Return cosines and sines (cells, width) of the place of each cell of a grid: an equal share of the width a side, then zeros."""
    share = width // len(sides) // 2 * 2
    places = torch.meshgrid(*(torch.arange(side) for side in sides), indexing="ij")
    found = torch.cat([timestep_embedding(place.flatten().double(), share, scale=1.0) for place in places], dim=1)
    return torch.cat((found, found.new_zeros(len(found), width - found.shape[1])), dim=1)
