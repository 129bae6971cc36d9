"""Random numbers belong to their place: a list of generators makes blocks that do not know of each other."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pushforward import _random
from pushforward.errors import UserError


def seeded(k):
    return [torch.Generator().manual_seed(seed) for seed in range(k)]


@given(blocks=st.integers(1, 6), rows=st.integers(1, 4))
def test_blocks_share_the_rows_equally(blocks, rows):
    n = blocks * rows
    slices = [one for one, _ in _random.blocks(seeded(blocks), n)]
    assert [k for one in slices for k in range(n)[one]] == list(range(n))
    assert {len(range(n)[one]) for one in slices} == {rows}


@pytest.mark.parametrize("draw", [_random.normal, _random.uniform])
def test_a_block_draws_what_it_would_draw_alone(draw):
    together = draw((6, 2), seeded(3))
    alone = [draw((2, 2), one) for one in seeded(3)]
    assert torch.equal(together, torch.cat(alone))


@given(blocks=st.sampled_from([1, 2, 3, 6]), start=st.integers(0, 5), count=st.integers(1, 6))
def test_selected_generators_are_those_of_the_rows(blocks, start, count):
    stop = min(6, start + count)
    chosen = _random.select(seeded(blocks), slice(start, stop), 6)
    per_row = [one for rows, one in _random.blocks(list(range(blocks)), 6) for _ in range(rows.stop - rows.start)]
    assert [one.initial_seed() for one in chosen] == sorted(set(per_row[start:stop]))


@pytest.mark.parametrize("k", [0, 2, 6])
def test_rows_that_cannot_be_shared_are_refused(k):
    with pytest.raises(UserError, match=f"generator is a list of {k}, but 5 rows need"):
        list(_random.blocks(seeded(k), 5))
