import math
import pickle
import threading

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, fisher_exact

from prodml.errors import BadConfiguration, InvalidFeatures
from prodml.validation import Field, Quarantine, Schema, SchemaStats, ShareChange
from prodml.validation.stats import _equal_shares

TABLES = [list, dict, pd.DataFrame, pl.DataFrame, pa.table]


def table_of(make, columns):
    if make is list:
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return make(columns)


# -- repeated values ----------------------------------------------------------------------


@pytest.mark.parametrize("make", TABLES)
def test_a_value_may_occur_once_only(make):
    schema = Schema({"id": Field(float, unique=True, nullable=True), "b": Field(str)})
    columns = {"id": [1.0, 2.0, 1.0, None, None, 1.0], "b": list("aaaaaa")}
    batch = schema.validate_batch(table_of(make, columns))
    assert batch.where == {("id", "unique"): [2, 5]}
    assert batch.valid.tolist() == [True, True, False, True, True, False]
    assert batch.reasons == [(("id", "unique"),)] * 2
    assert schema.stats().breaches == {("id", "unique", "reject"): 2}


@pytest.mark.parametrize("make", TABLES)
def test_several_fields_may_be_unique_together(make):
    schema = Schema(
        {"user": Field(str), "day": Field(int)}, unique=[("user", "day")], on={"unique": "warn"}
    )
    columns = {"user": ["a", "a", "b", "a"], "day": [1, 2, 1, 1]}
    batch = schema.validate_batch(table_of(make, columns))
    assert batch.where == {("user, day", "unique"): [3]}
    assert batch.ok
    assert schema.stats().breaches == {("user, day", "unique", "warn"): 1}


@given(st.lists(st.sampled_from([0, 1, 2.0, 1.0, "a", None, math.nan, True, (), [1], [1]])))
def test_repeats_are_those_of_a_plain_loop(values):
    schema = Schema({"a": Field(unique=True, nullable=True)})
    seen, expected = [], []
    for index, value in enumerate(values):
        if value is None or value != value:
            continue
        if value in seen:
            expected.append(index)
        seen.append(value)
    batch = schema.validate_batch([{"a": value} for value in values])
    assert batch.where.get(("a", "unique"), []) == expected
    if all(type(value) in {int, float, type(None)} for value in values):
        array = np.array(values, dtype=float)
        assert schema.validate_batch({"a": array}).where.get(("a", "unique"), []) == expected


# -- shares of nulls ----------------------------------------------------------------------


@given(st.integers(0, 60), st.integers(0, 60), st.sampled_from([0.0, 0.02, 0.3, 1.0]))
def test_a_share_of_nulls_is_judged_by_the_exact_binomial_tail(nulls, rest, share):
    schema = Schema({"a": Field(float, nullable=True, max_null_share=share)}, null_alpha=0.01)
    column = np.array([math.nan] * nulls + [1.0] * rest)
    findings = schema.validate_batch({"a": column}).findings
    broken = nulls > 0 and binom.sf(nulls - 1, nulls + rest, share) < 0.01
    assert bool(findings) == broken
    if findings:
        assert findings[0].value == nulls / (nulls + rest)


@pytest.mark.parametrize("make", TABLES)
def test_the_batch_is_refused_and_its_rows_are_not(make):
    schema = Schema({"a": Field(float, nullable=True, max_null_share=0.01)})
    batch = schema.validate_batch(table_of(make, {"a": [None] * 5 + [1.0] * 5}))
    assert batch.valid.all()
    assert not batch.ok
    assert "0.5 breaks null_share" in str(batch)
    told = schema.stats()
    assert (told.breaches, told.batches) == ({("a", "null_share", "reject"): 1}, 1)
    assert told.shares() == {("a", "null_share", "reject"): 1.0}


def test_too_many_nulls_can_be_a_warning_and_an_absent_column_is_all_nulls():
    field = Field(float, required=False, max_null_share=0.1, on={"null_share": "warn"})
    batch = Schema({"a": field}).validate_batch({"b": [1] * 9})
    assert batch.ok
    assert batch.findings[0].value == 1.0


