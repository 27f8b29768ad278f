"""The cache in front of real servers: shared, refused, stalled, killed, full."""

import asyncio
import pickle
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fakeredis
import pytest
import redis
import redis.asyncio

from prodml.cache import MISS, PredictionCache, cached_prediction
from prodml.errors import BadConfiguration, StoreUnavailable
from prodml.integrations.redis import AsyncRedisStore, RedisStore
from prodml.stores import open_store
from prodml.testing import check_store

pytestmark = pytest.mark.server

ROW = {"age": 41, "country": "DE"}


class Model:
    def __init__(self):
        self.calls = 0

    def predict(self, features):
        self.calls += 1
        return {"score": features["n"] / 2}


def _predictor(url, **settings):
    cache, model = PredictionCache(url, **settings), Model()
    return cache, model, cached_prediction(cache, version="v1", function="m")(model.predict)


def _answers_as_ever(predict, count=20, start=0):
    began = time.monotonic()
    for number in range(start, start + count):
        assert predict({"n": number}) == {"score": number / 2}
    return time.monotonic() - began


def test_a_redis_store_keeps_the_contract_of_stores(redis_url):
    store = RedisStore(redis_url)
    check_store(lambda: store)
    store.close()


def test_the_bulk_operations_do_what_single_ones_would(redis_url):
    store = RedisStore(redis_url)
    store.set_many({"a": b"1", "b": b"\xff"}, ttl=60.0)
    assert list(store.get_many(["a", "x", "b"])) == [b"1", None, b"\xff"]
    assert store.setdefault("a", b"2") == b"1"
    assert store.setdefault("c", b"3") == b"3"
    assert store.delete("a")
    store.close()


def test_tasks_have_the_same_store(redis_url):
    async def main():
        store = AsyncRedisStore(redis_url)
        await store.set("a", b"1", ttl=60.0)
        await store.set_many({"b": b"2"})
        found = await store.get("a"), await store.get_many(["a", "b", "c"])
        settled = await store.setdefault("a", b"9")
        deleted = await store.delete("a"), await store.delete("a")
        await store.close()
        await store.close()
        return found, settled, deleted

    expected = ((b"1", [b"1", b"2", None]), b"1", (True, False))
    assert asyncio.run(main()) == expected
    store = RedisStore(redis_url)
    assert store.get("b") == b"2"
    store.close()


def test_every_entry_has_an_end(redis_url):
    cache = PredictionCache(redis_url, ttl=60.0)
    cache.set(ROW, "v1", 1)
    with redis.Redis.from_url(redis_url) as client:
        assert 50_000 < client.pttl(cache.explain(ROW, "v1").key) <= 60_000
    cache.close()


def test_processes_share_entries_and_drops(redis_url):
    here = PredictionCache(redis_url)
    there = PredictionCache(redis_url)
    here.set(ROW, "v1", {"score": 0.5})
    assert there.get(ROW, "v1") == {"score": 0.5}
    assert here.drop("v1")
    time.sleep(1.0)
    assert there.get(ROW, "v1") is MISS
    here.close()
    there.close()


OTHER = """
    import sys
    from prodml.cache import PredictionCache
    cache = PredictionCache(sys.argv[1], secret="s")
    assert cache.get({"country": "DE", "age": 41}, "v1") == [0.5, None]
    cache.set({"n": 1}, "v1", "from over there")
"""


def test_another_process_finds_the_same_entry(redis_url):
    cache = PredictionCache(redis_url, secret="s")
    cache.set(ROW, "v1", [0.5, None])
    source = str(Path(__file__).parents[2] / "src")
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(OTHER), redis_url],
        check=True,
        env={"PYTHONPATH": source, "PYTHONHASHSEED": "123"},
    )
    assert cache.get({"n": 1}, "v1") == "from over there"
    cache.close()


