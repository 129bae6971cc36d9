"""Runge-Kutta methods: each is one record of numbers, used by fixed steps, adaptive steps, the adjoint and the divergence."""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pushforward.errors import UserError
from pushforward.order_conditions import TOLERANCE, order_of
from pushforward.registry import export

# A weighted sum of slopes: each weight with all its slopes, which are added before they are multiplied.
Sum = tuple[tuple[float, tuple[int, ...]], ...]
Step = Callable[[Sequence[Callable[[Tensor, Tensor], Tensor]], Tensor, float, Sequence[Tensor], Tensor], Tensor]


class Plan(NamedTuple):
    """The computation of a fixed step: without zeros, and without stages that only the error or the next step needs."""

    nodes: tuple[float, ...]
    rows: tuple[Sum, ...]  # of each stage but the first
    weights: Sum


@export("ode.Tableau")
@dataclass(frozen=True)
class Tableau:
    """An explicit Runge-Kutta method.

        k_i = f(x + h sum_j a_ij k_j, t + c_i h),    x' = x + h sum_i b_i k_i,    error = h sum_i e_i k_i

    Args:
        nodes: c (s,), the first of which is 0.
        stages: the rows of a for each stage but the first: one number, then two, up to s - 1.
        weights: b (s,).
        error: e (s,), b minus the weights of the embedded method; empty if there is none, and the method takes fixed steps only.
        name: name for messages.

    Raises:
        UserError: rows of the wrong length, a node that is not the sum of its row, weights that do not sum to 1, or error weights not to 0.

    Example:
        >>> ralston = Tableau(nodes=(0, 2 / 3), stages=((2 / 3,),), weights=(1 / 4, 3 / 4))
        >>> ralston.order, ralston.evaluations
        (2, 2)

    Source: Hairer, Nørsett and Wanner, Solving ordinary differential equations I, 2nd edition, section II.1.
    """

    nodes: tuple[float, ...]
    stages: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]
    error: tuple[float, ...] = ()
    name: str = field(default="the method", compare=False)
    plan: Plan = field(init=False, repr=False, compare=False)
    step: Step = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for key in ("nodes", "weights", "error"):
            object.__setattr__(self, key, tuple(float(one) for one in getattr(self, key)))
        object.__setattr__(self, "stages", tuple(tuple(float(one) for one in row) for row in self.stages))
        self._check()
        object.__setattr__(self, "plan", self._plan())
        object.__setattr__(self, "step", _written_out(self.plan))

    def __reduce__(self) -> tuple[Any, ...]:
        return Tableau, (self.nodes, self.stages, self.weights, self.error, self.name)

    def _check(self) -> None:
        s = len(self.weights)
        if s == 0 or len(self.nodes) != s or len(self.stages) != s - 1:
            raise UserError(
                f"the tableau has {len(self.nodes)} nodes, {len(self.stages)} stages and {s} weights, but s weights need s nodes and s - 1 "
                "rows of stages; leave out the first stage's empty row."
            )
        for k, (node, row) in enumerate(zip(self.nodes, ((), *self.stages), strict=True)):
            if len(row) != k:
                raise UserError(
                    f"stage {k + 1} of the tableau reads {len(row)} slopes, but an explicit method's reads the {k} before it; pad with 0."
                )
            if not abs(math.fsum(row) - node) < TOLERANCE:
                raise UserError(f"node {k + 1} of the tableau is {node:g}, but its row sums to {math.fsum(row):g}; they must be equal.")
        if not abs(math.fsum(self.weights) - 1) < TOLERANCE:
            raise UserError(f"the tableau's weights sum to {math.fsum(self.weights):g}, but they must sum to 1; check them.")
        if self.error and not (len(self.error) == s and abs(math.fsum(self.error)) < TOLERANCE):
            raise UserError(
                f"the tableau's {len(self.error)} error weights sum to {math.fsum(self.error):g}, but {s} that sum to 0 are needed: the "
                "weights less those of the embedded method."
            )

    def _plan(self) -> Plan:
        used = max(k for k, weight in enumerate(self.weights) if weight) + 1  # an explicit stage uses only the slopes before it
        rows = tuple(_sum(row) for row in self.stages[: used - 1])
        return Plan(self.nodes[:used], rows, _sum(self.weights))

    @property
    def evaluations(self) -> int:
        """Evaluations of a fixed step."""
        return len(self.plan.nodes)

    @functools.cached_property
    def fsal(self) -> bool:
        """Whether the last stage is evaluated at the step's end, so that its slope is the next step's first (first same as last)."""
        return len(self.stages) > 0 and self.nodes[-1] == 1 and self.weights == (*self.stages[-1], 0.0)

    @functools.cached_property
    def order(self) -> int:
        """Order of convergence, by the conditions of order up to 8."""
        return order_of(self.stages, self.weights)

    @functools.cached_property
    def error_order(self) -> int:
        """Order of the embedded method: with p, the estimated error of a step is O(h^(p + 1))."""
        return order_of(self.stages, [b - e for b, e in zip(self.weights, self.error, strict=True)]) if self.error else 0


