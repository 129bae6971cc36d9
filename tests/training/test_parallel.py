"""How a run is shared among processes: the rule of "auto", by the size of a model and the memory of its devices."""

import pytest
import torch

import pushforward as pf
from pushforward.errors import UserError
from pushforward.training import parallel
from pushforward.training.processes import Processes
from pushforward.training.settings import Settings, settings_of

CPU = torch.device("cpu")


class Several(Processes):
    """Processes that all say what this one does."""

    def gather(self, value):
        return [value] * self.size


@pytest.fixture(scope="module")
def model():
    return pf.models.rectified_flow(pf.nn.MLP.Config((16,)), (2,))


def kind(model, monkeypatch, room, size=8, machine=4, **settings):
    """What "auto" chooses where each process has `room` times the memory that a copy takes."""
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(machine))
    needed = parallel.training_bytes(model, Settings())
    monkeypatch.setattr(parallel, "_memory", lambda device, machine: room * needed)
    return parallel.chosen(model, settings_of(settings), Several(size=size), CPU)


@pytest.mark.parametrize(
    ("room", "expected"),
    [(2.0, ("ddp", 1)), (1.99, ("hybrid", 4)), (0.5, ("hybrid", 4)), (0.49, ("fsdp", 8))],
)
def test_auto_shards_no_further_than_memory_demands(model, monkeypatch, room, expected):
    assert kind(model, monkeypatch, room) == expected


def test_auto_on_one_machine_is_never_hybrid(model, monkeypatch):
    assert kind(model, monkeypatch, 1.0, size=4) == ("fsdp", 4)


def test_one_process_shards_nothing(model, monkeypatch):
    assert kind(model, monkeypatch, 0.0, size=1, parallel="fsdp") == ("ddp", 1)


def test_auto_keeps_copies_of_what_cannot_be_sharded(model, monkeypatch):
    few_steps = pf.models.meanflow(pf.nn.MLP.Config((16,)), (2,))
    assert kind(few_steps, monkeypatch, 0.1) == ("ddp", 1)
    assert kind(model, monkeypatch, 0.1, unused_parameters=True) == ("ddp", 1)
    adaptive = pf.models.ffjord(pf.nn.MLP.Config((16,)), (2,), loss_sampler=pf.samplers.Dopri5())
    assert kind(adaptive, monkeypatch, 0.1) == ("ddp", 1)
    with pytest.raises(UserError, match="its loss is solved by Dopri5, whose number of calls of the network differs between processes"):
        kind(adaptive, monkeypatch, 9.0, parallel="fsdp")


def test_a_group_of_hybrid_is_a_machine_unless_it_is_stated(model, monkeypatch):
    assert kind(model, monkeypatch, 9.0, parallel="hybrid") == ("hybrid", 4)
    assert kind(model, monkeypatch, 9.0, parallel="hybrid", shard_size=2) == ("hybrid", 2)
    assert kind(model, monkeypatch, 9.0, parallel="hybrid", shard_size=8) == ("fsdp", 8)


def test_bytes_are_those_of_weight_gradient_moments_and_average(model):
    count = sum(p.numel() for p in model.parameters())
    assert parallel.training_bytes(model, Settings()) == 20 * count
    assert parallel.training_bytes(model, Settings(ema=0)) == 16 * count


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"parallel": "tensor"}, "parallel is 'tensor', but it is one of"),
        ({"shard_size": 2}, "shard_size is 2, but only parallel='hybrid' has groups"),
        ({"parallel": "hybrid", "shard_size": -1}, "shard_size is -1"),
        ({"async_checkpoints": 1}, "async_checkpoints is 1, but it is True or False"),
    ],
)
def test_settings_that_are_not_allowed_are_refused(settings, match):
    with pytest.raises(UserError, match=match):
        settings_of(settings)
