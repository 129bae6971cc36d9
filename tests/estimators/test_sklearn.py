"""Estimators where scikit-learn uses them: its own checks, pipelines, searches, clones, processes, DataFrames."""

import math
import os
import pickle
import signal
from unittest import SkipTest

import joblib
import numpy
import pandas
import pytest
from sklearn.base import clone, is_outlier_detector
from sklearn.compose import make_column_transformer
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.utils.estimator_checks import check_estimator, estimator_checks_generator

from pushforward.estimators.flow_density import FlowDensity
from pushforward.estimators.flow_sampler import FlowSampler
from pushforward.training.trainer import Trainer

QUICK = {
    "check_no_attributes_set_in_init", "check_parameters_default_constructible", "check_get_params_invariance", "check_set_params",
    "check_estimators_unfitted", "check_n_features_in_after_fitting", "check_dataframe_column_names_consistency", "check_fit2d_1feature",
    "check_methods_subset_invariance", "check_dict_unchanged",
}  # fmt: skip
TINY = {"layers": 1, "hidden": (8,)}


def density(**options):
    return FlowDensity(**{"max_steps": 3, "ensemble": 1, "gaussians": False, "preset_options": TINY, "random_state": 0} | options)


def sampler(**options):
    return FlowSampler(**{"preset": "rectified_flow", "max_steps": 3, "random_state": 0} | options)


def normal(n=60, d=3, seed=0):
    return numpy.random.RandomState(seed).normal(size=(n, d))


def table(n=60):
    random = numpy.random.RandomState(0)
    return pandas.DataFrame(
        {
            "income": random.lognormal(10, 1, n).astype("float32"),
            "age": random.randint(18, 90, n).astype("int16"),
            "colour": pandas.Categorical(random.choice(["red", "blue"], n), categories=["red", "blue", "never"]),
            "member": random.uniform(size=n) < 0.5,
            "city": pandas.array(random.choice(["A", "B", "C"], n), dtype="string"),
            "visits": pandas.array(random.randint(0, 5, n), dtype="Int64"),
        },
        index=range(100, 100 + n),
    )


def checks():
    """Yield the checks of scikit-learn for both estimators; those that are no quick ones are marked."""
    for estimator in (density(max_steps=1), sampler(max_steps=1)):
        for one, check in estimator_checks_generator(estimator):
            name = getattr(check, "func", check).__name__
            marks = [] if name in QUICK else [pytest.mark.slow]
            yield pytest.param(one, check, marks=marks, id=f"{type(estimator).__name__}-{name}")


@pytest.mark.parametrize(("estimator", "check"), list(checks()))
def test_the_checks_of_scikit_learn_pass(estimator, check):
    try:
        check(estimator)
    except SkipTest as reason:
        pytest.skip(str(reason))


@pytest.mark.slow
@pytest.mark.parametrize("estimator", [FlowDensity(max_steps=4), FlowDensity(max_steps=4, early_stopping=False), FlowSampler(max_steps=4)])
def test_all_checks_of_scikit_learn_pass_with_other_parameters(estimator):
    results = check_estimator(estimator, on_skip=None)
    assert {one["check_name"] for one in results if one["status"] != "passed"} <= {"check_array_api_input"}  # it needs SCIPY_ARRAY_API


def test_an_estimator_is_a_step_of_a_pipeline_and_of_searches():
    x = normal(90) * [1, 10, 100]
    pipe = make_pipeline(StandardScaler(), density())
    search = GridSearchCV(pipe, {"flowdensity__preset": ["maf", "iaf"], "flowdensity__learning_rate": [1e-3, 1e-2]}, cv=2)
    search.fit(x)
    assert math.isfinite(search.best_score_)
    best = search.best_estimator_
    assert best.score(x) == pytest.approx(best[-1].score_samples(best[:-1].transform(x)).mean())
    assert best.predict(x).shape == (90,)
    assert best[:-1].inverse_transform(best[-1].sample(5)).shape == (5, 3)


def test_a_scale_that_ends_at_the_training_data_gives_new_rows_a_density():
    """Shares in [0, 1] are on a scale with ends only where this fits better: a new row may lie beyond those of a MinMaxScaler."""
    x = normal(200)
    pipe = make_pipeline(MinMaxScaler(), density(max_steps=20)).fit(x)
    assert math.isfinite(pipe.score(x[:5] * 4))


@pytest.mark.slow
def test_rows_far_away_have_a_finite_log_density():
    one = density(gaussians=True).fit(numpy.exp(normal()))
    assert numpy.isfinite(one.score_samples([[-3.0, 1.0, 1.0], [1e6, 1, 1]])).all()
    assert numpy.isneginf(density().fit(numpy.exp(normal())).score_samples([[-3.0, 1.0, 1.0]])).all(), (
        "without Gaussians its scale ends at 0"
    )


