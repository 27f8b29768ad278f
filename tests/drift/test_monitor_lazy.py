"""A monitor counts where the data lie: the same integers as in memory, and no row collected."""

import sys
import types
from datetime import datetime, timedelta
from decimal import Decimal

import narwhals as nw
import numpy as np
import polars as pl
import pyarrow.dataset
import pyarrow.parquet
import pytest

from prodml.drift import DriftMonitor, Reference, engines
from prodml.drift.arrival import arrived
from prodml.drift.baseline import baseline
from prodml.drift.lazy import counted
from prodml.errors import BadConfiguration
from prodml.events import Stream
from prodml.testing import ManualClock

duckdb = pytest.importorskip("duckdb")

ROWS = 2000


def table(seed, rows=ROWS, shift=0.0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=rows) + shift
    spoilt = np.where(rng.random(rows) < 0.05, np.nan, x)
    spoilt[:4] = [np.inf, -np.inf, -0.0, 1e300]
    code = rng.choice(list("abc"), rows).tolist()
    return pl.DataFrame(
        {
            "x": x,
            "spoilt": spoilt,
            "zeros": np.where(rng.random(rows) < 0.9, 0.0, x),
            "whole": pl.Series([None if i % 9 == 0 else i % 7 for i in range(rows)]),
            "code": pl.Series([None if i % 5 == 0 else c for i, c in enumerate(code)]),
            "flag": rng.random(rows) < 0.3,
            "when": [datetime(2026, 1, 1) + timedelta(hours=int(h)) for h in range(rows)],
            "price": [Decimal(int(v)) for v in rng.integers(0, 99, rows)],
            "one": np.ones(rows),
            "gone": [None] * rows,
        }
    )


def in_polars(frame, _path):
    return frame.lazy()


def in_narwhals(frame, _path):
    return nw.from_native(frame.lazy())


def in_duckdb(frame, _path):
    connection = duckdb.connect()
    connection.register("batch", frame.to_arrow())
    return connection.table("batch")


def in_batches(frame, _path):
    return frame.to_arrow().to_reader(max_chunksize=300)


def in_files(frame, path):
    for part in range(4):
        frame[part * 500 : (part + 1) * 500].write_parquet(path / f"{part}.parquet")
    return path


def in_a_dataset(frame, path):
    return pyarrow.dataset.dataset(in_files(frame, path), format="parquet")


ELSEWHERE = [in_polars, in_narwhals, in_duckdb, in_batches, in_files, in_a_dataset]


def monitor_of(reference, **settings):
    return DriftMonitor(reference, events=Stream(), clock=ManualClock(), order=False, **settings)


@pytest.mark.parametrize("put", ELSEWHERE)
@pytest.mark.parametrize("exact", [True, False])
def test_a_batch_elsewhere_gives_the_counts_and_verdicts_of_memory(put, exact, tmp_path):
    reference = Reference.fit(table(0), exact=exact)
    here, there = monitor_of(reference), monitor_of(reference)
    for day, shift in enumerate((0.0, 0.5)):
        batch = table(day + 1, shift=shift)
        (tmp_path / str(day)).mkdir()
        a = here.check(batch, at=day * 86400.0)
        b = there.check(put(batch, tmp_path / str(day)), at=day * 86400.0)
        assert a.to_dict() == b.to_dict()
    assert here.to_dict()["features"] == there.to_dict()["features"]
    assert {"x", "spoilt"} <= set(b.drifted)


@pytest.mark.parametrize("put", [in_polars, in_duckdb])
def test_no_row_is_collected(put, tmp_path, monkeypatch):
    most = []
    original = nw.LazyFrame.collect

    def collect(self, *args, **kwargs):
        frame = original(self, *args, **kwargs)
        most.append(len(frame))
        return frame

    monkeypatch.setattr(nw.LazyFrame, "collect", collect)
    names = ["x", "spoilt", "zeros", "whole", "code", "flag"]
    monitor = monitor_of(Reference.fit(table(0).select(names)))
    monitor.check(put(table(1).select(names), tmp_path))
    # One answer for all numbers, and one for the levels of each of two columns.
    assert len(most) == 3
    assert max(most) <= 4


def test_a_lazy_reference_is_not_collected_either(monkeypatch):
    monkeypatch.setattr(nw.LazyFrame, "collect", None)
    monitor = DriftMonitor(table(0).lazy(), events=Stream(), clock=ManualClock())
    assert not monitor.check(table(1), at=0.0).drift_detected
    assert "x" in monitor.check(table(2, shift=1.0), at=86400.0).drifted
    parts = (table(seed, 500) for seed in range(4))
    assert DriftMonitor(parts, events=Stream()).check(table(9, shift=1.0)).drift_detected


