"""Tables with words in them, and the tables that scikit-learn brings: levels for each column."""

import math
import warnings

import numpy
import pandas
import pytest
import torch

import pushforward as pf
from pushforward.data.dataset import Dataset
from pushforward.data.load import load
from pushforward.errors import DataError, ShapeError, UserError
from pushforward.evaluation.baselines import fit_baselines
from pushforward.evaluation.likelihood import bits_per_dim
from pushforward.evaluation.quantise import quantise

COLOURS = ("blue", "green", "red")


def table(tmp_path, *lines):
    path = tmp_path / "table.csv"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture
def mixed(tmp_path):
    rows = [f"{i / 7:.3f},{COLOURS[i % 3]},{10 ** (i % 2)},{'ab'[i % 2]}" for i in range(60)]
    return table(tmp_path, "size,colour,count,kind", *rows)


def test_columns_of_words_become_levels_and_the_others_stay(mixed):
    data = load(mixed, label="kind", categorical=["colour", "count"])
    assert (data.columns, data.levels) == (("size", "colour", "count"), (None, 3, 2))
    assert data.categories == {"colour": COLOURS, "count": ("1", "10")}
    row = (data.x[:, 0] * 7).round().long()
    assert torch.equal(data.x[:, 1].long(), row % 3)
    assert torch.equal(data.x[:, 2].long(), row % 2)
    assert repr(data) == "Dataset('table.csv', 48 examples, shape (3,), 2 classes, 2 columns with levels)"


def test_one_name_or_number_is_enough(mixed):
    assert load(mixed, label="kind", categorical="colour").fingerprint() == load(mixed, label=3, categorical=1).fingerprint()


def test_a_subset_keeps_columns_and_categories(mixed):
    part = load(mixed, label="kind", categorical="colour").take(5)
    assert (part.columns, part.categories, part.levels) == (("size", "colour", "count"), {"colour": COLOURS}, (None, 3, (1, 10)))


def test_a_column_of_words_is_a_category_without_being_named(mixed):
    assert load(mixed, label="kind").fingerprint() == load(mixed, label="kind", categorical="colour").fingerprint()


def test_numbers_that_float32_rounds_together_are_warned_of(tmp_path):
    """Seconds since 1970 of three minutes: float32 holds multiples of 128 s."""
    rng = numpy.random.default_rng(0)
    frame = pandas.DataFrame({"t": 1_700_000_000 + rng.integers(0, 180, 100), "x": rng.normal(size=100)})
    for given in ((), "t"):
        with pytest.warns(
            UserWarning, match="column 't' has values around 1.7e.09 that differ by .*, which float32 rounds to multiples of 128"
        ):
            load(frame, given=given)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(frame.assign(t=frame["t"] - 1_700_000_000))
        load(frame.assign(t=1_700_000_000 + 10**5 * rng.integers(0, 10, 100)))


def test_codes_keep_their_leading_zeros(tmp_path):
    path = table(tmp_path, "zip,size", *(f"{('01234', '10115', '00501')[i % 3]},{i / 7:.3f}" for i in range(60)))
    data = load(path)
    assert data.categories == {"zip": ("00501", "01234", "10115")}
    gaps = load(table(tmp_path, "zip,size", *(f"{('01234', 'NA', '00501')[i % 3]},{i / 7:.3f}" for i in range(60))), missing="drop")
    assert gaps.categories == {"zip": ("00501", "01234")}
    signs = load(table(tmp_path, "shift,size", *(f"{('-01', '+02', '10')[i % 3]},{i / 7:.3f}" for i in range(60))))
    assert signs.categories == {"shift": ("-01", "+02", "10")}


@pytest.mark.parametrize("cells", [("0", "10"), ("0.5", "1.5"), ("-0", "3"), ("00.5", "2.5"), ("0e3", "5")])
def test_numbers_that_begin_with_a_zero_stay_numbers(tmp_path, cells):
    assert load(table(tmp_path, "a,b", *(f"{cells[i % 2]},{i / 7:.3f}" for i in range(60)))).categories == {}


def test_a_word_among_numbers_is_refused_with_both_hints(tmp_path):
    path = table(tmp_path, "size,colour", *["1.5,2"] * 10, "2.5,blue")
    with pytest.raises(DataError, match="column 'colour' is 'blue' in row 12.*label='colour'.*categorical='colour'"):
        load(path)
    assert load(path, categorical="colour").categories == {"colour": ("2", "blue")}


@pytest.mark.parametrize(
    ("lines", "options", "message"),
    [
        (["a,b", *["1,x"] * 10], {"categorical": "b"}, "column 'b' is 'x' in every row, but a category needs at least 2"),
        (["a,b", *["1,x"] * 9, "1,y", "2,"], {"categorical": "b"}, "by column: 'b' 1 .first in row 12"),
        (["a,b", *["1,x"] * 10], {"categorical": "c"}, "categorical: 'c' is not a known column"),
        (["a,b", *["1,x"] * 10], {"categorical": "b", "label": "b"}, "column 'b' is both label and categorical"),
    ],
)
def test_categories_that_do_not_fit_are_refused(tmp_path, lines, options, message):
    with pytest.raises(UserError, match=message):
        load(table(tmp_path, *lines), **options)