def test_threads_and_tasks_share_a_url(redis_url):
    async def main(cache):
        await cache.aset({"n": 1}, "v1", "from a task")
        found = await cache.aget({"n": 2}, "v1")
        await cache.aclose()
        return found

    cache = PredictionCache(redis_url, memory=None)
    cache.set({"n": 2}, "v1", "from a thread")
    assert asyncio.run(main(cache)) == "from a thread"
    assert asyncio.run(main(cache)) == "from a thread"
    assert cache.get({"n": 1}, "v1") == "from a task"
    cache.close()


@pytest.mark.parametrize("decode", [False, True])
@pytest.mark.parametrize("package", [redis, redis.asyncio])
def test_a_client_of_either_colour_lends_its_address(redis_url, package, decode):
    async def main(cache):
        found = await cache.aget(ROW, "v1")
        await cache.aclose()
        return found

    client = package.Redis.from_url(redis_url, decode_responses=decode)
    cache = PredictionCache(client, ttl=3600, memory=None)
    assert cache.set(ROW, "v1", b"\xff")
    assert cache.get(ROW, "v1") == b"\xff"
    assert asyncio.run(main(cache)) == b"\xff"
    cache.close()


def test_a_client_of_valkey_lends_its_address(redis_url):
    valkey = pytest.importorskip("valkey")
    client = valkey.Valkey(connection_pool=valkey.ConnectionPool.from_url(redis_url))
    cache = PredictionCache(client, memory=None)
    assert cache.set(ROW, "v1", 1)
    assert cache.get(ROW, "v1") == 1
    cache.close()


def test_a_stand_in_serves_its_own_colour():
    cache = PredictionCache(fakeredis.FakeRedis(), memory=None)
    cache.set(ROW, "v1", 1)
    assert cache.get(ROW, "v1") == 1

    async def main():
        own = PredictionCache(fakeredis.FakeAsyncRedis(), memory=None)
        await own.aset(ROW, "v1", 2)
        return await own.aget(ROW, "v1"), await cache.aget(ROW, "v1")

    assert asyncio.run(main()) == (2, MISS)
    assert cache.stats().store_errors > 0
    with pytest.raises(StoreUnavailable, match="tasks only"):
        open_store(fakeredis.FakeAsyncRedis()).get("a")


def test_a_client_that_finds_its_server_by_itself_is_used_as_it_is(redis_url):
    class Finder(redis.ConnectionPool):
        pass

    client = redis.Redis(connection_pool=Finder.from_url(redis_url))
    store = open_store(client)
    store.set("a", b"1")
    assert store._client is client
    assert store.get("a") == b"1"
    client.close()

    async def main():
        class Finder(redis.asyncio.ConnectionPool):
            pass

        client = redis.asyncio.Redis(connection_pool=Finder.from_url(redis_url))
        found = await AsyncRedisStore(client).get("a")
        await client.aclose()
        await client.connection_pool.disconnect()
        return found

    assert asyncio.run(main()) == b"1"


def test_nothing_connects_before_the_first_use_and_no_password_is_shown():
    cache = PredictionCache("redis://:hunter2@no.such.host:1/0")
    assert "hunter2" not in repr(cache)
    assert "hunter2" not in repr(cache.redis)


@pytest.mark.parametrize(
    "bad", [{"target": "redis://host:port"}, {"target": "redis://h", "timeout": 0}]
)
def test_settings_without_sense_are_refused(bad):
    with pytest.raises(BadConfiguration):
        RedisStore(**bad)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(BadConfiguration, match="needs the package redis"):
        RedisStore("redis://host")


def test_a_refused_connection_changes_no_prediction():
    cache, model, predict = _predictor("redis://127.0.0.1:1/0")
    _answers_as_ever(predict)
    assert model.calls == 20
    assert cache.stats().store_skipped > 0
    assert predict({"n": 3}) == {"score": 1.5}
    assert model.calls == 20


