import math
import os
import shutil
import struct
import subprocess
import sys
import uuid
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, StrEnum
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import msgspec
import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prodml.cache.keys import PLAIN, Namer, canonical, digest


class Colour(Enum):
    RED = "red"


class Text(StrEnum):
    RED = "red"


class Tired(int):
    pass


@dataclass
class Row:
    age: int
    name: str


class Point(NamedTuple):
    x: int
    y: int


class Size(NamedTuple):
    x: int
    y: int


class Packed(msgspec.Struct):
    age: int


NAN = float("nan")
NEGATIVE_NAN = struct.unpack(">d", bytes.fromhex("fff8000000000000"))[0]
NOON = datetime(2024, 1, 2, 12, 0, 0)

GOLDEN = [
    (None, "c0"),
    (False, "c2"),
    (True, "c3"),
    (0, "00"),
    (127, "7f"),
    (-1, "ff"),
    (-32, "e0"),
    (-33, "d0df"),
    (128, "cc80"),
    (256, "cd0100"),
    (65536, "ce00010000"),
    (2**32, "cf0000000100000000"),
    (-129, "d1ff7f"),
    (-(2**15) - 1, "d2ffff7fff"),
    (-(2**31) - 1, "d3ffffffff7fffffff"),
    (2**64, "c70901010000000000000000"),
    (-(2**63) - 1, "c70901ff7fffffffffffffff"),
    (1.0, "cb3ff0000000000000"),
    (-0.0, "cb8000000000000000"),
    (math.inf, "cb7ff0000000000000"),
    (-math.inf, "cbfff0000000000000"),
    (NAN, "cb7ff8000000000000"),
    ("", "a0"),
    ("é", "a2c3a9"),
    ("\ud800", "c70302eda080"),
    (b"\x00", "c40100"),
    ([1, "a"], "9201a161"),
    ({"b": 1, "a": 2}, "82a161a162920201"),
    ({}, "8090"),
    ({1: "x"}, "810191a178"),
    ({3, 1}, "c702030103"),
    (1 + 2j, "c71205cb3ff0000000000000cb4000000000000000"),
    (NOON, "c7130a323032342d30312d30325431323a30303a3030"),
    (date(2024, 1, 2), "c70a0b323032342d30312d3032"),
    (time(12, 30), "c7080c31323a33303a3030"),
    (timedelta(1, 2, 3), "c7050d9401020300"),
    (Decimal("1.50"), "c70414312e3530"),
    (Fraction(1, 2), "c70315920102"),
    (uuid.UUID(int=1), "c7101600000000000000000000000000000001"),
    (np.array([1, 2], dtype="<i2"), "c70a1ea33c693291020100" + "0200"),
]


@pytest.mark.parametrize(("value", "expected"), GOLDEN, ids=[repr(v) for v, _ in GOLDEN])
def test_the_format_is_what_it_was_when_entries_were_written(value, expected):
    assert canonical(value).hex() == expected