@pytest.mark.parametrize(
    ("lines", "options", "message"),
    [
        (
            ["a,b", *["1.5,2"] * 20],
            {},
            "column 'a' is 1.5 in every row, and the density of a constant has no bound; leave it out .exclude='a'",
        ),
        (["a,b", *["1,5"] * 9, "1e40,5"], {}, "column 'a' is 1e.40, beyond the range of float32, in row 11 .1 of 10 rows"),
        (["a;b", *["1,5;2", "2,5;2"] * 9], {"delimiter": ";"}, "column 'a' holds numbers with a decimal comma, such as '1,5'; write them"),
        (["a;b", *["1;2"] * 20], {}, "cells that are separated by ';', not ','; give delimiter=';'"),
        (["a;b", *["1,5;2"] * 20], {}, "cells that are separated by ';'"),
        (["a,b", *[f"{k},{k / 7}" for k in range(40)]], {"label": "b"}, "column 'b' holds real numbers, but classes are integers or words"),
        (["a,b", *[f"1,{k}" for k in range(40)]], {"label": "b"}, "column 'b' has 40 different values in 40 rows, which are no classes"),
        (["a,b", *["1,2"] * 20], {"label": "b", "exclude": "b"}, "column 'b' is both label and excluded"),
        (["a,b", *["1,2"] * 20], {"exclude": ["c"]}, "exclude: 'c' is not a known column"),
        (["a,b", *["1,2"] * 20], {"exclude": ["a", 1]}, "has no values"),
    ],
)
def test_columns_that_cannot_be_modelled_are_refused(tmp_path, lines, options, message):
    with pytest.raises(UserError, match=message):
        load(table(tmp_path, *lines), **options)


def test_all_columns_that_cannot_be_read_are_in_one_message_and_can_be_left_out(tmp_path):
    lines = [f"{k / 7},,2020-01-{1 + k % 28:02},text {k},{'x' if k else 5},same,{k % 3}" for k in range(60)]
    path = table(tmp_path, "real,empty,when,notes,mixed,word,class", *lines)
    with pytest.raises(DataError, match="5 columns cannot be read: 'empty' has no values; 'when' holds dates.*'word' is 'same'") as error:
        load(path, label="class")
    unread = ["empty", "when", "notes", "mixed", "word"]
    assert f"exclude={unread}" in str(error.value)
    assert load(path, label="class", exclude=unread).columns == ("real",)
    assert load(path, label=-1, exclude=[1, "when", 3, 4, 5]).columns == ("real",)


def test_an_index_that_pandas_wrote_is_no_feature(tmp_path):
    with pytest.warns(UserWarning, match="first column has no name and numbers the rows, so it is left out as an index"):
        assert load(table(tmp_path, ",a,b", *[f"{k},{k / 7},{k % 2}" for k in range(20)])).columns == ("a", "b")
    assert load(table(tmp_path, ",a", *[f"{k % 5},{k / 7}" for k in range(20)])).columns == ("", "a")


def test_a_column_that_may_identify_rows_is_named(tmp_path):
    path = table(tmp_path, "id,a,b", *[f"{1000 - 3 * k},{k / 7},{k % 40}" for k in range(60)])
    with pytest.warns(UserWarning, match="'id'") as warned:
        load(path)
    assert [str(one.message) for one in warned] == [
        "table.csv: column 'id' has another integer in every row; leave it out (exclude='id') if it identifies rows."
    ]


def test_a_row_that_numbers_the_columns_is_a_header(tmp_path):
    rows = [f"{k / 7},{k % 3},{k}" for k in range(20)]
    with pytest.warns(UserWarning, match="index"):
        indexed = load(table(tmp_path, ",0,1,2", *[f"{k},{row}" for k, row in enumerate(rows)]))
    assert indexed.fingerprint() == load(table(tmp_path, "0,1,2", *rows)).fingerprint()
    assert len(load(table(tmp_path, "0,1", *["0,1", "1,1", "1,0"] * 10))) == 25  # of 31 rows: as integers, it may be one


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"levels": (3, None, 2)}, "3 entries for examples of shape \\(2,\\)"),
        ({"levels": (1, None)}, "at least 2 values"),
        ({"levels": (2, None)}, "row 2 .* holds a value that is not an integer in the levels of its column"),
        ({"columns": ["a"]}, "1 names for examples of shape \\(2,\\)"),
    ],
)
def test_levels_that_do_not_fit_the_columns_are_refused(changes, message):
    with pytest.raises(DataError, match=message):
        Dataset("small", torch.tensor([[0.0, 0.5], [1.0, -3.0], [2.0, 7.0]]), **changes)


