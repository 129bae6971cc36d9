"""The baselines are densities, agree with scipy and scikit-learn, and are tuned where it can be seen."""

import math

import numpy
import pytest
import scipy.stats
import torch
from sklearn.mixture import GaussianMixture as ScikitMixture
from sklearn.neighbors import KernelDensity

from pushforward.data.dataset import Dataset
from pushforward.data.densities import moons
from pushforward.data.digits import digits
from pushforward.data.mixture import mixture, three_gaussians
from pushforward.errors import ConditionError, DataError, ShapeError, UserError
from pushforward.evaluation.baselines import fit_baselines
from pushforward.evaluation.gaussians import GaussianSum, PerClass
from pushforward.evaluation.likelihood import bits_per_dim

NAMES = ["gaussian", "kernel_density", "gaussian_mixture"]
EXACT = {"rtol": 1e-9, "atol": 1e-9}
STEP = 0.16  # of grids: the sum over a Gaussian of this standard deviation is its integral to 5e-9


def seeded():
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="module")
def fitted():
    return fit_baselines(mixture(n=400), mixture("validation", n=200), seeded())


@pytest.fixture(scope="module")
def fitted_on_digits():
    return fit_baselines(digits("train"), digits("validation"), seeded())


@pytest.fixture(scope="module")
def points():
    return 2 * torch.randn(50, 2, dtype=torch.float64, generator=seeded())


