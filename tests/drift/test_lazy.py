"""Counting where the data lies: the same integers as here, and no row collected."""

from dataclasses import replace
from datetime import date, datetime, time, timedelta
from decimal import Decimal

import narwhals as nw
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prodml.drift import DriftDetector, DriftLevel, Reference, engines, lazy
from prodml.drift.cells import Cells
from prodml.drift.engines import engine_of, register_engine
from prodml.drift.layout import Layout
from prodml.drift.lazy import Unread, batch_of, counted
from prodml.drift.outline import Outline, outline_of, planned
from prodml.drift.packed import packed, unpacked
from prodml.drift.parts import is_lazy, parts_of
from prodml.drift.reference import ReferenceColumn
from prodml.drift.sample import Levels
from prodml.errors import BadConfiguration, CorruptRecord

duckdb = pytest.importorskip("duckdb")

# Until the detector and the reference call what is tested here.

COUNTED = ("rows", "missing", "invalid", "above", "below", "fractional", "minimum", "maximum")


def in_polars(frame):
    return frame.lazy()


def in_duckdb(frame):
    connection = duckdb.connect()
    connection.register("batch", frame.to_arrow())
    return connection.table("batch")


ENGINES = pytest.mark.parametrize("engine", [in_polars, in_duckdb])


def batch(rows=3000, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=rows)
    x[:9] = [np.nan, np.inf, -np.inf, np.inf, -0.0, 1e300, -1e-300, 2.0**60, np.nan]
    whole = rng.integers(-5, 5, rows)
    code = np.where(whole == 3, None, rng.choice(list("abc"), rows))
    return pl.DataFrame(
        {
            "x": x,
            "half": np.where(rng.random(rows) < 0.9, 0.0, x).astype(np.float32),
            "whole": pl.Series([None if i % 7 == 0 else int(v) for i, v in enumerate(whole)]),
            "huge": rng.integers(2**53 - 3, 2**53 + 9, rows),
            "code": pl.Series(code.tolist(), dtype=pl.String),
            "flag": rng.random(rows) < 0.3,
            "when": pl.Series(np.datetime64("2024-01-01", "us") + rng.integers(0, 10**12, rows)),
            "price": pl.Series([Decimal(int(v)).scaleb(-2) for v in rng.integers(0, 999, rows)]),
        }
    )


def same(found, full):
    """Equal at every edge that the engine was asked for, and in every other count."""
    assert [getattr(found, name) for name in COUNTED[:6]] == [
        getattr(full, name) for name in COUNTED[:6]
    ]
    assert repr([found.minimum, found.maximum]) == repr([full.minimum, full.maximum])
    edges = found.layout.upper(found.marks)
    assert found.cumulative(edges).tolist() == full.cumulative(edges).tolist()
    return len(edges)


# -- pushed down -------------------------------------------------------------------------


@ENGINES
def test_counts_of_an_engine_are_those_of_memory_to_the_last_bit(engine):
    reference = Reference.fit(batch(seed=1), exact=False)
    today = batch(seed=2)
    found = counted(engine(today), reference)
    full = Reference.empty(reference).update(today)
    assert found.names == reference.names
    edges = [same(found.columns[n].sample, full.columns[n].sample) for n in ("x", "half", "whole")]
    assert min(edges) >= 10
    assert max(edges) >= 90
    same(found.columns["huge"].sample, full.columns["huge"].sample)
    for name in ("code", "flag", "when", "price"):
        assert found.columns[name].sample == full.columns[name].sample


VALUES = st.one_of(
    st.floats(width=64), st.sampled_from([0.0, -0.0, 1.0, 0.1, 0.30000000000000004]), st.none()
)


