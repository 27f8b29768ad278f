import random
import threading
import tracemalloc
from collections import OrderedDict

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prodml.cache.memory import Memory, size_of
from prodml.errors import BadConfiguration


def _put(memory, key, value=0.5, *, now=0.0, expires=1e9, encoded=False):
    return memory.put(key, value, encoded=encoded, now=now, expires=expires)


@pytest.mark.parametrize(
    ("size", "expected"),
    [("64 MiB", 2**26), ("1kB", 1000), ("2 GiB", 2**31), ("10", 10), (5, 5), (0, 0), (None, 0)],
)
def test_sizes_are_numbers_or_text(size, expected):
    assert size_of(size, "memory") == expected


@pytest.mark.parametrize("size", ["much", "", -1, True, 1.5, "5 parsec"])
def test_what_is_no_size_is_refused_by_name(size):
    with pytest.raises(BadConfiguration, match="memory="):
        size_of(size, "memory")


def test_an_entry_ends_with_its_time():
    memory = Memory(10_000)
    _put(memory, b"k", "v", expires=10.0)
    assert memory.find(b"k", 9.999) is not None
    assert memory.find(b"k", 10.0) is None


def test_a_new_value_replaces_the_old_one_and_its_size():
    memory = Memory(100_000)
    _put(memory, b"k", "x" * 1000)
    before = memory.used
    _put(memory, b"k", "y")
    assert memory.find(b"k", 0.0)[0] == "y"
    assert memory.used == before - 999
    assert len(memory) == 1


def test_without_capacity_nothing_is_kept():
    memory = Memory(0)
    assert not _put(memory, b"k")
    assert memory.find(b"k", 0.0) is None


def test_a_value_larger_than_half_is_refused():
    assert not _put(Memory(10_000), b"k", "x" * 5000)


def test_what_was_asked_for_again_outlives_a_flood_of_strangers():
    memory = Memory(50_000)
    _put(memory, b"loved")
    memory.find(b"loved", 0.0)
    for number in range(2000):
        _put(memory, b"%d" % number)
    assert memory.find(b"loved", 0.0) is not None
    assert memory.evictions > 1000


def test_a_comeback_is_taken_for_a_resident():
    memory = Memory(20_000)
    for number in range(60):
        _put(memory, b"%d" % number)
    lost = next(b"%d" % n for n in range(59, -1, -1) if b"%d" % n not in memory._entries)
    _put(memory, lost)
    for number in range(100, 130):
        _put(memory, b"%d" % number)
    assert memory.find(lost, 0.0) is not None


def test_shrinking_lets_go_at_once():
    memory = Memory(50_000)
    for number in range(100):
        _put(memory, b"%d" % number)
    memory.resize(5_000, now=0.0)
    assert memory.used <= 5_000
    memory.resize(0, now=0.0)
    assert len(memory) == 0


def test_expired_entries_get_no_second_chance():
    memory = Memory(20_000)
    for number in range(30):
        _put(memory, b"%d" % number, expires=1.0)
        memory.find(b"%d" % number, 0.0)
    for number in range(100, 160):
        _put(memory, b"%d" % number, now=2.0)
        memory.find(b"%d" % number, 2.0)
    assert not any(b"%d" % number in memory._entries for number in range(30))


operations = st.lists(
    st.tuples(st.integers(0, 30), st.integers(0, 3000), st.booleans()), max_size=200
)


@given(operations)
def test_the_bound_holds_and_a_found_value_is_the_last_one_put(moves):
    memory, last = Memory(12_000), {}
    for number, size, look in moves:
        key = b"%d" % number
        if look:
            found = memory.find(key, 0.0)
            assert found is None or found[0] == last[key]
        else:
            value = bytes(size)
            last[key] = value if _put(memory, key, value) else last.get(key)
        assert memory.used <= 12_000
        assert memory.used == sum(entry.size for entry in memory._entries.values())
        assert len(memory._small) + len(memory._main) == len(memory)


def test_replacing_for_ever_does_not_grow_the_queues():
    memory = Memory(100_000)
    for _ in range(100):
        for number in range(20):
            _put(memory, b"%d" % number)
    assert len(memory._small) + len(memory._main) == 20


def test_the_bytes_it_counts_are_the_bytes_it_takes():
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        memory = Memory(4_000_000)
        for number in range(20_000):
            _put(memory, b"%0200d" % number, float(number), expires=float(number + 10**6))
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert memory.used * 0.7 < taken <= memory.capacity * 1.05


