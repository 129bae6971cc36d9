"""Neural spline flows: each number is transformed by a spline whose knots a network predicts.

Paper: Durkan, Bekasov, Murray and Papamakarios, Neural spline flows, 2019, arXiv 1906.04032.
What it adds: where RealNVP and MAF scale and shift a number, this transforms it by a monotone rational-quadratic spline, whose knots and
slopes the network predicts; it is as easily inverted (a quadratic equation) and far more flexible: one layer already makes several modes.
Outside [-bound, bound] splines are the identity, so data should be of unit size (`preprocess="standardise"`). Between layers features
are mixed by a matrix kept as LU factors (section 4). Both of the paper's kinds: RQ-NSF (C) of couplings, fast in both directions, and
RQ-NSF (AR), autoregressive.
"""

from typing import Literal

import torch

from pushforward.bases import Torus
from pushforward.bijections.autoregressive import SplineAutoregressive
from pushforward.bijections.bijection import Bijection
from pushforward.bijections.chain import Chain
from pushforward.bijections.circular import CircularSplineCoupling
from pushforward.bijections.coupling import SplineCoupling
from pushforward.bijections.mixing import LULinear, Permutation, Reverse
from pushforward.errors import UserError
from pushforward.families.normalizing_flow import NormalizingFlow
from pushforward.functional.jacobi import Solver
from pushforward.models.flow_options import VectorOptions
from pushforward.models.preset import checked_layers, preset
from pushforward.registry import export


def _example() -> tuple:
    return nsf(2, 2, 4, (16,), activation="tanh", classes=3), torch.randn(4, 2), torch.tensor([0, 1, 2, 0])


@export("models.nsf", example=_example)
@preset
def nsf(
    shared: VectorOptions,
    layers: int = 8,
    bins: int = 8,
    hidden: tuple[int, ...] = (128, 128),
    *,
    kind: Literal["coupling", "autoregressive"] = "coupling",
    mixing: Literal["lu", "none"] = "lu",
    bound: float = 5.0,
    circular: bool = False,
    solver: Solver = "auto",
) -> NormalizingFlow:
    """Stack spline couplings, or masked autoregressive splines, with learned linear mixing between them.

    Args:
        layers: number of spline layers.
        bins: pieces of each spline.
        hidden: widths of each network's hidden layers.
        kind: "coupling" (both directions one pass) or "autoregressive" (log_prob one pass, sampling feature by feature).
        mixing: "lu" puts a learned linear map before each layer; "none" only reverses the order between autoregressive
            layers, as couplings transform the halves in turn anyway.
        bound: the splines act on [-bound, bound].
        circular: whether all features are angles in [-pi, pi), in radians: periodic splines, fixed permutations, uniform noise.
        solver: how samples of autoregressive splines are computed (see `maf`).

    Returns:
        A NormalizingFlow with Gaussian noise; of angles, with noise uniform on the torus.

    Example:
        >>> nsf(6, layers=3).log_prob(torch.randn(3, 6)).shape
        torch.Size([3])
    """
    if kind not in ("coupling", "autoregressive") or mixing not in ("lu", "none"):
        raise UserError(f"kind is {kind!r} and mixing {mixing!r}, but they are 'coupling' or 'autoregressive', and 'lu' or 'none'.")
    size, network = shared.size, shared.network
    table = shared.schema is not None and bool(shared.schema.columns)
    if circular and (kind != "coupling" or shared.preprocess != "none" or shared.levels or table):
        raise UserError(
            f"circular is True with kind {kind!r}, preprocess {shared.preprocess!r}, levels {shared.levels} and {'a' if table else 'no'} "
            "table, but angles need couplings and their own units; use kind='coupling', preprocess='none', no levels, and an array."
        )
    steps: list[Bijection] = []
    if circular:
        for k in range(checked_layers(layers)):
            # Odd places first, then even ones, so that every two angles are in different halves at some time.
            steps += [Permutation([*range(1, size, 2), *range(0, size, 2)])] if k and k % 2 == 0 else []
            steps += [CircularSplineCoupling(size, bins, hidden, swap=k % 2 == 1, **network)]
        return NormalizingFlow(Chain(steps), Torus(shared.event_shape), **shared.family_options)
    for k in range(checked_layers(layers)):
        if mixing == "lu":
            steps += [LULinear(size)]
        elif kind == "autoregressive" and k:
            steps += [Reverse(size)]
        if kind == "coupling":
            steps += [SplineCoupling(size, bins, hidden, bound=bound, swap=k % 2 == 1, **network)]
        else:
            steps += [SplineAutoregressive(size, bins, hidden, bound=bound, solver=solver, **network)]
    return NormalizingFlow(Chain(steps), **shared.family_options)