SAME = [
    ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    ({"x": {"a": 1, "b": 2}}, {"x": {"b": 2, "a": 1}}),
    (NAN, float("nan")),
    (NAN, NEGATIVE_NAN),
    ([NAN], (NEGATIVE_NAN,)),
    ((1, 2), [1, 2]),
    (np.float64(1.5), 1.5),
    (np.float32(1.5), 1.5),
    (np.int64(3), 3),
    (np.uint8(3), 3),
    (np.bool_(True), True),
    (np.str_("a"), "a"),
    (np.bytes_(b"a"), b"a"),
    (np.complex128(1j), 1j),
    (np.int64(2**40), 2**40),
    (OrderedDict(a=1), {"a": 1}),
    (MappingProxyType({"a": 1}), {"a": 1}),
    ({"a", "b", "c"}, frozenset({"c", "b", "a"})),
    (bytearray(b"a"), b"a"),
    (Tired(3), 3),
    ({Text.RED: 1, "b": 2}, {"red": 1, "b": 2}),
    (
        np.arange(6).reshape(2, 3),
        np.arange(6).reshape(3, 2, order="F").reshape(2, 3) * 0 + np.arange(6).reshape(2, 3),
    ),
    (np.arange(3, dtype=">f8"), np.arange(3, dtype="<f8")),
    (np.arange(6.0)[::2], np.array([0.0, 2.0, 4.0])),
    (pd.Timestamp(NOON), NOON),
    (pd.Series({"a": 1.0, "b": 2.0}), {"a": 1.0, "b": 2.0}),
    (pd.Timedelta(days=1), timedelta(days=1)),
    (Row(1, "a"), Row(1, "a")),
    (pd.DataFrame({"a": [1, 2]}), pl.DataFrame({"a": [1, 2]})),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_equal_inputs_share_a_key(one, other):
    assert canonical(one) == canonical(other)


DIFFERENT = [
    (1, "1"),
    (1, True),
    (0, False),
    (None, ""),
    (None, NAN),
    (None, "None"),
    (math.inf, -math.inf),
    (NAN, math.inf),
    (1, 1.0),
    (0.0, -0.0),
    (-1, -2),
    ({"a": "1:b:2"}, {"a": "1", "b": "2"}),
    (("a b", "c"), ("a", "b c")),
    ({1: "x"}, {"1": "x"}),
    ({True: "x"}, {1: "x"}),
    ({None: "x"}, {"null": "x"}),
    ({"a": 1}, {"b": 1}),
    ({"a": 1, "b": 2}, {"a": 2, "b": 1}),
    ({"a": [1]}, {"a": 1}),
    ([[1], 2], [[1, 2]]),
    ({}, []),
    (NOON, NOON.isoformat()),
    (NOON, NOON.replace(tzinfo=UTC)),
    (NOON.replace(tzinfo=UTC), NOON.replace(tzinfo=timezone(timedelta(hours=1)))),
    (NOON, NOON.replace(fold=1)),
    (NOON.date(), NOON),
    (pd.Timestamp(NOON), pd.Timestamp(NOON) + pd.Timedelta(1, "ns")),
    (pd.NaT, None),
    (pd.NA, None),
    (Decimal("1"), "1"),
    (Decimal("1"), 1),
    (uuid.UUID(int=1), str(uuid.UUID(int=1))),
    (b"a", "a"),
    (Colour.RED, "red"),
    (Text.RED, "red"),
    (Point(1, 2), Size(1, 2)),
    (Point(1, 2), (1, 2)),
    (Row(1, "a"), {"age": 1, "name": "a"}),
    (np.float32(0.1), 0.1),
    (np.datetime64("2024-01-02"), np.datetime64("2024-01-02T00:00")),
    (np.datetime64(5, "ns"), 5),
    (np.array([0.123456781]), np.array([0.123456782])),
    (np.zeros(2000), np.where(np.arange(2000) == 1000, 1.0, 0.0)),
    (np.zeros((2, 3)), np.zeros((3, 2))),
    (np.zeros(2, "f4"), np.zeros(1, "f8")),
    (np.zeros(2, "f8"), np.zeros(2, "i8")),
    (np.array(["a", "b"], dtype=object), np.array(["a", "c"], dtype=object)),
    (np.array([1], dtype=object), np.array(["1"], dtype=object)),
    (np.array(1.5), 1.5),
    ({1, 2}, [1, 2]),
    (2**64, -(2**64)),
    ("\ud800", "\udc00"),
    (pd.DataFrame({"a": [1, 2]}), pd.DataFrame({"b": [1, 2]})),
    (pd.DataFrame({"a": [1, 2]}), pd.DataFrame({"a": ["1", "2"]})),
]


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_different_inputs_never_share_a_key(one, other):
    assert canonical(one) != canonical(other)
    assert Namer().name(one) != Namer().name(other)


class _Haunted:
    def __init__(self):
        self.hidden = 1


@dataclass
class _Grown:
    age: int


def _grown():
    row = _Grown(1)
    row.more = 2
    return row


UNNAMEABLE = [
    open,
    object(),
    _Haunted(),
    _grown(),
    {"a": lambda: 1},
    [object()],
    np.ma.masked_array([1, 2], mask=[0, 1]),
    np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
    np.array([1, 2], dtype=np.longdouble),
    np.longdouble(1),
    {NAN: 1, float("nan"): 2},
    pd.Series([1, 2], index=["a", "a"]),
    int,
    (item for item in ()),
]


@pytest.mark.parametrize("value", UNNAMEABLE)
def test_what_cannot_be_named_is_refused(value):
    with pytest.raises(TypeError):
        canonical(value)
    with pytest.raises(TypeError):
        Namer().name(value)


def test_structs_and_objects_inside_rows_are_named_by_class_and_fields():
    assert canonical({"a": Packed(1)}) == canonical({"a": Packed(1)})
    assert canonical({"a": Packed(1)}) != canonical({"a": Packed(2)})


def test_a_value_that_contains_itself_cannot_be_named():
    loop = []
    loop.append(loop)
    with pytest.raises(RecursionError):
        canonical(loop)


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-300, 300),
    st.floats(),
    st.text(max_size=8),
    st.characters(categories=["Cs"]),
    st.binary(max_size=8),
    st.floats(width=32).map(np.float32),
    st.integers(-128, 127).map(np.int8),
    st.datetimes(),
    st.decimals(allow_nan=False),
)
names = st.one_of(st.text(max_size=4), st.integers(-3, 3), st.none(), st.booleans())
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(names, inner, max_size=4)),
    max_leaves=8,
)
rows = st.dictionaries(st.text(max_size=6), scalars, max_size=24)


@given(st.one_of(rows, st.lists(scalars), values))
def test_the_fast_path_writes_what_the_specification_writes(value):
    namer = Namer()
    assert namer.name(value) == canonical(value)
    assert namer.name(value) == canonical(value)