def _sum(row: Sequence[float]) -> Sum:
    places: dict[float, list[int]] = {}
    for k, weight in enumerate(row):
        if weight:
            places.setdefault(weight, []).append(k)
    return tuple((weight, tuple(slopes)) for weight, slopes in places.items())


def _written_out(plan: Plan) -> Step:
    """Return a step as generated code without loops, such as `k1 = f1(add(x, k0, alpha=h * 0.5), at[1])`.

    Loops over coefficients would cost a tenth of the time of a small field. It is called as step(later, x, h, at, k0), where `later` are
    the functions of all stages except the first, `at` the times of all stages and k0 the first slope.
    """

    def moved(row: Sum) -> str:
        text = "x"
        for weight, slopes in row:
            text = f"add({text}, {' + '.join(f'k{k}' for k in slopes)}, alpha=h * {weight!r})"
        return text

    lines = [f"k{k} = later[{k - 1}]({moved(row)}, at[{k}])" for k, row in enumerate(plan.rows, 1)]
    space: dict[str, Any] = {"add": torch.add}
    exec("\n    ".join(("def step(later, x, h, at, k0):", *lines, f"return {moved(plan.weights)}")), space)
    return space["step"]


EULER = Tableau((0.0,), (), (1.0,), name="euler")
MIDPOINT = Tableau((0.0, 1 / 2), ((1 / 2,),), (0.0, 1.0), name="midpoint")
HEUN = Tableau((0.0, 1.0), ((1.0,),), (1 / 2, 1 / 2), name="heun")
RK4 = Tableau((0.0, 1 / 2, 1 / 2, 1.0), ((1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6), name="rk4")

# Bogacki and Shampine, A 3(2) pair of Runge-Kutta formulas, 1989.
BOSH3 = Tableau(
    (0.0, 1 / 2, 3 / 4, 1.0),
    ((1 / 2,), (0.0, 3 / 4), (2 / 9, 1 / 3, 4 / 9)),
    (2 / 9, 1 / 3, 4 / 9, 0.0),
    (-5 / 72, 1 / 12, 1 / 9, -1 / 8),
    "bosh3",
)

# Dormand and Prince, A family of embedded Runge-Kutta formulae, 1980: 5(4)7M.
DOPRI5 = Tableau(
    (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0),
    (
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    ),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0.0),
    (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40),
    "dopri5",
)

# Tsitouras, Runge-Kutta pairs of order 5(4) satisfying only the first column simplifying assumption, 2011; its table prints the error's
# weights themselves, and the last with the wrong sign.
TSIT5 = Tableau(
    (0.0, 0.161, 0.327, 0.9, 0.9800255409045097, 1.0, 1.0),
    (
        (0.161,),
        (-0.008480655492356989, 0.335480655492357),
        (2.8971530571054935, -6.359448489975075, 4.3622954328695815),
        (5.325864828439257, -11.748883564062828, 7.4955393428898365, -0.09249506636175525),
        (5.86145544294642, -12.92096931784711, 8.159367898576159, -0.071584973281401, -0.02826905039406838),
        (0.09646076681806523, 0.01, 0.4798896504144996, 1.379008574103742, -3.290069515436081, 2.324710524099774),
    ),
    (0.09646076681806523, 0.01, 0.4798896504144996, 1.379008574103742, -3.290069515436081, 2.324710524099774, 0.0),
    (
        0.00178001105222577714,
        0.0008164344596567469,
        -0.007880878010261995,
        0.1447110071732629,
        -0.5823571654525552,
        0.45808210592918697,
        -1 / 66,
    ),
    "tsit5",
)

