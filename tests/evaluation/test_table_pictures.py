"""Pictures of tables: which columns, names, axes and words they have."""

import warnings

import numpy
import pytest
import torch

import pushforward as pf
from pushforward.column import Column
from pushforward.evaluation.associations import associations, strongest
from pushforward.evaluation.columns import columns_of, schema_of
from pushforward.evaluation.compared import compared
from pushforward.evaluation.pictures import save_figure
from pushforward.evaluation.run_pictures import _as_frequent
from pushforward.evaluation.table_pictures import _log_ticks, corner, marginals, shortened
from pushforward.schema import Schema

pandas = pytest.importorskip("pandas")


def people(n=200, seed=0):
    random = numpy.random.default_rng(seed)
    frame = pandas.DataFrame(
        {
            "income ($)": numpy.exp(10 + random.standard_normal(n)),
            "town": random.choice(["Rome", "Oslo", None], n),
            "age": random.integers(18, 80, n).astype(float),
            "code": [f"item {k}" for k in (random.random(n) ** 3 * 15).astype(int)],
            "bonus": numpy.where(random.random(n) < 0.5, 0.0, numpy.exp(5 + random.standard_normal(n))),
        }
    )
    frame.loc[::4, "age"] = numpy.nan
    return frame


@pytest.fixture(scope="module")
def tables():
    train = pf.data.load(people(), missing="model", seed=0)
    return train, pf.data.load(people(), "test", missing="model", seed=0)


@pytest.fixture(scope="module")
def columns(tables):
    train, test = tables
    return compared(train.schema, test.x, train.x)


def panels_of(figure):
    return [axes for axes in figure.axes if axes.axison]


