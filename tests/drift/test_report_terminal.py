"""The report as text: worst first, within the width, safe for a terminal."""

import io
import math
import re
import sys
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prodml.drift import (
    DriftDetector,
    DriftLevel,
    DriftMonitor,
    DriftReport,
    FeatureDrift,
    calibrate,
)
from prodml.errors import BadConfiguration
from prodml.events import Stream
from prodml.testing import ManualClock


def feature(name, level=DriftLevel.DRIFT, effect=0.3, reason="median +1 IQR", p=0.001):
    return FeatureDrift(
        name=name,
        kind="numeric",
        level=level,
        measure="ks",
        statistic=effect,
        p_value=p,
        p_adjusted=p,
        effect=effect,
        floor=0.05,
        reason=reason,
        evidence=(),
        reference_rows=100,
        current_rows=100,
    )


def report_of(*features):
    return DriftReport({one.name: one for one in features})


def columns(text):
    wide = {"W": 2, "F": 2}
    return sum(
        0
        if unicodedata.combining(c) or unicodedata.category(c) in {"Mn", "Me", "Cf"}
        else wide.get(unicodedata.east_asian_width(c), 1)
        for c in text
    )


def test_what_matters_most_stands_first_with_a_mark():
    levels = [DriftLevel.NONE, DriftLevel.NEGLIGIBLE, DriftLevel.INCONCLUSIVE, DriftLevel.DRIFT]
    lines = str(report_of(*(feature(x.value, x) for x in levels))).splitlines()
    assert lines[0].endswith("1 of 4 features drifted, 1 inconclusive (alpha 0.05)")
    assert lines[2].split() == ["verdict", "feature", "effect", "p", "what", "changed"]
    assert [line[:14].split() for line in lines[4:]] == [
        ["!", "drift"],
        ["?", "inconclusive"],
        ["~", "negligible"],
        ["none"],
    ]
    assert lines[4].split() == ["!", "drift", "drift", "0.300", "0.001", "median", "+1", "IQR"]
    assert lines[5].split() == ["?", "inconclusive", "inconclusive", "median", "+1", "IQR"]


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.text(max_size=80), st.text(max_size=300)), min_size=1, max_size=4),
    st.integers(60, 140),
    st.booleans(),
)
def test_no_line_is_wider_than_asked_and_nothing_moves_the_cursor(texts, width, plain):
    features = [feature(f"{place}{name}", reason=told) for place, (name, told) in enumerate(texts)]
    text = report_of(*features).table(width=width, plain=plain)
    assert all(columns(line) <= width for line in text.splitlines())
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]", text)
    assert not plain or text.isascii()


def test_columns_stand_under_each_other_for_wide_letters_too():
    found = report_of(feature("年齢"), feature("age"), feature("e\u0301t\u00e9"))
    lines = found.table().splitlines()[4:]
    assert len({columns(line[: line.index("0.300")]) for line in lines}) == 1


def test_a_long_reason_goes_on_below_and_ends_in_dots():
    lines = report_of(feature("x", reason="moved " * 200)).table(width=80).splitlines()[4:]
    assert len(lines) == 4
    assert lines[-1].endswith("moved ...")
    assert all(line.startswith(" " * 30) for line in lines[1:])


def test_what_is_left_out_is_counted():
    some = [feature(f"d{i}") for i in range(5)]
    rest = [feature(f"n{i}", DriftLevel.NONE, 0.0) for i in range(9)]
    lines = report_of(*some, *rest).table(limit=4).splitlines()
    assert lines[-1] == "  and 10 more: 1 drift, 9 none"
    assert len(lines) == 4 + 4 + 1


def test_colours_are_for_those_who_ask():
    found = report_of(feature("x"))
    assert "\x1b" not in str(found)
    assert "\x1b[1;31m! drift" in found.table(colour=True)
    assert re.sub(r"\x1b\[[\d;]*m", "", found.table(colour=True)) == found.table()


def test_a_hostile_name_cannot_colour_the_terminal():
    text = str(report_of(feature("x\x1b]0;owned\x07\x1b[2J", reason="\r\x1b[1Anothing drifted")))
    assert "\x1b" not in text
    assert "\r" not in text


def test_a_terminal_that_knows_only_ascii_gets_ascii(monkeypatch):
    found = report_of(feature("größe"))
    assert "größe" in str(found)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert "gr\\xf6\\xdfe" in str(found)


@pytest.mark.parametrize("wrong", [{"width": 59}, {"limit": 0}])
def test_a_table_without_room_is_refused(wrong):
    with pytest.raises(BadConfiguration):
        report_of(feature("x")).table(**wrong)


def test_times_beyond_the_calendar_do_not_cost_the_report():
    assert "at 1e+300 s" in DriftReport({}, at=1e300).headline


def test_the_headline_does_not_grow_with_the_columns():
    detector = DriftDetector({"x": [1.0] * 50}, events=Stream(), clock=ManualClock(0.0))
    found = detector.detect_drift({f"c{i}": [1.0] for i in range(2000)})
    assert found.headline.endswith("new columns: c0, c1, c2, c3, c4 and 1995 more (alpha 0.05)")


@pytest.mark.parametrize("width", [60, 80, 200])
@pytest.mark.parametrize("p", [0.0, 5e-324, 1.4e-123, 9.9e-100, 1e-99, 0.25, math.nan])
def test_the_smallest_p_value_keeps_the_columns(width, p):
    text = report_of(feature("x", reason="word " * 60, p=p)).table(width=width)
    assert max(map(columns, text.splitlines())) <= width
    first, second = [line for line in text.splitlines() if "word" in line][:2]
    assert first.startswith("! drift")
    assert first.index("word") == second.index("word")


def test_what_was_noted_stands_above_the_verdicts():
    rows = {f"c{i}": np.arange(100.0) for i in range(5)}
    monitor = DriftMonitor(
        {n: np.random.default_rng(0).permutation(v) for n, v in rows.items()}, events=Stream()
    )
    report = monitor.check(rows)
    assert len(report.notes) == 15
    for width in (60, 80, 200):
        lines = report.table(width=width, plain=True).splitlines()
        assert max(map(len, lines)) <= width
        place = next(i for i, line in enumerate(lines) if "and 9 more notes" in line)
        assert any("note: c0: values change along the batch" in line for line in lines[:place])
        assert any("verdict" in line for line in lines[place:])
    assert "noted: trend, halves, runs" in repr(report)
    assert "note:" not in str(monitor.check())


def test_nothing_that_is_printed_colours_the_terminal():
    name = "\x1b[31mred\u202e"
    rng = np.random.default_rng(0)
    found = calibrate({name: rng.normal(size=400)}, blocks=np.repeat(np.arange(20), 20))
    report = DriftDetector({"x": rng.normal(size=99)}, events=Stream()).detect_drift(
        {"x": rng.normal(size=99), name: [1.0] * 99}
    )
    for text in (str(found), repr(report), str(report)):
        assert "[31mred" in text
        assert not re.search("[\x1b\u202e]", text)
