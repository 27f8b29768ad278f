"""Answers come out exactly as they went in, or not at all."""

import datetime as dt
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from prodml.cache.codecs import ValueCodec
from prodml.cache.columns import agreed, assemble, column_of, is_kind

DAYS = ["2024-01-01", None, "2025-07-01"]
LABELS = pd.Index([5, 6, 7])

PANDAS = {
    "int64": pd.Series([1, 2, 3]),
    "named": pd.Series([1, 2, 3], name="score"),
    "numbered": pd.Series([1, 2, 3], name=0),
    "Int64": pd.Series([1, 2, None], dtype="Int64"),
    "boolean": pd.Series([True, None, False], dtype="boolean"),
    "Float64": pd.Series([0.5, None, 1], dtype="Float64"),
    "float32": pd.Series([0.1, 2, float("nan")], dtype="float32"),
    "datetime": pd.Series(pd.to_datetime(DAYS)),
    "nanoseconds": pd.Series(pd.to_datetime([1, 2, 3])),
    "zone": pd.Series(pd.to_datetime(DAYS).tz_localize("Europe/Berlin")),
    "timedelta": pd.Series([pd.Timedelta(1)] * 3),
    "str": pd.Series(["a", None, "b"]),
    "string": pd.Series(["a", None, "b"], dtype="string"),
    "object": pd.Series(["a", None, 0.5], dtype=object),
    "arrow": pd.Series([1.0, None, 2], dtype="double[pyarrow]"),
    "period": pd.Series(pd.period_range("2024", periods=3)),
    "frame": pd.DataFrame({"a": [0.1, 0.2, 0.3], "b": ["x", "y", None]}),
    "probabilities": pd.DataFrame(np.eye(3)),
    "times": pd.DataFrame({"at": pd.to_datetime(DAYS), 7: pd.Series([1, None, 2], dtype="Int8")}),
}
POLARS = [
    (pl.Float32, [0.1, None, 0.3]),
    (pl.Datetime("us"), [dt.datetime(2024, 1, 1), None, dt.datetime(2025, 1, 1)]),
    (pl.Duration("ms"), [dt.timedelta(1), None, dt.timedelta(2)]),
    (pl.Date, [dt.date(2024, 1, 1)] * 3),
    (pl.Time, [dt.time(1)] * 3),
    (pl.String, ["a", None, "b"]),
    (pl.Decimal(10, 2), [Decimal("1.25")] * 3),
    (pl.Boolean, [True, None, False]),
    (pl.UInt8, [1, 2, 3]),
    (pl.Binary, [b"a", None, b"b"]),
]
OTHERS = [
    *(pl.Series("s", values, dtype=dtype) for dtype, values in POLARS),
    pl.Series([1, 2, 3]).cast(pl.Datetime("ns", "Europe/Berlin")),
    pl.DataFrame({"a": [1, 2, 3], "b": ["x", None, "z"]}),
    pa.table({"a": [1, 2, 3], "b": pa.array([1, None, 3], pa.timestamp("ns", "UTC"))}),
    pa.chunked_array([[1, 2], [3]]),
    pa.chunked_array([[Decimal("1.5")] * 3]),
    pa.chunked_array([pa.array([1, None, 3], pa.duration("s"))]),
    np.array([1.5, 2, 3]),
    np.array(["a", "bb", "c"]),
    np.array([1, 2, 3], "M8[s]"),
    np.array([1, 2, 3], ">i2"),
    np.eye(3, dtype="f4"),
]


def same(one, other):
    assert type(one) is type(other)
    if isinstance(one, pd.Series):
        pd.testing.assert_series_equal(one, other, check_exact=True)
    elif isinstance(one, pd.DataFrame):
        pd.testing.assert_frame_equal(one, other, check_exact=True, check_column_type="exact")
    elif isinstance(one, np.ndarray):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype
    else:
        assert one.equals(other)


@pytest.mark.parametrize("labels", [None, LABELS], ids=["counted", "labelled"])
@pytest.mark.parametrize("name", PANDAS)
def test_pandas_comes_back_as_it_was(name, labels):
    result = PANDAS[name].copy()
    if labels is not None:
        result.index = labels
    column = column_of(result, 3, labels)
    assert is_kind(column.kind)
    same(assemble(column.kind, column.values, labels), result)
    # What goes through a store is the same.
    codec = ValueCodec()
    kind = codec.decode(codec.encode(column.kind))
    assert is_kind(kind)
    same(assemble(kind, column.values, labels), result)


