"""Drift over time: bounded, durable, drawn."""

import json
import math
import threading
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prodml.drift import (
    CheckSummary,
    DriftDetector,
    DriftLevel,
    DriftMonitor,
    DriftReport,
    DriftTimeline,
    MultivariateDrift,
    MultivariateReport,
)
from prodml.errors import BadConfiguration, CorruptRecord
from prodml.events import Stream
from prodml.testing import ManualClock
from tests.drift.test_report_terminal import feature

DAY = 86400.0
D, UNKNOWN, N = DriftLevel.DRIFT, DriftLevel.INCONCLUSIVE, DriftLevel.NONE


def check(at, **levels):
    return DriftReport({name: feature(name, level) for name, level in levels.items()}, at=at)


def plain(timeline):
    return [one.to_dict() for one in timeline]


def test_the_last_checks_are_kept_in_the_order_of_time():
    timeline = DriftTimeline(keep=3)
    for day in (1, 2, 5, 4, 3):
        timeline.add(check(day * DAY, x=D))
    assert [one.at / DAY for one in timeline] == [3, 4, 5]
    assert len(timeline) == 3


def test_a_check_keeps_what_matters_and_no_more():
    many = DriftReport(
        {f"x{i}": feature(f"x{i}", D if i > 290 else N, reason="because " * 99) for i in range(300)}
    )
    timeline = DriftTimeline()
    timeline.add(many)
    kept = next(iter(timeline))
    assert (kept.count, len(kept.features), len(kept.drifted)) == (300, 200, 9)
    assert kept.share == 9 / 300
    assert all(len(one.reason) <= 160 for one in kept.features.values())
    assert len(json.dumps(kept.to_dict())) < 30_000


def test_since_says_when_the_drift_began_that_goes_on():
    timeline = DriftTimeline()
    for day, level in enumerate([D, N, D, UNKNOWN, D]):
        timeline.add(check(day * DAY, x=level, y=N))
    timeline.add(check(5 * DAY, y=D))
    assert timeline.since("x") == 2 * DAY, "what said nothing about it ended nothing"
    assert timeline.since("y") == 5 * DAY
    assert timeline.since("nothing") is None
    timeline.add(check(6 * DAY, x=N))
    assert timeline.since("x") is None


def test_reports_of_every_kind_fit():
    clock, rng = ManualClock(0.0), np.random.default_rng(0)
    reference = rng.normal(size=(400, 2))
    moved = rng.normal(size=(300, 2)) + np.array([0.0, 1.0])
    settings = {"clock": clock, "events": Stream()}
    found = MultivariateDrift(method="pca", level=D, effect=0.3, what="moved")
    timeline = DriftTimeline()
    timeline.add(DriftDetector(reference, ["a", "b"], **settings).detect_drift(moved))
    timeline.add(DriftMonitor(reference, ["a", "b"], **settings).check(moved))
    timeline.add(MultivariateReport({"pca": found}, alpha=0.05))
    assert sorted(name for one in timeline for name in one.drifted) == ["b", "b", "pca"]
    assert "pca" in timeline.to_html()


