"""Load shedding: what overload leaves of a server, by the policy that stands before it.

``python -m benchmarks.load_shedding`` prints the table of a discrete-event simulation and
what an admission costs.  The simulation drives the library's own objects on a clock of its
own, so a run is the same on every machine.

The testbed: a server of ``c`` workers, a first-come-first-served queue, exponential service
of 20 ms, Poisson arrivals at a constant multiple of what the workers can do, from a cold
start.  Callers stop caring after 200 ms, but what was admitted is served.  100 seconds are
simulated and the last 40 scored: calls are scored by when they arrive (shed) and when they
are answered (goodput, p99).

AIMD, Vegas and Gradient2 are restated here from their published formulas, with the defaults
of Netflix concurrency-limits but for a limit of 20 to start with and of 1 at least, and no
periodic re-probing in Vegas.  They learn from the mean latency of each second.
"""

import argparse
import functools
import heapq
import math
import random
import statistics
import sys
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from benchmarks.runner import Case, markdown, measure
from prodml.clock import SystemClock
from prodml.errors import BulkheadFull
from prodml.resilience.adaptive_limit import AdaptiveLimiter
from prodml.resilience.bulkhead import Bulkhead

RATE = 50.0  # answers a second and worker: 20 ms each
DEADLINE = 0.200
SECONDS, SCORED = 100.0, 40.0
WORKERS = (2, 10, 40)
UNDER, OVER = 0.8, 2.0
SEEDS = 5

Policy = Any
"""Anything with the ``enter`` and ``leave`` of a guard."""


class Hand(SystemClock):
    """A clock whose hand the simulation moves."""

    __slots__ = ("now",)

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


# -- peers --------------------------------------------------------------------------------


class Open:
    """Admits everything."""

    def enter(self) -> float:
        return 0.0

    def leave(self, token: float, result: None) -> None: ...


class Peer:
    """A limit that learns from every answer; subclasses say how."""

    def __init__(self, clock: Hand) -> None:
        self.clock = clock
        self.limit = 20.0
        self.in_flight = 0
        self.full = BulkheadFull("peer", 0)

    def enter(self) -> tuple[float, int]:
        if self.in_flight >= int(self.limit):
            raise self.full
        self.in_flight += 1
        return self.clock.now, self.in_flight

    def leave(self, token: tuple[float, int], result: None) -> None:
        self.in_flight -= 1
        self.learn(self.clock.now - token[0], token[1])

    def learn(self, latency: float, in_flight: int) -> None:
        raise NotImplementedError


def aimd(peer: Peer, latency: float, in_flight: int) -> None:
    """One more after what was in time, a tenth less after what took more than 100 ms."""
    if latency > 0.100:
        peer.limit = max(1.0, min(peer.limit - 1, math.floor(peer.limit * 0.9)))
    elif in_flight * 2 >= peer.limit:
        peer.limit = min(1000.0, peer.limit + 1)


class AimdByCall(Peer):
    learn = aimd


class Windowed(Peer):
    """Learns once a second from the mean of at least ten calls."""

    def __init__(self, clock: Hand) -> None:
        super().__init__(clock)
        self.begin()

    def begin(self) -> None:
        self.since, self.calls, self.sum, self.most = self.clock.now, 0, 0.0, 0

    def learn(self, latency: float, in_flight: int) -> None:
        self.calls += 1
        self.sum += latency
        self.most = max(self.most, in_flight)
        if self.calls >= 10 and self.clock.now - self.since >= 1.0:
            mean, most = self.sum / self.calls, self.most
            self.begin()
            self.conclude(mean, most)

    def conclude(self, latency: float, in_flight: int) -> None:
        raise NotImplementedError


class AimdBySecond(Windowed):
    conclude = aimd


class Vegas(Windowed):
    """Keeps between three and six calls queued, by the smallest latency ever seen."""

    unloaded = math.inf

    def conclude(self, latency: float, in_flight: int) -> None:
        if latency < self.unloaded:
            self.unloaded = latency
            return
        if in_flight * 2 < self.limit:
            return
        unit = max(1, int(math.log10(self.limit)))
        queued = math.ceil(self.limit * (1 - self.unloaded / latency))
        if queued <= unit:
            self.limit += 6 * unit
        elif queued < 3 * unit:
            self.limit += unit
        elif queued > 6 * unit:
            self.limit -= unit
        self.limit = min(max(self.limit, 1.0), 1000.0)


class Gradient2(Windowed):
    """Shrinks by the ratio of the long-term latency to that of now, and allows four queued."""

    seen = 0
    usual = 0.0

    def conclude(self, latency: float, in_flight: int) -> None:
        self.seen += 1
        weight = 1 / self.seen if self.seen <= 10 else 2 / 601
        self.usual += weight * (latency - self.usual)
        if self.usual > 2 * latency:
            self.usual *= 0.9
        if in_flight * 2 < self.limit:
            return
        gradient = max(0.5, min(1.0, self.usual / latency))
        target = self.limit * gradient + 4
        self.limit = min(max(0.8 * self.limit + 0.2 * target, 1.0), 200.0)


