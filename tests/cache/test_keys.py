import hashlib
import http
import math
import os
import re
import shutil
import struct
import subprocess
import sys
import uuid
from collections import OrderedDict, defaultdict
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import KEEP, Enum, Flag, IntEnum, IntFlag, StrEnum
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prodml.cache import PredictionCache
from prodml.cache.digest import digest, digests
from prodml.cache.keys import FORMAT, PLAIN, Namer, canonical, columns_of, home_of
from prodml.cache.rounding import Rounding


class Colour(Enum):
    RED = "red"


class Text(StrEnum):
    RED = "red"


class Permission(IntFlag):
    READ = 1


class Mode(Flag, boundary=KEEP):
    ON = 1
    FAST = 2


class Level(IntEnum):
    LOW = 1


class Tired(int):
    pass


class Noted(dict):
    pass


class Marked(list):
    __slots__ = ("mark",)


class Loud(Decimal):
    def __str__(self):
        return "loud"


class Dozing(int):
    def __int__(self):
        return 0


class Zoneless(tzinfo):
    def utcoffset(self, dt):
        return timedelta(hours=1) if dt else None


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


class _Base:
    __slots__ = ("more",)


@dataclass(slots=True)
class Deep(_Base):
    age: int


NAN = float("nan")
NEGATIVE_NAN = struct.unpack(">d", bytes.fromhex("fff8000000000000"))[0]
NOON = datetime(2024, 1, 2, 12, 0, 0)
BERLIN = ZoneInfo("Europe/Berlin")
PARIS = ZoneInfo("Europe/Paris")
ONE = timezone(timedelta(hours=1))
HERE = __name__.encode()


def _named(code, body):
    return bytes((0xC7, len(body), code)).hex() + body.hex()


def _text(text):
    data = text.encode()
    head = bytes((0xA0 | len(data),)) if len(data) < 32 else bytes((0xD9, len(data)))
    return head + data


