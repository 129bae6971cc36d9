"""The laws of data parallel training: any number of processes and any accumulation give one process's results, up to summation order.

FSDP and its hybrid give DDP's losses and weights, and each continues the other's runs. Both in one file, as one launch of processes, most
of whose time are imports, does what is quick.
"""

import functools
import shutil

import pytest
import scenarios
import sharded
import torch

from pushforward.formats.run import checkpoints

BOUND = {
    "law": 1e-12,
    "law32": 1e-4,
    "unet": 1e-9,
    "augmented": 1e-9,
    "few_steps": 1e-9,
}  # AdamW divides by tiny second moments, which enlarges rounding
SHARDED = 1e-9  # for the same reason
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("law32", "augmented", "few_steps", "moody", "reversible", "compiled")]
NUMBERS = [2, pytest.param(4, marks=pytest.mark.slow)]


@pytest.fixture(params=NUMBERS)
def number(request):
    return request.param


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Return a function from a scenario to its results in one process, which runs it once."""
    return functools.cache(lambda scenario: getattr(scenarios, scenario)(tmp_path_factory.mktemp(scenario)))


def distance(one, other):
    """The largest difference between two sets of weights, in units of the largest weight of each tensor."""
    assert one.keys() == other.keys()
    return max(float((one[k] - other[k]).abs().max() / other[k].abs().max().clamp(min=1e-8)) for k in one)


@pytest.mark.parametrize("scenario", ["law", "unet", *SLOW[:3]])
def test_processes_give_the_weights_of_one(results, number, scenario, alone):
    for each in results(number, scenario):
        assert distance(each["weights"], alone(scenario)["weights"]) < BOUND[scenario]


@pytest.mark.slow
def test_reversible_processes_give_the_weights_of_one_that_keeps_its_activations(results, number, tmp_path):
    alone = scenarios.reversible(tmp_path, memory="full")
    for each in results(number, "reversible"):
        assert distance(each["weights"], alone["weights"]) < 1e-8


@pytest.mark.slow
def test_compiled_processes_give_the_weights_of_an_eager_one(results, number, tmp_path):
    alone = scenarios.compiled(tmp_path, compile=False)
    for each in results(number, "compiled"):
        assert distance(each["weights"], alone["weights"]) < 1e-8


@pytest.mark.parametrize("scenario", ["law", "unet", *SLOW])
def test_all_processes_hold_the_same_bits(results, number, scenario):
    first, *others = results(number, scenario)
    assert all(torch.equal(first["weights"][key], one["weights"][key]) for one in others for key in first["weights"])


@pytest.mark.parametrize("scenario", ["law", SLOW[0]])
@pytest.mark.parametrize("accumulate", [2, 4])
def test_accumulation_gives_the_weights_of_a_whole_batch(scenario, accumulate, alone, tmp_path):
    whole, parts = alone(scenario), getattr(scenarios, scenario)(tmp_path, accumulate=accumulate)
    assert distance(parts["weights"], whole["weights"]) < BOUND[scenario]
    assert parts["losses"] == pytest.approx(whole["losses"], rel=BOUND[scenario])


@pytest.mark.parametrize("scenario", ["law", SLOW[0]])
def test_losses_are_those_of_the_whole_batch(results, number, scenario, alone):
    assert results(number, scenario)[0]["losses"] == pytest.approx(alone(scenario)["losses"], rel=BOUND[scenario])


def test_parameters_without_a_gradient_do_no_harm(results, number):
    assert [each["unused"] for each in results(number, "unet")] == [["net.spare"]] * number


def test_sample_and_log_prob_wait_for_nobody(results, number):
    for each in results(number, "verbs"):
        alone = scenarios.model()
        alone.load_state_dict(each["weights"])
        torch.testing.assert_close(alone.eval().log_prob(each["x"]), each["log_prob"], rtol=1e-9, atol=1e-9)
        assert each["drawn"].isfinite().all()


def test_a_run_that_was_stopped_ends_with_the_same_bits(results, number):
    for each in results(number, "resume"):
        assert each["stopped"][0] < 12
        assert each["stopped"][1] == 15
        assert all(torch.equal(each["resumed"][key], each["straight"][key]) for key in each["straight"])


@pytest.mark.slow
def test_a_validation_that_is_cut_in_one_process_is_cut_in_all_and_done_again(results, number):
    for each in results(number, "cut"):
        assert each == {"0-1": [4, 15, 8, True, True], "1-2": [8, 2, 8, True, True]}


def test_the_best_weights_are_those_of_the_first_process_in_all(results, number):
    first, *others = results(number, "best")
    assert distance(first["weights"], first["last"]) > 1e-3
    for one in others:
        assert all(torch.equal(first["weights"][key], one["weights"][key]) for key in first["weights"])


def test_what_differs_between_processes_is_named_in_all_of_them(results):
    for said in results(2, "refusals"):
        assert "process 1 of 2 has training.lr 0.02, but process 0 has 0.01" in said["rate"]
        assert "process 1 of 2 has model.pairing." in said["network"]
        assert "process 1 of 2 has data" in said["data"]
        assert "is 3 micro-blocks of 11, which 2 processes with accumulate 1 cannot share equally" in said["shares"]
        assert "no intact checkpoint" in said["resume"]
        assert "process 1 of 2 has code '0123', but process 0 has 'abcd'" in said["code"]
        assert "process 1 of 2 has torch '2.1.0', but process 0 has '2.0.0'" in said["torch"]
        assert "process 1 of 2 has validation data None, but process 0 has" in said["validation"]
        assert "process 1 of 2 has run folder 'none', but process 0 has 'one'" in said["out"]
        assert said["resumed"] == ""  # as the first process decides
        assert "of float32 on cpu', but process 0 has" in said["dtype"]
        assert "frozen', but process 0 has" in said["frozen"]
        assert "does not fit the model" in said["architecture"]
        assert all("start all processes with the same command, files and versions" in said[one] for one in ("code", "torch", "dtype"))


def test_what_fails_in_one_process_is_said_in_the_other(results):
    first, second = (said for said in results(2, "refusals"))
    assert "process 1 of 2 failed while starting: the training data is empty" in first["one"]
    assert "the training data is empty" in second["one"]
    assert "process 0 of 2 failed while saving" in second["folder"]
    assert "ProcessError" not in first["folder"]


def test_the_same_command_gives_the_same_run(results, number, tmp_path):
    alone = scenarios.command(tmp_path)
    for each in results(number, "command"):
        assert each["status"] == alone["status"] == 0
        for row, expected in zip(each["rows"], alone["rows"], strict=True):
            assert row == pytest.approx(expected, rel=1e-4)


def test_what_the_command_refuses_it_refuses_in_every_process(results):
    for rank, each in enumerate(results(2, "command")):
        assert each["again"] == 2
        assert each["said"].startswith(f"pushforward [process {rank}]: ")
        assert "exists already; add --overwrite" in each["said"]


def agree(one, other, bound):
    assert distance(one["weights"], other["weights"]) < bound
    assert one["losses"] == pytest.approx(other["losses"], rel=bound, abs=bound)
    torch.testing.assert_close(one["drawn"], other["drawn"], rtol=bound, atol=bound)


@pytest.mark.parametrize("kind", ["mlp", "mmdit"])
def test_shards_give_the_losses_and_weights_of_copies(results, number, kind):
    for each in results(number, "sharded_law"):
        for how in each[kind].keys() - {"ddp"}:
            agree(each[kind][how], each[kind]["ddp"], SHARDED)


@pytest.mark.slow
@pytest.mark.parametrize("kind", sharded.KINDS)
def test_shards_of_any_network_give_the_losses_and_weights_of_copies(results, number, kind):
    for each in results(number, "sharded_kinds"):
        for how in each[kind].keys() - {"ddp"}:
            agree(each[kind][how], each[kind]["ddp"], 10 * SHARDED)  # a spline's steep bins enlarge the rounding of four sums: 1.6e-9 seen


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
        assert distance(each["ddp"]["weights"], each["straight"]["weights"]) < SHARDED


@pytest.mark.slow
def test_shards_of_any_number_and_copies_continue_each_other(results, number):
    quick = results(number, "sharded_resume")
    for each, background in zip(results(number, "sharded_more"), quick, strict=True):
        assert all(torch.equal(background["straight"]["weights"][key], one) for key, one in each["straight"]["weights"].items())
        assert len(each) == (3 if number == 2 else 5)
        for one in each.values():
            assert distance(one["weights"], each["straight"]["weights"]) < SHARDED


def test_one_process_continues_shards_of_many(results, number, tmp_path):
    first = results(number, "sharded_resume")[0]
    shutil.copytree(results.folders[number, "sharded_resume"] / "sharded_resume" / "run", tmp_path / "run")
    shutil.rmtree(checkpoints(tmp_path / "run").folder / "step-000008")
    data, options = sharded.digits()
    alone = sharded.outcome(sharded.transformer(), data, out=tmp_path / "run", resume=True, parallel="fsdp", **options)
    assert distance(alone["weights"], first["straight"]["weights"]) < SHARDED


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
