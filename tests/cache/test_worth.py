"""Warming, explaining, and what a cache is worth."""

import asyncio
import threading

import numpy as np
import pytest

from prodml.cache import PredictionCache, cached_prediction
from prodml.cache.larger import FACTORS, Larger
from prodml.cache.memory import Memory
from prodml.errors import BadConfiguration
from prodml.testing import ManualClock
from prodml.types import MISS
from tests.cache.stores import BulkMemoryStore, DeadStore, LeasingStore

ROWS = [{"a": number} for number in range(5)]


def _decorated(cache, **settings):
    calls = []

    @cached_prediction(cache, **settings)
    def score(features, model_version, threshold=0.5):
        calls.append(features)
        return features["a"] > threshold

    return score, calls


# -- warm ---------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [None, 2, 100])
@pytest.mark.parametrize("store", [None, BulkMemoryStore, LeasingStore])
def test_warmed_rows_are_answers_of_the_function(batch, store):
    cache = PredictionCache(store and store())
    score, calls = _decorated(cache)
    assert score(ROWS[0], "v2") is False

    def compute(rows):
        return rows["a"] > 0.5 if batch is None else [row["a"] > 0.5 for row in rows]

    warmed = cache.warm(ROWS, "v2", compute, function=score, batch=batch)

    assert (warmed.computed, warmed.present, warmed.failed, warmed.uncacheable) == (4, 1, 0, 0)
    assert warmed.rows == len(ROWS)
    assert [score(row, "v2") for row in ROWS] == [False, True, True, True, True]
    assert len(calls) == 1


def test_warming_is_for_one_version_function_and_set_of_arguments():
    cache = PredictionCache()
    score, _ = _decorated(cache)
    cache.warm(ROWS, "v2", lambda row: "warm", function=score, arguments={"threshold": 0.9})
    assert score(ROWS[1], "v2", 0.9) == "warm"
    assert score(ROWS[1], "v2", threshold=0.9) == "warm"
    assert [score(ROWS[1], "v2"), score(ROWS[1], "v1", 0.9)] == [True, True]


def test_rows_that_fail_do_not_stop_the_others():
    cache = PredictionCache()

    def compute(row):
        return 1 / row["a"]

    warmed = cache.warm([*ROWS, {"f": print}], "v1", compute, function="f")
    assert (warmed.computed, warmed.failed, warmed.uncacheable) == (4, 1, 1)
    assert isinstance(warmed.error, ZeroDivisionError)
    assert cache.get({"a": 2}, "v1", function="f") == 0.5


def test_a_batch_of_the_wrong_length_is_no_answer():
    cache = PredictionCache()
    warmed = cache.warm(ROWS, "v1", lambda rows: [1], function="f", batch=5)
    assert (warmed.computed, warmed.failed) == (0, 5)
    assert str(warmed.error) == "1 answers for 5 rows"
    assert cache.get(ROWS[0], "v1", function="f") is MISS


def test_warming_is_awaited_with_an_asynchronous_model():
    cache = PredictionCache()

    async def compute(row):
        await asyncio.sleep(0)
        return row["a"]

    warmed = asyncio.run(cache.awarm(ROWS, "v1", compute, function="f"))
    assert warmed.computed == 5
    assert cache.get(ROWS[3], "v1", function="f") == 3


def test_rounded_functions_are_warmed_as_they_are_asked():
    cache = PredictionCache()

    @cached_prediction(cache, version="v1", round={"a": 0}, audit=0.0)
    def score(features):
        raise AssertionError("warm")

    assert cache.warm([{"a": 1.25}], "v1", lambda row: row["a"], function=score).computed == 1
    assert score({"a": 0.75}) == 1.25
    assert cache.get({"a": 1.0}, "v1", function=score) == 1.25
    assert cache.explain({"a": 0.9}, "v1", function=score).tier == "memory"


# -- entries of a function ----------------------------------------------------------------


def test_entries_of_a_function_with_other_arguments_are_found_by_it():
    cache = PredictionCache()
    score, _ = _decorated(cache)
    score(ROWS[1], "v1")
    score(ROWS[1], "v1", 0.9)
    assert cache.get(ROWS[1], "v1", function=score) is True
    assert cache.get(ROWS[1], "v1", function=score, arguments={"threshold": 0.5}) is True
    assert cache.get(ROWS[1], "v1", function=score, arguments={"threshold": 0.7}) is MISS
    assert cache.explain(ROWS[1], "v1", function=score, arguments={"threshold": 0.9}).tier
    assert cache.set(ROWS[1], "v1", "mine", function=score, arguments={"threshold": 0.7})
    assert score(ROWS[1], "v1", 0.7) == "mine"


