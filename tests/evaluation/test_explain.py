"""The table that makes flows and diffusion one thing: its cells are read off the models, so they change when the models do."""

import pytest
import torch

import pushforward as pf
from pushforward.evaluation.explain import explain

NET = pf.nn.MLP.Config((8,))


@pytest.fixture(scope="module")
def table():
    models = {
        "flow": pf.models.realnvp(2, 3, (8,)),
        "cnf": pf.models.ffjord(NET, (2,), sampler=pf.samplers.Heun(5)),
        "straight": pf.models.rectified_flow(NET, (2,), sampler=pf.samplers.Euler(7)),
        "diffusion": pf.models.ddpm(NET, (2,), prediction="velocity", sampler=pf.samplers.DDPM(9)),
    }
    return explain(models, torch.randn(16, 2))


def test_every_model_answers_every_question(table):
    assert all(list(answers) == ["flow", "cnf", "straight", "diffusion"] for answers in table.values())
    assert all(answer for answers in table.values() for answer in answers.values())


@pytest.mark.parametrize(
    ("question", "column", "answer"),
    [
        ("map", "flow", "3 layers, each invertible by construction"),
        ("network", "flow", "constrained: inside AffineCoupling"),
        ("network", "straight", "free: MLP"),
        ("trained by", "flow", "maximum likelihood"),
        ("trained by", "diffusion", "regression on the conditional velocity"),
        ("evaluations a sample", "flow", "1 pass"),
        ("evaluations a sample", "cnf", "10"),  # Heun evaluates twice a step
        ("evaluations a sample", "straight", "7"),
        ("evaluations a sample", "diffusion", "9"),  # on a discrete path the last of them is the expected data
    ],
)
def test_answers_are_those_of_the_models_parts(table, question, column, answer):
    assert table[question][column] == answer


def test_all_have_the_same_verbs_and_as_many_latents_as_numbers(table):
    assert len(set(table["verbs"].values())) == 1
    assert set(table["latent"].values()) == {"2 numbers for 2"}


def test_what_is_one_way_says_so():
    from pushforward.training.reflow import one_step

    answers = explain({"one": one_step(pf.models.rectified_flow(NET, (2,)))}, torch.randn(4, 2))
    assert (answers["likelihood"]["one"], answers["decode(encode(x)) - x"]["one"]) == ("none", "no inverse")
