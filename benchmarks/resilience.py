"""Resilience: what protection costs a call.

``python -m benchmarks.resilience`` prints the tables.  The baseline of each is measured in
the same rounds; it is mostly a wrapper with one uncontended lock (``one lock``), which is
what the shortest correct breaker written by hand would take.
"""

import asyncio
import atexit
import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks import _resilience_peers as peers
from benchmarks._resilience_baselines import (
    CROWD,
    INNER,
    THREADS,
    Function,
    HandWritten,
    acquired,
    alocked,
    aloops,
    answered,
    awork,
    awrapper,
    broken,
    caught,
    crowd,
    locked,
    loop,
    loops,
    work,
    wrapper,
)
from benchmarks.runner import Case, Counted, main
from prodml.events import Stream
from prodml.resilience import (
    AdaptiveLimiter,
    Bulkhead,
    Chaos,
    CircuitBreaker,
    Deadline,
    Fallback,
    FallbackChain,
    RateLimiter,
    Retry,
    RetryBudget,
    Rung,
    Timeout,
    compose,
)
from prodml.testing import ManualClock

DEAD_CALLS = 1_000
QUIET = Stream()
LOCK = "one lock"


# -- ours ---------------------------------------------------------------------------------


def breaker(**settings: Any) -> CircuitBreaker:
    return CircuitBreaker("bench", events=QUIET, **settings)


def retry(**settings: Any) -> Retry:
    return Retry(events=QUIET, **settings)


def tripped(guard: Any) -> Any:
    """Let ``guard`` see so many failures that it opens."""
    failing = guard(broken)
    for _ in range(50):
        with contextlib.suppress(Exception):
            failing(1)
    return guard


def around(fn: Function, decorators: dict[str, Any]) -> dict[str, Function]:
    return {name: decorate(fn) for name, decorate in decorators.items()}


# -- breakers -----------------------------------------------------------------------------


def closed() -> Case:
    ways = {
        LOCK: locked(work),
        "bare call": work,
        "wrapper": wrapper(work),
        "acquire, release": acquired(work),
        "CircuitBreaker": breaker()(work),
        "CircuitBreaker, rate of 100": breaker(failure_rate=0.5)(work),
        **around(work, peers.breakers()),
    }
    limits = {"CircuitBreaker": 1.0, "CircuitBreaker, rate of 100": 1.0}
    return Case("closed breaker, sync", LOCK, loops(ways), limits, INNER)


def closed_by_hand() -> Case:
    ways = {"by hand": HandWritten()(work), "CircuitBreaker": breaker()(work)}
    limits = {"CircuitBreaker": 1.3}
    return Case("closed breaker against one by hand", "by hand", loops(ways), limits, INNER)


def closed_by_time() -> Case:
    ours = {
        "CircuitBreaker, rate of 10 s": breaker(failure_rate=0.5, window_seconds=10.0),
        "CircuitBreaker, slow calls": breaker(slow_after=1.0),
        "CircuitBreaker, slow calls of 10 s": breaker(slow_after=1.0, window_seconds=10.0),
    }
    ways = {LOCK: locked(work), **around(work, ours), **around(work, peers.breakers_by_time())}
    limits = dict.fromkeys(list(ours)[:2], 1.3)
    return Case("closed breaker that reads the clock, sync", LOCK, loops(ways), limits, INNER)


def closed_async() -> Case:
    ours = {
        "CircuitBreaker": breaker(),
        "CircuitBreaker, rate of 100": breaker(failure_rate=0.5),
        "CircuitBreaker, rate of 10 s": breaker(failure_rate=0.5, window_seconds=10.0),
        "CircuitBreaker, slow calls": breaker(slow_after=1.0),
    }
    ways = {
        LOCK: alocked(awork),
        "bare await": awork,
        "wrapper": awrapper(awork),
        **around(awork, ours),
        **around(awork, peers.abreakers()),
    }
    limits = dict.fromkeys(list(ours)[:2], 1.0)
    return Case("closed breaker, async", LOCK, aloops(ways), limits, INNER)


