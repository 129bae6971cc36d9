"""Columns of a table that the others are conditional on: how they become conditions, and become columns again."""

import numpy
import pandas
import pytest
import torch

import pushforward as pf
from pushforward.data import Column, Schema, conditions
from pushforward.errors import ConditionError, DataError, ShapeError, UserError

GIVEN = ["age", "member", "city", "code", "dose"]


def people(n=200):
    """A table with every kind of column, whose numbers are the same in text and in float32; `key` identifies a row."""
    rng = numpy.random.default_rng(0)
    return pandas.DataFrame(
        {
            "age": rng.integers(18, 80, n),
            "key": rng.permutation(n) / 64 - 1,
            "member": rng.choice([True, False], n),
            "city": rng.choice(["Oslo", "Paris, France", "Rome"], n),
            "height": rng.integers(-200, 200, n) / 64,
            "code": rng.choice(["007", "012"], n),
            "dose": rng.integers(-200, 200, n) / 64,
        }
    )


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_conditions_are_the_columns_words_and_numbers(split):
    frame = people()
    data = pf.data.load(frame, split, given=GIVEN)
    assert (data.columns, data.schema.given_names, data.cond_features) == (("key", "height"), tuple(GIVEN), 1 + 2 + 3 + 2 + 1)
    table = data.schema.frame(data.x, data.cond)
    rows = frame.set_index("key", drop=False).loc[data.x[:, 0].double().numpy()]
    assert list(table) == list(frame)
    for title in frame:
        assert table[title].tolist() == rows[title].tolist(), title
    assert type(table["member"].tolist()[0]) is bool


def test_conditions_that_are_encoded_again_are_the_same():
    data = pf.data.load(people(), given=GIVEN)
    values = data.schema.given_values(data.cond)
    assert torch.equal(conditions(data.schema, values), data.cond)
    assert torch.equal(conditions(data.schema, pandas.DataFrame(values)), data.cond)
    rows = numpy.array(list(zip(*values.values(), strict=True)), dtype=object)
    assert torch.equal(conditions(data.schema, rows), data.cond)


def test_one_value_stands_for_all_rows():
    data = pf.data.load(people(), given=["age", "city"])
    assert conditions(data.schema, {"age": [20, 30.5], "city": "Rome"}).tolist() == [[20, 0, 0, 1], [30.5, 0, 0, 1]]
    assert data.schema.given_values(conditions(data.schema, {"age": 30.5, "city": "Rome"}))["age"].tolist() == [30.5]


def test_all_readers_of_tables_agree(tmp_path):
    """In a CSV file a bool is a word, so that only the others are compared with it."""
    frame, given = people(), ["age", "city"]
    frame = frame.drop(columns=["member", "code"])
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_parquet(tmp_path / "t.parquet")
    words = sorted(set(frame["city"]))
    x = numpy.column_stack([frame["city"].map(words.index) if title == "city" else frame[title] for title in frame])
    numpy.savez(tmp_path / "t.npz", x=x, columns=list(frame), **{"words of city": words})
    expected = pf.data.load(frame, given=given)
    for name in ("t.csv", "t.parquet", "t.npz"):
        found = pf.data.load(tmp_path / name, given=given)
        assert found.fingerprint() == expected.fingerprint(), name
        assert found.schema == expected.schema, name
    by_number = pf.data.load(tmp_path / "t.csv", given=[0, -2])
    assert by_number.schema.given_names == ("age", "height")


def test_numbers_are_categories_where_they_are_named_so():
    data = pf.data.load(people(), given="age", categorical="age")
    assert data.cond_features == len(data.schema.given[0].words) > 40


