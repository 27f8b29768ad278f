import gc
import math
import pickle
import struct
import sys
import uuid
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, Flag
from typing import ClassVar, NamedTuple
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prodml.cache.codecs import CustomCodec, ValueCodec, atomic
from prodml.errors import CorruptRecord

CODEC = ValueCodec()

atoms = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    st.binary(max_size=8),
    st.complex_numbers(allow_nan=False),
    st.decimals(allow_nan=False),
    st.datetimes().map(lambda at: at.replace(fold=0)),
    st.datetimes(timezones=st.just(UTC)).map(lambda at: at.replace(fold=0)),
    st.dates(),
    st.times().map(lambda at: at.replace(fold=0)),
    st.timedeltas(),
    st.uuids(),
)
answers = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.one_of(st.text("ab"), st.integers()), inner, max_size=3),
        st.sets(atoms, max_size=3),
        st.frozensets(atoms, max_size=3),
    ),
    max_leaves=6,
)


def _types(value):
    inner = value.values() if isinstance(value, dict) else value
    deep = isinstance(value, list | tuple | dict)
    return type(value), [_types(item) for item in inner] if deep else None


@given(answers)
def test_a_value_comes_back_equal_and_of_the_same_type(value):
    back = CODEC.decode(CODEC.encode(value))
    assert back == value
    assert _types(back) == _types(value)


ARRAYS = [
    np.arange(6.0).reshape(2, 3),
    np.arange(6, dtype=">i4"),
    np.array([True, False]),
    np.array(["a", "bcd"]),
    np.array([b"a", b"b"]),
    np.array(["2024-01-01", "NaT"], dtype="M8[ns]"),
    np.array([1, 2], dtype="m8[s]"),
    np.array([1j, 2]),
    np.zeros((0, 3)),
    np.array(1.5),
    np.array(["a", None, 3, [1]], dtype=object),
]


@pytest.mark.parametrize("array", ARRAYS, ids=[str(array.dtype) for array in ARRAYS])
@pytest.mark.parametrize(
    "wrap",
    [lambda a: a, lambda a: {"x": "odd", "y": a}, lambda a: (b"\0", [{1: a}, a])],
    ids=["alone", "in a mapping", "twice and deep"],
)
def test_an_array_comes_back_with_dtype_and_shape_aligned_and_read_only(array, wrap):
    found = []

    def collect(value):
        if isinstance(value, np.ndarray):
            found.append(value)
        elif isinstance(value, list | tuple | dict):
            for item in value.values() if isinstance(value, dict) else value:
                collect(item)

    collect(CODEC.decode(CODEC.encode(wrap(array))))
    assert found
    for back in found:
        assert (back.dtype, back.shape) == (array.dtype, array.shape)
        assert back.flags.aligned
        assert not back.flags.writeable
        np.testing.assert_array_equal(back, array)


def test_elements_are_not_copied():
    array = np.arange(1000.0)
    body = CODEC.encode([array[::2], array])
    whole = np.frombuffer(body, "u1")
    one, two = CODEC.decode(body)
    assert np.shares_memory(one, whole)
    assert np.shares_memory(two, whole)
    np.testing.assert_array_equal(one, array[::2])
    np.testing.assert_array_equal(
        CODEC.decode(CODEC.encode(array.reshape(10, 100).T))[:, 0], array[:100]
    )
    with pytest.raises(ValueError, match="WRITEABLE"):
        one.flags.writeable = True


def test_a_decoded_array_keeps_nothing_alive_but_its_body():
    body = CODEC.encode({"y": np.arange(100.0), "z": [np.ones(3)]})
    count = sys.getrefcount(body)
    gc.disable()
    try:
        back = CODEC.decode(body)
        assert sys.getrefcount(body) > count
        del back
        assert sys.getrefcount(body) == count
    finally:
        gc.enable()


SCALARS = [np.float64(0.5), np.float32(0.1), np.int64(-3), np.bool_(True), np.str_("a")]
SCALARS += [np.str_(""), np.bytes_(b""), np.complex64(1j)]


@pytest.mark.parametrize("scalar", [*SCALARS, np.datetime64("2024-01-01", "D")])
def test_a_numpy_scalar_comes_back_as_one(scalar):
    back = CODEC.decode(CODEC.encode(scalar))
    assert back == scalar
    assert type(back) is type(scalar)