def test_what_is_gone_or_of_another_type_elsewhere_is_said_as_here():
    reference = Reference.fit(table(0).select("x", "zeros", "code", "when"))
    odd = table(1).select(
        pl.col("x").cast(pl.String), pl.col("when").alias("zeros"), pl.col("x").alias("when")
    )
    here, there = (
        monitor_of(reference).check(batch, at=0.0).to_dict() for batch in (odd, odd.lazy())
    )
    assert here == there
    assert here["features"]["code"]["reason"] == "the column is gone"
    assert here["features"]["x"]["aspect"] == here["features"]["zeros"]["aspect"] == "type"
    wider = monitor_of(reference).check(table(1).lazy())
    assert set(wider.new_columns) == {"spoilt", "whole", "flag", "price", "one", "gone"}
    true = {"flag": pl.Series([True, False] * 300)}
    numbers = Reference.fit({"flag": [0.0, 1.0] * 300})
    one, two = (monitor_of(numbers) for _ in range(2))
    assert one.check(true).to_dict() == two.check(pl.LazyFrame(true)).to_dict()


def test_a_column_that_the_engine_cannot_count_costs_the_others_nothing():
    reference = Reference.fit({"x": [float(i) for i in range(100)], "y": ["a", "b"] * 50})

    def fails(_):
        raise ValueError("no such day")

    lazy = pl.LazyFrame({"x": [50.0] * 100, "y": ["a"] * 100}).with_columns(
        pl.col("y").map_batches(fails, return_dtype=pl.String)
    )
    report = monitor_of(reference).check(lazy)
    assert report["y"].level.value == "inconclusive"
    assert "cannot be read" in report["y"].reason
    assert report.drifted == ("x",)


def test_seasons_of_a_batch_elsewhere_are_one_label():
    rng = np.random.default_rng(0)
    seasons = np.repeat(["week", "weekend"], 500)
    x = rng.normal(size=1000) + 3.0 * (seasons == "weekend")
    monitor = monitor_of({"x": x}, seasonal=seasons)
    batch = pl.LazyFrame({"x": rng.normal(size=200) + 3.0})
    assert not monitor.check(batch, season="weekend").drift_detected
    assert monitor.check(batch, season="week").drift_detected
    for wrong in (["week"] * 200, None, "Sunday"):
        with pytest.raises(BadConfiguration):
            monitor.check(batch, season=wrong)


def test_counts_that_were_made_elsewhere_serve_where_the_cells_are_those_of_the_reference():
    reference, batch = Reference.fit(table(0), exact=False), table(1, shift=0.5)
    whole = Reference.empty(reference).update(batch)
    here = monitor_of(reference).check(batch).to_dict()
    assert monitor_of(reference).check(whole).to_dict() == here
    edges = counted(batch.lazy(), reference)
    assert monitor_of(reference).check(edges).to_dict() == here
    # In other cells the counts would be a little off, and a little is evidence in the end.
    exact = monitor_of(Reference.fit(table(0))).check(whole)
    assert exact["x"].level.value == "inconclusive"
    assert "other cells" in exact["x"].reason
    assert exact["code"].level.value == "none"


def test_a_frame_of_a_cluster_is_counted_by_its_engine(monkeypatch):
    door = types.ModuleType("door_of_our_cluster")
    door.counted = lambda frame, like: Reference.empty(like.counted()).update(frame.table)
    monkeypatch.setitem(sys.modules, "door_of_our_cluster", door)
    monkeypatch.setitem(engines._ENGINES, "ourcluster", "door_of_our_cluster")
    frame = type("Frame", (), {"__module__": "ourcluster.frames", "table": table(1, shift=0.5)})()
    reference = Reference.fit(table(0), exact=False)
    report = monitor_of(reference).check(frame)
    assert report.to_dict() == monitor_of(reference).check(frame.table).to_dict()
    exact = monitor_of(Reference.fit(table(0))).check(frame)
    assert "Reference, fit(..., exact=False)" in exact["x"].reason
    assert exact["flag"].level.value == "none"


def test_levels_that_the_reference_does_not_list_are_not_new():
    """A saved reference lists as many levels as have room; the others are in its rest."""
    rng = np.random.default_rng(0)
    codes = [f"shop {i}" for i in rng.zipf(1.3, 60_000) % 20_000]
    kept = Reference.from_dict(Reference.fit({"shop": codes[:50_000]}).to_dict())
    assert kept.columns["shop"].sample.rest > 0
    monitor = monitor_of(kept)
    assert monitor.check({"shop": codes[50_000:]}, at=0.0)["shop"].level.value == "none"
    assert monitor.check({"shop": ["shop 1"] * 9000}, at=86400.0)["shop"].drift_detected
    many = pl.LazyFrame({"plan": pl.arange(0, 300_000, eager=True).cast(pl.String)})
    plans = monitor_of({"plan": ["basic", "pro"] * 50})
    assert plans.check(many)["plan"].aspect in {"levels", "distribution"}
    assert plans.check(many)["plan"].drift_detected


def test_an_identifier_too_long_to_list_is_no_feature():
    reference = Reference.fit({"id": [str(i) for i in range(300_000)]})
    both = reference + reference
    assert both.columns["id"].sample.uncounted or both.columns["id"].sample.rest
    assert monitor_of(both).check({"id": ["1"] * 50})["id"].level.value == "inconclusive"


def test_a_batch_may_be_a_generator_of_nothing_we_know():
    base = baseline({"x": [float(i) for i in range(100)]})
    for wrong in (7, (x for x in [1.0]), object(), None):
        with pytest.raises(TypeError):
            arrived(base, wrong)
