"""The report as plain data: described by its schema, and the same after a journey."""

import datetime as dt
import decimal
import json
import math

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prodml.drift import (
    CheckReport,
    DriftDetector,
    DriftLevel,
    DriftMonitor,
    DriftReport,
    Evidence,
    FeatureDrift,
)
from prodml.drift.document import report_schema
from prodml.errors import CorruptRecord
from prodml.events import Stream

SCHEMA = jsonschema.Draft202012Validator(report_schema())
MONITOR = jsonschema.Draft202012Validator(report_schema("monitor"))
DAY = dt.datetime(2024, 1, 1)


def table(seed, n=80):
    rng = np.random.default_rng(seed)
    return {
        "number": rng.normal(size=n),
        "whole": rng.integers(0, 9, size=n),
        "level": rng.choice(["a", "b"], size=n),
        "flag": rng.random(n) < 0.5,
        "time": [DAY + dt.timedelta(hours=float(h)) for h in rng.random(n) * 1000],
        "constant": [3.0] * n,
        "decimal": [decimal.Decimal(int(x)) for x in rng.integers(0, 9, size=n)],
        "id": [f"{seed}-{i}" for i in range(n)],
        "empty": [None] * n,
        "wild": np.where(rng.random(n) < 0.2, np.inf, rng.normal(size=n)),
        "mixed": [1, "a", None, 2.5] * (n // 4),
    }


def batches():
    same, other = table(0), table(1)
    rows = range(80)
    yield "the same", same
    yield "another draw", other
    yield "no rows", []
    yield "another table", {"something": [1.0]}
    yield "too few rows", {name: values[:3] for name, values in other.items()}
    yield "all missing", {name: [None] * 80 for name in other}
    yield "all nan", {name: np.full(80, math.nan) for name in other}
    yield "all infinite", {name: np.full(80, math.inf) for name in other}
    yield "all text", {name: ["text"] * 80 for name in other}
    yield "all numbers", {name: np.arange(80.0) for name in other}
    yield "all times", {name: [DAY + dt.timedelta(days=i) for i in rows] for name in other}
    yield "huge numbers", {name: np.linspace(-1.0, 1.0, 80) * 1e308 for name in other}
    yield "hostile levels", {name: ["<script>", "\ud800", "\x00", "\u202e"] * 20 for name in other}
    yield "objects", {name: [object() for _ in rows] for name in other}
    yield "a column as a table", {name: [[1, 2]] * 80 for name in other}


BATCHES = dict(batches())


@pytest.fixture(scope="module")
def detector():
    return DriftDetector(table(0), events=Stream(), fresh={"time": 60.0})


@pytest.fixture(scope="module")
def counted(detector):
    return DriftDetector(detector.reference.counted(), events=Stream())


def test_the_schema_is_one_itself():
    jsonschema.Draft202012Validator.check_schema(report_schema())
    report_schema()["properties"].clear()
    assert report_schema()["properties"], "each caller has its own"


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("mode", ["detector", "counted"])
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_every_report_fits_the_schema_and_comes_back(name, mode, request):
    report = request.getfixturevalue(mode).detect_drift(BATCHES[name]).weighed({"number": 2.0})
    plain = json.loads(report.to_json())
    SCHEMA.validate(plain)
    back = DriftReport.from_dict(plain)
    assert back.to_dict() == plain
    assert back.to_html() == report.to_html()
    assert str(back) == str(report)


def test_the_schema_describes_every_field_that_is_written(detector):
    plain = detector.detect_drift(BATCHES["another draw"]).to_dict()
    defs = report_schema()["$defs"]
    assert set(plain) == set(report_schema()["properties"])
    assert set(plain["features"]["number"]) == set(defs["feature"]["properties"])
    assert set(plain["features"]["number"]["evidence"][0]) == set(defs["evidence"]["properties"])
    assert set(plain["features"]["number"]["profile"]) == set(defs["profile"]["properties"])


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_every_report_of_a_monitor_fits_its_schema(name):
    monitor = DriftMonitor(table(0), events=Stream())
    for report in (monitor.check(BATCHES[name]), monitor.check(), monitor.check(BATCHES[name])):
        plain = json.loads(report.to_json())
        MONITOR.validate(plain)
        assert plain["format"] == "prodml.drift.MonitorReport"
        assert plain["metrics"] == report.metrics()
        assert not SCHEMA.is_valid(plain)
        report.to_html()
        str(report)


def test_the_monitors_schema_describes_every_field_that_is_written():
    jsonschema.Draft202012Validator.check_schema(report_schema("monitor"))
    same = {name: sorted(column) for name, column in {"number": table(0)["number"]}.items()}
    report = DriftMonitor({"number": table(0)["number"]}, events=Stream()).check(same)
    plain, defs = report.to_dict(), report_schema("monitor")["$defs"]
    assert set(plain) == set(report_schema("monitor")["properties"])
    assert set(plain["features"]["number"]) == set(defs["feature"]["properties"])
    assert set(plain["features"]["number"]["profile"]) == set(defs["profile"]["properties"])
    assert set(plain["features"]["number"]["aspects"][0]) == set(defs["aspect"]["properties"])
    assert set(plain["findings"][0]) == set(defs["finding"]["properties"])
    for path, wrong in (
        (("findings",), [{}]),
        (("score",), 2),
        (("features", "number", "p_value"), "0"),
    ):
        broken = json.loads(report.to_json())
        place = broken
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = wrong
        assert not MONITOR.is_valid(broken)


def test_the_missing_of_a_monitor_is_among_its_numbers():
    monitor = DriftMonitor({"x": np.arange(200.0)}, events=Stream())
    report = monitor.check({"x": [None, 1.0] * 100})
    assert report["x"].current_missing == 0.5
    assert report.metrics()["drift_missing"] == 0.5


def test_reports_of_other_checks_are_data_too():
    report = CheckReport(DriftMonitor({"x": np.arange(99.0)}, events=Stream()).check({"y": [1.0]}))
    plain = json.loads(report.to_json())
    assert plain["features"]["x"] == {
        "level": "drift",
        "drift_detected": True,
        "effect": 1.0,
        "p_adjusted": 0.0,
        "reason": "the column is gone",
    }


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        (("version",), 2),
        (("score",), 1.5),
        (("features", "number", "level"), "perhaps"),
        (("features", "number", "effect"), "0.3"),
        (("features", "number", "profile", "edges"), None),
        (("drifted",), "number"),
    ],
)
def test_the_schema_refuses_what_is_no_report(detector, path, wrong):
    plain = json.loads(detector.detect_drift(BATCHES["the same"]).to_json())
    place = plain
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = wrong
    assert not SCHEMA.is_valid(plain)