@settings(max_examples=30, deadline=None)
@given(st.lists(VALUES, min_size=1, max_size=40), st.lists(VALUES, max_size=40))
def test_any_floats_are_counted_alike(old, new):
    reference = Reference.fit({"x": pl.Series(old, dtype=pl.Float64)}, exact=False)
    today = pl.DataFrame({"x": pl.Series(new, dtype=pl.Float64)})
    full = Reference.empty(reference).update(today).columns["x"].sample
    for engine in (in_polars, in_duckdb):
        if reference.columns["x"].kind == "numeric":
            same(counted(engine(today), reference).columns["x"].sample, full)


@ENGINES
def test_all_numbers_are_asked_for_in_one_query_and_only_counts_come_back(engine, monkeypatch):
    reference = Reference.fit(batch(seed=1).select("x", "half", "whole", "code"), exact=False)
    answers = []
    original = nw.LazyFrame.collect

    def collect(self, *args, **kwargs):
        answers.append(original(self, *args, **kwargs))
        return answers[-1]

    monkeypatch.setattr(nw.LazyFrame, "collect", collect)
    counted(engine(batch(seed=2)), reference)
    # Three columns of numbers at once, then the levels of one: a, b, c and null.
    assert [len(answer) for answer in answers] == [1, 4]


@ENGINES
def test_levels_of_any_type_are_counted_by_group(engine):
    today = pl.DataFrame(
        {
            "enum": pl.Series(["b", "a", None, "b"], dtype=pl.Enum(["a", "b", "c"])),
            "category": pl.Series(["b", "a", None, "b"], dtype=pl.Categorical),
            "code": pl.Series([1, 2, None, 1]),
            "float": pl.Series([0.5, float("nan"), None, 0.5]),
        }
    )
    kinds = dict.fromkeys(today.columns, "categorical")
    reference = Reference.fit(today, kinds=kinds, exact=False)
    found = counted(engine(today), reference)
    for name in today.columns:
        assert found.columns[name].sample == reference.columns[name].sample, name


@ENGINES
def test_too_many_levels_never_come_back(engine, monkeypatch):
    monkeypatch.setattr(lazy, "MOST_LEVELS", 5)
    reference = Reference.fit({"id": ["a", "b"]}, exact=False)
    rows, original = [], lazy._rows
    monkeypatch.setattr(lazy, "_rows", lambda frame: rows.append(original(frame)) or rows[-1])
    many = pl.DataFrame({"id": [*map(str, range(70)), None]})
    assert counted(engine(many), reference).columns["id"].sample == Levels({}, 71, 1, rest=70)
    assert max(map(len, rows)) == 7
    five = pl.DataFrame({"id": [*map(str, range(5)), None]})
    assert len(counted(engine(five), reference).columns["id"].sample.counts) == 5


@ENGINES
def test_text_where_numbers_were_is_of_a_wrong_type(engine):
    reference = Reference.fit({"x": [1.0, 2.0]}, exact=False)
    sample = counted(engine(pl.DataFrame({"x": ["a", None, "b"]})), reference).columns["x"].sample
    assert (sample.rows, sample.missing, sample.invalid, sample.size) == (3, 1, 2, 0)


@ENGINES
def test_a_frame_without_rows_counts_nothing(engine):
    reference = Reference.fit(batch(seed=1), exact=False)
    found = counted(engine(batch().head(0)), reference)
    assert {column.sample.rows for column in found.columns.values()} == {0}


@ENGINES
def test_counts_at_the_same_edges_add_up_and_pack(engine):
    reference = Reference.fit(batch(seed=1), exact=False)
    days = [batch(seed=seed) for seed in (2, 3)]
    both = counted(engine(days[0]), reference) + counted(engine(days[1]), reference)
    whole = counted(engine(pl.concat(days)), reference)
    again = unpacked(packed(both))
    for name in both.names:
        assert both.columns[name].sample == whole.columns[name].sample
        assert again.columns[name].sample == whole.columns[name].sample


def test_a_reference_counted_at_edges_asks_for_those():
    first = Reference.fit(batch(seed=1).select("x"), exact=False)
    at_edges = counted(batch(seed=2).lazy().select("x"), first)
    again = counted(batch(seed=3).lazy().select("x"), at_edges)
    assert again.columns["x"].sample.marks.tolist() == at_edges.columns["x"].sample.marks.tolist()


