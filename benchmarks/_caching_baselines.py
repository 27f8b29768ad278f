"""What the tables of caching compare with: rows, loops, traces, and the same by hand."""

import asyncio
import atexit
import bisect
import functools
import hashlib
import itertools
import json
import os
import pickle
import random
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from tests.servers import Server, server_binary

from benchmarks.runner import Candidate
from prodml.cache.keys import Namer
from prodml.types import MISS

INNER = 100
TRIPS = 50
CROWD = 10_000
THREADS = 8
HOUR = 3600

Row: TypeAlias = dict[str, Any]
Predict: TypeAlias = Callable[[Any, str], Any]


# -- rows and the model -------------------------------------------------------------------


def rows(count: int = 64, width: int = 20, seed: int = 0) -> list[Row]:
    """Rows as services see them: mostly floats, some counts, a label, a flag."""
    rng = random.Random(seed)
    return [
        {f"feature_{i}": rng.random() if i % 3 else rng.randrange(100) for i in range(width - 2)}
        | {"country": rng.choice(["DE", "FR", "US"]), "new": rng.random() < 0.5}
        for _ in range(count)
    ]


def model(features: Any, model_version: str) -> float:
    return 0.5


async def amodel(features: Any, model_version: str) -> float:
    return 0.5


def fragile(fn: Any) -> Any:
    """The same function under a name of its own, for decorators that write to it."""

    @functools.wraps(fn)
    def predict(features: Any, model_version: str) -> Any:
        return fn(features, model_version)

    return predict


# -- loops --------------------------------------------------------------------------------


def loop(predict: Predict, given: Sequence[Any], times: int = INNER) -> Candidate:
    def many() -> None:
        for place in range(times):
            predict(given[place % len(given)], "v1")

    many()
    return many


@functools.cache
def runner() -> asyncio.Runner:
    shared = asyncio.Runner()
    atexit.register(shared.close)
    return shared


def aloop(predict: Any, given: Sequence[Any], times: int = INNER) -> Candidate:
    async def many() -> None:
        for place in range(times):
            await predict(given[place % len(given)], "v1")

    return lambda: runner().run(many())


def crowd(work: Callable[[int], None]) -> Candidate:
    """``work`` in eight threads at once, which are numbered."""

    def all_of_them() -> None:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return all_of_them


# -- by hand ------------------------------------------------------------------------------


def by_hand() -> Predict:
    """The same exact key, a dictionary, and nothing else: no bound, no end, no counting."""
    name, kept = Namer().name, dict[bytes, float]()

    def predict(features: Any, model_version: str) -> Any:
        key = model_version.encode() + name(features)
        value = kept.get(key, MISS)
        if value is MISS:
            value = kept[key] = model(features, model_version)
        return value

    return predict


def usual_recipe() -> Predict:
    """Sorted JSON and MD5, with a dictionary where Redis would be."""
    kept: dict[str, float] = {}

    def predict(features: Any, model_version: str) -> Any:
        key = _recipe_key(features, model_version)
        value = kept.get(key)
        if value is None:
            value = kept[key] = model(features, model_version)
        return value

    return predict


def lecture(client: Any, fn: Predict = model) -> Predict:
    """The lecture's approach, in other words: JSON, MD5, pickle, GET and SETEX for each row."""

    def predict(features: Any, model_version: str) -> Any:
        key = _recipe_key(features, model_version)
        found = client.get(key)
        if found:
            return pickle.loads(found)
        value = fn(features, model_version)
        client.setex(key, HOUR, pickle.dumps(value))
        return value

    return predict


def _recipe_key(features: Any, model_version: str) -> str:
    text = json.dumps({"features": features, "version": model_version}, sort_keys=True)
    return f"prediction:{hashlib.md5(text.encode()).hexdigest()}"


