"""As many calls at once as the callee answers in time, found out while it works.

Calls are judged in windows.  A window whose middle call took longer than the target shows
a queue that *stands*, and the limit shrinks at once; a window in time, of which the limit
was used, lets it grow by one.  A burst makes some calls slow and passes, so it costs little.
"""

import math
import threading
from dataclasses import dataclass, field
from typing import Any, final

from prodml._call import Guard, abandoned
from prodml.clock import SYSTEM_CLOCK, Clock
from prodml.errors import BadConfiguration, BulkheadFull, Rejected
from prodml.resilience._bounds import at_least, seconds, share

__all__ = ["AdaptiveLimiter", "LimitShare"]

_HARDEST_BACKOFF = 0.5


@final
@dataclass(kw_only=True, slots=True, eq=False)
class AdaptiveLimiter(Guard[float]):
    """Admit as many calls at once as are answered within ``target``; reject the rest.

    A fixed :class:`Bulkhead` is right for one size of server.  This one starts at
    ``start`` and learns: additive increase while calls are in time and the limit is used,
    multiplicative decrease when they are late.  One limit holds for all threads and event
    loops together, and for every :meth:`below` of it.

    Parameters
    ----------
    target
        Seconds that the ``quantile`` of a window may take.  With the default quantile, a
        third of what the callers wait for: callers with 200 ms want 0.067.  It must be
        well above what an idle server takes, or the limit falls to ``minimum``.
    quantile
        Which call of a window is held against the target, in (0, 1): 0.5 is the median.
        A higher one keeps the queue shorter and sheds bursts that would have passed.
    window
        Calls that are judged together.  A shorter window reacts faster, also to bursts.
    start, minimum, maximum
        First, smallest and largest limit; ``start`` is kept within the other two.
    increase
        Added to the limit by a window in time, if at least half the limit was in flight.
    backoff
        The limit is multiplied by this, or by less if the calls were late by far, as soon
        as a window is late.
    name
        Names the limiter in errors.
    clock
        Collaborator.

    Raises
    ------
    BadConfiguration
        A setting is out of range.

    Notes
    -----
    *What teaches.*  A returned call teaches its latency.  A timeout (any ``TimeoutError``,
    so ``DeadlineExceeded`` too) counts as late however soon it came.  Any other exception
    counts if it took longer than the target and teaches nothing if it was quick: a fast
    error says nothing about the queue.  A call that was abandoned, or rejected by a policy
    further in, teaches nothing.  However a call ends, its place is free again.

    *Only calls that entered under the present limit are judged*, so the queue that an old
    limit left behind does not shrink the new one once more, as one congestion is one
    reduction in TCP.

    *How hard.*  In a full system latency is proportional to the calls in flight (Little's
    law), so ``target / mean`` is the factor that would be right at once; because a window
    may be a burst, the limit takes ``2 * target / mean``, at least 0.5 and at most
    ``backoff``.

    Additive increase and multiplicative decrease let several limiters before one server
    come to equal shares [1]_.  Judging the median instead of the slowest calls is the
    thought of CoDel [2]_: a queue that comes and goes is good, one that stands is not.
    Memory is a few numbers; no latency is kept.

    A call that never ends keeps its place, and calls that are all hung teach nothing:
    put a ``Timeout`` inside.  A generator's latency reaches to its end and includes what
    its consumer does between the items.

    Examples
    --------
    >>> limiter = AdaptiveLimiter(0.067, name="ranker", start=1)
    >>> limiter.call(abs, -1), limiter.limit, limiter.in_flight
    (1, 1, 0)
    >>> with limiter:
    ...     limiter.call(abs, -1)
    Traceback (most recent call last):
        ...
    prodml.errors.BulkheadFull: bulkhead 'ranker' is full: 1 calls in flight

    References
    ----------
    .. [1] Chiu and Jain (1989), "Analysis of the increase and decrease algorithms for
       congestion avoidance in computer networks", *Computer Networks and ISDN Systems* 17.
    .. [2] Nichols and Jacobson (2012), "Controlling queue delay", *ACM Queue* 10(5).
    """

    target: float = field(kw_only=False)
    quantile: float = 0.5
    window: int = 200
    start: int = field(default=20, metadata={"fixed": "the limit has moved on from it"})
    minimum: int = 1
    maximum: int = 1000
    increase: float = 1.0
    backoff: float = 0.9
    name: str = "limiter"
    clock: Clock = SYSTEM_CLOCK
    _limit: float = field(init=False, repr=False)
    _in_flight: int = field(default=0, init=False, repr=False)
    _rejected: int = field(default=0, init=False, repr=False)
    # The window: since when the limit stands, and what was seen under it.
    _since: float = field(default=-math.inf, init=False, repr=False)
    _calls: int = field(default=0, init=False, repr=False)
    _late: int = field(default=0, init=False, repr=False)
    _seconds: float = field(default=0.0, init=False, repr=False)
    _most: int = field(default=0, init=False, repr=False)
    _lock: threading.RLock = field(default_factory=threading.RLock, init=False, repr=False)

    def __post_init__(self) -> None:
        seconds(self, "target")
        at_least(self, 1, "window", "start", "minimum", "maximum")
        for name in ("quantile", "backoff"):
            if not 0 < getattr(self, name) < 1:
                raise BadConfiguration(
                    f"{name} must be between 0 and 1, not {getattr(self, name)!r}"
                )
        if not 0 < self.increase < math.inf:
            raise BadConfiguration(f"increase must be a number > 0, not {self.increase!r}")
        if self.minimum > self.maximum:
            raise BadConfiguration(f"minimum={self.minimum} is above maximum={self.maximum}")
        self._limit = self._bounded(self.start)

    @property
    def limit(self) -> int:
        """Calls that may be inside at once now."""
        return self._places(1.0)

    @property
    def in_flight(self) -> int:
        """Calls inside now; more than the limit for a while after it has shrunk."""
        return self._in_flight

    @property
    def rejected(self) -> int:
        """Calls that found no place, those of every :meth:`below` included."""
        return self._rejected

    def below(self, share: float, *, name: str | None = None) -> "LimitShare":
        """Guard for less urgent calls: admits them only into ``share`` of the limit.

        All calls count as in flight together, so the rest of the limit stays free for
        those that enter through the limiter itself.

        Raises
        ------
        BadConfiguration
            ``share`` is not in (0, 1].

        Examples
        --------
        >>> live = AdaptiveLimiter(0.067, start=4, name="ranker")
        >>> batch = live.below(0.5, name="ranker, batch")
        >>> with live, live:
        ...     live.call(abs, -1), batch.call(abs, -1)
        Traceback (most recent call last):
            ...
        prodml.errors.BulkheadFull: bulkhead 'ranker, batch' is full: 2 calls in flight
        """
        return LimitShare(self, share, name=name or f"{self.name} below {share:.0%}")

    def enter(self) -> float:
        """Take a place, or raise :class:`~prodml.errors.BulkheadFull`."""
        return self._admit(1.0, self.name)

    def leave(self, token: float, result: Any) -> None:  # noqa: ARG002
        """Give the place back and learn from the latency."""
        now = self.clock.monotonic()
        with self._lock:
            self._in_flight -= 1
            self._note(token, now, late=now - token > self.target)

    def fail(self, token: float, error: BaseException) -> None:
        """Give the place back and learn from a timeout or a late error."""
        now = self.clock.monotonic()
        with self._lock:
            self._in_flight -= 1
            if _is_late(error, now - token > self.target):
                self._note(token, now, late=True)

    def _admit(self, share: float, name: str) -> float:
        now = self.clock.monotonic()
        with self._lock:
            places = self._places(share)
            if self._in_flight < places:
                self._in_flight += 1
                self._most = max(self._most, self._in_flight)
                return now
            self._rejected += 1
        raise BulkheadFull(name, places)

    def _places(self, share: float) -> int:
        # Even a small share of a small limit lets one call into an idle server, and
        # rounding must not turn 70 % of 10 places into 6.
        return int(share * self._limit + 1e-9) or 1

    # -- the window: all of these run under the lock ----------------------------------------

    def _note(self, token: float, now: float, *, late: bool) -> None:
        if token < self._since:
            return
        self._calls += 1
        self._seconds += now - token
        if late:
            self._late += 1
            # As above: 10 % of 100 calls are 10.
            if self._late > int((1 - self.quantile) * self.window + 1e-9):
                self._settle(self._limit * self._factor(), now)
                return
        if self._calls >= self.window:
            used = 2 * self._most >= self._limit
            self._settle(self._limit + self.increase if used else self._limit, now)

    def _factor(self) -> float:
        mean = self._seconds / self._calls
        right = 2 * self.target / mean if mean > 0 else 1.0
        return min(self.backoff, max(_HARDEST_BACKOFF, right))

    def _settle(self, limit: float, now: float) -> None:
        """Set the limit and begin a new window."""
        limit = self._bounded(limit)
        if limit != self._limit:
            self._limit, self._since = limit, now
        self._calls = self._late = 0
        self._seconds, self._most = 0.0, self._in_flight

    def _bounded(self, limit: float) -> float:
        return float(min(max(limit, self.minimum), self.maximum))

    def _retuned(self) -> None:
        self._settle(self._limit, self.clock.monotonic())