@pytest.mark.parametrize("result", OTHERS, ids=lambda each: str(getattr(each, "dtype", "table")))
def test_others_come_back_as_they_were(result):
    kind, values = column_of(result, 3, None)
    same(assemble(kind, values), result)
    same(assemble(kind, [*values, values[0]])[:3], result[:3])


@pytest.mark.parametrize(
    "result",
    [
        pd.Series(["a", "b", "a"], dtype="category"),
        pd.Series([1, 0, 0], dtype="Sparse[int]"),
        pd.Series([0.5, float("nan"), None], dtype=object).rename(("a", "b")),
        pd.Series([1, 2, 3], index=list("abc")),
        pd.DataFrame({"a": [1, 2, 3]}, index=list("abc")),
        pd.DataFrame([[1, 2]] * 3, columns=list("aa")),
        pd.DataFrame({"a": [1, 2, 3]}).rename_axis("names", axis=1),
        pl.Series(["a"] * 3, dtype=pl.Enum(["a", "b"])),
        pl.Series([[1]] * 3),
        pl.DataFrame({"a": [[1]] * 3}),
        np.zeros(3, "i4,f8"),
        np.ma.zeros(3),
        {"a": [1, 2, 3]},
        "abc",
        7,
        None,
    ],
    ids=repr,
)
def test_what_would_come_back_otherwise_is_not_taken_apart(result):
    assert column_of(result, 3) is None


def test_notes_on_a_frame_are_not_lost():
    frame = pd.DataFrame({"a": [1, 2, 3]})
    frame.attrs["unit"] = "kg"
    assert column_of(frame, 3) is None


@pytest.mark.parametrize(
    ("like", "values"),
    [
        (np.array([1]), [0.7]),
        (np.array([1]), ["5"]),
        (np.array([1]), [True]),
        (np.array([1]), [None]),
        (np.array([1], "u1"), [300]),
        (np.array([1], "u1"), [-1]),
        (np.array([1], "u1"), [np.int64(256)]),
        (np.array([1]), [2**70]),
        (np.array([0.5]), ["5"]),
        (np.array([0.5]), [np.str_("5")]),
        (np.array([0.5]), [b"5"]),
        (np.array([0.5]), [2**53 + 1]),
        (np.array([0.5], "f4"), [0.1]),
        (np.array([0.5], "f4"), [1e300]),
        (np.array([0.5]), [1j]),
        (np.array([0.5]), [False]),
        (np.array([0.5]), [np.timedelta64(1, "s")]),
        (np.array([True]), [1]),
        (np.array(["a"]), [1]),
        (np.array([b"a"]), ["a"]),
        (np.array([1], "M8[s]"), [np.datetime64(1, "ns")]),
        (np.array([1], "M8[s]"), [1]),
        (np.eye(2), [np.zeros(3), np.zeros(2)]),
        (np.eye(2), [[0.0, 1.0], [1.0, 0.0]]),
        (np.eye(2), [np.zeros(2, int), np.zeros(2)]),
        (np.eye(2), [0.5, 0.5]),
        (pd.Series([1]), [0.7]),
        (pd.Series([0.5]), ["5"]),
        (pd.Series([1], dtype="Int64"), [0.7]),
        (pd.Series([1], dtype="Int64"), ["1"]),
        (pd.Series([1], dtype="Int8"), [300]),
        (pd.Series(["a"]), [1]),
        (pd.Series(pd.to_datetime(["2024-01-01"])), ["2024-01-01"]),
        (pl.Series([1]), [0.7]),
        (pl.Series([0.5]), ["5"]),
        (pl.Series([0.5]), [5]),
        (pl.Series(["a"]), [1]),
        (pl.Series([1], dtype=pl.Int8), [300]),
        (pa.chunked_array([[1]]), [0.7]),
        (pa.chunked_array([[0.5]]), ["5"]),
        (pl.DataFrame({"a": [1]}), [0.5]),
        (pl.DataFrame({"a": [1]}), [(0.5,)]),
        (pl.DataFrame({"a": [1]}), [(1, 2)]),
        (pd.DataFrame({"a": [1]}), [[1]]),
    ],
    ids=repr,
)
def test_a_value_that_does_not_fit_is_never_bent(like, values):
    kind = column_of(like, len(like)).kind
    with pytest.raises(Exception):
        assemble(kind, values)


