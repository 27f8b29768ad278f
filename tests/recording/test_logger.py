"""The logger observes: it can hurt nobody, and what it acknowledges is there."""

import datetime as dt
import errno
import json
import math
import os
import resource
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from prodml import PredictionService
from prodml._settings import retune, settings_of
from prodml.events import (
    CircuitHalfOpened,
    PredictionFailed,
    PredictionServed,
    RecordsDropped,
    Stream,
)
from prodml.recording import PredictionLog, PredictionLogger
from prodml.testing import ManualClock, Recorder, check_sink
from prodml.types import Prediction


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def events():
    return Stream()


@pytest.fixture
def log(tmp_path, clock, events):
    with PredictionLogger(tmp_path / "log", clock=clock, events=events) as logger:
        yield logger


def one(log, request_id="r-1", **changes):
    given = {"features": {"x": 1}, "prediction": 0.5, "model_version": "v1", "latency_ms": 2.0}
    return log.log_prediction(request_id, **(given | changes))


def records(log):
    return list(PredictionLog(log.path))


def lines(log):
    return [
        json.loads(line)
        for path in sorted(os.scandir(log.path), key=lambda entry: entry.name)
        for line in Path(path).read_bytes().splitlines()
    ]


@contextmanager
def no_file_larger_than(size):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# -- what is written --------------------------------------------------------------------


def test_record_comes_back_as_it_was_given(log, clock):
    assert one(log, metadata={"status": "success"})
    (record,) = records(log)
    assert (record.request_id, record.features, record.prediction) == ("r-1", {"x": 1}, 0.5)
    assert (record.model_version, record.latency_ms) == ("v1", 2.0)
    assert record.metadata == {"status": "success"}
    assert (record.id, record.at) == (1, clock.time())


def test_record_by_position_as_in_the_snippet(log):
    assert log.log_prediction("r-1", {"x": 1}, 0.5, "v1", 2.0, {"status": "success"})
    assert records(log)[0].metadata == {"status": "success"}


def test_line_has_version_number_and_utc_stamp(log, clock):
    one(log)
    (line,) = lines(log)
    assert (line["v"], line["id"], line["at"]) == (1, 1, clock.time())
    assert records(log)[0].when.tzinfo is dt.UTC


def test_numpy_answer_does_not_cost_the_answer(log):
    assert one(log, features={"x": np.int64(7)}, prediction=np.float32(0.1))
    (record,) = records(log)
    assert (record.features, record.prediction) == ({"x": 7}, float(np.float32(0.1)))


