"""Attention by exponentials of the scores as they are: torch's own values, and torch's own way where they would not fit."""

import math

import pytest
import torch

from pushforward.fast.attention import attend_in_blocks
from pushforward.fast.joint_block import Workspace, advance
from pushforward.nn.joint_block import JointBlock, attend


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _qkv(queries: int, length: int, size: float = 1.0, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    return [size * torch.randn(2, count, 3, 8, dtype=dtype) for count in (queries, length, length)]


@pytest.mark.parametrize(("queries", "length"), [(1, 1), (5, 7), (339, 680), (511, 1021), (700, 1500), (3, 2041)])
def test_its_values_are_those_of_torch(queries, length):
    q, k, v = _qkv(queries, length)
    work = Workspace(q)
    found = attend_in_blocks(work, "attended", q, k, v)
    assert not work.large_scores
    wide = attend(q.double(), k.double(), v.double())
    assert (found - wide).norm() <= 1e-6 * wide.norm()


@pytest.mark.parametrize("shift", [-200.0, 200.0])
def test_scores_whose_exponentials_do_not_fit_are_left_to_torch(shift):
    q, k, v = _qkv(9, 11)
    q[..., 0], k[..., 0] = math.copysign(math.sqrt(abs(shift) * math.sqrt(8)), shift), math.sqrt(abs(shift) * math.sqrt(8))
    work = Workspace(q)
    found = attend_in_blocks(work, "attended", q, k, v)
    assert work.large_scores
    torch.testing.assert_close(found, attend(q, k, v), rtol=0, atol=0)
    wide = attend(q.double(), k.double(), v.double())
    assert (found - wide).norm() <= 1e-4 * wide.norm()


def test_no_images_have_no_output():
    q, k, v = (tensor[:0] for tensor in _qkv(9, 11))
    assert attend_in_blocks(Workspace(q), "attended", q, k, v).shape == (0, 9, 24)


def test_a_plan_is_made_anew_for_tensors_elsewhere():
    """Of the same shapes, as the blocks of a network have them, or of others, as its last block has."""
    work = Workspace(torch.zeros(1))
    for length in (700, 700, 701, 5):
        q, k, v = _qkv(5, length)
        for _ in range(2):
            torch.testing.assert_close(attend_in_blocks(work, "attended", q, k, v), attend(q, k, v), rtol=1e-5, atol=1e-6)
            assert work.plans["attended"].is_of(q, k, v)
            q.add_(1), k.mul_(0.5), v.neg_()  # the plan is of places, not of numbers


def test_memory_that_was_too_small_is_not_kept():
    work = Workspace(torch.zeros(1))
    work.take("joint", 2, 3)
    grown = work.take("joint", 4, 5)
    assert work.take("joint", 2, 3).data_ptr() == grown.data_ptr()


@pytest.mark.parametrize("last", [False, True])
def test_keys_of_any_bias_give_what_a_block_gives(last):
    """Which leaves out what the bias of the image's keys adds to all scores of a query."""
    block = JointBlock(16, 2, 4, qk_norm=False, second=True, last=last)
    for p in block.parameters():
        torch.nn.init.normal_(p, std=0.1)
    for attention in (block.image.attention, block.text.attention, block.image.second):
        torch.nn.init.normal_(attention.qkv.bias, std=3.0)
    image, text, embedding = torch.randn(2, 5, 16), torch.randn(2, 3, 16), torch.randn(2, 16)
    with torch.no_grad():
        expected = block(image, text, embedding)
        advance(block, image, text, embedding, Workspace(image))
    for one, other in zip((image, text), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_what_is_no_number_goes_where_torch_lets_it(place):
    tensors = _qkv(9, 11)
    tensors[place][0, 3] = float("nan")
    found = attend_in_blocks(Workspace(tensors[0]), "attended", *tensors)
    torch.testing.assert_close(found, attend(*tensors), rtol=1e-5, atol=1e-6, equal_nan=True)


def test_several_threads_are_left_to_torch():
    q, k, v = _qkv(9, 11)
    work = Workspace(q)
    torch.set_num_threads(2)
    torch.testing.assert_close(attend_in_blocks(work, "attended", q, k, v), attend(q, k, v), rtol=0, atol=0)
    assert not work.held


def test_other_dtypes_are_left_to_torch():
    q, k, v = _qkv(9, 11, dtype=torch.bfloat16)
    work = Workspace(q)
    torch.testing.assert_close(attend_in_blocks(work, "attended", q, k, v), attend(q, k, v), rtol=0, atol=0)
    assert not work.held


@pytest.mark.parametrize(("count", "words"), [(4, 3), (600, 3), (5, 600)])
@pytest.mark.parametrize("second", [False, True])
def test_images_do_not_depend_on_those_that_share_their_mlp(count, words, second):
    block = JointBlock(16, 2, 4, qk_norm=True, second=second)
    for p in block.parameters():
        torch.nn.init.normal_(p, std=0.1)
    image, text, embedding = torch.randn(3, count, 16), torch.randn(3, words, 16), torch.randn(3, 16)
    with torch.no_grad():
        expected = block(image, text, embedding)
        found = image.clone(), text.clone()
        advance(block, *found, embedding, Workspace(image))
        for k in range(3):
            alone = image[k : k + 1].clone(), text[k : k + 1].clone()
            advance(block, *alone, embedding[k : k + 1], Workspace(image))
            for one, of_all in zip(alone, found, strict=True):
                torch.testing.assert_close(one[0], of_all[k], rtol=1e-5, atol=1e-6)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
