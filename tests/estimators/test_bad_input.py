"""What estimators refuse: one sentence each, before anything is trained."""

import numpy
import pandas
import pytest
from sklearn.exceptions import NotFittedError

from pushforward.errors import PushforwardError
from pushforward.estimators.flow_density import FlowDensity
from pushforward.estimators.flow_sampler import FlowSampler

X = numpy.random.RandomState(0).normal(size=(40, 3))
FRAME = pandas.DataFrame({"size": X[:, 0], "colour": ["blue", "red"] * 20, "count": range(40)})


def changed(**columns):
    return FRAME.assign(**columns)


@pytest.fixture(scope="module")
def on_frame():
    return FlowDensity(max_steps=1, ensemble=1, gaussians=False).fit(FRAME)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "nfs"}, "'nfs' is not a known preset; did you mean 'nsf'"),
        ({"preset": "glow"}, "preset is 'glow', which is for images"),
        ({"preset": "tarflow"}, "tarflow"),
        ({"preset": "meanflow"}, "preset is 'meanflow', which has no density; use nsf or maf, or FlowSampler"),
        ({"preset_options": {"layer": 2}}, "preset_options: 'layer' is not a known option of maf; did you mean 'layers'"),
        ({"preset_options": 4}, "preset_options is 4, but it is a dictionary"),
        ({"contamination": 0.7}, "contamination is 0.7, but it is a share of the rows above 0 and at most 0.5"),
        ({"contamination": 0}, "contamination is 0, but"),
        ({"contamination": "high"}, "contamination is 'high', but"),
        ({"ensemble": 0}, "ensemble is 0, but it must be at least 1"),
        ({"ensemble": 30}, "X has 40 rows, but ensemble=30 holds out at least 2 for each member"),
        ({"max_steps": 0.5}, "max_steps is 0.5, but it must be an integer; 'auto'"),
        ({"batch_size": 0}, "batch_size is 0, but it must be at least 1"),
        ({"learning_rate": "fast"}, "learning_rate is 'fast', but it must be a finite number"),
        ({"learning_rate": 0.0}, "lr is 0.0, but a learning rate must be positive"),
        ({"validation_fraction": 1.5}, "validation_fraction is 1.5, but it is a share of the rows above 0 and below 1"),
        ({"patience": 0}, "patience is 0, but it must be at least 1"),
        ({"missing": "forget"}, "missing: 'forget' is not a known way to treat missing values"),
        ({"scales": {"x9": "log"}}, "scales: 'x9' is not a known column"),
        ({"scales": {"x0": "log"}}, "the scale of column 'x0' is 'log', but it has values down to"),
        ({"categorical": ["x0"]}, "column 'x0' holds real numbers, but a category needs integers or words"),
        ({"categorical": "x7"}, "categorical: 'x7' is not a known column"),
        ({"condition": "age"}, "condition: 'age' is not a known column"),
        ({"condition": [0, 1, 2]}, "which are all columns of X; leave out those whose density is wanted"),
        ({"condition": "y"}, "y is None, but condition='y' requires y to be passed"),
        ({"device": "cuda:77"}, "device is 'cuda:77', which this machine does not have"),
        ({"random_state": "a"}, "'a' cannot be used to seed"),
    ],
)
def test_a_parameter_that_is_not_allowed_is_refused(options, message):
    with pytest.raises((PushforwardError, ValueError), match=message.replace("(", r"\(").replace(")", r"\)")):
        FlowDensity(**{"max_steps": 1, "ensemble": 1} | options).fit(X)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (X[:4], "X has 4 samples (n_samples=4), but a flow is fitted to at least 10"),
        (X[0], "Expected 2D array, got 1D array"),
        (numpy.where(X > 2, numpy.inf, X), "Input X contains infinity"),
        (numpy.where(X > 2, numpy.nan, X), "NaN"),
        (numpy.where([True, False, False], 0.5, X), "column 'x0' is 0.5 in every row, and the density of a constant has no bound"),
        (changed(size=pandas.date_range("2020-01-01", periods=40)), "column 'size' holds dates (datetime64"),
        (changed(colour=[f"2020-01-{1 + k % 28:02}" for k in range(40)]), "column 'colour' holds dates, such as '2020-01-01'"),
        (changed(colour="blue"), "column 'colour' is 'blue' in every row, but a category needs at least 2 words"),
        (changed(colour=[f"person {k}" for k in range(40)]), "has 40 different words in 40 rows"),
        (changed(size=numpy.inf), "column 'size' is infinite in row 0"),
        (changed(size=[None, *X[1:, 0]]), "1 of 40 rows have missing values, by column: 'size' 1"),
        (pandas.concat([FRAME, FRAME[["size"]]], axis=1), "X has two columns 'size', but each needs a name of its own"),
        (FRAME[:0], "X has 0 rows"),
    ],
)
def test_a_table_that_cannot_be_read_is_refused(x, message):
    with pytest.raises(ValueError) as caught:
        FlowDensity(max_steps=1, ensemble=1).fit(x)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (FRAME[["size", "colour"]], "missing"),
        (changed(colour="green"), "row 0 (counted from 0), column 'colour' is 'green', but it is one of 'blue', 'red'"),
        (changed(size="large"), "column 'size' holds words, but it is continuous in the schema"),
        (changed(size=numpy.inf), "column 'size' is infinite in row 0"),
        (changed(size=numpy.nan), "40 of 40 rows have missing values"),
        (FRAME.rename(columns={"size": "length"}), "Feature names unseen at fit time"),
        (X, "column 'colour' is"),
        (X[:, :2], "X has 2 features, but FlowDensity is expecting 3 features"),
    ],
)
@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
def test_rows_that_do_not_fit_the_fitted_table_are_refused(on_frame, frame, message):
    with pytest.raises(ValueError) as caught:
        on_frame.score_samples(frame)
    assert message in str(caught.value)