def test_a_time_line_survives_a_restart(tmp_path):
    path = tmp_path / "drift.jsonl"
    first = DriftTimeline(path)
    for day in range(5):
        first.add(check(day * DAY, x=D if day > 2 else N))
    again = DriftTimeline(str(path))
    assert plain(again) == plain(first)
    assert again.skipped == 0
    again.add(check(5 * DAY, x=N))
    assert len(DriftTimeline(path)) == 6


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 50), st.booleans()), max_size=30), st.integers(1, 4))
def test_file_and_memory_agree_whatever_comes(tmp_path_factory, checks, keep):
    path = tmp_path_factory.mktemp("lines") / "drift.jsonl"
    timeline, model = DriftTimeline(path, keep=keep), []
    for at, restart in checks:
        if restart:
            timeline = DriftTimeline(path, keep=keep)
        timeline.add(check(float(at), x=D))
        model = sorted([*model, at])[-keep:]
        assert [one.at for one in timeline] == model
        assert len(path.read_bytes().splitlines()) <= 2 * keep
    assert [one.at for one in DriftTimeline(path, keep=keep)] == model


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 400))
def test_a_line_cut_anywhere_costs_that_line_only(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("lines") / "drift.jsonl"
    timeline = DriftTimeline(path)
    for day in range(3):
        timeline.add(check(day * DAY, x=D))
    raw = path.read_bytes()
    last = len(raw.splitlines(keepends=True)[-1])
    path.write_bytes(raw[: -min(cut, last)])
    again = DriftTimeline(path)
    # The newline alone was lost, or the whole line: nothing is missing, or nothing is broken.
    whole = cut == 1
    assert (len(again), again.skipped) == ((3, 0) if whole else (2, 0 if cut >= last else 1))
    again.add(check(9 * DAY, x=N))
    assert [one.at / DAY for one in DriftTimeline(path)][-1] == 9
    assert len(DriftTimeline(path)) == len(again)


@pytest.mark.parametrize(
    "line",
    [
        b"not json",
        b"3",
        b"null",
        b"[]",
        b"{}",
        b'{"version": 2}',
        b"\xff\xfe",
        b'{"version": 1, "at": 0, "source": "", "count": 1, "features": {"x": 3}}',
    ],
)
def test_a_line_of_something_else_is_counted_and_left_out(tmp_path, line):
    path = tmp_path / "drift.jsonl"
    DriftTimeline(path).add(check(0.0, x=D))
    path.write_bytes(line + b"\n" + path.read_bytes())
    again = DriftTimeline(path)
    assert (len(again), again.skipped) == (1, 1)


def test_what_cannot_be_written_is_not_added(tmp_path):
    timeline = DriftTimeline(tmp_path / "nowhere" / "drift.jsonl")
    with pytest.raises(OSError, match="nowhere"):
        timeline.add(check(0.0, x=D))
    assert len(timeline) == 0


def test_threads_lose_no_check(tmp_path):
    timeline = DriftTimeline(tmp_path / "drift.jsonl", keep=1000)
    threads = [
        threading.Thread(
            target=lambda start=start: [timeline.add(check(start + i, x=D)) for i in range(20)]
        )
        for start in range(0, 400, 100)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(timeline) == len(DriftTimeline(tmp_path / "drift.jsonl")) == 80


def test_a_dictionary_brings_it_back():
    timeline = DriftTimeline(name="tickets")
    timeline.add(DriftReport({"x": feature("x", UNKNOWN, effect=math.nan)}, at=1.0))
    stored = json.loads(json.dumps(timeline.to_dict(), allow_nan=False))
    again = DriftTimeline.from_dict(stored)
    assert again.to_dict() == timeline.to_dict()
    assert again.name == "tickets"


@pytest.mark.parametrize("wrong", [{}, {"format": "other"}, {"version": 9}, {"checks": [{}]}])
def test_a_dictionary_of_something_else_is_refused(wrong):
    stored = {**DriftTimeline().to_dict(), **wrong} if wrong else {}
    with pytest.raises(CorruptRecord, match="time line"):
        DriftTimeline.from_dict(stored)


@pytest.mark.parametrize("keep", [0, -1, 1.5, None])
def test_keep_is_a_count(keep):
    with pytest.raises(BadConfiguration, match="keep"):
        DriftTimeline(keep=keep)


def test_the_map_frames_what_drifted_and_dots_what_is_unknown():
    timeline = DriftTimeline()
    for day, level in enumerate([N, UNKNOWN, D]):
        timeline.add(check(day * DAY, x=level))
    svg = timeline.heat_map()
    ns = "{http://www.w3.org/2000/svg}"
    titles = [t.text for t in ET.fromstring(svg).iter(f"{ns}title")]
    assert titles == ["x, 01-03 00:00: 0.3, drift"]
    assert "Effect of 1 features in 3 checks; 1 cells with drift." in svg
    assert svg.count('stroke="#888"') == 1


def test_the_line_of_a_feature_has_floor_and_marks():
    timeline = DriftTimeline()
    for day, level in enumerate([N, D, N, D]):
        timeline.add(check(day * DAY, x=level))
    svg = timeline.of("x")
    assert "threshold: 0.05" in svg
    assert svg.count("<title>drift, 1970-01-0") == 2
    assert "Effect on x in 4 checks, 2 with drift." in svg


def test_many_checks_of_many_features_are_a_page_for_a_mail():
    rng = np.random.default_rng(0)
    timeline = DriftTimeline(keep=500)
    for hour in range(500):
        levels = {f"x{i}": D if rng.random() < 0.2 else N for i in range(30)}
        timeline.add(check(hour * 3600.0, **levels))
    text = timeline.to_html()
    assert len(text.encode()) < 700_000
    assert len(timeline.heat_map()) < 200_000


def test_an_empty_time_line_is_a_page_too():
    assert "0 checks" in DriftTimeline().to_html()
    ET.fromstring(DriftTimeline().heat_map())
    ET.fromstring(DriftTimeline().of("x"))


def test_a_summary_without_features_has_no_share():
    empty = CheckSummary(at=0.0, source="", count=0)
    assert (empty.share, empty.score, empty.drifted) == (0.0, 0.0, ())


@pytest.mark.parametrize("count", [1, 2, 500])
def test_a_time_line_of_any_length_shows_every_check(count):
    timeline, detector = (
        DriftTimeline(keep=1000),
        DriftDetector({"x": [float(i) for i in range(100)]}, events=Stream()),
    )
    report = detector.detect_drift([i + 60.0 for i in range(100)])
    for day in range(count):
        report.at = 1.7e9 + day * 86400.0
        timeline.add(report)
    page = timeline.to_html()
    assert f"<strong>{count} check{'s' if count > 1 else ''}, 2023-11-14 22:13" in page
    line = timeline.of("x")
    ET.fromstring(line)
    assert ("h0" in line) == (count == 1)
    assert len(page) < 200_000