@pytest.mark.parametrize("place", ["features", "prediction", "metadata"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_no_number_is_written_as_one_wherever_it_stands(log, place, value):
    given = value if place == "prediction" else {"x": value}
    assert one(log, **{place: given})
    assert repr(getattr(records(log)[0], place)) == repr(given)


@pytest.mark.parametrize(
    "features",
    [
        {"x": math.nan, "y": 1},
        {"x": math.nan, "city": "oslo"},
        {"x": None, "city": "oslo"},
        {"x": None, "y": 1.5},
        {"x": 10**400, "y": 1.5},
        {"x": 1e308, "y": 1e308},
        {"x": math.inf, "y": -math.inf},
        {1: 2.0},
        {1: "two"},
        {"city": "oslo", 2: "two"},
        {"$map": 1.0},
        {"$map": [["a", 1]]},
        {"price": "$5"},
        {"a": ":null"},
        {"a": "oslo", "b": b"bytes"},
        {"a": (1, 2)},
        {"\ud800": 1},
        {"a": "\ud800"},
        {},
        [1.0, 2.0],
        "text",
        None,
    ],
    ids=repr,
)
def test_features_of_any_shape_come_back(log, features):
    # Twice, because the first row teaches the encoder what to expect.
    for request in ("r-1", "r-2"):
        assert one(log, request, features=features)
    assert [repr(record.features) for record in records(log)] == [repr(features)] * 2


def test_arguments_are_neither_changed_nor_kept(log):
    features, metadata = {"x": np.float64(1), "tags": ["a"]}, {"k": [1]}
    one(log, features=features, metadata=metadata)
    assert (features, metadata) == ({"x": np.float64(1), "tags": ["a"]}, {"k": [1]})
    features["tags"].append("later")
    assert records(log)[0].features["tags"] == ["a"]


def test_fixed_fields_get_their_types(log):
    assert one(log, 7, model_version=None, latency_ms=np.float32(2))
    assert one(log, "\ud800", model_version=3, latency_ms=None)
    first, second = records(log)
    assert (first.request_id, first.model_version, first.latency_ms) == ("7", "", 2.0)
    assert (second.request_id, second.model_version, second.latency_ms) == ("\\ud800", "3", None)


def test_value_that_only_its_repr_can_stand_for_is_counted(log):
    assert one(log, prediction=object())
    assert log.stats().approximated == 1


# -- labels -----------------------------------------------------------------------------


def test_label_joins_the_record(log, clock):
    one(log)
    clock.advance(60)
    assert log.truth("r-1", np.int64(1))
    (record,) = records(log)
    assert (record.label, record.label_at) == (1, clock.time())


@pytest.mark.parametrize("at", [5.0, dt.datetime(1970, 1, 1, 0, 0, 5, tzinfo=dt.UTC)])
def test_label_knows_since_when(log, at):
    one(log)
    assert log.truth("r-1", 1, at=at)
    assert records(log)[0].label_at == 5.0


@pytest.mark.parametrize("at", [dt.datetime(2024, 1, 1), math.nan, "yesterday"])
def test_label_without_a_moment_is_dropped(log, at):
    assert not log.truth("r-1", 1, at=at)
    assert log.stats().dropped == {"invalid": 1}


# -- hearing facts ----------------------------------------------------------------------


def served(**changes):
    prediction = Prediction(0.5, "r-1", "v1", latency_ms=2.0)
    return PredictionServed(
        **({"at": 7.0, "source": "svc", "prediction": prediction, "features": {"x": 1}} | changes)
    )


def failed():
    return PredictionFailed(
        at=8.0,
        source="svc",
        request_id="r-2",
        features={"x": 2},
        error=ValueError("bad"),
        latency_ms=3.0,
        version="v1",
        key="u-1",
    )


def test_served_prediction_is_a_record(log):
    log(served(key="u-1"))
    (record,) = records(log)
    assert (record.at, record.request_id, record.prediction) == (7.0, "r-1", 0.5)
    assert record.metadata == {
        "status": "success",
        "service": "svc",
        "source": "model",
        "arm": "stable",
        "cached": False,
        "degraded": False,
        "key": "u-1",
    }


def test_degraded_prediction_tells_what_went_wrong(log):
    answer = Prediction(0.5, "r-1", "", "table", degraded=True, errors=(KeyError("x"),))
    log(served(prediction=answer))
    assert records(log)[0].metadata["errors"] == ["KeyError: 'x'"]


def test_a_cached_prediction_tells_tier_age_and_staleness(log):
    answer = Prediction(0.5, "r-1", "v1", "cache", cached=True, tier="memory", age=4.0, stale=True)
    log(served(prediction=answer))
    metadata = records(log)[0].metadata
    assert {name: metadata[name] for name in ("cached", "tier", "age", "stale")} == {
        "cached": True,
        "tier": "memory",
        "age": 4.0,
        "stale": True,
    }


def test_failed_prediction_is_a_record(log):
    log(failed())
    (record,) = records(log)
    assert (record.failed, record.error) == (True, "ValueError: bad")
    assert (record.request_id, record.features, record.prediction) == ("r-2", {"x": 2}, None)
    assert record.metadata["key"] == "u-1"


def test_subscribed_logger_hears_until_it_leaves(log, events):
    leave = log.subscribe(events)
    events.emit(served())
    events.emit(failed())
    leave()
    events.emit(served())
    assert log.stats().written == 2


def test_logger_is_a_well_behaved_listener(log):
    check_sink(log, [served(), failed(), CircuitHalfOpened(at=0.0, source="db")])
    assert log.stats().accepted == 2


def test_fact_from_no_time_is_dropped(log):
    log(served(at=math.nan))
    assert log.stats().dropped == {"invalid": 1}


def test_service_writes_through_its_logger(log):
    service = PredictionService(lambda features: 0.2, version="v7", logger=log)
    answer = service.predict({"age": 30})
    record = PredictionLog(log.path).get(answer.request_id)
    assert (record.model_version, record.prediction) == ("v7", 0.2)


# -- nothing comes back to the caller ---------------------------------------------------


def test_constructor_touches_nothing(tmp_path):
    log = PredictionLogger(tmp_path / "later")
    assert not (tmp_path / "later").exists()
    log.close()
    assert not (tmp_path / "later").exists()


@pytest.mark.parametrize("latency", ["slow", object(), [1]])
def test_latency_that_is_no_number_is_dropped(log, latency):
    assert not one(log, latency_ms=latency)
    assert log.stats().dropped == {"invalid": 1}


def test_request_id_that_cannot_be_text_is_dropped(log):
    class Hostile:
        def __str__(self):
            raise RuntimeError("no")

    assert not one(log, Hostile())
    assert log.stats().dropped == {"invalid": 1}


def test_record_after_closing_is_dropped(log):
    log.close()
    log.close()
    assert not one(log)
    assert log.stats().dropped == {"closed": 1}


def test_large_record_is_dropped(log):
    assert not one(log, features={"x": "a" * 2**20})
    assert one(log)
    assert log.stats().dropped == {"too large": 1}


def test_full_disk_is_a_count_and_no_torn_line(log, events):
    facts = Recorder(events, RecordsDropped)
    with no_file_larger_than(1000):
        answers = [one(log, f"r-{number}") for number in range(20)]
    assert True in answers
    assert not answers[-1]
    assert log.stats().dropped == {"disk full": answers.count(False)}
    assert len(facts.facts) == 1
    assert one(log, "after")
    found = [record.request_id for record in records(log)]
    assert found == [f"r-{n}" for n, there in enumerate(answers) if there] + ["after"]
    gaps = list(PredictionLog(log.path).gaps())
    assert {gap.cause for gap in gaps} == {"dropped: disk full"}
    assert sum(gap.count for gap in gaps) == answers.count(False)


def test_disk_full_from_the_first_byte_says_so(log):
    with no_file_larger_than(0):
        assert not one(log)
    assert log.stats().dropped == {"disk full": 1}
    assert one(log)


def test_directory_that_is_a_file_is_unavailable(tmp_path, clock, events):
    (tmp_path / "log").write_text("in the way")
    log = PredictionLogger(tmp_path / "log", clock=clock, events=events)
    assert not one(log)
    assert log.stats().dropped == {"unavailable": 1}
    (tmp_path / "log").unlink()
    assert not one(log), "the next attempt is a second away"
    clock.advance(1)
    assert one(log)
    log.close()


def test_descriptor_closed_behind_its_back_is_unavailable(log):
    one(log)
    os.close(log._journal._descriptor)
    assert not one(log)
    assert log.stats().dropped == {"unavailable": 1}
    log._journal._descriptor = -1
    assert one(log)


def test_error_of_no_known_kind_is_internal(log, monkeypatch):
    monkeypatch.setattr(os, "getpid", lambda: 1 / 0)
    assert not one(log)
    assert log.stats().dropped == {"internal": 1}


def test_dropping_is_told_when_it_begins_and_when_it_has_ended(log, events, clock):
    facts = Recorder(events, RecordsDropped)
    for _ in range(5):
        one(log, latency_ms="slow")
    one(log)
    assert [fact.count for fact in facts.facts] == [1]
    clock.advance(1)
    one(log)
    assert [(fact.count, fact.reason) for fact in facts.facts] == [(1, "invalid"), (4, "invalid")]
    one(log, latency_ms="slow")
    assert len(facts.facts) == 3


def test_single_drop_is_told_once(log, events, clock):
    facts = Recorder(events, RecordsDropped)
    one(log, latency_ms="slow")
    clock.advance(1)
    one(log)
    assert [fact.count for fact in facts.facts] == [1]


def test_drops_before_closing_are_told_and_noted(log, events):
    facts = Recorder(events, RecordsDropped)
    one(log)
    for _ in range(3):
        one(log, latency_ms="slow")
    log.close()
    assert [fact.count for fact in facts.facts] == [1, 2]
    assert [gap.cause for gap in PredictionLog(log.path).gaps()] == ["dropped: invalid"]


def test_closing_on_a_full_disk_is_quiet(log):
    one(log)
    one(log, latency_ms="slow")
    with no_file_larger_than(0):
        log.close()
    assert len(records(log)) == 1


def test_listener_that_logs_about_drops_does_not_recurse(log, events):
    events.subscribe(RecordsDropped, lambda fact: one(log, latency_ms="slow"))
    one(log, latency_ms="slow")
    assert log.stats().dropped == {"invalid": 2}


def test_logging_in_the_middle_of_a_write_is_dropped_not_deadlocked(log, monkeypatch):
    write, inner = os.write, []

    def interrupted(descriptor, data):
        if not inner:
            inner.append(one(log, "from a signal handler"))
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", interrupted)
    assert one(log)
    assert (inner, log.stats().dropped) == ([False], {"reentrant": 1})


def test_thread_waits_for_a_stalled_write_no_longer_than_told(tmp_path):
    log = PredictionLogger(tmp_path, max_wait=0.01)
    with log._lock:
        answers = []
        thread = threading.Thread(target=lambda: answers.append(one(log)))
        thread.start()
        thread.join()
    assert (answers, log.stats().dropped) == ([False], {"stalled": 1})
    log.close()


def test_partial_write_goes_on_where_it_stopped(log, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:100]))
    assert one(log)
    monkeypatch.undo()
    assert [record.request_id for record in records(log)] == ["r-1"]