def test_rows_without_a_given_value_are_dropped_or_refused():
    frame = people()
    frame.loc[::10, "city"] = None
    for missing in ("refuse", "model"):
        with pytest.raises(DataError, match="20 of 200 rows have missing values, by column: 'city' 20"):
            pf.data.load(frame, given="city", missing=missing)
    assert len(pf.data.load(frame, given="city", missing="drop")) == 144  # of 180


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"given": "agee"}, UserError, "given: 'agee' is not a known column; did you mean 'age'"),
        ({"given": "code", "label": "code"}, UserError, "column 'code' is both label and given"),
        ({"given": "age", "label": "code"}, UserError, r"label is 'code' and given is \['age'\].*use given=\['code', 'age'\]"),
        ({"given": "age", "exclude": "age"}, UserError, "column 'age' is both given and excluded"),
        ({"given": "age", "scales": {"age": "log"}}, UserError, "scales: column 'age' is given"),
        ({"given": [*GIVEN, "key", "height"]}, UserError, "which are all columns; leave out those whose density is wanted"),
        ({"given": "one"}, DataError, "column 'one' is 2.5 in every row, so that nothing depends on it"),
    ],
)
def test_columns_that_cannot_be_given_are_one_sentence(options, kind, message):
    frame = people()
    if options["given"] == "one":
        frame["one"] = 2.5
    with pytest.raises(kind, match=message):
        pf.data.load(frame, **options)


def test_arrays_without_names_have_no_given_columns(tmp_path):
    numpy.savez(tmp_path / "x.npz", x=numpy.random.default_rng(0).normal(size=(20, 2)))
    numpy.savez(tmp_path / "y.npz", x=numpy.random.default_rng(0).normal(size=(20, 2)), y=numpy.arange(20) % 2, columns=["a", "b"])
    with pytest.raises(UserError, match="given is 'a', but columns have no names in it"):
        pf.data.load(tmp_path / "x.npz", given="a")
    with pytest.raises(UserError, match=r"given is \['a'\], but it has conditions y already"):
        pf.data.load(tmp_path / "y.npz", given="a")


def test_rows_of_numbers_and_words_keep_both():
    schema = pf.data.load(people(), given=["age", "member", "city"]).schema
    rows = [[40, True, "Rome"], (41, False, "Oslo")]
    assert conditions(schema, rows).tolist() == [[40, 0, 1, 0, 0, 1], [41, 1, 0, 1, 0, 0]]


def test_numbers_outside_the_range_of_training_are_warned_of():
    schema = pf.data.load(people(), given=["age", "city"]).schema
    low, high = schema.given[0].low, schema.given[0].high
    assert len(conditions(schema, {"age": [low, high], "city": "Rome"})) == 2
    with pytest.warns(UserWarning, match=f"given: age is 400, but training had {low:g} to {high:g}; samples beyond are extrapolated."):
        conditions(schema, {"age": [low, 400, 500], "city": "Rome"})


def test_two_columns_of_one_name_are_refused():
    schema = pf.data.load(people(), given=["age", "city"]).schema
    twice = pandas.DataFrame([[40, "Rome", 50]], columns=["age", "city", "age"])
    with pytest.raises(DataError, match="given has two columns 'age', but each needs a name of its own; rename one"):
        conditions(schema, twice)
    schema = pf.data.load(people()[["age", "key", "height"]], given=["age"]).schema
    twice = pandas.DataFrame(numpy.zeros((3, 4)), columns=["age", "key", "height", "key"])
    with pytest.raises(DataError, match="rows has two columns 'key', but each needs a name of its own; rename one"):
        pf.data.Dataset("rows", twice, schema=schema)


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        ({"age": 40}, ConditionError, "given has no 'city', but samples are conditional on age, city"),
        ({"age": 40, "town": "Rome"}, ConditionError, "'town' is not a known condition"),
        ({"age": 40, "city": "Rom"}, DataError, "column 'city' is 'Rom', but it is one of 'Oslo'"),
        ({"age": "old", "city": "Rome"}, DataError, "column 'age' holds words, but it held numbers in training"),
        ({"age": [40, numpy.nan], "city": "Rome"}, DataError, "column 'age' is missing in row 1"),
        ({"age": [40, 41, 42], "city": ["Rome", "Oslo"]}, ConditionError, "columns of 2 and 3 rows"),
        ({"age": [[40, 41]], "city": "Rome"}, ConditionError, r"age has shape \(1, 2\), but it is one value for all rows, or one for each"),
    ],
)
def test_conditions_that_are_none_are_one_sentence(given, kind, message):
    schema = pf.data.load(people(), given=["age", "city"]).schema
    with pytest.raises(kind, match=message):
        conditions(schema, given)


