"""Autoregression over patches: a causal transformer predicts the scale and shift of each patch of an image from the patches before it."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pushforward._modes import values_alone
from pushforward._precision import wide
from pushforward.bijections.bijection import Bijection
from pushforward.dispatch import inherits, way_of
from pushforward.errors import ShapeError, UserError
from pushforward.functional.affine import bounded_affine
from pushforward.functional.jacobi import Solver, checked_solver, jacobi
from pushforward.functional.patches import patchify, unpatchify
from pushforward.guidance.cfg import CFG
from pushforward.nn.causal import CausalTransformer
from pushforward.registry import export


def _example() -> tuple:
    bijection = TransformerAutoregressive((1, 4, 6), 2, width=8, depth=2, heads=2, reverse=True, classes=3)
    nn.init.normal_(bijection.net.out.weight, std=0.5)
    return bijection, torch.randn(4, 1, 4, 6), torch.tensor([0, 2, 1, 0])


@export("bijections.TransformerAutoregressive", example=_example, exactness="exact")
class TransformerAutoregressive(Bijection):
    """Shift and scale each patch of an image with parameters that a causal transformer predicts from the patches before it.

        z_k = (x_k - t_k(x_<k, cond)) exp(-s_k(x_<k, cond)),    |s| < bound,    log|det| = -sum s

    Fast direction: forward, one pass. The inverse is sequential, one step per patch with cached keys and values, or solved by Jacobi
    iteration, passes over all patches until nothing changes, at most one per patch. It supports guidance: the parameters p of patch k
    become p(cond) + w_k (p(cond) - p(no cond)), with w_k rising from 0 at the first patch to scale - 1 at the last. The map stays
    invertible.

    Args:
        shape: (channels, height, width) of an image.
        patch: side of a patch in pixels; must divide height and width.
        width: channels of the transformer.
        depth: number of blocks.
        heads: number of attention heads.
        reverse: start at the last patch instead of the first; alternate it in a chain.
        bound: s is bound tanh(raw / bound), so that no patch can overflow.
        classes: number of labels that `cond` may be, or None.
        cond_features: length of the vectors that `cond` may be, or None.
        solver: how the inverse is computed: "sequential", "jacobi", or "auto": by Jacobi iteration where that was measured to be faster,
            for at most 2 samples of 32 patches or more, without gradients (with them, and under torch.func, it is sequential).

    Raises:
        UserError: the shape is not an image's, the patch does not divide it, the bound is not positive, or there is no such solver.
        ConditionError: a condition that the network was not built for, or a vector that is missing.

    Example:
        >>> layer = TransformerAutoregressive((1, 8, 8), 4, width=16, depth=1, heads=2)
        >>> z, log_abs_det = layer(torch.randn(2, 1, 8, 8))
        >>> z.shape, log_abs_det.shape
        (torch.Size([2, 1, 8, 8]), torch.Size([2]))

    Source: Zhai et al., Normalizing flows are capable generative models, 2024, arXiv 2412.06329, equations 4 to 6; guidance: section 2.6.
    Ours: a learned start token, so that the first patch is transformed too, and a bound on the scale.
    """

    def __init__(
        self,
        shape: Sequence[int],
        patch: int,
        *,
        width: int = 128,
        depth: int = 4,
        heads: int = 4,
        reverse: bool = False,
        bound: float = 3.0,
        classes: int | None = None,
        cond_features: int | None = None,
        solver: Solver = "auto",
    ) -> None:
        super().__init__()
        self.solver = checked_solver(solver)
        if len(shape) != 3:
            raise UserError(
                f"shape is {tuple(shape)}, but patches are of images (channels, height, width); for vectors use `maf` or `nsf`."
            )
        self.shape, self.patch, self.reverse, self.bound = tuple(shape), patch, reverse, bound
        channels, height, columns = self.shape
        if patch < 1 or height % patch or columns % patch:
            raise UserError(f"patch is {patch}, which does not divide an image of {height}x{columns}; use a divisor of both sides.")
        if not bound > 0:
            raise UserError(f"bound is {bound}, but the bound of a log-scale must be positive; 3 is usual.")
        tokens, features = height * columns // patch**2, channels * patch**2
        self.net = CausalTransformer(
            tokens, features, 2 * features, width=width, depth=depth, heads=heads, classes=classes, cond_features=cond_features
        )

    def forward(self, x: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        return self.guided(x, cond, None, inverse=False)

    def inverse(self, z: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        return self.guided(z, cond, None)

    def guided(self, x: Tensor, cond: Any, guidance: CFG | None, inverse: bool = True) -> tuple[Tensor, Tensor]:
        """Return the map or its inverse under guidance, and its log_abs_det (n,)."""
        conds = (cond,) if guidance is None else (cond, guidance.negative)
        strength = 0.0 if guidance is None else (guidance.scale - 1) / max(1, self.net.tokens - 1)
        if inverse:
            return self._inverse(x, conds, strength)
        tokens = self._tokens(x)
        z, log_slopes = bounded_affine(tokens, *self._params(tokens, conds, strength), self.bound, inverse=True)
        return self._image(z), log_slopes.sum((1, 2), dtype=wide(x))

    def _params(self, tokens: Tensor, conds: Sequence[Any], strength: float) -> tuple[Tensor, Tensor]:
        """Return the raw log-scale and the shift of each token (n, tokens, features), predicted in one pass under each condition."""
        places = torch.arange(tokens.shape[1], dtype=tokens.dtype, device=tokens.device)[:, None]
        raw, shift = _mixed([self.net(tokens, one) for one in conds], 1 + strength * places).to(tokens.dtype).chunk(2, 2)
        return raw, shift

    def _inverse(self, z: Tensor, conds: Sequence[Any], strength: float) -> tuple[Tensor, Tensor]:
        tokens = self._tokens(z)
        if self._by_jacobi(tokens):
            x, log_slopes = jacobi(
                lambda x: bounded_affine(tokens, *self._params(x, conds, strength), self.bound), tokens, most=tokens.shape[1]
            )
            return self._image(x), log_slopes.sum((1, 2), dtype=wide(z))
        slopes: list[Tensor] = []

        def solve(k: int, outputs: Tensor) -> Tensor:
            raw, shift = _mixed(list(outputs), 1 + strength * k).to(z.dtype).chunk(2, 1)
            x, log_slope = bounded_affine(tokens[:, k], raw, shift, self.bound)
            slopes.append(log_slope)
            return x

        fast = way_of(self.net, "sequential") if inherits(self, TransformerAutoregressive, "_sequential") else None
        x = self._sequential(tokens, conds, solve) if fast is None else fast(self.net, z.shape[0], conds, solve)
        return self._image(x), torch.stack(slopes, 1).sum((1, 2), dtype=wide(z))

    def _by_jacobi(self, tokens: Tensor) -> bool:
        if not values_alone():  # before sizes are compared, which would limit the batches of an exported program
            return False
        few = tokens.shape[0] <= 2 and tokens.shape[1] >= 32  # cached steps win on larger batches (benchmarks/jacobi.py)
        return self.solver == "jacobi" or (self.solver == "auto" and few)

    def _sequential(self, like: Tensor, conds: Sequence[Any], solve: Callable[[int, Tensor], Tensor]) -> Tensor:
        """Return tokens generated one at a time, each by one pass of the network under each condition."""
        made: list[Tensor] = []
        for k in range(like.shape[1]):
            tokens = torch.cat([*(one[:, None] for one in made), like[:, k:]], 1)  # the outputs for k do not depend on tokens k and later
            made.append(solve(k, torch.stack([self.net(tokens, cond)[:, k] for cond in conds])))
        return torch.stack(made, 1)

    def _tokens(self, x: Tensor) -> Tensor:
        if tuple(x.shape[1:]) != self.shape:
            raise ShapeError(f"x has shape {tuple(x.shape)}, but this bijection needs (n, {', '.join(map(str, self.shape))}); reshape it.")
        tokens = patchify(x, self.patch)
        return tokens.flip(1) if self.reverse else tokens

    def _image(self, tokens: Tensor) -> Tensor:
        return unpatchify(tokens.flip(1) if self.reverse else tokens, self.patch, *self.shape[1:])

    def extra_repr(self) -> str:
        return f"{self.shape}, {self.patch}, reverse={self.reverse}, bound={self.bound:g}"


def _mixed(outputs: Sequence[Tensor], weight: Tensor | float) -> Tensor:
    """Return the prediction; if there are two, extrapolate away from the second."""
    return outputs[0] if len(outputs) == 1 else torch.lerp(outputs[1], outputs[0], weight)
