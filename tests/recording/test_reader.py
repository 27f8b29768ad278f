import datetime as dt
import math
import os
import threading

import numpy as np
import pandas as pd
import polars as pl
import pytest

from prodml.errors import BadConfiguration
from prodml.recording import PredictionLog, PredictionLogger
from prodml.recording.line import framed
from prodml.testing import ManualClock


@pytest.fixture
def clock():
    return ManualClock(1000.0)


def logger(tmp_path, clock, **settings):
    return PredictionLogger(tmp_path, clock=clock, **settings)


def fill(log, clock, count, *, prefix="r", version="v1", step=1.0):
    for number in range(count):
        log.log_prediction(f"{prefix}-{number}", {"x": float(number)}, number % 2, version, 1.0)
        clock.advance(step)


def ids(records):
    return [record.request_id for record in records]


def only_file(tmp_path):
    (path,) = tmp_path.iterdir()
    return path


# -- order and filters ------------------------------------------------------------------


def test_log_that_does_not_exist_is_empty(tmp_path):
    log = PredictionLog(tmp_path / "nothing")
    assert (list(log), list(log.gaps()), log.get("r-1")) == ([], [], None)


def test_records_of_several_writers_come_in_the_order_of_time(tmp_path, clock):
    with logger(tmp_path, clock) as first, logger(tmp_path, clock) as second:
        for number in range(20):
            fill(second if number % 3 else first, clock, 1, prefix=str(number))
    assert ids(PredictionLog(tmp_path)) == [f"{number}-0" for number in range(20)]


def test_records_of_several_segments_come_in_the_order_of_time(tmp_path, clock):
    with logger(tmp_path, clock, segment_bytes=4096) as log:
        fill(log, clock, 100)
    assert ids(PredictionLog(tmp_path)) == [f"r-{number}" for number in range(100)]


def test_record_out_of_its_place_is_put_there(tmp_path, clock):
    with logger(tmp_path, clock) as log:
        fill(log, clock, 1, prefix="late")
        clock.step_wall(-10.0)
        fill(log, clock, 1, prefix="early")
    assert ids(PredictionLog(tmp_path)) == ["early-0", "late-0"]


def test_long_log_is_read_lazily_and_in_order(tmp_path, clock):
    with logger(tmp_path, clock) as log:
        fill(log, clock, 1500)
    records = iter(PredictionLog(tmp_path))
    assert next(records).request_id == "r-0"
    assert len(list(records)) == 1499


def test_where_narrows_by_everything_given(tmp_path, clock):
    with logger(tmp_path, clock) as log:
        fill(log, clock, 4, version="v1")
        fill(log, clock, 4, version="v2", prefix="s")
    log = PredictionLog(tmp_path)
    assert ids(log.where(model_version="v2")) == ["s-0", "s-1", "s-2", "s-3"]
    assert ids(log.where(since=1002.0, until=1005.0)) == ["r-2", "r-3", "s-0"]
    assert ids(log.where(since=1002.0).where(until=1003.0)) == ["r-2"]
    assert ids(log.where(lambda record: record.prediction == 1, model_version="v1")) == [
        "r-1",
        "r-3",
    ]
    assert len(list(log)) == 8


def test_where_takes_aware_datetimes(tmp_path, clock):
    with logger(tmp_path, clock) as log:
        fill(log, clock, 3)
    since = dt.datetime.fromtimestamp(1002, dt.UTC)
    assert ids(PredictionLog(tmp_path).where(since=since)) == ["r-2"]


def test_naive_datetimes_and_tests_that_are_none_are_refused(tmp_path):
    with pytest.raises(BadConfiguration, match="since"):
        PredictionLog(tmp_path).where(since=dt.datetime(2024, 1, 1))
    with pytest.raises(BadConfiguration, match="function"):
        PredictionLog(tmp_path).where("v1")


