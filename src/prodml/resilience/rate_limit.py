"""At most so many calls per second, here or together with other processes.

The limit is kept as a schedule: each call is given the next of equally spaced moments, and
may come earlier by what an unused past has saved up.  That is two numbers, whatever the
rate, and no thread or timer fills anything up.
"""

import inspect
import math
import threading
from collections import deque
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, cast, final, runtime_checkable

from prodml._call import Guard, Invoke, Pause, Steps, WaitingGuard, arun, protect, run
from prodml._deadline import remaining
from prodml.clock import SYSTEM_CLOCK, Clock
from prodml.errors import BadConfiguration, DeadlineExceeded, RateLimited, StoreUnavailable
from prodml.events import EVENTS, Stream
from prodml.resilience._bounds import at_least, seconds
from prodml.resilience.circuit_breaker import CircuitBreaker
from prodml.stores import open_store

__all__ = ["RateLimiter", "RateStore"]

_UNNAMED = "rate-limiter"
_LONGEST_INTERVAL = 1e9
_WIRED = {"fixed": "make another limiter, and swap it in"}


@runtime_checkable
class RateStore(Protocol):
    """Keeps the schedules that several processes share.

    An object with a property ``twin`` says by it which store serves the other colour:
    threads, if its own ``take`` is awaited, or tasks.  A plain one without a twin is called
    in the event loop too, so it must be quick.
    """

    def take(
        self, key: str, interval: float, burst: int, patience: float
    ) -> tuple[bool, float] | Awaitable[tuple[bool, float]]:
        """Take the next permit of ``key`` if it is due within ``patience`` seconds; atomic.

        Permits are ``interval`` seconds apart, and ``burst`` of them can be saved up.
        Returns whether one was taken, and the seconds until it, or the next one, is due.
        """
        ...


class _Slot:
    """A permit that somebody waits for: when it is due, and whether they have gone away."""

    __slots__: tuple[str, ...] = ("due", "gone")

    def __init__(self, due: float) -> None:
        self.due: float = due
        self.gone: bool = False


class _Schedule:
    """GCRA: after ``count`` permits since ``epoch`` the next one is due at a known moment.

    One product instead of a sum that grows by ``interval`` with every call: roundings
    never add up, however long the limit is in use.
    """

    __slots__: tuple[str, ...] = ("count", "epoch", "slots")

    def __init__(self, now: float) -> None:
        self.epoch: float = now
        self.count: float = 0
        self.slots: deque[_Slot] = deque()

    def wait(self, now: float, interval: float, burst: int) -> float:
        """Seconds until the next permit is due; 0.0 if it is."""
        ahead = self.epoch + self.count * interval - now
        if ahead <= 0.0:
            self.epoch, self.count = now, 0
            return 0.0
        wait = ahead + (1 - burst) * interval
        # A caller that slept for exactly the time it was told may wake an ulp too early.
        return wait if wait > 0.0 and wait > 4 * math.ulp(now) else 0.0

    def take(self) -> None:
        """Take the next permit, which is due, and so are those that are still waited for."""
        self.count += 1
        if self.slots:
            self.slots.clear()

    def reserve(self, now: float, wait: float) -> _Slot:
        """Take the next permit, due in ``wait`` seconds, for somebody who waits for it."""
        self.count += 1
        slots = self.slots
        while slots and slots[0].due <= now:
            slots.popleft()
        slots.append(_Slot(now + wait))
        return slots[-1]

    def give_back(self, slot: _Slot) -> None:
        """Take the permit of ``slot`` back, unless one behind it is still waited for."""
        slot.gone = True
        while self.slots and self.slots[-1].gone:
            self.slots.pop()
            self.count -= 1

    def rescale(self, now: float, old: float) -> None:
        """Begin a new interval with as many permits saved up, or owed, as under ``old``."""
        self.count = max(0.0, self.count - (now - self.epoch) / old)
        self.epoch = now
        self.slots.clear()


