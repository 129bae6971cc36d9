"""Measurements: their values by hand, the adjoint of each, their noise, and what they refuse."""

import pytest
import torch
from examples import things

import pushforward as pf
from pushforward.errors import ShapeError, UserError
from pushforward.guidance.observed import Observed
from pushforward.measurements import Blur, Downsample, Linear, Mask, Nonlinear

pytestmark = pytest.mark.usefixtures("float64")
CASES = [
    (Linear(torch.randn(3, 12)), (1, 3, 4)),
    (Linear(lambda x: x.cumsum(-1)[:, :, ::2]), (1, 3, 4)),
    (Mask(torch.tensor([1.0, 0.0, 1.0, 1.0])), (2, 3, 4)),
    (Downsample(2), (2, 6)),
    (Downsample(2), (1, 4, 6)),
    (Downsample(2), (1, 2, 4, 2)),
    (Blur(torch.randn(3)), (2, 6)),
    (Blur(torch.randn(3, 5)), (2, 6, 7)),
    (Blur(0.8), (1, 5, 6, 4)),
]


@pytest.mark.parametrize(("measurement", "shape"), CASES)
def test_products_are_with_the_matrix_and_its_transpose(measurement, shape):
    """The matrix is made of the measurements of unit events; y without NaN, so that all is measured that the mask has."""
    measurement = type(measurement)(*(v.double() if isinstance(v, torch.Tensor) else v for v in vars(measurement).values()))
    size = torch.Size(shape).numel()
    matrix = measurement(torch.eye(size).view(size, *shape)).flatten(1).T
    x = torch.randn(2, *shape)
    y = torch.randn(2, *measurement.shape_of(x))
    torch.testing.assert_close(measurement(x).flatten(1), x.flatten(1) @ matrix.T)
    seen = Observed(measurement, lambda z: z, y, x)
    w, u = torch.randn_like(x), torch.randn_like(y)
    torch.testing.assert_close(seen.product(w).flatten(1), w.flatten(1) @ matrix.T)
    torch.testing.assert_close(seen.transpose(u).flatten(1), torch.where(seen.known, u, 0).flatten(1) @ matrix)
    torch.testing.assert_close(seen.residual, torch.where(measurement.known(y), y - measurement(x), 0))


def test_a_nonlinear_one_has_the_products_of_its_derivative():
    x, w, u = torch.randn(2, 3), torch.randn(2, 3), torch.randn(2, 3)
    seen = Observed(Nonlinear(torch.sin), lambda z: 2 * z, torch.zeros(2, 3), x)
    torch.testing.assert_close(seen.product(w), 2 * (2 * x).cos() * w)
    torch.testing.assert_close(seen.transpose(u), 2 * (2 * x).cos() * u)


def test_a_gaussian_kernel_is_symmetric_and_sums_to_one():
    one = torch.zeros(1, 1, 11, 11)
    one[0, 0, 5, 5] = 1
    seen = Blur(1.2)(one)[0, 0]
    torch.testing.assert_close(seen.sum(), torch.tensor(1.0))
    torch.testing.assert_close(seen, seen.T)
    # Its variance along a side: that of the Gaussian, cut at about three deviations, within 3 %.
    assert float((seen.sum(0) * torch.arange(-5.0, 6.0) ** 2).sum()) == pytest.approx(1.44, rel=0.03)


def test_noise_has_its_deviation_and_a_generator_repeats_it():
    """Deviations of 10,000 draws within 5 of their standard errors (0.007 relative)."""
    x = torch.zeros(10_000, 2)
    measurement = Mask(noise=torch.tensor([0.5, 2.0]))
    y = measurement.draw(x, torch.Generator().manual_seed(0))
    torch.testing.assert_close(y.std(0), torch.tensor([0.5, 2.0]), rtol=0.035, atol=0)
    assert torch.equal(y, measurement.draw(x, torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("make", things("measurements"))
def test_events_that_do_not_fit_are_refused_or_measured(make):
    """Each example measures some event of two to four dimensions, with noise of one number."""
    fitting = []
    for shape in ((2,), (1, 4, 4)):
        try:
            fitting.append(make().draw(torch.zeros(3, *shape)).shape[0])
        except ShapeError:
            continue
    assert set(fitting) == {3}


REFUSED = [
    (lambda: Mask(torch.tensor([0.5])), UserError, "other values than 0 and 1"),
    (lambda: Mask(noise=-1.0), UserError, "noise is -1.0"),
    (lambda: Mask(noise=float("nan")), UserError, "noise is nan"),
    (lambda: Linear(torch.ones(3)), UserError, "operator is a tensor of shape (3,)"),
    (lambda: Linear("A"), UserError, "operator is 'A'"),
    (lambda: Downsample(0), UserError, "factor is 0"),
    (lambda: Downsample(3).draw(torch.zeros(1, 1, 4, 4)), ShapeError, "factor is 3, but it must divide the sides (4, 4)"),
    (lambda: Blur(torch.ones(2, 2)), UserError, "odd sides"),
    (lambda: Blur(0.0), UserError, "kernel is 0.0"),
    (lambda: Blur("wide"), UserError, "kernel is 'wide', but it is a tensor, or as a number a standard deviation"),
    (lambda: Blur(None), UserError, "kernel is None"),
    (lambda: Blur(torch.tensor(-1.0)), UserError, "kernel is a tensor of shape ()"),
    (lambda: Blur(torch.full((3, 3), torch.nan)), UserError, "kernel has 9 values that are NaN or infinite"),
    (lambda: Linear(torch.tensor([[1.0, torch.inf]])), UserError, "operator has 1 values that are NaN or infinite"),
    (lambda: Nonlinear(3), UserError, "function is 3"),
    (lambda: Mask(noise=torch.ones(3)).draw(torch.zeros(1, 2)), ShapeError, "noise has shape (3,)"),
]


@pytest.mark.parametrize(("make", "kind", "message"), REFUSED, ids=[one[2][:30] for one in REFUSED])
def test_what_cannot_be_measured_is_refused(make, kind, message):
    with pytest.raises(kind) as caught:
        make()
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["MMPS", "PiGDM", "DPS", "FlowDPS", "PnPFlow"])
@pytest.mark.parametrize("kind", [Linear, Nonlinear])
def test_one_number_for_an_event_needs_no_axis_of_its_own(name, kind):
    mixture = pf.data.GaussianMixture(torch.tensor([[-2.0, 0.0], [2.0, 1.0]]), 0.5)
    model = pf.families.PathModel(mixture.net(pf.paths.Linear()), (2,), sampler=pf.samplers.Euler(5))

    def sample(keepdim, y):
        guidance = getattr(pf.guidance, name)(
            kind(lambda x: x.square().sum(1, keepdim=keepdim) if kind is Nonlinear else x.sum(1, keepdim), 0.1), y
        )
        return model.sample(3, guidance=guidance, generator=torch.Generator().manual_seed(0))

    expected = sample(True, torch.ones(3, 1))
    torch.testing.assert_close(sample(False, torch.ones(3)), expected)
    torch.testing.assert_close(sample(False, torch.tensor(1.0)), expected)