def test_bad_calls_say_so():
    reference = Reference.fit({"x": [1.0, 2.0]})
    frame = pl.LazyFrame({"y": [1.0]})
    with pytest.raises(BadConfiguration, match="no column 'x'"):
        counted(frame, reference)
    with pytest.raises(BadConfiguration, match=">= 10"):
        counted(frame, reference, edges=3)
    with pytest.raises(TypeError, match="neither lazy nor in parts"):
        counted({"x": [1.0]}, reference)


def broken(sql="SELECT x, CAST(word AS DOUBLE) AS y, word AS s FROM batch"):
    connection = duckdb.connect()
    words = pl.DataFrame({"x": np.arange(100.0), "word": ["1"] * 99 + ["no number"]})
    connection.register("batch", words.to_arrow())
    return connection.sql(sql)


def test_a_column_that_the_engine_cannot_compute_costs_no_other():
    reference = Reference.fit({"x": np.arange(100.0), "y": np.arange(100.0), "s": ["1"] * 100})
    _, table = batch_of(broken(), reference)
    assert table.columns["x"].size == table.columns["s"].size == 100
    assert isinstance(table.columns["y"], Unread)
    with pytest.raises(duckdb.ConversionException):
        counted(broken(), reference)
    _, table = batch_of(broken("SELECT CAST(word AS DOUBLE) AS y FROM batch"), reference)
    assert isinstance(table.columns["y"], Unread)


# -- in parts ----------------------------------------------------------------------------


def test_whatever_comes_in_parts_gives_the_same_cells(tmp_path):
    frame = batch(seed=2)
    reference = Reference.fit(batch(seed=1), exact=False)
    full = Reference.empty(reference).update(frame)
    table = frame.to_arrow()
    folder = tmp_path / "days"
    folder.mkdir()
    for i in range(3):
        pyarrow.parquet.write_table(table.slice(i * 1000, 1000), folder / f"{i}.parquet")
    pyarrow.parquet.write_table(table, tmp_path / "all.parquet")
    sources = [
        frame.lazy(),
        in_duckdb(frame),
        table.to_reader(max_chunksize=700),
        pyarrow.dataset.dataset(folder),
        pyarrow.dataset.dataset(folder).scanner(batch_size=700),
        pyarrow.parquet.ParquetFile(tmp_path / "all.parquet"),
        tmp_path / "all.parquet",
        folder,
    ]
    for source in sources:
        state, parts = Reference.empty(reference), 0
        for part in parts_of(source, reference.names, rows=700):
            state, parts = state.update(part), parts + 1
        assert parts >= 3, source
        for name in reference.names:
            assert state.columns[name].sample == full.columns[name].sample, (source, name)


def test_only_what_is_asked_for_is_read():
    frame = batch()
    for source in (frame.lazy(), in_duckdb(frame), frame.to_arrow().to_reader()):
        parts = parts_of(source, ["x", "code"])
        assert nw.from_native(next(parts)).columns == ["x", "code"]
        parts.close() if hasattr(parts, "close") else None


@pytest.mark.parametrize("data", [{"x": [1.0]}, [1.0], np.zeros(3), pl.DataFrame({"x": [1.0]})])
def test_what_lies_here_comes_in_no_parts(data):
    assert parts_of(data) is None
    assert not is_lazy(data)
    assert parts_of(pa.table({"x": [1.0]})) is None


def test_an_abandoned_reader_frees_its_connection():
    connection = duckdb.connect()
    parts = parts_of(connection.sql("SELECT range AS x FROM range(1000000)"), rows=1000)
    next(parts)
    parts.close()
    assert connection.sql("SELECT 1").fetchall() == [(1,)]


# -- states on their way -----------------------------------------------------------------


