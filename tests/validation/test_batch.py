import math
from datetime import datetime

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prodml.errors import BadConfiguration, InvalidFeatures
from prodml.validation import Field, Rule, Schema
from prodml.validation.columns import Frame

SCHEMA = Schema(
    {
        "age": Field(int, minimum=0, maximum=120),
        "income": Field(float, nullable=True),
        "plan": Field(str, categories=("basic", "pro")),
    }
)
COLUMNS = {
    "age": [31, -1, 40, 50],
    "income": [1.0, 2.0, None, math.inf],
    "plan": ["pro", "gold", "basic", None],
}
ROWS = [dict(zip(COLUMNS, values, strict=True)) for values in zip(*COLUMNS.values(), strict=True)]
EXPECTED = {
    "age": {"range": 1},
    "income": {"finite": 1},
    "plan": {"category": 1, "missing": 1},
}
CONTAINERS = {
    "rows": ROWS,
    "tuple": tuple(ROWS),
    "columns": COLUMNS,
    "arrays": {name: np.array(values, dtype=object) for name, values in COLUMNS.items()},
    "tuples": {name: tuple(values) for name, values in COLUMNS.items()},
    "series": {name: pd.Series(values) for name, values in COLUMNS.items()},
    "pandas": pd.DataFrame(COLUMNS, index=[9, 8, 7, 6]),
    "polars": pl.DataFrame(COLUMNS),
    "arrow": pa.table(COLUMNS),
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_every_container_gets_the_same_verdict(container):
    batch = SCHEMA.validate_batch(CONTAINERS[container])
    assert batch.valid.tolist() == [True, False, True, False]
    assert {name: dict(counts) for name, counts in batch.violations.items()} == EXPECTED
    assert batch.where["age", "range"] == [1]
    assert not batch.ok


@pytest.mark.parametrize("container", ["columns", "pandas", "polars", "arrow", "rows"])
def test_valid_and_quarantined_rows_come_in_the_container_that_came(container):
    data = CONTAINERS[container]
    batch = SCHEMA.validate_batch(data)
    assert type(batch.valid_rows) is type(batch.quarantined) is type(data)
    if container != "rows":
        assert [as_plain(age) for age in batch.valid_rows["age"]] == [31, 40]
        assert [as_plain(age) for age in batch.quarantined["age"]] == [-1, 50]


def test_the_index_of_a_frame_survives():
    batch = SCHEMA.validate_batch(CONTAINERS["pandas"])
    assert list(batch.quarantined.index) == [8, 6]


def test_a_good_batch_is_ok_and_comes_back_whole():
    batch = SCHEMA.validate_batch(
        COLUMNS | {"age": [1] * 4, "income": [0.0] * 4, "plan": ["pro"] * 4}
    )
    assert batch.ok
    assert batch.violations == {}
    assert len(batch.valid_rows["age"]) == 4


@pytest.mark.parametrize("empty", [[], {"age": [], "income": [], "plan": []}, {}])
def test_an_empty_batch_is_ok(empty):
    batch = SCHEMA.validate_batch(empty)
    assert batch.ok
    assert batch.valid.shape == (0,)


def test_an_array_has_the_fields_in_order():
    schema = Schema({"a": Field(float, maximum=1), "b": Field(float)}, extra="reject")
    data = np.array([[0.5, 1.0], [2.0, 1.0], [0.5, math.nan]])
    batch = schema.validate_batch(data)
    assert batch.valid.tolist() == [True, False, False]
    assert batch.valid_rows.tolist() == [[0.5, 1.0]]
    with pytest.raises(ValueError, match="2 names for 3 columns"):
        schema.validate_batch(np.zeros((1, 3)))


def test_a_clipped_array_is_a_copy():
    schema = Schema({"a": Field(float, maximum=1, on={"range": "clip"})})
    data = np.array([[0.5], [2.0]])
    assert schema.validate_batch(data).valid_rows.tolist() == [[0.5], [1.0]]
    assert data.tolist() == [[0.5], [2.0]]


AMENDING = Schema(
    {
        "age": Field(int, minimum=0, maximum=120, on={"range": "clip"}),
        "income": Field(float, default=0.5, on={"finite": "impute", "missing": "impute"}),
        "plan": Field(str, default="pro", on={"missing": "impute"}),
    },
    extra="drop",
)


@pytest.mark.parametrize("container", ["columns", "arrays", "pandas", "polars", "arrow"])
def test_policies_amend_columns_and_leave_the_input_alone(container):
    data = CONTAINERS[container]
    before = str(data)
    batch = AMENDING.validate_batch(data)
    amended = batch.valid_rows
    found = {name: [as_plain(value) for value in amended[name]] for name in COLUMNS}
    assert found == {
        "age": [31, 0, 40, 50],
        "income": [1.0, 2.0, 0.5, 0.5],
        "plan": ["pro", "gold", "basic", "pro"],
    }
    assert str(data) == before


def as_plain(value):
    return value.as_py() if hasattr(value, "as_py") else value


def names_of(table):
    if isinstance(table, pa.Table):
        return table.column_names
    return list(table) if isinstance(table, dict) else list(table.columns)


@pytest.mark.parametrize("container", ["columns", "pandas", "polars", "arrow"])
def test_unknown_columns_can_be_dropped(container):
    data = {"columns": COLUMNS, "pandas": pd.DataFrame(COLUMNS), "polars": pl.DataFrame(COLUMNS)}
    data["arrow"] = pa.table(COLUMNS)
    schema = Schema({"age": Field(int)}, extra="drop")
    kept = schema.validate_batch(data[container]).valid_rows
    assert names_of(kept) == ["age"]


def test_unknown_columns_can_be_refused():
    batch = Schema({"age": Field(int)}, extra="reject").validate_batch({"age": [1], "x": [1]})
    assert batch.violations == {"x": {"extra": 1}}


@pytest.mark.parametrize(("required", "valid"), [(True, False), (False, True)])
def test_an_absent_column_is_missing_if_it_is_required(required, valid):
    batch = Schema({"a": Field(int, required=required)}).validate_batch({"b": [1, 2]})
    assert batch.valid.tolist() == [valid, valid]


@pytest.mark.parametrize("frame", [dict, pd.DataFrame, pl.DataFrame])
def test_an_absent_column_can_be_imputed(frame):
    schema = Schema({"a": Field(int, default=3, on={"missing": "impute"})})
    assert list(schema.validate_batch(frame({"b": [1, 2]})).valid_rows["a"]) == [3, 3]


def test_a_warning_counts_and_keeps_the_row():
    batch = Schema({"a": Field(int, maximum=1, on={"range": "warn"})}).validate_batch({"a": [5]})
    assert batch.ok
    assert batch.violations == {"a": {"range": 1}}


def test_a_bound_that_is_no_whole_number_is_not_cut_into_ints():
    schema = Schema({"a": Field(float, maximum=0.5, on={"range": "clip"})})
    assert schema.validate_batch({"a": np.array([0, 7])}).valid_rows["a"].tolist() == [0.0, 0.5]


def test_a_batch_counts_like_its_rows():
    schema = Schema(AMENDING.fields, extra="drop")
    schema.validate_batch(pl.DataFrame(COLUMNS | {"income": ["x"] * 4}))
    told = schema.stats()
    assert (told.rows, told.rejected) == (4, 4)
    assert told.breaches["income", "type", "reject"] == 4
    assert told.amended == 0


# -- the law -----------------------------------------------------------------------------

KINDS = st.sampled_from(["any", "bool", "datetime", "float", "int", "str"])
FIELDS = st.builds(
    lambda kind, nullable, bounds, levels: Field(
        kind,
        nullable=nullable,
        minimum=bounds[0] if kind in {"float", "int"} else None,
        maximum=bounds[1] if kind in {"float", "int"} else None,
        categories=levels,
    ),
    KINDS,
    st.booleans(),
    st.sampled_from([(None, None), (-1, 2), (0, None), (None, 1)]),
    st.sampled_from([None, None, ("a", 1, 2.0)]),
)
FLOATS = st.lists(st.sampled_from([math.nan, math.inf, -math.inf, -2.0, 0.0, 0.5, 1.0, 7.0]))
DATA = st.one_of(
    FLOATS.map(np.array),
    FLOATS.map(lambda values: np.array(values, dtype="float32")),
    st.lists(st.integers(0, 5)).map(lambda values: np.array(values, dtype="uint8")),
    st.lists(st.integers(-5, 5)).map(lambda values: np.array(values, dtype="int64")),
    st.lists(st.booleans()).map(lambda values: np.array(values, dtype=bool)),
    st.lists(st.sampled_from(["a", "", "z", None])),
    st.lists(st.sampled_from(["a", 1, True, None, math.nan, 2.0, datetime(2024, 1, 1), [], 1j])),
    st.lists(st.sampled_from(["2024-01-01", "NaT"])).map(
        lambda values: np.array(values, dtype="datetime64[ns]")
    ),
)


@given(FIELDS, DATA)
def test_a_column_gets_the_verdict_of_its_rows(field, values):
    schema = Schema({"a": field})
    rows = [{"a": value} for value in values]
    columns, one_by_one = schema.validate_batch({"a": values}), schema.validate_batch(rows)
    assert columns.valid.tolist() == one_by_one.valid.tolist()
    assert columns.violations == one_by_one.violations
    assert columns.where == one_by_one.where


@given(FIELDS, FLOATS)
def test_a_frame_gets_the_verdict_of_its_rows(field, values):
    schema = Schema({"a": field})
    frame = schema.validate_batch(pl.DataFrame({"a": values}, schema={"a": pl.Float64}))
    rows = schema.validate_batch([{"a": value} for value in values])
    assert frame.where == rows.where


WHOLE = Schema(
    {
        "age": Field(int, minimum=0, maximum=120, on={"range": "clip"}),
        "income": Field(float, nullable=True, default=1.0, on={"finite": "impute"}),
        "code": Field(str, pattern="[A-Z]{2}[0-9]", on={"missing": "warn"}),
        "plan": Field(str, categories=("a", "b"), max_length=1, on={"length": "quarantine"}),
        "at": Field(datetime, minimum=datetime(2024, 1, 1)),
    },
    rules=["income <= age * 2", Rule("plan == 'a' or age > 3", name="plans", action="warn")],
)
CELLS = st.fixed_dictionaries(
    {
        "age": st.integers(-3, 130),
        "income": st.one_of(st.none(), st.floats(0, 9), st.sampled_from([math.inf, 300.0])),
        "code": st.sampled_from(["AB1", "CD2", "x", "AB1\n", None]),
        "plan": st.sampled_from(["a", "b", "c", "ab"]),
        "at": st.sampled_from([datetime(2024, 1, 1), datetime(2023, 1, 1), datetime(2025, 1, 1)]),
    }
)
DTYPES = {"age": "int64", "income": "float64", "code": "str", "plan": "str", "at": "datetime64[us]"}
POLARS = dict(zip(DTYPES, [pl.Int64, pl.Float64, pl.String, pl.String, pl.Datetime], strict=True))


@settings(max_examples=25, deadline=None)
@given(st.lists(CELLS, min_size=1, max_size=5), st.sampled_from([1, 30]))
def test_every_library_gives_every_row_the_verdict_of_validate(rows, times):
    rows = rows * times
    alone = [row_verdict(row) for row in rows]
    frame = pl.DataFrame(rows, schema=POLARS)
    columns = {name: [row[name] for row in rows] for name in DTYPES}
    containers = {
        "rows": rows,
        "columns": columns,
        "arrays": {name: np.array(values, dtype=object) for name, values in columns.items()},
        "pandas": pd.DataFrame(columns).astype(DTYPES),
        "polars": frame,
        "lazy": frame.lazy(),
        "arrow": frame.to_arrow(),
    }
    for name, container in containers.items():
        schema = Schema(WHOLE.fields, rules=WHOLE.rules)
        batch = schema.validate_batch(container)
        told = [set() for _ in rows]
        for key, hits in batch.where.items():
            for hit in hits:
                told[hit].add(key)
        assert list(zip(batch.valid.tolist(), told, strict=True)) == alone, name
        assert schema.stats().quarantined == batch.held == len(schema.quarantine)
        assert batch.held == sum(("plan", "length") in keys for _, keys in alone)


def row_verdict(row):
    told = {(violation.field, violation.rule) for violation in WHOLE.check(row)}
    try:
        WHOLE.validate(row)
    except InvalidFeatures:
        return False, told
    return True, told


def test_a_bad_row_shows_all_that_is_wrong_where_msgspec_shows_the_first():
    msgspec = pytest.importorskip("msgspec")
    row = {"age": "old", "income": "none", "code": 5, "plan": "zz", "at": 3}
    kinds = [("age", int), ("income", float), ("code", str), ("plan", str), ("at", datetime)]
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert(row, msgspec.defstruct("Row", kinds))
    assert [name for name, _ in kinds if f"$.{name}" in str(caught.value)] == ["age"]
    assert len(WHOLE.check(row)) == 5


@pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame, pa.Table.from_pylist])
def test_one_row_as_a_frame_is_a_few_lists(frame):
    # Great Expectations takes a second for one row, pandera twenty milliseconds: both build
    # their engine anew.  Here a short frame becomes lists, and no column is asked by itself.
    row = {"age": 5, "income": 1.0, "code": "AB1", "plan": "a", "at": datetime(2024, 2, 2)}
    table = frame([row])
    asked = Frame(table)
    assert {name: asked.column(name) for name in row} == {n: ([v], None) for n, v in row.items()}
    assert WHOLE.validate_batch(table).ok


