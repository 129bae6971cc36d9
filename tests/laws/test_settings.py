"""Frozen settings (samplers, paths, networks, ...) and presets: what is no number, where one is needed, is refused by name."""

import collections.abc
import dataclasses
import functools
import inspect
import math
import typing

import numpy
import pytest
import torch

import pushforward as pf
from pushforward import registry
from pushforward._checks import CheckedNumbers, alternatives
from pushforward.errors import PushforwardError, UserError

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


BAD = ("64", 2.5, (8, 16), -1, 0, math.nan, None, [1, "2"], True)
SMALL = {"nn.MMDiT": {"depth": 1, "heads": 2, "head_width": 8, "context_width": 8, "pooled_width": 8, "positions": 8, "base_size": 4}}
SMALL["nn.UNet2D"] = {"channels": (32, 32), "down": ("conv", "conv"), "up": ("conv", "conv")}
OF_IMAGES = ("glow", "realnvp_image", "tarflow", "autoencoder_kl", "sd3")


def takes_numbers(annotation):
    return any(one in (int, float) or typing.get_origin(one) in (tuple, collections.abc.Sequence) for one in alternatives(annotation))


def outcome(call):
    """Return what a call returns, or the sentence of the library's error; no other error may come."""
    try:
        return call()
    except PushforwardError as error:
        return str(error)


def outcomes(function, arguments):
    """Return what a function returns for each wrong value of each number."""
    parameters = inspect.signature(function).parameters
    names = [name for name, one in parameters.items() if takes_numbers(one.annotation)]
    found = [outcome(functools.partial(function, **{**arguments, name: wrong})) for name in names for wrong in BAD]
    assert not names or any(isinstance(one, str) for one in found)
    assert all("\n" not in one for one in found if isinstance(one, str))
    return found


CONFIGS = {one.name: one.thing.Config for one in registry.entries("nn") if hasattr(one.thing, "Config")}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_network_is_built_or_refused_in_one_sentence(name):
    shape = (2,) if name == "nn.MLP" else (1, 8, 8)
    for config in outcomes(CONFIGS[name], SMALL.get(name, {})):
        if not isinstance(config, str):
            with torch.device("meta"):
                net = outcome(functools.partial(config.build, shape))
            assert isinstance(net, torch.nn.Module) or "\n" not in net


@pytest.mark.parametrize("name", [name.removeprefix("models.") for name in registry.names("models")])
def test_a_preset_is_built_or_refused_in_one_sentence(name):
    shape = (1, 8, 8) if name in OF_IMAGES else (2,)
    preset = registry.get(f"models.{name}")
    few = {"net": CONFIGS["nn.MMDiT"](**SMALL["nn.MMDiT"])} if name == "sd3" else {}
    few |= {"widths": (32, 32)} if name == "autoencoder_kl" else {}
    with torch.device("meta"):
        models = [one for one in outcomes(preset, {"shape": shape, **few}) if not isinstance(one, str)]
    assert all(isinstance(one, torch.nn.Module) for one in models)


def test_arrays_and_truth_values_are_accepted_where_they_were():
    assert pf.guidance.SkipLayers((0,), interval=numpy.array([0.2, 0.8])).interval[1] == 0.8
    assert pf.nn.UNet2D.Config(centred=numpy.bool_(True)).centred
    assert pf.nn.MMDiT.Config(qk_norm=0).qk_norm == 0
    with pytest.raises(UserError, match=r"steps is \(0.2, 0.3, 0.8\), but it must be 2 finite numbers"):
        pf.guidance.SkipLayers((0,), steps=numpy.array([0.2, 0.3, 0.8]))


@pytest.mark.parametrize("wrong", ["64", 2.5, -1, 0, None, (8, 16), math.nan])
def test_sizes_of_networks_are_checked_by_their_constructors_too(wrong):
    for build, names in (
        (lambda **sizes: pf.nn.UNet((1, 8, 8), **sizes), ("channels", "depth", "heads", "cond_patch")),
        (lambda **sizes: pf.nn.DiT((1, 8, 8), **sizes), ("patch", "width", "depth", "heads", "mlp_ratio", "cond_patch")),
        (lambda **sizes: pf.nn.MMDiT((1, 8, 8), **{**SMALL["nn.MMDiT"], **sizes}), tuple(SMALL["nn.MMDiT"])),
        (lambda **sizes: pf.nn.AutoencoderKL(**sizes), ("channels", "latent_channels", "blocks", "groups")),
    ):
        for name in names:
            with pytest.raises(UserError, match=f"^{name} is "):
                build(**{name: wrong})