def test_every_type_of_level_arrives():
    levels = ["a", 7, 1.5, b"raw", Decimal("1.10"), date(2024, 1, 2), time(3, 4), None]
    levels += [datetime(2024, 1, 2, 3, 4, 5, 6), timedelta(days=-1, microseconds=3)]
    reference = Reference.fit({"level": levels}, exact=False, kinds={"level": "categorical"})
    found = unpacked(packed(reference)).columns["level"].sample
    assert found == reference.columns["level"].sample
    assert set(map(type, found.counts)) == set(map(type, levels)) - {type(None)}
    truths = Reference.fit({"level": [True, "a"]}, exact=False)
    assert set(map(type, unpacked(packed(truths)).columns["level"].sample.counts)) == {bool, str}
    assert found.missing == 1


def test_wide_cells_and_times_arrive_as_they_are():
    times = pl.Series(np.datetime64("2024-01-01", "us") + np.arange(1000) * 10**9)
    column = Reference.fit({"t": times}, exact=False).columns["t"]
    wide = replace(column, sample=column.sample.coarser(3))
    found = unpacked(packed(Reference({"t": wide}))).columns["t"]
    assert found.sample == wide.sample
    assert (found.sample.shift, found.sample.temporal, found.kind) == (3, True, "time")


def test_a_level_of_an_unknown_type_is_refused():
    reference = Reference.fit({"level": [(1, 2), (1, 2)]}, kinds={"level": "categorical"})
    with pytest.raises(BadConfiguration, match="tuple"):
        packed(reference)


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x91\x01", b"\x91\x80", packed(Reference())[:0]])
def test_bytes_that_are_no_counts_are_refused(data):
    with pytest.raises(CorruptRecord):
        unpacked(data)


def test_outlines_of_parts_plan_what_all_can_be_counted_in():
    parts = [
        {"x": [None, None], "t": [None], "mixed": [1.0, 2.0], "s": ["a"]},
        {"x": [1.0, 5.0, 3.0], "t": [date(2024, 1, 1)], "mixed": ["a"], "s": ["b"]},
        {"x": [2.0], "t": [None], "mixed": ["b"], "s": [None]},
    ]
    plan = planned([outline_of(part) for part in parts])
    kinds = {name: column.kind for name, column in plan.columns.items()}
    assert kinds == {"x": "numeric", "t": "time", "mixed": "categorical", "s": "categorical"}
    assert plan.columns["x"].sample.layout == Layout.of([1.0, 5.0, 3.0, 2.0])
    assert all(column.sample.rows == 0 for column in plan.columns.values())
    coded = planned([outline_of(parts[1])], {"x": "categorical"}, {"s": Layout()})
    assert coded.columns["x"].kind == "categorical"
    assert coded.columns["s"].sample.layout == Layout()


def test_a_plan_needs_a_part_and_known_names():
    with pytest.raises(BadConfiguration, match="no partition"):
        planned([Outline()])
    outlines = [outline_of({"x": [1.0]})]
    with pytest.raises(BadConfiguration, match="'y'"):
        planned(outlines, {"y": "numeric"})
    with pytest.raises(BadConfiguration, match="'y'"):
        planned(outlines, None, {"y": Layout()})


def test_the_quantiles_of_an_outline_are_few():
    outline = outline_of({"x": np.arange(100_000.0)})
    assert len(outline.quantiles["x"]) == 512
    assert outline.quantiles["x"][[0, -1]].tolist() == [0.0, 99_999.0]


# -- what a detector and a reference make of it ------------------------------------------


def judged(report):
    return {name: (found.level, found.drift_detected) for name, found in report.items()}