@final
@dataclass(kw_only=True, slots=True, eq=False)
class LimitShare(Guard[float]):
    """Way into an :class:`AdaptiveLimiter` for less urgent calls; made by ``below``.

    Parameters
    ----------
    limiter
        Whose limit, window and places are used.
    share
        Admit only while fewer than this share of the limit, in (0, 1], is in flight; one
        call is always admitted into an idle limiter.
    name
        Names the share in errors.

    Raises
    ------
    BadConfiguration
        ``share`` is out of range.

    Notes
    -----
    Calls admitted here are judged like all others.  With a share under 0.5 they cannot
    let the limit grow by themselves, because half of it must have been tried out first.

    Examples
    --------
    >>> batch = AdaptiveLimiter(0.067).below(0.7)
    >>> batch.call(abs, -1), batch.limit, batch.rejected
    (1, 14, 0)
    """

    limiter: AdaptiveLimiter = field(kw_only=False)
    share: float = field(kw_only=False)
    name: str = "share"
    _rejected: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        share(self, "share")

    @property
    def limit(self) -> int:
        """Calls in flight, of any kind, at which this way in closes."""
        return self.limiter._places(self.share)  # noqa: SLF001 - of this module

    @property
    def rejected(self) -> int:
        """Calls that found no place here."""
        return self._rejected

    def enter(self) -> float:
        """Take a place of the limiter, or raise :class:`~prodml.errors.BulkheadFull`."""
        limiter = self.limiter
        try:
            return limiter._admit(self.share, self.name)  # noqa: SLF001 - of this module
        except BulkheadFull:
            with limiter._lock:  # noqa: SLF001 - of this module
                self._rejected += 1
            raise

    def leave(self, token: float, result: Any) -> None:
        """Give the place back and let the limiter learn from the latency."""
        self.limiter.leave(token, result)

    def fail(self, token: float, error: BaseException) -> None:
        """Give the place back and let the limiter learn from the error."""
        self.limiter.fail(token, error)


def _is_late(error: BaseException, over_target: bool) -> bool:
    if abandoned(error):
        return False
    # DeadlineExceeded is both: a rejection, and a timeout.
    return isinstance(error, TimeoutError) or (over_target and not isinstance(error, Rejected))