numbers = st.floats(allow_nan=True, allow_infinity=True)
shares = st.floats(0.0, 1.0) | st.just(math.nan)


@settings(deadline=None)
@given(st.text(), numbers, shares, st.sampled_from(DriftLevel), st.lists(numbers, max_size=5))
def test_no_number_is_one_that_json_lacks(name, number, share, level, quantiles):
    evidence = Evidence(aspect="distribution", measure="ks", statistic=number, p_value=share)
    feature = FeatureDrift(
        name=name,
        kind="numeric",
        level=level,
        measure="ks",
        statistic=number,
        p_value=share,
        p_adjusted=share,
        effect=0.5,
        floor=0.05,
        reason=name,
        evidence=(evidence,),
        reference_rows=1,
        current_rows=1,
        reference_mean=number,
        new_levels=(1, name, None),
        reference_quantiles=tuple(quantiles),
    )
    plain = json.loads(DriftReport({name: feature}).to_json())
    SCHEMA.validate(plain)
    assert DriftReport.from_dict(plain).to_dict() == plain
    told = plain["features"][name]["reference_mean"]
    assert told == number if math.isfinite(number) else told is None


def test_a_report_is_written_as_it_is_returned(detector, tmp_path):
    report = detector.detect_drift(BATCHES["another draw"])
    text = report.to_json(tmp_path / "drift.json", indent=1)
    assert (tmp_path / "drift.json").read_text(encoding="utf-8") == text
    assert text.isascii()


@pytest.mark.parametrize(
    "change",
    [
        {"format": "something else"},
        {"version": 2},
        {"features": None},
        {"features": {"x": {"level": "drift"}}},
        {"at": "now"},
        {"at": True},
        {"new_columns": "abc"},
        {"source": None},
        {"importance": {"x": "much"}},
    ],
)
def test_what_is_no_report_is_refused_by_name(detector, change):
    plain = detector.detect_drift(BATCHES["the same"]).to_dict()
    with pytest.raises(CorruptRecord, match="a stored drift report"):
        DriftReport.from_dict({**plain, **change})


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("effect", "<script>alert(1)</script>"),
        ("reason", 3),
        ("level", "perhaps"),
        ("current_rows", 1.5),
        ("evidence", [{"aspect": 1}]),
        ("evidence", {}),
        ("profile", {"labels": ["a"], "edges": [], "reference": [], "current": []}),
        ("profile", {"labels": ["a"], "edges": [1.0], "reference": [1.0], "current": [1.0]}),
        ("reference_quantiles", ["<b>"]),
        ("new_levels", [1]),
    ],
)
def test_a_field_of_another_type_is_refused(detector, field, wrong):
    plain = json.loads(detector.detect_drift(BATCHES["the same"]).to_json())
    plain["features"]["number"][field] = wrong
    with pytest.raises(CorruptRecord):
        DriftReport.from_dict(plain)


def test_fields_of_a_later_version_are_left_alone(detector):
    plain = json.loads(detector.detect_drift(BATCHES["the same"]).to_json())
    plain["features"]["number"]["tomorrow"] = 1
    assert DriftReport.from_dict({**plain, "tomorrow": 2})["number"].name == "number"
