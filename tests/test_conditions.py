"""TextContext is to models what a tensor of labels is: cut, moved and mixed by rows, and seen through by torch."""

import pytest
import torch
from torch.utils._pytree import tree_leaves, tree_map_only

from pushforward.conditions import TextContext
from pushforward.errors import ConditionError


@pytest.fixture
def cond():
    return TextContext(torch.randn(5, 3, 4), torch.randn(5, 2))


@pytest.mark.parametrize("index", [slice(1, 3), torch.tensor([4, 0, 0]), torch.tensor([True, False, True, False, False]), [2, 1]])
def test_an_index_takes_the_same_rows_of_both(cond, index):
    part = cond[index]
    assert torch.equal(part.context, cond.context[index])
    assert torch.equal(part.pooled, cond.pooled[index])
    assert len(part) == len(cond.pooled[index])


@pytest.mark.parametrize("index", [0, 3, -1])
def test_a_number_takes_a_batch_of_one(cond, index):
    assert torch.equal(cond[index].pooled, cond.pooled[[index]])


def test_torch_sees_its_two_tensors(cond):
    assert [leaf.shape for leaf in tree_leaves({"cond": cond})] == [(5, 3, 4), (5, 2)]
    doubled = tree_map_only(torch.Tensor, lambda leaf: 2 * leaf, cond)
    assert torch.equal(doubled.context, 2 * cond.context)


def test_to_moves_both(cond):
    half = cond.to(torch.bfloat16)
    assert half.context.dtype == half.pooled.dtype == torch.bfloat16


def test_where_mixes_rows(cond):
    mask, other = torch.tensor([True, False, True, True, False]), TextContext(torch.zeros(5, 3, 4) + 7, torch.zeros(5, 2) + 8)
    for known, rows in ((other, other), (other[:1], other)):
        mixed = cond.where(mask, known)
        assert torch.equal(mixed.context, torch.where(mask[:, None, None], cond.context, rows.context))
        assert torch.equal(mixed.pooled, torch.where(mask[:, None], cond.pooled, rows.pooled))
    assert torch.equal(cond.where(mask, None).context[~mask], torch.zeros(2, 3, 4))


def test_repeat_is_one_copy_after_the_other(cond):
    assert torch.equal(cond.repeat(3).pooled, cond.pooled.repeat(3, 1))
    assert torch.equal(cond.repeat(3).context[5:10], cond.context)


@pytest.mark.parametrize("shapes", [((2, 3, 4), (3, 4)), ((2, 3), (2, 4)), ((2, 3, 4), (2, 4, 1))])
def test_rows_that_do_not_agree_are_refused(shapes):
    with pytest.raises(ConditionError, match="context is .* and pooled"):
        TextContext(*(torch.zeros(shape) for shape in shapes))
