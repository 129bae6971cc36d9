"""DataFrames: what goes in comes back, in words, integers and missing values."""

import numpy
import pandas
import pytest
import torch

import pushforward as pf
from pushforward.data.dataset import Dataset
from pushforward.data.load import load
from pushforward.errors import DataError, UserError
from pushforward.evaluation.baselines import fit_baselines
from pushforward.evaluation.classifier import classifier
from pushforward.evaluation.likelihood import bits_per_dim


def people(n=60):
    k = numpy.arange(n)
    return pandas.DataFrame(
        {
            "income": numpy.exp(k % 7 - 3.0) + 0.25,
            "city": [("Rome", "Oslo", "Paris")[i % 3] for i in k],
            "age": 18 + k % 50,
            "member": k % 4 == 0,
            "size": pandas.Categorical([("small", "large")[i % 2] for i in k], categories=["small", "medium", "large"]),
            "kind": [("cat", "dog")[i % 2] for i in k],
            "balance": (k - 30.0) / 7,
        }
    )


def with_gaps():
    frame = people()
    frame.loc[::5, "income"] = numpy.nan
    frame.loc[::6, "city"] = None
    frame["age"] = frame["age"].astype("Int64").mask(frame.index % 4 == 1)
    return frame


def test_a_frame_comes_back_as_it_was():
    frame = people()
    data = Dataset("people", frame, "kind")
    back = data.schema.frame(data.x, data.cond)
    assert list(back.columns) == list(frame.columns)
    assert back.dtypes[["age", "member"]].tolist() == [numpy.dtype("int64"), numpy.dtype("bool")]
    for name in ("city", "age", "member", "kind"):
        assert back[name].tolist() == frame[name].tolist()
    assert back["size"].tolist() == frame["size"].tolist()
    numpy.testing.assert_allclose(back[["income", "balance"]], frame[["income", "balance"]], rtol=1e-6)


def test_columns_are_what_their_values_are():
    data = load(people(), label="kind")
    kinds = {one.title: (one.kind, one.scale) for one in data.schema.columns}
    assert kinds == {
        "income": ("continuous", "log"),
        "city": ("category", "logit"),
        "age": ("integer", kinds["age"][1]),
        "member": ("category", "logit"),
        "size": ("category", "logit"),
        "balance": ("continuous", "none"),
    }
    assert data.categories["size"] == ("small", "large"), "in pandas' order, without words that are not there"
    assert (data.levels, data.classes, data.class_names) == ((None, 3, (18, 67), 2, 2, None), 2, ("cat", "dog"))


def test_missing_values_are_refused_by_column_and_count():
    """Every 5th, every 6th and every 4th row: 12 + 10 + 15, of which 2 (every 30th) and 3 (every 20th) are counted twice."""
    with pytest.raises(DataError, match="32 of 60 rows have missing values, by column: 'income' 12, 'city' 10, 'age' 15") as error:
        load(with_gaps())
    assert "missing='drop'" in str(error.value)
    assert "missing='model'" in str(error.value)


def test_dropped_rows_are_those_with_a_gap():
    parts = [load(with_gaps(), split, missing="drop") for split in ("train", "validation", "test")]
    assert sum(map(len, parts)) == 28
    complete = with_gaps().dropna()
    assert sorted(torch.cat([one.x[:, 6] for one in parts]).tolist()) == pytest.approx(sorted(complete["balance"].tolist()), abs=1e-6)


def test_modelled_gaps_come_back_where_they_were():
    frame = with_gaps()
    frame["kind"] = people()["kind"]
    whole = [load(frame, split, label="kind", missing="model") for split in ("train", "validation", "test")]
    schema = whole[0].schema
    assert [one.title for one in schema.columns if one.kind == "missing"] == ["income is missing", "age is missing"]
    assert None in schema.categories["city"]
    back = pandas.concat([schema.frame(one.x, one.cond) for one in whole]).sort_values("balance").reset_index(drop=True)
    for name in frame.columns:
        assert back[name].isna().tolist() == frame[name].isna().tolist(), name
    assert back["age"].dtype == "Int64"
    kept = ~frame["age"].isna()
    assert back["age"][kept].tolist() == frame["age"][kept].tolist()