def test_everything_accepted_is_written_or_dropped(log):
    for number in range(10):
        one(log, latency_ms="slow" if number % 3 == 0 else 1.0)
    stats = log.stats()
    assert (stats.accepted, stats.written, sum(stats.dropped.values())) == (10, 6, 4)
    assert stats.segments == 1
    assert stats.bytes == sum(entry.stat().st_size for entry in os.scandir(log.path))
    assert stats.writer.endswith(f"Z-{os.getpid()}")


# -- files ------------------------------------------------------------------------------


def test_full_segment_is_followed_by_another(tmp_path):
    with PredictionLogger(tmp_path, segment_bytes=4096) as log:
        for number in range(100):
            assert one(log, f"r-{number}")
        assert log.stats().segments > 2
    assert all(entry.stat().st_size <= 4096 for entry in os.scandir(tmp_path))
    assert [record.id for record in PredictionLog(tmp_path)] == list(range(1, 101))


def test_old_segment_is_followed_by_another(tmp_path, clock):
    with PredictionLogger(tmp_path, segment_seconds=60, clock=clock) as log:
        for _ in range(3):
            one(log)
            clock.advance(30)
        assert log.stats().segments == 2


def test_total_size_is_kept_by_deleting_the_oldest(tmp_path):
    with PredictionLogger(tmp_path, segment_bytes=4096, keep_bytes=8192) as log:
        for number in range(200):
            one(log, f"r-{number}")
            if log._pruner is not None:
                log._pruner.join()
    assert sum(entry.stat().st_size for entry in os.scandir(tmp_path)) <= 8192 + 4096
    assert [record.request_id for record in PredictionLog(tmp_path)][-1] == "r-199"
    assert list(PredictionLog(tmp_path).gaps()) == []