POLICIES: dict[str, Callable[[Hand], Policy]] = {
    "none": lambda _: Open(),
    "Bulkhead(20)": lambda _: Bulkhead(20),
    "AIMD, 100 ms, by call": AimdByCall,
    "AIMD, 100 ms, by second": AimdBySecond,
    "Vegas": Vegas,
    "Gradient2": Gradient2,
    "AdaptiveLimiter(0.067)": lambda clock: AdaptiveLimiter(DEADLINE / 3, clock=clock),
}


# -- the simulation -----------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """What one run came to, over the scored seconds."""

    shed: float  # share of the arrivals
    goodput: float  # answers within the deadline, as a share of what the workers can do
    p99: float  # seconds, of what was admitted


def simulate(
    make: Callable[[Hand], Policy],
    workers: int,
    load: float | Callable[[float], float],
    seed: int,
    *,
    seconds: float = SECONDS,
    scored: float = SCORED,
) -> Run:
    """Drive the policy that ``make`` builds through one run; ``load`` may vary with time."""
    rng, clock = random.Random(seed), Hand()
    policy = make(clock)
    enter, leave, draw = policy.enter, policy.leave, rng.expovariate
    capacity, begin = workers * RATE, seconds - scored
    free = [0.0] * workers  # when each worker is next idle
    pending: list[tuple[float, float, Any]] = []  # (answered, arrived, token)
    latencies: list[float] = []
    offered = shed = 0
    now = 0.0
    while True:
        now += draw(capacity * (load(now) if callable(load) else load))
        while pending and pending[0][0] <= min(now, seconds):
            answered, arrived, token = heapq.heappop(pending)
            clock.now = answered
            leave(token, None)
            if answered >= begin:
                latencies.append(answered - arrived)
        if now >= seconds:
            break
        clock.now = now
        offered += now >= begin
        try:
            token = enter()
        except BulkheadFull:
            shed += now >= begin
            continue
        # First come, first served: the worker that is free first takes it.
        answered = max(now, free[0]) + draw(RATE)
        heapq.heapreplace(free, answered)
        heapq.heappush(pending, (answered, now, token))
    good = sum(latency <= DEADLINE for latency in latencies)
    p99 = statistics.quantiles(latencies, n=100)[-1]
    return Run(shed / offered, good / (capacity * scored), p99)


def runs(policy: str, load: float, seeds: Iterable[int]) -> list[list[Run]]:
    """Runs of every seed, for each number of workers."""
    seeds = list(seeds)
    return [[simulate(POLICIES[policy], c, load, seed) for seed in seeds] for c in WORKERS]


def table(seeds: int = SEEDS) -> str:
    """Table of all policies as markdown; each cell is the worst of its seeds."""
    sizes = " / ".join(str(workers) for workers in WORKERS)
    head = f"shed at {UNDER:g}x, % | goodput at {OVER:g}x, % | p99 at {OVER:g}x, ms"
    lines = [f"| policy, c = {sizes} | {head} | goals |", "|---|--:|--:|--:|---|"]
    lines += [_row(policy, range(seeds)) for policy in POLICIES]
    return "\n".join(lines) + "\n"


def _row(policy: str, seeds: Iterable[int]) -> str:
    shed = [max(run.shed for run in some) for some in runs(policy, UNDER, seeds)]
    over = runs(policy, OVER, seeds)
    goodput = [min(run.goodput for run in some) for some in over]
    p99 = [max(run.p99 for run in some) for some in over]
    missed = [
        name
        for name, kept in (
            ("shed", max(shed) <= 0.01),
            ("goodput", min(goodput) >= 0.95),
            ("p99", max(p99) <= DEADLINE),
        )
        if not kept
    ]
    cells = (
        " / ".join(f"{100 * share:.1f}" for share in shed),
        " / ".join(f"{100 * share:.0f}" for share in goodput),
        " / ".join(f"{1000 * seconds:,.0f}" for seconds in p99),
        f"misses {', '.join(missed)}" if missed else "ok",
    )
    return f"| {policy} | {' | '.join(cells)} |"


# -- the price ----------------------------------------------------------------------------


def cases() -> list[Case]:
    """What one admission costs, against a wrapper with one uncontended lock."""
    inner = 200

    def work(x: int) -> int:
        return x

    def locked(fn: Callable[[int], int]) -> Callable[[int], int]:
        lock = threading.Lock()

        @functools.wraps(fn)
        def wrapped(x: int) -> int:
            with lock:
                pass
            return fn(x)

        return wrapped

    def loop(fn: Callable[[int], int]) -> Callable[[], None]:
        def many() -> None:
            for _ in range(inner):
                fn(1)

        return many

    limiter = AdaptiveLimiter(0.067)
    ways = {
        "one lock": locked(work),
        "Bulkhead": Bulkhead(8)(work),
        "AdaptiveLimiter": limiter(work),
        "AdaptiveLimiter.below": limiter.below(0.5)(work),
    }
    candidates = {name: loop(way) for name, way in ways.items()}
    return [Case("admission, sync", "one lock", candidates, inner=inner)]


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare policies under overload.")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    chosen = parser.parse_args()
    sys.stdout.write(table(chosen.seeds) + "\n")
    sys.stdout.write(markdown([result for case in cases() for result in measure(case)]))


if __name__ == "__main__":
    main()
