"""The tests for overlapping memory are exact: they agree with enumerating all addresses."""

import itertools
import random

import pytest
import torch

from pushforward.debug.overlap import crosses, overlaps_itself, reaches, share_memory


def addresses(shape, strides, offset=0):
    return [offset + sum(k * s for k, s in zip(index, strides, strict=True)) for index in itertools.product(*map(range, shape))]


def test_overlap_agrees_with_all_addresses():
    draw, overlapping = random.Random(0), 0
    for _ in range(3000):
        shape = tuple(draw.randint(1, 4) for _ in range(draw.randint(0, 4)))
        strides = tuple(draw.choice((0, 1, 2, 3, 4, 5, 6, 7, 9, 11, 12, 24)) for _ in shape)
        every = addresses(shape, strides)
        assert overlaps_itself(shape, strides) == (len(set(every)) < len(every)), (shape, strides)
        overlapping += len(set(every)) < len(every)
    assert 500 < overlapping < 2500


def test_shared_memory_agrees_with_all_bytes():
    draw, memory, sharing = random.Random(1), torch.zeros(64), 0

    def view():
        shape = tuple(draw.randint(1, 3) for _ in range(draw.randint(0, 3)))
        one = memory.as_strided(shape, tuple(draw.randint(0, 8) for _ in shape), draw.randint(0, 12))
        return one if draw.random() < 0.5 else one.view(torch.int32)

    for _ in range(2000):
        a, b = view(), view()
        truth = not set(addresses(a.shape, a.stride(), a.storage_offset())).isdisjoint(addresses(b.shape, b.stride(), b.storage_offset()))
        assert share_memory(a, b) == truth
        sharing += truth
    assert 300 < sharing < 1700


def test_views_of_other_element_sizes_share_bytes():
    memory = torch.zeros(4, dtype=torch.float32)
    halves = memory.view(torch.float16)
    assert share_memory(memory[1], halves[3])
    assert not share_memory(memory[1], halves[4])


@pytest.mark.parametrize(
    ("shape", "strides", "overlaps"),
    [
        ((1000, 1000, 3, 3), (1002, 1, 1002, 1), True),
        ((997, 991), (991, 997), False),
        ((512, 512, 2, 2), (2048, 2, 1024, 1), False),
        ((0, 4), (0, 0), False),
    ],
)
def test_large_shapes_are_decided_quickly(shape, strides, overlaps):
    assert overlaps_itself(shape, strides) == overlaps


def test_sums_are_decided():
    assert reaches(((6, 3), (10, 3), (15, 3)), 31)
    assert not reaches(((6, 3), (10, 3), (15, 3)), 29)


def test_a_tensor_does_not_cross_itself():
    x = torch.zeros(3, 4)
    assert not crosses(x, x[:])
    assert crosses(x, x.t())
    assert crosses(x[1:], x[:-1])
    assert not crosses(x[:, :2], x[:, 2:])
