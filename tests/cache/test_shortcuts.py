"""Shortcuts to answers in memory: never another row's answer, and gone with their entries."""

import asyncio
import datetime
import enum
import math
import struct
import threading
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prodml.cache import PredictionCache, cached_prediction, canonical
from prodml.cache.arguments import Arguments
from prodml.cache.memory import Memory
from prodml.cache.shortcuts import Shortcuts
from prodml.testing import ManualClock
from prodml.types import MISS


class Grade(enum.IntEnum):
    ONE = 1


class Word(enum.StrEnum):
    A = "a"


class Text(str):
    __slots__ = ()


class Number(float):
    __slots__ = ()


def _nan(bits: int) -> float:
    return struct.unpack(">d", struct.pack(">Q", bits))[0]


TRICKY = [
    *(0, 1, -1, 2**31, 2**63, 2**70, -(2**70), 0.0, -0.0, 1.0, math.inf, -math.inf),
    *(_nan(0x7FF8000000000000), _nan(0xFFF8000000000000), _nan(0x7FF8000000000001)),
    *(True, False, None, "", "1", "a", "\udc80", "é", b"", b"1", b"a"),
    *(np.float64(1.0), np.float32(1.0), np.int64(1), np.bool_(True), np.str_("a")),
    *(struct.pack("<d", 1.0), struct.pack("<q", 1), bytearray(b"a"), memoryview(b"a")),
    *(Grade.ONE, Word.A, Text("a"), Number(1.0), Decimal(1), datetime.date(2020, 1, 1)),
    *((1,), [1], (), [], {}, {"a": 1}, (1, 2)),
]
VALUES = st.one_of(
    st.sampled_from(TRICKY), st.integers(), st.floats(), st.text(max_size=3), st.binary(max_size=9)
)
NAMES = st.sampled_from(["a", "b", "c", "aa", ""])
ROWS = st.dictionaries(NAMES, VALUES, min_size=1, max_size=3)


def _name(row: object) -> object:
    try:
        return canonical(row)
    except TypeError:
        return None


@given(st.lists(ROWS, min_size=1, max_size=12))
def test_every_row_gets_the_answer_of_a_row_with_the_same_canonical_bytes(rows):
    answers: dict[object, int] = {}
    count = 0

    def model(features):
        nonlocal count
        count += 1
        return count

    predict = cached_prediction(PredictionCache(), version="v1")(model)
    for row in [*rows, *rows, *rows]:
        answer, name = predict(row), _name(row)
        if name is not None:
            assert answers.setdefault(name, answer) == answer
    assert len(set(answers.values())) == len(answers)


@pytest.mark.parametrize("one", TRICKY, ids=repr)
def test_no_shortcut_leads_from_one_tricky_value_to_another(one):
    shortcuts = _laid(PredictionCache(), x=one, y=1)
    for other in TRICKY:
        try:
            known = shortcuts.known(({"x": other, "y": 1},))
        except (TypeError, ValueError):
            continue
        assert known is MISS or _name({"x": one}) == _name({"x": other})


def test_plain_values_have_shortcuts_and_others_none():
    laid = [one for one in TRICKY if _leads(_laid(PredictionCache(), x=one), one)]
    assert {type(one) for one in laid} == {int, float, bool, str, type(None)}
    assert not any(_leads(_laid(PredictionCache(), x=one), one) for one in (b"a", Text("a")))


def _leads(shortcuts, value):
    try:
        return shortcuts.known(({"x": value},)) is not MISS
    except (TypeError, ValueError):
        return False


def _laid(cache, function="f", version="v1", **row):
    arguments = Arguments(lambda features: None, function=function, versioned=True)
    shortcuts = Shortcuts(cache, arguments, version)
    cache.set(row, version, 0.5, function=function)
    shortcuts.learn(arguments.read((row,), {})._replace(version=version))
    return shortcuts


def test_a_shortcut_counts_hits_as_the_long_way_does():
    cache = PredictionCache()
    predict = cached_prediction(cache, version="v1")(lambda features: 0.5)
    assert [predict({"a": 1}) for _ in range(5)] == [0.5] * 5
    assert (cache.stats().memory_hits, cache.stats().misses) == (4, 1)


def test_the_order_of_names_does_not_matter():
    shortcuts = _laid(PredictionCache(), a=1, b=2)
    assert shortcuts.known(({"b": 2, "a": 1},)) == 0.5
    assert shortcuts.known(({"a": 2, "b": 1},)) is MISS


