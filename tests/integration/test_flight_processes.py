"""One computation for all processes that share a Redis, whatever becomes of the leader."""

import asyncio
import os
import select
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from pathlib import Path

import pytest
import redis

from prodml.cache import PredictionCache, cached_prediction
from prodml.integrations.redis import AsyncRedisStore, RedisStore

pytestmark = pytest.mark.server

PROCESSES, CALLERS, COMPUTING = 4, 12, 0.5

# Begins at the moment given; half of the callers are threads, half tasks.  Tells of every
# computation, answer and error as one line.
WORKER = """
    import asyncio, os, sys, threading, time
    from concurrent.futures import ThreadPoolExecutor
    from prodml.cache import PredictionCache, cached_prediction

    url, at, callers, computing, lease, fails = sys.argv[1:7]
    cache = PredictionCache(url, lease=float(lease), early=0.0)
    ROW = {"age": 41}

    def say(*words):
        sys.stdout.write(" ".join(map(str, words)) + chr(10))
        sys.stdout.flush()

    def end():
        if fails == "fails":
            raise ValueError("no")
        return 42

    @cached_prediction(cache, version="v1", function="m")
    def plain(features):
        say("computing", os.getpid(), time.time())
        time.sleep(float(computing))
        return end()

    @cached_prediction(cache, version="v1", function="m")
    async def awaited(features):
        say("computing", os.getpid(), time.time())
        await asyncio.sleep(float(computing))
        return end()

    def told(work):
        try:
            return "answer", work()
        except Exception as error:
            return "error", type(error).__name__

    async def atold():
        try:
            return "answer", await awaited(ROW)
        except Exception as error:
            return "error", type(error).__name__

    async def main(pool):
        tasks = [asyncio.create_task(atold()) for _ in range(half)]
        threads = [pool.submit(told, lambda: plain(ROW)) for _ in range(int(callers) - half)]
        found = await asyncio.gather(*tasks, *map(asyncio.wrap_future, threads))
        await cache.aclose()
        return found

    half = int(callers) // 2
    cache.get({"warm": 1}, "v1")
    say("ready")
    time.sleep(max(0.0, float(at) - time.time()))
    with ThreadPoolExecutor(int(callers)) as pool:
        for found in asyncio.run(main(pool)):
            say(*found, time.time())
    cache.close()
"""


class Group:
    """Some processes that begin at the same moment."""

    def __init__(self, url, *, fails="", lease=2.0, computing=COMPUTING, processes=PROCESSES):
        at = time.time() + 2.5
        env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
        words = [url, at, CALLERS, computing, lease, fails]
        command = [sys.executable, "-c", textwrap.dedent(WORKER), *map(str, words)]
        self.began = at
        self.processes = [
            subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0, env=env)
            for _ in range(processes)
        ]

    def leader(self):
        """Who computes, and when it began; found by its first word."""
        while True:
            ready, _, _ = select.select([p.stdout for p in self.processes], [], [], 20)
            assert ready, "nobody computes"
            for process in self.processes:
                if process.stdout in ready:
                    line = process.stdout.readline().decode().split()
                    if line[:1] == ["computing"]:
                        return process, float(line[2])

    def lines(self):
        """What all have said, split into words."""
        texts = [process.communicate(timeout=60)[0] for process in self.processes]
        return [line.split() for text in texts for line in text.decode().splitlines()]


def _counted(lines):
    return Counter(line[0] if line[0] != "error" else line[1] for line in lines)


def test_a_cold_key_is_computed_once(redis_url):
    group = Group(redis_url)
    lines = group.lines()
    counted = _counted(lines)
    assert counted["computing"] == 1
    assert counted["answer"] == PROCESSES * CALLERS
    last = max(float(line[-1]) for line in lines if line[0] == "answer")
    assert last - group.began < COMPUTING + 1.5


def test_a_failure_is_computed_once_and_reaches_all(redis_url):
    counted = _counted(Group(redis_url, fails="fails").lines())
    assert counted["computing"] == 1
    assert counted["ValueError"] == CALLERS
    assert counted["RememberedFailure"] == (PROCESSES - 1) * CALLERS


def test_work_longer_than_the_lease_is_computed_once(redis_url):
    counted = _counted(Group(redis_url, lease=0.3, computing=1.5).lines())
    assert counted["computing"] == 1
    assert counted["answer"] == PROCESSES * CALLERS


def test_a_killed_leader_holds_nobody_up_beyond_its_lease(redis_url):
    lease = 1.0
    group = Group(redis_url, lease=lease, computing=2.0)
    leader, _ = group.leader()
    time.sleep(0.2)
    killed = time.time()
    leader.send_signal(signal.SIGKILL)
    group.processes.remove(leader)
    leader.wait()
    leader.stdout.close()
    lines = group.lines()
    heirs = [float(line[2]) for line in lines if line[0] == "computing"]
    assert len(heirs) == 1
    # The lease may have been prolonged just before; the rest is the machine's.
    assert heirs[0] - killed < lease + 0.06 + 0.5
    assert _counted(lines)["answer"] == (PROCESSES - 1) * CALLERS


def test_at_its_end_a_key_is_renewed_once_for_all_processes(redis_url):
    calls = []

    def predict(features):
        calls.append(1)
        time.sleep(0.1)
        return len(calls)

    caches = [
        PredictionCache(redis_url, ttl=0.5, jitter=0.0, early=0.0, stale=60.0) for _ in range(4)
    ]
    served = [cached_prediction(cache, version="v1", function="m")(predict) for cache in caches]
    assert [each({"n": 1}) for each in served] == [1] * 4
    time.sleep(0.6)
    began = time.monotonic()
    assert [each({"n": 1}) for each in served for _ in range(12)] == [1] * 48
    assert time.monotonic() - began < 0.1
    time.sleep(0.25)
    assert len(calls) == 2
    for cache in caches:
        cache.close()


@pytest.mark.parametrize("what", ["kill", "freeze"])
def test_a_server_that_goes_away_during_a_flight_holds_nobody_up(private_server, what):
    server = private_server()
    group = Group(server.url, computing=1.0)
    group.leader()
    getattr(server, what)()
    counted = _counted(group.lines())
    if what == "freeze":
        server.thaw()
    assert counted["answer"] == PROCESSES * CALLERS
    # Alone, every process computes once for itself; the leader's first word was read above.
    assert counted["computing"] <= PROCESSES - 1


def test_nothing_is_left_in_the_server_but_what_has_an_end(redis_url):
    cache = PredictionCache(redis_url)
    cached_prediction(cache, version="v1", function="m")(lambda row: 1)({"n": 1})
    with redis.Redis.from_url(redis_url) as client:
        kept = [key for key in client.keys("*") if client.pttl(key) > 0]
        assert len(kept) == 1
        assert not [key for key in client.keys("*") if key.endswith(b"#")]
    cache.close()


def test_a_store_prolongs_its_own_leases_only(redis_url):
    store = RedisStore(redis_url)
    assert store.claim("x", "one", 0.5) == (None, True)
    assert store.prolong("x", "one", 30.0)
    assert not store.prolong("x", "two", 60.0)
    with redis.Redis.from_url(redis_url) as client:
        assert 20_000 < client.pttl("x#") <= 30_000
    store.unclaim("x", "one")
    assert not store.prolong("x", "one", 30.0)
    store.close()

    async def main():
        awaited = AsyncRedisStore(redis_url)
        await awaited.claim("y", "one", 0.5)
        told = await awaited.prolong("y", "one", 30.0), await awaited.prolong("y", "two", 30.0)
        await awaited.close()
        return told

    assert asyncio.run(main()) == (True, False)
