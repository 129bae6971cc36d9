"""A bijection in a conditional chain that does not see the chain's condition."""

from typing import Any

import torch
from torch import Tensor

from pushforward.bijections.bijection import Bijection
from pushforward.bijections.columns import features_of, through, with_columns
from pushforward.registry import export


def _example() -> tuple:
    from pushforward.bijections.coupling import AffineCoupling

    return Unconditional(AffineCoupling(4, (8,), activation="tanh")), torch.randn(3, 4), torch.tensor([0, 1, 2])


@export("bijections.Unconditional", example=_example, exactness="exact")
class Unconditional(Bijection):
    """A bijection called without the condition that its chain is called with.

    Args:
        bijection: the bijection, built without a condition.

    Example:
        >>> layer = Unconditional(pf.bijections.AffineCoupling(2))
        >>> layer(torch.randn(3, 2), torch.tensor([0, 1, 2]))[0].shape
        torch.Size([3, 2])

    Source: Gu et al., STARFlow, 2025, arXiv 2506.06276, whose shallow blocks do not see the text.
    """

    def __init__(self, bijection: Bijection) -> None:
        super().__init__()
        self.bijection = bijection

    @property
    def features(self) -> int | None:
        """Number of features, if the bijection is one of vectors."""
        return features_of(self.bijection)

    @with_columns
    def forward(self, x: Any, cond: Any = None) -> tuple[Any, Any]:
        return through([self.bijection], x, None, inverse=False)

    @with_columns
    def inverse(self, z: Any, cond: Any = None) -> tuple[Any, Any]:
        return through([self.bijection], z, None, inverse=True)

    @torch.no_grad()
    def initialise(self, x: Tensor, cond: Any = None) -> None:
        self.bijection.initialise(x, None)

    def reaches(self, touched: Tensor) -> Tensor:
        return self.bijection.reaches(touched)
