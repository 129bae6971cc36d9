"""Plans of a step on many GPUs: what is counted is what real networks hold, and the formulas of what is sent."""

import pytest
import torch

import pushforward as pf
from benchmarks.memory import megabytes_held
from pushforward.errors import UserError
from pushforward.training import Cluster, costs_of, plan
from pushforward.training.planning import Costs

SMALL = {"heads": 2, "head_width": 8, "context_width": 6, "pooled_width": 5, "positions": 8, "base_size": 4, "null_tokens": 7}
COSTS = Costs(parameters=1000, unit=100, units=10, held=50, per_image=20, again=0, forward=1e6, recomputed=False)


def transformer():
    return pf.nn.MMDiT((2, 8, 8), depth=3, **SMALL)


def inputs(n):
    return torch.zeros(n, 2, 8, 8), torch.zeros(n)


NETWORKS = {
    "mmdit": (transformer, inputs),
    "unet": (lambda: pf.nn.UNet((1, 8, 8), channels=8, depth=1), lambda n: (torch.zeros(n, 1, 8, 8), torch.zeros(n))),
    "mlp": (lambda: pf.nn.MLP.Config((16, 16)).build((2,)), lambda n: (torch.zeros(n, 2), torch.zeros(n))),
}


class Called(torch.nn.Module):
    """A network whose call takes what `megabytes_held` gives: the images."""

    def __init__(self, net, inputs):
        super().__init__()
        self.net, self.inputs = net, inputs

    def forward(self, x):
        return self.net(*self.inputs(len(x))).sum()


@pytest.mark.slow
@pytest.mark.parametrize("recomputed", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_bytes_that_are_counted_are_those_that_a_real_graph_holds(name, recomputed):
    build, arguments = NETWORKS[name]
    if recomputed and name == "mlp":
        pytest.skip("an MLP has no blocks to recompute")
    costs = costs_of(build, arguments, precision=None, activation_checkpointing=recomputed)
    net = build().train()
    if recomputed:
        net.activation_checkpointing = True
    for n in (4, 9):
        with pf.fast.disabled():  # the plan counts what the plain blocks store, which run on GPUs
            real = megabytes_held(Called(net, arguments), torch.zeros(n, 1)) * 2**20
        assert costs.held + n * costs.per_image == pytest.approx(real, rel=0.01)
    assert costs.parameters == sum(p.numel() for p in net.parameters())


def test_a_linear_map_is_counted_by_hand():
    linear = costs_of(lambda: torch.nn.Linear(30, 50), lambda n: (torch.zeros(n, 30),), precision=None)
    assert (linear.parameters, linear.forward, linear.flops) == (1550, 2 * 30 * 50, 3 * 2 * 30 * 50)
    assert (linear.held, linear.per_image) == (0, 4 * 30)


@pytest.mark.slow
def test_operations_of_attention_are_counted():
    few, many = (
        costs_of(transformer, lambda n, side=side: (torch.zeros(n, 2, side, side), torch.zeros(n)), precision=None) for side in (4, 8)
    )
    width, tokens = 16, (4 + 7, 16 + 7)
    # The last block's text has no queries.
    grown = 3 * 4 * width * (tokens[1] ** 2 - tokens[0] ** 2) - 4 * width * 7 * (tokens[1] - tokens[0])
    per_token = 3 * 2 * 12 * width**2 + 2 * 2 * 2 * 4 * width  # of an image token: three blocks, the first and the last map
    assert many.forward - few.forward == grown + 12 * per_token


@pytest.mark.slow
def test_recomputation_costs_one_more_forward_pass_and_saves_memory():
    plain = costs_of(transformer, inputs, precision=None)
    again = costs_of(transformer, inputs, precision=None, activation_checkpointing=True)
    assert again.flops == plain.flops * 4 / 3
    assert again.activations(8) < plain.activations(8)


@pytest.mark.parametrize(
    ("kind", "processes", "shard_size", "sent"),
    [
        ("ddp", 1, None, 0),
        ("ddp", 4, None, 2 * 4000 * 3 / 4),
        ("fsdp", 4, None, 3 * 4000 * 3 / 4),
        ("hybrid", 4, 2, 3 * 4000 / 2 + 2 * 2000 / 2),
        ("hybrid", 8, 8, 3 * 4000 * 7 / 8),
    ],
)
def test_bytes_sent_and_held_follow_the_formulas(kind, processes, shard_size, sent):
    found = plan(COSTS, 3, processes, kind, shard_size=shard_size)
    assert found.sent == pytest.approx(sent)
    group = {"ddp": 1, "fsdp": processes, "hybrid": shard_size}[kind]
    assert sum(found.memory[name] for name in ("weights", "gradients", "moments", "average")) == pytest.approx(20 * 1000 / group)
    assert found.memory["activations"] == 50 + 3 * 20
    assert found.memory.get("gathered blocks", 0) == (3 * 4 * 100 if group > 1 else 0)


def test_time_is_computation_and_communication():
    cluster = Cluster(machine=2, flops=1e9, utilisation=0.5, inside=1e6, across=4e5, latency=0.0)
    alone = plan(COSTS, 5, 1, cluster=cluster)
    assert (alone.compute, alone.communication, alone.efficiency) == (5 * 3e6 / 5e8, 0, (1, 1))
    inside, across = plan(COSTS, 5, 2, cluster=cluster), plan(COSTS, 5, 4, cluster=cluster)
    assert inside.communication == pytest.approx(4000 / 1e6)
    assert across.communication == pytest.approx(6000 / 4e5)
    hybrid = plan(COSTS, 5, 4, "hybrid", cluster=cluster)
    assert hybrid.communication == pytest.approx(6000 / 1e6 + 2000 / 2e5)  # two all-reduces share the network
    low, high = across.efficiency
    assert low == pytest.approx(across.compute / (across.compute + across.communication))
    assert low < high <= 1
    assert "efficiency" in str(across)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: plan(COSTS, 0, 1), "images is 0"),
        (lambda: plan(COSTS, 1, 8, "hybrid", shard_size=3), "shard_size is 3, which does not divide 8 processes"),
        (lambda: plan(COSTS, 1, 8, "tensor"), "parallel is 'tensor', but it is 'ddp', 'fsdp' or 'hybrid'"),
        (lambda: Cluster(inside=0.0), "inside is 0.0, but it must be above 0"),
        (
            lambda: costs_of(*NETWORKS["mlp"], activation_checkpointing=True),
            "MLP has no blocks that can be recomputed",
        ),
    ],
)
def test_what_cannot_be_planned_is_refused(wrong, message):
    with pytest.raises(UserError, match=message):
        wrong()
