"""Where answers come from, and calls that pass the cache by."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from prodml.cache import PredictionCache, Trace, cached_prediction
from prodml.testing import ManualClock
from tests.cache.stores import BulkMemoryStore


class Model:
    """Counts its calls and answers with the number of the call."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, features: object, version: str = "v1") -> int:
        self.calls += 1
        return self.calls


def told(trace: Trace) -> list[tuple[str, bool, bool]]:
    return [(answer.tier, answer.cached, answer.stale) for answer in trace.answers]


def test_a_trace_tells_tier_age_version_and_function() -> None:
    clock = ManualClock()
    cache = PredictionCache(ttl=60.0, jitter=0.0, clock=clock)
    score = cached_prediction(cache, function="score")(Model())

    with cache.trace() as trace:
        assert trace.last is None
        assert score({"a": 1}, "v1") == 1
        clock.advance(7.0)
        assert score({"a": 1}, "v1") == 1

    computed, cached = trace.answers
    assert (computed.function, computed.version, computed.tier, computed.age) == (
        *("score", "v1", ""),
        0.0,
    )
    assert (cached.tier, cached.age, cached.stale, cached.cached) == ("memory", 7.0, False, True)
    assert trace.last is cached


def test_a_trace_tells_the_shared_store_from_memory() -> None:
    store = BulkMemoryStore()
    writer, reader = PredictionCache(store), PredictionCache(store)
    cached_prediction(writer, version="v1", function="f")(Model())({"a": 1})

    read = cached_prediction(reader, version="v1", function="f")(Model())
    with reader.trace() as trace:
        read({"a": 1})
        read({"a": 1})

    assert [answer.tier for answer in trace.answers] == ["store", "memory"]


def test_a_trace_tells_what_is_stale() -> None:
    clock = ManualClock()
    cache = PredictionCache(ttl=10.0, jitter=0.0, early=0.0, stale_if_error=60.0, clock=clock)
    broken = False

    @cached_prediction(cache, version="v1")
    def score(features: object) -> float:
        if broken:
            raise ConnectionError
        return 0.5

    score({"a": 1})
    broken = True
    clock.advance(15.0)
    with cache.trace() as trace:
        assert score({"a": 1}) == 0.5

    assert told(trace) == [("memory", True, True)]
    assert trace.answers[0].age == 15.0


def test_a_trace_tells_who_waited_for_anothers_computation() -> None:
    cache = PredictionCache()
    entered, release = threading.Event(), threading.Event()

    @cached_prediction(cache, version="v1")
    def slow(features: object) -> float:
        entered.set()
        assert release.wait(10)
        return 0.5

    def waiting() -> list[tuple[str, bool, bool]]:
        with cache.trace() as trace:
            slow({"a": 1})
        return told(trace)

    with ThreadPoolExecutor(2) as pool:
        leader = pool.submit(slow, {"a": 1})
        assert entered.wait(10)
        waiter = pool.submit(waiting)
        while not cache._flights._flights or cache.watched is False:
            pass
        release.set()
        assert leader.result() == 0.5
        assert waiter.result() in ([("flight", True, False)], [("memory", True, False)])


def test_a_trace_hears_its_own_context_only() -> None:
    cache = PredictionCache()
    score = cached_prediction(cache, version="v1")(Model())

    async def ask(row: int) -> list[tuple[str, bool, bool]]:
        with cache.trace() as trace:
            score({"row": row})
            await asyncio.sleep(0)
            score({"row": row})
        return told(trace)

    async def main() -> list[list[tuple[str, bool, bool]]]:
        return list(await asyncio.gather(*(ask(row) for row in range(5))))

    with cache.trace() as outside:
        pass
    score({"row": 99})
    both = [("", False, False), ("memory", True, False)]
    assert asyncio.run(main()) == [both] * 5
    assert not outside.answers


def test_traces_nest_and_keep_the_latest_only() -> None:
    cache, other = PredictionCache(), PredictionCache()
    score = cached_prediction(cache, version="v1")(Model())

    with cache.trace() as outer, cache.trace(size=1) as inner, other.trace() as foreign:
        score({"a": 1})
        score({"a": 1})

    assert len(outer.answers) == 2
    assert [answer.tier for answer in inner.answers] == ["memory"]
    assert not foreign.answers
    assert not cache.watched


def test_a_block_is_used_once_at_a_time() -> None:
    trace = PredictionCache().trace()
    with trace, pytest.raises(RuntimeError, match="in use already"):
        trace.__enter__()
    with trace:
        pass


# -- bypass -------------------------------------------------------------------------------


def test_a_bypass_computes_and_keeps_nothing() -> None:
    cache = PredictionCache()
    model = Model()
    score = cached_prediction(cache, version="v1")(model)
    assert score({"a": 1}) == 1

    with cache.bypass():
        assert score({"a": 1}) == 2
        assert score({"a": 1}) == 3
        assert score({"b": 1}) == 4

    assert score({"a": 1}) == 1, "what was kept is still there"
    assert score({"b": 1}) == 5, "nothing was kept"
    assert cache.stats().bypassed == 3


