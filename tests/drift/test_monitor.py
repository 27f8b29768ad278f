import json
import math
import threading
from datetime import datetime, timedelta
from decimal import Decimal

import numpy as np
import pytest

from prodml._settings import retune
from prodml.drift import DriftDetector, DriftMonitor, MonitoredFeature, MonitorReport, Reference
from prodml.errors import BadConfiguration, CorruptRecord
from prodml.events import DriftCleared, DriftDetected, Stream
from prodml.stores import MemoryStore
from prodml.testing import ManualClock

DAY = 86400.0
NORMAL = np.random.default_rng(0).normal(size=(1000, 3))
NAMES = ["age", "fare", "wait"]


def monitor_of(reference=None, **settings):
    settings.setdefault("events", Stream())
    settings.setdefault("clock", ManualClock())
    if reference is None:
        return DriftMonitor(NORMAL, NAMES, **settings)
    return DriftMonitor(reference, **settings)


def batch_of(seed, rows=200, **shifts):
    values = np.random.default_rng(seed + 1).normal(size=(rows, 3))
    return {name: values[:, i] + shifts.get(name, 0.0) for i, name in enumerate(NAMES)}


def heard_by(stream):
    heard = []
    stream.subscribe(DriftDetected, heard.append)
    stream.subscribe(DriftCleared, heard.append)
    return heard


# -- one life of an alarm ---------------------------------------------------------------------


def test_drift_is_found_stated_once_and_ends():
    stream = Stream()
    heard, monitor = heard_by(stream), monitor_of(events=stream, recent_rows=400)
    levels = []
    for day in range(30):
        shift = 0.6 if 10 <= day < 18 else 0.0
        report = monitor.check(batch_of(day, fare=shift), at=day * DAY)
        levels.append(report["fare"].level.value)
        assert report["age"].level.value == report["wait"].level.value == "none"
    assert set(levels[:10]) == {"none"}
    assert levels[10] == levels[17] == "drift"
    # What is over is over, and what comes then is new evidence.
    assert levels[-1] == "none"
    assert [type(fact).__name__ for fact in heard] == ["DriftDetected", "DriftCleared"]
    assert heard[0].source == "drift-monitor"
    assert set(heard[0].effects) == {"fare"}
    assert heard[0].score == heard[0].effects["fare"] > 0.15
    assert "at most" in heard[0].reason


def test_the_verdict_says_since_when_and_how_much():
    monitor = monitor_of()
    for day in range(20):
        report = monitor.check(batch_of(day, wait=0.8 * (day >= 12)), at=day * DAY)
    found = report["wait"]
    assert isinstance(report, MonitorReport)
    assert isinstance(found, MonitoredFeature)
    assert found.since == 12 * DAY
    assert found.effect == pytest.approx(0.31, abs=0.06)
    assert found.rows == 1000
    assert found.p_adjusted == pytest.approx(3 * found.p_value)
    assert found.p_value < 1e-6
    assert found.e_value == pytest.approx(math.exp(found.log_e))
    assert report.drifted == ("wait",)
    assert report.score == found.effect
    assert "1 of 3 features drifted" in str(report)
    assert "1 of 3 features drifted" in repr(report)
    plain = json.loads(json.dumps(report.to_dict()))
    assert plain["features"]["wait"]["level"] == "drift"
    assert plain["features"]["wait"]["aspects"][0]["aspect"] == "distribution"


def test_slow_drift_that_no_single_day_shows_adds_up():
    monitor, detector, days = monitor_of(), DriftDetector(NORMAL, NAMES, events=Stream()), []
    for day in range(40):
        batch = batch_of(day, rows=60, age=0.2)
        days.append(detector.detect_drift(batch).drift_detected)
        if monitor.check(batch, at=day * DAY).drifted == ("age",):
            break
    assert day < 30
    assert sum(days) <= len(days) / 2


