import json
import math
from datetime import UTC, date, datetime

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prodml.errors import BadConfiguration
from prodml.validation import Schema

COLUMNS = {
    "age": [20, 30, 40, 60] * 5,
    "income": [1.5, None, 3.5, 2.5] * 5,
    "plan": ["pro", "basic", "pro", "pro"] * 5,
    "vip": [True, False, True, True] * 5,
    "since": [datetime(2024, 1, day, tzinfo=UTC) for day in range(1, 21)],
}
ROWS = [dict(zip(COLUMNS, values, strict=True)) for values in zip(*COLUMNS.values(), strict=True)]

CONTAINERS = {
    "rows": ROWS,
    "columns": COLUMNS,
    "pandas": pd.DataFrame(COLUMNS),
    "polars": pl.DataFrame(COLUMNS),
    "lazy": pl.LazyFrame(COLUMNS),
    "arrow": pa.table(COLUMNS),
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_every_container_teaches_the_same_schema(container):
    schema = Schema.infer(CONTAINERS[container])
    assert schema.to_dict()["fields"] == {
        "age": {
            "kind": "int",
            "minimum": 16,
            "maximum": 64,
            "default": 30,
        },
        "income": {
            "kind": "float",
            "nullable": True,
            "null_share": 0.25,
            "minimum": 1.3,
            "maximum": 3.7,
            "default": 2.5,
        },
        "plan": {"kind": "str", "categories": ["basic", "pro"], "default": "pro"},
        "vip": {"kind": "bool", "default": True},
        "since": {"kind": "datetime"},
    }


@pytest.mark.parametrize("container", CONTAINERS)
def test_the_reference_is_valid_by_its_own_schema(container):
    schema = Schema.infer(CONTAINERS[container])
    assert schema.validate_batch(CONTAINERS[container]).ok
    assert all(schema.check(row) == () for row in ROWS)


def test_an_inferred_schema_is_ready_for_json():
    schema = Schema.infer(pd.DataFrame(COLUMNS).drop(columns="since"))
    assert Schema.from_dict(json.loads(json.dumps(schema.to_dict()))).diff(schema) == {}


def test_an_array_is_read_with_its_names():
    data = np.array([[1.0, math.nan], [3.0, 5.0]])
    schema = Schema.infer(data, ["a", "b"])
    assert schema.fields["a"].minimum == pytest.approx(0.8)
    assert schema.fields["b"].null_share == 0.5
    assert list(Schema.infer(data).fields) == ["x0", "x1"]


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (np.array([1, 2], dtype="uint8"), "int"),
        (np.array([True, False]), "bool"),
        (np.array(["2024-01-01", "NaT"], dtype="datetime64[ns]"), "datetime"),
        (np.array(["a", "b"]), "str"),
        (np.array([1, "a"], dtype=object), "any"),
        ([1, 2.5], "float"),
        ([1, True], "any"),
        ([date(2024, 1, 1)], "date"),
        ([None, None], "any"),
        ([[1], [2]], "any"),
    ],
)
def test_the_kind_follows_the_values(data, kind):
    assert Schema.infer({"a": data}).fields["a"].kind == kind


def test_not_a_time_counts_as_null():
    stamps = np.array(["2024-01-01", "NaT"], dtype="datetime64[ns]")
    assert Schema.infer({"a": stamps}).fields["a"].null_share == 0.5


def test_a_field_that_a_row_lacks_is_optional():
    schema = Schema.infer([{"a": 1, "b": 2}, {"a": 3}])
    assert (schema.fields["a"].required, schema.fields["b"].required) == (True, False)
    assert schema.fields["b"].null_share == 0.0


@pytest.mark.parametrize("values", [[7.0] * 9, np.full(9, 7.0), [7] * 9, np.full(9, 7)])
def test_a_constant_gets_no_range(values):
    field = Schema.infer({"a": values}).fields["a"]
    assert (field.minimum, field.maximum, field.default) == (None, None, 7)