@pytest.mark.parametrize("name", [*NAMES, *(f"{name}_per_class" for name in NAMES)])
@pytest.mark.parametrize("label", [None, 1])
def test_a_baseline_integrates_to_one(fitted, name, label):
    axis = torch.arange(-10, 10, STEP, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    cond = None if label is None else torch.full((len(grid),), label)
    assert fitted[name].log_prob(grid, cond).exp().sum() * STEP**2 == pytest.approx(1, abs=1e-3)


NOISE = torch.tensor([[1.0, -0.5], [-0.5, 0.5]])


def linear(split, n):
    """Two values that are linear in two numbers and one of two words, in different units, with correlated noise."""
    generator = torch.Generator().manual_seed(len(split))
    cond = torch.cat((torch.randn(n, 2, generator=generator), torch.eye(2)[torch.randint(2, (n,), generator=generator)]), dim=1)
    noise = torch.randn(n, 2, generator=generator) @ torch.linalg.cholesky(NOISE).T
    return Dataset("linear", mean_of(cond) + noise, cond)


def mean_of(cond):
    return torch.stack((20 * cond[:, 0] + 3 * cond[:, 2], cond[:, 1]), dim=1)


@pytest.fixture(scope="module")
def fitted_given():
    return fit_baselines(linear("train", 500), linear("validation", 300), seeded())


@pytest.mark.parametrize("name", NAMES)
def test_a_baseline_given_a_condition_integrates_to_one(fitted_given, name):
    axis = torch.arange(-8, 8, STEP, dtype=torch.float64)
    for cond in (torch.tensor([[0.3, -0.2, 1, 0]]), torch.tensor([[-1.0, 1.0, 0, 1]])):
        grid = torch.cartesian_prod(axis, axis) + mean_of(cond)
        density = fitted_given[f"{name}_given"].log_prob(grid, cond.expand(len(grid), -1)).exp()
        assert density.sum() * STEP**2 == pytest.approx(1, abs=2e-3)
        drawn = fitted_given[f"{name}_given"].sample(cond.expand(2000, -1), seeded())
        torch.testing.assert_close(drawn.mean(0), density @ grid * STEP**2, rtol=0, atol=0.1)


def test_a_gaussian_given_a_condition_is_near_the_true_regression(fitted_given):
    """500 rows and 2 x 4 + 3 parameters, which cost 11 / (2 * 500) = 0.011 nats; no baseline is better than the truth."""
    test = linear("held-out test", 2000)
    truth = torch.distributions.MultivariateNormal(mean_of(test.cond), NOISE).log_prob(test.x)
    behind = {name: float((truth - fitted_given[f"{name}_given"].log_prob(test.x, test.cond)).mean()) for name in NAMES}
    assert 0 < behind["gaussian"] < 0.03
    assert behind["gaussian"] - 0.01 < behind["gaussian_mixture"] < 0.2
    assert 0 < behind["kernel_density"] < float((truth - fitted_given["kernel_density"].log_prob(test.x)).mean())


def test_a_baseline_given_conditions_needs_them(fitted_given):
    for cond in (None, torch.zeros(1, 3), torch.zeros(2, 4)):
        with pytest.raises(ConditionError, match=r"x of shape \(1, 2\) needs \(1, 4\)"):
            fitted_given["gaussian_given"].log_prob(torch.zeros(1, 2), cond)


def test_a_gaussian_is_scipys(points):
    covariance = torch.tensor([[2.0, 0.6], [0.6, 0.5]], dtype=torch.float64)
    density = GaussianSum(torch.ones(1), torch.tensor([[1.0, -1.0]], dtype=torch.float64), covariance[None])
    expected = scipy.stats.multivariate_normal([1, -1], covariance).logpdf(points)
    torch.testing.assert_close(density.log_prob(points), torch.from_numpy(expected), **EXACT)


def test_kernels_are_scikit_learns(points):
    centres = torch.randn(40, 2, dtype=torch.float64, generator=seeded())
    density = GaussianSum(torch.full((40,), 1 / 40, dtype=torch.float64), centres, 0.09 * torch.eye(2, dtype=torch.float64)[None])
    expected = KernelDensity(bandwidth=0.3, rtol=1e-12).fit(centres.numpy()).score_samples(points.numpy())
    torch.testing.assert_close(density.log_prob(points), torch.from_numpy(expected), **EXACT)


def test_a_mixture_is_scikit_learns(points):
    other = ScikitMixture(3, random_state=0).fit(mixture(n=300).x.double().numpy())
    density = GaussianSum(*(torch.from_numpy(part) for part in (other.weights_, other.means_, other.covariances_)))
    torch.testing.assert_close(density.log_prob(points), torch.from_numpy(other.score_samples(points.numpy())), **EXACT)


def test_blocks_change_nothing(points, monkeypatch):
    density = GaussianSum(torch.ones(1), torch.zeros(1, 2).double(), torch.eye(2).double()[None])
    whole = density.log_prob(points)
    monkeypatch.setattr("pushforward.evaluation.gaussians.CHUNK", 6)
    torch.testing.assert_close(density.log_prob(points), whole, **EXACT)


def test_the_mixture_over_classes_is_the_sum_over_classes(fitted, points):
    density = fitted["gaussian_per_class"]
    each = torch.stack([density.log_prob(points, torch.full((50,), label)) for label in range(3)])
    torch.testing.assert_close(density.log_prob(points), torch.logsumexp(each + density.weights.log()[:, None], 0), **EXACT)
    shares = mixture(n=400).cond.bincount() / 400
    torch.testing.assert_close(density.weights, shares.double(), rtol=1e-6, atol=0)


def test_labels_choose_the_class_row_by_row(fitted, points):
    density = fitted["kernel_density_per_class"]
    cond = torch.arange(50) % 3
    expected = torch.stack([density.parts[label].log_prob(points) for label in range(3)], dim=1)[torch.arange(50), cond]
    torch.testing.assert_close(density.log_prob(points, cond), expected, **EXACT)


def test_no_baseline_beats_the_truth_and_the_right_family_comes_near(fitted):
    """400 training examples: three Gaussians in the plane have 17 parameters, which cost 17 / (2 * 400) nats, 0.03 bits a dimension."""
    test = mixture("test")
    truth = bits_per_dim(three_gaussians(), test, cond="none").mean
    bits = {name: bits_per_dim(density, test, cond="none").mean for name, density in fitted.items()}
    assert min(bits.values()) > truth - 0.005
    assert bits["gaussian_mixture"] < truth + 0.08
    assert bits["gaussian_per_class"] < truth + 0.08
    assert bits["gaussian"] > truth + 0.2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gaussian", "gaussian_per_class"])
def test_what_was_chosen_is_the_best_on_validation(fitted_on_digits, name):
    """Twice or half the chosen ridge, refitted by other code, is no better on validation than what was chosen (same draws)."""
    density, train, validation = fitted_on_digits[name], digits("train"), digits("validation")
    chosen = density.chosen
    assert set(chosen) == {"share", "ridge"}
    x, labels = train.x.flatten(1).double() + 0.5, train.cond

    def refitted(ridge):
        groups = [x] if name == "gaussian" else [x[labels == label] for label in range(10)]
        covariances = [torch.cov(one.T, correction=0) + torch.eye(64) / 12 for one in groups]
        target = sum(len(one) / len(x) * covariance for one, covariance in zip(groups, covariances, strict=True))
        target = target.diag().diag() if name == "gaussian" else target
        shift = chosen["share"] * target + ridge * target.diag().mean() * torch.eye(64)
        parts = [
            GaussianSum(torch.ones(1), g.mean(0)[None], ((1 - chosen["share"]) * S + shift)[None])
            for g, S in zip(groups, covariances, strict=True)
        ]
        return parts[0] if name == "gaussian" else PerClass(parts, density.weights)

    def bits(one):
        return bits_per_dim(one, validation, draws=8, generator=seeded()).mean

    assert bits(refitted(chosen["ridge"])) == pytest.approx(bits(density), abs=1e-6)
    assert min(bits(refitted(4 * chosen["ridge"])), bits(refitted(chosen["ridge"] / 4))) > bits(density) - 0.01


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "cond", "most"),
    [
        ("gaussian", "none", 2.99),
        ("kernel_density", "none", 2.86),
        ("gaussian_mixture", "none", 2.62),
        ("gaussian_per_class", "given", 2.57),
        ("kernel_density_per_class", "given", 2.76),
        ("gaussian_mixture_per_class", "given", 2.58),
    ],
)
def test_the_baselines_of_the_digits_are_as_strong_as_published(fitted_on_digits, name, cond, most):
    """Measured 2.95, 2.81, 2.57; 2.54, 2.72, 2.54 on test, varying by 0.01 with the seed: a weaker baseline would flatter our models."""
    assert most - 0.1 < bits_per_dim(fitted_on_digits[name], digits("test"), 4, cond=cond, generator=seeded()).mean < most


