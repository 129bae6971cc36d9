"""Public names: known without torch, unique, found by their nearest, and the same everywhere they are read."""

import functools
import importlib.metadata
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

import pushforward as pf
from pushforward import _exports, registry
from pushforward.cli import main
from pushforward.registry import ExportError, NameClashError, UnknownNameError, api_export

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "numpy", "scipy", "matplotlib", "sklearn", "yaml", "PIL")


def python(code, **environment):
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment})
    assert run.returncode == 0, run.stderr
    return run.stdout.split()


@pytest.fixture
def scratch(monkeypatch):
    """Let a test register names that are forgotten after it; whatever it imports has registered itself before."""
    for name in registry.names():
        registry.entry(name)
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    monkeypatch.setattr(registry, "_aliases", dict(registry._aliases))


@pytest.mark.parametrize(
    "code",
    [
        "import pushforward",
        "import pushforward; pushforward.registry.names()",
        "import pushforward; pushforward.registry.summary('models.rectified_flow')",
        "import pushforward; dir(pushforward); dir(pushforward.models)",
    ],
)
def test_names_are_known_without_anything_heavy(code):
    assert python(f"{code}; import sys; print(*(one for one in {HEAVY} if one in sys.modules))") == []


def test_the_app_exports_nothing():
    """tools/generate_names.py leaves it out."""
    assert [file for file in (ROOT / "src" / "pushforward" / "app").rglob("*.py") if "export(" in file.read_text(encoding="utf-8")] == []


@pytest.mark.slow  # `make test` checks them by itself
def test_the_generated_table_and_stubs_are_current():
    run = subprocess.run([sys.executable, ROOT / "tools" / "generate_names.py", "--check"], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("name", registry.NAMES)
def test_a_public_name_is_an_attribute_path(name):
    assert functools.reduce(getattr, name.split("."), pf) is registry.get(name)


@pytest.mark.parametrize("name", registry.NAMES)
def test_a_public_thing_says_what_it_is_in_a_sentence(name):
    sentence = registry.first_sentence(registry.get(name))
    assert sentence.endswith((".", ":", ")."))
    assert registry.summary(name) == sentence


def test_every_public_name_is_listed_by_dir():
    assert {name.partition(".")[0] for name in registry.NAMES} <= set(dir(pf))
    assert "rectified_flow" in dir(pf.models)


@pytest.mark.parametrize(
    "order",
    ["import pushforward.models.rectified_flow", pytest.param("from pushforward.models import rectified_flow", marks=pytest.mark.slow)],
)
def test_importing_a_presets_module_does_not_hide_the_preset_or_import_the_compiler(order):
    """Importing dynamo takes a second, which only those who compile or train need; models are built and used without it."""
    code = f"{order}; import sys, torch, pushforward as pf; model = pf.models.rectified_flow(shape=(2,)); model.sample(2); "
    code += "pf.models.realnvp(4).sample(2); print(type(pf.models.rectified_flow).__name__, model.shape); "
    assert python(f"{code}print(*(one for one in ('torch._dynamo', 'sympy') if one in sys.modules))") == ["function", "(2,)"]


def test_a_clash_is_an_error(scratch):
    def other():
        """Something else."""

    assert pf.models.rectified_flow
    with pytest.raises(NameClashError, match=r"'models.rectified_flow' is claimed by .*other but belongs to .*rectified_flow"):
        registry.export("models.rectified_flow")(other)


@pytest.mark.parametrize("options", [{"name": "models.glow"}, {"name": "models.my_flow", "aliases": ("models.glow",)}])
def test_another_package_cannot_take_a_name_whose_module_is_not_imported(scratch, monkeypatch, options):
    monkeypatch.delitem(registry._entries, "models.glow")

    def other():
        """Something else."""

    with pytest.raises(NameClashError, match=r"'models.glow' is claimed by .*other of theirs but belongs to pushforward; choose another."):
        api_export(**options, package="theirs")(other)


def test_an_alias_that_is_taken_is_an_error(scratch):
    assert pf.paths.Linear

    def other():
        """Something else."""

    with pytest.raises(NameClashError, match=r"'paths.Linear' is claimed"):
        registry.export("paths.Straight", aliases=("paths.Linear",))(other)
    assert "paths.Straight" not in registry._entries


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("models/flow", {}, "'models/flow' is no public name; it must be an import path in lower case"),
        ("Models.flow", {}, "'Models.flow' is no public name"),
        ("models.my flow", {}, "'models.my flow' is no public name"),
        ("models.", {}, "'models.' is no public name"),
        ("models._hidden", {}, "'models._hidden' is no public name"),
        ("models.class", {}, "'models.class' is no public name"),
        (None, {}, "None is no public name"),
        ("modles.flow", {}, "'modles.flow' cannot be imported: 'modles' is not a known group of public names; did you mean 'models'?"),
        ("models.paper.flow", {}, "'models.paper.flow' cannot be imported: 'models.paper' is not a known group of public names"),
        ("models.flow", {"aliases": ("models.old flow",)}, "'models.old flow' is no public name"),
        ("models.flow", {"exemple": lambda: 1}, "'models.flow' states exemple=: 'exemple' is not a known fact; did you mean 'example'?"),
        ("models.flow", {"example": 3}, "the example of 'models.flow' is 3, but it must be a function"),
        (
            "bijections.Cube",
            {"exactness": "exakt"},
            "the exactness of 'bijections.Cube' is 'exakt', but it must be one of 'exact', 'solved'",
        ),
    ],
)
def test_a_wrong_export_is_one_sentence(scratch, name, options, words):
    before = dict(registry._entries)
    with pytest.raises(ExportError) as error:
        registry.export(name, **options)
    assert words in str(error.value)
    assert str(error.value).endswith((".", "?"))
    assert registry._entries == before