@pytest.mark.parametrize(
    ("like", "values"),
    [
        (np.array([0.5]), [np.float64(0.25), 0.5, 2, np.float32(0.5), float("nan")]),
        (np.array([0.5], "f4"), [0.25, np.float32(0.1), float("inf")]),
        (np.array([1]), [np.int8(3), 4, np.uint64(5)]),
        (np.array(["a"]), ["longer", np.str_("b")]),
        (np.array([None]), [1, "a", None, [1]]),
        (pd.Series([0.5]), [np.float64(0.25), 1]),
        (pl.Series([0.5]), [np.float64(0.25), None]),
    ],
    ids=repr,
)
def test_a_value_that_fits_is_taken(like, values):
    again = assemble(column_of(like, 1).kind, values)
    assert len(again) == len(values)
    for one, other in zip(again, values, strict=True):
        assert one == other or one != one or other is None


DTYPES = st.one_of(
    hnp.integer_dtypes(),
    hnp.unsigned_integer_dtypes(),
    hnp.floating_dtypes(),
    hnp.boolean_dtypes(),
    hnp.unicode_string_dtypes(max_len=5),
    hnp.byte_string_dtypes(max_len=5),
    hnp.datetime64_dtypes(),
    hnp.complex_number_dtypes(),
)


@given(hnp.arrays(DTYPES, hnp.array_shapes(max_dims=3, max_side=4)), st.data())
def test_any_array_comes_back_in_any_order(array, data):
    kind, values = column_of(array, len(array))
    order = data.draw(st.lists(st.integers(0, len(array) - 1), min_size=1))
    again = assemble(kind, [values[at] for at in order])
    np.testing.assert_array_equal(again, array[order])
    assert again.dtype == array.dtype or array.dtype.kind in "US"
    assert again.flags.writeable


@given(
    like=hnp.arrays(DTYPES, 1),
    values=st.lists(
        st.one_of(st.integers(), st.floats(), st.booleans(), st.text(max_size=3), st.none())
    ),
)
def test_an_array_of_strangers_equals_them_or_is_none(like, values):
    try:
        array = assemble(column_of(like, 1).kind, values)
    except Exception:
        return
    for one, other in zip(array.tolist(), values, strict=True):
        assert one == other or (one != one and other != other)
        assert isinstance(one, bool) == isinstance(other, bool)
        assert isinstance(one, str) == isinstance(other, str)


def test_labels_that_could_come_from_anywhere_are_found_out():
    counted = pd.RangeIndex(2)
    either = column_of(pd.Series([1, 2]), 2, counted).kind
    rows = column_of(pd.Series([1, 2], index=[5, 6]), 2, pd.Index([5, 6])).kind
    count = column_of(pd.Series([1, 2]), 2, pd.Index([5, 6])).kind
    assert agreed(either, rows) == agreed(rows, either) == rows
    assert agreed(either, count) == count
    assert agreed(rows, count) is None
    with pytest.raises(ValueError, match="labels"):
        assemble(either, [1, 2], pd.Index([5, 6]))
    assert assemble(either, [1, 2], counted).index.equals(counted)


@pytest.mark.parametrize(
    "kind",
    [
        (),
        ("text",),
        ("list", 1),
        ("array",),
        ("array", 5),
        ("array", "<f8", -1),
        ("array", "<f8", True),
        ("series", "pandas", "int64", None),
        ("series", "pandas", "int64", None, "", 1),
        ("frame", "pandas", "ab", (), ""),
        ["list"],
        None,
    ],
)
def test_rubbish_is_no_kind(kind):
    assert not is_kind(kind)


@pytest.mark.parametrize(
    "kind",
    [
        ("array", "nonsense"),
        ("array", "O8,<i4"),
        ("series", "os", "int64", None, "count"),
        ("series", "pandas", "nonsense", None, "count"),
        ("series", "polars", "Config", None, ""),
        ("series", "polars", "List(Int64)", None, ""),
        ("series", "pyarrow", "nonsense", None, ""),
        ("frame", "pandas", ("a",), ("int64", "int64"), "count"),
        ("frame", "pandas", ("a",), (5,), "count"),
    ],
)
def test_a_forged_kind_only_raises(kind):
    assert is_kind(kind)
    with pytest.raises(Exception):
        assemble(kind, [1.5])
