"""The other libraries, each as its own documentation shows, or with the key that is given.

A library that is not installed leaves its row out.  They differ in what they are asked to
do: cashews and aiocache work in tasks only, theine, moka-py, cachetools and cachebox know
no shared store, dogpile.cache no tasks, and all but diskcache, cashews and aiocache leave
the key of a dictionary to the caller, who then mostly writes ``tuple(sorted(items))``.
"""

import asyncio
import atexit
import contextlib
import functools
import logging
import tempfile
from collections.abc import Callable, Sequence
from datetime import timedelta
from importlib import import_module as library
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from benchmarks._caching_baselines import CAPACITY, HOUR, amodel, fragile, model, runner
from prodml.cache.keys import Namer

Key: TypeAlias = Callable[[Any, str], Any]
Makers: TypeAlias = dict[str, Callable[[], Any]]
ROOM = 100_000


def installed(makers: Makers) -> dict[str, Any]:
    """What could be made; a library that is missing is left out."""
    made: dict[str, Any] = {}
    for name, make in makers.items():
        try:
            made[name] = make()
        except ImportError:
            continue
    return made


def sorted_items(features: Any, model_version: str) -> Any:
    """The key that most people write."""
    return model_version, tuple(sorted(features.items()))


def canonical_key() -> Key:
    """The bytes that prodml's own key holds."""
    name = Namer().name
    return lambda features, model_version: model_version.encode() + name(features)


# -- memory -------------------------------------------------------------------------------


def _cachebox(key: Key, kind: str = "LRUCache", **settings: Any) -> Any:
    cachebox = library("cachebox")
    kept = getattr(cachebox, kind)(ROOM, **settings)
    return cachebox.cached(kept, key_maker=key)(fragile(model))


def _theine(key: Key) -> Any:
    memoized = library("theine").Memoize(ROOM, timedelta(seconds=HOUR))(fragile(model))

    memoized.key(key)
    return memoized


def _moka(key: Key) -> Any:
    kept = library("moka_py").Moka(ROOM, ttl=HOUR)

    def predict(features: Any, model_version: str) -> Any:
        return kept.get_with(key(features, model_version), lambda: model(features, model_version))

    return predict


def _cachetools(key: Key) -> Any:
    import threading

    cachetools = library("cachetools")
    kept = cachetools.TTLCache(maxsize=ROOM, ttl=HOUR)
    return cachetools.cached(kept, key=key, condition=threading.Condition())(fragile(model))


def _dogpile(backend: str = "dogpile.cache.memory", **arguments: Any) -> Any:
    region = library("dogpile.cache").make_region()
    region.configure(backend, expiration_time=HOUR, arguments=arguments)

    def generator(_namespace: Any, _fn: Any, **_: Any) -> Any:
        return lambda *args: str(sorted_items(args[0], args[1]))

    return region.cache_on_arguments(function_key_generator=generator)(fragile(model))


def _diskcache() -> Any:
    diskcache = library("diskcache")
    folder = tempfile.TemporaryDirectory(prefix="prodml-")
    kept = diskcache.Cache(folder.name)

    def close() -> None:
        kept.close()
        folder.cleanup()

    atexit.register(close)
    return kept.memoize(expire=HOUR)(fragile(model))


def _cashews(url: str, **settings: Any) -> Any:
    # Each has its own cache object: its default one is shared.
    cache = library("cashews").Cache()
    cache.setup(url, **settings)
    return cache.cache(ttl=HOUR)(amodel)


def _aiocache(**settings: Any) -> Any:
    return library("aiocache").cached(ttl=HOUR, **settings)(amodel)


def in_memory() -> dict[str, Any]:
    """Answers from memory, each with the key its documentation would have."""
    return installed(
        {
            "cachebox, LRU": lambda: _cachebox(sorted_items),
            "cachebox, TTL": lambda: _cachebox(sorted_items, "TTLCache", global_ttl=HOUR),
            "moka-py": lambda: _moka(sorted_items),
            "cachetools, TTL, condition": lambda: _cachetools(sorted_items),
            "theine": lambda: _theine(sorted_items),
            "dogpile.cache, memory": _dogpile,
            "diskcache": _diskcache,
        }
    )