def test_other_arguments_need_the_function_itself():
    cache = PredictionCache()
    with pytest.raises(BadConfiguration, match="decorated function"):
        cache.get(ROWS[0], "v1", function="score", arguments={"threshold": 0.5})
    with pytest.raises(BadConfiguration, match="decorated function"):
        cache.explain(ROWS[0], "v1", function="score", arguments={"threshold": 0.5})


# -- explain ------------------------------------------------------------------------------


def test_explain_looks_into_the_store_and_counts_neither_hit_nor_miss():
    store = BulkMemoryStore()
    PredictionCache(store).set(ROWS[0], "v1", 0.5)
    cache = PredictionCache(store, memory=None)
    told = cache.explain(ROWS[0], "v1")
    assert (told.tier, told.reason) == ("store", "kept")
    assert asyncio.run(cache.aexplain(ROWS[0], "v1")).tier == "store"
    assert (cache.stats().hits, cache.stats().misses) == (0, 0)


def test_explain_tells_that_the_store_is_away():
    cache = PredictionCache(DeadStore())
    cache.get(ROWS[0], "v1")
    assert cache.explain(ROWS[0], "v1").reason == "not in memory, and the store is away"


def test_explain_tells_of_a_remembered_failure():
    cache = PredictionCache(negative_ttl=60.0)

    @cached_prediction(cache, version="v1")
    def score(features):
        raise ConnectionError("away")

    with pytest.raises(ConnectionError):
        score(ROWS[0])
    told = cache.explain(ROWS[0], "v1", function=score)
    assert told.reason == "computing it failed: ConnectionError('away')"


# -- worth --------------------------------------------------------------------------------


def test_worth_weighs_saved_model_time_against_time_spent_looking():
    clock = ManualClock()
    cache = PredictionCache(clock=clock)

    @cached_prediction(cache, version="v1")
    def score(features):
        clock.advance(0.25)
        return 0.5

    for _ in range(10):
        for row in ROWS:
            score(row)
    worth = cache.worth()
    assert (worth.hits, worth.hit_ratio) == (45, 0.9)
    assert worth.saved_seconds == 45 * 0.25
    assert worth.spent_seconds == 0.0
    assert worth.pays
    assert str(worth).startswith("saved 11.2 s of model time for 0 s of looking up: 90 % of")
    assert worth.to_dict()["larger"] == {f"{factor:g}": 0.9 for factor in FACTORS}


def test_looking_up_is_timed_with_a_real_clock():
    cache = PredictionCache(BulkMemoryStore())
    score, _ = _decorated(cache)
    for number in range(64):
        score({"a": number}, "v1")
    assert 0.0 < cache.worth().spent_seconds < 60.0
    assert not PredictionCache().worth().pays


@pytest.mark.parametrize("capacity", [100, 300])
def test_the_hit_ratio_of_a_larger_memory_is_foretold(capacity):
    """The estimate against the same trace replayed with the larger memory."""
    trace = np.random.default_rng(7).zipf(1.2, size=40_000) % 5_000
    bytes_each = 8 + 33 + 24 + 540

    def replay(size):
        memory = Memory(size * bytes_each)
        memory.larger = Larger(memory.capacity, every=1)
        hits = 0
        for number in trace.tolist():
            key = number.to_bytes(8, "big")
            if memory.find(key, 0.0) is None:
                memory.put(key, 0.5, encoded=False, now=0.0, expires=1.0)
            else:
                hits += 1
        return hits, memory

    hits, memory = replay(capacity)
    for factor in (1.5, 2.0, 4.0):
        real, _ = replay(int(capacity * factor))
        told = hits + memory.larger.hits()[factor]
        assert abs(told - real) / len(trace) < 0.04, (factor, hits, told, real)
        assert told > hits


def test_what_is_remembered_of_the_expelled_is_bounded():
    larger = Larger(1000, every=1)
    for number in range(10_000):
        larger.expelled(number.to_bytes(8, "big"), 100)
    assert len(larger._gone) <= 71


def test_look_ups_and_expulsions_of_many_threads_do_not_disturb_each_other() -> None:
    larger, broken = Larger(10_000, every=1), []

    def work(seed: int) -> None:
        try:
            for number in range(3000):
                key = (number * seed % 97).to_bytes(2, "big")
                larger.expelled(key, 300)
                larger.missed(key)
        except Exception as error:
            broken.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (1, 3, 5, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert broken == []