def test_a_shortcut_ends_with_its_entry():
    clock = ManualClock()
    cache = PredictionCache(ttl=10.0, jitter=0.0, clock=clock)
    shortcuts = _laid(cache, a=1)
    clock.advance(9.9)
    assert shortcuts.known(({"a": 1},)) == 0.5
    clock.advance(0.2)
    assert shortcuts.known(({"a": 1},)) is MISS


def test_a_shortcut_ends_with_its_version():
    cache = PredictionCache()
    shortcuts = _laid(cache, a=1)
    cache.drop("v2")
    assert shortcuts.known(({"a": 1},)) == 0.5
    cache.drop("v1")
    assert shortcuts.known(({"a": 1},)) is MISS


def test_a_renewed_answer_is_not_taken_for_the_old_one():
    cache = PredictionCache()
    shortcuts = _laid(cache, a=1)
    cache.set({"a": 1}, "v1", 0.75, function="f")
    assert shortcuts.known(({"a": 1},)) is MISS, "the long way looks at it first"


def test_shortcuts_make_room_with_their_entries_and_are_counted():
    cache = PredictionCache(memory=4000)
    predict = cached_prediction(cache, version="v1")(lambda features: 0.5)
    for number in range(50):
        before = cache.stats().bytes
        predict({"a": number})
        predict({"a": number})
        assert cache.stats().bytes <= 4000
        assert number or cache.stats().bytes > before
    laid = [entry.shortcut for entry in cache._memory._entries.values() if entry.shortcut]
    tables = {id(table): table for table, _ in laid}
    assert sum(map(len, tables.values())) == len(laid), "none is left of those expelled"


def test_linking_an_entry_that_is_gone_leaves_nothing():
    memory, table = Memory(10_000), {b"short": None}
    memory.put(b"key", 0.5, encoded=False, now=0.0, expires=60.0)
    entry = memory.entry(b"key")
    memory.resize(0, now=0.0)
    memory.link(entry, table, b"short")
    assert (table, memory.used) == ({}, 0)


def test_versions_told_at_each_call_have_lines_of_their_own():
    cache, version, calls = PredictionCache(), "v1", []

    @cached_prediction(cache, version=lambda: version)
    def predict(features):
        calls.append(version)
        return version

    for version in ("v1", "v2", "v1", "v2", "v1"):
        assert [predict({"a": 1}) for _ in range(3)] == [version] * 3
    assert calls == ["v1", "v2"]


def test_answers_are_isolated_from_their_callers():
    predict = cached_prediction(PredictionCache(), version="v1")(lambda features: [0.5])
    for _ in range(4):
        predict({"a": 1}).append("mine")
    assert predict({"a": 1}) == [0.5]


def test_other_arguments_take_the_long_way():
    cache = PredictionCache()

    @cached_prediction(cache, version="v1")
    def predict(features, threshold=0.5):
        return features["a"] > threshold

    assert [predict({"a": 0.6}) for _ in range(3)] == [True] * 3
    assert [predict({"a": 0.6}, 0.9), predict({"a": 0.6}, threshold=0.9)] == [False, False]
    assert predict({"a": 0.6}, threshold=0.5) is True


def test_awaited_functions_take_shortcuts_too():
    cache, calls = PredictionCache(), []

    @cached_prediction(cache, version="v1")
    async def predict(features):
        calls.append(features)
        return 0.5

    async def main():
        return [await predict({"a": 1}) for _ in range(4)]

    assert asyncio.run(main()) == [0.5] * 4
    assert len(calls) == 1


def test_shortcuts_hold_under_renewals_drops_and_evictions_in_many_threads():
    cache = PredictionCache(memory=30_000, ttl=0.05, jitter=0.0)
    wrong, stop = [], threading.Event()

    @cached_prediction(cache, version="v1")
    def predict(features):
        return [features["a"], features["b"]]

    def ask(seed):
        rng = np.random.default_rng(seed)
        while not stop.is_set():
            a, b = (int(number) for number in rng.integers(0, 12, 2))
            if predict({"a": a, "b": b}) != [a, b]:
                wrong.append((a, b))

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(60):
        cache.drop("v1")
        stop.wait(0.01)
    stop.set()
    for thread in threads:
        thread.join(10)
    assert wrong == []
    assert cache.stats().bytes <= 30_000