def test_an_estimator_that_is_not_fitted_is_refused():
    for call in ("score_samples", "predict", "decision_function", "score"):
        with pytest.raises(NotFittedError, match="is not fitted yet"):
            getattr(FlowDensity(), call)(X)
    for estimator in (FlowDensity(), FlowSampler()):
        with pytest.raises(NotFittedError, match="is not fitted yet"):
            estimator.sample(3)


def test_samples_that_cannot_be_drawn_are_refused(on_frame):
    with pytest.raises(ValueError, match="n_samples is 0, but it must be at least 1"):
        on_frame.sample(0)
    with pytest.raises(ValueError, match="given is a condition, but the model was fitted without"):
        on_frame.sample(2, given={"colour": "red"})


def test_conditions_that_do_not_fit_are_refused():
    one = FlowSampler("rectified_flow", condition=["colour", "count"], max_steps=1).fit(FRAME)
    for given, message in (
        (None, "given is None, but samples are conditional on colour, count"),
        ({"colour": "red"}, "given has no 'count', but samples are conditional on colour, count"),
        ({"colour": "red", "cuont": 2}, "'cuont' is not a known condition; did you mean 'count'"),
        ({"colour": "pink", "count": 2}, "column 'colour' is 'pink', but it is one of"),
        ({"colour": "red", "count": [1, 2, 3]}, "given has 1 and 3 rows, but 4 samples need"),
        ({"colour": "red", "count": "two"}, "column 'count' holds words, but it held numbers"),
        ({"colour": "red", "count": numpy.nan}, "column 'count' is missing in row 0"),
        (numpy.zeros((4, 3)), "given has shape (4, 3), but a condition has 2 columns (colour, count)"),
    ):
        with pytest.raises(ValueError) as caught:
            one.sample(4, given=given)
        assert message in str(caught.value)


def test_a_target_that_is_needed_is_asked_for():
    one = FlowDensity(condition="y", max_steps=1, ensemble=1, gaussians=False).fit(X, X[:, 0])
    for call in (one.score_samples, one.predict):
        with pytest.raises(ValueError, match="requires y to be passed"):
            call(X)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        one.score_samples(X, X[:3, 0])
    with pytest.raises(ValueError, match="y is nan in row 0"):
        one.fit(X, numpy.where(X[:, 0] == X[0, 0], numpy.nan, X[:, 0]))


def test_a_warm_start_with_other_sizes_is_refused():
    one = FlowDensity(max_steps=1, ensemble=2, gaussians=False, warm_start=True).fit(X)
    with pytest.raises(ValueError, match="warm_start is True, but there are 2 members and now 3; give ensemble=2"):
        one.set_params(ensemble=3).fit(X)
    with pytest.raises(PushforwardError, match="these weights do not fit the model"):
        one.set_params(ensemble=2, preset_options={"hidden": (5,)}).fit(X)