def test_failed_and_labelled_records_can_be_told_apart(tmp_path, clock):
    with logger(tmp_path, clock) as log:
        log.log_prediction("bad", {}, None, "v1", 1.0, {"status": "error", "error": "boom"})
        fill(log, clock, 2)
        log.truth("r-1", 1)
    log = PredictionLog(tmp_path)
    assert ids(log.where(failed=True)) == ["bad"]
    assert ids(log.where(labelled=True)) == ["r-1"]
    assert ids(log.where(labelled=False, failed=False)) == ["r-0"]


# -- one record, labels -----------------------------------------------------------------


def test_get_finds_the_record_and_its_label(tmp_path, clock):
    with logger(tmp_path, clock) as log:
        fill(log, clock, 12)
        log.truth("r-1", "yes")
        log.truth("r-11", "no")
    record = PredictionLog(tmp_path).get("r-1")
    assert (record.features, record.label) == ({"x": 1.0}, "yes")
    assert PredictionLog(tmp_path).get("r-99") is None


@pytest.mark.parametrize("request_id", ['a"b', "ünï", "a\\b", "tab\t", "$r"])
def test_get_finds_ids_of_any_spelling(tmp_path, clock, request_id):
    with logger(tmp_path, clock) as log:
        log.log_prediction(request_id, {}, 1, "v1", 1.0)
    assert PredictionLog(tmp_path).get(request_id).request_id == request_id


def test_get_takes_the_record_logged_last(tmp_path, clock):
    with logger(tmp_path, clock) as log:
        fill(log, clock, 1, version="v1")
        fill(log, clock, 1, version="v2")
    assert PredictionLog(tmp_path).get("r-0").model_version == "v2"
    assert PredictionLog(tmp_path).where(model_version="v1").get("r-0").model_version == "v1"


def test_get_is_not_fooled_by_an_id_elsewhere_in_the_line(tmp_path, clock):
    with logger(tmp_path, clock) as log:
        log.log_prediction("r-1", {"parent": "r-2"}, 1, "v1", 1.0)
    assert PredictionLog(tmp_path).get("r-2") is None


def test_label_logged_last_wins_whoever_logged_it(tmp_path, clock):
    with logger(tmp_path, clock) as first, logger(tmp_path, clock) as second:
        fill(first, clock, 1)
        second.truth("r-0", "first")
        clock.advance(1)
        first.truth("r-0", "second", at=1.0)
    record = PredictionLog(tmp_path).get("r-0")
    assert (record.label, record.label_at) == ("second", 1.0)


def test_earlier_label_read_later_does_not_win(tmp_path, clock):
    with logger(tmp_path, clock) as first:
        fill(first, clock, 1)
        clock.advance(10)
        first.truth("r-0", "new")
        clock.step_wall(-5)
        first.truth("r-0", "old")
    assert PredictionLog(tmp_path).get("r-0").label == "new"


def test_label_without_a_record_is_no_record(tmp_path, clock):
    with logger(tmp_path, clock) as log:
        log.truth("r-9", 1)
    assert list(PredictionLog(tmp_path)) == []


def test_features_that_look_like_a_label_are_none(tmp_path, clock):
    with logger(tmp_path, clock) as log:
        log.log_prediction("r-1", {"kind": "label"}, 1, "v1", 1.0)
    (record,) = PredictionLog(tmp_path)
    assert (record.features, record.labelled) == ({"kind": "label"}, False)


# -- what is missing --------------------------------------------------------------------


def test_whole_log_has_no_gap(tmp_path, clock):
    with logger(tmp_path, clock, segment_bytes=4096) as log:
        fill(log, clock, 50)
    assert list(PredictionLog(tmp_path).gaps()) == []


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_torn_last_line_is_skipped_and_told(tmp_path, clock, cut):
    with logger(tmp_path, clock) as log:
        fill(log, clock, 3)
    path = only_file(tmp_path)
    os.truncate(path, path.stat().st_size - cut)
    assert ids(PredictionLog(tmp_path)) == ["r-0", "r-1"]
    (gap,) = PredictionLog(tmp_path).gaps()
    assert (gap.cause, gap.after, gap.count, gap.segment) == ("torn", 2, 1, path.name)


