"""Copies of answered requests, scored by versions that nobody waits for."""

import copy
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, final

from prodml.clock import SYSTEM_CLOCK, Clock
from prodml.errors import BadConfiguration, RejectedAnswer, UnknownVersion
from prodml.events import EVENTS, ShadowScored, Stream
from prodml.serving.routing import Route

__all__ = ["Shadow", "ShadowStats"]


@dataclass(frozen=True, slots=True)
class ShadowStats:
    """What became of the copies, counted in rows.

    ``offered = scored + failed + dropped + waiting``; ``waiting`` includes the rows being
    scored, ``dropped`` those that found the queue full or their version gone.

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


@dataclass(frozen=True, slots=True, eq=False)
class _Copy:
    """One answered request, or a batch of ``rows`` of them, for one shadow version."""

    version: str
    features: Any
    stable: Sequence[Any]
    stable_version: str
    request_ids: Sequence[str]
    rows: int
    batch: bool


@final
@dataclass(kw_only=True, slots=True, eq=False)
class Shadow:
    """Let shadow versions answer copies of requests, off the request path.

    A copy is queued without waiting for one daemon thread, which starts with the first
    copy and ends after ``idle`` seconds without work.  When ``size`` rows wait, new ones
    are dropped and counted.  What a shadow version raises is a number and a fact, never
    the request's problem.

    Parameters
    ----------
    borrow
        ``server.resolve``: counts the request into the version and returns its route.
    inline
        Score at once on the calling thread: for simulations and notebooks, where order
        matters more than latency.

    Examples
    --------
    >>> from prodml.serving import VersionedModelServer
    >>> server = VersionedModelServer()
    >>> server.load_model("v1", abs)
    >>> server.load_model("v2", lambda x: 1 / x)
    >>> shadow = Shadow(borrow=server.resolve, inline=True)
    >>> route = server.resolve("v1")
    >>> shadow.offer(["v2"], route, 0, route.predict(0))
    >>> route.release()
    >>> shadow.stats()
    ShadowStats(offered=1, scored=0, failed=1, dropped=0)
    """

    borrow: Callable[[str], Route]
    name: str = "models"
    size: int = 1000
    inline: bool = False
    idle: float = 5.0
    clock: Clock = SYSTEM_CLOCK
    events: Stream = EVENTS
    _waiting: deque[_Copy] = field(default_factory=deque[_Copy], init=False, repr=False)
    _rows: int = field(default=0, init=False, repr=False)
    _counts: dict[str, int] = field(init=False, repr=False)
    _changed: threading.Condition = field(
        default_factory=threading.Condition, init=False, repr=False
    )
    _thread: threading.Thread | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.size < 1:
            raise BadConfiguration(f"shadow_size must be at least 1 row, not {self.size!r}")
        self._counts = dict.fromkeys(("offered", "scored", "failed", "dropped"), 0)

    def offer(
        self,
        versions: Sequence[str],
        route: Route,
        features: Any,
        value: Any,
        request_ids: Sequence[str] = ("",),
        *,
        batch: bool = False,
    ) -> None:
        """Hand a copy to each of ``versions``; never waits, never raises an ``Exception``.

        ``features`` is copied shallowly, so a caller may reuse its dictionary.
        """
        rows = 1
        for version in versions:
            try:
                rows = len(features) if batch else 1
                # Asked without the lock: a full queue should not cost a copy.
                if not self.inline and self._rows + rows > self.size:
                    self._drop(rows)
                    continue
                stable = _answers(value, rows, batch=batch)
                kept = copy.copy(features)
                item = _Copy(version, kept, stable, route.version, request_ids, rows, batch)
                self._put(item)
            except Exception:
                self._drop(rows)

    def stats(self) -> ShadowStats:
        """Counters since the start."""
        with self._changed:
            return ShadowStats(**self._counts)

    def drain(self, timeout: float | None = None) -> bool:
        """Wait until nothing is waiting, at most ``timeout`` seconds; return whether so."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._rows, timeout)

    def _put(self, item: _Copy) -> None:
        if self.inline:
            self._count("offered", rows=item.rows)
            self._score(item)
            return
        with self._changed:
            # A thread that a fork left behind or that died counts as none.
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(
                    target=self._work, name=f"{self.name}-shadow", daemon=True
                )
                self._thread.start()
            self._counts["offered"] += item.rows
            self._rows += item.rows
            self._waiting.append(item)
            self._changed.notify_all()

    def _work(self) -> None:
        while (item := self._next()) is not None:
            try:
                self._score(item)
            finally:
                with self._changed:
                    self._rows -= item.rows
                    self._changed.notify_all()
                # Nothing of the request may stay alive in an idle thread.
                del item

    def _next(self) -> _Copy | None:
        with self._changed:
            if not self._changed.wait_for(lambda: self._waiting, self.idle):
                self._thread = None
                return None
            return self._waiting.popleft()

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
        elapsed = self.clock.monotonic() - started
        self._count("scored" if error is None else "failed", rows=item.rows)
        if self.events.wants(ShadowScored):
            self._state(item, answers, error, elapsed)

    def _state(
        self, item: _Copy, answers: Sequence[Any], error: Exception | None, elapsed: float
    ) -> None:
        """State one fact a row; a batch's time is shared equally by its rows."""
        for index in range(item.rows):
            self.events.emit(
                ShadowScored(
                    at=self.clock.time(),
                    source=self.name,
                    request_id=item.request_ids[index] if index < len(item.request_ids) else "",
                    version=item.version,
                    value=answers[index],
                    stable_version=item.stable_version,
                    stable_value=item.stable[index],
                    latency_ms=elapsed * 1e3 / item.rows,
                    error=error,
                )
            )

    def _count(self, *what: str, rows: int) -> None:
        with self._changed:
            for name in what:
                self._counts[name] += rows

    def _drop(self, rows: int) -> None:
        self._count("offered", "dropped", rows=rows)


def _answers(values: Any, rows: int, *, batch: bool) -> Sequence[Any]:
    answers = list(values) if batch else [values]
    if len(answers) != rows:
        raise RejectedAnswer(f"{len(answers)} answers for {rows} rows")
    return answers