ENCODE = msgspec.msgpack.Encoder().encode


def _grown(make):
    """Share of its budget that a tier takes when it is full of values like these."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        memory, number = Memory(500_000), 0
        while memory.evictions < 8 * len(memory) or not memory.evictions:
            _put(memory, b"%0200d" % number, make(number), encoded=True)
            number += 1
        return (tracemalloc.get_traced_memory()[0] - before) / memory.capacity
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "make",
    [
        lambda n: ENCODE([n + 0.5] * 10),
        lambda n: ENCODE([n + 0.5] * 100),
        lambda n: ENCODE({"label": str(n), "score": n + 0.5}),
        lambda n: bytes(n % 3000),
        lambda n: f"{n} \xe9" * 20,
        lambda n: 10 ** (n % 300),
        lambda n: np.float32(n),
    ],
    ids=["short list", "list", "dict", "bytes", "text", "number", "numpy"],
)
def test_no_kind_of_value_takes_more_than_is_counted(make):
    # An encoder of MessagePack leaves half a kilobyte of room behind what it has written.
    assert 0.7 < _grown(make) <= 1.05


def test_a_renewal_of_the_same_size_takes_no_lock():
    memory = Memory(10_000)
    _put(memory, b"k", b"old")
    with memory._lock:
        assert _put(memory, b"k", b"new", expires=7.0)
    assert memory.find(b"k", 0.0)[0] == b"new"
    assert memory.find(b"k", 7.0) is None


def test_a_shortcut_is_counted_and_goes_with_what_it_leads_to():
    memory, table = Memory(20_000), {b"s": "line"}
    _put(memory, b"k", b"old")
    before = memory.used
    memory.link(memory.entry(b"k"), table, b"s")
    assert memory.used > before
    _put(memory, b"k", b"new")
    assert table == {}
    assert memory.used == before
    table[b"s"] = "line"
    memory.link(memory.entry(b"k"), table, b"s")
    memory.resize(0, now=0.0)
    assert table == {}
    assert memory.used == 0


def test_a_second_shortcut_to_an_entry_is_not_kept():
    memory, table, other = Memory(20_000), {b"s": "line", b"t": "line"}, {b"s": "line"}
    _put(memory, b"k")
    memory.link(memory.entry(b"k"), table, b"s")
    before = memory.used
    memory.link(memory.entry(b"k"), table, b"s")
    memory.link(memory.entry(b"k"), table, b"t")
    memory.link(memory.entry(b"k"), other, b"s")
    assert (table, other, memory.used) == ({b"s": "line"}, {}, before)


def test_shortcuts_stay_within_the_bound():
    memory, table = Memory(20_000), {}
    for number in range(60):
        key = b"%d" % number
        _put(memory, key)
    for key in list(memory._entries):
        entry = memory.entry(key)
        if entry is not None:
            table[key] = "line"
            memory.link(entry, table, key)
    assert 0 < len(table) <= len(memory)
    assert memory.used == sum(entry.size for entry in memory._entries.values()) <= 20_000


def _hit_ratio(cache_of, keys):
    get, put = cache_of
    hits = 0
    for key in keys:
        if get(key):
            hits += 1
        else:
            put(key)
    return hits / len(keys)


def _lru(limit):
    kept = OrderedDict()

    def get(key):
        if key in kept:
            kept.move_to_end(key)
        return key in kept

    def put(key):
        kept[key] = True
        if len(kept) > limit:
            kept.popitem(last=False)

    return get, put


def test_it_keeps_more_of_what_is_asked_for_than_least_recently_used():
    rng = random.Random(0)
    keys = [b"%06d" % int(rng.paretovariate(0.9) * 10) for _ in range(40_000)]
    memory = Memory(300 * 600)
    ours = _hit_ratio((lambda k: memory.find(k, 0.0), lambda k: _put(memory, k)), keys)
    assert ours > _hit_ratio(_lru(len(memory)), keys) + 0.01


def test_threads_may_use_it_at_once():
    memory, wrong = Memory(20_000), []

    def hammer(seed):
        rng = random.Random(seed)
        for _ in range(3000):
            number = rng.randrange(100)
            found = memory.find(b"%d" % number, 0.0)
            if found is None:
                _put(memory, b"%d" % number, number)
            elif found[0] != number:
                wrong.append(number)

    threads = [threading.Thread(target=hammer, args=(seed,)) for seed in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert wrong == []
    assert memory.used == sum(entry.size for entry in memory._entries.values())
