"""The sets that come by name: digits and the densities in the plane."""

import math

import pytest
import sklearn.datasets
import torch

from pushforward import registry
from pushforward.data.densities import checkerboard, eight_gaussians, moons, pinwheel, spirals
from pushforward.data.digits import digits
from pushforward.data.emoji import DEBIAN as FONT
from pushforward.data.fashion_mnist import DEBIAN as CLOTHES
from pushforward.data.load import load
from pushforward.data.mixture import mixture
from pushforward.data.splits import SPLITS
from pushforward.data.stamps import DEBIAN as STAMPS
from pushforward.errors import UserError

DENSITIES = [moons, eight_gaussians, checkerboard, spirals, pinwheel, mixture]


def rows(data):
    return {tuple(row) for row in data.x.flatten(1).tolist()}


def test_digits_are_all_there_once_and_the_splits_share_none():
    """scikit-learn's 1,797 digits are all different."""
    held = [rows(digits(split)) for split in SPLITS]
    assert [len(one) for one in held] == [1257, 180, 360]
    assert len(set.union(*held)) == 1797


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("split", "share"), [("train", 1257 / 1797), ("validation", 180 / 1797), ("test", 360 / 1797)])
def test_each_class_of_the_digits_has_its_share_of_each_split(split, share, seed):
    whole = torch.cat([digits(one, seed=seed).cond for one in SPLITS]).bincount()
    assert (digits(split, seed=seed).cond.bincount() - share * whole).abs().max() < 2


def test_digits_are_integers_of_17_levels():
    data = digits("test")
    assert (data.shape, data.classes, data.levels) == ((1, 8, 8), 10, 17)
    assert data.x.unique().tolist() == list(range(17))


def test_the_split_of_the_digits_is_the_published_one():
    assert [digits(split).fingerprint() for split in SPLITS] == ["a2de50fc4ed5b881", "1ecb84e094786dc1", "b3b12591c85babae"]


def test_another_seed_is_another_split():
    assert digits("test", seed=1).fingerprint() != digits("test").fingerprint()


@pytest.mark.parametrize("draw", DENSITIES)
def test_the_splits_of_a_density_are_independent_draws(draw):
    held = [rows(draw(split, n=500)) for split in SPLITS]
    assert len(set.union(*held)) == 1500


@pytest.mark.parametrize("draw", DENSITIES)
def test_a_density_is_drawn_again_the_same(draw):
    assert draw("test", n=50).fingerprint() == draw("test", n=50).fingerprint() != draw("test", n=50, seed=1).fingerprint()


@pytest.mark.parametrize("draw", DENSITIES)
def test_default_sizes(draw):
    assert [len(draw(split)) for split in SPLITS] == [10_000, 2_000, 2_000]


def test_the_checkerboard_is_even_on_its_dark_fields():
    """8 of 16 fields, each a share 1/8 of 10,000 draws: standard deviation 0.0033, so 5 of them fail once in 200,000 runs of new seeds."""
    fields = (checkerboard().x / 2).floor()
    assert (fields.sum(dim=1) % 2 == 0).all()
    shares = fields.unique(dim=0, return_counts=True)[1] / 10_000
    assert len(shares) == 8
    assert (shares - 1 / 8).abs().max() < 5 * 0.0033


def test_the_labels_of_eight_gaussians_are_the_nearest_centre():
    """The centres are 2.16 apart and the standard deviation is 0.354: a draw is nearer to another one at 3.06 of them, once in 450."""
    data = eight_gaussians()
    angle = torch.arange(8) * math.pi / 4
    centres = math.sqrt(8) * torch.stack((angle.cos(), angle.sin()), dim=1)
    assert (torch.cdist(data.x, centres).argmin(dim=1) == data.cond).double().mean() > 0.99


def test_moons_without_noise_lie_on_their_circles():
    data = moons(noise=0.0)
    centre = torch.tensor([[0.0, 0.0], [1.0, 0.5]])[data.cond]
    torch.testing.assert_close((data.x - centre).norm(dim=1), torch.ones(len(data)))


def test_spirals_are_each_other_turned_by_half():
    """Means of the two arms: each has a standard error below 0.025 at 5,000 draws."""
    data = spirals()
    means = [data.x[data.cond == arm].mean(dim=0) for arm in (0, 1)]
    assert (means[0] + means[1]).abs().max() < 0.15


def test_blades_of_the_pinwheel_are_each_other_turned_by_a_fifth():
    data = pinwheel()
    angle = torch.stack([torch.atan2(*data.x[data.cond == blade].mean(dim=0).flip(0)) for blade in range(5)])
    steps = (angle.roll(-1) - angle) % (2 * math.pi)
    torch.testing.assert_close(steps, torch.full((5,), 2 * math.pi / 5), atol=0.1, rtol=0)


LOADERS = [entry.name.removeprefix("data.") for entry in registry.entries("data", loader=True)]


INSTALLED = {"fashion_mnist": CLOTHES, "emoji": FONT, "stamps": STAMPS}  # by packages of Debian
SLOW = ("emoji", "stamps")  # pictures are drawn or resized


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(one, marks=[pytest.mark.slow] if one in SLOW else [])
        for one in LOADERS
        if one not in INSTALLED or INSTALLED[one].exists()
    ],
)
@pytest.mark.filterwarnings("ignore:.*are left out")
@pytest.mark.parametrize("split", SPLITS)
def test_every_loader_of_the_registry_gives_every_split(name, split):
    assert load(name, split).name == name


TABLES = {"iris": (150, 4, 3), "wine": (178, 13, 3), "breast_cancer": (569, 30, 2), "diabetes": (442, 11, None)}


@pytest.mark.parametrize("name", TABLES)
def test_the_tables_of_scikit_learn_are_whole_and_in_their_own_units(name):
    count, features, classes = TABLES[name]
    parts = [load(name, split) for split in SPLITS]
    source = getattr(sklearn.datasets, f"load_{name}")(**({"scaled": False} if name == "diabetes" else {}))
    x = torch.cat([part.x for part in parts])
    assert (len(x), parts[0].shape, parts[0].classes, len(parts[0].columns)) == (count, (features,), classes, features)
    expected = torch.from_numpy(source.data).float().sum(dim=0)
    torch.testing.assert_close(x.sum(dim=0)[: len(expected)], expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", ["iris", "wine", "breast_cancer"])
def test_the_classes_of_the_tables_are_numbered_as_in_their_source(name):
    source = getattr(sklearn.datasets, f"load_{name}")()
    known = {tuple(row): label for row, label in zip(source.data.astype("float32").tolist(), source.target.tolist(), strict=True)}
    for split in SPLITS:
        data = load(name, split)
        assert data.cond.tolist() == [known[tuple(row)] for row in data.x.tolist()]
        assert data.class_names == tuple(source.target_names)


@pytest.mark.parametrize("draw", [*DENSITIES, digits])
def test_an_unknown_split_is_refused_with_the_nearest(draw):
    with pytest.raises(UserError, match="'tset' is not a known split; did you mean 'test'"):
        draw("tset")


def test_no_examples_are_refused():
    with pytest.raises(UserError, match="n is 0"):
        moons(n=0)