def test_nan_and_infinities_survive():
    back = CODEC.decode(CODEC.encode([math.nan, math.inf, -math.inf]))
    assert math.isnan(back[0])
    assert back[1:] == [math.inf, -math.inf]


class Colour(Enum):
    RED = 1


class Tired(int):
    pass


UNKNOWN = [
    open,
    object(),
    Colour.RED,
    Tired(1),
    [Colour.RED],
    {"a": object()},
    datetime(2024, 1, 1, tzinfo=ZoneInfo("Europe/Paris")),
    datetime(2024, 1, 1, fold=1),
    np.ma.masked_array([1], mask=[1]),
    np.array([(1,)], dtype=[("a", "i4")]),
    np.array([object()], dtype=object),
    "\ud800",
    (item for item in ()),
]


@pytest.mark.parametrize("value", UNKNOWN)
def test_what_would_come_back_as_something_else_is_refused(value):
    with pytest.raises(TypeError):
        CODEC.encode(value)


def test_a_value_that_contains_itself_is_refused():
    loop = []
    loop.append(loop)
    with pytest.raises(TypeError):
        CODEC.encode(loop)


class Bomb:
    fuse: list[str] = []

    def __reduce__(self):
        return Bomb.fuse.append, ("boom",)


def test_a_pickle_is_never_loaded():
    with pytest.raises(CorruptRecord):
        CODEC.decode(pickle.dumps(Bomb()))
    assert Bomb.fuse == []


@given(st.binary(max_size=64))
def test_any_bytes_decode_to_a_value_or_are_corrupt(body):
    try:
        CODEC.decode(body)
    except CorruptRecord:
        return


HOSTILE = [
    ["|O", [1], b"\0" * 8],
    ["<f8", [2**40], b""],
    ["<f8", [-1, -1], b"\0" * 8],
    ["<f999999", [1], b""],
    ["f8, (2**20)f8", [1], b"\0" * 8],
    ["<f8", [1], 0, 8],
    ["<f8", [1], 16, 8],
    ["<f8", [1], 16.0, 8],
    ["|b1", [2], 16, 2],
    ["<U1", [2], 16, 8],
    ["<U1", b"\xff" * 4],
    ["|b1", b"\x02"],
    ["builtins.int", {"a": 1}],
    ["builtins.int", "a"],
    [[-1], [1]],
    [[2], "ab"],
    [1, 2, 3],
    "text",
]


@pytest.mark.parametrize("parts", HOSTILE)
@pytest.mark.parametrize("code", [20, 21, 22, 30, 31, 99])
@pytest.mark.parametrize("head", [b"", struct.pack(">B7xQ", 0xC1, 32) + b"\xff" * 16])
def test_a_forged_extension_is_corrupt(parts, code, head):
    from msgspec.msgpack import Ext, encode

    for nested in (Ext(code, encode(parts)), [Ext(code, encode(parts))]):
        if (code, parts, head[:1]) == (20, ["<f8", [1], 16, 8], b"\xc1"):
            continue
        with pytest.raises(CorruptRecord):
            CODEC.decode(head + encode(nested))


@pytest.mark.parametrize("start", [0, 8, 15, 17, 2**63, 2**64 - 1])
def test_a_value_that_is_not_where_the_head_says_is_corrupt(start):
    body = bytearray(CODEC.encode(np.arange(3.0)))
    body[8:16] = start.to_bytes(8, "big")
    with pytest.raises(CorruptRecord):
        CODEC.decode(bytes(body))


@dataclass(frozen=True)
class Score:
    value: float
    label: str = "churn"
    parts: dict = field(default_factory=dict)
    kind: ClassVar[str] = "score"

    def __post_init__(self):
        if self.value > 1:
            raise ValueError


@dataclass(slots=True)
class Slim:
    score: Score
    note: str | None = None


class Pair(NamedTuple):
    low: float
    high: float


class Row(msgspec.Struct):
    id: int
    score: float = 0.0


class Mood(Flag):
    CALM = 1
    GLAD = 2


RECORDS = ValueCodec(Score, Slim, Pair, Row, Colour, Mood)


@pytest.mark.parametrize(
    "value",
    [
        Score(0.5, parts={"a": (1, None)}),
        Slim(Score(0.25), "note"),
        [Pair(0.1, 0.9), {"x": Row(7, 0.5)}],
        (Colour.RED, Mood.GLAD),
    ],
)
def test_records_named_in_advance_come_back(value):
    back = RECORDS.decode(RECORDS.encode(value))
    assert back == value
    assert _types(back) == _types(value)
    with pytest.raises(TypeError):
        CODEC.encode(value)
    with pytest.raises(CorruptRecord):
        CODEC.decode(RECORDS.encode(value))