def test_a_thing_that_is_no_table_is_a_type_error():
    with pytest.raises(TypeError):
        SCHEMA.validate_batch(5)


def test_an_array_is_repaired_without_cutting():
    halves = Schema({"x0": Field(float, minimum=0.5, on={"range": "clip"})})
    assert halves.validate_batch(np.array([[0], [1]])).valid_rows.tolist() == [[0.5], [1.0]]
    narrow = Schema({"x0": Field(float, maximum=0.1, on={"range": "clip"})})
    repaired = narrow.validate_batch(np.array([[5.0]], dtype="f4")).valid_rows
    assert narrow.validate_batch(repaired).violations == {}


def test_a_text_among_numbers_does_not_make_texts_of_them():
    schema = Schema({"a": Field("any", default="unknown", on={"missing": "impute"})})
    numbers = np.array([1.5, np.nan])
    assert schema.validate_batch({"a": numbers}).valid_rows == {"a": [1.5, "unknown"]}
    assert schema.validate_batch(numbers[:, None]).valid_rows.tolist() == [[1.5], ["unknown"]]
    with pytest.raises(BadConfiguration, match="field 'a'"):
        schema.validate_batch(pl.DataFrame({"a": [1.5, None] * 50}))


@pytest.mark.parametrize("times", [2, 200])
def test_a_repaired_column_keeps_its_type(times):
    clipped = Schema({"a": Field(int, maximum=5, on={"range": "clip"})})
    filled = Schema({"a": Field(str, default="b", on={"missing": "impute"})})
    ints = pl.DataFrame({"a": pl.Series([9, 1] * times, dtype=pl.Int32)})
    assert clipped.validate_batch(ints).valid_rows.schema == ints.schema
    frame = pd.DataFrame({"a": pd.Series([9, 1] * times, dtype="int16")})
    assert clipped.validate_batch(frame).valid_rows.dtypes.equals(frame.dtypes)
    levels = pl.DataFrame({"a": pl.Series(["b", None] * times, dtype=pl.Categorical)})
    assert filled.validate_batch(levels).valid_rows.schema == levels.schema
    frame = pd.DataFrame({"a": pd.Categorical(["b", None] * times)})
    assert filled.validate_batch(frame).valid_rows.dtypes.equals(frame.dtypes)
    # What does not fit, widens.
    other = pd.DataFrame({"a": pd.Categorical(["c", None] * times)})
    assert filled.validate_batch(other).valid_rows["a"].tolist() == ["c", "b"] * times


