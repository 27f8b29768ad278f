import json
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from prodml.drift import DriftDetector, DriftLevel
from prodml.events import Stream
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


def test_the_terminal_table_has_a_line_a_feature(report):
    lines = str(report).splitlines()
    assert len(lines) == 2 + 5
    assert lines[1].split() == ["feature", "level", "effect", "p", "reason"]
    assert lines[2].split()[:3] == ["gone", "drift", "1.000"]


def test_the_dictionary_is_json_without_nan(report):
    plain = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert plain["drifted"] == ["gone", "age", "plan"]
    age = plain["features"]["age"]
    assert age["level"] == "drift"
    assert age["drift_detected"] is True
    assert age["p_value"] < age["p_adjusted"] < 0.05
    assert {e["aspect"] for e in age["evidence"]} == {"distribution"}
    assert plain["features"]["plan"]["reference_mean"] is None


def test_the_page_is_written_and_returned(report, tmp_path):
    text = report.to_html(tmp_path / "drift.html")
    assert (tmp_path / "drift.html").read_text(encoding="utf-8") == text
    assert text.startswith("<!doctype html>")
    assert text.count("<svg") == 2


def test_the_page_needs_nothing_from_elsewhere(report):
    text = report.to_html()
    assert "<script" not in text
    assert "src=" not in text
    assert "<link" not in text


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
    old, new = rng.normal(size=(2, 2000, 25))
    report = DriftDetector(old, events=Stream()).detect_drift(new + 1)
    assert len(report.to_html()) <= 300_000


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
