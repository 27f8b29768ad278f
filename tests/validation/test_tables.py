"""Tables of every make: the verdict of their rows, and what they hold comes back unharmed."""

import json
import math
from array import array
from datetime import UTC, date, datetime
from enum import StrEnum
from fractions import Fraction

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prodml.errors import BadConfiguration
from prodml.validation import BatchValidation, Field, Rule, Schema

LARGE = 2**60 + 1
WHOLE = {
    "polars": lambda values: pl.DataFrame({"a": pl.Series(values, dtype=pl.Int64)}),
    "pandas": lambda values: pd.DataFrame({"a": pd.Series(values, dtype="Int64")}),
    "arrow": lambda values: pa.table({"a": pa.array(values, type=pa.int64())}),
}


@pytest.mark.parametrize("make", WHOLE.values(), ids=WHOLE)
def test_large_whole_numbers_beside_a_null_are_not_rounded(make):
    table = make([None, LARGE, LARGE - 1, 5] * 30)
    schema = Schema(
        {"a": Field(int, nullable=True, minimum=6, maximum=LARGE - 1, on={"range": "clip"})}
    )
    batch = schema.validate_batch(table)
    assert batch.where["a", "range"] == [i for i in range(120) if i % 4 in (1, 3)]
    kept = [getattr(value, "as_py", lambda value=value: value)() for value in batch.valid_rows["a"]]
    assert kept[1:4] == [LARGE - 1, LARGE - 1, 6]
    unique = Schema({"a": Field(int, nullable=True, unique=True)})
    assert not unique.validate_batch(make([None, LARGE, LARGE - 1, *range(90)])).where


def test_whole_numbers_of_128_bits_are_numbers():
    frame = pl.DataFrame({"a": pl.Series([2**100, 1] * 50, dtype=pl.Int128)})
    schema = Schema.infer(frame)
    assert schema.fields["a"].maximum > 2**100
    assert schema.validate_batch(frame).ok


@pytest.mark.parametrize("kind", [date, datetime, str, bool, bytes])
def test_numbers_where_other_things_are_meant_are_of_the_wrong_type(kind):
    bounds = {date: date(2020, 1, 1), datetime: datetime(2020, 1, 1)}.get(kind)
    schema = Schema({"a": Field(kind, minimum=bounds, nullable=True)})
    for values in (np.array([19000, 3]), np.array([1.5, math.nan]), np.array([19000.0, 3.0])):
        rows = schema.validate_batch([{"a": value} for value in values.tolist()])
        assert schema.validate_batch({"a": values}).where == rows.where
        frame = schema.validate_batch(pd.DataFrame({"a": np.tile(values, 50)}))
        assert frame.valid.tolist() == rows.valid.tolist() * 50


COLUMNS = {
    "bool": ([True, False], pl.Boolean),
    "day": ([date(2019, 1, 1), date(2024, 1, 1)], pl.Date),
    "moment": ([datetime(2019, 1, 1), datetime(2024, 1, 1, 5)], pl.Datetime("us")),
    "zoned": ([datetime(2019, 1, 1, tzinfo=UTC)], pl.Datetime("us", "UTC")),
}
ASKED = [
    Field(bool),
    Field(date, minimum=date(2020, 1, 1), nullable=True),
    Field(datetime, minimum=datetime(2020, 1, 1)),
    Field(datetime, maximum=datetime(2020, 1, 1, tzinfo=UTC)),
    Field(date, categories=(date(2024, 1, 1),)),
    Field(int, nullable=True),
    Field(str),
    Field("any"),
]


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([*COLUMNS]), st.sampled_from(ASKED), st.data())
def test_truths_and_moments_of_long_frames_get_the_verdict_of_their_rows(name, field, data):
    levels, dtype = COLUMNS[name]
    values = data.draw(st.lists(st.one_of(st.none(), st.sampled_from(levels)), min_size=1))
    values = (values * 70)[:70]
    frame = pl.DataFrame({"a": pl.Series(values, dtype=dtype)})
    schema = Schema({"a": field})
    rows = schema.validate_batch(frame.to_dicts())
    assert schema.validate_batch(frame).where == rows.where
    assert schema.validate_batch(frame.to_arrow()).where == rows.where


def test_a_rule_sees_moments_as_python_has_them():
    frame = pl.DataFrame({"at": [datetime(2024, 1, 1), datetime(2023, 1, 1)] * 50})

    def recent(row):
        return row["at"].year == 2024

    batch = Schema({"at": Field(datetime)}, rules=[Rule(recent)]).validate_batch(frame)
    assert batch.where == {("recent", "rule"): list(range(1, 100, 2))}


