"""Whatever is logged comes back, or says what it was."""

import dataclasses
import datetime as dt
import math
from collections import OrderedDict, UserDict
from enum import Enum, IntEnum
from fractions import Fraction
from typing import NamedTuple

import msgspec
import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prodml.recording import codec
from prodml.recording.codec import decode, plain, revive, to_json
from prodml.types import MISS


def there_and_back(value):
    return revive(decode(to_json(plain(value))))


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=()))
    | st.binary()
    | st.datetimes(timezones=st.none() | st.just(dt.UTC))
    | st.dates()
    | st.times()
    | st.timedeltas()
    | st.decimals(allow_nan=False)
    | st.uuids()
    | st.complex_numbers(allow_nan=False)
)
keys = st.text() | st.sampled_from(["$map", "$float", "$"]) | st.integers() | st.tuples(st.text())
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(keys, inner, max_size=4)
        | st.frozensets(scalars, max_size=3)
    ),
    max_leaves=12,
)


@given(values)
def test_every_value_comes_back_equal_and_of_its_type(value):
    back = there_and_back(value)
    assert back == value
    assert type(back) is type(value)


@given(values)
def test_encoding_changes_nothing_it_is_given(value):
    before = repr(value)
    plain(value)
    assert repr(value) == before


@given(st.floats(width=32) | st.floats(width=64) | st.floats(width=16))
def test_every_float_comes_back_bit_for_bit(value):
    back = there_and_back(value)
    assert math.isnan(back) if math.isnan(value) else back == value
    assert math.copysign(1, back) == math.copysign(1, value) or math.isnan(value)


@pytest.mark.parametrize(
    "value",
    [
        np.array([0.1, np.nan, -np.inf]),
        np.array([[0.1, 0.2]], dtype=np.float32),
        np.arange(6, dtype=np.int8).reshape(2, 3),
        np.array([True, False]),
        np.array([], dtype=np.float64),
        np.array(["a", "é"]),
        np.array([b"a", b"bc"]),
        np.array(["2024-01-01", "NaT"], dtype="datetime64[D]"),
        np.array([1 + 2j]),
        np.array([1, "a", None, 2.5], dtype=object),
        np.array(7.5),
        np.array([1, 2], dtype=">i4"),
        np.zeros((2, 0, 3), dtype=np.uint16),
        np.array([np.longdouble(1) / 3]),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_arrays_keep_dtype_shape_and_content(value):
    back = there_and_back(value)
    assert (back.dtype, back.shape) == (value.dtype, value.shape)
    np.testing.assert_array_equal(back, value)


@pytest.mark.parametrize("cls", [np.float16, np.float32, np.float64, np.int8, np.uint64, np.bool_])
def test_numpy_numbers_become_python_numbers_of_the_same_value(cls):
    back = there_and_back(cls(0.1) if cls is np.float32 else cls(1))
    assert type(back).__module__ == "builtins"
    assert back == (cls(0.1) if cls is np.float32 else cls(1))


@pytest.mark.parametrize(
    "value",
    [
        np.datetime64("2024-02-03T04:05:06.123456789"),
        np.timedelta64(5, "m"),
        np.complex64(1 + 2j),
        np.longdouble(1) / 3,
        np.bytes_(b"ab"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_numpy_scalars_that_python_lacks_keep_their_bytes(value):
    back = there_and_back(value)
    assert type(back) is type(value)
    assert back == value


class Colour(Enum):
    RED = "red"


class Level(IntEnum):
    HIGH = 3


@dataclasses.dataclass
class Row:
    age: int
    tags: tuple[str, ...]


class Struct(msgspec.Struct):
    age: int


class Name(str):
    __slots__ = ()


class Pair(NamedTuple):
    a: int
    b: int


@pytest.mark.parametrize(
    ("value", "back"),
    [
        (Colour.RED, "red"),
        (Level.HIGH, 3),
        (Row(41, ("a",)), {"age": 41, "tags": ("a",)}),
        (Struct(41), {"age": 41}),
        (Pair(1, 2), (1, 2)),
        (Name("ada"), "ada"),
        (np.str_("ada"), "ada"),
        (bytearray(b"ab"), b"ab"),
        (memoryview(b"ab"), b"ab"),
        (OrderedDict(a=1), {"a": 1}),
        (UserDict(a=1), {"a": 1}),
        ({"a": 1}.keys(), {"a"}),
        (range(3), [0, 1, 2]),
        (ValueError("bad row"), "ValueError: bad row"),
        (MISS, MISS),
        (pd.NA, None),
        (pd.NaT, None),
        (pd.Timestamp("2024-01-02T03:04:05.678901"), dt.datetime(2024, 1, 2, 3, 4, 5, 678901)),
        (pd.Timedelta("1s"), dt.timedelta(seconds=1)),
        (pd.Series([1, 2]), [1, 2]),
        (pd.DataFrame({"a": [1], "b": ["x"]}), {"a": [1], "b": ["x"]}),
        (pl.Series([1, 2]), [1, 2]),
        (pl.DataFrame({"a": [1]}), {"a": [1]}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_values_come_back_as_what_the_table_says(value, back):
    assert there_and_back(value) == back


def test_float_subclasses_are_floats():
    class Celsius(float):
        pass

    assert there_and_back([Celsius(1.5), Celsius("inf")]) == [1.5, math.inf]


def test_nan_is_not_null():
    assert to_json(plain([None, math.nan])) == b'[null,{"$float":"nan"}]'


def test_what_nothing_fits_is_written_as_its_repr():
    assert plain(Fraction(1, 3)) == {"$repr": "Fraction(1, 3)"}
    assert there_and_back(Fraction(1, 3)) == "Fraction(1, 3)"


def test_record_arrays_are_written_as_their_repr():
    rows = np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")])
    assert "array" in there_and_back(rows)
    assert "(1, 2." in there_and_back(rows[0])


def test_long_reprs_are_cut():
    class Long:
        def __repr__(self):
            return "x" * 10**6

    assert len(plain(Long())["$repr"]) == 1000


def test_value_that_resists_everything_is_still_named():
    class Hostile(dict):
        def items(self):
            raise RuntimeError("no")

        def __repr__(self):
            raise RuntimeError("never")

    assert plain(Hostile(a=1)) == {"$repr": "<Hostile without a repr>"}


def test_circular_structures_are_cut_off():
    loop = []
    loop.append(loop)
    assert b"$repr" in to_json(plain(loop))


def test_lone_surrogates_survive():
    text = {"\ud800": "\udfff"}
    assert there_and_back(text) == text
    assert plain(ValueError("\ud800")) == {"$error": ["ValueError", "\\ud800"]}


def test_set_of_what_becomes_unhashable_shows_what_is_written():
    @dataclasses.dataclass(frozen=True)
    class Point:
        x: int

    assert there_and_back({Point(1)}) == {"$set": [{"x": 1}]}


def test_unknown_tags_stay_as_they_are():
    assert revive({"$later": [1]}) == {"$later": [1]}


def test_damaged_tags_stay_as_they_are():
    assert revive({"$bytes": 7}) == {"$bytes": 7}
    assert revive({"$ndarray": {"dtype": "O", "shape": [1], "base64": "AAAAAAAAAAA="}})


def test_hostile_shape_allocates_nothing():
    content = {"dtype": "<f8", "shape": [10**12], "data": [1.0]}
    assert revive({"$ndarray": content}) == {"$ndarray": content}


def test_classes_made_at_run_time_do_not_pile_up():
    for _ in range(1100):
        plain(type("Passing", (), {})())
    assert len(codec._KNOWN) <= 1000
