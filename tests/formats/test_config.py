"""Configurations as plain data: what goes out comes back equal, and nothing else comes in."""

from pathlib import Path
from typing import Literal

import pytest
import torch
import yaml
from examples import things

from pushforward import registry
from pushforward.errors import ConfigError
from pushforward.formats.config import call_checked, dump_yaml, from_plain, load_yaml, to_plain
from pushforward.formats.model import build
from pushforward.formats.packages import check_packages
from pushforward.models.flow_matching import flow_matching
from pushforward.nn.config import NetConfig
from pushforward.nn.dit import DiT
from pushforward.nn.mlp import MLP
from pushforward.nn.mmdit import MMDiT
from pushforward.nn.unet import UNet
from pushforward.pairings import MinibatchOT, Pairing
from pushforward.paths import Path as GaussianPath
from pushforward.paths import VariancePreserving
from pushforward.samplers.euler import Euler
from pushforward.samplers.grids import Grid, Karras
from pushforward.samplers.sampler import Sampler
from pushforward.times import LogitNormal, Shifted, Times, Uniform

RECORDS = [
    *things("paths", of=GaussianPath),
    *things("times", of=Times),
    *things("pairings", of=Pairing),
    *things("samplers", of=Sampler),
    *things("samplers", of=Grid),
    *[pytest.param(one.thing.Config, id=f"{one.name}.Config") for one in registry.entries("nn") if hasattr(one.thing, "Config")],
]


def through_yaml(value):
    return yaml.safe_load(dump_yaml({"value": value}))["value"]


@pytest.mark.parametrize("make", RECORDS)
def test_a_record_comes_back_equal(make):
    record = make()
    assert from_plain(through_yaml(record), type(record), "it") == record


@pytest.mark.parametrize(
    "record",
    [
        VariancePreserving(0.2, 17.0),
        Shifted(LogitNormal(0.5, 2.0), 7.0),
        Euler(13, Karras(3.0)),
        MMDiT.Config(dual=13),
        MMDiT.Config(dual=(1, 3)),
        MMDiT.Config(position_axes=1),
        MinibatchOT("ignore", 3.0),
        MLP.Config((3, 4, 5), "elu", 2),
        UNet.Config(8, (1, 2, 4), dropout=0.5),
        DiT.Config(patch=4),
    ],
    ids=str,
)
def test_a_record_with_its_own_values_comes_back_equal(record):
    assert from_plain(through_yaml(record), type(record), "it") == record


def test_a_record_of_an_older_version_has_the_defaults_of_newer_settings():
    plain = through_yaml(MMDiT.Config(depth=2))
    assert plain.pop("position_axes") == 2
    assert from_plain(plain, MMDiT.Config, "it") == MMDiT.Config(depth=2)


def test_a_record_says_its_public_name():
    assert to_plain(Shifted(Uniform(), 2.0)) == {"name": "times.Shifted", "times": {"name": "times.Uniform"}, "factor": 2.0}


def test_a_model_is_built_again_from_its_configuration(tmp_path):
    model = flow_matching(
        MLP.Config((4,)), (3,), path=VariancePreserving(), prediction="noise", times=LogitNormal(), classes=2, drop_cond=0.1
    )
    (tmp_path / "config.yaml").write_text(dump_yaml(model.config))
    assert build(load_yaml(tmp_path / "config.yaml")).config == model.config


