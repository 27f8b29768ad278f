"""Nearly equal calls: of hundreds of thousands of pairs none shares an answer wrongly.

Calls come in clusters of a call and its near relatives: ``1`` in place of ``True``, another
name, a name less, the same values in another order.  All pairs of a cluster are compared by
:func:`alike`, which is written without any thought of bytes, and asked of the decorated
function several times, so that the short way to memory answers too.  Two calls must get the
same answer exactly when they are alike: a wrong hit is the answer of another, a wrong miss
costs a computation.
"""

import enum
import math
import random
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from itertools import combinations, permutations
from typing import Any, Final
from uuid import UUID
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prodml.cache import MISS, PredictionCache, cached_prediction, canonical
from prodml.cache.shortcuts import Shortcuts

SIZE = 12
PAIRS = SIZE * (SIZE - 1) // 2


class Colour(enum.Enum):
    RED = "a"
    ONE = 1


class Level(enum.IntEnum):
    ZERO = 0
    ONE = 1


class Word(enum.StrEnum):
    A = "a"


class Whole(int):
    __slots__ = ()


class Text(str):
    __slots__ = ()


BERLIN = ZoneInfo("Europe/Berlin")
NOON = datetime(2024, 1, 2, 12)
NS = pd.Timestamp(NOON)
PAYLOAD = np.array([0x7FF8000000000001], "u8").view("f8")[0].item()

# Of each family the members are easily taken for one another.
FAMILIES: list[list[Any]] = [
    [
        *(1, True, 1.0, "1", b"1", 2, -1, 1.0000000000000002, Whole(1), Level.ONE, Colour.ONE),
        *(np.int64(1), np.int8(1), np.uint16(1), np.float64(1), np.float32(1), np.bool_(True)),
        *(np.str_("1"), Decimal(1), Decimal("1.0"), Fraction(1), complex(1), [1], (1,), [[1]]),
        *({1}, frozenset({1}), {1: 1}, {"1": 1}, {True: 1}, np.timedelta64(1, "s")),
        *(np.array(1), np.array([1]), np.array([[1]]), np.array([1.0]), np.array([1], "i4")),
    ],
    [
        *(0, False, 0.0, -0.0, None, "", b"", "0", [], (), {}, set(), Level.ZERO, 5e-324),
        *(np.float64(-0.0), np.float32(0.0), np.int32(0), np.bool_(False), Decimal(0)),
        *(Decimal("-0"), [None], [[]], {"": None}, timedelta(0), np.array([]), np.array([], "i8")),
        *("\x00", b"\x00", -5e-324),
    ],
    [
        *(math.nan, -math.nan, PAYLOAD, np.float64("nan"), np.float32("nan"), math.inf, -math.inf),
        *(None, "nan", "NaN", "None", Decimal("NaN"), Decimal("Infinity"), pd.NaT, pd.NA),
        *([math.nan], np.datetime64("NaT", "ns"), np.timedelta64("NaT", "ns"), np.float32("inf")),
        complex("nan"),
    ],
    [
        *("a", "A", "a ", " a", "aa", b"a", bytearray(b"a"), Text("a"), Word.A, Colour.RED),
        *(np.str_("a"), ["a"], {"a"}, {"a": "a"}, "\xe1", "a\u0301", "\ud800", "\udc80"),
        *("\xe1".encode(), "a" * 31, "a" * 32, "a" * 255, "a" * 256, b"a" * 256, "b", "a:1"),
        *(UUID(int=0), str(UUID(int=0))),
    ],
    [
        *(127, 128, -32, -33, 255, 256, 2**31, 2**32, 2**53, 2**53 + 1, float(2**53), 2**63),
        *(2**63 - 1, -(2**63), -(2**63) - 1, 2**64, 2**64 - 1, float(2**64), 2**70, -(2**70)),
        *(np.uint64(2**63), np.int64(-(2**63)), Decimal(2**64), str(2**64), Fraction(2**64)),
        float(2**63),
    ],
    [
        *(NOON, NS, NS + pd.Timedelta(1, "ns"), NS + pd.Timedelta(999, "ns"), NOON.isoformat()),
        *(np.datetime64(NOON, "ns"), np.datetime64(NOON, "us"), np.datetime64(NOON, "s")),
        *(NOON.replace(microsecond=1), NOON.replace(tzinfo=UTC), NOON.replace(tzinfo=BERLIN)),
        *(NOON.replace(tzinfo=ZoneInfo("UTC")), NOON.replace(tzinfo=timezone(timedelta(0)))),
        *(NS.tz_localize("UTC"), NOON.replace(fold=1), NOON.date(), NOON.date().isoformat()),
        *(NOON.time(), timedelta(seconds=1), timedelta(microseconds=10**6)),
    ],
    [
        *(0.1, 0.2, 0.30000000000000004, 0.3, 3.0, "0.1", Decimal("0.1"), Decimal("0.10")),
        *(Fraction(1, 10), np.float32(0.1), np.float64(0.1), float(np.float32(0.1)), 0.1 + 2e-17),
        *(np.float16(0.1), [0.1, 0.2], (0.1, 0.2), [0.2, 0.1], np.array([0.1, 0.2])),
        np.array([0.1, 0.2], "f4"),
    ],
    [
        *([1, 2], (1, 2), [2, 1], [[1], 2], [1, [2]], [1, 2, None], {1, 2}, {1: 2}, {2: 1}),
        *({"1": 2}, np.array([1, 2]), np.array([[1, 2]]), np.array([[1], [2]]), [1.0, 2]),
        *(np.array([1, 2], "u8"), np.array([1, 2], "O"), {"a": {"b": 1}}, {"a": [1]}),
        *(np.array([[1, 2]], "O"), np.array([[1], [2]], "O"), np.array([1.0, 2], "O")),
        *({"a": {"b": [1]}}, {"b": {"a": 1}}, {"a": 1, "b": 2}, {"b": 2, "a": 1}),
        *({"a": 2, "b": 1}, {"a": (1,)}, [True, 2], [Level.ONE, 2]),
    ],
]
# Rows of these have a short way to memory.
SHORT: Final = frozenset({int, float, str, bool, type(None)})
FAMILIES += [
    members
    for family in FAMILIES
    if len(members := [member for member in family if type(member) in SHORT]) > 2
]
NAMES: list[Any] = ["a", "b", "c", "ab", "", "A", "1", Word.A, 1, True, None]
VERSIONS: list[Any] = [*(["v1"] * 8), "v2", "1", 1, True, 1.0, ("v", 1), np.str_("v1")]

