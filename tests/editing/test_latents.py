"""Between two examples, and towards a label."""

import pytest
import torch

import pushforward as pf
from pushforward.data.dataset import Dataset
from pushforward.errors import DataError, ShapeError, UserError


@pytest.fixture
def flow():
    return pf.models.realnvp(3, layers=2, hidden=(8,), classes=2).double()


@pytest.mark.parametrize("kind", ["spherical", "linear"])
def test_a_walk_has_its_ends_and_goes_on_in_the_latent_space(flow, kind):
    a, b = torch.randn(4, 3, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    cond = torch.tensor([0, 1, 1, 0])
    walk = pf.editing.interpolate(flow, a, b, 5, cond, kind=kind)
    assert walk.shape == (4, 5, 3)
    torch.testing.assert_close(walk[:, 0], a)
    torch.testing.assert_close(walk[:, -1], b)
    z_a, z_b, middle = (flow.encode(x, cond).detach() for x in (a, b, walk[:, 2].contiguous()))
    if kind == "linear":
        torch.testing.assert_close(middle, (z_a + z_b) / 2)
    else:
        torch.testing.assert_close(torch.cosine_similarity(middle, z_a + z_b), torch.ones(4, dtype=torch.float64))
        assert (middle.norm(dim=1) > ((z_a + z_b) / 2).norm(dim=1)).all()


def test_an_arc_keeps_the_norm_of_ends_that_have_one_and_between_equal_ends_it_stays(flow):
    z = torch.nn.functional.normalize(torch.randn(2, 3, dtype=torch.float64)) * 2
    ends = flow.decode(z).detach()
    walk = pf.editing.interpolate(flow, ends[:1], ends[1:], 7)[0]
    torch.testing.assert_close(flow.encode(walk).norm(dim=1).detach(), torch.full((7,), 2.0, dtype=torch.float64))
    torch.testing.assert_close(pf.editing.interpolate(flow, ends, ends, 3)[:, 1], ends)


def test_the_direction_of_a_label_is_the_difference_of_mean_latents(flow):
    x, labels = torch.randn(50, 3, dtype=torch.float64), torch.arange(50) % 2
    for conditional in (False, True):
        z = flow.encode(x, labels if conditional else None).detach()
        direction = pf.editing.attribute_direction(flow, Dataset("toy", x, labels), 1, conditional=conditional, batch_size=7)
        torch.testing.assert_close(direction, z[1::2].mean(0) - z[::2].mean(0), rtol=0, atol=1e-6)


def test_what_cannot_be_is_refused_by_name(flow):
    x, labels = torch.randn(4, 3, dtype=torch.float64), torch.zeros(4, dtype=torch.long)
    for call, error, message in (
        (lambda: pf.editing.interpolate(flow, x, x, 1), UserError, "steps is 1, but it includes both ends"),
        (lambda: pf.editing.interpolate(flow, x, x[:2]), ShapeError, r"a has shape \(4, 3\) and b \(2, 3\)"),
        (lambda: pf.editing.interpolate(flow, x, x, kind="cubic"), UserError, "kind is 'cubic'"),
        (lambda: pf.editing.attribute_direction(flow, Dataset("toy", x), 0), DataError, "no integer labels"),
        (lambda: pf.editing.attribute_direction(flow, Dataset("toy", x, labels), 0), DataError, "4 of 4 examples have it"),
        (lambda: pf.editing.attribute_direction(flow, Dataset("toy", x, labels), 7), DataError, "0 of 4 examples have it"),
    ):
        with pytest.raises(error, match=message):
            call()