def in_memory_canonical() -> dict[str, Any]:
    """Answers from memory with prodml's key bytes."""
    return installed(
        {
            "cachebox, LRU": lambda: _cachebox(canonical_key()),
            "moka-py": lambda: _moka(canonical_key()),
            "cachetools, TTL, condition": lambda: _cachetools(canonical_key()),
        }
    )


def ain_memory() -> dict[str, Any]:
    return installed({"aiocache": _aiocache, "cashews": lambda: _cashews("mem://")})


# -- Redis --------------------------------------------------------------------------------


def in_redis(url: str) -> dict[str, Any]:
    place = urlsplit(url)
    return installed(
        {
            "dogpile.cache": lambda: _dogpile(
                "dogpile.cache.redis",
                host=place.hostname,
                port=place.port,
                redis_expiration_time=HOUR,
                distributed_lock=False,
            )
        }
    )


def ain_redis(url: str) -> dict[str, Any]:
    makers = {"aiocache": lambda: _aiocache_redis(url), "cashews": lambda: _cashews(url)}
    return installed(makers)


def _aiocache_redis(url: str) -> Any:
    logging.getLogger("aiocache").setLevel(logging.CRITICAL)
    place = urlsplit(url)
    settings = {"endpoint": place.hostname, "port": place.port}
    aiocache = library("aiocache")
    serializer = library("aiocache.serializers").JsonSerializer()
    return _aiocache(cache=aiocache.Cache.REDIS, serializer=serializer, **settings)


def in_outage(url: str) -> dict[str, Callable[[Any], Any]]:
    """One request by way of a store that is down, for either colour; none is told to hurry."""
    logging.getLogger("cashews").setLevel(logging.CRITICAL)
    awaited = ain_redis(url)
    return in_plain(in_redis(url)) | {
        name: functools.partial(_once, fn) for name, fn in awaited.items()
    }


def in_plain(ways: dict[str, Any]) -> dict[str, Callable[[Any], Any]]:
    return {name: functools.partial(_asked, fn) for name, fn in ways.items()}


def _asked(fn: Any, features: Any) -> Any:
    return fn(features, "v1")


def _once(fn: Any, features: Any) -> Any:
    async def one() -> Any:
        return await fn(features, "v1")

    # A loop of its own, since some are never waited for.
    return asyncio.run(one())


# -- evictions ----------------------------------------------------------------------------


def _mapping_hits(kept: Any, trace: Sequence[int]) -> int:
    hits = 0
    for key in trace:
        if key in kept:
            # A look is no use to those that count uses.
            hits += kept[key] is not None
        else:
            kept[key] = True
    return hits


def _theine_hits(trace: Sequence[int]) -> int:
    kept = library("theine").Cache(CAPACITY)
    hits = 0
    try:
        for key in trace:
            found = kept.get(key)[1]
            hits += found
            if not found:
                kept.set(key, True)
    finally:
        kept.close()
    return hits


def _moka_hits(trace: Sequence[int]) -> int:
    kept = library("moka_py").Moka(CAPACITY)
    hits = 0
    for key in trace:
        found = kept.get(key) is not None
        hits += found
        if not found:
            kept.set(key, True)
    return hits


def hit_counters() -> dict[str, Callable[[Sequence[int]], int]]:
    """How many requests of a trace each policy answers with room for ``CAPACITY`` keys."""

    def mapping(package: str, kind: str) -> Callable[[Sequence[int]], int]:
        make = getattr(library(package), kind)
        return lambda trace: _mapping_hits(make(CAPACITY), trace)

    def known(package: str, count: Any) -> Any:
        library(package)
        return count

    return installed(
        {
            "theine, W-TinyLFU": lambda: known("theine", _theine_hits),
            "moka-py, TinyLFU": lambda: known("moka_py", _moka_hits),
            "cachetools, LFU": lambda: mapping("cachetools", "LFUCache"),
            "cachebox, LFU": lambda: mapping("cachebox", "LFUCache"),
            "cachebox, LRU": lambda: mapping("cachebox", "LRUCache"),
            "cachebox, FIFO": lambda: mapping("cachebox", "FIFOCache"),
        }
    )


# -- stores that threads share ------------------------------------------------------------


