"""Normalizing flows whose samples a sampler finishes are exact maps all the same: judged, explained and checked as such."""

import pytest
import torch

import pushforward as pf
from pushforward.cli.drawing import check_drawing
from pushforward.evaluation.explain import explain
from pushforward.testing import check_model


@pytest.fixture
def flow():
    return pf.models.tarflow((1, 8, 8), 1, 4, width=8, depth=1, heads=1, levels=17)


def test_it_is_judged_by_its_own_passes(flow):
    digits = {split: pf.data.load("digits", split=split).take(60) for split in ("train", "validation", "test")}
    flow.initialise(digits["train"].x)
    judged, made, _ = pf.evaluation.judge(flow, **digits, samples=40)
    assert judged.divergence is None
    assert not judged.quality
    assert judged.sampler == "an exact map, then Tweedie()"
    assert made.shape == (40, 1, 8, 8)


def test_it_is_explained_as_one_pass(flow):
    answers = explain({"tarflow": flow}, torch.randint(17, (4, 1, 8, 8)).float())
    assert answers["evaluations a sample"]["tarflow"] == "1 pass"
    assert answers["noise to data"]["tarflow"] == "the inverse of each layer, in turn, then Tweedie()"
    assert answers["likelihood"]["tarflow"].startswith("exact, 1 pass")


def test_its_samples_pass_the_command_lines_check(flow):
    check_drawing(flow, None, None, None, 1.0)


def test_it_passes_the_laws_of_models():
    flow = pf.models.tarflow((1, 2, 2), 1, 2, width=8, depth=1, heads=1, preprocess="none")
    check_model(flow, torch.randn(4, 1, 2, 2))