@ENGINES
@pytest.mark.parametrize("exact", [True, False])
def test_a_lazy_batch_gets_the_verdict_of_memory(engine, exact):
    rng = np.random.default_rng(0)
    today = batch(seed=2).with_columns(
        x=pl.Series(rng.normal(0.5, 1.0, 3000)), code=pl.lit("new"), more=pl.lit(1)
    )
    watch = DriftDetector(Reference.fit(batch(seed=1), exact=exact))
    here, there = watch.detect_drift(today), watch.detect_drift(engine(today))
    assert judged(there) == judged(here)
    assert there.drifted[0] == here.drifted[0] == "code"
    assert there.new_columns == ("more",)
    for name, found in there.items():
        exactly = here[name]
        assert found.current_missing == exactly.current_missing
        low, high = found.statistic, found.statistic + found.bound
        if not np.isnan(low) and found.measure == "ks":
            assert low <= exactly.statistic + exactly.bound
            assert exactly.statistic <= high + 1e-12
    assert there["x"].bound <= 0.012
    if not exact:
        assert there["x"].psi == here["x"].psi


def test_counts_that_were_made_elsewhere_are_judged_as_the_batch_itself():
    watch = DriftDetector(Reference.fit(batch(seed=1), exact=False))
    today = batch(seed=2)
    report = watch.detect_drift(Reference.empty(watch.reference).update(today))
    assert report.to_dict()["features"] == watch.detect_drift(today).to_dict()["features"]
    other = DriftDetector(Reference.fit(batch(seed=4)))
    exact = watch.detect_drift(Reference.fit(today))
    assert judged(exact) == judged(report)
    # Cells of another reference say nothing here.
    wrong = watch.detect_drift(other.reference.counted())
    assert wrong["x"].level is DriftLevel.INCONCLUSIVE
    assert "other cells" in wrong["x"].reason


def test_a_column_that_cannot_be_counted_is_named_and_one_that_is_gone_too():
    reference = {"x": np.arange(100.0), "y": np.arange(100.0), "s": ["1"] * 100, "z": [1.0] * 100}
    report = DriftDetector(reference).detect_drift(broken())
    assert report["y"].level is DriftLevel.INCONCLUSIVE
    assert "cannot be read: ConversionException" in report["y"].reason
    assert report["z"].reason == "the column is gone"
    assert report["x"].level is DriftLevel.NONE


@pytest.mark.parametrize("exact", [True, False])
def test_a_batch_in_parts_gets_the_verdict_of_memory(tmp_path, exact):
    watch = DriftDetector(Reference.fit(batch(seed=1), exact=exact))
    table = batch(seed=2).drop("half").with_columns(more=pl.lit(1)).to_arrow()
    pyarrow.parquet.write_table(table, tmp_path / "day.parquet")
    report = watch.detect_drift(table)
    sources = [
        tmp_path / "day.parquet",
        pyarrow.parquet.ParquetFile(tmp_path / "day.parquet"),
        pyarrow.dataset.dataset(tmp_path / "day.parquet"),
        pyarrow.dataset.dataset(tmp_path / "day.parquet").scanner(),
        table.to_reader(),
    ]
    for source in sources:
        found = watch.detect_drift(source)
        assert judged(found) == judged(report)
        assert found["half"].reason == "the column is gone"
        assert found.new_columns == ("more",)


@ENGINES
def test_a_reference_is_fitted_to_a_lazy_frame_without_holding_it(engine, monkeypatch):
    frame = batch(seed=1)
    monkeypatch.delattr(nw.LazyFrame, "collect")
    found = Reference.fit(engine(frame))
    assert not found.exact
    layouts = Reference.fit(frame, exact=False).layouts
    found = Reference.fit(engine(frame), layouts=layouts)
    full = Reference.fit(frame, layouts=layouts)
    for name in found.names:
        assert found.columns[name].sample == full.columns[name].sample, name
        assert found.columns[name].kind == full.columns[name].kind
    more = full.update(engine(frame))
    assert more.columns["x"].sample.rows == 2 * len(frame)


