"""Names and files: .npy, .npz and CSV, and one sentence for each thing that can be wrong with them."""

import pickle

import numpy
import pytest
import torch

from pushforward.data.digits import digits
from pushforward.data.load import load
from pushforward.data.splits import SPLITS, split_indices
from pushforward.errors import DataError, UserError
from pushforward.registry import UnknownNameError


def written(path, **arrays):
    numpy.savez(path, **arrays)
    return path


def test_a_name_is_the_same_as_its_function():
    assert load("digits", "test", seed=3).fingerprint() == digits("test", seed=3).fingerprint()


def test_a_file_is_split_into_parts_that_are_the_whole(tmp_path):
    numpy.save(tmp_path / "x.npy", numpy.arange(42.0).reshape(21, 2))
    parts = [load(tmp_path / "x.npy", split) for split in SPLITS]
    assert [len(part) for part in parts] == [17, 2, 2]
    assert torch.equal(torch.cat([part.x for part in parts]).flatten().sort().values, torch.arange(42.0))
    assert parts[0].cond is None


@pytest.mark.parametrize("labels", [None, numpy.arange(100) % 3])
def test_split_indices_are_a_permutation_and_the_same_again(labels):
    parts = [split_indices(split, (80, 10, 10), 5, labels) for split in SPLITS]
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(100))
    assert torch.equal(parts[1], split_indices("validation", (80, 10, 10), 5, labels))
    assert not torch.equal(parts[1], split_indices("validation", (80, 10, 10), 6, labels))


def test_split_indices_are_stratified():
    labels = numpy.repeat(numpy.arange(5), (50, 20, 15, 10, 5))
    assert numpy.bincount(labels[split_indices("test", (80, 10, 10), 0, labels)]).tolist() in ([5, 2, 1, 1, 1], [5, 2, 2, 1, 0])


@pytest.mark.parametrize("shape", [(10, 4, 6), (10, 4, 6, 3), (10, 3, 4, 6)])
def test_uint8_images_get_256_levels_and_their_channels_first(tmp_path, shape):
    images = numpy.random.RandomState(0).randint(256, size=shape, dtype=numpy.uint8)
    numpy.save(tmp_path / "x.npy", images)
    data = load(tmp_path / "x.npy")
    assert (data.levels, data.shape) == (256, (1 if len(shape) == 3 else 3, 4, 6))
    row = split_indices("train", (8, 1, 1), 0)[0]
    expected = images[row][None] if len(shape) == 3 else images[row].transpose(2, 0, 1) if shape[-1] == 3 else images[row]
    assert numpy.array_equal(data.x[0].numpy(), expected)


def test_npz_with_labels(tmp_path):
    path = written(tmp_path / "x.npz", x=numpy.arange(20), y=numpy.arange(20) % 4, levels=20)
    data = load(path)
    assert (data.shape, data.classes, data.levels) == ((1,), 4, 20)
    assert torch.equal(data.x[:, 0].long() % 4, data.cond)


def test_npz_that_is_split_already(tmp_path):
    x = {f"x_{split}": numpy.full((2, 3), float(place)) for place, split in enumerate(SPLITS)}
    y = {f"y_{split}": numpy.full(2, place) for place, split in enumerate(SPLITS)}
    data = load(written(tmp_path / "x.npz", **x, **y), "validation")
    assert (data.x.unique().tolist(), data.cond.tolist(), data.classes) == ([1.0], [1, 1], 3)


def test_words_as_labels_are_sorted_and_numbered(tmp_path):
    words = numpy.array(["wolf", "cat", "dog"] * 10)
    data = load(written(tmp_path / "x.npz", x=numpy.arange(30) % 3, y=words))
    assert data.class_names == ("cat", "dog", "wolf")
    assert torch.equal(data.cond, torch.tensor([2, 0, 1])[data.x[:, 0].long()])


def table(tmp_path, *lines):
    path = tmp_path / "table.csv"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


ROWS = [f"{i}.5,{'ab'[i % 2]},{-i}" for i in range(20)]


def test_csv_with_header_and_a_column_of_words(tmp_path):
    data = load(table(tmp_path, "first,kind,second", *ROWS), label="kind")
    assert (len(data), data.shape, data.classes, data.class_names) == (16, (2,), 2, ("a", "b"))
    torch.testing.assert_close(data.x[:, 0] - 0.5, -data.x[:, 1])
    assert torch.equal(data.x[:, 1].long() % 2, data.cond)


@pytest.mark.parametrize("label", [1, "1", -2])
def test_csv_without_header_and_a_column_by_its_number(tmp_path, label):
    assert load(table(tmp_path, *ROWS), label=label).class_names == ("a", "b")


