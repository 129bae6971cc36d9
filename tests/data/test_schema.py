"""What a table's columns are, and how samples become its rows again."""

import numpy
import pytest
import torch

import pushforward as pf
from pushforward.column import Column
from pushforward.errors import ShapeError, UserError
from pushforward.schema import Schema

COLOUR = Column("colour", "category", words=("blue", "red"))
SCHEMA = Schema((Column("height"), COLOUR, Column("age", "integer", low=18, high=80)), Column("kind", "category", words=("cat", "dog")), 1)


def test_samples_become_the_tables_columns_in_its_order():
    x = torch.tensor([[0.5, 1.9, 30.6], [-1.25, -0.3, 99.0]])
    table = SCHEMA.table(x, torch.tensor([1, 0]))
    assert list(table) == ["height", "kind", "colour", "age"]
    assert table["height"].tolist() == [0.5, -1.25]
    assert table["kind"].tolist() == ["dog", "cat"]
    assert table["colour"].tolist() == ["red", "blue"]
    assert table["age"].tolist() == [31, 80]
    assert list(SCHEMA.table(x)) == ["height", "colour", "age"]


def test_words_keep_their_type():
    column = Column("member", "category", words=(False, True))
    assert [type(one) for one in column.values(torch.tensor([1.0, 0.0]).numpy())] == [bool, bool]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Column("a", "date"), "kind is 'date'"),
        (lambda: Column("a", "category"), "category with 0 words"),
        (lambda: Schema((Column("a"), Column("a"))), "two columns 'a'"),
        (lambda: Schema((), Column("a")), "label column 'a' is continuous"),
        (lambda: SCHEMA.label_of("horse"), "the classes are cat, dog"),
        (lambda: SCHEMA.label_of("2"), "its number from 0 to 1"),
    ],
)
def test_what_is_no_schema_is_refused(build, message):
    with pytest.raises(UserError, match=message):
        build()


def test_rows_of_another_width_are_refused():
    with pytest.raises(ShapeError, match=r"x has shape \(1, 2\), but the table has 3 columns"):
        SCHEMA.table(torch.zeros(1, 2))


def test_a_name_of_a_class_goes_before_a_number():
    schema = Schema((), Column("digit", "category", words=(3, 1)))
    assert [schema.label_of(name) for name in ("1", "3", "0")] == [1, 0, 0]


def test_a_number_that_is_a_code_without_its_zeros_is_refused():
    schema = Schema((), Column("zip", "category", words=("01", "02", "10")))
    assert [schema.label_of(name) for name in ("01", "02", "10", "0")] == [0, 1, 2, 0]
    with pytest.raises(UserError, match="label is '1', the class 01 without zeros or the number of 02"):
        schema.label_of("1")
    assert Schema((), Column("a", "category", words=("00", "01"))).label_of("1") == 1


def test_a_data_set_knows_its_schema_and_all_its_splits_agree():
    parts = [pf.data.load("wine", split) for split in ("train", "validation", "test")]
    assert parts[0].schema == parts[1].schema == parts[2].schema
    schema = parts[0].schema
    assert (schema.names, schema.class_names) == (parts[0].columns, parts[0].class_names)
    proline = schema.columns[schema.names.index("proline")]
    assert (proline.kind, proline.low, proline.high) == ("integer", 278.0, 1680.0)
    assert parts[0].with_cond(None).schema == Schema(schema.columns)
    assert pf.data.load("moons").schema is None
    assert pf.data.load("digits").schema is None


def test_a_csv_gives_the_label_its_words_and_its_place(tmp_path):
    rows = [f"{k / 7:.3f},{'xy'[k % 2]},{k}" for k in range(40)]
    (tmp_path / "t.csv").write_text("\n".join(["size,kind,count", *rows]))
    schema = pf.data.load(tmp_path / "t.csv", label="kind").schema
    assert (schema.label, schema.place) == (Column("kind", "category", words=("x", "y")), 1)


@pytest.mark.parametrize("build", [pf.models.realnvp, pf.models.rectified_flow, pf.models.ddpm, pf.models.ffjord])
def test_a_model_follows_a_schema_and_keeps_it_when_saved(build, tmp_path):
    model = build(schema=SCHEMA)
    assert (model.shape, model.classes, model.levels) == ((3,), 2, SCHEMA.levels)
    assert pf.load(pf.save(model, tmp_path / "model")).schema == SCHEMA


def test_a_shape_that_is_not_the_tables_is_refused():
    with pytest.raises(UserError, match=r"shape is \(2,\), but the schema's table has \(3,\)"):
        pf.models.rectified_flow(shape=(2,), schema=SCHEMA)


def test_a_model_on_another_path_keeps_its_schema():
    assert pf.models.rectified_flow(schema=SCHEMA).follow(pf.paths.Cosine()).schema == SCHEMA


def test_a_table_takes_arrays_and_names_of_classes_and_refuses_other_labels():
    schema = pf.data.load("iris").schema
    x = numpy.ones((2, 4))
    for labels in (["virginica", "setosa"], numpy.array([2, 0]), torch.tensor([2, 0])):
        assert schema.table(x, labels)["label"].tolist() == ["virginica", "setosa"]
    for labels, message in (([2], "labels has 1 rows, but x has 2"), ([2, 3], "labels has 3, but"), (["rose", 0], "label is 'rose', but")):
        with pytest.raises(UserError, match=message):
            schema.table(x, labels)