def test_moments_of_an_array_stay_moments():
    schema = Schema({"a": Field(datetime, minimum=datetime(2020, 1, 1), on={"range": "clip"})})
    stamps = np.array(["2019-01-01", "2021-01-01"], dtype="datetime64[ns]")
    found = schema.validate_batch({"a": stamps}).valid_rows["a"]
    assert found.dtype == stamps.dtype
    assert found.tolist()[0] == stamps.dtype.type("2020-01-01", "ns").item()
    old = Schema({"a": Field(datetime, minimum=datetime(1500, 1, 1), on={"range": "clip"})})
    early = np.array(["1400-01-01", "2021-01-01"], dtype="datetime64[D]")
    assert str(old.validate_batch({"a": early}).valid_rows["a"][0])[:10] == "1500-01-01"


@pytest.mark.parametrize("value", [2**53 + 1, float(2**53 + 2), 2**53, 2**62 + 1, -(2**53) - 1])
@pytest.mark.parametrize("bound", [2.0**53, 2**53 + 1, 2**62 + 1, 2.0**62, 10**400])
def test_large_numbers_fare_alike_alone_and_in_a_column(value, bound):
    for settings_ in ({"maximum": bound}, {"minimum": bound}, {"minimum": -bound}):
        schema = Schema({"a": Field(float, **settings_)})
        alone = not schema.check({"a": value})
        assert schema.validate_batch({"a": np.array([value])}).ok is alone
        assert schema.validate_batch([{"a": value}]).ok is alone


