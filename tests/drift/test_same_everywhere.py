"""The same rows in any form, on any engine, in any order: equal reports and equal bits."""

import json
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from functools import partial

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from prodml.drift import DriftDetector, Reference
from prodml.events import Stream
from prodml.testing import ManualClock

duckdb = pytest.importorskip("duckdb")
dask = pytest.importorskip("dask.dataframe")
config = pytest.importorskip("dask.config")

ROWS = 300


def gaps(values, seed=1):
    hidden = np.random.default_rng(seed).random(len(values)) < 0.05
    return [None if gone else value for gone, value in zip(hidden, values, strict=True)]


def floats(rng, moved):
    x = rng.normal(size=ROWS) + moved
    x[:7] = [np.nan, np.inf, -np.inf, -0.0, 5e-324, 2.0**60, 1e300]
    return x


def whole(rng, low, high, kind=np.int64):
    return rng.integers(low, high, ROWS, dtype=kind).tolist()


def moments(rng, moved):
    start = datetime(2026, 3, 28, tzinfo=UTC) + timedelta(days=moved)
    return [start + timedelta(seconds=second) for second in whole(rng, 0, 10**6)]


def cents(rng, moved):
    return [Decimal(cent).scaleb(-2) for cent in whole(rng, -9999, 9999 + int(moved))]


def texts(rng, moved):
    return [f"e\u0301{i}" for i in whole(rng, 0, 9 + int(4 * moved))]


# Values by seed and how far they moved, and the type that polars gives them.
COLUMNS = {
    "floats": (floats, pl.Float64),
    "floats with gaps": (lambda *a: gaps(floats(*a).tolist()), pl.Float64),
    "single": (floats, pl.Float32),
    "small with gaps": (lambda rng, _: gaps(whole(rng, -99, 99)), pl.Int8),
    "long": (lambda rng, _: whole(rng, -(2**62), 2**62), pl.Int64),
    "long with gaps": (lambda rng, _: gaps(whole(rng, -(2**62), 2**62)), pl.Int64),
    "unsigned": (lambda rng, _: whole(rng, 0, 2**64 - 1, np.uint64), pl.UInt64),
    "unsigned with gaps": (lambda rng, _: gaps(whole(rng, 0, 2**64 - 1, np.uint64)), pl.UInt64),
    "decimal": (cents, pl.Decimal(20, 2)),
    "decimal with gaps": (lambda *a: gaps(cents(*a)), pl.Decimal(20, 4)),
    "truth": (lambda rng, moved: gaps((rng.random(ROWS) < 0.5 + moved / 9).tolist()), pl.Boolean),
    "text": (lambda *a: gaps(texts(*a)), pl.String),
    "category": (texts, pl.Categorical),
    "enumeration": (texts, pl.Enum([f"e\u0301{i}" for i in range(20)])),
    "bytes": (lambda rng, _: [bytes([i]) for i in whole(rng, 0, 5)], pl.Binary),
    "zoned": (moments, pl.Datetime("us", "Europe/Berlin")),
    "date": (lambda *a: [moment.date() for moment in moments(*a)], pl.Date),
    "duration": (lambda rng, _: [timedelta(seconds=s) for s in whole(rng, 0, 999)], pl.Duration),
    "clock": (lambda rng, moved: [time(h) for h in whole(rng, 0, 20 + int(4 * moved))], pl.Time),
    "lists": (
        lambda rng, moved: [[i] for i in whole(rng, 0, 5 + int(3 * moved))],
        pl.List(pl.Int64),
    ),
    "code": (lambda rng, moved: gaps(whole(rng, 0, 9 + int(4 * moved))), pl.Int64),
    "float code": (lambda rng, _: [float(i) for i in whole(rng, 0, 9)], pl.Float64),
    "nothing": (lambda *_: [None] * ROWS, pl.Null),
}
KINDS = {"code": "categorical", "float code": "categorical"}
EVERY = pytest.mark.parametrize("name", COLUMNS)


def frame(name, seed, moved):
    make, dtype = COLUMNS[name]
    return pl.DataFrame({name: pl.Series(make(np.random.default_rng(seed), moved), dtype=dtype)})


def in_duckdb(rows):
    connection = duckdb.connect()
    connection.register("batch", rows.to_arrow())
    return connection.table("batch")


def pandas_of(rows):
    return rows.to_arrow().to_pandas(types_mapper=pd.ArrowDtype)


HERE = {
    "polars": lambda rows: rows,
    "arrow": pl.DataFrame.to_arrow,
    "lists": lambda rows: rows.to_dict(as_series=False),
    "rows": pl.DataFrame.to_dicts,
    "pandas": lambda rows: rows.to_arrow().to_pandas(),
    "pandas of arrow": pandas_of,
}
SOME = {form: HERE[form] for form in ("polars", "arrow", "rows")}
IN_PARTS = {
    "reader": lambda rows: rows.to_arrow().to_reader(max_chunksize=97),
    "dask": lambda rows: dask.from_pandas(pandas_of(rows), npartitions=4),
}
PUSHED = {"polars, lazy": pl.DataFrame.lazy, "duckdb": in_duckdb}