def test_arrays_in_a_column_may_be_held():
    schema = Schema({"a": Field(str, on={"type": "quarantine"})})
    column = np.empty(2, dtype=object)
    column[:] = [np.arange(3), np.float32(1.5)]
    assert schema.validate_batch({"a": column}).held == 2
    kept, number = (held.row["a"] for held in schema.quarantine.drain())
    assert kept.tolist() == [0, 1, 2]
    assert type(number) is float


def test_long_arrays_that_differ_in_the_middle_repeat_nothing():
    schema = Schema({"a": Field("any", unique=True)})
    one, other = np.zeros(3000), np.zeros(3000)
    other[1500] = 1.0
    rows = [{"a": one}, {"a": other}, {"a": one.copy()}, {"a": [1]}, {"a": "[1]"}, {"a": [1]}]
    assert schema.validate_batch(rows).where == {("a", "unique"): [2, 5]}


MAKES = {
    "list": list,
    "tuple": tuple,
    "array": np.array,
    "masked": lambda values: np.ma.masked_array(values, mask=[False] * len(values)),
    "buffer": lambda values: array("d", values),
    "view": lambda values: memoryview(np.array(values)),
    "pandas": pd.Series,
    "index": pd.Index,
    "extension": lambda values: pd.array(values, dtype="Float64"),
    "polars": pl.Series,
    "arrow": pa.array,
    "chunks": lambda values: pa.chunked_array([values]),
}


@pytest.mark.parametrize("action", ["reject", "clip", "warn"])
@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
def test_a_mapping_may_hold_columns_of_any_make(make, action):
    schema = Schema({"a": Field(float, minimum=0, on={"range": action})})
    batch = schema.validate_batch({"a": make([1.0, -1.0, 3.0]), "b": make([1.0, 2.0, 3.0])})
    assert isinstance(batch, BatchValidation)
    assert batch.where == {("a", "range"): [1]}
    expected = {"reject": [1, 3], "clip": [1, 0, 3], "warn": [1, -1, 3]}[action]
    kept = [getattr(value, "as_py", lambda value=value: value)() for value in batch.valid_rows["a"]]
    assert kept == expected


def test_what_hides_behind_a_mask_is_missing():
    masked = np.ma.masked_array([1.0, 99.0, 3.0], mask=[False, True, False])
    field = Schema.infer({"a": masked}).fields["a"]
    assert (field.nullable, field.maximum) == (True, 3.2)
    schema = Schema({"a": Field(float, maximum=9, default=0.0, on={"missing": "impute"})})
    assert schema.validate_batch({"a": masked}).valid_rows["a"] == [1.0, 0.0, 3.0]
    whole = schema.validate_batch(masked[:, None])
    assert (whole.where, whole.valid_rows.tolist()) == (
        {("a", "missing"): [1]},
        [[1.0], [0.0], [3.0]],
    )


def test_a_column_of_two_dimensions_is_a_column_of_lists():
    batch = Schema({"a": Field(float)}).validate_batch({"a": np.zeros((3, 2))})
    assert batch.violations == {"a": {"type": 3}}


class Plan(StrEnum):
    PRO = "pro"


@pytest.mark.parametrize(
    "values",
    [
        [np.float32(1), np.int8(2)],
        [np.longdouble(1), np.longdouble(2)],
        [Fraction(1, 3), Fraction(2, 3)],
        [np.bool_(True), np.bool_(False)],
        [np.str_("a"), Plan.PRO],
    ],
)
def test_what_is_learnt_is_plain_and_ready_for_json(values):
    rows = [{"a": value} for value in values] * 50
    schema = Schema.infer(rows)
    again = Schema.from_dict(json.loads(json.dumps(schema.to_dict())))
    assert again.diff(schema) == {}
    assert schema.validate_batch(rows).ok
    assert type(schema.fields["a"].default) in {float, bool, str}
    column = np.array(values) if not isinstance(values[0], Fraction) else None
    if column is not None and column.dtype.kind in "fb":
        json.dumps(Schema.infer({"a": column}).to_dict())


def test_the_share_of_nulls_does_not_depend_on_the_container():
    values = [None] + [1.5] * 199
    shares = {
        Schema.infer(make).fields["a"].null_share
        for make in (
            [{"a": value} for value in values],
            {"a": values},
            {"a": np.array(values, dtype=float)},
            pl.DataFrame({"a": values}),
        )
    }
    assert shares == {0.005}


