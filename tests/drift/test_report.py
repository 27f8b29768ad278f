import json
import math
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prodml.drift import (
    CheckReport,
    DriftDetector,
    DriftLevel,
    DriftMonitor,
    DriftReport,
    FeatureSummary,
    priority,
)
from prodml.errors import BadConfiguration
from prodml.events import DriftDetected, Stream
from prodml.retraining import RetrainingOrchestrator
from prodml.testing import ManualClock


def table(seed, n=600, shift=0.0):
    rng = np.random.default_rng(seed)
    return {
        "age": rng.normal(40, 10, size=n) + 10 * shift,
        "<b>fare</b>": rng.lognormal(size=n),
        "plan": rng.choice(["basic", "pro & co"], size=n, p=[0.5 + shift / 3, 0.5 - shift / 3]),
        "gone": rng.normal(size=n),
        "empty": [None] * n,
    }


@pytest.fixture
def report():
    detector = DriftDetector(table(0), clock=ManualClock(86400.0), events=Stream(), name="ticket")
    current = table(1, shift=1.0)
    del current["gone"]
    return detector.detect_drift({**current, "new": [1] * 600})


def test_a_report_is_a_mapping_in_the_order_of_the_reference(report):
    assert list(report) == ["age", "<b>fare</b>", "plan", "gone", "empty"]
    assert len(report) == 5
    assert report["age"].name == "age"
    with pytest.raises(KeyError):
        report["nothing"]


def test_what_drifted_is_ranked_by_effect(report):
    assert report.drift_detected
    assert report.drifted == ("gone", "age", "plan")
    assert report.inconclusive == ("empty",)
    assert [f.level for f in report.ranked()][-1] is DriftLevel.NONE


def test_the_score_is_the_largest_effect_of_what_drifted(report):
    assert report.score == 1.0
    assert report.share == 0.6
    assert DriftDetector(table(0), events=Stream()).detect_drift(table(0)).score == 0.0


def test_the_headline_says_when_what_and_at_which_level(report):
    assert report.headline == (
        "ticket, 1970-01-02 00:00 UTC: 3 of 5 features drifted, 1 inconclusive, "
        "new columns: new (alpha 0.05)"
    )
    assert repr(report) == f"<DriftReport {report.headline}>"


def test_the_dictionary_is_json_without_nan(report):
    plain = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert plain["drifted"] == ["gone", "age", "plan"]
    age = plain["features"]["age"]
    assert age["level"] == "drift"
    assert age["drift_detected"] is True
    assert age["p_value"] < age["p_adjusted"] < 0.05
    assert [e["aspect"] for e in age["evidence"]] == ["distribution", "range"]
    assert plain["features"]["plan"]["reference_mean"] is None


def test_the_page_is_written_and_returned(report, tmp_path):
    text = report.to_html(tmp_path / "drift.html")
    assert (tmp_path / "drift.html").read_text(encoding="utf-8") == text
    assert text.startswith("<!doctype html>")
    assert text.count("<svg") == 3


def test_the_page_needs_nothing_from_elsewhere(report):
    text = report.to_html()
    assert "<script" not in text
    assert "src=" not in text
    assert "<link" not in text


def test_what_matters_to_the_model_comes_first(report):
    assert report.weighed({"plan": 10.0, "gone": 0.0}).drifted == ("plan", "age", "gone")
    # An inconclusive feature stays behind what drifted, an important one ahead of its like.
    assert report.weighed({"empty": 9.0}).ranked()[3].name == "empty"
    assert report.drifted == ("gone", "age", "plan"), "the report itself stays as it was"
    text = report.to_html(importance={"plan": 10.0, "gone": 0.0})
    assert text.index('href="#f0"><bdi>plan') < text.index('href="#f1"><bdi>age')
    assert "importance</th>" in text
    assert "importance</th>" not in report.to_html()


@pytest.mark.parametrize("wrong", [{"age": -1.0}, {"age": math.nan}, {"age": "much"}, 3])
def test_an_importance_that_is_none_is_refused(report, wrong):
    with pytest.raises(BadConfiguration, match="importance"):
        report.weighed(wrong)


@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_evidence_ranks_little_once_it_is_strong(p, other):
    def of(p):
        return priority(FeatureSummary(level=DriftLevel.NONE, effect=1.0, p_adjusted=p))

    assert 0.5 <= of(p) <= 1.0
    assert (of(p) - of(other)) * (other - p) >= 0.0, "less p, more priority"
    assert of(1e-9) - of(0.0) < 1e-6