def test_certain_but_negligible_does_not_alarm():
    rng = np.random.default_rng(0)
    monitor = monitor_of({"x": rng.normal(size=100_000)})
    for day in range(5):
        report = monitor.check({"x": rng.normal(size=100_000) + 0.03}, at=day * DAY)
    assert report["x"].level.value == "negligible"
    assert report["x"].p_adjusted < 1e-6
    assert "below the floor of 5 %" in report["x"].reason
    assert not report.drift_detected
    retune(monitor, min_effect=0.005)
    assert monitor.check(at=5 * DAY)["x"].level.value == "drift"


def test_few_rows_are_inconclusive_and_no_rows_are_said():
    monitor = monitor_of()
    assert monitor.check()["age"].reason == "fewer than 30 rows so far"
    report = monitor.check([])
    assert report.inconclusive == tuple(NAMES)
    assert [found.name for found in report.findings] == ["empty"]
    assert "noted: empty" in report.headline
    assert "note: the batch has no rows" in str(report)
    assert monitor.check(batch_of(0, rows=20))["age"].level.value == "inconclusive"
    assert monitor.check(batch_of(1, rows=20))["age"].level.value == "none"


# -- bad data is a verdict --------------------------------------------------------------------


def mixed(seed, rows=400):
    rng = np.random.default_rng(seed)
    return {
        "x": rng.normal(size=rows),
        "plan": rng.choice(["basic", "pro", "gold"], size=rows),
        "flag": rng.random(rows) < 0.3,
        "price": [Decimal(int(100 * abs(v))) for v in rng.normal(size=rows)],
        "when": [datetime(2026, 1, 1) + timedelta(hours=int(h)) for h in rng.integers(0, 99, rows)],
        "one": np.ones(rows),
        "id": [f"{seed}-{i}" for i in range(rows)],
    }


def spoilt(name, how):
    batch = mixed(5)
    column = list(batch[name])
    batch[name] = [how(i, value) for i, value in enumerate(column)]
    return batch


@pytest.mark.parametrize(
    ("name", "how", "aspect"),
    [
        ("x", lambda i, v: math.nan if i == 0 else v + 5.0, "distribution"),
        ("x", lambda i, v: math.nan if i % 2 else v, "missing"),
        ("x", lambda i, v: math.inf if i % 10 == 0 else v, "infinite"),
        ("x", lambda i, v: str(v) if i % 5 == 0 else v, "type"),
        ("x", lambda i, v: str(v), "type"),
        ("x", lambda i, v: None, "missing"),
        ("x", lambda i, v: 1e9 if i % 10 == 0 else v, "distribution"),
        ("plan", lambda i, v: "platinum" if i % 20 == 0 else v, "levels"),
        ("plan", lambda i, v: "basic", "distribution"),
        ("plan", lambda i, v: None if i % 3 == 0 else v, "missing"),
        ("flag", lambda i, v: True, "distribution"),
        ("price", lambda i, v: v * 3, "distribution"),
        ("when", lambda i, v: None if i % 2 else v, "missing"),
        ("one", lambda i, v: 2.0, "distribution"),
        ("one", lambda i, v: 2.0 if i % 10 == 0 else v, "distribution"),
    ],
)
def test_what_others_swallow_is_drift_with_its_aspect(name, how, aspect):
    report = monitor_of(mixed(0)).check(spoilt(name, how))
    assert report[name].level.value == "drift"
    assert report[name].aspect == aspect
    assert report.drifted == (name,)


def test_the_same_data_are_no_drift_whatever_their_types():
    monitor = monitor_of(mixed(0))
    for day in range(5):
        report = monitor.check(mixed(day + 1), at=day * DAY)
        assert report.drifted == ()
    assert report.inconclusive == ("when", "id")
    assert "time always moves" in report["when"].reason
    assert "identifier" in report["id"].reason
    assert monitor.check({**mixed(9), "one": np.ones(400) + 1e-12}).drifted == ()