def test_filled_values_are_values_of_the_column_and_the_same_again():
    frame = with_gaps()
    data = [load(frame, missing="model") for _ in range(2)]
    assert data[0].fingerprint() == data[1].fingerprint()
    incomes = set(frame["income"].dropna().astype(numpy.float32))
    assert {numpy.float32(one) for one in data[0].x[:, 0].tolist()} <= incomes


def test_a_missing_label_is_refused_though_the_rest_is_modelled():
    frame = with_gaps()
    frame["kind"] = [None, *people()["kind"][1:]]
    with pytest.raises(DataError, match="by column: 'kind' 1 .*missing='drop' to leave these rows out\\."):
        load(frame, label="kind", missing="model")


def test_integers_with_nan_are_integers():
    frame = pandas.DataFrame({"n": [1.0, 2.0, numpy.nan, 5.0] * 5, "x": numpy.linspace(-1, 1, 20)})
    schema = load(frame, missing="model").schema
    assert schema.columns[0].kind == "integer"


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pandas.date_range("2020-01-01", periods=30), "column 'c' holds dates"),
        (pandas.to_timedelta(range(30), unit="D"), "column 'c' holds dates"),
        ([pandas.Timestamp("2020-01-01").date()] * 30, "column 'c' holds dates"),
        ([f"2020-01-{k + 1:02d}" for k in range(30)], "column 'c' holds dates, such as '2020-01-01'"),
        ([f"name {k}" for k in range(30)], "column 'c' has 30 different words in 30 rows"),
        ([1, "a"] * 15, "column 'c' holds values of type int and str"),
        ([[1]] * 30, "column 'c' holds values of type list"),
        ([1j] * 30, "column 'c' holds values of type complex"),
        (["same"] * 30, "column 'c' is 'same' in every row"),
        ([None] * 30, "column 'c' has no values"),
    ],
)
def test_what_a_feature_cannot_be_is_refused_by_name(column, message):
    with pytest.raises(DataError, match=message):
        load(pandas.DataFrame({"a": numpy.linspace(-1, 1, 30), "c": column}))


def test_many_words_are_accepted_where_they_are_named():
    frame = pandas.DataFrame({"a": numpy.linspace(-1, 1, 30), "c": [f"name {k}" for k in range(30)]})
    assert load(frame, categorical="c").levels == (None, 30)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label": "knid"}, "label: 'knid' is not a known column; did you mean 'kind'"),
        ({"missing": "ignore"}, "'ignore' is not a known way to treat missing values"),
        ({"scales": {"incme": "log"}}, "scales: 'incme' is not a known column; did you mean 'income'"),
        ({"scales": {"city": "log"}}, "column 'city' holds words"),
        ({"scales": {"balance": "log"}}, "'log', but it has values down to -4.28"),
        ({"scales": {"age": "lgo"}}, "'lgo' is not a known scale"),
        ({"label": "kind", "categorical": "kind"}, "both label and categorical"),
        ({"delimiter": ";"}, "'delimiter' is not a known option of a DataFrame"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        load(people(), **options)


def test_a_further_frame_is_read_by_the_schema():
    train = load(people(), label="kind")
    other = people()[["kind", "balance", "age", "city", "income", "size", "member"]].head(12)
    read = Dataset("test", other, schema=train.schema)
    assert torch.equal(read.x, Dataset("people", people(), schema=train.schema).x[:12])
    assert (read.levels, read.classes) == (train.levels, 2)
    assert Dataset("test", other.drop(columns="kind"), schema=train.schema).cond is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.drop(columns="age"), "has no column 'age'"),
        (lambda frame: frame.assign(city="Bonn"), "row 0 .*column 'city' is 'Bonn', but it is one of 'Oslo', 'Paris', 'Rome'"),
        (lambda frame: frame.assign(age=numpy.nan), "by column: 'age' 60 .*fill them in, or leave these rows out, as the model or schema"),
        (lambda frame: frame.assign(age="old"), "column 'age' holds words, but it is integer"),
        (lambda frame: frame.assign(age=17.5), "row 0 .* not an integer in the levels of its column"),
    ],
)
def test_a_further_frame_that_does_not_fit_is_refused(change, message):
    schema = load(people()).schema
    with pytest.raises(DataError, match=message):
        Dataset("test", change(people()), schema=schema)


