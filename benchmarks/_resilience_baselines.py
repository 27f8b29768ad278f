"""What the tables of resilience compare with: loops, and the same by hand."""

import asyncio
import atexit
import functools
import threading
from collections.abc import Callable
from typing import Any, TypeAlias

from benchmarks.runner import Candidate

INNER = 200
CROWD = 5_000
THREADS = 8

Function: TypeAlias = Callable[..., Any]


def work(x: int) -> int:
    return x


async def awork(x: int) -> int:
    return x


def broken(x: int) -> int:
    raise ConnectionError(x)


def loop(fn: Function) -> Candidate:
    def many() -> None:
        for _ in range(INNER):
            fn(1)

    return many


@functools.cache
def runner() -> asyncio.Runner:
    shared = asyncio.Runner()
    atexit.register(shared.close)
    return shared


def aloop(fn: Function) -> Candidate:
    async def many() -> None:
        for _ in range(INNER):
            await fn(1)

    return lambda: runner().run(many())


def caught(fn: Function) -> Candidate:
    """The same where every call raises."""

    def many() -> None:
        for _ in range(INNER):
            try:
                fn(1)
            except Exception:
                continue

    try:
        fn(1)
    except Exception:
        return many
    raise RuntimeError(f"{fn} was to raise")


def crowd(fn: Function) -> Candidate:
    """The same from eight threads at once."""

    def many() -> None:
        for _ in range(CROWD):
            fn(1)

    def all_of_them() -> None:
        threads = [threading.Thread(target=many) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return all_of_them


def loops(ways: dict[str, Function]) -> dict[str, Candidate]:
    return {name: loop(way) for name, way in ways.items()}


def aloops(ways: dict[str, Function]) -> dict[str, Candidate]:
    return {name: aloop(way) for name, way in ways.items()}


# -- by hand ------------------------------------------------------------------------------


def wrapper(fn: Function) -> Function:
    @functools.wraps(fn)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return fn(*args, **kwargs)

    return wrapped


def awrapper(fn: Function) -> Function:
    @functools.wraps(fn)
    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        return await fn(*args, **kwargs)

    return wrapped


def locked(fn: Function) -> Function:
    lock = threading.Lock()

    @functools.wraps(fn)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with lock:
            pass
        return fn(*args, **kwargs)

    return wrapped


def acquired(fn: Function) -> Function:
    lock = threading.Lock()

    @functools.wraps(fn)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        lock.acquire()
        lock.release()
        return fn(*args, **kwargs)

    return wrapped


def alocked(fn: Function) -> Function:
    lock = threading.Lock()

    @functools.wraps(fn)
    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        with lock:
            pass
        return await fn(*args, **kwargs)

    return wrapped


class HandWritten:
    """The shortest breaker that counts failures in a row; not safe with threads."""

    def __init__(self, *, is_open: bool = False) -> None:
        self.open = is_open
        self.failures = 0

    def __call__(self, fn: Function) -> Function:
        @functools.wraps(fn)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if self.open:
                raise RuntimeError("open")
            try:
                result = fn(*args, **kwargs)
            except Exception:
                self.failures += 1
                self.open = self.failures >= 5
                raise
            self.failures = 0
            return result

        return wrapped


def answered(fn: Function) -> Function:
    @functools.wraps(fn)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return fn(*args, **kwargs)
        except Exception:
            return 0.0

    return wrapped