Call = tuple[dict[Any, Any], Any, Any]


# -- what is alike ------------------------------------------------------------------------


def alike(one: Any, other: Any) -> bool:
    """Whether nobody but ``is`` can tell one from the other, as the reference page has it."""
    one, other = plain(one), plain(other)
    if type(one) is not type(other):
        return False
    judge = JUDGES.get(type(one))
    return bool(one == other) if judge is None else judge(one, other)


def plain(value: Any) -> Any:
    """Python's value for numpy's scalars and for subclasses that add nothing; lists for tuples."""
    if type(value) in SHORT or isinstance(value, enum.Enum):
        return value
    if isinstance(value, np.generic) and not isinstance(value, np.datetime64 | np.timedelta64):
        value = value.item()
    for base in (pd.Timestamp, bool, int, float, str, bytearray, tuple, frozenset):
        if isinstance(value, base):
            return PLAIN_KINDS.get(base, base)(value)
    return value


def _of_nanoseconds(stamp: pd.Timestamp) -> Any:
    return stamp if stamp.nanosecond else stamp.to_pydatetime()


PLAIN_KINDS: dict[type, Callable[[Any], Any]] = {
    pd.Timestamp: _of_nanoseconds,
    bytearray: bytes,
    tuple: list,
    frozenset: set,
}


def _floats(one: float, other: float) -> bool:
    if math.isnan(one) or math.isnan(other):
        return bits(one) & ~SIGN == bits(other) & ~SIGN
    return one == other and math.copysign(1, one) == math.copysign(1, other)


SIGN = 1 << 63


def bits(value: float) -> int:
    return int(np.array(value, "f8").view("u8"))


def _complex(one: complex, other: complex) -> bool:
    return _floats(one.real, other.real) and _floats(one.imag, other.imag)


def _lists(one: list[Any], other: list[Any]) -> bool:
    return len(one) == len(other) and all(map(alike, one, other))


def _sets(one: set[Any], other: set[Any]) -> bool:
    return len(one) == len(other) and all(any(alike(a, b) for b in other) for a in one)


def _name(name: Any) -> Any:
    return str.__str__(name) if isinstance(name, str) else name


