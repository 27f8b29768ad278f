"""Dropping a version on a real server: one command, and no process answers with it after that."""

import asyncio
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from prodml.cache import MISS, PredictionCache, cached_prediction
from prodml.integrations.redis import RedisStore
from tests.servers import Server

pytestmark = pytest.mark.server

# What is promised, and what a loaded machine may add: a process that is not scheduled sees
# nothing, and it asks a server that has to be scheduled, too.
PROMISED, SLACK = 1.0, 0.5
DROPS = 3


def _commands(url: str) -> dict[str, int]:
    """How often the server was asked what since the last time, our own questions left out."""
    with redis.Redis.from_url(url) as client:
        told = client.info("commandstats")
        client.config_resetstat()
    counted = {name.removeprefix("cmdstat_"): told[name]["calls"] for name in told}
    ours = {"info", "config|resetstat", "config", "client|setinfo", "hello", "select"}
    return {name: count for name, count in counted.items() if name not in ours}


def _patient(url: str, timeout: float = 5.0) -> PredictionCache:
    """A cache that a loaded machine does not keep from its server: here 50 ms are soon over."""
    return PredictionCache(RedisStore(url, timeout=timeout))


def _filled(url: str, count: int) -> PredictionCache:
    cache = _patient(url)
    rows = [{"n": n} for n in range(count)]
    assert cache.warm(rows, "v1", lambda rows: [0.5] * len(rows), batch=500).computed == count
    return cache


@pytest.mark.parametrize("keys", [10, 1_000])
def test_a_drop_is_one_command_however_many_keys(private_server, keys):
    url = private_server().url
    cache = _filled(url, keys)
    with redis.Redis.from_url(url) as client:
        assert client.dbsize() == keys + 1, "the entries, and the epoch of their version"
    _commands(url)
    assert cache.drop("v1")
    assert _commands(url) == {"set": 1}
    assert all(cache.get({"n": n}, "v1") is MISS for n in range(keys))
    cache.close()


@pytest.mark.parametrize("keys", [10, 1_000])
def test_a_drop_from_a_task_is_one_command_too(private_server, keys):
    url = private_server().url
    filled = _filled(url, keys)

    async def main() -> tuple[bool, dict[str, int]]:
        cache = _patient(url)
        assert await cache.aget({"n": 1}, "v1") == 0.5
        _commands(url)
        dropped, asked = await cache.adrop("v1"), _commands(url)
        assert await cache.aget({"n": 1}, "v1") is MISS
        await cache.aclose()
        return dropped, asked

    assert asyncio.run(main()) == (True, {"set": 1})
    filled.close()


# Each asks all the time, in its own way, and tells when it has another answer.
WATCHER = """
    import asyncio, sys, time
    from prodml.cache import PredictionCache, cached_prediction
    from prodml.integrations.redis import RedisStore

    url, way = sys.argv[1:]
    cache = PredictionCache(RedisStore(url, timeout=5.0))
    ROW = {"age": 41, "country": "DE"}

    @cached_prediction(cache, version="v1", function="m")
    def plain(features):
        return time.time()

    @cached_prediction(cache, version="v1", function="m")
    async def awaited(features):
        return time.time()

    @cached_prediction(cache, version="v1", function="m", batch=True)
    def rows(features):
        return [time.time() for _ in features]

    def got():
        return cache.get(ROW, "v1", 0.0, function=plain)

    def say(word):
        sys.stdout.write(f"{word} {time.time()}" + chr(10))
        sys.stdout.flush()

    async def watch(ask):
        last = 0.0
        while not last:
            last = await ask()
        say("ready")
        while True:
            answer = await ask()
            if answer != last:
                # What was only gone is nothing new when another has computed it.
                if last:
                    say("changed")
                last = answer
            time.sleep(0.001)

    async def plainly():
        return {"plain": lambda: plain(ROW), "get": got, "rows": lambda: rows([ROW])[0]}[way]()

    asyncio.run(watch((lambda: awaited(ROW)) if way == "awaited" else plainly))
"""


@pytest.fixture
def watching(redis_url) -> Iterator[Callable[[str], "subprocess.Popen[str]"]]:
    """Starts processes that watch an entry."""
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    started: list[subprocess.Popen[str]] = []

    def start(way: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", textwrap.dedent(WATCHER), redis_url, way]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _next(process: "subprocess.Popen[str]") -> tuple[str, float]:
    assert process.stdout is not None
    word, at = process.stdout.readline().split()
    return word, float(at)


def test_other_processes_see_a_drop_within_a_second(redis_url, watching):
    processes = [watching(way) for way in ("plain", "awaited", "rows", "get")]
    assert {_next(process)[0] for process in processes} == {"ready"}
    cache, slowest = _patient(redis_url), 0.0
    for number in range(DROPS):
        # At another moment of their second each time.
        time.sleep(0.4 * number)
        assert cache.drop("v1")
        dropped = time.time()
        for process in processes:
            word, at = _next(process)
            assert word == "changed"
            slowest = max(slowest, at - dropped)
    cache.close()
    assert slowest <= PROMISED + SLACK


def test_this_process_sees_its_drop_at_once(redis_url):
    cache, version = _patient(redis_url), ["old"]
    seen: list[tuple[float, float, str]] = []
    over = threading.Event()

    @cached_prediction(cache, version="v1", function="m")
    def predict(features: dict[str, int]) -> str:
        return version[0]

    def ask() -> None:
        while not over.is_set():
            began = time.monotonic()
            answer = predict({"n": 1})
            seen.append((began, time.monotonic(), answer))

    assert predict({"n": 1}) == "old"
    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    version[0], dropping = "new", time.monotonic()
    assert cache.drop("v1")
    dropped = time.monotonic()
    time.sleep(0.1)
    over.set()
    for thread in threads:
        thread.join()
    cache.close()
    assert {answer for _, ended, answer in seen if ended < dropping} == {"old"}
    assert {answer for began, _, answer in seen if began > dropped} == {"new"}


def _refuses_writes(server: Server, *, does: bool) -> None:
    with redis.Redis.from_url(server.url) as client:
        client.config_set("maxmemory", int(does))


@pytest.mark.parametrize("outage", ["stalled", "full"])
def test_a_drop_during_an_outage_is_told_when_it_is_over(private_server, outage):
    server = private_server("--maxmemory-policy", "noeviction")
    here, there = _patient(server.url, 0.5), _patient(server.url, 0.5)
    here.set({"n": 1}, "v1", "old")
    assert there.get({"n": 1}, "v1") == "old"
    server.freeze() if outage == "stalled" else _refuses_writes(server, does=True)
    assert not here.drop("v1"), "the server could not be told"
    assert here.get({"n": 1}, "v1") is MISS
    server.thaw() if outage == "stalled" else _refuses_writes(server, does=False)
    ends = time.monotonic() + 10.0
    while there.get({"n": 1}, "v1") is not MISS:
        assert here.get({"n": 1}, "v1") is MISS
        assert time.monotonic() < ends
        time.sleep(0.02)
    here.close()
    there.close()
