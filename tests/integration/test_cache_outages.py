"""A herd of callers and a Redis that refuses, stalls, restarts or is full: right answers, once.

What a cache makes of each outage is in ``test_redis_cache``, herds on a healthy server are in
``test_flight_processes``; here is one during the other.
"""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import redis

from prodml.cache import PredictionCache, cached_prediction
from prodml.integrations.redis import RedisStore
from tests.integration.test_flight_processes import CALLERS, PROCESSES, Group, _counted
from tests.servers import Server

pytestmark = pytest.mark.server

COMPUTING = 0.2


def _fill(server: Server) -> None:
    """Let every command be refused that needs memory; what is there can be read."""
    with redis.Redis.from_url(server.url) as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", 1)


OUTAGES: dict[str, tuple[Callable[[Server], None], Callable[[Server], object]]] = {
    "refused": (Server.kill, lambda server: None),
    "stalled": (Server.freeze, Server.thaw),
    "full": (_fill, lambda server: None),
}
during_outages = pytest.mark.parametrize("outage", OUTAGES)


@pytest.fixture
def begin(private_server):
    """Starts a server; what it gives begins an outage, which ends with the test."""
    server = private_server()
    ends: list[Callable[[Server], object]] = []

    def begin(outage: str) -> None:
        start, end = OUTAGES[outage]
        start(server)
        ends.append(end)

    begin.url = server.url
    yield begin
    for end in ends:
        end(server)


@during_outages
def test_fifty_threads_and_fifty_tasks_compute_a_cold_row_once(begin, outage):
    cache, calls = PredictionCache(begin.url), []
    # An outage finds connections that are there already.
    cache.get({"warm": 1}, "v1")
    warmed = cache.stats().misses
    begin(outage)

    @cached_prediction(cache, version="v1", function="m")
    def plain(features: dict[str, int]) -> int:
        calls.append("thread")
        time.sleep(COMPUTING)
        return features["n"]

    @cached_prediction(cache, version="v1", function="m")
    async def awaited(features: dict[str, int]) -> int:
        calls.append("task")
        await asyncio.sleep(COMPUTING)
        return features["n"]

    async def main(pool: ThreadPoolExecutor) -> list[int]:
        loop = asyncio.get_running_loop()
        threads = [loop.run_in_executor(pool, plain, {"n": 7}) for _ in range(50)]
        answers = await asyncio.gather(*threads, *(awaited({"n": 7}) for _ in range(50)))
        await cache.aclose()
        return answers

    with ThreadPoolExecutor(50) as pool:
        assert asyncio.run(main(pool)) == [7] * 100
    assert len(calls) == 1
    stats = cache.stats()
    assert (stats.misses - warmed, stats.hits) == (1, 99)
    assert stats.store_errors + stats.store_skipped > 0
    cache.close()


@pytest.mark.parametrize("outage", ["refused", "full"])
def test_of_four_processes_each_computes_a_cold_row_once(begin, outage):
    begin(outage)
    counted = _counted(Group(begin.url, computing=COMPUTING).lines())
    assert counted["answer"] == PROCESSES * CALLERS
    # Nothing tells them of each other.
    assert counted["computing"] == PROCESSES


@during_outages
def test_a_failure_during_an_outage_is_computed_once(begin, outage):
    cache, calls = PredictionCache(begin.url), []
    begin(outage)

    @cached_prediction(cache, version="v1", function="m")
    def predict(features: dict[str, int]) -> int:
        calls.append(features)
        time.sleep(COMPUTING)
        raise LookupError("no such row")

    def ask(_: int) -> str:
        try:
            return str(predict({"n": 1}))
        except LookupError as error:
            return type(error).__name__

    with ThreadPoolExecutor(50) as pool:
        assert set(pool.map(ask, range(50))) == {"LookupError"}
    assert len(calls) == 1
    cache.close()