def test_a_column_that_is_gone_or_unreadable_costs_the_others_nothing():
    monitor = monitor_of()
    batch = batch_of(0, rows=300, fare=1.0)
    gone = monitor.check({name: batch[name] for name in ("fare", "wait")})
    assert gone["age"].reason == "the column is gone"
    assert gone["age"].aspect == "column"
    assert set(gone.drifted) == {"age", "fare"}
    assert gone["wait"].level.value == "none"

    class Odd:
        def __iter__(self):
            raise ValueError("no column")

    odd = monitor_of().check({**batch, "age": Odd()})
    assert odd["age"].level.value == "inconclusive"
    assert "cannot be read: ValueError" in odd["age"].reason
    assert odd.drifted == ("fare",)
    narrow = monitor_of().check(NORMAL[:, :2])
    assert narrow["age"].reason == "the batch has 2 columns instead of 3"
    extra = monitor_of().check({**batch_of(0), "shoe": [1.0] * 200})
    assert extra.new_columns == ("shoe",)
    with pytest.raises(TypeError):
        monitor.check(7)


def test_columns_that_can_be_read_once_are_read_once():
    report = monitor_of().check({name: (v for v in raw) for name, raw in batch_of(3).items()})
    assert report.inconclusive == ()


def test_order_and_copies_are_noted_before_drift():
    monitor = monitor_of()
    batch = {**batch_of(0), "age": np.sort(batch_of(0)["age"])}
    report = monitor.check(batch)
    assert {found.feature for found in report.findings} == {"age"}
    assert not report.drift_detected
    twice = {name: np.concatenate((raw, raw)) for name, raw in batch_of(1).items()}
    assert [found.name for found in monitor_of().check(twice).findings] == ["duplicates"]
    assert monitor_of(order=False).check(batch).findings == ()


# -- one reference, many forms ----------------------------------------------------------------


def test_a_fitted_reference_serves_as_well():
    fitted = Reference.fit(NORMAL, NAMES)
    one, two = monitor_of(), monitor_of(fitted)
    for day in range(3):
        batch = batch_of(day, fare=0.2)
        a, b = (m.check(batch, at=day * DAY).to_dict()["features"] for m in (one, two))
        assert a == b


def test_a_counted_reference_serves_as_well():
    try:
        fitted = Reference.fit(NORMAL, NAMES, exact=False)
    except TypeError:
        pytest.skip("references are exact here")
    exact, counted = monitor_of(), monitor_of(fitted)
    for day in range(6):
        batch = batch_of(day, fare=0.4)
        a, b = (m.check(batch, at=day * DAY) for m in (exact, counted))
        assert a.drifted == b.drifted
    assert b["fare"].log_e == pytest.approx(a["fare"].log_e, rel=0.15)


def test_rows_given_one_by_one_are_the_batch():
    clock = ManualClock()
    one, two = monitor_of(clock=clock), monitor_of(clock=clock)
    for day in range(3):
        batch = batch_of(day, rows=300, age=0.5)
        for row in zip(*batch.values(), strict=True):
            one.add(dict(zip(NAMES, row, strict=True)) if day else row)
        by_rows, by_batch = one.check(), two.check(batch)
        assert by_rows.to_dict()["features"] == by_batch.to_dict()["features"]
        clock.advance(DAY)
    assert by_rows.drifted == ("age",)


def test_what_is_no_row_counts_as_missing_and_raises_nothing():
    monitor = monitor_of()
    for bad in (None, 7, "text", [1.0], {"shoe": 3}, object()) * 10:
        monitor.add(bad)
    assert set(monitor.check().drifted) == set(NAMES)
    assert monitor.check()["age"].aspect == "missing"


def test_looks_each_minute_spend_no_more_than_looks_each_day():
    clock, rng = ManualClock(), np.random.default_rng(7)
    monitor = monitor_of(false_alarms="5% per day", every="1m", clock=clock, order=False)
    for _ in range(80):
        for row in rng.normal(size=(2, 3)):
            monitor.add(row)
        assert not monitor.check().drift_detected
        clock.advance(60)
    shift, minute = np.array([0.0, 1.0, 0.0]), 0
    for minute in range(120):  # noqa: B007
        for row in rng.normal(size=(2, 3)) + shift:
            monitor.add(row)
        if monitor.check().drifted == ("fare",):
            break
        clock.advance(60)
    assert minute < 60


