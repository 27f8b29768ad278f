"""Copies of answered requests, scored by versions that nobody waits for."""

import copy
import math
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, final

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
_SCALARS = frozenset({int, float, str, bytes, bool, type(None)})


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


# Not frozen: one is made on the request path, and freezing would triple its price.
@dataclass(slots=True, eq=False)
class _Copy:
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


@final
@dataclass(kw_only=True, slots=True, eq=False)
class Shadow:
    """Let shadow versions answer copies of requests, off the request path.

    A copy is queued without waiting for one daemon thread, which starts with the first
    copy and ends after ``idle`` seconds without work.  When ``size`` rows or ``most`` bytes
    wait, new ones are dropped and counted; so are those that have waited ``age`` seconds.
    What a shadow version raises is a number and a fact, never the request's problem.

    Parameters
    ----------
    borrow
        ``server.resolve``: counts the request into the version and returns its route.
    inline
        Score at once on the calling thread: for simulations and notebooks, where order
        matters more than latency.
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
    _changed: threading.Condition = field(
        default_factory=threading.Condition, init=False, repr=False
    )
    _thread: threading.Thread | None = field(default=None, init=False, repr=False)

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
                stable = _answers(value, rows, batch=batch)
                size = weight(features) + weight(value)
                kept = copy.copy(features)
                now = self.clock.monotonic()
                item = (version, kept, stable, route.version, request_ids, rows, batch, size, now)
                self._put(_Copy(*item))
            except Exception:
                self._drop(rows)

    def stats(self) -> ShadowStats:
        """Counters since the start."""
        with self._changed:
            return ShadowStats(**self._counts)

    def diffs(self) -> dict[str, ShadowDiff]:
        """Comparison by shadow version, of the last eight."""
        with self._changed:
            return {version: tally.diff() for version, tally in self._tallies.items()}

    def drain(self, timeout: float | None = None) -> bool:
        """Wait until nothing is waiting, at most ``timeout`` seconds; return whether so."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._rows, timeout)

    # -- the queue ----------------------------------------------------------------------

    def _put(self, item: _Copy) -> None:
        if self.inline:
            self._count("offered", rows=item.rows)
            self._score(item)
            return
        with self._changed:
            if self._bytes + item.size > self.most:
                self._drop(item.rows)
                return
            # A thread that a fork left behind or that died counts as none.
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(
                    target=self._work, name=f"{self.name}-shadow", daemon=True
                )
                self._thread.start()
            self._counts["offered"] += item.rows
            self._rows += item.rows
            self._bytes += item.size
            self._waiting.append(item)
            self._changed.notify_all()

    def _work(self) -> None:
        while (item := self._next()) is not None:
            try:
                if self.clock.monotonic() - item.at > self.age:
                    self._count("dropped", rows=item.rows)
                else:
                    self._score(item)
            finally:
                with self._changed:
                    self._rows -= item.rows
                    self._bytes -= item.size
                    self._changed.notify_all()
                # Nothing of the request may stay alive in an idle thread.
                del item

    def _next(self) -> _Copy | None:
        with self._changed:
            if not self._changed.wait_for(lambda: self._waiting, self.idle):
                self._thread = None
                return None
            return self._waiting.popleft()

    # -- scoring ------------------------------------------------------------------------

    def _score(self, item: _Copy) -> None:
        try:
            route = self.borrow(item.version)
        except UnknownVersion:
            self._count("dropped", rows=item.rows)
            return
        started = self.clock.monotonic()
        answers: Sequence[Any] = [None] * item.rows
        error = None
        try:
            ask = route.predict_batch if item.batch else route.predict
            answers = _answers(ask(item.features), item.rows, batch=item.batch)
        except Exception as raised:
            error = raised
        finally:
            route.release()
        latency_ms = (self.clock.monotonic() - started) * 1e3 / item.rows
        self._compare(item, route, answers, error is not None, latency_ms)
        # After the comparison, so that whoever counts finds it there.
        self._count("scored" if error is None else "failed", rows=item.rows)
        if self.events.wants(ShadowScored):
            self._state(item, answers, error, latency_ms)

    def _compare(
        self, item: _Copy, route: Route, answers: Sequence[Any], failed: bool, latency_ms: float
    ) -> None:
        pairs = [] if failed else zip(item.stable, answers, strict=True)
        found = [self._apart(stable, value) for stable, value in pairs]
        rows = item.features if item.batch else [item.features]
        keep = item.size <= _KEPT_ROW * item.rows
        with self._changed:
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
        with self._changed:
            for name in what:
                self._counts[name] += rows

    def _drop(self, rows: int) -> None:
        self._count("offered", "dropped", rows=rows)


def weight(value: Any) -> int:
    """Bytes that keeping ``value`` keeps, roughly: arrays by their buffers, one level of others.

    Examples
    --------
    >>> weight(b"12345") < weight({"a": b"12345", "b": b"12345"})
    True
    """
    if type(value) in _SCALARS:
        return sys.getsizeof(value)
    parts: Any = ()
    if isinstance(value, dict):
        parts = value.values()
    elif isinstance(value, list | tuple):
        parts = value
    return _flat(value) + sum([_flat(part) for part in parts])


def _flat(value: Any) -> int:
    if type(value) in _SCALARS:
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


def _answers(values: Any, rows: int, *, batch: bool) -> Sequence[Any]:
    answers = list(values) if batch else [values]
    if len(answers) != rows:
        raise RejectedAnswer(f"{len(answers)} answers for {rows} rows")
    return answers