def test_a_further_frame_may_exceed_the_range_of_integers():
    schema = load(people()).schema
    assert Dataset("test", people().assign(age=90), schema=schema).x[:, 2].unique().tolist() == [90.0]


def test_a_parquet_file_is_its_frame(tmp_path):
    people().to_parquet(tmp_path / "people.parquet")
    assert load(tmp_path / "people.parquet", label="kind").schema == load(people(), label="kind").schema
    (tmp_path / "people.parquet").write_bytes(b"PAR1 cut")
    with pytest.raises(DataError, match="cannot be read as a parquet file"):
        load(tmp_path / "people.parquet")


def test_a_csv_and_its_frame_are_the_same_table(tmp_path):
    frame = people().drop(columns=["member", "size"])
    frame.to_csv(tmp_path / "people.csv", index=False)
    read, given = (load(source, label="kind") for source in (tmp_path / "people.csv", frame))
    assert read.fingerprint() == given.fingerprint()
    assert read.schema == given.schema


def test_gaps_of_a_csv_are_modelled_and_written_empty(tmp_path):
    rows = [f"{k / 7 if k % 5 else ''},{('a', '', 'b')[k % 3]},{k if k % 4 else 'NA'}" for k in range(60)]
    (tmp_path / "t.csv").write_text("\n".join(["size,kind,count", *rows]))
    data = load(tmp_path / "t.csv", missing="model")
    assert data.columns == ("size", "kind", "count", "size is missing", "count is missing")
    assert float(data.x[:, 3].mean()) == pytest.approx(0.2, abs=0.07)
    assert data.categories == {"kind": ("a", "b", None)}


def test_a_model_trains_on_a_frame_and_samples_never_leave_its_bounds():
    frame = with_gaps().drop(columns="kind")
    data = load(frame, missing="model")
    torch.manual_seed(0)
    model = pf.models.realnvp(schema=data.schema, layers=2, hidden=(8,))
    pf.Trainer(model, data, validation=load(frame, "validation", missing="model"), steps=20, batch_size=32).fit()
    x = 3 * model.sample(2000, temperature=3.0, generator=torch.Generator().manual_seed(0)) / 3
    assert bool((x[:, 0] > 0).all()), "a positive column, also of the raw samples"
    table = model.schema.frame(x)
    assert table["income"].min() > 0
    assert set(table["age"].dropna()) <= set(range(18, 68))
    assert 0 < table["city"].isna().mean() < 1
    assert bits_per_dim(model, frame).per_example.isfinite().all()