def drawn(figure, tmp_path):
    """Draw a figure, without warnings, and return its panels that have axes."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_figure(figure, tmp_path / "picture.png")
    return panels_of(figure)


def labels_of(axes, name):
    return [one.get_text() for one in getattr(axes, f"get_{name}ticklabels")()]


def test_each_column_has_a_named_panel_with_its_kind_of_axis(columns, tmp_path):
    figure, caption = marginals(columns)
    panels = drawn(figure, tmp_path)
    assert [axes.get_title() for axes in panels] == [r"income (\$)", "town", "age", "code", "bonus"]
    assert [axes.get_xscale() for axes in panels] == ["log", "linear", "linear", "linear", "symlog"]  # a bonus may be 0
    assert labels_of(panels[1], "y") == ["Oslo", "Rome"]
    assert panels[2].get_xlabel() == "missing: {:.0%}, samples {:.0%}".format(*columns[2].missing())
    assert panels[0].get_xlabel() == ""
    assert "held-out rows (grey) and of samples (blue)" in caption
    assert "Shown are" not in caption


def test_many_words_are_the_most_frequent_ones_and_the_others(columns):
    code = columns[3]
    assert len(code.words) == 9
    assert code.words[0] == "item 0"  # a third of all: the cube of a uniform number is below 1/15 with probability 0.41
    assert code.words[-1] == f"{len(code.column.words) - 8} others"
    real, made = code.shares()
    assert real.sum() == pytest.approx(1)
    assert made.sum() == pytest.approx(1)


def test_a_corner_plot_names_both_axes_and_leaves_out_missing_values(columns, tables, tmp_path):
    figure, caption = corner(columns, columns_of(tables[0].schema, tables[0].x))
    panels = drawn(figure, tmp_path)
    names = [r"income (\$)", "town", "age", "code", "bonus"]
    assert len(panels) == 15
    assert [axes.get_xlabel() for axes in panels if axes.get_xlabel()] == names
    assert [axes.get_ylabel() for axes in panels if axes.get_ylabel()] == ["share", *names[1:]]
    assert "whose value it lacks" in caption
    of_income_and_age = panels[3]
    points = of_income_and_age.collections[0].get_offsets()
    present = [~numpy.isnan(one) for one in (columns[2].real, columns[2].made)]
    assert len(points) == present[0].sum() + present[1].sum()
    assert (of_income_and_age.get_xscale(), of_income_and_age.get_yscale()) == ("log", "linear")


def test_the_histograms_are_shares_of_what_is_not_missing(columns):
    age = columns[2]
    real, made = age.shares()
    assert real.sum() == pytest.approx(1)
    assert 0.98 <= made.sum() <= 1  # the outermost 1 % of samples may be outside
    edges = age.bins()
    assert set((edges % 1).tolist()) == {0.5}  # between integers
    assert len(set(numpy.diff(edges).tolist())) == 1  # equally many in each bin


@pytest.mark.parametrize("count", [64, pytest.param(500, marks=pytest.mark.slow)])
def test_many_columns_are_a_bounded_picture_that_states_its_choice(count):
    random = torch.Generator().manual_seed(0)
    train, test, made = (torch.randn(60, count, generator=random) for _ in range(3))
    for x in (train, test):
        x[:, 40] = -x[:, 7]
    made[:, 33] += 10
    schema = schema_of(pf.data.Dataset("wide", test))
    columns = compared(schema, test, made)
    figure, caption = marginals(columns)
    titles = [axes.get_title() for axes in panels_of(figure)]
    assert len(titles) == 24
    assert "x34" in titles
    assert f"the 24 of {count} columns in which samples differ most" in caption
    figure, caption = corner(columns, columns_of(schema, train))
    names = [axes.get_xlabel() for axes in panels_of(figure) if axes.get_xlabel()]
    assert len(names) == 7
    assert {"x8", "x41"} <= set(names)
    assert f"the 7 of {count} columns with the strongest rank correlations in training data" in caption


def test_associations_are_by_rank_and_by_words():
    """A monotone function has rank correlation 1; so has a category whose word marks the upper half, with that mark."""
    x = torch.linspace(-1, 1, 100, dtype=torch.float64)
    half, noise = (x > 0).double(), torch.randn(100, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    noise[::5] = torch.nan
    found = associations(
        [(Column("a"), x), (Column("b"), x.exp() ** 5), (Column("c", "category", words=("x", "y")), half), (Column("d"), noise)]
    )
    assert found[0, 1] == pytest.approx(1)
    assert found[0, 2] == pytest.approx(numpy.corrcoef(numpy.arange(100), half)[0, 1])
    assert found[0, 3] < 0.3
    assert numpy.array_equal(found, found.T)
    assert strongest(found, 2) == [0, 1]
    assert strongest(found, 3) == [0, 1, 2]


@pytest.mark.parametrize(
    "values",
    [torch.full((9, 1), 3.0), torch.full((9, 1), torch.nan), torch.tensor([[torch.nan], [2.0]]), torch.zeros(1, 1)],
    ids=["constant", "missing", "one value", "one row"],
)
def test_columns_of_few_values_are_drawn(values, tmp_path):
    schema = Schema((Column("a"), Column("a is missing", "missing", of="a")))
    x = torch.cat((values.nan_to_num(0.0), values.isnan().float()), dim=1)
    columns = compared(schema, x, x)
    assert columns[0].difference() == 0
    drawn(marginals(columns)[0], tmp_path)
    drawn(corner(columns * 2, columns_of(schema, x) * 2)[0], tmp_path)


def test_data_without_names_have_numbered_ones_and_images_none():
    assert schema_of(pf.data.load("moons", n=20)).names == ("x1", "x2")
    assert schema_of(pf.data.load("wine")).names[0] == "alcohol"
    assert schema_of(pf.data.load("digits")) is None


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0.1, 2.5, [0.1, 1]), (0.15, 2.5, [0.3, 1]), (4, 45, [10, 30]), (2.5, 26, [3, 10]), (1, 1e9, [1, 1e4, 1e8]), (3.1, 99, [10, 30])],
)
def test_a_logarithmic_axis_has_round_ticks(low, high, ticks):
    assert _log_ticks(low, high) == pytest.approx(ticks)


def test_names_are_short_and_no_formulas():
    assert shortened("a $x$\nb") == r"a \$x\$ b"
    assert shortened("abcdefghij", 7) == "abc…hij"
    assert shortened("abcdefghij", 10) == "abcdefghij"
    assert shortened("很长的列名" * 5, 9) == "很长…列名"
    assert shortened("🦊" * 30, 7) == "🦊…🦊"


def test_samples_are_shown_with_the_classes_as_frequent_as_in_the_data():
    """9 to 1 in the data, 50 samples of each: all 50 of the first class and 50 / 9 of the second."""
    test = pf.data.Dataset("few", torch.zeros(10, 2), torch.tensor([0] * 9 + [1]))
    labels = torch.arange(100) % 2
    shown = _as_frequent(labels[:, None].float().repeat(1, 2), labels, test)
    assert shown[:, 0].long().bincount().tolist() == [50, 6]