def test_old_files_are_deleted(tmp_path, clock):
    with PredictionLogger(tmp_path, segment_seconds=60, keep_seconds=3600, clock=clock) as log:
        one(log, "old")
        clock.advance(7200)
        one(log, "new")
        log._pruner.join()
        clock.advance(7200)
        one(log, "newer")
        log._pruner.join()
    assert [record.request_id for record in PredictionLog(tmp_path)] == ["newer"]


def test_pruning_that_fails_is_quiet_to_the_caller(tmp_path, monkeypatch, caplog):
    def deny(*_):
        raise PermissionError(errno.EACCES, "no")

    monkeypatch.setattr("prodml.recording.logger.prune", deny)
    with PredictionLogger(tmp_path, keep_bytes=1) as log:
        assert one(log)
    assert "cannot prune" in caplog.text


def test_no_thread_left_for_pruning_is_no_reason_to_fail(tmp_path, monkeypatch):
    def refuse(_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with PredictionLogger(tmp_path, keep_bytes=1) as log:
        assert one(log)
        assert log._pruner is None


def test_only_one_thread_prunes(tmp_path, monkeypatch):
    gate, calls = threading.Event(), []
    monkeypatch.setattr("prodml.recording.logger.prune", lambda *_: calls.append(gate.wait(5)))
    with PredictionLogger(tmp_path, keep_bytes=1, segment_bytes=4096) as log:
        for number in range(60):
            one(log, f"r-{number}")
        assert log.stats().segments > 1
        gate.set()
    assert calls == [True]


def test_flush_syncs_every_file_once(log, monkeypatch):
    retune(log, segment_bytes=4096)
    for number in range(50):
        one(log, f"r-{number}")
    synced, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(fsync(descriptor)))
    files = log.stats().segments
    assert log.flush()
    assert len(synced) == files + 1
    assert log.flush()
    assert len(synced) == files + 1 + 2


