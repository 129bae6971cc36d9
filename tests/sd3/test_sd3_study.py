"""The study of SD3's improvements: its data, its measures, and what its committed numbers show."""

import json
import statistics

import pytest
import torch

from benchmarks.sd3_study import FOLDER
from benchmarks.sd3_study_parts import flow, largest_logits
from benchmarks.shapes import CAPTIONS, drawn, energy_distance, right, texts


def test_pictures_show_their_captions():
    known, some = drawn(20, 16, 0), drawn(2, 16, 1)
    assert right(some.x, some.captions, known) > 0.8
    assert right(some.x, some.captions.roll(1), known) < 0.1


def test_the_energy_distance_is_that_by_hand():
    """2 E|x - y| = 4, E|x - x'| = E|y - y'| = 1 of {0, 1} and {2, 3}; of 4 equal pixels each, the same by the root of 4."""
    x = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 1, 2, 2)
    assert energy_distance(x, x + 2) == pytest.approx(2.0)
    assert abs(energy_distance(drawn(4, 16, 0).x, drawn(4, 16, 1).x)) < 0.002


def test_texts_have_a_token_for_each_word():
    cond = texts(torch.arange(len(CAPTIONS)))
    assert len({tuple(one.argmax(dim=1).tolist()) for one in cond.context}) == len(CAPTIONS)
    torch.testing.assert_close(cond.context.square().mean(dim=2), torch.ones(len(CAPTIONS), 3))


def test_the_largest_logit_is_that_of_the_queries_and_keys():
    net = flow((3, 4, 4), 4, 0, qk_norm=True).net
    for block in net.blocks:  # queries and keys of ones: q k' = 32
        for stream in (block.image, block.text):
            torch.nn.init.zeros_(stream.attention.qkv.weight)
            torch.nn.init.ones_(stream.attention.qkv.bias)
    with largest_logits(net) as found:
        net(torch.randn(2, 3, 4, 4), torch.rand(2), texts(torch.arange(2)))
    assert found == pytest.approx([32**0.5] * len(net.blocks), rel=1e-4)


@pytest.mark.parametrize("rate", ["0.002", "0.02"])
def test_of_the_committed_numbers_qk_norm_keeps_logits_small(rate):
    rows = json.loads((FOLDER / "qk_norm.json").read_text())["rows"]
    plain, normed = ([one["largest logit"] for one in rows[f"{name}, lr {rate}"].values()] for name in ("plain", "QK norm"))
    assert statistics.mean(normed) < statistics.mean(plain)