def test_a_name_that_is_no_text_is_named():
    with pytest.raises(BadConfiguration, match="not 0 to Field"):
        Schema.infer(pd.DataFrame(np.zeros((3, 1))))


# -- the law, for every rule and policy -------------------------------------------------------

ACTIONS = ("reject", "quarantine", "clip", "impute", "warn")
NAMES = ("missing", "type", "finite", "range", "length", "pattern", "category", "unique")
CELLS = {
    "float": st.sampled_from([0.5, -1.0, 7.0, math.inf, math.nan, None]),
    "int": st.sampled_from([0, -1, 7, 2**60 + 1, None]),
    "str": st.sampled_from(["a", "b", "AB1", "long one", "", None]),
    "bool": st.sampled_from([True, False, None]),
    "date": st.sampled_from([date(2019, 1, 1), date(2024, 1, 1), None]),
    "datetime": st.sampled_from([datetime(2019, 1, 1), datetime(2024, 1, 1, 7), None]),
}
DTYPES = {
    "float": pl.Float64,
    "int": pl.Int64,
    "str": pl.String,
    "bool": pl.Boolean,
    "date": pl.Date,
    "datetime": pl.Datetime("us"),
}


def known(value):
    # A null in a column of numbers is NaN.
    return value if value == value else None


DEFAULTS = {"float": 0.5, "int": 1, "str": "a", "bool": True}


@st.composite
def policies(draw):
    kind = draw(st.sampled_from([*CELLS]))
    told = {"nullable": draw(st.booleans()), "unique": draw(st.booleans())}
    if kind in {"float", "int"}:
        told |= {"minimum": draw(st.sampled_from([None, 0])), "maximum": 5}
    if kind == "str":
        told |= {"max_length": draw(st.sampled_from([None, 3])), "pattern": "[a-zA-Z0-9]*"}
        told["categories"] = draw(st.sampled_from([None, ("a", "AB1")]))
    if kind in {"date", "datetime"}:
        told["minimum"] = draw(st.sampled_from([None, "2020-01-01"]))
    field = Field(kind, default=DEFAULTS.get(kind, Field().default), **told)
    wanted = draw(st.dictionaries(st.sampled_from(NAMES), st.sampled_from(ACTIONS)))
    on = {rule: action for rule, action in wanted.items() if field.can(rule, action)}
    return Field(kind, default=field.default, on=on, **told)


@settings(max_examples=30, deadline=None)
@given(
    policies(),
    policies(),
    st.sampled_from(["allow", "reject", "drop"]),
    st.sampled_from([(), ("a == b or b != a",), (Rule("a < b", name="r", action="warn"),)]),
    st.sampled_from([2, 40]),
    st.data(),
)
def test_every_policy_treats_columns_as_it_treats_rows(a, b, extra, rules, times, data):
    kinds = {"a": data.draw(st.sampled_from([a.kind, "int"])), "b": b.kind, "z": "bool"}
    cells = st.fixed_dictionaries({name: CELLS[kind] for name, kind in kinds.items()})
    rows = data.draw(st.lists(cells, min_size=1, max_size=4)) * times
    frame = pl.DataFrame(rows, schema={name: DTYPES[kind] for name, kind in kinds.items()})
    columns = {name: [row[name] for row in rows] for name in kinds}
    made = {"rows": rows, "columns": columns, "polars": frame, "arrow": frame.to_arrow()}
    told = {}
    for name, table in made.items():
        schema = Schema({"a": a, "b": b}, extra=extra, rules=rules)
        try:
            batch = schema.validate_batch(table)
        except BadConfiguration:
            # A text that is imputed fits into no column of numbers.
            assert a.kind == "str"
            assert kinds["a"] == "int"
            continue
        kept = batch.valid_rows
        if name != "rows":
            kept = pl.DataFrame(kept, strict=name != "columns").to_dicts()
        told[name] = (
            batch.where,
            batch.valid.tolist(),
            schema.stats(),
            (len(schema.quarantine), schema.quarantine.dropped),
            [{key: known(value) for key, value in row.items()} for row in kept],
        )
    if not told["rows"][4]:
        # No row, no names: a frame has its columns still.
        told = {name: found[:4] for name, found in told.items()}
    assert all(found == told["rows"] for found in told.values())