def test_flush_says_when_the_device_refuses(log, monkeypatch):
    def refuse(_):
        raise OSError(errno.EIO, "device error")

    one(log)
    monkeypatch.setattr(os, "fsync", refuse)
    assert not log.flush()


def test_flush_survives_files_that_are_gone(log):
    one(log)
    for entry in os.scandir(log.path):
        os.unlink(entry)
    assert log.flush()


def test_settings_can_be_retuned_but_not_the_place(log):
    one(log)
    assert settings_of(log)["segment_bytes"] == "64 MiB"
    retune(log, segment_bytes="8 MiB", max_record_bytes=300)
    assert log._journal.segment_bytes == 8 * 2**20
    assert not one(log, features={"x": "a" * 300})
    with pytest.raises(ValueError, match="path"):
        retune(log, path="elsewhere")


# -- threads ----------------------------------------------------------------------------


def test_sixteen_threads_interleave_nothing_and_lose_no_number(tmp_path):
    barrier = threading.Barrier(16)
    with PredictionLogger(tmp_path, segment_bytes="64 KiB", max_wait=60.0) as log:

        def work(worker):
            barrier.wait()
            for number in range(200):
                assert one(log, f"{worker}-{number}", features={"x": "a" * worker})

        threads = [threading.Thread(target=work, args=(worker,)) for worker in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = list(PredictionLog(tmp_path))
    assert sorted(record.id for record in found) == list(range(1, 3201))
    assert len({record.request_id for record in found}) == 3200
    assert list(PredictionLog(tmp_path).gaps()) == []


# -- the short way and the long way write the same ---------------------------------------


@pytest.mark.parametrize("cls", [np.float16, np.float32, np.float64, np.int8, np.uint64, np.bool_])
def test_rows_of_numpy_numbers_take_the_short_way_to_the_same_line(log, cls):
    features = {"a": cls(1), "b": 2.5, "c": "oslo"}
    for request in ("first", "second", "third"):
        assert one(log, request, features=features, prediction=cls(0))
    found = records(log)
    assert [record.features for record in found] == [{"a": 1, "b": 2.5, "c": "oslo"}] * 3
    assert {type(record.features["a"]).__name__ for record in found} <= {"int", "float", "bool"}


@pytest.mark.parametrize("features", [{}, {"x": 1.0}, {"x": "oslo"}], ids=repr)
@pytest.mark.parametrize("answer", [np.float64("nan"), np.float32("inf"), math.nan])
def test_answer_that_is_no_number_is_found_beside_any_features(log, features, answer):
    for request in ("first", "second", "third"):
        assert one(log, request, features=features, prediction=answer)
    assert [repr(record.prediction) for record in records(log)] == [repr(float(answer))] * 3


@pytest.mark.parametrize("value", [np.float64("nan"), np.float32("inf"), np.float16("-inf")])
def test_no_number_of_numpy_is_written_as_one_each_time(log, value):
    for request in ("first", "second", "third"):
        assert one(log, request, features={"x": value}, prediction=value)
    assert [repr(r.features["x"]) for r in records(log)] == [repr(float(value))] * 3
    assert [repr(r.prediction) for r in records(log)] == [repr(float(value))] * 3


@pytest.mark.parametrize(
    "features",
    [
        {"a": np.arange(3), "b": np.arange(2)},
        {"a": np.arange(3)},
        {"a": type("Sum", (), {"__radd__": lambda self, other: 1 / 0})()},
        {"a": type("Sum", (), {"__radd__": lambda self, other: 1.0})()},
    ],
    ids=["shapes", "array", "hostile", "pretender"],
)
def test_values_that_add_up_strangely_are_logged_all_the_same(log, features):
    for request in ("first", "second"):
        assert one(log, request, features=features)
    first, second = records(log)
    assert repr(first.features) == repr(second.features)