def test_fitting_again_gives_the_same(fitted, points):
    again = fit_baselines(mixture(n=400), mixture("validation", n=200), seeded())
    for name, density in fitted.items():
        assert again[name].chosen == density.chosen
        torch.testing.assert_close(again[name].log_prob(points), density.log_prob(points), **EXACT)


def test_without_labels_or_with_too_few_of_a_class_there_is_no_baseline_per_class():
    train, validation = moons(n=50), moons("validation", n=50)
    unlabelled = Dataset("unlabelled", train.x)
    assert sorted(fit_baselines(unlabelled, validation, seeded())) == sorted(NAMES)
    lonely = Dataset("lonely", train.x, torch.arange(50).clamp(max=1))
    assert sorted(fit_baselines(lonely, validation, seeded())) == sorted(NAMES)


def test_integers_under_vectors_have_the_baselines_of_those_without():
    x, cond = torch.randint(5, (60, 2), generator=seeded()).float(), torch.randn(60, 3, generator=seeded())
    parts = [Dataset("counts", x[rows], levels=(5, 5)) for rows in (slice(40), slice(40, 60))]
    given = [part.with_cond(cond[: len(part)]) for part in parts]
    without, under = (fit_baselines(*both, seeded())["gaussian"].log_prob(x) for both in (parts, given))
    torch.testing.assert_close(under, without, rtol=0, atol=0)


def test_a_constant_column_is_no_obstacle():
    x = torch.cat((torch.randn(60, 1, generator=seeded()), torch.zeros(60, 1)), dim=1)
    density = fit_baselines(Dataset("flat", x[:40]), Dataset("flat", x[40:]), seeded())["gaussian"]
    assert density.log_prob(x).isfinite().all()


def test_an_empty_batch_is_an_empty_answer(fitted):
    for density in fitted.values():
        assert density.log_prob(torch.zeros(0, 2)).shape == (0,)


def test_bad_input_is_refused(fitted):
    with pytest.raises(DataError, match="the same shape and levels"):
        fit_baselines(moons(n=20), digits("validation"))
    with pytest.raises(ShapeError, match="fitted on 2 values"):
        fitted["gaussian"].log_prob(torch.zeros(4, 3))
    with pytest.raises(ConditionError, match="classes 0 to 2"):
        fitted["gaussian_per_class"].log_prob(torch.zeros(1, 2), torch.tensor([3]))
    with pytest.raises(ConditionError, match="cond has shape"):
        fitted["gaussian_per_class"].log_prob(torch.zeros(2, 2), torch.tensor([0]))


def test_equal_examples_alone_are_refused():
    same = Dataset("same", torch.ones(20, 2))
    with pytest.raises(DataError, match="are all examples equal"):
        fit_baselines(same, same, seeded())


def test_the_grids_are_ordered():
    """A choice at the border of a grid can be seen as such."""
    from pushforward.evaluation import baselines

    for grid in (baselines.SHARES, baselines.RIDGES, baselines.BANDWIDTHS, baselines.ROUNDNESS, baselines.COMPONENTS):
        assert numpy.all(numpy.diff(grid) > 0)
    assert math.isclose(baselines.SHARES[0], 0)


def test_baselines_do_not_depend_on_the_units_of_columns():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(90, 3, generator=generator, dtype=torch.float64) @ torch.tensor([[1, 0.5, 0], [0, 1, 2], [0, 0, 1.0]]).double()
    scale = torch.tensor([1e-2, 1.0, 1e3])
    one, other = (
        fit_baselines(Dataset("a", y[:60]), Dataset("b", y[60:75]), torch.Generator().manual_seed(0))
        for y in (x.float(), x.float() * scale)
    )
    shift = float(scale.log().sum())
    for name in ("gaussian", "kernel_density", "gaussian_mixture"):
        apart = one[name].log_prob(x[75:].float()) - other[name].log_prob(x[75:].float() * scale) - shift
        assert float(apart.abs().max()) < 0.02, name


def test_only_the_named_baselines_are_fitted():
    x = torch.randn(30, 2, generator=torch.Generator().manual_seed(0))
    assert list(fit_baselines(x[:20], x[20:], only=("gaussian",))) == ["gaussian"]
    with pytest.raises(UserError, match="did you mean 'gaussian'"):
        fit_baselines(x[:20], x[20:], only=("gausian",))