def mixture_table(n):
    """x_0 in {0, 1, 2} with the probabilities 1/2, 1/4, 1/4 (exactly), x_1 standard normal."""
    level = torch.tensor([0.0, 0.0, 1.0, 2.0]).repeat(n // 4)
    return Dataset("table", torch.stack((level, torch.randn(n, generator=torch.Generator().manual_seed(0))), dim=1), levels=(3, None))


def test_quantise_touches_columns_with_levels_alone():
    x = torch.tensor([[-0.2, -0.2], [1.9, 1.9], [9.0, 9.0]])
    torch.testing.assert_close(quantise(x, (3, None)), torch.tensor([[0.0, -0.2], [1.0, 1.9], [2.0, 9.0]]))
    assert quantise(x, None) is x


def test_a_model_fits_its_units_to_the_cells_of_the_columns_that_have_them():
    data = mixture_table(400)
    model = pf.models.rectified_flow(pf.nn.MLP.Config((8,)), (2,), levels=(3, None), preprocess="standardise")
    model.initialise(data.x)
    torch.testing.assert_close(model.preprocess.mean, data.x.mean(0) + torch.tensor([0.5, 0.0]))


def test_the_loss_spreads_columns_with_levels_alone():
    seen = []

    class Watching(pf.families.PathModel):
        def _loss(self, x, cond, noise, generator):
            seen.append(x)
            return x.sum()

    model, data = Watching(pf.nn.MLP(2, 2, (4,)), (2,), levels=(3, None)), mixture_table(64)
    model.loss(data.x, generator=[torch.Generator().manual_seed(k) for k in range(4)])
    assert torch.equal(seen[0].floor()[:, 0], data.x[:, 0])
    assert (seen[0][:, 0] != data.x[:, 0]).any()
    assert torch.equal(seen[0][:, 1], data.x[:, 1])


def test_levels_of_another_number_of_columns_are_refused():
    with pytest.raises(ShapeError, match=r"levels is \(3, None\), one entry per column, but an event has shape \(4,\)"):
        pf.models.rectified_flow(pf.nn.MLP.Config((8,)), (4,), levels=(3, None))


def test_a_saved_model_keeps_its_levels(tmp_path):
    model = pf.models.rectified_flow(pf.nn.MLP.Config((8,)), (2,), levels=(3, None))
    assert pf.load(pf.save(model, tmp_path / "model")).levels == (3, None)


def test_bits_of_the_true_density_are_its_entropy():
    """The density that is constant on the cells has log2 p = log2 P(level) + log2 N(x_1): 1.5 bits and log2(2 pi e) / 2."""

    class Truth:
        def log_prob(self, x, cond=None):
            probability = torch.tensor([0.5, 0.25, 0.25])[x[:, 0].floor().long()]
            return probability.log() - x[:, 1] ** 2 / 2 - math.log(2 * math.pi) / 2

    data = mixture_table(4000)
    exact = (1.5 + (data.x[:, 1].square().mean() / 2 + math.log(2 * math.pi) / 2) / math.log(2)) / 2
    assert bits_per_dim(Truth(), data, 2).mean == pytest.approx(float(exact), abs=1e-5)


@pytest.mark.slow
def test_baselines_know_the_variance_of_the_cells():
    """A Gaussian fitted to levels 0, 0, 1, 2 (variance 11/16, and 1/12 of the cell) and N(0, 1)."""
    fitted = fit_baselines(mixture_table(400), mixture_table(400), torch.Generator().manual_seed(0))
    x = torch.tensor([[1.25, 0.0], [1.25 + math.sqrt(11 / 16 + 1 / 12), 0.0]], dtype=torch.float64)
    at_mean, one_deviation_off = fitted["gaussian"].log_prob(x).tolist()
    assert at_mean - one_deviation_off == pytest.approx(0.5, abs=0.03)


def test_words_with_underscores_are_no_numbers(tmp_path):
    """float reads 2024_01 as 202401, int 1_000 as 1000."""
    rows = [f"{k / 7:.3f},2024_{1 + k % 12:02d}" for k in range(60)]
    data = load(table(tmp_path, "size,month", *rows))
    assert data.categories["month"] == tuple(f"2024_{1 + k:02d}" for k in range(12))
    numbered = load(table(tmp_path, "2024_01,2024_02", *(f"{k / 7:.3f},{k / 5:.3f}" for k in range(60))))
    assert numbered.columns == ("2024_01", "2024_02")


def test_classes_that_are_integers_have_their_names_however_they_are_written(tmp_path):
    """pandas writes 1.0 where another row is missing; --label 1 is this class then, not the one with the number 1."""
    rows = [f"{k / 7:.3f},{('1.0', '2.0', '1', '')[k % 4]}" for k in range(60)]
    data = load(table(tmp_path, "size,kind", *rows), label="kind", missing="drop")
    assert data.class_names == ("1", "2")
    assert data.schema.label_of("1") == 0
    frame = pandas.DataFrame({"size": numpy.arange(60) / 7, "kind": [1.0, 2.0, 1.0, numpy.nan] * 15})
    assert load(frame, label="kind", missing="drop").class_names == data.class_names
    words = load(table(tmp_path, "size,kind", *rows), categorical="kind", missing="drop").categories
    assert words == {"kind": ("1", "2")}
