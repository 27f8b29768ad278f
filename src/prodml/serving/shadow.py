"""Copies of answered requests, scored by versions that nobody waits for."""

import copy
import math
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any, NamedTuple, Self, final

from prodml._call import Invoke, Steps, arun
from prodml.clock import SYSTEM_CLOCK, Clock
from prodml.errors import BadConfiguration, RejectedAnswer, UnknownVersion
from prodml.events import EVENTS, ShadowScored, Stream
from prodml.serving.difference import Apart, apart
from prodml.serving.diffs import Difference, ShadowDiff, Tally
from prodml.serving.slot import Route

__all__ = ["Shadow", "ShadowStats", "weight"]

# Comparisons that are kept, of the versions that were shadows last.
_TALLIES = 8
# Rows that weigh more are not kept with a difference.
_KEPT_ROW = 64 * 2**10
# To ask a number for its size takes longer than to guess it.
_FIXED = frozenset({int, float, bool, type(None)})
_SIZED = frozenset({str, bytes, dict, list, tuple})


@dataclass(frozen=True, slots=True)
class ShadowStats:
    """What became of the copies, counted in rows.

    ``offered = scored + failed + dropped + waiting``; ``waiting`` includes the rows being
    scored, ``dropped`` those that found the queue full, waited too long, or found their
    version gone.  Rows that a share left out were not offered.

    Examples
    --------
    >>> ShadowStats(offered=3, scored=2, dropped=1).waiting
    0
    """

    offered: int = 0
    scored: int = 0
    failed: int = 0
    dropped: int = 0

    @property
    def waiting(self) -> int:
        """Rows not yet scored."""
        return self.offered - self.scored - self.failed - self.dropped


class _Copy(NamedTuple):
    """One answered request, or a batch of ``rows`` of them, for one shadow version."""

    version: str
    features: Any
    stable: Sequence[Any]
    stable_version: str
    request_ids: Sequence[str]
    rows: int
    batch: bool
    size: int
    at: float


# As ``_Copy(...)``, in one call: copies are made on the request path.
_copied = partial(tuple.__new__, _Copy)


