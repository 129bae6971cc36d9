"""The table of a comparison: means and spreads over seeds, and what stands where there is no number."""

import math

from pushforward.evaluation import comparison_pictures
from pushforward.evaluation.comparison import columns_of, csv_of, evaluations_of, lost_seeds, reasons_of, rows_of, text_of, uneven
from pushforward.evaluation.measured import Measured, Samples

COLUMNS = columns_of("bits per dimension", "data")
KEYS = [one.key for one in COLUMNS]


def of(column):
    return next(one for one in COLUMNS if one.key == column)


def flow(seconds, recall, likelihood=None, reason=""):
    made = [Samples(1, 0.5, {"recall": recall}), Samples(2, None, reason="no such jump")]
    return Measured(100, 10, seconds, likelihood, None, reason, made)


def test_means_and_standard_deviations_are_over_seeds():
    rows = rows_of({"a": [flow(1.0, 0.2), flow(3.0, 0.6)]}, {"recall": 0.9}, KEYS)
    assert [(row.model, row.seeds, evaluations_of(row)) for row in rows] == [("a", 2, "1"), ("a", 2, "2"), ("training data", 1, "—")]
    recall = rows[0].cells["recall"]
    assert (recall.mean, recall.count) == (0.4, 2)
    assert math.isclose(recall.sd, 0.4 / math.sqrt(2))  # sqrt((0.2^2 + 0.2^2) / 1)
    assert text_of(recall, of("recall")) == "0.400 ± 0.283"
    assert text_of(rows[0].cells["seconds"], of("seconds")) == "2 ± 1"
    assert text_of(rows[0].cells["parameters"], of("parameters")) == "100"  # equal for all seeds


def test_one_seed_has_no_spread_and_missing_values_have_reasons():
    rows = rows_of({"a": [flow(1.0, 0.2, reason="it has no log_prob")]}, {}, KEYS)
    assert text_of(rows[0].cells["recall"], of("recall")) == "0.200"
    assert text_of(rows[0].cells["likelihood"], of("likelihood")) == "—"
    reasons = reasons_of(rows, COLUMNS)
    assert "a, bits per dimension: it has no log_prob" in reasons
    assert any("no such jump" in one for one in reasons)


def test_a_failed_seed_is_left_out_of_the_mean_and_named():
    groups = {"a": [flow(1.0, 0.2), Measured(failure="failed: a NaN")], "b": [Measured(failure="failed: memory")], "c": [flow(1.0, 0.3)]}
    assert lost_seeds(groups) == ["a: 1 of 2 seeds failed and are left out of its row (failed: a NaN)."]
    rows = rows_of(groups, {}, KEYS)
    assert (rows[0].seeds, rows[0].cells["recall"].mean, rows[0].cells["recall"].count) == (1, 0.2, 1)
    assert (rows[2].model, rows[2].seeds, rows[2].cells["recall"].reason) == ("b", 0, "failed: memory")


def test_models_that_were_trained_for_another_time_are_named():
    rows = rows_of({"a": [flow(30.0, 0.2)], "b": [flow(5.0, 0.2), flow(7.0, 0.2)], "c": [Measured(failure="failed")]}, {}, KEYS)
    (sentence,) = uneven(rows, 30.0)
    assert "not trained equally: b (6 s) took far from 30 s" in sentence
    assert uneven(rows[:2], 30.0) == uneven(rows[:2], 40.0) == []


def test_csv_has_a_mean_and_a_standard_deviation_of_each_column():
    lines = csv_of(rows_of({"a, b": [flow(1.0, 0.2, 2.5)]}, {"recall": 0.9}, KEYS), COLUMNS).splitlines()
    assert lines[0].startswith("model,seeds,evaluations,parameters,parameters_sd,")
    assert lines[1].startswith('"a, b",1,1,100.0,,10.0,,1.0,,2.5,,0.5,')
    assert lines[3].split(",")[:3] == ["training data", "1", ""]


def test_records_survive_json():
    measured = flow(1.0, 0.2, 2.5)
    assert Measured.from_plain(measured.plain()) == measured


def test_every_axis_of_the_quality_has_numbers(monkeypatch, tmp_path):
    made = [Samples(k, 0.5, {"sliced_wasserstein": 0.3 + 0.01 * k, "recall": 0.5}) for k in (1, 2)]
    rows = rows_of({"a": [Measured(100, 10, 1.0, None, None, "none", made)]}, {"sliced_wasserstein": 0.35, "recall": 0.9}, KEYS)
    drawn = []
    monkeypatch.setattr(comparison_pictures, "save_figure", lambda figure, path: drawn.append(figure))
    assert comparison_pictures.quality_picture(rows, COLUMNS, tmp_path / "quality.png")
    drawn[0].canvas.draw()
    for axes in drawn[0].axes[:2]:
        low, high = axes.get_ylim()
        ticks = [*axes.yaxis.get_major_ticks(), *axes.yaxis.get_minor_ticks()]
        assert any(low <= tick.get_loc() <= high and tick.label1.get_text() for tick in ticks), axes.get_ylabel()
