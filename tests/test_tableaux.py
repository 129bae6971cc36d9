"""Tableaus: their orders by the conditions, their error's order by measurement, the step that is written out, and what is refused."""

import copy
import math
import pickle

import pytest
import torch
from examples import some_of

from pushforward.errors import UserError
from pushforward.methods import METHODS
from pushforward.ode import odeint
from pushforward.order_conditions import trees
from pushforward.tableaux import Tableau

pytestmark = pytest.mark.usefixtures("float64")
ADAPTIVE = [name for name, one in METHODS.items() if one.error]
ORDERS = {
    "euler": (1, 0),
    "midpoint": (2, 0),
    "heun": (2, 0),
    "rk4": (4, 0),
    "bosh3": (3, 2),
    "dopri5": (5, 4),
    "tsit5": (5, 4),
    "dopri8": (8, 7),
}


def forced(x, t):
    """A driven Van der Pol oscillator: no method is better on it than its order."""
    return torch.stack((x[:, 1], (1 - x[:, 0] ** 2) * x[:, 1] - x[:, 0] + t.cos()), dim=1)


def measured(tableau, n, backwards=False):
    x0 = torch.tensor([[1.0, 0.5], [-0.3, 0.8]])
    t0, t1 = (1.0, 0.0) if backwards else (0.0, 1.0)
    exact = odeint(forced, x0, t0, t1, method=METHODS["dopri8"], steps=200)
    errors = [(odeint(forced, x0, t0, t1, method=tableau, steps=k) - exact).norm() for k in (n, 2 * n)]
    return math.log2(errors[0] / errors[1])


def test_there_are_as_many_conditions_as_rooted_trees():
    assert [len(trees(k)) for k in range(1, 9)] == [1, 1, 2, 4, 9, 20, 48, 115]


@pytest.mark.parametrize("name", METHODS)
def test_orders_are_those_of_the_papers(name):
    assert (METHODS[name].order, METHODS[name].error_order) == ORDERS[name]


@pytest.mark.parametrize(("name", "backwards"), some_of(list(METHODS), [False, True]))
def test_a_method_in_fixed_steps_converges_at_its_order(name, backwards):
    order = METHODS[name].order
    n = {1: 256, 2: 128, 3: 64, 4: 48, 5: 32, 8: 6}[order]
    assert measured(METHODS[name], n, backwards) == pytest.approx(order, abs=0.1 if order < 5 else 0.5)


@pytest.mark.parametrize("name", ADAPTIVE)
def test_the_embedded_method_converges_at_its_own_order(name):
    one = METHODS[name]
    embedded = Tableau(one.nodes, one.stages, tuple(b - e for b, e in zip(one.weights, one.error, strict=True)))
    assert measured(embedded, {2: 128, 4: 64, 7: 8}[one.error_order]) == pytest.approx(one.error_order, abs=0.5)


def test_first_same_as_last_is_seen():
    assert [name for name in METHODS if METHODS[name].fsal] == ["bosh3", "dopri5", "tsit5"]
    assert [METHODS[name].evaluations for name in ADAPTIVE] == [3, 6, 6, 13]


@pytest.mark.parametrize("name", METHODS)
def test_the_step_written_out_is_that_of_the_formula(name):
    one, x, h = METHODS[name], torch.randn(3, 2), 0.1

    def field(x, t):
        return x.sin() * t[:, None] + 1

    slopes = []
    for node, row in zip(one.nodes, ((), *one.stages), strict=True):
        at = x + h * sum((a * k for a, k in zip(row, slopes, strict=True)), torch.zeros(()))
        slopes.append(field(at, torch.full((3,), 0.2 + node * h)))
    formula = x + h * sum(b * k for b, k in zip(one.weights, slopes, strict=True))
    torch.testing.assert_close(odeint(field, x, 0.2, 0.2 + h, method=one, steps=1), formula, rtol=1e-13, atol=1e-13)


def test_a_tableau_is_a_value():
    one = Tableau([0, 0.5], [[0.5]], [0, 1])
    assert one == METHODS["midpoint"]
    assert hash(one) == hash(METHODS["midpoint"])
    for other in (copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
        assert other == one
        assert other.evaluations == 2


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        (((), (), ()), "0 nodes, 0 stages and 0 weights"),
        (((0, 0.5), (), (0, 1)), "2 nodes, 0 stages and 2 weights"),
        (((0, 0.5), ((), (0.5,)), (0, 1)), "leave out the first stage's empty row"),
        (((0, 0.5), ((0.5, 0.0),), (0, 1)), "stage 2 of the tableau reads 2 slopes, but an explicit method's reads the 1 before it"),
        (((0.1, 0.5), ((0.5,),), (0, 1)), "node 1 of the tableau is 0.1, but its row sums to 0"),
        (((0, 0.4), ((0.5,),), (0, 1)), "node 2 of the tableau is 0.4, but its row sums to 0.5"),
        (((0, math.nan), ((math.nan,),), (0, 1)), "node 2 of the tableau is nan"),
        (((0, 0.5), ((0.5,),), (0.5, 1)), "weights sum to 1.5, but they must sum to 1"),
        (((0, 0.5), ((0.5,),), (0, 1), (1, 0)), "2 error weights sum to 1, but 2 that sum to 0 are needed"),
        (((0, 0.5), ((0.5,),), (0, 1), (0,)), "1 error weights sum to 0, but 2 that sum to 0"),
    ],
)
def test_numbers_that_are_no_explicit_method_are_refused(numbers, message):
    with pytest.raises(UserError, match=message):
        Tableau(*numbers)
