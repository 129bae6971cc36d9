"""The study of every preset side by side: its command is accepted as a whole."""

import pytest

import pushforward as pf
from benchmarks.comparison import SWITCHES, options_of, presets
from pushforward.cli.contestants import contestants


@pytest.mark.parametrize("net", ["mlp", pytest.param("unet", marks=pytest.mark.slow)])
def test_every_preset_of_the_study_can_be_trained_on_digits(net):
    chosen = presets(net, skip=())
    assert len(chosen) > 20
    found = contestants(chosen, "digits", pf.data.load("digits"))
    assert [one.preset for one in found] == [one.split()[0] for one in chosen]


def test_every_switch_of_meanflow_is_an_option_of_it():
    typed = list(
        dict.fromkeys(f"meanflow {options_of('meanflow', 'mlp')} {words}" for each in SWITCHES.values() for words, _ in each.values())
    )
    assert len(contestants(typed, "digits", pf.data.load("digits"))) == len(typed)