def _mappings(one: Mapping[Any, Any], other: Mapping[Any, Any]) -> bool:
    if len(one) != len(other):
        return False
    pairs = [(_name(name), value) for name, value in other.items()]
    return all(
        any(alike(_name(name), named) and alike(value, found) for named, found in pairs)
        for name, value in one.items()
    )


def _arrays(one: np.ndarray, other: np.ndarray) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    if one.dtype == object:
        return all(map(alike, one.ravel().tolist(), other.ravel().tolist()))
    return bytes(one.data) == bytes(other.data)


def _times(one: datetime, other: datetime) -> bool:
    zones = [getattr(moment.tzinfo, "key", None) for moment in (one, other)]
    folds = [moment.fold for moment in (one, other) if moment.tzinfo is None]
    shown = [moment.isoformat() for moment in (one, other)]
    return zones[0] == zones[1] and len(set(folds)) < 2 and shown[0] == shown[1]


def _of_numpy(one: Any, other: Any) -> bool:
    return one.dtype == other.dtype and one.tobytes() == other.tobytes()


def _decimals(one: Decimal, other: Decimal) -> bool:
    return one.as_tuple() == other.as_tuple()


JUDGES: dict[type, Callable[[Any, Any], bool]] = {
    float: _floats,
    complex: _complex,
    list: _lists,
    set: _sets,
    dict: _mappings,
    np.ndarray: _arrays,
    datetime: _times,
    pd.Timestamp: _times,
    np.datetime64: _of_numpy,
    np.timedelta64: _of_numpy,
    Decimal: _decimals,
    type(pd.NA): lambda one, other: one is other,
    type(pd.NaT): lambda one, other: one is other,
}


# -- calls and their relatives ------------------------------------------------------------


def cluster(rng: random.Random) -> list[Call]:
    """A call and its near relatives."""
    family = rng.choice(FAMILIES)
    names = rng.sample(rng.choice((NAMES, NAMES[:7])), rng.choice((1, 2, 2, 3)))
    calls: list[Call] = [({name: rng.choice(family) for name in names}, "v1", 0.5)]
    while len(calls) < SIZE:
        change = rng.choice(CHANGES)
        calls.append(change(rng, family, *rng.choice(calls)))
    return calls


def other_value(rng: random.Random, family: list[Any], row: Any, version: Any, rest: Any) -> Call:
    name = rng.choice([*row] or ["a"])
    return {**row, name: rng.choice(family)}, version, rest


def other_name(rng: random.Random, _: list[Any], row: Any, version: Any, rest: Any) -> Call:
    old, new = rng.choice([*row] or ["a"]), rng.choice(NAMES)
    return {new if name == old else name: value for name, value in row.items()}, version, rest


def name_less(rng: random.Random, _: list[Any], row: Any, version: Any, rest: Any) -> Call:
    gone = rng.choice([*row] or ["a"])
    return {name: value for name, value in row.items() if name != gone}, version, rest


def name_more(rng: random.Random, family: list[Any], row: Any, version: Any, rest: Any) -> Call:
    return {**row, rng.choice(NAMES): rng.choice((None, *family))}, version, rest


def values_swapped(rng: random.Random, _: list[Any], row: Any, version: Any, rest: Any) -> Call:
    values = [*row.values()]
    rng.shuffle(values)
    return dict(zip(row, values, strict=True)), version, rest


def other_order(rng: random.Random, _: list[Any], row: Any, version: Any, rest: Any) -> Call:
    return dict(rng.sample([*row.items()], len(row))), version, rest


def nested(rng: random.Random, _: list[Any], row: Any, version: Any, rest: Any) -> Call:
    name = rng.choice([*row] or ["a"])
    value = row.get(name)
    return {**row, name: rng.choice(([value], (value,), {"a": value}))}, version, rest


def other_version(rng: random.Random, _: list[Any], row: Any, __: Any, rest: Any) -> Call:
    return row, rng.choice(VERSIONS), rest


def other_argument(rng: random.Random, _: list[Any], row: Any, version: Any, __: Any) -> Call:
    return row, version, rng.choice((0.5, np.float64(0.5), "0.5", None, 1, True))


CHANGES: list[Callable[..., Call]] = [
    *(other_value, other_value, other_value, other_name, name_less, name_more),
    *(values_swapped, other_order, nested, other_version, other_argument),
]


# -- the check ----------------------------------------------------------------------------