def test_missing_values_come_out_at_their_rate_and_where_they_depend_on_others():
    """y is missing in 60 of 100 rows of kind a, and in 10 of 100 of kind b."""
    k = numpy.arange(400)
    gap = numpy.where(k % 2 == 0, k % 200 < 120, k % 200 < 20)
    y = numpy.where(gap, numpy.nan, numpy.sin(k * 1.7))
    frame = pandas.DataFrame({"y": y, "kind": numpy.where(k % 2 == 0, "a", "b")})
    data = load(frame, missing="model")
    torch.manual_seed(0)
    model = pf.models.maf(schema=data.schema, layers=3, hidden=(32,))
    pf.Trainer(model, data, steps=250, batch_size=128, lr=5e-3, warmup=10).fit()
    gaps = (
        model.eval().schema.frame(model.sample(4000, generator=torch.Generator().manual_seed(0))).assign(gap=lambda made: made["y"].isna())
    )
    # The rate of the 320 training rows has a standard error of 0.027, and the model adds its own; 0.08 is three of the first.
    assert gaps["gap"].mean() == pytest.approx(0.35, abs=0.08)
    rates = gaps.groupby("kind")["gap"].mean()
    assert rates["a"] > rates["b"] + 0.2


def test_the_trainer_takes_frames_by_the_models_schema():
    schema = load(people(), label="kind").schema
    model = pf.models.realnvp(schema=schema, layers=2, hidden=(8,))
    trainer = pf.Trainer(model, people(), validation=people().head(20), steps=2, batch_size=16).fit()
    assert trainer.data.schema == schema
    assert trainer.best < 100


def test_a_model_without_a_schema_takes_numbers_and_refuses_words():
    numbers = people()[["income", "age", "balance"]]
    model = pf.models.realnvp(3, layers=2, hidden=(8,))
    assert pf.Trainer(model, numbers, steps=1, batch_size=16).fit().data.levels is None
    with pytest.raises(UserError, match="columns of words city, but the model was built without the table's schema"):
        pf.Trainer(model, people()[["income", "city", "age"]], steps=1)


def test_evaluation_takes_frames():
    mixed = people().sample(frac=1, random_state=0)
    train, validation, test = mixed.head(40), mixed.iloc[40:50], mixed.tail(10)
    fitted = fit_baselines(
        Dataset("train", train, "kind"), Dataset("validation", validation, schema=Dataset("train", train, "kind").schema)
    )
    assert "gaussian_per_class" in fitted
    fitted = fit_baselines(train.drop(columns="kind"), validation.drop(columns="kind"))
    assert bits_per_dim(fitted["gaussian"], Dataset("test", test.drop(columns="kind"))).mean < 20
    x, y = train[["age", "balance"]].to_numpy(dtype=numpy.float32), numpy.arange(40) % 2
    assert classifier(torch.utils.data.TensorDataset(torch.from_numpy(x), torch.from_numpy(y)), Dataset("v", x[:9], y[:9])).name


def test_duplicated_names_are_refused():
    frame = pandas.DataFrame(numpy.random.default_rng(0).random((20, 2)), columns=["a", "a"])
    with pytest.raises(UserError, match="two columns 'a'"):
        load(frame)


def test_columns_that_are_left_out_are_not_looked_at():
    frame = people().assign(when=pandas.date_range("2020", periods=60), parts=[[1, 2]] * 60, constant=1.5)
    with pytest.raises(DataError, match="3 columns cannot be read: 'when' holds dates.*'parts' holds values of type list"):
        load(frame)
    same = load(frame, exclude=["when", "parts", "constant"], label="kind", categorical=None, scales=None)
    assert same.fingerprint() == load(people(), label="kind").fingerprint()


@pytest.mark.parametrize("library", ["polars", "pyarrow"])
def test_frames_of_other_libraries_are_those_of_pandas(library):
    module = pytest.importorskip(library)
    frame = with_gaps().drop(columns="size")
    made = (
        module.Table.from_pandas(frame)
        if library == "pyarrow"
        else module.from_dict(
            {name: [None if gap else one for one, gap in zip(frame[name], frame[name].isna(), strict=True)] for name in frame}
        )
    )
    one, other = (load(data, label="kind", missing="model") for data in (frame, made))
    assert (one.schema, one.fingerprint()) == (other.schema, other.fingerprint())
    model = pf.models.maf(schema=one.schema, layers=1, hidden=(4,))
    assert pf.Trainer(model, made, steps=1, batch_size=8).fit().step == 1