@pytest.mark.parametrize("make", [list, np.array])
def test_infinities_do_not_stretch_the_range(make):
    field = Schema.infer({"a": make([0.0, 1.0, math.inf])}, slack=0).fields["a"]
    assert (field.minimum, field.maximum) == (0.0, 1.0)


@pytest.mark.parametrize("make", [list, np.array])
def test_a_spread_beyond_the_floats_gives_no_range(make):
    field = Schema.infer({"a": make([-1.7e308, 1.7e308])}).fields["a"]
    assert (field.minimum, field.maximum) == (None, None)


@pytest.mark.parametrize(("slack", "low", "high"), [(0, 0, 10), (0.5, -5, 15), (0.11, -2, 12)])
def test_slack_widens_by_a_share_of_the_range(slack, low, high):
    field = Schema.infer({"a": [0, 10]}, slack=slack).fields["a"]
    assert (field.minimum, field.maximum) == (low, high)


@pytest.mark.parametrize(
    ("values", "closed"),
    [
        (["a", "b"] * 10, True),
        (["a"] * 19 + ["b"], True),
        (["a"] * 18 + ["b", "c"], False),
        ([f"id{i}" for i in range(40)], False),
        ([f"level{i % 100}" for i in range(300)], True),
        ([f"level{i % 101}" for i in range(303)], False),
        (["a", "b"], False),
    ],
)
def test_categories_need_few_levels_and_little_chance_of_a_new_one(values, closed):
    assert (Schema.infer({"a": values}).fields["a"].categories is not None) == closed


@given(st.integers(1, 50))
def test_the_number_of_rows_alone_never_decides_about_categories(times):
    few = Schema.infer({"a": ["x", "y"] * 10}).fields["a"].categories
    many = Schema.infer({"a": ["x", "y"] * 10 * times}).fields["a"].categories
    assert few == many


def test_the_limits_of_categories_can_be_set():
    values = {"a": ["x", "y", "z"] * 9}
    assert Schema.infer(values, max_levels=2).fields["a"].categories is None
    assert Schema.infer({"a": ["x", "y"]}, max_unseen=1.0).fields["a"].categories == ("x", "y")


def test_policies_and_name_are_passed_on():
    schema = Schema.infer({"a": [0, 10]}, on={"range": "warn"}, extra="drop", name="n")
    assert (schema.on, schema.extra, schema.name) == ({"range": "warn"}, "drop", "n")


def test_imputation_uses_the_median_of_the_reference():
    schema = Schema.infer({"a": [1.0, 2.0, 9.0]}, on={"missing": "impute"})
    assert schema.validate({}) == {"a": 2.0}


NUMBERS = st.lists(
    st.floats(allow_nan=True, allow_infinity=False) | st.integers(-(10**6), 10**6), min_size=1
)


@given(NUMBERS, st.booleans())
def test_every_reference_of_numbers_accepts_itself(values, array):
    data = {"a": np.array(values, dtype=float) if array else values}
    schema = Schema.infer(data)
    assert schema.validate_batch(data).ok


@pytest.mark.parametrize(
    "reference", [[], {}, {"a": []}, np.zeros((0, 2)), pd.DataFrame({"a": []})]
)
def test_an_empty_reference_is_refused(reference):
    with pytest.raises(BadConfiguration, match="empty"):
        Schema.infer(reference)


@pytest.mark.parametrize("settings", [{"slack": -1}, {"max_levels": -1}, {"max_unseen": 2}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(BadConfiguration, match=next(iter(settings))):
        Schema.infer({"a": [1]}, **settings)


@pytest.mark.parametrize(
    ("reference", "names"),
    [(np.zeros(3), None), (np.zeros((2, 2)), ["a"]), ({"a": [1], "b": []}, None)],
)
def test_a_table_of_the_wrong_shape_is_refused(reference, names):
    with pytest.raises(ValueError, match=r"dimensions|names|length"):
        Schema.infer(reference, names)
