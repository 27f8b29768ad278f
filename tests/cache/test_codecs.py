import math
import pickle
import uuid
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prodml.cache.codecs import Codec, Sealed, atomic, open_envelope, seal
from prodml.errors import CorruptRecord

CODEC = Codec()
SECRET = b"sixteen bytes..."

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
def test_an_array_comes_back_with_dtype_and_shape_and_may_be_written_to(array):
    back = CODEC.decode(CODEC.encode({"y": array}))["y"]
    assert back.dtype == array.dtype
    assert back.flags.writeable
    np.testing.assert_array_equal(back, array)


SCALARS = [np.float64(0.5), np.float32(0.1), np.int64(-3), np.bool_(True), np.str_("a")]


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
    with pytest.raises(CorruptRecord):
        open_envelope("k", pickle.dumps(Bomb()), SECRET)
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
    [1, 2, 3],
    "text",
]


@pytest.mark.parametrize("parts", HOSTILE)
@pytest.mark.parametrize("code", [20, 21, 22, 99])
def test_a_forged_array_is_corrupt(parts, code):
    from msgspec.msgpack import Ext, encode

    with pytest.raises(CorruptRecord):
        CODEC.decode(encode(Ext(code, encode(parts))))


def test_values_nested_beyond_reason_are_corrupt():
    with pytest.raises(CorruptRecord):
        CODEC.decode(b"\x91" * 100_000 + b"\xc0")


def test_an_envelope_gives_back_what_was_sealed():
    sealed = Sealed(b"body", 1_700_000_000.25, 60.0, 0.5)
    assert open_envelope("k", seal("k", sealed, SECRET), SECRET) == sealed


def test_an_entry_without_end_stays_without_end():
    sealed = Sealed(b"", 0.0, math.inf, 0.0)
    assert open_envelope("k", seal("k", sealed, SECRET), SECRET).ttl == math.inf


@given(st.integers(0, 36), st.integers(1, 255))
def test_a_damaged_envelope_is_corrupt(place, flip):
    envelope = bytearray(seal("k", Sealed(b"body", 0.0, 60.0, 0.5), SECRET))
    envelope[place] ^= flip
    with pytest.raises(CorruptRecord):
        open_envelope("k", bytes(envelope), SECRET)


@pytest.mark.parametrize(("key", "secret"), [("other", SECRET), ("k", b"another secret")])
def test_an_envelope_of_another_key_or_secret_is_corrupt(key, secret):
    envelope = seal("k", Sealed(b"body", 0.0, 60.0, 0.5), SECRET)
    with pytest.raises(CorruptRecord):
        open_envelope(key, envelope, secret)


@given(st.binary(max_size=80))
def test_rubbish_is_no_envelope(rubbish):
    with pytest.raises(CorruptRecord):
        open_envelope("k", rubbish, SECRET)


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