@pytest.fixture(autouse=True)
def in_this_thread():
    with config.set(scheduler="synchronous"):
        yield


def report(reference, current):
    detector = DriftDetector(reference, events=Stream(), clock=ManualClock())
    return detector.detect_drift(current).to_dict()


def kinds_of(name):
    return {name: KINDS[name]} if name in KINDS else {}


@EVERY
def test_every_form_and_engine_gives_the_same_report(name):
    old, new = frame(name, 0, 0.0), frame(name, 1, 1.0)
    for exact in (True, False):
        reference = Reference.fit(old, exact=exact, kinds=kinds_of(name))
        groups = [SOME, PUSHED] if exact else [{**HERE, **IN_PARTS}, PUSHED]
        for group in groups:
            found = {form: report(reference, make(new)) for form, make in group.items()}
            first = next(iter(found.values()))
            assert {form for form, one in found.items() if one != first} == set()


@EVERY
def test_every_form_and_engine_fits_the_same_bits(name):
    rows = frame(name, 0, 0.0)
    fit = partial(Reference.fit, exact=False, kinds=kinds_of(name))
    plain = fit(rows)
    bits = {
        form: json.dumps(fit(make(rows), layouts=plain.layouts).to_dict())
        for form, make in {**HERE, **IN_PARTS, **PUSHED}.items()
    }
    assert {form for form, found in bits.items() if found != bits["polars"]} == set()


def test_what_databases_hold_is_read_in_their_own_types():
    sql = """
    SELECT i * 1701411834604692317316873::HUGEINT AS huge, (i / 7)::DECIMAL(38, 10) AS price,
        (i % 3)::VARCHAR::ENUM('0', '1', '2') AS enumeration, to_timestamp(i) AS zoned,
        to_seconds(i) AS lasting, uuid() AS id,
        CASE WHEN i % 7 = 0 THEN NULL ELSE 9007199254740993 + i END AS long
    FROM range(500) t(i)
    """
    rows = duckdb.connect().sql(sql)
    lazy, here = Reference.fit(rows), Reference.fit(rows.to_arrow_table())
    assert {name: c.kind for name, c in lazy.columns.items()} == {
        name: c.kind for name, c in here.columns.items()
    }
    whole = lazy.columns
    assert whole["huge"].sample.maximum == float(499 * 1701411834604692317316873)
    assert whole["zoned"].sample.maximum == 499.0
    assert (whole["lasting"].kind, whole["lasting"].sample.maximum) == ("numeric", 499.0)
    assert (whole["long"].sample.missing, whole["long"].sample.maximum) == (72, 2.0**53 + 500)


def test_rare_arrow_types_are_columns_too():
    rows = {
        "view": pa.array(["a", "b", None] * 20, type=pa.string_view()),
        "ends": pa.RunEndEncodedArray.from_arrays([30, 60], ["a", "b"]),
        "dictionary": pa.array(["a", "b", None] * 20).dictionary_encode(),
        "large": pa.array(["a", "b", None] * 20, type=pa.large_string()),
    }
    found = Reference.fit(pa.table(rows))
    assert {name: column.sample.counts for name, column in found.columns.items()} == {
        name: {"a": n, "b": n} for name, n in zip(rows, (20, 30, 20, 20), strict=True)
    }
    wide = pl.DataFrame({"x": pl.Series([1, None, 2**100], dtype=pl.Int128)})
    assert Reference.fit(wide).columns["x"].sample.maximum == 2.0**100


def shuffled(values, seed):
    return [values[i] for i in np.random.default_rng(seed).permutation(len(values))]


def test_the_order_of_rows_never_matters():
    old = [f"level {i}" for i in range(12)] * 10 + [1, True, 1.0, Decimal(1)] * 5
    new = [f"level {i}" for i in range(5, 17)] * 9
    numbers = [0.0, -0.0, 1.5, 2.0] * 30
    kinds = {"k": "categorical"}
    reports, bits = set(), set()
    for seed in range(6):
        reference = Reference.fit(
            {"k": shuffled(old, seed), "x": shuffled(numbers, seed)}, kinds=kinds
        )
        current = {"k": shuffled(new, seed), "x": shuffled(numbers, seed + 1)}
        reports.add(json.dumps(report(reference, current)))
        bits.add(json.dumps(reference.to_dict()))
    assert (len(reports), len(bits)) == (1, 1)
    assert json.loads(reports.pop())["features"]["k"]["new_levels"] == [
        f"level {i}" for i in (12, 13, 14, 15, 16)
    ]
