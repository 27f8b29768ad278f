"""Prediction cache: answers from memory and Redis, batches, evictions, outages.

``python -m benchmarks.caching`` prints the tables.  The baselines are measured in the same
rounds: other caches with the key that their users write and with ours, redis-py's own GET,
a cache by hand.  What needs a server starts one, or is left out where there is none.
"""

import contextlib
import functools
import gc
import itertools
import random
import statistics
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from benchmarks import _caching_peers as peers
from benchmarks._caching_baselines import (
    CAPACITY,
    CROWD,
    HOUR,
    INNER,
    THREADS,
    TRIPS,
    LockedLru,
    Predict,
    Row,
    aloop,
    amodel,
    belady,
    by_hand,
    crowd,
    distant_url,
    free_port,
    has_server,
    lecture,
    loop,
    model,
    rows,
    runner,
    shared_url,
    started,
    traces,
    usual_recipe,
    zipf,
)
from benchmarks.runner import Candidate, Case, Counted, main
from prodml.cache import PredictionCache, cached_prediction
from prodml.cache.memory import Memory

OURS = "cached_prediction"
SAME_KEY = "dictionary, same key"
RECIPE = "JSON, MD5, dictionary"
CACHEBOX = "cachebox, LRU"
GET = "GET of redis-py"
BY_HAND = "OrderedDict and lock"
LIMIT = "MGET, model, pipeline of SET"
LECTURE = "lecture, row by row"
TIMEOUT = 0.05
PATIENCE = 1.0


def cached(fn: Any = model, **settings: Any) -> Any:
    return cached_prediction(PredictionCache(**settings), function="bench")(fn)


def first_of(candidates: dict[str, Any], *wanted: str) -> str:
    """The baseline: the first of those wanted that is there."""
    return next(name for name in wanted if name in candidates)


# -- memory -------------------------------------------------------------------------------


def hits() -> Case:
    given = rows()
    ways = {OURS: cached(), RECIPE: usual_recipe(), **peers.in_memory()}
    base = first_of(ways, CACHEBOX, RECIPE)
    limits = {OURS: 0.65} if base == CACHEBOX else {}
    candidates = {name: loop(way, given) for name, way in ways.items()}
    name = "answer from memory, row of 20 values, others with the sorted items as the key"
    return Case(name, base, candidates, limits, INNER)


def hits_same_key() -> Case:
    given = rows()
    ways = {SAME_KEY: by_hand(), OURS: cached(), **peers.in_memory_canonical()}
    base = first_of(ways, CACHEBOX, SAME_KEY)
    limits = {OURS: 0.9} if base == CACHEBOX else {}
    candidates = {name: loop(way, given) for name, way in ways.items()}
    return Case("answer from memory, all with the same exact key", base, candidates, limits, INNER)


def hits_of_tasks() -> Case:
    given, hand = rows(), by_hand()

    async def bare(features: Any, model_version: str) -> Any:
        return hand(features, model_version)

    ways = {SAME_KEY: bare, OURS: cached(amodel), **peers.ain_memory()}
    candidates = {name: aloop(way, given) for name, way in ways.items()}
    return Case("answer from memory, awaited", SAME_KEY, candidates, {OURS: 2.0}, INNER)


def misses() -> Case:
    """Every row is new: what is paid where nothing is gained."""
    given = rows(INNER)

    def fresh(make: Callable[[], Predict]) -> Candidate:
        def many() -> None:
            predict = make()
            for row in given:
                predict(row, "v1")

        return many

    ways = {SAME_KEY: by_hand, OURS: cached, RECIPE: usual_recipe}
    candidates = {name: fresh(make) for name, make in ways.items()}
    return Case("new row: looked up, computed alone, kept", RECIPE, candidates, inner=INNER)