def test_a_bypass_that_keeps_is_a_refresh() -> None:
    store = BulkMemoryStore()
    cache = PredictionCache(store)
    model = Model()
    score = cached_prediction(cache, version="v1", function="f")(model)
    assert score({"a": 1}) == 1

    with cache.bypass(keep=True):
        assert score({"a": 1}) == 2

    assert score({"a": 1}) == 2
    again = cached_prediction(PredictionCache(store), version="v1", function="f")(Model())
    assert again({"a": 1}) == 2


def test_a_bypass_holds_for_its_cache_and_context_only() -> None:
    cache, other = PredictionCache(), PredictionCache()
    score = cached_prediction(cache, version="v1")(Model())
    known = cached_prediction(other, version="v1")(Model())
    score({"a": 1}), known({"a": 1})

    with cache.bypass(), ThreadPoolExecutor(1) as pool:
        assert known({"a": 1}) == 1
        assert pool.submit(score, {"a": 1}).result() == 1, "another thread"
        with cache.bypass(keep=True):
            assert score({"a": 1}) == 2
        assert score({"a": 1}) == 3
    assert score({"a": 1}) == 2


def test_a_bypass_reaches_into_tasks() -> None:
    cache = PredictionCache()
    calls = 0

    @cached_prediction(cache, version="v1")
    async def score(features: object) -> int:
        nonlocal calls
        calls += 1
        return calls

    async def main() -> list[int]:
        first = await score({"a": 1})
        with cache.bypass():
            both = await asyncio.gather(score({"a": 1}), score({"a": 1}))
        return [first, *both, await score({"a": 1})]

    assert asyncio.run(main()) == [1, 2, 3, 1]


def test_a_block_that_has_ended_holds_no_more_in_tasks_that_outlive_it() -> None:
    cache = PredictionCache()
    score = cached_prediction(cache, version="v1")(Model())
    score({"a": 1})

    async def main() -> tuple[int, int]:
        ended = asyncio.Event()

        async def outlive() -> int:
            await ended.wait()
            return score({"a": 1})

        with cache.bypass(), cache.trace() as over:
            task = asyncio.ensure_future(outlive())
            await asyncio.sleep(0)
        with cache.trace():
            ended.set()
            return await task, len(over.answers)

    assert asyncio.run(main()) == (1, 0)


def test_get_and_set_do_what_they_always_do() -> None:
    cache = PredictionCache()
    with cache.bypass():
        assert cache.set({"a": 1}, "v1", 0.5)
        assert cache.get({"a": 1}, "v1") == 0.5


# -- batches ------------------------------------------------------------------------------


def _batch(cache, **settings):
    calls = []

    @cached_prediction(cache, version="v1", batch=True, function="s", **settings)
    def many(rows: list[dict[str, int]]) -> list[int]:
        calls.append(len(rows))
        return [row["x"] + 100 * len(calls) for row in rows]

    return many, calls


def test_a_trace_tells_of_each_row_of_a_batch() -> None:
    clock = ManualClock()
    cache = PredictionCache(BulkMemoryStore(), clock=clock)
    many, _ = _batch(cache)
    many([{"x": 1}])
    clock.advance(5.0)
    with cache.trace() as trace:
        assert many([{"x": 1}, {"x": 2}, {"x": 2}]) == [101, 202, 202]
    assert [(answer.tier, answer.age) for answer in trace.answers] == [
        ("memory", 5.0),
        ("", 0.0),
        ("flight", 0.0),
    ]


def test_a_trace_tells_the_rows_that_the_store_had() -> None:
    clock, store = ManualClock(), BulkMemoryStore()
    many, _ = _batch(PredictionCache(store, clock=clock))
    many([{"x": 1}, {"x": 2}])
    clock.advance(5.0)
    cache = PredictionCache(store, clock=clock)
    again, calls = _batch(cache)
    with cache.trace() as trace:
        assert again([{"x": 1}, {"x": 2}, {"x": 3}]) == [101, 102, 103]
    assert [(answer.tier, answer.age) for answer in trace.answers] == [
        *(("store", 5.0), ("store", 5.0)),
        ("", 0.0),
    ]
    assert calls == [1]


def test_a_bypassed_batch_computes_all_its_rows() -> None:
    cache = PredictionCache()
    many, calls = _batch(cache)
    many([{"x": 1}])
    with cache.bypass():
        assert many([{"x": 1}, {"x": 2}, {"x": 2}]) == [201, 202, 202]
    assert many([{"x": 1}]) == [101]
    with cache.bypass(keep=True):
        assert many([{"x": 1}, {"x": 3}]) == [301, 303]
    assert many([{"x": 3}, {"x": 1}]) == [303, 301]
    assert calls == [1, 3, 2]
    assert cache.stats().bypassed == 5