def test_a_pandas_column_need_not_be_named_by_text():
    frame = pd.DataFrame({0: [1, 2], "a": [1, -1]})
    schema = Schema({"a": Field(int, minimum=0, on={"range": "quarantine"})})
    assert schema.validate_batch(frame).held == 1
    assert schema.quarantine.drain()[0].row == {0: 2, "a": -1}
    with pytest.raises(BadConfiguration, match="must be text"):
        Schema.infer(frame)


def test_what_is_no_batch_is_named():
    schema = Schema({"age": Field(int), "plan": Field(str)})
    with pytest.raises(TypeError, match=r"'age'.*5.*validate\(\)"):
        schema.validate_batch({"age": 5, "plan": "pro"})
    with pytest.raises(TypeError, match="'plan'"):
        Schema({"plan": Field(str)}).validate_batch({"plan": "pro"})
    with pytest.raises(ValueError, match="'plan': 2"):
        schema.validate_batch({"age": [5], "plan": ["a", "b"]})
    with pytest.raises(TypeError, match="row 1"):
        Schema.infer([{"a": 1}, None])
    with pytest.raises(ValueError, match="differ"):
        Schema.infer(np.zeros((3, 2)), ["a", "a"])


@pytest.mark.parametrize("times", [1, 100])
@pytest.mark.parametrize("make", [pl.DataFrame, pd.DataFrame, pa.table])
def test_a_whole_bound_fits_into_a_column_of_floats(make, times):
    schema = Schema({"a": Field(float, minimum=0, maximum=1, on={"range": "clip"})})
    frame = make({"a": [-5.0, 0.5, 7.0] * times})
    repaired = schema.validate_batch(frame).valid_rows
    assert Frame(repaired).column("a")[0] == pytest.approx([0.0, 0.5, 1.0] * times)
    assert schema.validate_batch(repaired).violations == {}
    halves = Schema({"a": Field(float, minimum=0.5, on={"range": "clip"})})
    whole = make({"a": [0, 3] * times})
    assert Frame(halves.validate_batch(whole).valid_rows).column("a")[0] == pytest.approx(
        [0.5, 3.0] * times
    )