@pytest.mark.parametrize("thing", [3, functools.partial(print), "text"], ids=["number", "partial", "text"])
def test_what_has_no_name_of_its_own_is_refused(scratch, thing):
    with pytest.raises(ExportError, match=f"'models.thing' is given to a {type(thing).__name__}, but a public name is that of a function"):
        registry.export("models.thing")(thing)


def test_one_object_has_one_public_name(scratch):
    @registry.export("models.first")
    class First:
        """A thing."""

    with pytest.raises(NameClashError, match="First has the public name 'models.first' and cannot be 'models.second' too"):
        registry.export("models.second")(First)

    @registry.export("models.derived")
    class Derived(First):
        """Another thing, which inherits the attribute."""

    assert (First.public_name, Derived.public_name) == ("models.first", "models.derived")


def test_an_alias_alone_may_be_a_text(scratch):
    @registry.export("models.flow", aliases="models.old_flow")
    def flow():
        """A thing."""

    with pytest.warns(DeprecationWarning, match="models.old_flow is an old name"):
        assert registry.get("models.old_flow") is flow


def test_a_group_of_a_new_package_of_ours_is_known_before_the_table_is_generated(scratch, monkeypatch):
    monkeypatch.setattr(_exports, "NAMES", {name: place for name, place in registry.NAMES.items() if not name.startswith("testing.")})

    @registry.export("testing.check_nothing")
    def check_nothing():
        """A thing."""

    assert registry.get("testing.check_nothing") is check_nothing


def test_a_reloaded_module_may_register_itself_again(scratch):
    def thing():
        """A thing."""

    registry.export("models.thing")(thing)
    assert registry.export("models.thing")(thing) is thing


def test_an_alias_works_and_warns(scratch):
    @registry.export("models.new_name", aliases=("models.old_name",))
    def thing():
        """A thing."""

    with pytest.warns(DeprecationWarning, match="models.old_name is an old name of models.new_name"):
        assert registry.get("models.old_name") is thing
    assert "models.old_name" not in registry.names()


def test_an_alias_is_an_attribute_too(scratch):
    @registry.export("paths.Straight", aliases=("paths.Bee",))
    def thing():
        """A thing."""

    with pytest.warns(DeprecationWarning, match="paths.Bee is an old name"):
        assert pf.paths.Bee is thing


def test_another_package_makes_its_own_decorator(scratch):
    export = functools.partial(api_export, package="my_flows")

    @export("models.my_flow", example=lambda: 3, exactness="exact")
    def my_flow():
        """A flow of mine."""

    entry = registry.entry("models.my_flow")
    assert (entry.package, entry.thing, entry.example(), entry.facts) == ("my_flows", my_flow, 3, {"exactness": "exact"})
    assert "models.my_flow" in registry.names("models")
    assert pf.models.my_flow is my_flow


PLUGIN = '''
from pushforward.registry import api_export

@api_export("models.their_flow", package="theirs")
def their_flow():
    """A flow of theirs."""
    return "theirs"
'''


@pytest.fixture
def plugin(tmp_path):
    """A package installed beside ours, whose entry point is its public name."""
    (tmp_path / "theirs.py").write_text(PLUGIN)
    info = tmp_path / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[pushforward]\nmodels.their_flow = theirs\n")
    return str(tmp_path)


def test_a_plugin_joins_by_its_entry_point(plugin):
    code = "import pushforward as pf, sys; print('models.their_flow' in pf.registry.names('models'), 'theirs' in sys.modules); "
    assert python(code + "print(pf.models.their_flow())", PYTHONPATH=plugin) == ["True", "False", "theirs"]


