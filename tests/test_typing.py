"""What a type checker and an editor know of the library."""

import typing

import pytest

from pushforward import registry
from pushforward.training.settings import GivenSettings, Settings

USER = """
import torch
import pushforward as pf
from pushforward.samplers import *

model = pf.models.rectified_flow(shape=(2,))
reveal_type(model.sample(3))
reveal_type(model.sample(3, sampler=Heun(2), log_prob=True))
reveal_type(model.log_prob(torch.zeros(3, 2)))
reveal_type(pf.bijections.AffineCoupling(2)(torch.zeros(3, 2)))
reveal_type(pf.Trainer(model, torch.zeros(9, 2), steps=3).fit())
pf.Trainer(model, torch.zeros(9, 2), stepz=3)
pf.Trainer(model, torch.zeros(9, 2), steps="3")
model.sample(3, temprature=2.0)
"""


def test_the_settings_of_the_trainer_are_known_to_type_checkers():
    assert typing.get_type_hints(GivenSettings) == typing.get_type_hints(Settings)


@pytest.mark.parametrize("group", ["samplers", "paths", "bijections", "nn", "models", "data"])
def test_a_star_imports_the_public_names(group):
    space = {}
    exec(f"from pushforward.{group} import *", space)
    for public in registry.names(group):
        assert space[public.rpartition(".")[2]] is registry.get(public)
    assert {name for name in space if not name.startswith("__")} == {one.rpartition(".")[2] for one in registry.names(group)}


@pytest.mark.slow
def test_a_type_checker_knows_what_is_there(tmp_path):
    from mypy import api

    (tmp_path / "user.py").write_text(USER)
    shown, _, _ = api.run([str(tmp_path / "user.py"), "--strict", "--follow-imports=silent", "--cache-dir", str(tmp_path / "cache")])
    revealed = [line.partition('is "')[2].rstrip('"') for line in shown.splitlines() if "Revealed" in line]
    tensor = "torch._tensor.Tensor"
    assert [one.replace("builtins.", "") for one in revealed] == [
        tensor, f"tuple[{tensor}, {tensor}]", tensor, f"tuple[{tensor}, {tensor}]", "pushforward.training.trainer.Trainer",
    ]  # fmt: skip
    wrong = [line for line in shown.splitlines() if "error:" in line]
    assert sorted({int(line.split(":")[1]) for line in wrong}) == [12, 13, 14], shown
