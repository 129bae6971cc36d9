"""What docstrings show is run, and what every public thing must say is there."""

import doctest
import inspect
import sys

import pytest
import torch

import pushforward as pf
from pushforward import registry

OWN = [name for name in registry.names() if name in registry.NAMES]
LONG = (
    "sd3.memory_of",
    "testing.check_sampler",
    "testing.check_path",
    "estimators.FlowDensity",
    "formats.export_program",
    "evaluation.judge",
)  # whose examples take long: they train, export, or count billions of weights


@pytest.mark.usefixtures("float32")
@pytest.mark.parametrize("name", [pytest.param(one, marks=pytest.mark.slow) if one in LONG else one for one in OWN])
def test_the_examples_of_a_docstring_print_what_they_say(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    thing = registry.get(name)
    scope = {**vars(sys.modules[thing.__module__]), "torch": torch, "pf": pf}
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    for test in doctest.DocTestFinder(exclude_empty=True).find(thing, name, globs=scope):
        said: list[str] = []
        runner.run(test, out=said.append)
        assert not said, "".join(said)


@pytest.mark.parametrize("name", OWN)
def test_a_public_thing_says_what_it_is_and_what_it_takes(name):
    thing = registry.get(name)
    text = inspect.getdoc(thing) or ""
    assert text.partition("\n")[0].endswith("."), "the first line is one sentence"
    own = [p.name for p in inspect.signature(thing).parameters.values() if p.name not in ("self", "args", "kwargs", "generator")]
    if inspect.isfunction(thing):
        assert not own or "Args:" in text
        assert "Returns:" in text
        for parameter in own:
            assert f"{parameter}:" in text or f"{parameter}," in text, f"{parameter} is not explained"