@pytest.mark.parametrize(
    ("value", "annotation", "message"),
    [
        ("many", int, "it is 'many', but it must be int"),
        (2.5, int, "it is 2.5, but it must be int"),
        (True, int, "it is True, but it must be int"),
        (True, float, "it is True, but it must be float"),
        (1, str, "it is 1, but it must be str"),
        (1, bool, "it is 1, but it must be bool"),
        ("x", int | None, "it must be int or null"),
        ("selu", Literal["silu", "tanh"], "it is 'selu', but it must be 'silu' or 'tanh'"),
        ([1, "x"], tuple[int, ...], r"it\[1\] is 'x', but it must be int"),
        ([1], tuple[float, float], "it is "),
        ("linear", GaussianPath, "it is 'linear', but it must be a mapping with the key name"),
        ({"name": "paths.Liner"}, GaussianPath, "'paths.Liner' is not a known name; did you mean 'paths.Linear'"),
        ({"name": "nn.MLP", "hiden": [3]}, NetConfig, "has no setting 'hiden'; did you mean 'hidden'"),
        ({"name": "nn.MLP", "hidden": 3}, NetConfig, "hidden is 3"),
        ({"name": "data.load"}, GaussianPath, "cannot be described by settings"),
        ({"name": "times.LogitNormal", "std": -1.0}, Times, "std is -1.0"),
    ],
)
def test_what_does_not_fit_is_refused(value, annotation, message):
    with pytest.raises((ConfigError, ValueError), match=message):
        from_plain(value, annotation, "it")


def test_a_record_of_another_kind_is_refused():
    with pytest.raises(ConfigError, match="times.Uniform"):
        from_plain({"name": "times.Uniform"}, GaussianPath, "model.path")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "has no sections preset .* and model"),
        ({"finetune": {"rank": 4}}, "is of a fine-tuning, .* `pushforward generate RUN` states how"),
        ({"preset": "flow_maching", "model": {}}, "'flow_maching' is not a known preset; did you mean 'flow_matching'"),
        ({"preset": "flow_matching", "model": {"pth": 1}}, r"model \(flow_matching\) has no setting 'pth'; did you mean 'path'"),
        ({"preset": "flow_matching", "model": {"classes": "ten"}}, "classes is 'ten', but it must be int or null"),
        ({"preset": "flow_matching", "model": 3}, "has no sections"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(config, message):
    with pytest.raises(ConfigError, match=message):
        build(config)


def test_a_missing_setting_is_named():
    def needs(a: int, b: int = 2) -> int:
        return a + b

    assert call_checked(needs, {"a": 1}, "it") == 3
    with pytest.raises(ConfigError, match="it lacks the setting 'a'"):
        call_checked(needs, {"b": 1}, "it")


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['touch {trap}']",
        "value: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{trap}']]",
        "!!python/object/new:type {{args: ['x', [], {{}}]}}",
        "!!python/name:os.system",
    ],
)
def test_hostile_yaml_is_refused_and_not_run(tmp_path, text):
    trap = tmp_path / "trap"
    (tmp_path / "config.yaml").write_text(text.format(trap=trap))
    with pytest.raises(ConfigError, match=r"is not a plain YAML file at line 1: .* objects are never built"):
        load_yaml(tmp_path / "config.yaml")
    assert not trap.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1, 2", "is not a plain YAML file at line"),
        (b"a: \xff\xfe", "is not a plain YAML file"),
        (b"- 1\n- 2\n", "holds a list"),
        (b"", "holds a NoneType"),
    ],
)
def test_what_is_no_configuration_is_refused(tmp_path, content, message):
    (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        load_yaml(tmp_path / "config.yaml")


def test_a_missing_configuration_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="there is no configuration"):
        load_yaml(Path(tmp_path / "config.yaml"))


def test_a_live_network_cannot_be_written():
    with pytest.raises(ConfigError, match="a Linear cannot be written to config.yaml"):
        to_plain({"net": torch.nn.Linear(2, 2)})


@pytest.mark.parametrize(
    "section", [None, [1, 2], 7, "models.x", {"models.x": {"a": 1}}, {3: "x"}, {"models.x": ""}, {"models.x": "a\nb"}, {"m" * 300: "x"}]
)
def test_a_section_packages_that_is_malformed_is_refused(section):
    with pytest.raises(ConfigError, match=r"^config\.yaml has a section packages that does not state the package of each public name"):
        check_packages({"packages": section}, "config.yaml")


def test_a_package_that_is_not_installed_is_named():
    check_packages({"packages": {"models.rectified_flow": "their-flows 1.0"}}, "config.yaml")
    with pytest.raises(ConfigError, match=r"uses models\.their_flow, which is of the package their-flows 1\.0; install their-flows here"):
        check_packages({"packages": {"models.their_flow": "their-flows 1.0"}}, "config.yaml")
