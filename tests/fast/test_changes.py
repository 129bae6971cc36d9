"""The law of fast paths: whatever is done to a module, they give what the plain implementation gives, or its error.

Changes are generated from the parts that a module has (`changes.py`), and fast paths found in their registry: a new one needs a subject in
`fast_ways.py`. The quick test does two changes of each kind; `make test-slow` does all.
"""

import contextlib
import copy

import pytest
import torch
from changes import FAMILIES, dtypes
from fast_ways import WAYS, Overwritten, made, registered_ways
from torch.func import functional_call, vmap

import pushforward as pf
from pushforward import dispatch

SUBJECTS = [
    pytest.param(key, way, id="-".join((key[0].__name__, key[1], *([name] if name else []))))
    for key, ways in WAYS.items()
    for name, way in ways.items()
]
BFLOAT16 = 0.02  # relative, of outputs after several layers
QUICK = [pytest.param(k, *one.values[1:], id=one.id) for k, one in enumerate(SUBJECTS)]


@contextlib.contextmanager
def _default(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _outcome(way, module):
    """Return what a call returns, or the type of its error."""
    with _default(way.dtype):
        try:
            return way.call(module)
        except Overwritten:
            raise
        except Exception as error:  # of whatever kind torch raises
            return type(error).__name__


def _same(found, plain, tolerance):
    if isinstance(found, str) or isinstance(plain, str):
        return isinstance(found, str) and isinstance(plain, str)
    return all(
        one.shape == other.shape and one.dtype == other.dtype and _near(one, other, tolerance)
        for one, other in zip(found, plain, strict=True)
    )


def _near(one, other, tolerance):
    """Whether all numbers are near, or computed in bfloat16 all together: the difference of large ones is rounded to their last bit."""
    if tolerance == BFLOAT16:
        return bool((one.double() - other.double()).norm() <= tolerance * other.double().norm())
    return torch.allclose(one, other, rtol=tolerance, atol=tolerance, equal_nan=True)


def _tolerance(way, module):
    """Return how close both paths are: all in bfloat16 to its rounding, some of it to that of float32."""
    dtypes = {p.dtype for p in module.parameters()}
    return BFLOAT16 if dtypes == {torch.bfloat16} else way.tolerance if dtypes == {way.dtype} else max(way.tolerance, 1e-5)


def _differences(way, changes, patch):
    """Return the changes under which the fast path and the plain one disagree, and the share of those that count for something."""
    wrong, counted = [], 0
    for what, change in changes:
        module = made(way)
        before = _outcome(way, module)  # whatever is cached is cached now
        with patch.context() as within, _default(way.dtype):
            try:
                change(module, within)
            except (AttributeError, TypeError, RuntimeError, KeyError):  # torch refuses it
                continue
            found = _outcome(way, module)
            with pf.fast.disabled():
                plain = _outcome(way, module)
        tolerance = _tolerance(way, module)
        counted += not _same(plain, before, tolerance)
        if not _same(found, plain, tolerance):
            off = found if isinstance(found, str) else plain if isinstance(plain, str) else "other numbers"
            wrong.append(f"{what}: {off}")
    return wrong, counted


def test_every_fast_path_is_a_subject_of_this_law():
    assert registered_ways() == set(WAYS)


@pytest.mark.parametrize(("key", "way"), SUBJECTS)
def test_a_module_as_it_is_made_takes_its_fast_path_and_gives_the_plain_values(key, way, monkeypatch):
    module, calls = made(way), []
    dispatch._import_page(key[0])
    function, *rest = dispatch._ways[key]
    monkeypatch.setitem(dispatch._ways, key, (lambda *args, **options: calls.append(key) or function(*args, **options), *rest))
    found = _outcome(way, module)
    assert not isinstance(found, str), found
    assert calls
    taken = len(calls)
    with pf.fast.disabled():
        assert _same(found, _outcome(way, module), way.tolerance)
    assert len(calls) == taken


@pytest.mark.parametrize("family", [one for one in FAMILIES if one != "a dtype"])  # the test below
@pytest.mark.parametrize(("k", "way"), QUICK)
def test_after_a_change_the_plain_values_are_given(k, way, family, monkeypatch):
    changes = list(FAMILIES[family](made(way)))
    step = max(1, len(changes) // 2)  # other ones for each subject
    assert _differences(way, changes[7 * k % step :: step], monkeypatch)[0] == []


@pytest.mark.parametrize(("key", "way"), SUBJECTS)
def test_with_parameters_of_two_dtypes_the_plain_values_are_given(key, way, monkeypatch):
    assert _differences(way, list(dtypes(made(way)))[:3], monkeypatch)[0] == []


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("key", "way"), SUBJECTS)
def test_after_any_change_the_plain_values_are_given(key, way, family, monkeypatch):
    changes = list(FAMILIES[family](made(way)))
    wrong, counted = _differences(way, changes, monkeypatch)
    assert wrong == []
    assert counted or not changes


class _Calling(torch.nn.Module):
    """A module whose forward is the calls of its subject."""

    def __init__(self, way, inner):
        super().__init__()
        self.way, self.inner = way, inner

    def forward(self):
        return self.way.call(self.inner)


@pytest.mark.parametrize("kind", [torch.Tensor.detach, torch.nn.Parameter], ids=["tensors", "parameters"])
@pytest.mark.parametrize(("key", "way"), SUBJECTS)
def test_parameters_given_for_a_call_are_used(key, way, kind):
    module = _Calling(way, made(way))
    before = _outcome(way, module.inner)
    state = {name: kind(1.1 * one.detach()) for name, one in module.named_parameters()}
    with _default(way.dtype):
        found = functional_call(module, state, ())
        with pf.fast.disabled():
            assert _same(functional_call(module, state, ()), found, way.tolerance)
    assert not _same(found, before, way.tolerance)
    assert _same(_outcome(way, module.inner), before, way.tolerance)


@pytest.mark.parametrize(("key", "way"), SUBJECTS)
def test_parameters_of_several_members_are_mapped(key, way):
    module = _Calling(way, made(way))
    states = [{name: factor * one.detach() for name, one in module.named_parameters()} for factor in (1.0, 1.1)]
    stacked = {name: torch.stack([one[name] for one in states]) for name in states[0]}
    with _default(way.dtype):
        found = vmap(lambda state: functional_call(module, state, ()), randomness="error")(stacked)
        with pf.fast.disabled():
            plain = vmap(lambda state: functional_call(module, state, ()), randomness="error")(stacked)
    assert _same(found, plain, way.tolerance)
    assert not any(torch.equal(*one) for one in found if one.is_floating_point())


@pytest.mark.parametrize(("key", "way"), SUBJECTS)
def test_a_copy_is_changed_without_its_original(key, way):
    module = made(way)
    before, other = _outcome(way, module), copy.deepcopy(module)
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(1.1)
    found = _outcome(way, other)
    with pf.fast.disabled():
        assert _same(found, _outcome(way, other), way.tolerance)
    assert not _same(found, before, way.tolerance)
    assert _same(_outcome(way, module), before, way.tolerance)