def known_batches() -> Case:
    """256 rows of an array, all known: one by one and as a batch."""
    given = np.random.default_rng(0).normal(size=(256, 20))
    cache = PredictionCache()
    batch = cached_prediction(cache, batch=True, function="batch")(total)
    one = cached_prediction(cache, function="one")(lambda row, model_version: row.sum())
    recipe, lists = usual_recipe(), given.tolist()

    def each(predict: Predict, items: Sequence[Any]) -> Candidate:
        def many() -> None:
            for row in items:
                predict(row, "v1")

        return many

    candidates: dict[str, Candidate] = {
        "as one batch": lambda: batch(given, "v1"),
        "row by row": each(one, given),
        RECIPE: each(recipe, lists),
    }
    return Case("256 known rows of 20 numbers, from memory", RECIPE, candidates, inner=256)


def total(table: Any, model_version: str) -> Any:
    return table.sum(axis=1)


def threaded() -> Case:
    """The tier itself: nine look-ups and one entry in ten, eight threads, popular keys."""
    keys = [f"{rank:032d}".encode() for rank in range(100_000)]
    drawn = [
        [(keys[rank], at % 10 == 0) for at, rank in enumerate(zipf(random.Random(seed), CROWD))]
        for seed in range(THREADS)
    ]
    memory = bounded(10 * CAPACITY)

    def of_memory(seed: int) -> None:
        # A call of prodml reads the clock once, before it comes here.
        find, put = memory.find, memory.put
        for key, entered in drawn[seed]:
            if entered:
                put(key, 0.5, encoded=False, now=0.0, expires=1.0)
            else:
                find(key, 0.0)

    def of(get: Callable[[Any], Any], put: Callable[[Any, Any], Any], seed: int) -> None:
        for key, entered in drawn[seed]:
            if entered:
                put(key, 0.5)
            else:
                get(key)

    hand = LockedLru(10 * CAPACITY)
    others = {BY_HAND: (hand.get, hand.put), **peers.stores(10 * CAPACITY)}
    candidates = {name: crowd(functools.partial(of, *way)) for name, way in others.items()}
    return Case(
        "memory tier shared by 8 threads, 90 % look-ups, CPU time of the process",
        BY_HAND,
        {"Memory of prodml": crowd(of_memory), **candidates},
        inner=CROWD * THREADS,
        rounds=15,
        clock=time.process_time,
        per_second=True,
        floors={"Memory of prodml": 1.5},
    )


def bounded(entries: int) -> Memory:
    """Memory with room for so many floats under keys of 32 bytes."""
    probe = Memory(1 << 20)
    probe.put(bytes(32), 0.5, encoded=False, now=0.0, expires=1.0)
    return Memory(probe.used * entries)