def test_evidence_is_that_of_the_paper():
    # Sellke, Bayarri and Berger, table 1: odds against chance of p = .05 and .01.
    for p, odds in ((0.05, 2.456), (0.01, 7.988)):
        found = priority(FeatureSummary(level=DriftLevel.NONE, effect=1.0, p_adjusted=p))
        assert found / (1.0 - found) == pytest.approx(odds, abs=1e-3)


def test_numbers_for_triggers_are_finite_and_fire_one(report):
    found = report.metrics()
    assert all(type(value) is float and math.isfinite(value) for value in found.values())
    assert found["drift_score"] == found["drift_worst_effect"] == 1.0
    assert found["drift_share"] == 0.6
    counts = ("drifted", "inconclusive", "negligible", "features", "new_columns")
    assert [found[f"drift_{name}"] for name in counts] == [3, 1, 0, 5, 1]
    orchestrator = RetrainingOrchestrator("model", train=lambda context: "model", events=Stream())
    decision = orchestrator.check_triggers(found)
    assert [firing.type.value for firing in decision.fired] == ["data_drift"]


def test_the_rise_of_missing_values_is_a_number():
    old = {"x": [1.0] * 90 + [None] * 10, "y": [None] * 50 + [1.0] * 50}
    new = {"x": [1.0] * 60 + [None] * 40, "y": [1.0] * 100}
    found = DriftDetector(old, events=Stream()).detect_drift(new).metrics()
    assert found["drift_missing"] == pytest.approx(0.3)


def test_the_fact_of_an_alarm_names_features_in_the_order_of_the_report(report):
    heard, events = [], Stream()
    events.subscribe(DriftDetected, heard.append)
    detector = DriftDetector(table(0), events=events)
    current = table(1, shift=1.0)
    del current["gone"]
    found = detector.detect_drift(current)
    assert list(heard[0].effects) == list(found.drifted) == ["gone", "age", "plan"]
    assert heard[0].reason.startswith("gone: the column is gone; age: ")


def test_a_report_without_features_says_so_everywhere():
    empty = DriftReport({})
    assert (empty.score, empty.share, empty.drifted) == (0.0, 0.0, ())
    assert empty.metrics()["drift_worst_effect"] == 0.0
    assert str(empty) == empty.headline
    assert "no feature drifted" in empty.to_html()
    ET.fromstring(empty._repr_html_().join(("<div>", "</div>")))


def test_other_checks_have_the_same_report():
    clock, rng = ManualClock(0.0), np.random.default_rng(0)
    monitor = DriftMonitor(rng.normal(size=(500, 2)), ["a", "b"], clock=clock, events=Stream())
    found = monitor.check(rng.normal(size=(300, 2)) + np.array([0.0, 2.0]))
    report = CheckReport(found, alpha=found.alpha, at=found.at, source=found.source)
    assert report.drifted == ("b",)
    assert report.table().splitlines()[4].split()[:3] == ["!", "drift", "b"]
    assert "<bdi>b</bdi>" in report.to_html()


def test_names_and_levels_are_escaped(report):
    text = report.to_html()
    assert "<b>fare" not in text
    assert "&lt;b&gt;fare" in text
    assert "pro &amp; co" in text


def test_the_fragment_for_notebooks_is_well_formed(report):
    fragment = report._repr_html_()
    assert not fragment.startswith("<!doctype")
    ET.fromstring(f"<div>{fragment}</div>")


def test_a_page_of_25_columns_is_small_enough_for_a_mail():
    rng = np.random.default_rng(0)
    levels = [f"level {i}" for i in range(15)]

    def batch(shift):
        numbers = {f"n{i}": rng.normal(shift, size=2000) for i in range(20)}
        return numbers | {f"c{i}": rng.choice(levels, size=2000) for i in range(5)}

    report = DriftDetector(batch(0.0), events=Stream()).detect_drift(batch(1.0))
    assert len(report.drifted) == 20
    assert report.to_html().count("<svg") == 25
    assert len(report.to_html().encode()) <= 200_000


def test_one_wild_value_does_not_squash_the_picture():
    old = np.random.default_rng(0).normal(size=1000)
    report = DriftDetector({"x": old}, events=Stream()).detect_drift({"x": [*old, *[1e9] * 50]})
    profile = report["x"].profile
    assert profile.edges[-1] < 20
    assert sum(profile.reference) == pytest.approx(1.0)
    assert sum(profile.current) == pytest.approx(1.0)


def test_the_picture_of_a_category_shows_the_largest_levels_and_the_rare_ones_together():
    levels = np.random.default_rng(0).zipf(1.5, size=3000).astype(str).tolist()
    found = DriftDetector({"x": levels}, events=Stream()).detect_drift({"x": levels})["x"]
    assert "(rare)" in found.profile.labels
    assert len(found.profile.labels) <= 12