def test_csv_of_numbers_alone_has_no_header_and_no_labels(tmp_path):
    data = load(table(tmp_path, *[f"{i};{2 * i}" for i in range(20)]), delimiter=";")
    assert (len(data), data.shape, data.cond) == (16, (2,), None)


def test_a_header_of_numbers_is_known_by_its_label(tmp_path):
    assert len(load(table(tmp_path, "1990,kind", *[f"{i},{i % 2}" for i in range(20)]), label="kind")) == 16


def test_integer_labels_are_numbered_by_size(tmp_path):
    data = load(table(tmp_path, "x,y", *[f"{i % 3},{(2, 10, 30)[i % 3]}" for i in range(30)]), label="y")
    assert torch.equal(data.cond, data.x[:, 0].long())


@pytest.mark.parametrize(
    ("lines", "options", "message"),
    [
        (["a,b", *["1,2"] * 10, "3,x"], {}, "column 'b' is 'x' in row 12, but a feature must be a number"),
        (["a,b", *["1,2"] * 10, "3,"], {}, "1 of 11 rows have missing values, by column: 'b' 1 \\(first in row 12\\)"),
        (["a,b", *["1,2"] * 10, "3"], {}, "row 12 has 1 cells, but the table has 2 columns"),
        (["a,b", *["1,2"] * 10, "3,nan"], {}, "1 of 11 rows have missing values, by column: 'b' 1 \\(first in row 12\\)"),
        (["a,b", *["1,2"] * 10, "3,inf"], {}, "column 'b' is infinite in row 12 .1 of 11 rows"),
        (["a,b", *["1,2"] * 10], {"label": "c"}, "'c' is not a known column"),
        (["a,b", *["1,2"] * 10], {"label": 7}, "'7' is not a known column"),
        (["a,b", *["1,2"] * 3], {}, "there are 3 examples, but a split .* at least 10"),
        ([], {}, "has no rows"),
        (["a,b"], {}, "no values"),
        (["kind", *["cat"] * 10], {"label": "kind"}, "no values"),
        (ROWS, {"delimiter": "::"}, "one character"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(tmp_path, lines, options, message):
    with pytest.raises(UserError, match=message):
        load(table(tmp_path, *lines), **options)


def test_text_that_is_not_utf8_is_refused(tmp_path):
    (tmp_path / "x.csv").write_bytes(b"a,b\n1,\xff\n")
    with pytest.raises(DataError, match="is not UTF-8 text"):
        load(tmp_path / "x.csv")


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was opened",))


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_pickles_are_never_opened(tmp_path, suffix):
    (tmp_path / f"raw{suffix}").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(DataError, match="pickles are never loaded"):
        load(tmp_path / f"raw{suffix}")


def test_pickles_within_an_array_are_never_opened(tmp_path):
    objects = numpy.array([Trap()] * 10, dtype=object)
    numpy.save(tmp_path / "x.npy", objects, allow_pickle=True)
    numpy.savez(tmp_path / "x.npz", x=objects)
    for name in ("x.npy", "x.npz"):
        with pytest.raises(DataError, match="pickles are never loaded"):
            load(tmp_path / name)


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@pytest.mark.parametrize("kept", [0.0, 0.05, 0.5, 0.99])
def test_a_file_cut_off_is_refused_by_name(tmp_path, suffix, kept):
    path = tmp_path / f"cut{suffix}"
    x = numpy.random.RandomState(0).rand(100, 5)
    numpy.save(path, x) if suffix == ".npy" else numpy.savez_compressed(path, x=x)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(DataError, match=f"cut{suffix}"):
        load(path)


def test_a_changed_byte_of_an_archive_is_found(tmp_path):
    numpy.savez_compressed(tmp_path / "x.npz", x=numpy.random.RandomState(0).rand(100, 5))
    content = bytearray((tmp_path / "x.npz").read_bytes())
    content[len(content) // 2] ^= 0xFF
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(DataError, match="cannot be read"):
        load(tmp_path / "x.npz")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": numpy.zeros((10, 2))}, "holds a, but needs x"),
        ({"x_train": numpy.zeros((10, 2)), "x_test": numpy.zeros((10, 2))}, "missing: x_validation"),
        ({**{f"x_{split}": numpy.zeros((10, 2)) for split in SPLITS}, "y_train": numpy.zeros(10, int)}, "missing: y_validation, y_test"),
        ({"x": numpy.zeros((10, 2)), "levels": numpy.array([1, 2])}, "levels .* must be one integer"),
        ({"x": numpy.array(["a"] * 10)}, "must hold real numbers"),
        ({"x": numpy.zeros((10, 2)), "y": numpy.zeros(10)}, "integers from 0 or strings"),
        ({"x": numpy.zeros((10, 2)), "y": numpy.zeros(9, int)}, r"10 examples need shape \(10,\)"),
        ({"x": numpy.zeros((10, 5, 7, 2), numpy.uint8)}, "neither its second nor its last axis"),
    ],
)
def test_an_archive_that_does_not_fit_is_refused(tmp_path, arrays, message):
    with pytest.raises(DataError, match=message):
        load(written(tmp_path / "x.npz", **arrays))


def test_nan_in_a_file_is_refused_with_the_row_of_the_file(tmp_path):
    x = numpy.zeros((40, 2))
    x[17, 1] = numpy.nan
    numpy.save(tmp_path / "x.npy", x)
    for split in SPLITS:
        with pytest.raises(DataError, match=r"x.npy: row 17 \(counted from 0\) holds NaN; 1 of 40"):
            load(tmp_path / "x.npy", split)


@pytest.mark.parametrize(("wrong", "right"), [("dgits", "digits"), ("Moons", "moons"), ("eight_gausians", "eight_gaussians")])
def test_an_unknown_name_is_refused_with_the_nearest(wrong, right):
    with pytest.raises(UnknownNameError, match=f"'{wrong}' is not a known data set; did you mean '{right}'"):
        load(wrong)


def test_a_public_name_that_is_no_loader_is_no_data_set():
    with pytest.raises(UnknownNameError, match="'GaussianMixture' is not a known data set"):
        load("GaussianMixture")


def test_a_missing_file_is_refused_with_the_nearest(tmp_path):
    numpy.save(tmp_path / "faces.npy", numpy.zeros((10, 2)))
    with pytest.raises(DataError, match="'face.npy' is not a known file of data in .*; did you mean 'faces.npy'"):
        load(tmp_path / "face.npy")
    with pytest.raises(DataError, match="does not exist"):
        load(tmp_path / "nowhere" / "face.npy")


def test_a_folder_or_another_suffix_is_refused(tmp_path):
    (tmp_path / "x.npy").mkdir()
    (tmp_path / "x.txt").write_text("1,2")
    with pytest.raises(DataError, match="is a folder"):
        load(tmp_path / "x.npy")
    with pytest.raises(DataError, match="files of data end in .npy, .npz, .csv"):
        load(tmp_path / "x.txt")


def test_an_unknown_option_is_refused_with_the_nearest(tmp_path):
    with pytest.raises(UserError, match="'nose' is not a known option of moons; did you mean 'noise'"):
        load("moons", nose=0.1)
    with pytest.raises(UserError, match="digits takes no options, but 'n' was given"):
        load("digits", n=3)
    numpy.save(tmp_path / "x.npy", numpy.zeros((10, 2)))
    with pytest.raises(UserError, match="'label' is not a known option of .npy"):
        load(tmp_path / "x.npy", label="y")


def test_a_path_that_is_not_there_is_refused_with_what_it_could_be(tmp_path):
    with pytest.raises(DataError, match="there is no folder owner/name; check the path .*write hf:owner/name"):
        load("owner/name")
    with pytest.raises(DataError, match=r"there is no folder .*photos; check the path \(a folder holds x.npy \(and y.npy\), images"):
        load(tmp_path / "photos")
    with pytest.raises(UnknownNameError, match="A file of your own ends in .npy, .npz, .csv, .parquet; a folder holds .*hf:owner/name"):
        load("photos")


def without_seed(split="train"):
    """A loader that cannot be called as others are."""


def of_nothing(split="train", *, seed=0):
    """A loader that forgets its return."""


@pytest.mark.parametrize(("loader", "words"), [(without_seed, "is not called as others are .*'seed'"), (of_nothing, "returned None, but")])
def test_a_loader_of_another_package_keeps_to_the_form(loader, words, monkeypatch):
    monkeypatch.setitem(load.__globals__, "_reader", lambda name: (name, loader, None))
    with pytest.raises(UserError, match=f"the loader of theirs {words}"):
        load("theirs")


@pytest.mark.parametrize(
    ("name", "how"), [("t.XLSX", "give load the DataFrame"), ("t.tsv", "delimiter="), ("t.csv.gz", "unpack"), ("t.pt", "tensors")]
)
def test_a_file_of_another_kind_is_refused_with_the_way_to_read_it(tmp_path, name, how):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataError, match=f"cannot be read; files of data end in .*; .*{how}"):
        load(tmp_path / name)