@final
@dataclass(kw_only=True, slots=True, eq=False)
class Shadow:
    """Let shadow versions answer copies of requests, off the request path.

    A copy is queued without waiting for one daemon thread, which starts with the first
    copy and ends after ``idle`` seconds without work.  When ``size`` rows or ``most`` bytes
    wait, new ones are dropped and counted; so are those that have waited ``age`` seconds.
    What a shadow version raises is a number and a fact, never the request's problem.
    A shadow that is awaited runs one copy after another in an event loop of that thread, so
    its clients (sessions, connections) must not belong to the loop that serves.

    Parameters
    ----------
    borrow
        ``server.resolve``: counts the request into the version and returns its route.
    inline
        Score at once on the calling thread: for simulations and notebooks, where order
        matters more than latency.  A shadow that is awaited then fails inside a running
        event loop.
    rtol, atol
        Answers agree within ``atol + rtol * abs(stable)``.

    Examples
    --------
    >>> from prodml.serving import VersionedModelServer
    >>> server = VersionedModelServer()
    >>> server.load_model("v1", abs)
    >>> server.load_model("v2", lambda x: 1 / x)
    >>> shadow = Shadow(borrow=server.resolve, inline=True)
    >>> route = server.resolve("v1")
    >>> shadow.offer({"v2": 1.0}, route, 0, route.predict(0))
    >>> route.release()
    >>> shadow.stats()
    ShadowStats(offered=1, scored=0, failed=1, dropped=0)
    """

    borrow: Callable[[str], Route]
    name: str = "models"
    size: int = 1000
    most: int = 64 * 2**20
    age: float = 60.0
    rtol: float = 1e-5
    atol: float = 1e-8
    inline: bool = False
    idle: float = 5.0
    rng: Random = field(default_factory=Random)
    clock: Clock = SYSTEM_CLOCK
    events: Stream = EVENTS
    _waiting: deque[_Copy] = field(default_factory=deque[_Copy], init=False, repr=False)
    _rows: int = field(default=0, init=False, repr=False)
    _bytes: int = field(default=0, init=False, repr=False)
    _counts: dict[str, int] = field(init=False, repr=False)
    _tallies: dict[str, Tally] = field(default_factory=dict[str, Tally], init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)
    _changed: threading.Condition = field(init=False, repr=False)
    # Whether somebody waits for a change: the worker without work, or who drains.
    _heard: int = field(default=0, init=False, repr=False)
    _thread: threading.Thread | None = field(default=None, init=False, repr=False)
    _process: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        for name, setting in (("size", "shadow_size"), ("most", "shadow_bytes")):
            if getattr(self, name) < 1:
                raise BadConfiguration(f"{setting} must be at least 1, not {getattr(self, name)!r}")
        for name in ("age", "rtol", "atol"):
            if not getattr(self, name) >= 0.0:
                raise BadConfiguration(
                    f"shadow_{name} must be 0 or more, not {getattr(self, name)!r}"
                )
        self._counts = dict.fromkeys(("offered", "scored", "failed", "dropped"), 0)
        # The request path takes the bare lock: the condition's own methods are of Python.
        self._changed = threading.Condition(self._lock)

    def offer(
        self,
        versions: Mapping[str, float],
        route: Route,
        features: Any,
        value: Any,
        request_ids: Sequence[str] = ("",),
        *,
        batch: bool = False,
    ) -> None:
        """Hand a copy to each of ``versions`` with its share; never waits, never raises.

        ``features`` is copied shallowly, so a caller may reuse its dictionary.
        """
        rows = 1
        for version, share in versions.items():
            if share < 1.0 and self.rng.random() >= share:
                continue
            try:
                rows = len(features) if batch else 1
                # Asked without the lock: a full queue should not cost a copy.
                if not self.inline and self._rows + rows > self.size:
                    self._drop(rows)
                    continue
                stable = _answers(value, rows) if batch else value
                size = weight(features) + weight(value)
                kept = copy.copy(features)
                now = self.clock.monotonic()
                item = (version, kept, stable, route.version, request_ids, rows, batch, size, now)
                self._put(_copied(item))
            except Exception:
                self._drop(rows)

    def stats(self) -> ShadowStats:
        """Counters since the start."""
        with self._lock:
            return ShadowStats(**self._counts)

    def diffs(self) -> dict[str, ShadowDiff]:
        """Comparison by shadow version, of the last eight."""
        with self._lock:
            return {version: tally.diff() for version, tally in self._tallies.items()}

    def drain(self, timeout: float | None = None) -> bool:
        """Wait until nothing is waiting, at most ``timeout`` seconds; return whether so."""
        with self._lock:
            return self._wait(lambda: not self._rows, timeout)

    # -- the queue ----------------------------------------------------------------------

    def _put(self, item: _Copy) -> None:
        if self.inline:
            self._count("offered", rows=item.rows)
            with _Loop() as loop:
                self._score(item, loop)
            return
        with self._lock:
            if self._bytes + item.size <= self.most:
                # A thread that a fork left behind counts as none.
                if self._thread is None or self._process != os.getpid():
                    self._start()
                self._counts["offered"] += item.rows
                self._rows += item.rows
                self._bytes += item.size
                self._waiting.append(item)
                if self._heard:
                    self._changed.notify_all()
                return
        self._drop(item.rows)

    def _start(self) -> None:
        thread = threading.Thread(target=self._work, name=f"{self.name}-shadow", daemon=True)
        thread.start()
        self._thread, self._process = thread, os.getpid()

    def _work(self) -> None:
        with _Loop() as loop:
            while (item := self._next()) is not None:
                # Only what is no ``Exception`` ends the thread; the next copy starts another.
                over = True
                try:
                    if self.clock.monotonic() - item.at > self.age:
                        self._count("dropped", rows=item.rows)
                    else:
                        self._score(item, loop)
                    over = False
                finally:
                    with self._lock:
                        self._rows -= item.rows
                        self._bytes -= item.size
                        if over:
                            self._counts["failed"] += item.rows
                            self._thread = None
                        if self._heard:
                            self._changed.notify_all()
                    # Nothing of the request may stay alive in an idle thread.
                    del item

    def _next(self) -> _Copy | None:
        with self._lock:
            if not self._waiting and not self._wait(lambda: self._waiting, self.idle):
                self._thread = None
                return None
            return self._waiting.popleft()

    def _wait(self, ready: Callable[[], Any], timeout: float | None) -> bool:
        self._heard += 1
        try:
            return bool(self._changed.wait_for(ready, timeout))
        finally:
            self._heard -= 1

    # -- scoring ------------------------------------------------------------------------

    def _score(self, item: _Copy, loop: "_Loop") -> None:
        if not item.batch:
            item = item._replace(stable=(item.stable,))
        try:
            route = self.borrow(item.version)
        except UnknownVersion:
            self._count("dropped", rows=item.rows)
            return
        started = self.clock.monotonic()
        answers: Sequence[Any] = [None] * item.rows
        error = None
        try:
            answers = _asked(route, item, loop)
        except Exception as raised:
            error = raised
        finally:
            route.release()
        latency_ms = (self.clock.monotonic() - started) * 1e3 / item.rows
        self._compare(item, route, answers, error is not None, latency_ms)
        if self.events.wants(ShadowScored):
            self._state(item, answers, error, latency_ms)
        # Last, so that whoever counts finds the comparison there.
        self._count("scored" if error is None else "failed", rows=item.rows)

    def _compare(
        self, item: _Copy, route: Route, answers: Sequence[Any], failed: bool, latency_ms: float
    ) -> None:
        pairs = [] if failed else zip(item.stable, answers, strict=True)
        found = [self._apart(stable, value) for stable, value in pairs]
        rows = item.features if item.batch else [item.features]
        keep = item.size <= _KEPT_ROW * item.rows
        with self._lock:
            tally = self._tally(route)
            tally.failed += item.rows if failed else 0
            for place, (agree, distance) in enumerate(found):
                tally.add(agree, distance, latency_ms)
                if not agree:
                    row = _row(rows, place) if keep else None
                    stable, value = item.stable[place], answers[place]
                    tally.keep(
                        Difference(distance, stable, value, row, _at(item.request_ids, place))
                    )

    def _apart(self, stable: Any, value: Any) -> Apart:
        try:
            return apart(stable, value, rtol=self.rtol, atol=self.atol)
        except Exception:
            # Answers of a kind that refuses to be compared do not agree.
            return False, math.inf

    def _tally(self, route: Route) -> Tally:
        tally = self._tallies.pop(route.version, None)
        if tally is None or tally.busy is not route.busy:
            tally = Tally(version=route.version, busy=route.busy)
        while len(self._tallies) >= _TALLIES:
            del self._tallies[next(iter(self._tallies))]
        self._tallies[route.version] = tally
        return tally

    def _state(
        self, item: _Copy, answers: Sequence[Any], error: Exception | None, latency_ms: float
    ) -> None:
        """State one fact a row; a batch's time is shared equally by its rows."""
        for index in range(item.rows):
            self.events.emit(
                ShadowScored(
                    at=self.clock.time(),
                    source=self.name,
                    request_id=_at(item.request_ids, index),
                    version=item.version,
                    value=answers[index],
                    stable_version=item.stable_version,
                    stable_value=item.stable[index],
                    latency_ms=latency_ms,
                    error=error,
                )
            )

    def _count(self, *what: str, rows: int) -> None:
        with self._lock:
            for name in what:
                self._counts[name] += rows

    def _drop(self, rows: int) -> None:
        self._count("offered", "dropped", rows=rows)