PAIRS = pd.MultiIndex.from_tuples([("a", 1), ("a", 2)])

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
    (np.array(["a", 1], dtype=object), "c7061f910292a16101"),
    (http.HTTPStatus.OK, _named(4, b"\x92" + _text("http.HTTPStatus") + _text("OK"))),
    (re.RegexFlag(2**9), _named(4, b"\x92" + _text("re.RegexFlag") + b"\xcd\x02\x00")),
    (Permission(8), _named(4, b"\x92" + _text(f"{__name__}.Permission") + b"\x08")),
    (Mode.ON | Mode.FAST, _named(4, b"\x92" + _text(f"{__name__}.Mode") + b"\x03")),
    (
        Row(1, "a"),
        _named(
            6, b"\x92" + _text(f"{__name__}.Row") + bytes.fromhex("82a3616765a46e616d659201a161")
        ),
    ),
    (
        Point(1, 2),
        _named(6, b"\x92" + _text(f"{__name__}.Point") + bytes.fromhex("82a178a179920102")),
    ),
    (pd.NaT, "c7000f"),
    (pd.NA, "c70010"),
    (np.datetime64(5, "s"), "c70f0ea63c4d385b735d0500000000000000"),
    (np.timedelta64(5, "ns"), "c7100ea73c6d385b6e735d0500000000000000"),
    (
        np.array([5], "M8[D]"),
        "c7110ea63c4d385b445d9101".replace("c7110e", "c7111e") + "05" + "00" * 7,
    ),
    (NOON.replace(tzinfo=UTC), _named(10, b"2024-01-02T12:00:00+00:00")),
    (NOON.replace(tzinfo=BERLIN), _named(10, b"2024-01-02T12:00:00+01:00[Europe/Berlin]")),
    (time(12, tzinfo=BERLIN), _named(12, b"12:00:00[Europe/Berlin]")),
    (NOON.replace(fold=1), _named(10, b"2024-01-02T12:00:00~")),
    (pd.Timestamp(1, unit="ns"), _named(10, b"1970-01-01T00:00:00.000000001")),
    (pd.DataFrame({"a": [1, 2]}), "c70a20940291a16191920102" + "90"),
    (pd.DataFrame([[1]]), "c708209401910091910190"),
    (pd.DataFrame({"a": [1]}, index=["x"]), "c71020940191a161919101" + "9391a17891c091c0"),
    (
        Rounding({"a": 1})({"a": 0.31}),
        "c716219292" + "81a161910180" + "90" + "81a16191cb3fd3333333333333",
    ),
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
    (Level.LOW, Level(1)),
    (Mode.ON | Mode.FAST, Mode(3)),
    (Loud("1.5"), Decimal("1.5")),
    (Dozing(3), 3),
    (Noted(a=1), {"a": 1}),
    (Marked([1]), [1]),
    (defaultdict(None, a=1), {"a": 1}),
    (NOON.replace(tzinfo=timezone(timedelta(hours=1), "CET")), NOON.replace(tzinfo=ONE)),
    (pd.Timestamp(NOON, tz=BERLIN), NOON.replace(tzinfo=BERLIN)),
    (pl.DataFrame({"a": [1]}), pl.DataFrame({"a": [1]}).to_arrow()),
    (pd.DataFrame({"a": [1, 2]}), pd.DataFrame({"a": [1, 2]}, index=range(2))),
    (pd.DataFrame({"a": [1, 2, 3]})[:2], pd.DataFrame({"a": [1, 2]})),
    (
        pd.DataFrame({"t": pd.to_datetime([1001], unit="ns")}),
        pl.DataFrame({"t": pl.Series([1001], dtype=pl.Datetime("ns"))}),
    ),
    (
        pd.DataFrame({"t": pd.to_timedelta([-1, 999, 2000], unit="ns")}),
        pl.DataFrame({"t": pl.Series([-1, 999, 2000], dtype=pl.Duration("ns"))}),
    ),
    (
        pd.DataFrame({"t": [time(1), None]}),
        pl.DataFrame({"t": [time(1), None]}).to_arrow(),
    ),
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
    (Permission(8), Permission(16)),
    (Permission(1), Permission(9)),
    (Mode(8), Mode(16)),
    (Mode.ON, Permission.READ),
    (Mode.ON, 1),
    (Level.LOW, 1),
    (NOON.replace(tzinfo=BERLIN), NOON.replace(tzinfo=ONE)),
    (NOON.replace(tzinfo=BERLIN), NOON.replace(tzinfo=PARIS)),
    (time(12, tzinfo=BERLIN), time(12)),
    (time(12, tzinfo=BERLIN), time(12, tzinfo=PARIS)),
    (pd.Timestamp(NOON, tz=BERLIN), pd.Timestamp(NOON, tz=ONE)),
    (
        pd.DataFrame({"t": [pd.Timestamp(NOON, tz=BERLIN)]}),
        pd.DataFrame({"t": [NOON.replace(tzinfo=ONE)]}),
    ),
    (
        pl.DataFrame({"t": pl.Series([1], dtype=pl.Datetime("us", "Europe/Berlin"))}),
        pl.DataFrame({"t": pl.Series([1], dtype=pl.Datetime("us", "Europe/Paris"))}),
    ),
    *(
        (
            pl.DataFrame({"t": pl.Series([1], dtype=kind)}),
            pl.DataFrame({"t": pl.Series([2], dtype=kind)}),
        )
        for kind in (
            pl.Datetime("ns"),
            pl.Datetime("ns", "Europe/Berlin"),
            pl.Duration("ns"),
            pl.Time,
        )
    ),
    (
        pl.DataFrame({"t": pl.Series([-1], dtype=pl.Duration("ns"))}),
        pl.DataFrame({"t": pl.Series([999], dtype=pl.Duration("ns"))}),
    ),
    (pd.DataFrame({"a": [1, 2]}), pd.DataFrame({"a": [1, 2]}, index=["x", "y"])),
    (pd.DataFrame({"a": [1]}, index=["x"]), pd.DataFrame({"a": [1]}, index=["y"])),
    (
        pd.DataFrame({"a": [1]}, index=["x"]),
        pd.DataFrame({"a": [1]}, index=pd.Index(["x"], name="n")),
    ),
    (pd.DataFrame({"a": [1]}), pd.DataFrame({"a": [1]}, index=pd.RangeIndex(1, name="n"))),
    (pd.DataFrame({"a": [1]}), pd.DataFrame({"a": [1]}, index=pd.RangeIndex(1, 2))),
    (pd.DataFrame({"a": [1, 2]}), pd.DataFrame({"a": [1, 2]}, index=pd.RangeIndex(0, 4, 2))),
    (pd.DataFrame({"a": [1]}), pd.DataFrame({"a": [1]}).rename_axis(columns="n")),
    (pd.DataFrame(index=range(2)), pd.DataFrame(index=range(3))),
    (pd.DataFrame([[1]]), pd.DataFrame([[1]], columns=["0"])),
    (pd.DataFrame([[1]]), pd.DataFrame([[2]])),
    (pd.DataFrame([[1, 2]], columns=PAIRS), pd.DataFrame([[2, 1]], columns=PAIRS)),
    (pd.DataFrame([[1, 2]], columns=PAIRS), pd.DataFrame([[1, 2]], columns=["a", "b"])),
    (pd.DataFrame([[1, 2]], columns=["a", "a"]), pd.DataFrame([[2, 1]], columns=["a", "a"])),
    (Rounding({"a": 1})({"a": 0.3}), {"a": 0.3}),
    (Rounding({"a": 1})({"a": 0.3}), Rounding({"a": 2})({"a": 0.3})),
    (Rounding({"a": 1})({"a": 1}), Rounding({"a": 1})({"a": 1.0})),
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


