"""Random numbers belong to their place: a list of generators makes blocks that do not know of each other."""

import numpy
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


@given(blocks=st.sampled_from([1, 2, 3, 4, 6, 12]), size=st.integers(1, 13))
@pytest.mark.parametrize("draw", [_random.normal, _random.uniform])
def test_draws_of_a_list_do_not_depend_on_how_the_rows_are_cut(draw, blocks, size):
    """Two draws, as of a stochastic sampler: the second goes on where the first ended; 12 rows of 3 are drawn otherwise than one of 3."""
    together, cut = seeded(blocks), seeded(blocks)
    expected = torch.stack([draw((12, 3), together) for _ in range(2)])
    parts = [torch.stack([draw((r.stop - r.start, 3), one) for _ in range(2)]) for r, one in _random.chunks(12, size, cut)]
    assert max(part.shape[1] for part in parts) <= size
    assert torch.equal(torch.cat(parts, dim=1), expected)
    assert [torch.randint(1000, (), generator=a) for a in together] == [torch.randint(1000, (), generator=b) for b in cut]


@given(size=st.integers(1, 7), n=st.integers(0, 6), k=st.sampled_from([None, 1]))
def test_chunks_are_all_rows_once(size, n, k):
    generator = None if k is None else torch.Generator()
    assert [row for rows, _ in _random.chunks(n, size, generator) for row in range(n)[rows]] == list(range(n))


@pytest.mark.parametrize(
    ("generator", "message"),
    [
        (5, r"generator is 5, but it must be a torch.Generator, .*; use torch.Generator\(\).manual_seed\(5\)"),
        (-5, "generator is -5, but"),
        ("seed", "generator is 'seed'"),
        (numpy.random.default_rng(0), "generator is a numpy.Generator, but it must be a torch.Generator"),
        ([torch.Generator(), None], r"generator\[1\] is None"),
        ([0, 1], r"generator\[0\] is 0"),
        ([], "generator is a list of 0, but 4 rows"),
        (seeded(3), "generator is a list of 3, but 4 rows"),
        (seeded(8), "generator is a list of 8, but 4 rows"),
        ([torch.Generator()] * 2, "lists the same generator twice"),
    ],
)
def test_what_is_no_randomness_is_refused(generator, message):
    with pytest.raises(UserError, match=message):
        _random.checked(generator, 4)


@pytest.mark.parametrize("k", [0, 2, 6])
def test_rows_that_cannot_be_shared_are_refused(k):
    with pytest.raises(UserError, match=f"generator is a list of {k}, but 5 rows need"):
        list(_random.blocks(seeded(k), 5))