class _Loop:
    """An event loop for the shadows that are awaited, made when the first one comes."""

    __slots__ = ("_runner",)

    def __init__(self) -> None:
        self._runner: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._runner is not None:
            self._runner.close()

    def run(self, steps: Steps) -> Any:
        """Walk to the end, as awaiting callers do."""
        if self._runner is None:
            from asyncio import Runner

            self._runner = Runner()
        walk = arun(steps)
        try:
            return self._runner.run(walk)
        finally:
            # One that a running loop refused has never begun.
            walk.close()


def _asked(route: Route, item: _Copy, loop: _Loop) -> Sequence[Any]:
    if item.batch:
        if route.slot.synchronous:
            return _answers(route.predict_batch(item.features), item.rows)
        return _answers(loop.run(route.batch_steps(item.features)), item.rows)
    if route.slot.synchronous:
        return (route.predict(item.features),)
    return (loop.run(_single(route, item.features)),)


def _single(route: Route, features: Any) -> Steps:
    return (yield Invoke(route.predict, (features,), acall=route.apredict))


def weight(value: Any) -> int:
    """Bytes that keeping ``value`` keeps, roughly: arrays by their buffers, one level of others.

    Examples
    --------
    >>> weight(b"12345") < weight({"a": b"12345", "b": b"12345"})
    True
    """
    kind = type(value)
    if kind in _FIXED:
        return 32
    size = _flat(value)
    parts: Any = ()
    if isinstance(value, dict):
        parts = value.values()
    elif isinstance(value, list | tuple):
        parts = value
    for part in parts:
        kind = type(part)
        size += 32 if kind in _FIXED else 56 + len(part) if kind is str else _flat(part)
    return size


def _flat(value: Any) -> int:
    if type(value) in _SIZED:
        return sys.getsizeof(value)
    size = getattr(value, "nbytes", None)
    if isinstance(size, int):
        return size
    # To measure a frame takes longer than to copy it, so its cells are guessed.
    shape = getattr(value, "shape", None)
    return 8 * math.prod(shape) if isinstance(shape, tuple) else sys.getsizeof(value)


def _row(rows: Any, place: int) -> Any:
    return rows.iloc[place] if hasattr(rows, "iloc") else rows[place]


def _at(request_ids: Sequence[str], place: int) -> str:
    return request_ids[place] if place < len(request_ids) else ""


def _answers(values: Any, rows: int) -> Sequence[Any]:
    answers = list(values)
    if len(answers) != rows:
        raise RejectedAnswer(f"{len(answers)} answers for {rows} rows")
    return answers