@during_outages
@pytest.mark.parametrize("kind", ["array", "frame", "list"])
def test_batches_are_answered_in_order_by_one_call(begin, outage, kind):
    cache, calls = PredictionCache(begin.url), []
    rows = np.arange(40.0).reshape(20, 2)[[*range(20), 3, 3]]
    containers = {
        "array": rows,
        "frame": pd.DataFrame(rows, columns=["a", "b"]),
        "list": [{"a": a, "b": b} for a, b in rows.tolist()],
    }

    @cached_prediction(cache, version="v1", batch=True)
    def predict(rows):
        calls.append(len(rows))
        return [row["a"] + row["b"] for row in rows] if kind == "list" else rows.sum(axis=1)

    cache.get({"warm": 1}, "v1")
    begin(outage)
    for _ in range(2):
        assert list(predict(containers[kind])) == rows.sum(axis=1).tolist()
    assert calls == [20], "the distinct rows, once; memory has them afterwards"
    cache.close()


def test_calls_go_on_while_the_server_is_killed_and_started_again(private_server):
    server = private_server()
    cache = PredictionCache(server.url, memory=None)
    answers, over = Counter(), threading.Event()

    @cached_prediction(cache, version="v1", function="m")
    def predict(features: dict[str, int]) -> int:
        return features["n"] * 2

    def ask(seed: int) -> None:
        number = seed
        while not over.is_set():
            number = (number * 5 + 3) % 64
            answers[predict({"n": number}) == number * 2] += 1

    async def aask() -> None:
        @cached_prediction(cache, version="v1", function="m")
        async def awaited(features: dict[str, int]) -> int:
            return features["n"] * 2

        number = 1
        while not over.is_set():
            number = (number * 5 + 3) % 64
            answers[await awaited({"n": number}) == number * 2] += 1
        await cache.aclose()

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(3)]
    threads.append(threading.Thread(target=lambda: asyncio.run(aask())))
    for thread in threads:
        thread.start()
    try:
        time.sleep(0.2)
        server.kill()
        time.sleep(0.2)
        server.start()
        _wait_for_hits(cache)
    finally:
        over.set()
        for thread in threads:
            thread.join(30)
    assert set(answers) == {True}
    assert cache.stats().store_errors > 0
    cache.close()


def _wait_for_hits(cache: PredictionCache) -> None:
    """Until the store answers again; a second after its return it is asked again."""
    before, ends = cache.stats().store_hits, time.monotonic() + 20.0
    while cache.stats().store_hits <= before + 10:
        assert time.monotonic() < ends, "the server is back, and nobody asks it"
        time.sleep(0.02)


def test_a_server_that_comes_back_empty_serves_tasks_again(private_server):
    server = private_server()
    cache, calls = PredictionCache(RedisStore(server.url, timeout=1.0), memory=None), []

    @cached_prediction(cache, version="v1")
    async def predict(features: dict[str, int]) -> int:
        calls.append(features["n"])
        return features["n"]

    async def main() -> None:
        await asyncio.gather(*(predict({"n": n}) for n in range(20)))
        server.kill()
        during = [await predict({"n": n}) for n in range(20)]
        server.start()
        await asyncio.sleep(1.1)
        later = [await predict({"n": n}) for _ in range(2) for n in range(21)]
        assert (during, later) == ([*range(20)], [*range(21)] * 2)
        await cache.aclose()

    asyncio.run(main())
    # The first call after the pause finds out that the server is there.
    assert len(calls) <= 20 + 20 + 21 + 1
    assert cache.stats().store_hits >= 20


def test_a_full_server_still_answers_with_what_it_has(private_server):
    server = private_server()
    # A loaded machine must not look like an outage.
    stores = [RedisStore(server.url, timeout=1.0) for _ in range(2)]
    first, second = (PredictionCache(store, memory=None) for store in stores)
    calls = []

    def predict(features: dict[str, int]) -> int:
        calls.append(features["n"])
        return features["n"]

    ask, ask_elsewhere = (
        cached_prediction(cache, version="v1", function="m")(predict) for cache in (first, second)
    )
    assert [ask({"n": n}) for n in range(20)] == [*range(20)]
    _fill(server)
    calls.clear()
    for start in (100, 200):
        # What is new cannot be kept, and what is there is found all the same.
        assert [ask({"n": n}) for n in range(start, start + 5)] == [*range(start, start + 5)]
        assert [ask({"n": n}) for n in range(20)] == [*range(20)]
        assert [ask_elsewhere({"n": n}) for n in range(20)] == [*range(20)]
        time.sleep(1.1)
    assert [n for n in calls if n < 20] == []
    assert first.stats().store_errors > 0
    first.close()
    second.close()
