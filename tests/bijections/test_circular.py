"""Maps of the torus: periodic, smooth across the seam, and of a density that integrates to 1."""

import math

import pytest
import torch

import pushforward as pf
from pushforward.errors import UserError

pytestmark = pytest.mark.usefixtures("float64")

ANGLES = pf.data.Schema((pf.data.Column("phi"), pf.data.Column("psi")))


@pytest.fixture
def flow():
    torch.manual_seed(0)
    model = pf.models.nsf(2, 3, 5, (16,), activation="tanh", circular=True)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return model


def test_the_density_integrates_to_one(flow):
    axis = torch.arange(500) * (2 * math.pi / 500) - math.pi
    density = flow.log_prob(torch.cartesian_prod(axis, axis)).exp()
    assert density.std() > 0.1 * density.mean()
    assert (density.sum() * (2 * math.pi / 500) ** 2).item() == pytest.approx(1, abs=2e-3)


def test_whole_turns_change_nothing(flow):
    x = torch.pi * (2 * torch.rand(7, 2) - 1)
    turned = x + 2 * torch.pi * torch.tensor([[1.0, -2.0]])
    torch.testing.assert_close(flow.log_prob(turned), flow.log_prob(x), rtol=0, atol=1e-9)
    torch.testing.assert_close(flow.encode(turned), flow.encode(x), rtol=0, atol=1e-9)


def test_the_map_is_smooth_across_the_seam(flow):
    """The density and its slope by one angle are equal on both sides of -pi = pi."""
    fixed, step = 0.4, 1e-6

    def near(angle):
        x = torch.tensor([[fixed, angle]]).requires_grad_()
        value = flow.log_prob(x)
        return value.detach(), torch.autograd.grad(value.sum(), x)[0]

    (one, _), (two, _) = near(torch.pi - step), near(-torch.pi + step)
    torch.testing.assert_close(one, two, rtol=0, atol=1e-4)


def test_samples_are_angles_that_come_back(flow):
    x, log_prob = flow.sample(50, log_prob=True, generator=torch.Generator().manual_seed(0))
    assert x.abs().max() <= torch.pi
    torch.testing.assert_close(log_prob, flow.log_prob(x), rtol=0, atol=1e-8)
    torch.testing.assert_close(flow.decode(flow.encode(x)), x, rtol=0, atol=1e-8)


@pytest.mark.parametrize("options", [{"kind": "autoregressive"}, {"preprocess": "standardise"}, {"levels": 8}, {"schema": ANGLES}])
def test_what_would_tear_the_torus_is_refused(options):
    with pytest.raises(pf.errors.UserError, match="circular is True with kind"):
        pf.models.nsf(*([] if "schema" in options else [2]), circular=True, **options)


def test_data_in_degrees_are_refused():
    angles = torch.rand(40, 2, generator=torch.Generator().manual_seed(0)) * 2 * torch.pi
    pf.models.nsf(2, 2, hidden=(8,), circular=True).initialise(angles)
    with pytest.raises(pf.errors.DataError, match="angles are in radians"):
        pf.models.nsf(2, 2, hidden=(8,), circular=True).initialise(angles.rad2deg())


def test_samples_of_stretched_angles_have_no_density_of_their_own(flow):
    with pytest.raises(UserError, match="temperature is 1.5, but angles stretched beyond the circle overlap"):
        flow.sample(4, temperature=1.5, log_prob=True)
    assert flow.sample(4, temperature=1.5).shape == (4, 2)
    x, log_prob = flow.sample(2000, temperature=0.5, log_prob=True, generator=torch.Generator().manual_seed(0))
    # A quarter of the noise's torus, so q is four times as large: E_q[1 / q] is the area that q covers, which is one of 4 pi^2 / 4.
    assert float((-log_prob).exp().mean()) < 4 * math.pi**2
    torch.testing.assert_close(log_prob, flow.log_prob(x) + 2 * math.log(2), rtol=0, atol=1e-6)
