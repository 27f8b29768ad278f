"""Outcomes of the last calls: by count and by time.

Both windows take the time from the caller, may be fed by many threads at once, and forget
by themselves.  Noting a success takes no lock, because that happens on every healthy call;
reading a tally happens on failures and on scrape.
"""

import functools
import itertools
import math
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from prodml.errors import BadConfiguration

__all__ = ["FAILED", "OK", "SLOW", "CountWindow", "Tally", "Ticks", "TimeWindow", "Window"]

OK = 0
FAILED = 1
SLOW = 2


@dataclass(frozen=True, slots=True)
class Tally:
    """What a window holds: ``total`` calls, of which some failed and some were slow.

    Examples
    --------
    >>> Tally(4, 1, 0).failure_rate
    0.25
    """

    total: int = 0
    failures: int = 0
    slow: int = 0

    @property
    def failure_rate(self) -> float:
        """Share of failures, 0.0 of nothing."""
        return self.failures / self.total if self.total else 0.0

    @property
    def slow_rate(self) -> float:
        """Share of slow calls, 0.0 of nothing."""
        return self.slow / self.total if self.total else 0.0


Late: TypeAlias = Callable[[float], None]
"""Told of a call that began at a time and took too long."""


class Window(Protocol):
    """Where outcomes are noted: a sum of ``OK``, ``FAILED`` and ``SLOW`` each."""

    def add(self, outcome: int, now: float) -> None:
        """Note one outcome at ``now`` seconds of the caller's clock."""
        ...

    def tally(self, now: float) -> Tally:
        """Count what is not forgotten at ``now``."""
        ...

    def healthy(
        self, monotonic: Callable[[], float], slow_after: float | None, late: Late
    ) -> Callable[[float], object]:
        """Return the shortest way to note a success: a function of when the call began.

        A call that took ``slow_after`` seconds of ``monotonic`` or more goes to ``late``.
        """
        ...


class Ticks:
    """A counter that goes up without a lock: ``up()`` is a C call that happens as a whole.

    Reading advances it too, so readings are subtracted; they must not come at once.

    Examples
    --------
    >>> ticks = Ticks()
    >>> _ = ticks.up(), ticks.up()
    >>> ticks.value(), ticks.value()
    (2, 2)
    """

    __slots__: tuple[str, ...] = ("_readings", "counter", "up")

    def __init__(self) -> None:
        self.counter: Iterator[int] = itertools.count()
        self.up: Callable[[], int] = self.counter.__next__
        self._readings: int = 0

    def value(self) -> int:
        """How often it went up."""
        value = self.up() - self._readings
        self._readings += 1
        return value


class CountWindow:
    """The last ``size`` outcomes; ignores time.

    Notes
    -----
    A success is not stored: one C call that happens as a whole counts it, without a lock.
    Only what went wrong keeps the number of its call.

    Raises
    ------
    BadConfiguration
        ``size`` is below 1.

    Examples
    --------
    >>> window = CountWindow(3)
    >>> for outcome in (FAILED, FAILED, OK, OK):
    ...     window.add(outcome)
    >>> window.tally()
    Tally(total=3, failures=1, slow=0)
    """

    __slots__: tuple[str, ...] = ("_calls", "_failed", "_lock", "_size", "_slow")

    def __init__(self, size: int) -> None:
        if size < 1:
            raise BadConfiguration(f"size must be at least 1 call, not {size!r}")
        self._size: int = size
        self._calls: Ticks = Ticks()
        # Numbers of calls, at most ``size`` of them.
        self._failed: deque[int] = deque()
        self._slow: deque[int] = deque()
        self._lock: threading.RLock = threading.RLock()

    def add(self, outcome: int, now: float = 0.0) -> None:  # noqa: ARG002
        """Note one outcome in place of the oldest."""
        if outcome == OK:
            self._calls.up()
            return
        with self._lock:
            number = self._calls.value()
            self._calls.up()
            if outcome & FAILED:
                self._failed.append(number)
            if outcome & SLOW:
                self._slow.append(number)
            self._forget(number + 1)

    def healthy(
        self, monotonic: Callable[[], float], slow_after: float | None, late: Late
    ) -> Callable[[float], object]:
        """Return the shortest way to note a success; see :meth:`Window.healthy`."""
        if slow_after is None:
            # next(counter, began): the default of a counter that never ends is not used.
            return functools.partial(next, self._calls.counter)
        up, limit = self._calls.up, slow_after

        def timed(began: float) -> None:
            if monotonic() - began < limit:
                up()
            else:
                late(began)

        return timed

    def tally(self, now: float = 0.0) -> Tally:  # noqa: ARG002
        """Count the last ``size`` outcomes."""
        with self._lock:
            calls = self._calls.value()
            self._forget(calls)
            return Tally(min(calls, self._size), len(self._failed), len(self._slow))

    def _forget(self, calls: int) -> None:
        oldest = calls - self._size
        for numbers in (self._failed, self._slow):
            while numbers and numbers[0] < oldest:
                numbers.popleft()


