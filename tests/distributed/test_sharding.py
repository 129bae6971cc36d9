"""The law of sharding: FSDP and its hybrid give DDP's losses and weights, and each continues the other's runs."""

import shutil

import pytest
import sharded
import torch
from test_data_parallel import distance

from pushforward.formats.run import checkpoints

BOUND = 1e-9  # AdamW divides by tiny second moments, which enlarges rounding
NUMBERS = [2, pytest.param(4, marks=pytest.mark.slow)]


@pytest.fixture(params=NUMBERS)
def number(request):
    return request.param


def agree(one, other, bound):
    assert distance(one["weights"], other["weights"]) < bound
    assert one["losses"] == pytest.approx(other["losses"], rel=bound, abs=bound)
    torch.testing.assert_close(one["drawn"], other["drawn"], rtol=bound, atol=bound)


@pytest.mark.parametrize("kind", ["mlp", "mmdit"])
def test_shards_give_the_losses_and_weights_of_copies(results, number, kind):
    for each in results(number, "sharded_law"):
        for how in each[kind].keys() - {"ddp"}:
            agree(each[kind][how], each[kind]["ddp"], BOUND)


@pytest.mark.slow
@pytest.mark.parametrize("kind", sharded.KINDS)
def test_shards_of_any_network_give_the_losses_and_weights_of_copies(results, number, kind):
    for each in results(number, "sharded_kinds"):
        for how in each[kind].keys() - {"ddp"}:
            agree(each[kind][how], each[kind]["ddp"], 10 * BOUND)  # a spline's steep bins enlarge the rounding of four sums: 1.6e-9 seen


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "bound"), [("bf16", 1e-4), ("fp16", 1e-4), ("compile", 1e-4)])
def test_shards_in_other_precisions_and_compiled_give_what_copies_give(results, kind, bound):
    for each in results(2, "sharded_precision"):
        agree(each[kind]["fsdp"], each[kind]["ddp"], bound)


def test_a_resumed_run_of_shards_ends_with_the_same_bits(results, number):
    for each in results(number, "sharded_resume"):
        assert all(torch.equal(each["fsdp"]["weights"][key], one) for key, one in each["straight"]["weights"].items())


def test_copies_continue_shards(results, number):
    for each in results(number, "sharded_resume"):
        assert distance(each["ddp"]["weights"], each["straight"]["weights"]) < BOUND


@pytest.mark.slow
def test_shards_of_any_number_and_copies_continue_each_other(results, number):
    quick = results(number, "sharded_resume")
    for each, background in zip(results(number, "sharded_more"), quick, strict=True):
        assert all(torch.equal(background["straight"]["weights"][key], one) for key, one in each["straight"]["weights"].items())
        assert len(each) == (3 if number == 2 else 5)
        for one in each.values():
            assert distance(one["weights"], each["straight"]["weights"]) < BOUND


def test_one_process_continues_shards_of_many(results, number, tmp_path):
    first = results(number, "sharded_resume")[0]
    shutil.copytree(results.folders[number, "sharded_resume"] / "sharded_resume" / "run", tmp_path / "run")
    shutil.rmtree(checkpoints(tmp_path / "run").folder / "step-000008")
    data, options = sharded.digits()
    alone = sharded.outcome(sharded.transformer(), data, out=tmp_path / "run", resume=True, parallel="fsdp", **options)
    assert distance(alone["weights"], first["straight"]["weights"]) < BOUND


def test_what_cannot_be_sharded_is_said_in_every_process(results):
    for rank, said in enumerate(results(2, "sharded_refusals")):
        assert "MeanFlow differentiates its network by forward mode" in said["jvp"]
        assert "ImprovedMeanFlow" in said["improved"]
        assert said["auto"] == 1
        assert "unused_parameters is on" in said["unused"]
        assert "process 1 of 2 has training.parallel 'ddp', but process 0 has 'fsdp'" in said["kinds"]
        assert "shard_size is 3, which does not divide the 2 processes" in said["group"]
        assert "nothing would be sharded" in said["alone"]
        assert "net.scale is a scalar" in said["scalar"]
        assert "does not fit the model" in said["architecture"]
        assert "its weights are gathered for validations" in said["early"]
        assert "in process 1" in said["full"]
        assert ("OSError" if rank == 0 else "process 0 of 2 failed while saving") in said["weights"]
        assert "No space left on device" in said["weights"]
        for place in ("folder", "background", "background_ddp"):
            assert ("is saved in" if rank == 0 else "process 0 of 2 failed while saving") in said[place]