def threaded_hits() -> Case:
    """Whole calls: the key is made outside of any lock, so there is less to gain."""
    given = rows()
    key, kept = peers.canonical_key(), LockedLru(CAPACITY)

    def by_lock(features: Any, model_version: str) -> Any:
        name = key(features, model_version)
        value = kept.get(name)
        if value is None:
            value = model(features, model_version)
            kept.put(name, value)
        return value

    def many(predict: Predict) -> Candidate:
        def work(_: int) -> None:
            for at in range(CROWD // 20):
                predict(given[at % len(given)], "v1")

        return crowd(work)

    ways = {BY_HAND: by_lock, OURS: cached(), **peers.in_memory_canonical()}
    return Case(
        "whole calls answered from memory in 8 threads, same exact key, CPU time of the process",
        BY_HAND,
        {name: many(way) for name, way in ways.items()},
        inner=CROWD // 20 * THREADS,
        rounds=15,
        clock=time.process_time,
        per_second=True,
    )


def within_budget() -> Counted:
    """Bytes that the interpreter has allocated for a full tier, against what was allowed."""
    kinds: dict[str, Callable[[random.Random], Any]] = {
        "numbers": lambda rng: rng.random(),
        "mixed, 20 bytes to 8 kB": mixed_value,
        "text of 10 to 200 letters": lambda rng: "ä" * rng.randrange(10, 200),
        "dictionaries of three": lambda rng: {"label": "churn", "score": rng.random(), "n": 3},
        "lists of a hundred numbers": lambda rng: [rng.random() for _ in range(100)],
        "arrays of a hundred numbers": lambda rng: np.full(100, rng.random()),
    }
    return Counted(
        "memory of a full tier of 8 MiB",
        "share of the budget",
        {name: functools.partial(used_share, make) for name, make in kinds.items()},
        dict.fromkeys(kinds, 1.05),
    )


def mixed_value(rng: random.Random) -> Any:
    kind = rng.randrange(4)
    if kind == 0:
        return rng.random()
    if kind == 1:
        return {"label": "churn", "score": rng.random(), "top": [rng.random() for _ in range(5)]}
    return rng.randbytes(rng.randrange(20, 8000)) if kind == 2 else np.full(rng.randrange(500), 0.5)


def used_share(make: Callable[[random.Random], Any]) -> float:
    budget, rng = 8 << 20, random.Random(0)
    # What is loaded and made once is not the tier's.
    PredictionCache().set({"a": 0.5}, "v1", make(rng))
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        cache = PredictionCache(memory=budget)
        # The tier may keep its old size while it is filled ten times over: by then all that
        # it remembers of the expelled has come together, too.
        most = 0
        while cache.stats().evictions < cache.stats().entries * 9 or not cache.stats().evictions:
            for _ in range(500):
                cache.set({"a": rng.random(), "b": rng.random(), "c": "text"}, "v1", make(rng))
            most = max(most, tracemalloc.get_traced_memory()[0] - before)
        return most / budget
    finally:
        tracemalloc.stop()


def hit_ratios(place: int) -> Counted:
    name, trace = list(traces())[place]
    best = belady(trace)
    others = {
        peer: 100.0 * count(trace) / len(trace) for peer, count in peers.hit_counters().items()
    }
    ours = {"Memory of prodml": memory_hits(trace), BY_HAND: lru_hits(trace)}
    shares = {"Belady's limit: the future is known": best, **ours, **others}
    return Counted(
        f"hits, {name}",
        "% of the requests",
        {who: functools.partial(float, share) for who, share in shares.items()},
        floors={"Memory of prodml": max(0.82 * best, *others.values(), 0.0)},
    )


def memory_hits(trace: Sequence[int]) -> float:
    memory, hits = bounded(CAPACITY), 0
    for key in (f"{number:032d}".encode() for number in trace):
        if memory.find(key, 0.0) is None:
            memory.put(key, 0.5, encoded=False, now=0.0, expires=1.0)
        else:
            hits += 1
    return 100.0 * hits / len(trace)


def lru_hits(trace: Sequence[int]) -> float:
    kept, hits = LockedLru(CAPACITY), 0
    for key in trace:
        if kept.get(key) is None:
            kept.put(key, 0.5)
        else:
            hits += 1
    return 100.0 * hits / len(trace)


# -- Redis --------------------------------------------------------------------------------


def shared_hits(
    clock: Callable[[], float], unit: str, limits: dict[str, float], url: Callable[[], str]
) -> Case:
    given, client = rows(), client_of(url())
    client.set("bench:raw", b"x" * 50)
    ways = {
        GET: lambda features, model_version: client.get("bench:raw"),
        OURS: cached(redis=url(), memory=None),
        "lecture": lecture(client),
        **peers.in_redis(url()),
    }
    candidates = {name: loop(way, given, TRIPS) for name, way in ways.items()}
    return Case(
        f"answer from Redis, {unit}",
        GET,
        candidates,
        limits,
        TRIPS,
        target=0.02,
        clock=clock,
        one_core=True,
    )


def client_of(url: str) -> Any:
    """What most programs make: all of the client's settings are its defaults."""
    import redis

    place = urlsplit(url)
    return redis.Redis(host=place.hostname or "", port=place.port or 0)


def shared_hits_of_tasks(clock: Callable[[], float], unit: str) -> Case:
    import redis.asyncio

    given, place = rows(), urlsplit(shared_url())
    client = redis.asyncio.Redis(host=place.hostname or "", port=place.port or 0)

    async def bare(features: Any, model_version: str) -> Any:
        return await client.get("bench:raw")

    runner().run(client.set("bench:raw", b"x" * 50))
    raw = "GET of redis.asyncio"
    ways = {
        raw: bare,
        OURS: cached(amodel, redis=shared_url(), memory=None),
        **peers.ain_redis(shared_url()),
    }
    candidates = {name: aloop(way, given, TRIPS) for name, way in ways.items()}
    return Case(
        f"answer from Redis, awaited, {unit}",
        raw,
        candidates,
        {OURS: 1.2},
        TRIPS,
        rounds=15,
        target=0.02,
        clock=clock,
        one_core=True,
    )


class HalfKnown:
    """Batches of 256 rows of which half are always the same ones, half always new."""

    def __init__(self) -> None:
        self.table = np.random.default_rng(0).normal(size=(256, 20))
        self.rows: list[Row] = rows(256)
        self._turn = itertools.count()

    def next_table(self) -> Any:
        self.table[128:, 0] = next(self._turn)
        return self.table

    def next_rows(self) -> list[Row]:
        turn = float(next(self._turn))
        for row in self.rows[128:]:
            row["feature_1"] = turn
        return self.rows

    def next_keys(self, prefix: str) -> list[str]:
        known = [f"{prefix}:{at}" for at in range(128)]
        turn = next(self._turn)
        return known + [f"{prefix}:{turn}:{at}" for at in range(128)]


def score(given: Sequence[Any]) -> list[float]:
    return [0.5] * len(given)


def limit_of_batches(half: HalfKnown, url: str) -> Candidate:
    """Two trips and the model, with keys and bytes at hand: what no cache can save."""
    client = client_of(url)

    def batch() -> None:
        keys = half.next_keys("bench:limit")
        absent = [key for key, at in zip(keys, client.mget(keys), strict=True) if at is None]
        answers = score(absent)
        pipeline = client.pipeline(transaction=False)
        for key, _ in zip(absent, answers, strict=True):
            pipeline.set(key, b"123456789", ex=HOUR)
        pipeline.execute()

    return batch


def batches_of(half: HalfKnown, url: str) -> dict[str, Candidate]:
    cache = PredictionCache(url, memory=None)
    decorate = cached_prediction(cache, version="v1", batch=True, function="batch")
    of_table, of_rows = decorate(lambda table: table.sum(axis=1)), decorate(score)
    return {
        "batch, array": lambda: of_table(half.next_table()),
        "batch, list of dictionaries": lambda: of_rows(half.next_rows()),
    }


def half_known_batches(clock: Callable[[], float], unit: str) -> Case:
    half = HalfKnown()
    others = {
        name: functools.partial(with_keys, batch, half, name)
        for name, batch in peers.batches(shared_url(), score).items()
    }
    ours = batches_of(half, shared_url())
    candidates = {LIMIT: limit_of_batches(half, shared_url()), **ours, **others}
    name = f"256 rows, half of them in Redis, {unit}"
    limits = dict.fromkeys(ours, 1.3)
    return Case(name, LIMIT, candidates, limits, rounds=15, target=0.03, clock=clock, one_core=True)


def with_keys(batch: Callable[[list[str], list[Row]], Any], half: HalfKnown, name: str) -> None:
    batch(half.next_keys(f"bench:{name.partition(',')[0]}"), half.rows)


def half_known_by_row() -> Case:
    """The server has a core of its own, as in life: each trip waits for its answer."""
    half = HalfKnown()
    predict = lecture(client_of(distant_url()))

    def by_row() -> None:
        for row in half.next_rows():
            predict(row, "v1")

    ours = batches_of(half, distant_url())
    return Case(
        "256 rows, half of them in Redis, against the lecture, wall clock",
        LECTURE,
        {LECTURE: by_row, LIMIT: limit_of_batches(half, distant_url()), **ours},
        dict.fromkeys(ours, 0.05),
        rounds=9,
        clock=time.perf_counter,
        one_core=True,
    )


def dropped() -> Counted:
    count = 5_000
    ways = {
        "PredictionCache.drop, 50 entries": of_drop(50),
        f"PredictionCache.drop, {count:,} entries": of_drop(count),
        **{
            f"{name}, {count:,} entries": way
            for name, way in peers.droppers(shared_url(), count).items()
        },
    }
    return Counted(
        "let go of a version in Redis",
        "commands",
        {name: functools.partial(commands_of, *way) for name, way in ways.items()},
        {name: 1 for name in ways if name.startswith("PredictionCache")},
    )


def of_drop(count: int) -> tuple[Candidate, Candidate]:
    cache = PredictionCache(shared_url(), namespace=f"drop-{count}")
    batch = cached_prediction(cache, version="v1", batch=True, function="drop")(score)
    return (lambda: batch([[at] for at in range(count)])), (lambda: cache.drop("v1"))


def commands_of(fill: Candidate, drop: Candidate) -> float:
    import redis

    fill()
    with redis.Redis.from_url(shared_url()) as client:
        before = client.info("stats")["total_commands_processed"]
        drop()
        # One of them was the question itself.
        return float(client.info("stats")["total_commands_processed"] - before - 1)


# -- outages ------------------------------------------------------------------------------


def refused() -> Counted:
    url = f"redis://127.0.0.1:{free_port()}/0"
    others = peers.in_outage(url) | {"lecture, redis-py's defaults": of_lecture(url)}
    ours: dict[str, Callable[[], float]] = {
        f"{OURS}, first request": lambda: statistics.median(
            added(cached(redis=url), rows(1)) for _ in range(15)
        ),
        f"{OURS}, first request of a process": lambda: first_of_process(url),
        f"{OURS}, mean of 1,000 requests": lambda: added(cached(redis=url), rows(1000)),
    }
    return Counted(
        "Redis refuses connections: what a request waits for more, a second at most",
        "ms",
        ours | {name: functools.partial(waited, ask) for name, ask in others.items()},
        dict.fromkeys(ours, 1.0),
    )


FIRST = """
import gc, sys, time
from prodml.cache import PredictionCache, cached_prediction
cache = PredictionCache(sys.argv[1] or None)
predict = cached_prediction(cache, function="bench")(lambda features, model_version: 0.5)
# What the imports have left to be collected is no waiting for a store.
gc.collect()
gc.disable()
began = time.perf_counter()
predict({"a": 1.0}, "v1")
print((time.perf_counter() - began) * 1000)
"""


def first_of_process(url: str) -> float:
    """Milliseconds that the first call of a process takes more with Redis than without."""

    def took(argument: str) -> float:
        command = [sys.executable, "-c", FIRST, argument]
        return float(subprocess.run(command, check=True, capture_output=True).stdout)

    pairs = [(took(url), took("")) for _ in range(9)]
    return statistics.median(ours - bare for ours, bare in pairs)


def of_lecture(url: str) -> Callable[[Any], Any]:
    predict = lecture(client_of(url))
    return lambda features: predict(features, "v1")


def added(predict: Predict, given: Sequence[Any]) -> float:
    """Milliseconds a request on top of the model, whose answer takes none here."""
    began = time.perf_counter()
    for row in given:
        predict(row, "v1")
    return (time.perf_counter() - began) * 1000 / len(given)


def waited(ask: Callable[[Any], Any]) -> float:
    """Milliseconds until an answer or an error, at most ``PATIENCE``."""

    def quietly() -> None:
        with contextlib.suppress(BaseException):
            ask(rows(1)[0])

    thread = threading.Thread(target=quietly, daemon=True)
    began = time.perf_counter()
    thread.start()
    thread.join(PATIENCE)
    return (time.perf_counter() - began) * 1000


def stalled() -> Iterator[Counted]:
    """The server is stopped: it takes connections and never answers."""
    server, url = started()
    predict = cached(redis=url)
    predict(rows(1)[0], "v1")
    others = peers.in_outage(url) | {"lecture, redis-py's defaults": of_lecture(url)}
    server.freeze()
    took = requests_for(3.3, predict)
    slow = [sum(seconds for _, seconds in window) * 1000 for window in windows(took)]
    quick = statistics.median(seconds for _, seconds in took) * 1000
    first = "Redis never answers: what requests wait for, all of a breaker's window together"
    yield Counted(
        first,
        "ms",
        {
            f"{OURS}, first window": functools.partial(float, slow[0]),
            f"{OURS}, median of the later ones": functools.partial(statistics.median, slow[1:]),
        },
        {
            f"{OURS}, first window": TIMEOUT * 1000 * 1.2,
            f"{OURS}, median of the later ones": TIMEOUT * 1000 * 1.2,
        },
    )
    yield Counted(
        "Redis never answers: what a request waits for more, a second at most",
        "ms",
        {f"{OURS}, between the trials": functools.partial(float, quick)}
        | {name: functools.partial(waited, ask) for name, ask in others.items()},
        {f"{OURS}, between the trials": 0.1},
    )
    server.kill()


def requests_for(seconds: float, predict: Predict) -> list[tuple[float, float]]:
    """When each of many requests for new rows began, and how long it took."""
    took: list[tuple[float, float]] = []
    gc.collect()
    # The collector's pauses are no waiting for a store.
    gc.disable()
    try:
        ends = time.perf_counter() + seconds
        while not took or took[-1][0] < ends:
            row = {"seed": len(took), "name": "new"}
            began = time.perf_counter()
            predict(row, "v1")
            took.append((began, time.perf_counter() - began))
    finally:
        gc.enable()
    return took


def windows(took: list[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    """Slow requests, those of one trial of the store together."""
    found: list[list[tuple[float, float]]] = []
    for began, seconds in took:
        if seconds < TIMEOUT / 4:
            continue
        if found and began - sum(found[-1][-1]) < 0.5:
            found[-1].append((began, seconds))
        else:
            found.append([(began, seconds)])
    return found


# In the order of the page.
IN_MEMORY: tuple[Callable[[], Case | Counted], ...] = (
    hits,
    hits_same_key,
    hits_of_tasks,
    misses,
    known_batches,
    threaded,
    threaded_hits,
    *(functools.partial(hit_ratios, place) for place in range(3)),
    within_budget,
)
IN_REDIS: tuple[Callable[[], Case | Counted], ...] = (
    lambda: shared_hits(time.process_time, "CPU time", {OURS: 0.5}, shared_url),
    lambda: shared_hits(time.perf_counter, "wall clock", {OURS: 0.8}, shared_url),
    lambda: shared_hits(
        time.perf_counter, "wall clock, the server on another core", {}, distant_url
    ),
    lambda: shared_hits_of_tasks(time.process_time, "CPU time"),
    lambda: shared_hits_of_tasks(time.perf_counter, "wall clock"),
    lambda: half_known_batches(time.process_time, "CPU time"),
    lambda: half_known_batches(time.perf_counter, "wall clock"),
    half_known_by_row,
    dropped,
)


def cases() -> Iterator[Case | Counted]:
    """Build each case when its turn comes."""
    yield from (make() for make in IN_MEMORY)
    if has_server():
        yield from (make() for make in IN_REDIS)
        yield from stalled()
    yield refused()


if __name__ == "__main__":
    main(cases())
