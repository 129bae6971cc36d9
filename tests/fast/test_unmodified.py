"""Whether a class and its objects have the methods that the class defined."""

import functools

import pytest
import torch
from torch import nn

import pushforward as pf
from pushforward._unmodified import Methods

KIND = pf.bijections.AffineCoupling


def test_methods_are_those_of_the_class_and_its_bases_of_torch_the_forward():
    names = Methods(KIND).names
    assert {"forward", "inverse", "map_columns", "params", "split", "merge"} <= names
    assert names.isdisjoint(("to", "parameters", "extra_repr", "features", "__init__"))
    assert Methods(nn.Linear).names == {"forward"}
    assert Methods(nn.ModuleList).names == set()


@pytest.mark.parametrize("name", ["params", "forward", "__call__"])
@pytest.mark.parametrize("wrapped", [False, True], ids=["function", "wraps"])
def test_a_method_replaced_before_or_after_registration_is_found(name, wrapped, monkeypatch):
    own, before = getattr(KIND, name), Methods(KIND)
    assert before.kept_by(KIND)

    def method(*args, **options):
        return own(*args, **options)

    monkeypatch.setattr(KIND, name, functools.wraps(own)(method) if wrapped else method)
    assert not before.kept_by(KIND)
    assert not Methods(KIND).kept_by(KIND)
    monkeypatch.undo()
    assert before.kept_by(KIND)


def test_a_method_that_was_deleted_is_found(monkeypatch):
    held = Methods(KIND)
    monkeypatch.delattr(KIND.__mro__[1], "params")
    assert not held.kept_by(KIND)


def test_a_method_is_inherited_unless_a_class_between_has_another():
    class Own(KIND):
        def split(self, x):
            return super().split(x)

    held = Methods(KIND)
    assert held.inherited_by(Own, ("merge", "params"))
    assert not held.inherited_by(Own, ("merge", "split"))


def test_an_attribute_in_the_place_of_a_method_is_found_on_an_object():
    step, held = KIND(4, (3,)), Methods(KIND)
    assert not held.replaced_on(step)
    step.merge = lambda *parts: parts
    assert held.replaced_on(step)
    assert not held.replaced_on(KIND(4, (3,)))


def test_the_call_of_all_modules_replaced_disables_fast_paths(monkeypatch):
    chain, x, calls, own = pf.bijections.Chain([KIND(4, (3,))]), torch.randn(2, 4), [], nn.Module.__call__
    chain(x)
    monkeypatch.setattr(nn.Module, "__call__", lambda self, *args, **options: calls.append(type(self)) or own(self, *args, **options))
    chain(x)
    assert nn.Linear in calls