@pytest.mark.slow
def test_folds_run_in_processes():
    scores = cross_val_score(density(), normal(60), cv=2, n_jobs=2)
    numpy.testing.assert_allclose(scores, cross_val_score(density(), normal(60), cv=2), rtol=1e-6)


@pytest.mark.parametrize("make", [density, sampler])
def test_a_clone_and_a_pickle_give_the_same_samples(make, tmp_path):
    x = table()
    one = make().fit(x)
    pandas.testing.assert_frame_equal(clone(one).fit(x).sample(4), one.sample(4))
    joblib.dump(one, tmp_path / "one.joblib")
    for again in (pickle.loads(pickle.dumps(one)), joblib.load(tmp_path / "one.joblib")):
        pandas.testing.assert_frame_equal(again.sample(4, random_state=3), one.sample(4, random_state=3))


def test_samples_have_the_columns_and_types_of_the_table():
    x = table()
    made = density(missing="model").fit(x).sample(50, random_state=0)
    assert list(made) == list(x)
    assert made.dtypes.to_dict() == x.dtypes.to_dict()
    assert set(made["colour"]) <= {"red", "blue"}
    assert made["age"].between(x["age"].min(), x["age"].max()).all()
    numbered = x[["age", "income"]].set_axis([0, 1], axis=1)
    assert list(density().fit(numbered).sample(2)) == [0, 1]


def test_missing_values_of_all_types_are_modelled_and_come_back():
    x = table(90)
    x.loc[x.index[::3], ["income", "colour", "city", "visits"]] = None
    one = density(missing="model", max_steps=10).fit(x)
    made = one.sample(200, random_state=0)
    assert made.dtypes.to_dict() == x.dtypes.to_dict()
    assert made[["income", "colour", "city", "visits"]].isna().any().all()
    assert numpy.isfinite(one.score_samples(x)).all()


def test_output_of_other_steps_as_pandas_is_read_with_its_names():
    x = table()
    pipe = make_pipeline(
        make_column_transformer((StandardScaler(), ["income"]), remainder="passthrough", verbose_feature_names_out=False), density()
    )
    pipe.set_output(transform="pandas").fit(x)
    assert list(pipe[-1].feature_names_in_) == ["income", "age", "colour", "member", "city", "visits"]
    assert pipe.score_samples(x).shape == (60,)


def test_an_outlier_is_found_and_the_share_of_outliers_is_the_contamination():
    x = numpy.vstack((normal(200), [[9.0, 9.0, 9.0]]))
    one = density(gaussians=True, contamination=0.05, max_steps=20)
    found = one.fit_predict(x)
    assert is_outlier_detector(one)
    assert found[-1] == -1
    assert (found == -1).sum() == 10  # 5 % of 201 rows
    numpy.testing.assert_array_equal(found, one.predict(x))


@pytest.mark.slow
def test_without_contamination_one_row_in_twenty_is_below_the_offset():
    """5 % of 2,000 new rows with the density of the training rows: 2.6 to 7.4 % are four standard errors of both samples."""
    one = density(gaussians=True, max_steps=30, ensemble=3).fit(normal(2000, 2))
    share = (one.predict(normal(2000, 2, seed=1)) == -1).mean()
    assert 0.02 < share < 0.08


def test_a_density_given_classes_sums_to_that_of_all_by_their_frequencies():
    x, y = normal(80, 2), numpy.array(["low", "high", "high", "high"] * 20)
    x[y == "high"] += 5
    one = density(condition="y", max_steps=60, learning_rate=1e-2).fit(x, y)
    assert one.classes_.tolist() == ["high", "low"]
    each = numpy.stack([one.score_samples(x, [name] * 80) for name in one.classes_])
    together = numpy.logaddexp(each[0] + math.log(0.75), each[1] + math.log(0.25))
    numpy.testing.assert_allclose(one.score_samples(x), together, atol=1e-9)
    assert one.score(x, y) > one.score(x, numpy.where(y == "low", "high", "low"))
    high, low = (one.sample(1000, 0, given=name).mean() for name in ("high", "low"))
    assert high > low + 0.5
    assert one.sample(1000, 0).mean() == pytest.approx(0.75 * high + 0.25 * low, abs=0.4)
    assert one.predict(x, y).shape == (80,)


@pytest.mark.slow
def test_a_density_given_columns_is_that_of_the_others():
    """b is a + N(0, 0.1^2), and c a word that shifts it by 10: samples given a and c are where these put them."""
    random = numpy.random.RandomState(0)
    a, c = random.normal(size=400), random.choice(["left", "right"], 400)
    x = pandas.DataFrame({"a": a, "b": a + 0.1 * random.normal(size=400) + 10 * (c == "right"), "c": c})
    one = density(condition=["a", "c"], gaussians=True, max_steps=100).fit(x)
    made = one.sample(300, 0, given={"a": 1.0, "c": "right"})
    assert list(made) == ["a", "b", "c"]
    assert set(made["c"]) == {"right"}
    assert made["b"].mean() == pytest.approx(11, abs=0.3)
    pandas.testing.assert_series_equal(one.sample(400, 0, given=x[["a", "c"]])["a"], x["a"])
    assert one.score(x) > one.score(x.assign(a=x["a"] + 1)) + 1
    assert one.score(x) == pytest.approx(-0.5 * math.log(2 * math.pi * math.e * 0.01), abs=0.8)