def test_file_with_nothing_but_a_torn_line_is_told(tmp_path, clock):
    with logger(tmp_path, clock) as log:
        fill(log, clock, 1)
    os.truncate(only_file(tmp_path), 10)
    (gap,) = PredictionLog(tmp_path).gaps()
    assert (gap.cause, gap.after) == ("torn", 0)


def test_damaged_line_in_the_middle_costs_only_itself(tmp_path, clock):
    with logger(tmp_path, clock) as log:
        fill(log, clock, 5)
    path = only_file(tmp_path)
    path.write_bytes(path.read_bytes().replace(b'"r-2"', b'"r-X"'))
    assert ids(PredictionLog(tmp_path)) == ["r-0", "r-1", "r-3", "r-4"]
    (gap,) = PredictionLog(tmp_path).gaps()
    assert (gap.cause, gap.after, gap.count) == ("torn", 2, 1)


def test_damaged_label_is_no_label(tmp_path, clock):
    with logger(tmp_path, clock) as log:
        fill(log, clock, 1)
        log.truth("r-0", "yes")
    path = only_file(tmp_path)
    path.write_bytes(path.read_bytes().replace(b'"yes"', b'"not"'))
    assert not PredictionLog(tmp_path).get("r-0").labelled


def test_missing_lines_are_counted(tmp_path, clock):
    with logger(tmp_path, clock) as log:
        fill(log, clock, 6)
    path = only_file(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2] + lines[5:]))
    (gap,) = PredictionLog(tmp_path).gaps()
    assert (gap.cause, gap.after, gap.count) == ("missing", 2, 3)


def test_missing_file_is_counted_but_not_what_retention_took(tmp_path, clock):
    with logger(tmp_path, clock, segment_bytes=4096) as log:
        fill(log, clock, 100)
    files = sorted(tmp_path.iterdir())
    lost = files[2].read_bytes().splitlines()
    files[2].unlink()
    files[0].unlink()
    (gap,) = PredictionLog(tmp_path).gaps()
    assert (gap.cause, gap.count) == ("missing", len(lost))


def test_unfinished_line_of_a_living_writer_is_no_gap(tmp_path, clock):
    with logger(tmp_path, clock) as log:
        fill(log, clock, 1)
        with only_file(tmp_path).open("ab") as file:
            file.write(b'{"v":1,"id":2,')
        assert list(PredictionLog(tmp_path).gaps()) == []
        assert ids(PredictionLog(tmp_path)) == ["r-0"]
    assert [gap.cause for gap in PredictionLog(tmp_path).gaps()] == ["torn"]


def test_empty_lines_and_foreign_lines_are_skipped(tmp_path, clock):
    with logger(tmp_path, clock) as log:
        fill(log, clock, 1)
    with only_file(tmp_path).open("ab") as file:
        file.write(b"\n{}\nnull\n\xff\xfe\n")
    assert ids(PredictionLog(tmp_path)) == ["r-0"]


def test_fields_of_a_later_version_are_ignored(tmp_path, clock):
    with logger(tmp_path, clock) as log:
        fill(log, clock, 1)
    body = b'{"at":2000.0,"request_id":"new","weight":2.0}'
    with only_file(tmp_path).open("ab") as file:
        file.write(framed(2, body))
    assert ids(PredictionLog(tmp_path)) == ["r-0", "new"]


def test_file_deleted_while_reading_ends_quietly(tmp_path, clock):
    with logger(tmp_path, clock, segment_bytes=4096) as log:
        fill(log, clock, 100)
    records = iter(PredictionLog(tmp_path))
    next(records)
    for path in tmp_path.iterdir():
        path.unlink()
    assert 0 < len(list(records)) < 100