def opened() -> Case:
    raising = {
        "bare raise": broken,
        "flag, raise": HandWritten(is_open=True)(work),
        "CircuitBreaker": tripped(breaker())(work),
        **{name: tripped(guard)(work) for name, guard in peers.breakers().items()},
    }
    candidates = {LOCK: loop(locked(work))}
    candidates |= {name: caught(fn) for name, fn in raising.items()}
    name = "open breaker: raise and catch, against a call that passes"
    return Case(name, LOCK, candidates, {"CircuitBreaker": 2.5}, INNER)


def threaded() -> Case:
    ours = {
        "CircuitBreaker": breaker(),
        "CircuitBreaker, rate of 100": breaker(failure_rate=0.5),
        "CircuitBreaker, rate of 10 s": breaker(failure_rate=0.5, window_seconds=10.0),
        "CircuitBreaker, slow calls": breaker(slow_after=1.0),
    }
    ways = {
        LOCK: locked(work),
        "bare call": work,
        "wrapper": wrapper(work),
        **around(work, ours),
        **around(work, peers.breakers()),
    }
    return Case(
        "closed breaker shared by 8 threads, CPU time of the process",
        LOCK,
        {name: crowd(way) for name, way in ways.items()},
        inner=CROWD * THREADS,
        rounds=15,
        clock=time.process_time,
        per_second=True,
        floors=dict.fromkeys(list(ours)[:2], 0.9),
    )


# -- retries ------------------------------------------------------------------------------


def retried() -> Case:
    ways = {
        "wrapper": wrapper(work),
        "Retry": retry()(work),
        "Retry with budget": retry(budget=RetryBudget())(work),
        **around(work, peers.retries()),
    }
    name = "retry, first attempt succeeds, sync"
    return Case(name, "wrapper", loops(ways), {"Retry": 1.3}, INNER)


def retried_async() -> Case:
    ways = {
        "wrapper": awrapper(awork),
        "Retry": retry()(awork),
        "Retry with budget": retry(budget=RetryBudget())(awork),
        **around(awork, peers.retries()),
    }
    return Case("retry, first attempt succeeds, async", "wrapper", aloops(ways), inner=INNER)


def dead() -> Counted:
    clock = ManualClock()
    budget = RetryBudget(ratio=0.1, clock=clock)
    ours = {
        "Retry with budget": retry(wait=0.0, budget=budget, clock=clock),
        "Retry": retry(wait=0.0, clock=clock),
    }
    limits = {"Retry with budget": 1.1 + budget.floor / DEAD_CALLS}
    candidates = {
        name: functools.partial(attempts, decorate)
        for name, decorate in {**ours, **peers.budgets(clock.monotonic)}.items()
    }
    name = f"dead dependency, {DEAD_CALLS:,} calls of up to 3 attempts"
    return Counted(name, "attempts a call", candidates, limits)


def attempts(decorate: Callable[[Function], Function]) -> float:
    made = 0

    def counted(x: int) -> int:
        nonlocal made
        made += 1
        raise ConnectionError(x)

    guarded = decorate(counted)
    for _ in range(DEAD_CALLS):
        with contextlib.suppress(Exception):
            guarded(1)
    return made / DEAD_CALLS


# -- stacks -------------------------------------------------------------------------------


def stacked() -> Case:
    ours = {
        "Fallback, Retry, CircuitBreaker": compose(Fallback(0.0), retry(), breaker()),
        "Retry, CircuitBreaker": compose(retry(), breaker()),
    }
    ways = {
        LOCK: locked(work),
        **around(work, ours),
        "FallbackChain": FallbackChain(Rung("model", work)),
        "FallbackChain, guarded rung": FallbackChain(Rung("model", work, breaker=breaker())),
        **around(work, peers.stacks()),
    }
    limits = {"Fallback, Retry, CircuitBreaker": 1.3}
    return Case("fallback, retry, breaker, all well, sync", LOCK, loops(ways), limits, INNER)