class Scene:
    """A cached function whose every computation has an answer of its own."""

    def __init__(self) -> None:
        self.cache = PredictionCache(memory="1 GiB", ttl=None)
        self.computed = 0
        # Whoever got an answer first, in whatever cluster.
        self.owners: dict[int, Call] = {}

        @cached_prediction(self.cache, function="f")
        def one(features: Any, version: Any, rest: Any = 0.5) -> Any:
            self.computed += 1
            return self.computed

        @cached_prediction(self.cache, function="f", batch=True)
        def many(rows: Any, version: Any, rest: Any = 0.5) -> list[Any]:
            self.computed += len(rows)
            return [self.computed - at for at in range(len(rows))]

        self.one, self.many = one, many

    def ask(self, calls: Iterable[Call]) -> list[int]:
        # Calls that leave the last argument out are those that have a short way.
        return [self.one(*(call[:2] if type(call[2]) is float else call)) for call in calls]

    def wrong(self, calls: list[Call]) -> list[tuple[Call, Call]]:
        """Pairs that share an answer and are not alike, or the other way round."""
        answers = self.ask(calls)
        # Computed, then found the long way, then the short one, after others of their shape.
        assert self.ask(calls) == answers
        assert self.ask(reversed(calls)) == answers[::-1]
        self._check_batch(calls, answers)
        owned = [(self.owners.setdefault(a, c), c) for a, c in zip(answers, calls, strict=True)]
        pairs = combinations(zip(calls, answers, strict=True), 2)
        return [pair for pair in owned if not alike(*pair)] + [
            (one, other)
            for (one, mine), (other, theirs) in pairs
            if (mine == theirs) != alike(one, other)
        ]

    def _check_batch(self, calls: list[Call], answers: list[int]) -> None:
        """The rows of one version and argument, all at once, have the answers they had alone."""
        shared = calls[0][1:]
        alone = {at: call[0] for at, call in enumerate(calls) if alike(call[1:], shared)}
        # What a batch answers in must be known before it can use what single rows have left.
        self.many([{"any": "row"}], *shared)
        assert self.many([*alone.values()], *shared) == [answers[at] for at in alone]


@pytest.fixture
def short_ways(monkeypatch):
    """Counts the answers that were found the short way."""
    found, made = [0], Shortcuts.__init__

    def counting(self: Shortcuts, *args: Any) -> None:
        made(self, *args)
        known = self.known

        def counted(args: tuple[Any, ...]) -> Any:
            value = known(args)
            found[0] += value is not MISS
            return value

        self.known = counted

    monkeypatch.setattr(Shortcuts, "__init__", counting)
    return found


def _confused(count: int, seed: int, short_ways: list[int]) -> list[tuple[Call, Call]]:
    """Wrong pairs among ``count``, of which many are alike and all are nearly so."""
    rng, scene, calls = random.Random(seed), Scene(), -(-count // PAIRS) * SIZE
    wrong = [pair for _ in range(0, calls, SIZE) for pair in scene.wrong(cluster(rng))]
    stats = scene.cache.stats()
    assert stats.evictions == stats.uncacheable == 0
    assert calls * 0.5 < scene.computed < calls * 0.9, "neither all alike nor all different"
    assert short_ways[0] > calls * 0.2, "hardly any took the short way"
    return wrong


@pytest.mark.parametrize("seed", range(4))
def test_of_a_hundred_thousand_near_pairs_none_is_confused(seed, short_ways):
    assert _confused(25_000, seed, short_ways) == []


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(4, 8))
def test_of_a_million_near_pairs_none_is_confused(seed, short_ways):
    assert _confused(250_000, seed, short_ways) == []


family_rows = st.sampled_from(FAMILIES).flatmap(
    lambda family: st.lists(
        st.tuples(
            st.dictionaries(st.sampled_from(NAMES), st.sampled_from(family), max_size=3),
            st.sampled_from(VERSIONS),
            st.sampled_from([0.5, 0.5, "0.5", None]),
        ),
        min_size=2,
        max_size=8,
    )
)


@settings(deadline=None)
@given(family_rows)
def test_relatives_that_hypothesis_finds_are_not_confused(calls):
    assert Scene().wrong(calls) == []


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: repr(family[0]))
def test_members_of_a_family_have_one_key_exactly_if_they_are_alike(family):
    for one, other in permutations(family, 2):
        assert (canonical(one) == canonical(other)) == alike(one, other), (one, other)
        assert (canonical({"x": one}) == canonical({"x": other})) == alike(one, other)