# -- seasons ----------------------------------------------------------------------------------


def weekly(rng, days, shift=0.0):
    day = np.repeat(np.asarray(days), 100)
    return {"x": rng.normal(size=len(day)) + 1.5 * (day % 7 >= 5) + shift}, day % 7 >= 5


def test_mondays_are_compared_with_mondays():
    rng = np.random.default_rng(0)
    reference, weekend = weekly(rng, range(28))
    labels = np.where(weekend, "weekend", "week")
    matched, plain = monitor_of(reference, seasonal=labels), monitor_of(reference)
    fooled = 0
    for day in range(28, 56):
        batch, weekend = weekly(rng, [day])
        season = "weekend" if weekend[0] else "week"
        assert not matched.check(batch, season=season, at=day * DAY).drift_detected
        fooled += plain.check(batch, at=day * DAY).drift_detected
    assert fooled > 5
    for day in range(56, 70):
        batch, weekend = weekly(rng, [day], shift=0.4)
        report = matched.check(batch, season="weekend" if weekend[0] else "week", at=day * DAY)
        if report.drift_detected:
            break
    assert day < 63
    assert report["x"].since >= 55 * DAY


def test_rows_of_several_seasons_come_with_their_labels():
    rng = np.random.default_rng(0)
    reference, weekend = weekly(rng, range(28))
    monitor = monitor_of(reference, seasonal=weekend.tolist())
    batch, labels = weekly(rng, range(28, 35))
    report = monitor.check(batch, season=labels)
    assert report["x"].level.value == "none"
    assert report["x"].rows == 700
    monitor.add({"x": 0.0}, season=False)
    with pytest.raises(BadConfiguration, match="values or labels"):
        monitor.check(batch, season=labels[:5].tolist())
    for wrong in (None, "Sunday"):
        with pytest.raises(BadConfiguration, match="seasons: False, True"):
            monitor.check(batch, season=wrong)
        with pytest.raises(BadConfiguration):
            monitor.add({"x": 0.0}, season=wrong)
    assert monitor.check(at=0.0)["x"].rows == 701
    with pytest.raises(BadConfiguration, match="none: give the monitor seasonal="):
        monitor_of().check(batch_of(0), season="Monday")
    with pytest.raises(BadConfiguration, match="seasonal need the rows"):
        monitor_of(Reference.fit(NORMAL), seasonal=[1] * 1000)


# -- what is kept -----------------------------------------------------------------------------


def test_a_restart_goes_on_with_the_same_evidence():
    store, whole, split = MemoryStore(), monitor_of(), None
    for day in range(8):
        split = monitor_of(store=store)
        batch = batch_of(day, wait=0.35)
        a, b = (m.check(batch, at=day * DAY) for m in (whole, split))
        assert a.to_dict()["features"] == b.to_dict()["features"]
    assert b.drifted == ("wait",)


def test_an_alarm_is_not_stated_again_after_a_restart(tmp_path):
    stream = Stream()
    heard, url = heard_by(stream), f"sqlite:///{tmp_path}/drift.db"
    for day in range(4):
        monitor_of(store=url, events=stream).check(batch_of(day, age=1.0), at=day * DAY)
    assert [type(fact).__name__ for fact in heard] == ["DriftDetected"]


def test_the_evidence_of_another_reference_is_refused():
    store = MemoryStore()
    monitor = monitor_of(store=store)
    monitor.check(batch_of(0))
    with pytest.raises(BadConfiguration, match="another reference"):
        monitor_of({"age": NORMAL[:, 0] * 2}, store=store)
    with pytest.raises(BadConfiguration, match="another reference"):
        monitor_of(store=store, every="1h")
    monitor_of({"age": NORMAL[:, 0] * 2}, store=store, name="other")
    before = monitor.to_dict()
    for broken in ({}, {**before, "features": {}}, {**before, "features": {"age": 7}}):
        with pytest.raises(CorruptRecord):
            monitor.restore(broken)
        with pytest.raises(CorruptRecord):
            monitor.merge(broken)
    assert monitor.to_dict() == before
    store.set("prodml:drift-monitor:drift-monitor", b"\x00nonsense")
    with pytest.raises(CorruptRecord):
        monitor_of(store=store)


