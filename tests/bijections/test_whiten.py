"""Whitening: the covariance it fits is that of scikit-learn's estimator, and what it cannot fit is refused."""

import pytest
import sklearn.covariance
import torch

import pushforward as pf
from pushforward.bijections.whiten import Whiten, shrunk_covariance
from pushforward.errors import ShapeError, UserError

pytestmark = pytest.mark.usefixtures("float64")


def correlated(n, d=4):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, d, generator=generator) @ torch.randn(d, d, generator=generator) + torch.arange(float(d))


@pytest.mark.parametrize(("n", "d"), [(5, 4), (3, 8), (200, 4), (40, 1)])
def test_the_covariance_is_shrunk_as_scikit_learn_shrinks_it(n, d):
    x = correlated(n, d)
    x = x - x.mean(0)
    expected, _ = sklearn.covariance.oas(x.numpy(), assume_centered=True)
    torch.testing.assert_close(shrunk_covariance(x), torch.tensor(expected), rtol=1e-10, atol=1e-12)


def test_many_rows_have_the_identity_as_covariance():
    x = correlated(50_000)
    whiten = Whiten(4)
    whiten.initialise(x)
    z, log_abs_det = whiten(x)
    torch.testing.assert_close(z.mean(0), torch.zeros(4), rtol=0, atol=1e-9)
    torch.testing.assert_close(z.T.cov(), torch.eye(4), rtol=0, atol=1e-3)
    torch.testing.assert_close(log_abs_det, -0.5 * x.T.cov().logdet().expand(50_000), rtol=0, atol=1e-3)


def test_the_scale_of_a_column_changes_nothing():
    x, units = correlated(30), torch.tensor([1.0, 1000.0, 0.01, 5.0])
    one, other = Whiten(4), Whiten(4)
    one.initialise(x)
    other.initialise(units * x)
    torch.testing.assert_close(other(units * x)[0], one(x)[0], rtol=1e-8, atol=1e-8)


def test_constant_and_equal_columns_stay_finite_and_invertible():
    x = correlated(30)
    x[:, 1], x[:, 3] = 7.0, x[:, 0]
    whiten = Whiten(4)
    whiten.initialise(x)
    z, log_abs_det = whiten(x)
    assert z.isfinite().all()
    assert log_abs_det.isfinite().all()
    assert not z[:, 1].any()
    torch.testing.assert_close(whiten.inverse(z)[0], x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("preset", ["maf", "rectified_flow"])
def test_a_preset_whitens_its_data_and_the_columns_of_a_table(preset):
    """A linear map of the data then changes the density by its determinant alone."""
    torch.manual_seed(0)
    x, mix = correlated(20_000, 2), torch.tensor([[2.0, 0.0], [-1.0, 0.5]])
    models = [getattr(pf.models, preset)(shape=(2,), preprocess="whiten") for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    for model, rows in zip(models, (x, x @ mix.T), strict=True):
        model.initialise(rows)
    one, other = (model.log_prob(rows[:5]) for model, rows in zip(models, (x, x @ mix.T), strict=True))
    torch.testing.assert_close(other, one - mix.logdet(), rtol=0, atol=0.02)  # but for the shrinkage


def test_a_table_is_whitened_in_the_units_of_its_columns():
    train = pf.data.load("wine")
    model = pf.models.nsf(schema=train.schema, preprocess="whiten")
    x = train.x.double()
    model.initialise(x)
    z, _ = model.preprocess(x)
    assert (z.T.cov() - torch.eye(13)).abs().max() < 0.4
    assert [type(step).__name__ for step in model.preprocess.steps] == ["TableUnits", "Whiten"]


def test_what_cannot_be_whitened_is_refused():
    with pytest.raises(ShapeError, match=r"x has shape \(1, 4\), but whitening needs at least two rows of 4 features"):
        Whiten(4).initialise(torch.ones(1, 4))
    with pytest.raises(UserError, match=r"preprocess is 'whiten', but an event has shape \(1, 8, 8\)"):
        pf.models.rectified_flow(shape=(1, 8, 8), preprocess="whiten")