class LockedLru:
    """The usual bounded cache by hand: an ``OrderedDict`` and a lock around both operations."""

    def __init__(self, capacity: int) -> None:
        self._kept: OrderedDict[Any, Any] = OrderedDict()
        self._lock = threading.Lock()
        self._capacity = capacity

    def get(self, key: Any) -> Any:
        with self._lock:
            value = self._kept.get(key)
            if value is not None:
                self._kept.move_to_end(key)
            return value

    def put(self, key: Any, value: Any) -> None:
        with self._lock:
            self._kept[key] = value
            self._kept.move_to_end(key)
            if len(self._kept) > self._capacity:
                self._kept.popitem(last=False)


# -- traces -------------------------------------------------------------------------------


REQUESTS, KEYS, CAPACITY = 200_000, 100_000, 1_000


def zipf(rng: random.Random, count: int, alpha: float = 0.9) -> list[int]:
    """Ranks of ``count`` requests; the most popular is 0."""
    steps = list(itertools.accumulate((rank + 1) ** -alpha for rank in range(KEYS)))
    return [bisect.bisect(steps, rng.random() * steps[-1]) for _ in range(count)]


def traces() -> Iterator[tuple[str, list[int]]]:
    """What is asked for in three kinds of traffic."""
    rng = random.Random(0)
    plain = zipf(rng, REQUESTS)
    yield "popularity by Zipf's law, exponent 0.9", plain
    strangers = itertools.count(KEYS)
    mixed = [next(strangers) if rng.random() < 0.3 else key for key in plain]
    yield "the same, 30 % of the requests for what is never asked for again", mixed
    half = REQUESTS // 2
    shuffled = list(range(KEYS))
    rng.shuffle(shuffled)
    yield (
        "the same, other keys are the popular ones from half-way",
        [key if at < half else shuffled[key] for at, key in enumerate(plain)],
    )


def belady(trace: Sequence[int], capacity: int = CAPACITY) -> float:
    """Percentage of hits of who knows the future: expel what is wanted last."""
    import heapq

    never = len(trace)
    following, seen = [never] * len(trace), dict[int, int]()
    for at in range(len(trace) - 1, -1, -1):
        following[at] = seen.get(trace[at], never)
        seen[trace[at]] = at
    kept: dict[int, int] = {}
    order: list[tuple[int, int]] = []
    hits = 0
    for at, key in enumerate(trace):
        hits += key in kept
        kept[key] = following[at]
        heapq.heappush(order, (-following[at], key))
        while len(kept) > capacity:
            wanted, last = heapq.heappop(order)
            if kept.get(last) == -wanted:
                del kept[last]
    return 100.0 * hits / len(trace)


# -- the server ---------------------------------------------------------------------------


def has_server() -> bool:
    return server_binary() is not None


def started(*, apart: bool = False) -> tuple[Server, str]:
    """A server of one's own and its address on the loopback.

    It stays on the core where cases of ``one_core`` run: no answer then waits for another
    core to wake up.  One that is ``apart`` stays on another, as if it were elsewhere.
    """
    folder = tempfile.TemporaryDirectory(prefix="prodml-")
    port = free_port()
    binary = server_binary()
    if binary is None:
        raise RuntimeError("no Redis or Valkey server")
    server = Server(binary, Path(folder.name), "--port", str(port)).start()
    _to_core(server, max if apart else min)

    def stop() -> None:
        server.kill()
        folder.cleanup()

    atexit.register(stop)
    return server, f"redis://127.0.0.1:{port}/0"


def _to_core(server: Server, choose: Callable[[Iterable[int]], int]) -> None:
    if hasattr(os, "sched_setaffinity") and server._process is not None:
        core = choose(os.sched_getaffinity(0))
        for task in Path(f"/proc/{server._process.pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), {core})


@functools.cache
def distant_url() -> str:
    """Address of a server on another core."""
    return started(apart=True)[1]


@functools.cache
def shared_url() -> str:
    """Address of the server that all tables share."""
    return started()[1]


def free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