def _identity(value):
    """What a key must tell apart, spelt out independently of the encoder."""
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, dict):
        return "map", frozenset((_identity(k), _identity(v)) for k, v in value.items())
    if isinstance(value, list):
        return "list", tuple(map(_identity, value))
    if isinstance(value, float):
        # A NaN's payload means something to some systems, its sign nothing to anybody.
        return "float", struct.pack(">d", math.copysign(value, 1) if math.isnan(value) else value)
    if isinstance(value, Decimal):
        return "Decimal", value.as_tuple()
    return type(value).__name__, value


def _wrong_pairs(batch):
    named = [(canonical(value), _identity(value)) for value in batch]
    return [
        (one, other)
        for place, one in enumerate(named)
        for other in named[:place]
        if (one[0] == other[0]) != (one[1] == other[1])
    ]


# Small numbers of everything, so that pairs are often nearly equal: 1, 1.0, True, "1", b"1".
near = st.sampled_from([0, 1, -1, 0.0, -0.0, 1.0, True, False, None, "", "1", b"", b"1", NAN])
batches = st.lists(
    st.one_of(
        near,
        st.lists(near, max_size=2),
        st.dictionaries(st.sampled_from(["a", "b", 1, None]), near, max_size=2),
        scalars,
    ),
    min_size=46,
    max_size=46,
)


@settings(max_examples=100, deadline=None)
@given(batches)
def test_among_a_hundred_thousand_pairs_keys_agree_exactly_when_the_values_do(batch):
    assert _wrong_pairs(batch) == []


@pytest.mark.soak
@settings(max_examples=1000, deadline=None)
@given(batches)
def test_among_a_million_pairs_keys_agree_exactly_when_the_values_do(batch):
    assert _wrong_pairs(batch) == []


@given(values, values)
def test_nested_values_share_a_key_exactly_when_they_are_equal(one, other):
    assert _wrong_pairs([one, other]) == []


def test_rows_that_differ_in_order_or_names_do_not_confuse_what_was_learned():
    namer = Namer()
    first = namer.name({"a": 1, "b": 2})
    assert namer.name({"b": 2, "a": 1}) == first
    assert namer.name({"a": 1, "c": 2}) != first
    assert namer.name({"a": 2, "b": 1}) != first


def test_forgetting_learned_names_changes_no_key():
    namer, row = Namer(), {"a": 1, "b": 2}
    before = namer.name(row)
    for number in range(1100):
        namer.name({f"x{number}": 1, "y": 2})
    assert namer.name(row) == before


def test_forgetting_learned_classes_changes_no_key():
    for number in range(1100):
        canonical(Enum(f"Made{number}", "A").A)
    assert canonical({"a": 1}).hex() == "81a1619101"


def test_rows_of_a_frame_are_named_like_mappings():
    columns = [[1, 2], ["x", object()], [np.float64(0.5), None]]
    first = {"b": 1, "a": "x", "c": 0.5}
    assert Namer().rows(["b", "a", "c"], columns) == [canonical(first), None]


def test_rows_of_an_array_are_named_like_vectors():
    for array in (np.arange(6.0).reshape(3, 2), np.zeros((2, 2), object), np.zeros((0, 3))):
        assert Namer().vectors(array) == [canonical(row) for row in array]


PROBE = """
import json, sys
from prodml.cache.keys import canonical, digest
rows = [{"b": [1, {"z": 1, "a": None}], "a": 0.1, "c": {"x", "y", "w"}}, {"é": float("inf")}]
sys.stdout.write(json.dumps([digest(canonical(row), b"s") for row in rows]))
"""


def _probe(python, seed):
    source = Path(__file__).parents[2] / "src"
    env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(source)}
    return subprocess.run(
        [python, "-c", PROBE], env=env, capture_output=True, text=True, check=True
    ).stdout


def _version_of(python):
    code = "import sys; sys.stdout.write('%d.%d' % sys.version_info[:2])"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout


def test_another_process_with_another_hash_seed_makes_the_same_key():
    assert _probe(sys.executable, "1") == _probe(sys.executable, "2")


@pytest.mark.parametrize("name", ["python3.11", "python3.12", "python3.13", "python3.14"])
def test_another_python_makes_the_same_key(name):
    other = shutil.which(name)
    if other is None or _version_of(other) != name.removeprefix("python"):
        pytest.skip(f"{name} is not on this machine")
    assert _probe(other, "3") == _probe(sys.executable, "4")


def test_the_digest_says_nothing_without_the_secret():
    assert digest(b"row", b"one") != digest(b"row", b"two")
    assert len(digest(b"row", b"one")) == 32


def test_plain_types_are_written_alike_by_msgspec():
    assert frozenset({bool, bytes, float, int, str, type(None)}) == PLAIN