# Prince and Dormand, High order embedded Runge-Kutta formulae, 1981: 8(7)13M, in its rational approximations, as in torchdiffeq's dopri8.
_EIGHTH = (
    14005451 / 335480064,
    0.0,
    0.0,
    0.0,
    0.0,
    -59238493 / 1068277825,
    181606767 / 758867731,
    561292985 / 797845732,
    -1041891430 / 1371343529,
    760417239 / 1151165299,
    118820643 / 751138087,
    -528747749 / 2220607170,
    1 / 4,
)
_SEVENTH = (
    13451932 / 455176623,
    0.0,
    0.0,
    0.0,
    0.0,
    -808719846 / 976000145,
    1757004468 / 5645159321,
    656045339 / 265891186,
    -3867574721 / 1518517206,
    465885868 / 322736535,
    53011238 / 667516719,
    2 / 45,
    0.0,
)
DOPRI8 = Tableau(
    (0.0, 1 / 18, 1 / 12, 1 / 8, 5 / 16, 3 / 8, 59 / 400, 93 / 200, 5490023248 / 9719169821, 13 / 20, 1201146811 / 1299019798, 1.0, 1.0),
    (
        (1 / 18,),
        (1 / 48, 1 / 16),
        (1 / 32, 0.0, 3 / 32),
        (5 / 16, 0.0, -75 / 64, 75 / 64),
        (3 / 80, 0.0, 0.0, 3 / 16, 3 / 20),
        (29443841 / 614563906, 0.0, 0.0, 77736538 / 692538347, -28693883 / 1125000000, 23124283 / 1800000000),
        (16016141 / 946692911, 0.0, 0.0, 61564180 / 158732637, 22789713 / 633445777, 545815736 / 2771057229, -180193667 / 1043307555),
        (
            39632708 / 573591083,
            0.0,
            0.0,
            -433636366 / 683701615,
            -421739975 / 2616292301,
            100302831 / 723423059,
            790204164 / 839813087,
            800635310 / 3783071287,
        ),
        (
            246121993 / 1340847787,
            0.0,
            0.0,
            -37695042795 / 15268766246,
            -309121744 / 1061227803,
            -12992083 / 490766935,
            6005943493 / 2108947869,
            393006217 / 1396673457,
            123872331 / 1001029789,
        ),
        (
            -1028468189 / 846180014,
            0.0,
            0.0,
            8478235783 / 508512852,
            1311729495 / 1432422823,
            -10304129995 / 1701304382,
            -48777925059 / 3047939560,
            15336726248 / 1032824649,
            -45442868181 / 3398467696,
            3065993473 / 597172653,
        ),
        (
            185892177 / 718116043,
            0.0,
            0.0,
            -3185094517 / 667107341,
            -477755414 / 1098053517,
            -703635378 / 230739211,
            5731566787 / 1027545527,
            5232866602 / 850066563,
            -4093664535 / 808688257,
            3962137247 / 1805957418,
            65686358 / 487910083,
        ),
        (
            403863854 / 491063109,
            0.0,
            0.0,
            -5068492393 / 434740067,
            -411421997 / 543043805,
            652783627 / 914296604,
            11173962825 / 925320556,
            -13158990841 / 6184727034,
            3936647629 / 1978049680,
            -160528059 / 685178525,
            248638103 / 1413531060,
            0.0,
        ),
    ),
    _EIGHTH,
    tuple(b - e for b, e in zip(_EIGHTH, _SEVENTH, strict=True)),
    "dopri8",
)

METHODS = {one.name: one for one in (EULER, MIDPOINT, HEUN, RK4, BOSH3, DOPRI5, TSIT5, DOPRI8)}