def _with(value, **more):
    for name, content in more.items():
        setattr(value, name, content)
    return value


def _local():
    @dataclass
    class Row:
        age: int

    return Row(1)


UNNAMEABLE = [
    _local(),
    Enum("Made", "A").A,
    _with(Noted(a=1), tag=1),
    _with(Tired(1), tag=1),
    _with(Marked([1]), mark=1),
    _with(Deep(1), more=2),
    _with(type("Text", (str,), {})("a"), tag=1),
    _with(type("Moment", (datetime,), {})(2024, 1, 1), tag=1),
    defaultdict(int, a=1),
    NOON.replace(tzinfo=Zoneless()),
    pl.DataFrame({"t": pl.Series([[1]], dtype=pl.List(pl.Time))}),
    pd.DataFrame(
        {"t": pl.Series([1], dtype=pl.Time).to_arrow().to_pandas(types_mapper=pd.ArrowDtype)}
    ),
    Rounding({"a": 1})(object()),
    Rounding({"a": 1})(_with(Noted(a=1), tag=1)),
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


zones = st.sampled_from([None, UTC, ONE, timezone(timedelta(0)), BERLIN, PARIS, ZoneInfo("UTC")])
times = st.datetimes(datetime(2024, 1, 1), datetime(2024, 1, 2), timezones=zones) | st.builds(
    lambda hour, zone, fold: datetime(2024, 10, 27, hour, tzinfo=zone, fold=fold),
    st.integers(1, 4),
    zones,
    st.integers(0, 1),
)
flags = st.builds(Permission, st.integers(0, 31)) | st.builds(Mode, st.integers(0, 31))
cells = st.sampled_from([0, 1, 1.0, -0.0, True])
arrays = st.builds(
    lambda items, kind, tall: np.array(items, kind).reshape((-1, 1) if tall else (-1,)),
    st.lists(cells, max_size=2),
    st.sampled_from(["f8", "f4", "i8", "i4", "u1", "?", "U2", "O"]),
    st.booleans(),
)
labels = st.sampled_from([None, ["x", "y"], ["y", "x"], [0, 1], [1, 0], range(0, 4, 2)])
frames = st.builds(
    lambda items, name, labels: pd.DataFrame({name: pd.Series(items, dtype=object)}).set_axis(
        labels or range(2)
    ),
    st.lists(cells, min_size=2, max_size=2),
    st.sampled_from(["a", "b", 0, 1, ("a", 0)]),
    labels,
)
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
    times,
    flags,
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


def _identity(value: Any):
    """What a key must tell apart, spelt out independently of the encoder."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, np.ndarray):
        if value.dtype == object:
            return "objects", value.shape, tuple(map(_identity, value.ravel()))
        return "array", value.dtype, value.shape, value.tobytes()
    if isinstance(value, pd.DataFrame):
        counted = value.index.equals(pd.RangeIndex(len(value)))
        ranged = isinstance(value.index, pd.RangeIndex) and counted
        axis = None if ranged else tuple(map(_identity, value.index))
        return (
            "frame",
            tuple(map(_identity, value.columns)),
            axis,
            _identity(value.to_numpy(object)),
        )
    if isinstance(value, Flag):
        return type(value), int(value.value)
    if isinstance(value, datetime):
        zone = getattr(value.tzinfo, "key", None)
        fold = value.fold if value.tzinfo is None else 0
        return "datetime", value.replace(tzinfo=None, fold=0), value.utcoffset(), zone, fold
    if isinstance(value, dict):
        return "map", frozenset((_identity(k), _identity(v)) for k, v in value.items())
    if isinstance(value, list | tuple):
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
        times,
        flags,
        arrays,
        frames,
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
        canonical(type(f"Made{number}", (int,), {})(1))
    assert canonical({"a": 1}).hex() == "81a1619101"


def test_rows_of_as_many_names_take_turns():
    namer = Namer()
    rows = [{"a": 1, "b": 2}, {"a": 1, "c": 2}, {"c": 1, "b": 2}, {"a": 1}, {"b": 1}, {}]
    for row in rows * 3:
        assert namer.name(row) == canonical(row)


def test_a_span_of_pandas_has_the_same_name_after_its_parts_were_read():
    span = pd.Timedelta(1_000_001, "ns")
    before = canonical(span)
    assert span.seconds == 0
    assert canonical(span) == before == canonical(pd.Timedelta(1_000_001, "ns"))


ROWS_ALIKE = st.lists(
    st.fixed_dictionaries(
        {"a": st.floats(), "b": st.one_of(st.integers(), st.text(), st.floats(), st.none())}
    ),
    max_size=6,
)
ODD = st.sampled_from(
    [{"a": 1}, {"a": 1, "c": 2}, {"b": 1, "a": open}, {}, [1], NEGATIVE_NAN, {1: 2}]
)


@given(ROWS_ALIKE, st.lists(st.tuples(st.integers(0, 6), ODD), max_size=2))
def test_rows_named_together_have_the_names_they_have_alone(rows, strangers):
    for at, stranger in strangers:
        rows.insert(at, stranger)
    alone = [_name_or_none(row) for row in rows]
    assert Namer().each(rows) == alone
    assert Namer().each(tuple(rows)) == alone


@given(
    st.lists(st.tuples(st.floats(), st.one_of(st.integers(), st.text(), st.dates())), max_size=6)
)
def test_rows_of_columns_have_the_names_they_have_alone(rows):
    columns = [list(column) for column in zip(*rows, strict=True)] or [[], []]
    assert Namer().rows(["b", "a"], columns) == [canonical({"b": b, "a": a}) for b, a in rows]


def _name_or_none(row):
    try:
        return canonical(row)
    except TypeError:
        return None


@given(st.binary(), st.binary(), st.binary(min_size=1, max_size=64))
def test_digests_are_those_of_the_whole_and_of_blake2b(beginning, rest, secret):
    whole = hashlib.blake2b(beginning + rest, digest_size=16, key=secret).hexdigest()
    name = digests(beginning, secret, "label:")
    assert [name(rest), name(rest)] == [f"label:{whole}"] * 2
    assert digest(beginning + rest, secret) == whole


def test_floats_that_look_like_a_negative_nan_by_chance_are_named_as_ever():
    chance = struct.unpack(">d", bytes.fromhex("3fcbff0000000000"))[0]
    for row in ({"a": chance, "b": 1}, {"a": chance, "b": NEGATIVE_NAN}, {"a": -math.inf, "b": 0}):
        assert Namer().name(row) == canonical(row)


PREIMAGE = (
    "70726f646d6c32"  # the format
    "a473686f70"  # namespace
    "a56672617564"  # function
    "a27631"  # version
    "c400"  # epoch
    "8090"  # other arguments
    "82a3616765a56c6162656c9229a161"  # features
)


def test_the_parts_of_a_preimage_and_its_digest_are_what_they_were():
    features = {"label": "a", "age": 41}
    parts = ["shop", "fraud", "v1", b"", {}, features]
    preimage = FORMAT + b"".join(map(canonical, parts))
    assert preimage.hex() == PREIMAGE
    assert digest(preimage, b"secret of sixteen") == DIGEST
    cache = PredictionCache(namespace="shop", secret="secret of sixteen")
    assert cache.explain(features, "v1", function="fraud").key == f"prodml:{DIGEST}"


DIGEST = "2ecbd098b7998d327d11b78435c0089d"


def test_classes_of_the_program_go_by_its_name(tmp_path):
    program = tmp_path / "serve.py"
    program.write_text(
        "from dataclasses import dataclass\n"
        "from prodml.cache.keys import canonical, home_of\n"
        "@dataclass\nclass Row:\n    age: int\n"
        "print(home_of(Row), canonical(Row(1)).hex())"
    )
    name, written = _run([str(program)]).split()
    assert name == "serve"
    assert _text("serve.Row") in bytes.fromhex(written)
    assert _run(["-m", "serve"], cwd=tmp_path) == f"{name} {written}\n"
    refused = "import serve; serve.Row.__module__ = '__main__'; print(serve.home_of(serve.Row))"
    assert _run(["-c", refused], cwd=tmp_path).split()[-1] == "None"


def test_what_was_typed_into_a_session_has_no_name():
    program = (
        "from enum import Enum\nfrom prodml.cache.keys import canonical\n"
        "class Colour(Enum):\n    RED = 1\n"
        "try:\n    canonical(Colour.RED)\nexcept TypeError as error:\n    print(error)"
    )
    assert "no import leads to this class" in _run(["-c", program])


def test_a_builtin_without_a_module_has_no_home():
    assert home_of([].append) is None


def _run(arguments, cwd=None):
    source = Path(__file__).parents[2] / "src"
    env = {**os.environ, "PYTHONPATH": f"{source}{os.pathsep}{cwd or source}"}
    done = subprocess.run(
        [sys.executable, *arguments], env=env, cwd=cwd, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_why_a_class_has_no_name_is_said():
    with pytest.raises(TypeError, match=r"<locals>.*no import leads to this class"):
        canonical(_local())
    with pytest.raises(TypeError, match=r"Noted: it also holds \['tag'\]"):
        canonical(_with(Noted(a=1), tag=1))


def test_columns_of_any_frame_are_told_by_name_and_value():
    assert columns_of(pd.DataFrame([[1, "a"]])) == ([0, 1], [[1], ["a"]])
    assert columns_of(pl.DataFrame({"a": [1, None]})) == (["a"], [[1, None]])


def test_rows_with_two_equal_names_have_no_key():
    assert Namer().rows(["a", "a"], [[1, 2], [3, 4]]) == [None, None]


def test_rows_go_by_names_of_any_kind():
    assert Namer().rows([0, ("a", 1)], [[1], [2]]) == [canonical({0: 1, ("a", 1): 2})]


def test_rows_of_a_frame_are_named_like_mappings():
    columns = [[1, 2], ["x", object()], [np.float64(0.5), None]]
    first = {"b": 1, "a": "x", "c": 0.5}
    assert Namer().rows(["b", "a", "c"], columns) == [canonical(first), None]


def test_rows_of_an_array_are_named_like_vectors():
    for array in (np.arange(6.0).reshape(3, 2), np.zeros((2, 2), object), np.zeros((0, 3))):
        assert Namer().vectors(array) == [canonical(row) for row in array]


PROBE = """
import datetime, http, json, re, sys, zoneinfo
from prodml.cache.digest import digest
from prodml.cache.keys import canonical
rows = [{"b": [1, {"z": 1, "a": None}], "a": 0.1, "c": {"x", "y", "w"}}, {"é": float("inf")}]
noon = datetime.datetime(2024, 1, 2, 12)
rows += [http.HTTPStatus.OK, re.RegexFlag(3), re.RegexFlag(2**20), 2**70]
rows += [noon, noon.replace(tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")), datetime.timedelta(1)]
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