def test_a_record_may_hold_arrays():
    back = RECORDS.decode(RECORDS.encode(Score(0.5, parts={"y": np.arange(3.0)})))
    np.testing.assert_array_equal(back.parts["y"], np.arange(3.0))
    assert not back.parts["y"].flags.writeable


class Loaded(msgspec.Struct, dict=True):
    id: int


def _with_more():
    score = Score(0.5)
    object.__setattr__(score, "secret", 1)
    loaded = Loaded(1)
    loaded.more = 2
    return [score, loaded, Mood.CALM | Mood.GLAD, Slim.__new__(Slim)]


@pytest.mark.parametrize("value", _with_more())
def test_a_record_with_more_or_less_than_its_fields_is_refused(value):
    with pytest.raises(TypeError):
        ValueCodec(Score, Slim, Loaded, Mood).encode(value)


def test_another_class_of_the_same_name_is_refused():
    other = dataclass(type("Score", (), {"__annotations__": {"value": float}}))
    with pytest.raises(TypeError):
        RECORDS.encode(other(0.5))


@pytest.mark.parametrize(
    ("code", "parts"),
    [
        (30, ["{}.Score", {"value": 0.5}]),
        (30, ["{}.Score", {"value": 0.5, "label": "", "parts": {}, "__class__": 1}]),
        (30, ["{}.Row", {"id": 1, "scores": 0.5}]),
        (30, ["{}.Colour", {}]),
        (30, ["{}.Score", [0.5]]),
        (31, ["{}.Score", "value"]),
        (31, ["{}.Colour", "__class__"]),
        (31, ["{}.Colour", ["RED"]]),
        (31, ["os.system", "true"]),
    ],
)
def test_a_forged_record_is_corrupt(code, parts):
    from msgspec.msgpack import Ext, encode

    named = [parts[0].format(__name__), parts[1]]
    with pytest.raises(CorruptRecord):
        RECORDS.decode(encode(Ext(code, encode(named))))


class Broken:
    def encode(self, value):
        return value

    def decode(self, body):
        raise KeyError(body)


def test_a_codec_of_ones_own_is_held_to_its_word():
    codec = CustomCodec(Broken())
    assert codec.encode(b"bytes") == b"bytes"
    with pytest.raises(TypeError, match="str instead of bytes"):
        codec.encode("text")
    with pytest.raises(CorruptRecord):
        codec.decode(b"")


def test_values_nested_beyond_reason_are_corrupt():
    with pytest.raises(CorruptRecord):
        CODEC.decode(b"\x91" * 100_000 + b"\xc0")


@pytest.mark.parametrize("value", [1, 0.5, "a", b"a", None, True, 1j, *SCALARS])
def test_values_that_cannot_change_are_atomic(value):
    assert atomic(type(value))


@pytest.mark.parametrize(
    "value",
    [[], {}, (), set(), np.zeros(1), np.zeros(1, "i4,i4")[0], bytearray(), Decimal(1)],
)
def test_all_others_are_copied(value):
    assert not atomic(type(value))


def test_known_types_have_a_stable_format():
    value = {"a": (1, {2}), "d": date(2024, 1, 2), "t": time(1), "e": timedelta(1)}
    assert CODEC.encode([value, uuid.UUID(int=1)]) == CODEC.encode([value, uuid.UUID(int=1)])
    assert CODEC.encode({"a": (1,)}).hex() == "81a161d5019101"


def test_an_integer_too_long_to_be_read_is_refused():
    with pytest.raises(TypeError):
        CODEC.encode(10**5000)


def test_an_array_at_an_odd_place_or_a_tuple_of_no_list_is_corrupt():
    from msgspec.msgpack import Ext, encode

    head = struct.pack(">B7xQ", 0xC1, 48) + bytes(32)
    assert CODEC.decode(head + encode(Ext(20, encode(["<f8", [1], 32, 8])))) == [0.0]
    for bad in (Ext(20, encode(["<f8", [1], 24, 8])), Ext(1, encode("ab")), Ext(4, encode({}))):
        with pytest.raises(CorruptRecord):
            CODEC.decode(head + encode(bad))