def test_a_registered_engine_counts_its_own_frames(monkeypatch):
    class Frame:
        __module__ = "mycluster.frames"

    class Door:
        def counted(self, frame, like):
            return Reference.empty(like).update({"x": [9.0] * 100})

        def fit(self, frame, names, *, kinds, layouts):
            return Reference.fit({"x": np.arange(100.0)}, exact=False)

    monkeypatch.setattr(engines, "_ENGINES", {})
    monkeypatch.setattr(engines, "import_module", lambda name: Door())
    register_engine("mycluster", "door")
    assert engine_of(Frame(), "fit") is not None
    assert DriftDetector(Frame()).detect_drift(Frame()).drifted == ("x",)


# -- frames of any library ---------------------------------------------------------------


def test_every_form_of_a_table_gets_the_same_verdict():
    frame = batch(seed=1).drop("price", "when")
    columns = {name: frame[name].to_numpy() for name in frame.columns}
    columns["code"] = frame["code"].to_list()
    forms = [
        frame,
        frame.to_arrow(),
        frame.to_pandas(),
        frame.to_pandas(use_pyarrow_extension_array=True),
        pd.DataFrame(columns).convert_dtypes(),
        frame.to_dict(as_series=False),
        frame.to_dicts(),
        columns,
        nw.from_native(frame),
    ]
    for exact in (True, False):
        watch = DriftDetector(Reference.fit(batch(seed=2).select(frame.columns), exact=exact))
        dicts = [watch.detect_drift(form).to_dict()["features"] for form in forms]
        for found in dicts[1:]:
            assert found == dicts[0]


def test_times_and_truth_values_are_the_same_numbers_in_every_form():
    frame = batch(seed=1).select("when", "flag")
    columns = {name: frame[name].to_numpy() for name in frame.columns}
    forms = [frame, frame.to_arrow(), frame.to_pandas(), columns, frame.to_dicts(), frame.lazy()]
    forms += [frame.to_arrow().to_batches()[0], in_duckdb(frame)]
    layouts = {"when": Layout(1.7e9, 2.0**17), "flag": Layout()}
    samples = [Reference.fit(form, layouts=layouts).columns for form in forms]
    for found in samples[1:]:
        for name in frame.columns:
            assert found[name].sample == samples[0][name].sample
    assert samples[0]["flag"].sample.size == len(frame)


def test_an_array_gets_the_verdict_of_a_frame():
    rng = np.random.default_rng(0)
    old, new = rng.normal(size=(500, 3)), rng.normal(0.2, 1.0, size=(400, 3))
    names = ["a", "b", "c"]
    watch = DriftDetector(old, names)
    report = watch.detect_drift(pl.DataFrame(new, schema=names)).to_dict()["features"]
    assert watch.detect_drift(new).to_dict()["features"] == report


def test_cells_at_edges_know_where_the_last_one_ends():
    reference = Cells.of(np.arange(1000.0) / 7)
    edges = reference.edges(20)
    upto = reference.cumulative(edges)
    found = Cells.at_edges(
        reference.layout, edges, upto - upto[0], rows=1000, minimum=0.0, maximum=999 / 7
    )
    low, high = found.spans(found.codes)
    assert (low <= high).all()
    assert found.quantile(1.0) <= 999 / 7


def test_a_column_that_cannot_be_read_in_parts_costs_no_other(monkeypatch):
    read = ReferenceColumn.read

    def stumbles(self, raw, *, add=False):
        if self.name == "flag":
            raise NotImplementedError("no kernel for this type")
        return read(self, raw, add=add)

    detector = DriftDetector(Reference.fit(batch(seed=1), exact=False))
    monkeypatch.setattr(ReferenceColumn, "read", stumbles)
    report = detector.detect_drift(batch(seed=2).to_arrow().to_reader(max_chunksize=500))
    assert report.inconclusive == ("flag", "when")
    assert "no kernel for this type" in report["flag"].reason
    twice = pa.table([[1.0], [2.0]], names=["x", "x"])
    with pytest.raises(TypeError, match="one name"):
        detector.detect_drift(twice.to_reader())