def stores(capacity: int) -> dict[str, tuple[Callable[[Any], Any], Callable[[Any, Any], Any]]]:
    """``(get, put)`` of each."""
    return installed(
        {
            "cachebox, LRU": lambda: _of_cachebox(capacity),
            "moka-py": lambda: _of_moka(capacity),
            "cachetools, LRU and lock": lambda: _of_cachetools(capacity),
            "theine": lambda: _of_theine(capacity),
        }
    )


def _of_cachebox(capacity: int) -> Any:
    kept = library("cachebox").LRUCache(capacity)
    return kept.get, kept.insert


def _of_moka(capacity: int) -> Any:
    kept = library("moka_py").Moka(capacity)
    return kept.get, kept.set


def _of_cachetools(capacity: int) -> Any:
    import threading

    kept, lock = library("cachetools").LRUCache(capacity), threading.Lock()

    def get(key: Any) -> Any:
        with lock:
            return kept.get(key)

    def put(key: Any, value: Any) -> None:
        with lock:
            kept[key] = value

    return get, put


def _of_theine(capacity: int) -> Any:
    kept = library("theine").Cache(capacity)
    atexit.register(kept.close)
    return kept.get, kept.set


# -- batches and versions -----------------------------------------------------------------


def batches(url: str, score: Callable[[list[Any]], list[float]]) -> dict[str, Any]:
    """Functions of ``(keys, rows)`` that compute what their store lacks."""
    return installed(
        {
            "dogpile.cache, keys given": lambda: _dogpile_batch(url, score),
            "cashews, keys given": lambda: _cashews_batch(url, score),
        }
    )


def _dogpile_batch(url: str, score: Callable[[list[Any]], list[float]]) -> Any:
    region = library("dogpile.cache").make_region()
    place = urlsplit(url)
    arguments = {"host": place.hostname, "port": place.port, "distributed_lock": False}
    region.configure("dogpile.cache.redis", arguments=arguments)

    def batch(keys: list[str], given: list[Any]) -> Any:
        by_key = dict(zip(keys, given, strict=True))

        def create(*missing: str) -> list[float]:
            return score([by_key[key] for key in missing])

        return region.get_or_create_multi(keys, create)

    return batch


def _cashews_batch(url: str, score: Callable[[list[Any]], list[float]]) -> Any:
    cache = library("cashews").Cache()
    cache.setup(url)

    async def batch(keys: list[str], given: list[Any]) -> Any:
        found = list(await cache.get_many(*keys))
        absent = [place for place, value in enumerate(found) if value is None]
        answers = score([given[place] for place in absent])
        fresh = {keys[place]: answer for place, answer in zip(absent, answers, strict=True)}
        await cache.set_many(fresh, expire=HOUR)
        for place, answer in zip(absent, answers, strict=True):
            found[place] = answer
        return found

    return lambda keys, given: runner().run(batch(keys, given))


def droppers(url: str, count: int) -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    """``(fill, drop)`` of each: keep ``count`` answers of a version, let go of all of them."""
    return installed(
        {
            "aiocache, clear(namespace)": lambda: _aiocache_drop(url, count),
            "cashews, delete_match": lambda: _cashews_drop(url, count),
        }
    )


def _aiocache_drop(url: str, count: int) -> Any:
    place = urlsplit(url)
    aiocache = library("aiocache")

    async def fill() -> None:
        async with _aiocache_store(aiocache, place) as store:
            await store.multi_set([(str(at), 0.5) for at in range(count)], ttl=HOUR)

    async def drop() -> None:
        async with _aiocache_store(aiocache, place) as store:
            await store.clear(namespace="bench-v1:")

    return _plain(fill), _plain(drop)


@contextlib.asynccontextmanager
async def _aiocache_store(aiocache: Any, place: Any) -> Any:
    store = aiocache.RedisCache(endpoint=place.hostname, port=place.port, namespace="bench-v1:")
    try:
        yield store
    finally:
        await store.close()


def _cashews_drop(url: str, count: int) -> Any:
    cache = library("cashews").Cache()
    cache.setup(url)

    async def fill() -> None:
        await cache.set_many({f"bench:v1:{at}": 0.5 for at in range(count)}, expire=HOUR)

    return _plain(fill), _plain(lambda: cache.delete_match("bench:v1:*"))


def _plain(work: Callable[[], Any]) -> Callable[[], Any]:
    async def one() -> Any:
        return await asyncio.ensure_future(work())

    return lambda: runner().run(one())
