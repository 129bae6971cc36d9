"""What every pairing owes: data in place, noise permuted, labels with their data, and nothing across blocks."""

import itertools

import pytest
import torch
from examples import things
from hypothesis import given, settings
from hypothesis import strategies as st

from pushforward.errors import ConditionError
from pushforward.pairings import MinibatchOT, Pairing

PAIRINGS = things("pairings", of=Pairing)
MORE = [*PAIRINGS, pytest.param(lambda: MinibatchOT(condition="ignore"), id="MinibatchOT-ignore")]


def batch(n=12, shape=(2,), classes=3):
    return torch.randn(n, *shape), torch.randn(n, *shape), torch.arange(n) % classes


@pytest.mark.parametrize("shape", [(2,), (1, 3, 3)])
@pytest.mark.parametrize("make", MORE)
def test_data_and_labels_keep_their_places(make, shape):
    x, noise, cond = batch(shape=shape)
    new_x, _, new_cond = make()(x, noise, cond, None)
    assert torch.equal(new_x, x)
    assert torch.equal(new_cond, cond)


@pytest.mark.parametrize("with_cond", [False, True])
@pytest.mark.parametrize("make", MORE)
def test_the_noise_is_permuted(make, with_cond):
    x, noise, cond = batch()
    new = make()(x, noise, cond if with_cond else None, None)[1]
    assert sorted(map(tuple, new.tolist())) == sorted(map(tuple, noise.tolist()))


@pytest.mark.parametrize("make", MORE)
def test_two_blocks_together_are_each_block_alone(make):
    x, noise, cond = batch()
    generators = [torch.Generator().manual_seed(k) for k in (1, 2)]
    together = make()(x, noise, cond, generators)[1]
    alone = [make()(x[r], noise[r], cond[r], g)[1] for r, g in ((slice(0, 6), generators[0]), (slice(6, 12), generators[1]))]
    assert torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize("make", MORE)
def test_the_callers_tensors_are_not_written(make):
    x, noise, cond = batch()
    before = [one.clone() for one in (x, noise, cond)]
    make()(x, noise, cond, None)
    assert all(torch.equal(a, b) for a, b in zip(before, (x, noise, cond), strict=True))


@pytest.mark.parametrize("make", MORE)
def test_an_empty_batch_stays_empty(make):
    x, noise, cond = batch(0)
    assert make()(x, noise, cond, None)[1].shape == (0, 2)


points = st.lists(st.floats(-10, 10), min_size=12, max_size=12).map(lambda one: torch.tensor(one, dtype=torch.float64).view(6, 2))


@settings(max_examples=30)
@given(x=points, noise=points)
@pytest.mark.slow
def test_optimal_transport_is_no_worse_than_any_of_the_720_permutations(x, noise):
    cost = (x[:, None] - noise[None]).square().sum(2)
    least = min(float(cost[range(6), list(order)].sum()) for order in itertools.permutations(range(6)))
    paired = MinibatchOT()(x, noise)[1]
    assert float((x - paired).square().sum()) == pytest.approx(least, rel=1e-9, abs=1e-9)


@settings(max_examples=30)
@given(labels=st.lists(st.integers(0, 2), min_size=8, max_size=8))
def test_labels_are_never_crossed(labels):
    """Noise that stands in a label's row belongs to that label; here its number says which row it came from."""
    cond = torch.tensor(labels)
    noise = torch.arange(8.0, dtype=torch.float64)[:, None]
    paired = MinibatchOT()(torch.randn(8, 1, dtype=torch.float64), noise, cond)[1]
    assert torch.equal(cond[paired[:, 0].long()], cond)


def test_within_a_label_transport_is_optimal():
    x, noise, cond = batch()
    paired = MinibatchOT()(x, noise, cond)[1]
    for label in range(3):
        rows = cond == label
        assert torch.equal(paired[rows], MinibatchOT()(x[rows], noise[rows])[1])


def test_vectors_pay_for_their_mismatch():
    """With a heavy weight the condition decides and no noise moves; with weight 0 only x does."""
    x, noise, cond = torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0], [0.0]]), torch.tensor([[0.0], [1.0]])
    assert torch.equal(MinibatchOT(weight=100.0)(x, noise, cond)[1], noise)
    assert torch.equal(MinibatchOT(weight=0.0)(x, noise, cond)[1], x)


def test_a_condition_that_has_no_distance_is_refused_by_name():
    x, noise, _ = batch()

    class Text:
        def __getitem__(self, rows):
            return self

    with pytest.raises(ConditionError, match=r"cond is a Text; use condition='ignore'"):
        MinibatchOT()(x, noise, Text())