def test_a_store_that_fails_costs_no_verdict(caplog):
    class Full(MemoryStore):
        def set(self, key, value, *, ttl=None):
            raise OSError("disk full")

    assert monitor_of(store=Full()).check(batch_of(0, age=1.0)).drifted == ("age",)
    assert "could not keep its state" in caplog.text


def test_replicas_add_up_to_one_monitor_in_any_order():
    whole, leaders = monitor_of(), [monitor_of(), monitor_of()]
    states = []
    for part in range(4):
        replica = monitor_of()
        for day in range(3):
            batch = batch_of(10 * part + day, rows=50, fare=0.5)
            replica.check(batch, at=day * DAY)
            whole.check(batch, at=day * DAY)
        states.append(json.loads(json.dumps(replica.drain())))
        assert replica.check(at=3 * DAY).inconclusive == tuple(NAMES)
    for leader, order in zip(leaders, (states, states[::-1]), strict=True):
        for state in order:
            leader.merge(state)
    reports = [m.check(at=3 * DAY).to_dict()["features"] for m in (whole, *leaders)]
    assert reports[0] == reports[1] == reports[2]
    assert whole.check(at=3 * DAY).drifted == ("fare",)


def test_reset_forgets():
    monitor = monitor_of()
    assert monitor.check(batch_of(0, age=2.0)).drift_detected
    monitor.reset()
    assert monitor.check(batch_of(1)).drifted == ()


def test_many_threads_lose_no_row():
    monitor = monitor_of(order=False)
    barrier = threading.Barrier(4)

    def work(seed):
        rows = np.random.default_rng(seed).normal(size=(600, 3)).tolist()
        barrier.wait()
        for place, row in enumerate(rows):
            monitor.add(row)
            if place % 200 == 0:
                monitor.check()

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    state = monitor.to_dict()["features"]
    for name in NAMES:
        for track in state[name]:
            assert [sum(np.sum(c) for c in level.values()) for level in track] == [2400, 2400]


def test_the_same_input_gives_the_same_output():
    first, second = monitor_of(mixed(0)), monitor_of(mixed(0))
    for day in range(3):
        a, b = (str(m.check(mixed(day), at=day * DAY)) for m in (first, second))
        assert a == b


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"min_effect": -0.1}, "min_effect"),
        ({"min_new_levels": 2}, "min_new_levels"),
        ({"min_rows": 0}, "min_rows"),
        ({"recent_rows": True}, "recent_rows"),
        ({"categorical": "age"}, "categorical"),
        ({"every": "soon"}, "every"),
        ({"kinds": {"shoe": "numeric"}}, "shoe"),
        ({"blocks": [1, 2]}, "blocks"),
        ({"store": "nowhere://"}, "nowhere"),
    ],
)
def test_settings_are_checked(settings, told):
    with pytest.raises(BadConfiguration, match=told):
        monitor_of(**settings)


def test_what_the_evidence_rests_on_cannot_be_retuned():
    monitor = monitor_of()
    for change in ({"every": 60.0}, {"false_alarms": "1% per year"}, {"min_rows": 5}):
        with pytest.raises(BadConfiguration, match="cannot change"):
            retune(monitor, **change)
    retune(monitor, recent_rows=50, min_effect=0.4)
    assert monitor.check(batch_of(0, age=0.4))["age"].level.value == "negligible"


def test_a_fitted_reference_is_not_fitted_again():
    reference = Reference.fit({"x": np.arange(100.0), "k": ["a"] * 100})
    for settings, told in (
        ({"feature_names": ["x"]}, "feature_names"),
        ({"kinds": {"x": "categorical"}}, "'x' is no categorical"),
        ({"categorical": ["x"]}, "'x' is no categorical"),
    ):
        with pytest.raises(BadConfiguration, match=told):
            DriftMonitor(reference, **settings)
    DriftMonitor(reference, categorical=["k"])