# -- quarantine ---------------------------------------------------------------------------

HELD = Schema(
    {
        "age": Field(int, minimum=0, on={"range": "quarantine"}),
        "plan": Field(str, categories=("a",)),
    }
)


def fresh(**settings):
    return Schema(HELD.fields, **settings)


def test_a_row_is_refused_and_kept_with_every_reason():
    schema = fresh()
    row = {"age": -1, "plan": "b"}
    with pytest.raises(InvalidFeatures) as caught:
        schema.validate(row)
    (held,) = schema.quarantine.drain()
    assert held.row is row
    assert held.violations == caught.value.violations
    with pytest.raises(InvalidFeatures):
        schema.validate({"age": 1, "plan": "b"})
    assert len(schema.quarantine) == 0
    assert (schema.stats().rejected, schema.stats().quarantined) == (2, 1)


@pytest.mark.parametrize("make", TABLES)
def test_a_batch_keeps_its_rows_aside_too(make):
    schema = fresh(unique=[("plan", "age")], on={"unique": "quarantine"})
    columns = {"age": [1, -1, 1, 2], "plan": ["a", "b", "a", "b"]}
    batch = schema.validate_batch(table_of(make, columns))
    assert (batch.held, schema.stats().quarantined) == (2, 2)
    assert not batch.valid[1:].any()
    first, second = schema.quarantine
    assert first.row == {"age": -1, "plan": "b"}
    assert [each.rule for each in first.violations] == ["range", "category"]
    assert [(each.field, each.value) for each in second.violations] == [("plan, age", ("a", 1))]