def stacked_async() -> Case:
    async def limited(x: int) -> int:
        async with asyncio.timeout(30.0):
            return await awork(x)

    whole = "Fallback, Retry, CircuitBreaker, Timeout"
    ours = {
        whole: compose(Fallback(0.0), retry(), breaker(), Timeout(30.0)),
        "Timeout": Timeout(30.0),
    }
    ways = {
        "asyncio.timeout": limited,
        **around(awork, ours),
        **around(awork, peers.limited_stacks()),
    }
    name = "fallback, retry, breaker, timeout, all well, async"
    return Case(name, "asyncio.timeout", aloops(ways), {whole: 1.4}, INNER)


def timed() -> Case:
    pool = ThreadPoolExecutor(1)
    atexit.register(pool.shutdown)

    def pooled(x: int) -> int:
        return pool.submit(work, x).result(timeout=30.0)

    ways = {
        "thread pool": pooled,
        "Timeout": Timeout(30.0)(work),
        "Fallback, Retry, CircuitBreaker, Timeout": compose(
            Fallback(0.0), retry(), breaker(), Timeout(30.0)
        )(work),
        **around(work, peers.timeouts()),
    }
    return Case(
        "timeout, sync, wall clock, one core",
        "thread pool",
        loops(ways),
        {"Timeout": 1.2},
        INNER,
        clock=time.perf_counter,
        one_core=True,
    )


def answered_while_open() -> Case:
    ours = "Fallback, Retry, CircuitBreaker"
    ways = {
        "by hand (not thread-safe)": answered(HandWritten(is_open=True)(work)),
        ours: compose(Fallback(0.0), retry(), tripped(breaker()))(work),
        **around(work, peers.opened_stacks(tripped)),
    }
    return Case(
        "fallback while the breaker is open, wall clock",
        "by hand (not thread-safe)",
        loops(ways),
        inner=INNER,
        clock=time.perf_counter,
        limits_ns={ours: 1e6},
    )


def slept_while_open() -> Counted:
    def slept() -> float:
        clock = ManualClock()
        guard = tripped(breaker(reset_timeout=30.0, clock=clock))
        compose(Fallback(0.0), retry(clock=clock), guard)(work)(1)
        return sum(clock.slept)

    ours = "Fallback, Retry, CircuitBreaker"
    candidates = {ours: slept, **peers.sleepers(tripped, work)}
    name = "fallback while the breaker is open for 30 s"
    return Counted(name, "seconds slept", candidates, {ours: 0.0})


# -- the rest -----------------------------------------------------------------------------


def others() -> Case:
    ours = {
        "Bulkhead": Bulkhead(8),
        "Bulkhead with a queue": Bulkhead(8, queue=8),
        "AdaptiveLimiter": AdaptiveLimiter(1.0),
        "RateLimiter": RateLimiter(1e9),
        "Deadline": Deadline(30.0),
        "Chaos, switched off": Chaos(active=False),
        "whole order, no timeout": compose(
            Fallback(0.0), Deadline(30.0), retry(), breaker(), Bulkhead(8)
        ),
    }
    ways = {LOCK: locked(work), **around(work, ours), **around(work, peers.others())}
    return Case("other guards, uncontended", LOCK, loops(ways), inner=INNER)


# In the order of the page.
CASES = (
    closed,
    closed_by_hand,
    closed_by_time,
    closed_async,
    opened,
    threaded,
    retried,
    retried_async,
    dead,
    stacked,
    stacked_async,
    timed,
    answered_while_open,
    slept_while_open,
    others,
)


def cases() -> Iterator[Case | Counted]:
    """Build each case when its turn comes: an open breaker must not have closed by then."""
    return (make() for make in CASES)


if __name__ == "__main__":
    main(cases())