@final
@dataclass(kw_only=True, slots=True, eq=False)
class RateLimiter(WaitingGuard[None]):
    """Admit ``rate`` calls per ``per`` seconds; make the rest wait a little, or reject them.

    A token bucket: it holds ``burst`` permits, a call takes one, and ``rate`` of them come
    back in ``per`` seconds.  Within any ``t`` seconds at most ``burst + rate * t / per``
    calls are admitted.  One limit holds for all threads and event loops together; with a
    ``store``, for all processes.

    Parameters
    ----------
    rate
        Calls per ``per`` seconds, > 0.
    per
        Seconds that ``rate`` refers to.
    burst
        Calls at once after a quiet time, at least 1; None means ``rate``, rounded down.
        With 1 the calls are evenly spaced.
    max_wait
        Seconds that a call waits for its permit at most; 0 rejects at once.
    name
        Names the limiter in errors, and is its key in the store.
    store
        Where processes share the limit: a Redis URL, a client of either colour, or a
        :class:`RateStore`; None keeps it in this process.  Nothing connects before the
        first call.
    on_outage
        What happens when the store does not answer: ``"open"`` limits in this process
        alone, at the full rate, so that ``n`` processes together admit ``n`` times as
        much; ``"closed"`` rejects every call.
    breaker
        Stands before the store; None makes one that opens with the first failure and tries
        again every second.
    clock, events
        Collaborators.

    Raises
    ------
    BadConfiguration
        A setting is out of range, nothing is registered for ``store``, or it cannot limit,
        or a shared limiter has no name of its own.

    Notes
    -----
    The generic cell rate algorithm in its virtual scheduling form [1]_, the token bucket of
    Turner [2]_ without a bucket.  Time is monotonic: setting the wall clock does nothing.

    *Waiting.*  A call that waits has its permit reserved, so those who come later wait
    longer, and nobody waits in vain: what would not be due within ``max_wait``, or before
    the request's deadline, is rejected at once.  A waiter that goes away gives its permit
    back if nobody behind it waits any more; else nobody is moved up and it is lost, so the
    limit errs on the strict side.  So is the permit of one that waits for a store's limit.
    In an event loop use the awaiting forms: a plain call there would stop the loop.

    *Sharing.*  Limiters of one ``name`` on one server share a limit; give them the same
    settings.  A call costs one round trip to the server, whose clock counts; setting that
    clock back changes nothing, setting it forward may grant one more burst.  While the
    breaker is open, the store is not asked and costs nothing.

    Examples
    --------
    >>> from prodml.testing import ManualClock
    >>> clock = ManualClock()
    >>> limiter = RateLimiter(10, burst=2, name="api", clock=clock)
    >>> limiter.call(abs, -1), limiter.call(abs, -2)
    (1, 2)
    >>> limiter.call(abs, -3)
    Traceback (most recent call last):
        ...
    prodml.errors.RateLimited: rate limit 'api' reached; next permit in 0.1 s
    >>> clock.advance(0.1)
    >>> limiter.call(abs, -3), limiter.admitted, limiter.rejected
    (3, 3, 1)

    References
    ----------
    .. [1] ITU-T Recommendation I.371 (2004), *Traffic control and congestion control in
       B-ISDN*.
    .. [2] Turner (1986), "New directions in communications (or which way to the information
       age?)", *IEEE Communications Magazine* 24(10).
    """

    rate: float = field(kw_only=False)
    per: float = 1.0
    burst: int | None = None
    max_wait: float = 0.0
    name: str = _UNNAMED
    store: Any = field(default=None, repr=False, metadata=_WIRED)
    on_outage: Literal["open", "closed"] = "open"
    breaker: Guard[Any] | None = field(default=None, metadata=_WIRED)
    clock: Clock = SYSTEM_CLOCK
    events: Stream = EVENTS
    _admitted: int = field(default=0, init=False, repr=False)
    _interval: float = field(init=False, repr=False)
    _most: int = field(init=False, repr=False)
    _outages: int = field(default=0, init=False, repr=False)
    _rejected: int = field(default=0, init=False, repr=False)
    _schedule: _Schedule = field(init=False, repr=False)
    _stores: tuple[Any, Any] = field(default=(None, None), init=False, repr=False)
    # Reentrant, because a waiting task that is collected while this thread holds the lock
    # gives its permit back.
    _lock: Any = field(default_factory=threading.RLock, init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 < self.rate < math.inf:
            raise BadConfiguration(f"rate must be a finite number of calls > 0, not {self.rate!r}")
        seconds(self, "per")
        seconds(self, "max_wait", zero=True)
        at_least(self, 1, "burst", optional=True)
        if self.on_outage not in ("open", "closed"):
            raise BadConfiguration(f"on_outage must be 'open' or 'closed', not {self.on_outage!r}")
        self._set_pace()
        if not 0 < self._interval <= _LONGEST_INTERVAL:
            raise BadConfiguration(f"one call in {self._interval:.3g} s is no rate: see rate, per")
        self._schedule = _Schedule(self.clock.monotonic())
        if self.store is not None:
            self._share()

    def _share(self) -> None:
        if self.name == _UNNAMED:
            raise BadConfiguration("a shared limit needs a name=: processes find it by that")
        self._stores = _colours(self.store)
        # A URL may hold a password: from here on only the store is known.
        self.store = self._stores[0] or self._stores[1]
        if self.breaker is None:
            self.breaker = CircuitBreaker(
                f"{self.name}-store",
                failure_threshold=1,
                success_threshold=1,
                reset_timeout=1.0,
                clock=self.clock,
                events=self.events,
            )

    @property
    def admitted(self) -> int:
        """Calls that were given a permit, those who wait for it included."""
        return self._admitted

    @property
    def rejected(self) -> int:
        """Calls that were given none."""
        return self._rejected

    @property
    def outages(self) -> int:
        """Calls for which the store could not be asked."""
        return self._outages

    def admit(self) -> Steps | None:
        """Take a permit, return the steps to one, or raise ``RateLimited``."""
        return self._local() if self.store is None else self._shared()

    def leave(self, token: None, result: Any) -> None:
        """Nothing: a permit is spent, however the call ends."""

    def fail(self, token: None, error: BaseException) -> None:
        """Nothing: a permit is spent, however the call ends."""

    def close(self) -> None:
        """Let go of the store's connections; the next use opens new ones."""
        run(self._closing(), self.clock)

    def aclose(self) -> Awaitable[None]:
        """:meth:`close` for the connections of this event loop, awaited."""
        return arun(self._closing(), self.clock)

    # -- in this process ------------------------------------------------------------------

    def _local(self) -> Steps | None:
        now, schedule = self.clock.monotonic(), self._schedule
        with self._lock:
            wait = schedule.wait(now, self._interval, self._most)
            if not wait:
                schedule.take()
                self._admitted += 1
                return None
            if not self.max_wait or wait > self._patience():
                self._rejected += 1
                raise RateLimited(self.name, wait)
            self._admitted += 1
            slot = schedule.reserve(now, wait)
        return self._reserved(slot, wait)

    def _reserved(self, slot: _Slot, wait: float) -> Steps:
        error: Exception | None = None
        gone = True
        try:
            _, error = yield Pause(wait)
            gone = error is not None
        finally:
            if gone:
                with self._lock:
                    self._schedule.give_back(slot)
                    self._admitted -= 1
        return None, error

    def _patience(self) -> float:
        left = remaining() if self.max_wait else None
        return self.max_wait if left is None else max(0.0, min(left, self.max_wait))

    def _set_pace(self) -> None:
        self._interval = self.per / self.rate
        self._most = max(1, int(self.rate)) if self.burst is None else self.burst

    def _retuned(self) -> None:
        old = self._interval
        self._set_pace()
        self._schedule.rescale(self.clock.monotonic(), old)

    # -- with other processes -------------------------------------------------------------

    def _shared(self) -> Steps:
        args = (f"prodml:rate:{self.name}", self._interval, self._most, self._patience())
        plain, awaited = self._stores
        step = Invoke(_take_of(plain), args, acall=getattr(awaited, "take", None))
        answer, error = yield from protect(cast("Guard[Any]", self.breaker), step)
        if isinstance(error, DeadlineExceeded):
            # The request is late; that says nothing about the store.
            return None, error
        if error is not None:
            return (yield from self._outage(error))
        taken, wait = answer
        if not taken:
            return None, self._refusal(wait)
        return (yield from self._granted(wait))

    def _granted(self, wait: float) -> Steps:
        left = remaining()
        if left is not None and wait > max(0.0, left):
            return None, self._refusal(wait)
        with self._lock:
            self._admitted += 1
        return (yield Pause(wait)) if wait > 0 else (None, None)

    def _outage(self, error: Exception) -> Steps:
        with self._lock:
            self._outages += 1
        if self.on_outage == "closed":
            refusal = self._refusal(getattr(error, "retry_after", 1.0))
            refusal.__cause__ = error
            return None, refusal
        try:
            steps = self._local()
        except RateLimited as refusal:
            return None, refusal
        return (None, None) if steps is None else (yield from steps)

    def _refusal(self, wait: float) -> RateLimited:
        with self._lock:
            self._rejected += 1
        return RateLimited(self.name, wait)

    def _closing(self) -> Steps:
        plain, awaited = self._stores
        yield Invoke(getattr(plain, "close", _nothing), acall=getattr(awaited, "close", None))
        return None, None


def _nothing() -> None:
    """Stand in for a store that holds nothing."""


def _take_of(store: Any) -> Any:
    return _only_awaited if store is None else store.take


def _only_awaited(*_: Any) -> Any:
    raise StoreUnavailable("rate store", "it is asynchronous; pass a URL to use it in threads")


def _colours(target: Any) -> tuple[Any, Any]:
    """Store for threads and store for tasks, None where there is none."""
    store: Any = target if isinstance(target, RateStore) else open_store(target)
    if not isinstance(store, RateStore):
        raise BadConfiguration(f"{store!r} cannot limit rates: it has no method take")
    twin = getattr(store, "twin", None)
    return (twin, store) if inspect.iscoroutinefunction(store.take) else (store, twin)