class _Bucket:
    """Counts of one slice of time, the ``index``-th since the clock's zero."""

    __slots__: tuple[str, ...] = ("ends", "failures", "healthy", "index", "others", "slow")

    def __init__(self, index: int, ends: float) -> None:
        self.index: int = index
        self.ends: float = ends
        self.healthy: Ticks = Ticks()
        self.others: int = 0
        self.failures: int = 0
        self.slow: int = 0


class TimeWindow:
    """Outcomes of the last ``seconds``, in ``buckets`` slices that expire one by one.

    The slice that is being filled counts as a whole one, so the window reaches back
    between ``seconds * (1 - 1 / buckets)`` and ``seconds``.

    Raises
    ------
    BadConfiguration
        ``seconds`` is not positive or ``buckets`` is below 1.

    Examples
    --------
    >>> window = TimeWindow(10.0)
    >>> window.add(FAILED, now=0.0)
    >>> window.add(OK, now=9.5)
    >>> window.tally(9.9).failure_rate, window.tally(10.1).failure_rate
    (0.5, 0.0)
    """

    __slots__: tuple[str, ...] = ("_buckets", "_count", "_current", "_lock", "_slice")

    def __init__(self, seconds: float, buckets: int = 10) -> None:
        if not seconds > 0:
            raise BadConfiguration(f"seconds must be positive, not {seconds!r}")
        if buckets < 1:
            raise BadConfiguration(f"buckets must be at least 1, not {buckets!r}")
        self._count: int = buckets
        self._slice: float = seconds / buckets
        # Long expired, so that the first outcome begins a slice.
        self._current: _Bucket = _Bucket(-buckets - 1, -math.inf)
        self._buckets: list[_Bucket] = [self._current] * buckets
        self._lock: threading.RLock = threading.RLock()

    def add(self, outcome: int, now: float) -> None:
        """Note one outcome at ``now``."""
        index = int(now // self._slice)
        with self._lock:
            bucket = self._buckets[index % self._count]
            if bucket.index > index:
                # A thread that was held up between reading the clock and coming here.
                return
            if bucket.index < index:
                bucket = _Bucket(index, (index + 1) * self._slice)
                self._buckets[index % self._count] = bucket
                self._current = max(self._current, bucket, key=_index)
            bucket.others += 1
            bucket.failures += outcome & FAILED
            bucket.slow += outcome >> 1

    def healthy(
        self, monotonic: Callable[[], float], slow_after: float | None, late: Late
    ) -> Callable[[float], object]:
        """Return the shortest way to note a success; see :meth:`Window.healthy`."""
        if slow_after is None:

            def note(_began: float) -> None:
                bucket = self._current
                if monotonic() < bucket.ends:
                    bucket.healthy.up()
                else:
                    self.add(OK, monotonic())

            return note
        limit = slow_after

        def timed(began: float) -> None:
            now = monotonic()
            bucket = self._current
            if now - began >= limit:
                late(began)
            elif now < bucket.ends:
                bucket.healthy.up()
            else:
                self.add(OK, now)

        return timed

    def tally(self, now: float) -> Tally:
        """Count the slices that have not expired at ``now``."""
        oldest = int(now // self._slice) - self._count
        with self._lock:
            live = [bucket for bucket in self._buckets if bucket.index > oldest]
            return Tally(
                total=sum(bucket.healthy.value() + bucket.others for bucket in live),
                failures=sum(bucket.failures for bucket in live),
                slow=sum(bucket.slow for bucket in live),
            )


def _index(bucket: _Bucket) -> int:
    return bucket.index
