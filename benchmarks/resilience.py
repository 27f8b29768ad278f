"""Resilience: what protection costs a call.

``python -m benchmarks.resilience`` prints the tables.  The baseline of each is measured in
the same rounds: a bare wrapper, a wrapper with one uncontended lock, a breaker written out
by hand.
"""

import asyncio
import atexit
import functools
import threading
from collections.abc import Callable
from typing import Any

from benchmarks.runner import Case, main
from prodml.errors import CircuitOpen
from prodml.events import Stream
from prodml.resilience import (
    Bulkhead,
    CircuitBreaker,
    FallbackChain,
    Retry,
    RetryBudget,
    Rung,
    Timeout,
)

INNER = 200
QUIET = Stream()


def work(x: int) -> int:
    return x


async def awork(x: int) -> int:
    return x


def loop(fn: Callable[[int], Any]) -> Callable[[], None]:
    def many() -> None:
        for _ in range(INNER):
            fn(1)

    return many


@functools.cache
def runner() -> asyncio.Runner:
    shared = asyncio.Runner()
    atexit.register(shared.close)
    return shared


def aloop(fn: Callable[[int], Any]) -> Callable[[], None]:
    async def many() -> None:
        for _ in range(INNER):
            await fn(1)

    return lambda: runner().run(many())


# -- by hand ------------------------------------------------------------------------------


def wrapper(fn: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(fn)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return fn(*args, **kwargs)

    return wrapped


def locked(fn: Callable[..., Any]) -> Callable[..., Any]:
    lock = threading.Lock()

    @functools.wraps(fn)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with lock:
            pass
        return fn(*args, **kwargs)

    return wrapped


def alocked(fn: Callable[..., Any]) -> Callable[..., Any]:
    lock = threading.Lock()

    @functools.wraps(fn)
    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        with lock:
            pass
        return await fn(*args, **kwargs)

    return wrapped


class HandWritten:
    """The shortest breaker that counts failures in a row; not safe with threads."""

    def __init__(self) -> None:
        self.open = False
        self.failures = 0

    def __call__(self, fn: Callable[..., Any]) -> Callable[..., Any]:
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


def breaker(**settings: Any) -> CircuitBreaker:
    return CircuitBreaker("bench", events=QUIET, **settings)


# -- cases --------------------------------------------------------------------------------


def peers() -> dict[str, Callable[[Callable[..., Any]], Callable[..., Any]]]:
    """Decorators of the other libraries that are installed."""
    found: dict[str, Callable[[Callable[..., Any]], Callable[..., Any]]] = {}
    try:
        import pybreaker
    except ImportError:
        pass
    else:
        found["pybreaker"] = pybreaker.CircuitBreaker(fail_max=5)
    try:
        import circuitbreaker
    except ImportError:
        pass
    else:
        found["circuitbreaker (not thread-safe)"] = circuitbreaker.CircuitBreaker(5)
    return found


def closed() -> Case:
    ways = {
        "one lock": locked(work),
        "bare call": work,
        "wrapper": wrapper(work),
        "by hand (not thread-safe)": HandWritten()(work),
        "CircuitBreaker": breaker()(work),
        "CircuitBreaker, rate of 100": breaker(failure_rate=0.5)(work),
        "CircuitBreaker, rate of 10 s": breaker(failure_rate=0.5, window_seconds=10.0)(work),
        "CircuitBreaker, slow calls": breaker(slow_after=1.0)(work),
        "Bulkhead": Bulkhead(8)(work),
    }
    ways |= {name: decorate(work) for name, decorate in peers().items()}
    limits = {"CircuitBreaker": 1.0, "CircuitBreaker, rate of 100": 1.0}
    candidates = {name: loop(way) for name, way in ways.items()}
    return Case("closed breaker, sync", "one lock", candidates, limits, INNER)


def closed_by_hand() -> Case:
    ways = {"by hand": HandWritten()(work), "CircuitBreaker": breaker()(work)}
    candidates = {name: loop(way) for name, way in ways.items()}
    return Case(
        "closed breaker against one by hand", "by hand", candidates, {"CircuitBreaker": 1.3}, INNER
    )


def closed_async() -> Case:
    ways = {
        "one lock": alocked(awork),
        "CircuitBreaker": breaker()(awork),
        "CircuitBreaker, rate of 100": breaker(failure_rate=0.5)(awork),
    }
    candidates = {name: aloop(way) for name, way in ways.items()}
    return Case("closed breaker, async", "one lock", candidates, {"CircuitBreaker": 1.0}, INNER)


def opened() -> Case:
    guard = breaker()
    guard.force_open("bench")
    rejecting, lock = guard(work), threading.Lock()
    ready = CircuitOpen("bench", 1.0)

    def caught(fn: Callable[[int], Any]) -> Callable[[int], None]:
        def one(x: int) -> None:
            try:
                fn(x)
            except CircuitOpen:
                return

        return one

    @wrapper
    def flag(_: int) -> None:
        with lock:
            pass
        raise ready

    candidates = {"one lock, raise": loop(caught(flag)), "CircuitBreaker": loop(caught(rejecting))}
    return Case("open breaker", "one lock, raise", candidates, inner=INNER)


def retried() -> Case:
    ways = {
        "wrapper": wrapper(work),
        "Retry": Retry(events=QUIET)(work),
        "Retry with budget": Retry(events=QUIET, budget=RetryBudget())(work),
    }
    candidates = {name: loop(way) for name, way in ways.items()}
    try:
        import tenacity
    except ImportError:
        pass
    else:
        candidates["tenacity"] = loop(tenacity.retry(stop=tenacity.stop_after_attempt(3))(work))
    return Case("retry, first attempt succeeds", "wrapper", candidates, {"Retry": 1.3}, INNER)


def chained() -> Case:
    ways = {
        "one lock": locked(work),
        "retry(breaker)": Retry(events=QUIET)(breaker()(work)),
        "FallbackChain": FallbackChain(Rung("model", work)),
        "FallbackChain, guarded rung": FallbackChain(Rung("model", work, guard=breaker())),
    }
    candidates = {name: loop(way) for name, way in ways.items()}
    return Case("together, all well", "one lock", candidates, {"retry(breaker)": 1.3}, INNER)


def timed_async() -> Case:
    async def limited(x: int) -> int:
        async with asyncio.timeout(30.0):
            return await awork(x)

    candidates = {
        "asyncio.timeout": aloop(limited),
        "Timeout": aloop(Timeout(30.0)(awork)),
        "Retry, breaker, Timeout": aloop(Retry(events=QUIET)(breaker()(Timeout(30.0)(awork)))),
    }
    return Case("timeout, async", "asyncio.timeout", candidates, inner=INNER)


def cases() -> list[Case]:
    return [
        closed(),
        closed_by_hand(),
        closed_async(),
        opened(),
        retried(),
        chained(),
        timed_async(),
    ]


if __name__ == "__main__":
    main(cases())
