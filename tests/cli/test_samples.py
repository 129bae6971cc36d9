"""`pushforward sample`: what is written are the data's own values, from the saved model alone."""

import csv
import re

import numpy
import PIL.Image
import pytest
import torch

import pushforward as pf
from pushforward.cli import main
from pushforward.column import Column
from pushforward.errors import UserError
from pushforward.evaluation.pictures import tiles
from pushforward.evaluation.table_pictures import corner
from pushforward.formats.model import load
from pushforward.schema import Schema

QUICK = ["--steps", "2", "--batch-size", "16", "--block", "16", "--hidden", "8"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("table")
    rows = [f"{k / 7:.3f},{('dog', 'cat')[k % 2]},{('red', 'blue', 'green')[k % 3]},{10 + k}" for k in range(60)]
    (folder / "t.csv").write_text("\n".join(["size,kind,colour,count", *rows]))
    options = ["--data-options", "label", "kind", "categorical", "colour"]
    assert main(["train", "realnvp", "--data", str(folder / "t.csv"), *options, *QUICK, "--layers", "2", "--out", str(folder / "run")]) == 0
    (folder / "t.csv").unlink()  # the run alone is enough
    return folder / "run"


def drawn(run, out, *more):
    assert main(["sample", str(run), "-n", "20", "--out", str(out), *more]) == 0
    return out


def check_table(rows):
    assert {row["kind"] for row in rows} == {"cat", "dog"}
    assert {row["colour"] for row in rows} <= {"red", "blue", "green"}
    assert all(10 <= int(row["count"]) <= 69 for row in rows)
    assert len({float(row["size"]) for row in rows}) > 1


def test_a_csv_is_a_table_of_the_same_columns(run, tmp_path):
    with drawn(run, tmp_path / "x.CSV").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["size", "kind", "colour", "count"]
    check_table(rows)
    read = pf.data.load(tmp_path / "x.CSV", label="kind", categorical="colour")
    assert read.columns == ("size", "colour", "count")


@pytest.mark.parametrize("option", [["--out", "~/made/x.csv"], ["--out=~/made/x.csv"]])
def test_the_users_folder_is_meant_where_the_shell_left_its_sign(run, option, tmp_path, monkeypatch):
    """Shells leave ~ as it is in quotes and after =, and a folder of this name is one that people remove by `rm -r ~`."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert main(["sample", str(run), "-n", "2", *option]) == 0
    assert (tmp_path / "made" / "x.csv").is_file()
    assert not (tmp_path / "~").exists()


def test_a_delimiter_is_no_folder(tmp_path, capsys):
    (tmp_path / "x.csv").write_text("a~b\n" + "".join(f"{k / 7}~{-k / 3}\n" for k in range(40)))
    assert main(["train", "maf", "--data", str(tmp_path / "x.csv"), "--data-options", "delimiter", "~", "--dry-run"]) == 0
    assert "2 features" in capsys.readouterr().out


def test_info_lists_the_columns_of_a_table(run, capsys):
    assert main(["info", str(run)]) == 0
    printed = capsys.readouterr().out
    assert "\ncolour: 3 words\ncount: integer 10 to 69" in printed
    assert "schema: 4 columns, listed above" in printed
    assert "data.Column" not in printed


def test_a_picture_of_a_table_has_all_its_columns(run, tmp_path, monkeypatch):
    drawn_columns = []

    def noted(columns, train):
        drawn_columns.append([(one.column.title, one.words, len(one.real), len(one.made)) for one in columns])
        return corner(columns, train)

    monkeypatch.setattr("pushforward.evaluation.run_pictures.corner", noted)
    picture = PIL.Image.open(drawn(run, tmp_path / "x.png"))
    assert drawn_columns == [[("size", (), 0, 20), ("colour", ("blue", "green", "red"), 0, 20), ("count", (), 0, 20)]]
    assert numpy.asarray(picture.convert("L")).std() > 1


def test_the_data_of_a_run_are_not_overwritten(tmp_path, capsys):
    (tmp_path / "t.csv").write_text("\n".join(["a,b,c", *[f"{k / 7},{k % 5},{k}" for k in range(30)]]))
    before = (tmp_path / "t.csv").read_text()
    assert main(["train", "nice", "--data", str(tmp_path / "t.csv"), *QUICK, "--out", str(tmp_path / "run")]) == 0
    assert main(["sample", str(tmp_path / "run"), "--out", str(tmp_path / "t.csv")]) == 2
    assert "the data that" in capsys.readouterr().err
    assert (tmp_path / "t.csv").read_text() == before


@pytest.mark.slow
def test_a_table_with_gaps_is_trained_evaluated_and_sampled_by_commands(tmp_path, capsys):
    rows = [f"{k / 7 + 1 if k % 5 else ''},{('a', '', 'b')[k % 3]},{k if k % 4 else 'NA'}" for k in range(100)]
    (tmp_path / "t.csv").write_text("\n".join(["size,kind,count", *rows]))
    command = ["train", "realnvp", "--data", str(tmp_path / "t.csv"), "--out", str(tmp_path / "run"), *QUICK, "--layers", "2"]
    assert main(command) == 2
    assert "by column: 'size' 20, 'kind' 33, 'count' 25" in capsys.readouterr().err
    options = ["--data-options", "missing", "model", "scales", "[size=none]"]
    assert main([*command, *options]) == 0
    shown = capsys.readouterr().err
    assert "size: continuous 1.14286 to 15.1429\n" in shown
    assert "kind: 3 words" in shown
    assert main([*command, *options, "--resume"]) == 0
    with drawn(tmp_path / "run", tmp_path / "x.csv").open(newline="") as file:
        made = list(csv.DictReader(file))
    assert list(made[0]) == ["size", "kind", "count"]
    assert any(row["size"] == "" for row in made)
    assert main(["evaluate", str(tmp_path / "run"), "--samples", "20"]) == 0


def test_a_parquet_file_is_the_same_table(run, tmp_path):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    frame = pandas.read_parquet(drawn(run, tmp_path / "x.parquet"))
    assert list(frame.columns) == ["size", "kind", "colour", "count"]
    assert frame["count"].dtype.kind == "i"
    check_table(frame.to_dict("records"))


def test_arrays_hold_the_numbers_and_what_they_stand_for(run, tmp_path):
    held = numpy.load(drawn(run, tmp_path / "x.npz"), allow_pickle=False)
    assert held["columns"].tolist() == ["size", "colour", "count"]
    assert held["class_names"].tolist() == ["cat", "dog"]
    assert held["words of colour"].tolist() == ["blue", "green", "red"]
    assert set(held["x"][:, 1].tolist()) <= {0.0, 1.0, 2.0}
    assert (held["x"][:, 2] == held["x"][:, 2].round()).all()
    assert numpy.array_equal(numpy.load(drawn(run, tmp_path / "x.npy")), held["x"])


def test_arrays_are_read_again_as_the_table_that_they_are(run, tmp_path):
    archive = drawn(run, tmp_path / "x.npz", "-n", "60")
    held, parts = numpy.load(archive), [pf.data.load(archive, split) for split in ("train", "validation", "test")]
    schema = parts[0].schema
    assert schema.names == ("size", "colour", "count")
    assert [one.kind for one in schema.columns] == ["continuous", "category", "integer"]
    assert schema.categories == {"colour": ("blue", "green", "red")}
    assert (parts[0].class_names, parts[0].classes) == (("cat", "dog"), 2)
    x, y = (torch.cat([getattr(part, name) for part in parts]).numpy() for name in ("x", "cond"))
    rows = {(*row, label) for row, label in zip(held["x"].tolist(), held["y"].tolist(), strict=True)}
    assert {(*row, label) for row, label in zip(x.tolist(), y.tolist(), strict=True)} == rows


def test_images_in_an_archive_keep_the_names_of_classes_that_were_not_drawn(tmp_path):
    archive = drawn(images(3, 256, tmp_path), tmp_path / "x.npz", "--label", "class 1")
    read = pf.data.load(archive)
    assert (read.classes, read.class_names, read.levels, set(read.cond.tolist())) == (3, ("class 0", "class 1", "class 2"), 256, {1})


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"columns": numpy.array(["a"])}, "columns has 1 names, but x has shape (20, 2)"),
        ({"columns": numpy.arange(2)}, "columns has shape (2,) and dtype int64, but it must be a list of texts"),
        ({"columns": numpy.array(["a", "b"]), "words of a": numpy.array(["u", "v"])}, "row 1 (counted from 0), column 'a' is 2, but its 2"),
        ({"columns": numpy.array(["a", "b"]), "y": numpy.zeros((20, 2), int)}, "labels have shape (20, 2)"),
        ({"columns": numpy.array(["a", "a"])}, "two columns 'a'"),
        ({"class_names": numpy.array(["u"]), "y": numpy.arange(20) % 2}, "row 1 has label 1"),
    ],
)
def test_names_that_do_not_fit_their_array_are_refused(arrays, message, tmp_path):
    numpy.savez(tmp_path / "x.npz", x=numpy.arange(40.0).reshape(20, 2) % 6, **arrays)
    with pytest.raises(UserError, match=re.escape(message)):
        pf.data.load(tmp_path / "x.npz")


@pytest.mark.parametrize("label", ["dog", "1"])
def test_a_class_is_drawn_by_its_name_or_number(run, label, tmp_path):
    with drawn(run, tmp_path / "x.csv", "--label", label).open(newline="") as file:
        assert {row["kind"] for row in csv.DictReader(file)} == {"dog"}


def images(classes, levels, tmp_path, size=4):
    schema = Schema((), Column("label", "category", words=tuple(f"class {k}" for k in range(classes))))
    net = pf.nn.MLP.Config((4,))
    model = pf.models.rectified_flow(net, (1, size, size), levels=levels, schema=schema, sampler=pf.samplers.Euler(1))
    return pf.save(model, tmp_path / "model")


def test_images_are_written_one_by_one_and_read_again(tmp_path):
    folder = drawn(images(2, 256, tmp_path), tmp_path / "made")
    assert sorted(one.name for one in folder.iterdir()) == ["class 0", "class 1"]
    assert len(list(folder.rglob("*.png"))) == 20
    read = pf.data.load(folder, size=4, channels=1)
    assert read.class_names == ("class 0", "class 1")
    pixels = numpy.asarray(PIL.Image.open(folder / "class 1" / "00001.png"))
    array = numpy.load(drawn(tmp_path / "model", tmp_path / "x.npy"))
    assert (array.dtype, array.shape) == (numpy.uint8, (20, 1, 4, 4))
    assert numpy.array_equal(pixels, array[1, 0])


def test_a_grid_has_one_class_a_column_for_any_number_of_classes(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "pushforward.evaluation.pictures.tiles", lambda x, levels, columns: seen.append(columns) or tiles(x, levels, columns)
    )
    folder = images(13, 17, tmp_path)
    drawn(folder, tmp_path / "x.png", "-n", "26")
    drawn(folder, tmp_path / "x.png", "--label", "class 12")
    assert seen == [13, 10]


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("x.jpg", "x.jpg, but samples are written to .png"),
        ("folder", "a folder of PNGs, but events of shape (3,) are no images"),
    ],
)
def test_what_a_table_cannot_be_written_to_is_refused_before_drawing(run, out, message, tmp_path, capsys):
    assert main(["sample", str(run), "--out", str(tmp_path / out)]) == 2
    assert message in capsys.readouterr().err


def test_images_are_no_table_and_a_folder_in_use_is_kept(tmp_path, capsys):
    folder = images(2, 17, tmp_path)
    assert main(["sample", str(folder), "--out", str(tmp_path / "x.csv")]) == 2
    assert "are no rows of a table" in capsys.readouterr().err
    assert main(["sample", str(folder), "--out", str(folder)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert load(folder).classes == 2


def test_an_unfinished_file_does_not_replace_the_old_one(run, tmp_path, monkeypatch):
    out = tmp_path / "x.csv"
    out.write_text("old")

    def broken(self, rows):
        raise OSError(28, "no space left", str(out))

    monkeypatch.setattr("pushforward.cli.samples.csv.writer", lambda file: type("Writer", (), {"writerow": broken, "writerows": broken})())
    assert main(["sample", str(run), "--out", str(out)]) != 0
    assert [one.name for one in tmp_path.iterdir()] == ["x.csv"]
    assert out.read_text() == "old"


def test_vectors_without_names_have_numbered_columns(tmp_path):
    model = pf.models.realnvp(2, layers=2, hidden=(4,), classes=2)
    with drawn(pf.save(model, tmp_path / "model"), tmp_path / "x.csv", "--label", "1").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["x0", "x1", "label"]
    assert {row[2] for row in rows[1:]} == {"1"}
    assert torch.tensor([float(row[0]) for row in rows[1:]]).isfinite().all()
