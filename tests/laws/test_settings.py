"""Frozen settings (samplers, grids, paths, times, weightings, pairings, guidance): a number that is none is refused when they are made."""

import dataclasses
import math

import pytest
import torch

import pushforward as pf
from pushforward import registry
from pushforward._checks import CheckedNumbers
from pushforward.errors import UserError

WRONG = [math.nan, -math.inf, "3", [1], True, torch.ones(2)]
ARGUMENTS = {"guidance.CFG": (3.0,), "guidance.SkipLayers": ((0,),)}
GROUPS = ("samplers", "paths", "times", "weightings", "pairings", "guidance", "bijections", "objectives", "editing")
RECORDS = [one for group in GROUPS for one in registry.entries(group) if dataclasses.is_dataclass(one.thing)]


def numbers(entry):
    """Return the settings and their fields that are numbers."""
    record = entry.thing(*ARGUMENTS.get(entry.name, ())) if entry.name in ARGUMENTS or entry.example is None else entry.example()
    made = record if isinstance(record, entry.thing) else entry.thing()
    fields = [one for one in dataclasses.fields(made) if one.init and type(getattr(made, one.name)) in (int, float)]
    return made, [one.name for one in fields]


@pytest.mark.parametrize("entry", [pytest.param(one, id=one.name) for one in RECORDS if issubclass(one.thing, CheckedNumbers)])
def test_a_number_that_is_none_is_refused_by_name(entry):
    record, names = numbers(entry)
    for name in names:
        for wrong in WRONG:
            with pytest.raises(UserError, match=f"{name} is "):
                dataclasses.replace(record, **{name: wrong})
        if isinstance(getattr(record, name), int):
            with pytest.raises(UserError, match=f"{name} is 2.5, but it must be an integer"):
                dataclasses.replace(record, **{name: 2.5})


def test_all_settings_are_checked():
    assert [one.name for one in RECORDS if not issubclass(one.thing, CheckedNumbers)] == []


def test_a_scalar_tensor_may_be_a_number():
    assert pf.paths.VariancePreserving(torch.tensor(0.2, dtype=torch.float64), 20.0).beta_min == 0.2


def test_settings_of_another_package_are_checked_too():
    @dataclasses.dataclass(frozen=True)
    class Mine(pf.paths.Path):
        rate: float = 2.0
        knots: int | None = None

    assert Mine(3).rate == 3
    with pytest.raises(UserError, match="rate is nan, but it must be a finite number in Mine; 2.0 is usual"):
        Mine(math.nan)
    with pytest.raises(UserError, match="knots is 1.5, but it must be an integer in Mine; None is usual"):
        Mine(knots=1.5)