@pytest.mark.parametrize("rows", [1, 4])
def test_quarantine_has_an_end(rows):
    schema = fresh(quarantine=Quarantine(2))
    for _ in range(4 // rows):
        schema.validate_batch({"age": [-1, -2, -3, -4][:rows], "plan": ["a"] * rows})
    assert len(schema.quarantine) == 2
    assert schema.quarantine.dropped == 2
    none = fresh(quarantine=Quarantine(0))
    assert none.validate_batch({"age": [-1], "plan": ["a"]}).held == 1
    assert (len(none.quarantine), none.quarantine.dropped) == (0, 1)
    with pytest.raises(BadConfiguration):
        Quarantine(-1)


def test_threads_keep_every_row():
    schema = fresh(quarantine=Quarantine(10_000))

    def work():
        for _ in range(200):
            with pytest.raises(InvalidFeatures):
                schema.validate({"age": -1, "plan": "a"})

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(schema.quarantine) == schema.stats().quarantined == 800


def test_rows_in_quarantine_do_not_travel():
    schema = fresh(quarantine=Quarantine(7))
    schema.validate_batch([{"age": -1, "plan": "a"}])
    again = pickle.loads(pickle.dumps(schema))
    assert (len(again.quarantine), again.quarantine.capacity) == (0, 7)


# -- counts -------------------------------------------------------------------------------


def test_a_period_is_taken_and_the_next_begins():
    schema = Schema({"a": Field(int, maximum=9, on={"range": "clip"})})
    for value in (1, 99):
        schema.validate({"a": value})
    schema.validate_batch({"a": [99, 1, 1]})
    first = schema.take_stats()
    assert (first.rows, first.amended, first.batches) == (5, 2, 1)
    assert first.shares() == {("a", "range", "clip"): 0.4}
    assert schema.stats() == SchemaStats()
    schema.validate({"a": 1})
    assert (first + schema.stats()).rows == 6


def test_no_row_falls_between_two_periods():
    schema = Schema({"a": Field(int, maximum=9, on={"range": "warn"})})
    taken, done = [], threading.Event()

    def work():
        for value in range(20):
            for _ in range(200):
                schema.validate({"a": value})
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    while not done.is_set():
        taken.append(schema.take_stats())
    thread.join()
    total = sum(taken, schema.take_stats())
    assert total.breaches == {("a", "range", "warn"): 2000}
    assert abs(total.rows - 4000) <= 5  # counted without a lock


@given(st.integers(0, 30), st.integers(0, 40), st.integers(0, 30), st.integers(0, 40))
def test_shares_are_compared_exactly(a, spare, b, rest):
    n, m = a + spare, b + rest
    table = [[a, spare], [b, rest]]
    tails = [fisher_exact(table, alternative=side).pvalue for side in ("less", "greater")]
    assert math.isclose(_equal_shares(a, n, b, m), min(1.0, 2 * min(tails)), rel_tol=1e-7)


def test_a_feed_that_broke_shows_first():
    fine = SchemaStats(
        rows=10_000,
        breaches={("a", "missing", "impute"): 100, ("b", "range", "clip"): 50},
    )
    today = SchemaStats(
        rows=500,
        breaches={("a", "missing", "impute"): 250, ("b", "range", "clip"): 3},
    )
    first, second = today.compare(fine)
    assert (first.field, first.changed, round(first.effect, 2)) == ("a", True, 0.49)
    assert not second.changed
    assert "a: impute for missing in 50 % of rows, reference 1 %" in str(first)
    assert first.to_dict()["effect"] == first.effect
    assert not today.compare(fine, min_effect=0.6)[0].changed
    assert SchemaStats().compare(SchemaStats()) == ()
    assert not SchemaStats().compare(fine)[0].changed
    with pytest.raises(BadConfiguration):
        today.compare(fine, alpha=0)


def test_same_shares_seldom_differ():
    rng = np.random.default_rng(0)
    alarms = 0
    for _ in range(400):
        old, new = rng.binomial(1000, 0.05, 5), rng.binomial(200, 0.05, 5)
        keys = [(str(i), "range", "clip") for i in range(5)]
        fine = SchemaStats(rows=1000, breaches=dict(zip(keys, old.tolist(), strict=True)))
        now = SchemaStats(rows=200, breaches=dict(zip(keys, new.tolist(), strict=True)))
        alarms += any(change.changed for change in now.compare(fine, alpha=0.05))
    assert alarms / 400 <= 0.05


def test_stats_travel():
    told = SchemaStats(rows=3, batches=1, breaches={("a", "type", "reject"): 2})
    assert SchemaStats.from_dict(told.to_dict()) == told
    assert (told + told) - told == told
    with pytest.raises(BadConfiguration):
        SchemaStats.from_dict({"rows": 1})


@pytest.mark.parametrize("action", ["impute", "clip"])
def test_a_key_of_several_fields_cannot_be_repaired(action):
    schema = Schema({"a": Field(int), "b": Field(int)}, unique=[("a", "b")], on={"unique": action})
    for rows in ([{"a": 1, "b": 1}] * 2, {"a": [1, 1], "b": [1, 1]}):
        assert schema.validate_batch(rows).valid.tolist() == [True, False]
    assert schema.stats().breaches == {("a, b", "unique", "reject"): 2}


@pytest.mark.parametrize("capacity", [1.5, None, "9", -1])
def test_a_capacity_is_a_count(capacity):
    with pytest.raises(BadConfiguration, match="capacity"):
        Quarantine(capacity)


def test_shares_of_very_many_rows_are_compared_in_little_memory():
    n = 10**9
    assert _equal_shares(n // 10, n, n // 10, n) > 0.9
    assert _equal_shares(n // 10, n, n // 9, n) == 0.0
    # Ten standard deviations.
    assert 1e-25 < _equal_shares(n // 10, n, n // 10 + 134_000, n) < 1e-21


def test_a_share_that_changed_is_ready_for_json():
    fine = SchemaStats(rows=1000, breaches={("a", "missing", "impute"): 10})
    (change,) = SchemaStats(rows=200, breaches={("a", "missing", "impute"): 40}).compare(fine)
    assert isinstance(change, ShareChange)
    assert change.to_dict()["effect"] == pytest.approx(0.19)