def test_a_refused_connection_changes_no_prediction_of_a_task():
    calls = []

    @cached_prediction(PredictionCache("redis://127.0.0.1:1/0"), version="v1")
    async def predict(features):
        calls.append(features)
        return features["n"]

    async def main():
        return await asyncio.gather(*(predict({"n": n % 5}) for n in range(50)))

    assert asyncio.run(main()) == [n % 5 for n in range(50)]
    assert len(calls) == 5


def test_a_stalled_server_costs_one_timeout_for_each_pause(private_server):
    server = private_server()
    cache, model, predict = _predictor(server.url)
    _answers_as_ever(predict)
    server.freeze()
    # 50 ms for each second, against 20 * 5 s * 11 tries of a bare client.
    took = _answers_as_ever(predict, start=100)
    assert took < 5
    assert 1 <= cache.stats().store_errors <= 1 + took
    server.thaw()
    assert model.calls == 40
    cache.close()


def test_a_stalled_server_changes_no_prediction_of_a_task(private_server):
    server = private_server()
    cache = PredictionCache(server.url)

    @cached_prediction(cache, version="v1")
    async def predict(features):
        return features["n"]

    async def main():
        assert await predict({"n": -1}) == -1
        server.freeze()
        answers = await asyncio.gather(*(predict({"n": n}) for n in range(50)))
        later = [await predict({"n": n}) for n in range(50, 100)]
        server.thaw()
        await cache.aclose()
        return answers + later

    assert asyncio.run(main()) == list(range(100))
    assert cache.stats().store_skipped > 0


def test_a_killed_server_that_comes_back_is_used_again(private_server):
    server = private_server()
    cache, model, predict = _predictor(server.url, memory=None)
    _answers_as_ever(predict)
    server.kill()
    _answers_as_ever(predict)
    assert model.calls == 40
    server.start()
    time.sleep(1.1)
    _answers_as_ever(predict, 21)
    calls = model.calls
    _answers_as_ever(predict, 21)
    assert model.calls == calls
    cache.close()


def test_a_full_server_changes_no_prediction(private_server):
    server = private_server("--maxmemory", "1mb", "--maxmemory-policy", "noeviction")
    with redis.Redis.from_url(server.url) as client, pytest.raises(redis.ResponseError):
        for n in range(1000):
            client.set(f"filler-{n}", bytes(50_000))
    cache, _, predict = _predictor(server.url, memory=None)
    _answers_as_ever(predict)
    assert cache.stats().store_errors > 0
    cache.close()


def test_fifty_threads_compute_once_and_ask_the_server_once(redis_url):
    cache, model, predict = _predictor(redis_url)
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(predict, [{"n": 4}] * 50))
    assert answers == [{"score": 2.0}] * 50
    assert model.calls == 1
    cache.close()


def test_two_colours_compute_once(redis_url):
    cache, calls = PredictionCache(redis_url), []

    @cached_prediction(cache, version="v1", function="m")
    async def awaited(features):
        calls.append(1)
        await asyncio.sleep(0.05)
        return 1

    @cached_prediction(cache, version="v1", function="m")
    def plain(features):
        calls.append(1)
        time.sleep(0.05)
        return 1

    async def main():
        threads = [asyncio.to_thread(plain, ROW) for _ in range(4)]
        answers = await asyncio.gather(*(awaited(ROW) for _ in range(46)), *threads)
        await cache.aclose()
        return answers

    assert asyncio.run(main()) == [1] * 50
    assert len(calls) == 1
    cache.close()


class Bomb:
    def __reduce__(self):
        return pytest.fail, ("a pickle was loaded",)


def test_hostile_entries_are_counted_misses(redis_url):
    cache, model, predict = _predictor(redis_url, memory=None)
    predict({"n": 1})
    with redis.Redis.from_url(redis_url) as client:
        for key in client.keys("prodml:*"):
            client.set(key, pickle.dumps(Bomb()))
    assert predict({"n": 1}) == {"score": 0.5}
    assert model.calls == 2
    cache.close()