def test_a_plugin_that_is_not_there_is_named(plugin, tmp_path, monkeypatch, capsys):
    (tmp_path / "theirs-1.0.dist-info" / "entry_points.txt").write_text("[pushforward]\nmodels.their_flow = nowhere\n")
    words = "nowhere of the package theirs cannot be imported (ModuleNotFoundError"
    monkeypatch.setenv("COLUMNS", "400")
    with monkeypatch.context() as installed:
        installed.syspath_prepend(plugin)
        registry._plugins.cache_clear()
        status, stated = main(["train", "their_flow", "--data", "moons"]), capsys.readouterr().err
        assert (status, words in stated, "Traceback" in stated) == (1, True, False)
        status, listed = main(["list", "models"]), capsys.readouterr().out
        assert (status, words in listed, "rectified_flow" in listed) == (0, True, True)
    registry._plugins.cache_clear()
    assert "models.their_flow" not in registry.names("models")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("point", "code", "words"),
    [
        ("models.their_flow = nowhere", PLUGIN, "nowhere of the package theirs cannot be imported (ModuleNotFoundError"),
        ("models.their_flow = theirs", "raise SystemExit('bye')", "cannot be imported (SystemExit: bye); correct the package"),
        ("models.their_flow = theirs", "raise ValueError('a\\nb')", "(ValueError: a); correct"),
        ("models.their_flow = theirs:nothing", PLUGIN, "cannot be imported (AttributeError"),
        (
            "models.their_flow = theirs",
            PLUGIN.replace("models.", "modles."),
            "cannot be imported (ExportError: the public name 'modles.their_flow' cannot be imported: 'modles' is not a known group",
        ),
        ("models.their_flow = theirs", "def (", "cannot be imported (SyntaxError"),
        ("models.other_flow = theirs", PLUGIN, "registers no 'models.other_flow'; its @export must name exactly that"),
    ],
)
def test_a_plugin_that_cannot_be_used_is_named(plugin, tmp_path, point, code, words):
    """By Python and on the command line, where all other names are still listed."""
    (tmp_path / "theirs.py").write_text(code)
    (tmp_path / "theirs-1.0.dist-info" / "entry_points.txt").write_text(f"[pushforward]\n{point}\n")
    name = point.partition(" ")[0]
    run = [sys.executable, "-m", "pushforward"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([plugin, os.environ.get("PYTHONPATH", "")]), "COLUMNS": "400"}
    train = subprocess.run([*run, "train", name.rpartition(".")[2], "--data", "moons"], capture_output=True, text=True, env=environment)
    assert (train.returncode, words in train.stderr, "Traceback" in train.stderr) == (1, True, False)
    listed = subprocess.run([*run, "list", "models"], capture_output=True, text=True, env=environment)
    assert (listed.returncode, words in listed.stdout, "rectified_flow" in listed.stdout) == (0, True, True)


@pytest.mark.parametrize("name", ["train", "new_package"])
def test_a_plugin_cannot_take_a_command_of_ours(name, monkeypatch, capsys):
    point = importlib.metadata.EntryPoint(f"cli.{name}", "theirs", "pushforward")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [point])
    registry._plugins.cache_clear()
    assert main(["--help"]) == 1
    monkeypatch.undo()
    registry._plugins.cache_clear()
    command = name.replace("_", "-")
    assert f"'cli.{name}' of the package theirs is the command {command} of pushforward; rename it" in capsys.readouterr().err


def test_a_plugin_cannot_take_a_name_of_ours(monkeypatch):
    point = importlib.metadata.EntryPoint("models.rectified_flow", "theirs", "pushforward")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [point])
    registry._plugins.cache_clear()
    with pytest.raises(NameClashError, match=r"'models.rectified_flow', the entry point theirs of theirs, is pushforward's own already"):
        registry.names()
    monkeypatch.undo()
    registry._plugins.cache_clear()


@pytest.mark.parametrize(
    ("wrong", "right"), [("models.rectifed_flow", "models.rectified_flow"), ("paths.linear", "paths.Linear"), ("Euler", "samplers.Euler")]
)
def test_an_unknown_name_is_refused_with_the_nearest(wrong, right):
    with pytest.raises(UnknownNameError, match=f"'{wrong}' is not a known public name; did you mean '{right}'"):
        registry.get(wrong)


def test_an_unknown_attribute_is_refused_with_the_nearest():
    with pytest.raises(AttributeError, match="'rectifiedflow' is not a known name; did you mean 'rectified_flow'"):
        _ = pf.models.rectifiedflow
    with pytest.raises(AttributeError, match="'modles' is not a known name"):
        _ = pf.modles
    with pytest.raises(AttributeError, match="'NormalizingFlow' is not a known name; did you mean 'families.NormalizingFlow'"):
        _ = pf.NormalizingFlow
    assert not hasattr(pf, "_nothing")


def test_entries_are_chosen_by_their_facts():
    exact = registry.entries("bijections", exactness="exact")
    assert {"bijections.Chain", "bijections.Standardise"} <= {entry.name for entry in exact}
    assert all(entry.facts["exactness"] == "exact" for entry in exact)


def test_names_of_a_group_are_sorted():
    names = registry.names("paths")
    assert names == sorted(names)
    assert all(name.startswith("paths.") for name in names)


def test_a_namespace_is_a_module():
    assert isinstance(pf.models, types.ModuleType)
