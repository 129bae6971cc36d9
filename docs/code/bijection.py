# --8<-- [start:new]
import functools

import torch
from torch import Tensor, nn

import pushforward as pf
from pushforward.registry import api_export

export = functools.partial(api_export, package="my_flows")


@export("bijections.Cube", example=lambda: (Cube(2), torch.randn(4, 2), None), exactness="exact")
class Cube(pf.bijections.Bijection):
    """Scale and cube every feature, which stretches the tails.

        z = a x + x³ / 3,    log|det| = sum log(a + x²)

    Args:
        features: how many.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.log_a = nn.Parameter(torch.zeros(features))

    def forward(self, x: Tensor, cond: Tensor | None = None) -> tuple[Tensor, Tensor]:
        a = self.log_a.exp()
        return a * x + x**3 / 3, (a + x**2).log().sum(dim=1)

    def inverse(self, z: Tensor, cond: Tensor | None = None) -> tuple[Tensor, Tensor]:
        a = self.log_a.exp()  # Cardano's formula: one real root since a > 0; the smaller radicand is computed without cancellation
        root = (1.5 * z.abs() + (2.25 * z**2 + a**3).sqrt()) ** (1 / 3)
        x = z.sign() * (root - a / root)
        return x, -(a + x**2).log().sum(dim=1)


# --8<-- [end:new]


# --8<-- [start:laws]
torch.manual_seed(0)
pf.testing.check_bijection(Cube(2).double(), torch.randn(4, 2, dtype=torch.float64))
print("all laws hold; it has joined the others:", pf.bijections.Cube is Cube)
# --8<-- [end:laws]