def test_reading_while_writing_never_sees_half_a_record(tmp_path):
    with PredictionLogger(tmp_path, segment_bytes="16 KiB") as log:

        def write():
            for number in range(3000):
                log.log_prediction(f"r-{number}", {"x": "a" * 500}, number, "v1", 1.0)

        thread = threading.Thread(target=write)
        thread.start()
        while True:
            writing = thread.is_alive()
            found = [record.id for record in PredictionLog(tmp_path)]
            assert found == list(range(1, len(found) + 1))
            assert list(PredictionLog(tmp_path).gaps()) == []
            if not writing:
                break
        thread.join()
    assert len(found) == 3000


def test_file_that_a_listing_missed_is_found(tmp_path, clock, monkeypatch):
    with logger(tmp_path, clock, segment_bytes=4096) as log:
        fill(log, clock, 100)
    everything = sorted(tmp_path.iterdir())
    monkeypatch.setattr(type(tmp_path), "iterdir", lambda _: [everything[0], everything[-1]])
    assert len(ids(PredictionLog(tmp_path))) == 100


def test_writer_that_finishes_its_line_meanwhile_leaves_no_gap(tmp_path, clock, monkeypatch):
    with logger(tmp_path, clock) as log:
        fill(log, clock, 2)
    path = only_file(tmp_path)
    line = path.read_bytes()
    path.write_bytes(line[:-5])

    def finish(_):
        path.write_bytes(line)
        return False

    monkeypatch.setattr("prodml.recording.reader.is_live", finish)
    assert list(PredictionLog(tmp_path).gaps()) == []


# -- as a table, and again --------------------------------------------------------------


def table(tmp_path, clock):
    with logger(tmp_path, clock) as log:
        log.log_prediction("a", {"x": 1.0}, 0.5, "v1", 1.0)
        log.log_prediction("b", {"y": "z"}, math.nan, "v1", None, {"status": "success"})
        log.log_prediction("c", [1, 2], 0.5, "v1", 1.0)
        log.truth("a", 1)
    return PredictionLog(tmp_path)


def test_frame_has_a_column_for_every_name(tmp_path, clock):
    columns = table(tmp_path, clock).frame()
    assert columns["request_id"] == ["a", "b", "c"]
    assert columns["features.x"] == [1.0, None, None]
    assert columns["features.y"] == [None, "z", None]
    assert columns["metadata.status"] == [None, "success", None]
    assert columns["label"] == [1, None, None]
    assert columns["latency_ms"] == [1.0, None, 1.0]
    assert {len(column) for column in columns.values()} == {3}


@pytest.mark.parametrize(("backend", "cls"), [("pandas", pd.DataFrame), ("polars", pl.DataFrame)])
def test_frame_of_a_library_is_one(tmp_path, clock, backend, cls):
    frame = table(tmp_path, clock).frame(backend)
    assert isinstance(frame, cls)
    assert frame.shape[0] == 3
    assert list(frame["request_id"]) == ["a", "b", "c"]


def test_frame_of_an_unknown_library_is_refused(tmp_path):
    with pytest.raises(BadConfiguration, match="backend"):
        PredictionLog(tmp_path).frame("spark")


class Doubling:
    def predict(self, features):
        return features["x"] * 2


def test_replay_asks_again_with_the_very_same_features(tmp_path, clock):
    array = np.array([0.1, np.nan], dtype=np.float32)
    with logger(tmp_path, clock) as log:
        log.log_prediction("r-1", {"x": array}, array * 2, "v1", 1.0)
        log.log_prediction("nothing to go by", None, 1, "v1", 1.0)
    ((record, value),) = PredictionLog(tmp_path).replay(Doubling())
    np.testing.assert_array_equal(value, record.prediction)
    assert value.dtype == np.float32


def test_replay_takes_a_function_too(tmp_path, clock):
    with logger(tmp_path, clock) as log:
        fill(log, clock, 3)
    log = PredictionLog(tmp_path).where(since=1001.0)
    assert [value for _, value in log.replay(lambda features: features["x"] + 1)] == [2.0, 3.0]
