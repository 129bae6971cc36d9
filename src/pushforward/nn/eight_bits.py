"""Linear weights kept in 8 bits, with a scale for each row, and widened where they are used."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pushforward._suggestions import unknown
from pushforward.errors import UserError

Weights = Literal["full", "fp8", "int8"]
FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz)
STORED_AS: dict[str, tuple[torch.dtype, float]] = {"fp8": (torch.float8_e4m3fn, 448.0), "int8": (torch.int8, 127.0)}  # largest value
TINY = 1e-30  # of a scale, so that a row of zeros stays zero


def checked_weights(weights: str) -> None:
    """Raise unless this is a form in which weights are kept."""
    if weights not in get_args(Weights):
        raise UserError(unknown("weights", str(weights), get_args(Weights)))


def widened(values: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Return values scale, computed in float32 and rounded once to dtype; the scale has two axes, and values are exact in dtype."""
    return (values.to(dtype) * scale).to(dtype)


@torch.no_grad()
def quantised(weight: Tensor, weights: Weights) -> tuple[Tensor, Tensor]:
    """Return a weight (rows, columns) in 8 bits and its scales (rows, 1), by the largest number of each row."""
    scale = scales_of(weight, weights)
    return rounded(weight, scale, weights), scale


@torch.no_grad()
def scales_of(weight: Tensor, weights: Weights, rows: bool = True) -> Tensor:
    """Return the scales (rows, 1) of a weight by the largest number of each row, or one (1, 1) for all."""
    return (weight.abs().amax((1,) if rows else (0, 1), keepdim=True).float() / STORED_AS[weights][1]).clamp_min(TINY)


@torch.no_grad()
def rounded(weight: Tensor, scale: Tensor, weights: Weights) -> Tensor:
    """Return weight / scale in 8 bits."""
    dtype, largest = STORED_AS[weights]
    values = weight.float() / scale
    return (values.round() if dtype == torch.int8 else values).clamp(-largest, largest).to(dtype)


class EightBits(nn.Module):
    """A weight in 8 bits as a parametrisation of torch: each use of it computes `widened`.

    Values and scales are kept as bytes, so that a cast of the module changes the dtype of the weight, not them.
    """

    like: Tensor

    def __init__(self, values: Tensor, scale: Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        self.kind = values.dtype
        self.register_buffer("like", torch.empty(0, dtype=dtype, device=values.device), persistent=False)
        self.originals: tuple[Tensor, Tensor] | None = (values.view(torch.uint8), scale.float().view(torch.uint8))

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return what torch keeps in place of the weight."""
        originals, self.originals = self.originals, None
        assert originals is not None
        return originals

    def forward(self, values: Tensor, scale: Tensor) -> Tensor:
        return widened(values.view(self.kind), scale.view(torch.float32), self.like.dtype)


def keep(linear: nn.Module, values: Tensor, scale: Tensor, dtype: torch.dtype) -> None:
    """Let a Linear, whose weight may be on the meta device, keep its weight as 8-bit values and scales (rows, 1) or (1, 1)."""
    linear.weight.requires_grad_(False)
    parametrize.register_parametrization(linear, "weight", EightBits(values, scale, dtype), unsafe=True)


def keep_all(network: nn.Module, weights: Weights) -> None:
    """Quantise the weights of a network's layers; the others keep their dtype, and none requires a gradient."""
    if weights != "full":
        network.requires_grad_(False)
        for linear in layer_linears(network).values():
            keep(linear, *quantised(linear.weight, weights), linear.weight.dtype)


def kept(module: nn.Module) -> bool:
    """Return whether a Linear keeps its weight in 8 bits."""
    return parametrize.is_parametrized(module, "weight") and isinstance(module.parametrizations.weight[0], EightBits)  # type: ignore[union-attr, index]


def layer_linears(network: nn.Module) -> dict[str, nn.Linear]:
    """Return the Linears inside the repeated layers of a network by path: nearly all of its weights."""
    lists = tuple(f"{path}." for path, one in network.named_modules() if isinstance(one, nn.ModuleList))
    return {path: one for path, one in network.named_modules() if isinstance(one, nn.Linear) and path.startswith(lists)}