@pytest.mark.parametrize("make", [density, sampler])
@pytest.mark.parametrize("condition", [["c", "a"], [2, 0]])
def test_a_row_of_conditions_has_the_order_in_which_they_were_chosen(make, condition):
    x = pandas.DataFrame(normal(60), columns=["a", "b", "c"])
    made = make(condition=condition).fit(x).sample(2, 0, given=[[1.0, 2.0], [3.0, 4.0]])
    assert (made["c"].tolist(), made["a"].tolist()) == ([1.0, 3.0], [2.0, 4.0])


@pytest.mark.parametrize("y", [normal(60)[:, 0], normal(60)[:, :2], numpy.arange(60) % 3, numpy.arange(60) % 2 == 0])
def test_targets_of_all_kinds_are_conditions(y):
    x = normal()
    one = density(condition="y").fit(x, y)
    assert numpy.isfinite(one.score_samples(x, y)).all()
    assert one.sample(60, 0, given=y).shape == (60, 3)
    assert sampler(condition="y").fit(x, y).sample(1, 0, given=y[:1]).shape == (1, 3)


@pytest.mark.slow
def test_a_warm_start_continues_and_reads_by_the_former_columns():
    x = normal(200) + 3 * numpy.sign(normal(200, seed=1))
    cold = density(max_steps=60, early_stopping=False).fit(x)
    warm = density(max_steps=60, early_stopping=False, warm_start=True).fit(x)
    before = warm.score(x)
    warm.fit(x)
    assert warm.score(x) > before == pytest.approx(cold.score(x))
    words = table()
    one = density(warm_start=True).fit(words)
    one.fit(words[words["city"] != "C"])
    assert numpy.isfinite(one.score_samples(words)).all(), "C is still a word"


def test_categories_of_numbers_are_words():
    x = pandas.DataFrame({"code": [7, 7, 300] * 20, "size": normal()[:, 0]})
    assert set(density(categorical="code").fit(x).sample(50, 0)["code"]) <= {7, 300}
    one = density(condition="code", categorical="code").fit(x)
    assert set(one.sample(5, 0, given=300)["code"]) == {300}


def test_a_half_between_integers_has_a_density_between_theirs():
    """Ages of training rows happen to be integers, and a new one is 41.5: its unit interval is half that of 41 and half that of 42."""
    x = numpy.random.RandomState(0).randint(30, 60, (200, 2)).astype(float)
    one = density(max_steps=20).fit(x)
    low, half, high = one.score_samples([[41, 40], [41.5, 40], [42, 40]])
    assert min(low, high) - 0.05 < half < max(low, high) + 0.05


@pytest.mark.slow
def test_a_single_column_and_a_preset_without_density_have_samples():
    assert density(preset="nsf", preset_options={}).fit(normal(30, 1)).sample(3, 0).shape == (3, 1)
    assert sampler(preset="meanflow").fit(table()).sample(3, 0).shape == (3, 6)


@pytest.mark.filterwarnings("ignore::pushforward.errors.StoppedWarning")
def test_ctrl_c_in_training_ends_a_fit_and_leaves_no_half_fitted_estimator(monkeypatch):
    loop = Trainer._loop

    def interrupted(trainer, *args):
        os.kill(os.getpid(), signal.SIGINT)
        loop(trainer, *args)

    monkeypatch.setattr(Trainer, "_loop", interrupted)
    one = density(max_steps=100)
    one.density_ = "of an earlier fit"
    with pytest.raises(KeyboardInterrupt, match="SIGINT at step 0"):
        one.fit(normal())
    with pytest.raises(NotFittedError):
        one.predict(normal())


def test_without_early_stopping_all_rows_are_trained_on():
    one = density(early_stopping=False, max_steps=4, gaussians=True).fit(normal())
    assert (one.weights_, one.n_steps_, one.held_out_score_) == ({"flow": 1.0}, [4], None)


@pytest.mark.parametrize("counts", [(50, 50, 50), (2, 98), (33, 67), (59, 61)])
def test_samples_without_a_given_class_have_the_classes_frequencies(counts):
    """Shares of float32 do not sum to 1 in float64, which numpy refuses."""
    y = numpy.repeat(numpy.arange(len(counts)), counts)
    X = numpy.random.RandomState(0).normal(size=(len(y), 2))
    one = FlowDensity(condition="y", max_steps=1, ensemble=1, gaussians=False, random_state=0).fit(X, y)
    assert one.sample(20).shape == (20, 2)
    assert sum(one.conditions_.frequencies) == pytest.approx(1, abs=1e-15)