def test_a_schema_checks_its_given_columns():
    with pytest.raises(UserError, match="the label 'kind' and the given columns age"):
        Schema((Column("a"),), Column("kind", "category", words=(0, 1)), given=(Column("age"),))
    with pytest.raises(UserError, match="two columns 'a'"):
        Schema((Column("a"),), given=(Column("a"),))
    with pytest.raises(ShapeError, match=r"cond has shape \(3, 2\), but the given columns age need \(n, 1\)"):
        Schema((Column("a"),), given=(Column("age"),)).given_values(torch.zeros(3, 2))
    with pytest.raises(ConditionError, match="has no given columns"):
        conditions(Schema((Column("a"),)), {"age": 3})


def test_a_further_table_is_read_by_the_schema():
    train = pf.data.load(people(), given=["age", "city"])
    again = pf.data.Dataset("more", people()[::-1], schema=train.schema)
    assert torch.equal(again.cond.flip(0), pf.data.Dataset("all", people(), schema=train.schema).cond)
    with pytest.raises(DataError, match="more has no column 'city', which the model is conditional on"):
        pf.data.Dataset("more", people().drop(columns="city"), schema=train.schema)
    with pytest.raises(DataError, match="column 'city' is 'Bern', but it is one of"):
        pf.data.Dataset("more", people().replace("Rome", "Bern"), schema=train.schema)
    assert train.take(3).schema == train.schema
    assert train.with_cond(train.cond + 1).schema == train.with_cond(None).schema == Schema(train.schema.columns)


@pytest.mark.parametrize("build", [pf.models.nsf, pf.models.maf, pf.models.rectified_flow, pf.models.ffjord])
def test_a_model_keeps_its_given_columns_when_it_is_saved(build, tmp_path):
    data = pf.data.load(people(), given=["age", "city"])
    model = build(schema=data.schema)
    assert model.conditioning.cond_features == 4
    loaded = pf.load(pf.save(model, tmp_path / "model"))
    assert loaded.schema == data.schema
    made = loaded.sample(2, cond=conditions(loaded.schema, {"age": [20, 70], "city": "Rome"}))
    assert made.shape == (2, len(data.columns))
    with pytest.raises(UserError, match="cond_features is 3, but the schema's table has 4"):
        build(schema=data.schema, cond_features=3)


def test_data_given_other_columns_are_refused():
    model = pf.models.nsf(schema=pf.data.load(people(), given=["age", "city"], exclude=["member", "code"]).schema)
    other = people().rename(columns={"age": "years"})
    parts = [pf.data.load(other, part, given=["years", "city"], exclude=["member", "code"]) for part in ("train", "validation", "test")]
    with pytest.raises(UserError, match="is given the columns years, city, but the model was built for age, city"):
        pf.evaluation.judge(model, *parts)


def test_the_mean_and_density_of_a_flow_follow_the_given_columns(tmp_path):
    """y is N(2 a + 3 [b], 0.5^2) given a and b: after 400 steps within 0.15 of its mean, and within 0.1 nats of its density."""
    rng, n = numpy.random.default_rng(0), 2000
    a, b = rng.normal(30, 2, n), rng.choice(["no", "yes"], n)
    frame = pandas.DataFrame({"a": a, "b": b, "y": 2 * a + 3 * (b == "yes") + 0.5 * rng.normal(size=n)})
    train, test = (pf.data.load(frame, split, given=["a", "b"], scales={"y": "none"}) for split in ("train", "test"))
    torch.manual_seed(0)
    model = pf.models.maf(schema=train.schema, layers=1, hidden=(16,), preprocess="standardise")
    model = pf.Trainer(model, train, steps=400, batch_size=256, block=256, lr=1e-2).fit().averaged_model.eval()
    cond = conditions(train.schema, {"a": [27.0, 33.0, 30.0, 30.0], "b": ["no", "no", "no", "yes"]})
    made = model.sample(4000, cond.repeat_interleave(1000, 0), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(made.view(4, 1000).mean(1), torch.tensor([54.0, 66.0, 60.0, 63.0]), rtol=0, atol=0.15)
    known = test.schema.given_values(test.cond)
    exact = torch.distributions.Normal(torch.tensor(2 * known["a"] + 3 * (known["b"] == "yes")), 0.5).log_prob(test.x[:, 0].double())
    assert float(model.log_prob(test.x, test.cond).detach().mean() - exact.mean()) == pytest.approx(0, abs=0.1)
