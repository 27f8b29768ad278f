"""At most so many calls at once: one slow dependency cannot take every thread with it.

The free places lie in a deque.  While somebody waits it is empty: a place that is given back
goes to the first in line by hand, so nobody who comes later can snatch it, and a place that
is found in the deque may be taken without a lock.
"""

import sys
import threading
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeAlias, final

from prodml._call import Steps, Wait, WaitingGuard, run
from prodml._deadline import remaining
from prodml.clock import SYSTEM_CLOCK, Clock
from prodml.errors import BadConfiguration, BulkheadFull
from prodml.resilience._bounds import at_least, seconds

__all__ = ["Bulkhead"]

_Waiter: TypeAlias = "Future[None]"


@final
@dataclass(kw_only=True, slots=True, eq=False)
class Bulkhead(WaitingGuard[None]):
    """Admit at most ``limit`` calls at once; let ``queue`` more wait; reject the rest.

    One limit and one queue hold for all threads and event loops together.  However a call
    ends, its place is free again; an abandoned *thread* that still hangs behind a timeout
    outside the bulkhead keeps its place until it really returns.

    Parameters
    ----------
    limit
        Calls at once, at least 1.
    queue
        Calls that may wait for a place; 0 rejects at once what finds none.
    max_wait
        Seconds that a call waits at most; None means as long as the request has.
    name
        Names the bulkhead in errors.
    clock
        Tells how long a rejected call has waited.

    Raises
    ------
    BadConfiguration
        A setting is out of range, or ``max_wait`` is set without a queue.

    Notes
    -----
    *Order.*  First come, first served, whether thread or task.  A newcomer never takes a
    place while somebody waits, even if its thread is running and the waiter's is not.

    *Going away.*  A waiter whose time is over, whose task is cancelled or whose thread is
    interrupted leaves the queue at once.  If a place was on its way to it just then, the
    next in line gets it.

    *Waiting* ends with ``max_wait`` or the request's deadline, whichever is earlier.  In an
    event loop use the awaiting forms: a plain call or ``with`` block there is rejected
    rather than queued, because it would stop the very tasks that hold the places.  A call
    that waits inside a place of the same bulkhead waits for itself: do not nest it.

    *Speed.*  Entering takes no lock while places are free, and leaving takes none without a
    queue.

    *Forks.*  A child begins with the places taken that were taken at the fork, and nobody
    there gives them back: make the bulkhead in the child, or fork before serving.

    Examples
    --------
    >>> bulkhead = Bulkhead(1, name="gpu")
    >>> with bulkhead:
    ...     bulkhead.call(abs, -1)
    Traceback (most recent call last):
        ...
    prodml.errors.BulkheadFull: bulkhead 'gpu' is full: 1 calls in flight
    >>> bulkhead.call(abs, -1), bulkhead.in_flight, bulkhead.rejected
    (1, 0, 1)

    With a queue, five calls at once are served two at a time:

    >>> from concurrent.futures import ThreadPoolExecutor
    >>> bulkhead = Bulkhead(2, queue=3, max_wait=30.0)
    >>> with ThreadPoolExecutor(5) as pool:
    ...     sorted(pool.map(bulkhead(abs), range(-5, 0)))
    [1, 2, 3, 4, 5]
    """

    limit: int = field(kw_only=False, metadata={"fixed": "its places are handed out already"})
    queue: int = 0
    max_wait: float | None = None
    name: str = "bulkhead"
    clock: Clock = SYSTEM_CLOCK
    _places: deque[None] = field(init=False, repr=False)
    _line: deque[_Waiter] = field(default_factory=deque[_Waiter], init=False, repr=False)
    _rejected: int = field(default=0, init=False, repr=False)
    # Reentrant, because a generator that is collected while this thread holds the lock
    # gives its place back in the midst of what stands below.
    _lock: Any = field(default_factory=threading.RLock, init=False, repr=False)

    def __post_init__(self) -> None:
        at_least(self, 1, "limit")
        at_least(self, 0, "queue")
        seconds(self, "max_wait", optional=True)
        if self.max_wait is not None and not self.queue:
            raise BadConfiguration(
                f"max_wait={self.max_wait!r} needs a queue: set queue=, or nobody waits"
            )
        self._places = deque([None] * self.limit)

    @property
    def in_flight(self) -> int:
        """Calls inside now."""
        return self.limit - len(self._places)

    @property
    def waiting(self) -> int:
        """Calls in the queue now."""
        return len(self._line)

    @property
    def rejected(self) -> int:
        """Calls that found no place, or none in time."""
        return self._rejected

    def admit(self) -> Steps | None:
        """Take a place, return the steps to one, or raise ``BulkheadFull``."""
        try:
            self._places.pop()
        except IndexError:
            if not self.queue:
                raise self._full() from None
        else:
            return None
        return self._queued()

    def enter(self) -> None:
        """Take a place, waiting in this thread, or raise ``BulkheadFull``."""
        try:
            self._places.pop()
        except IndexError:
            if not self.queue or _in_event_loop():
                raise self._full() from None
        else:
            return
        run(self._queued(), self.clock)

    def leave(self, token: None, result: Any) -> None:  # noqa: ARG002
        """Give the place back."""
        if self.queue:
            self._release()
        else:
            self._places.append(None)
            if self._line:
                self._pass_on()

    def fail(self, token: None, error: BaseException) -> None:  # noqa: ARG002
        """Give the place back."""
        self.leave(None, None)

    # -- the queue ------------------------------------------------------------------------

    def _queued(self) -> Steps:
        waiter: _Waiter = Future()
        began = self.clock.monotonic()
        if not self._line_up(waiter):
            return None, self._full()
        gone = True
        try:
            yield Wait(waiter, self._patience())
            gone = False
        finally:
            if gone and not self._withdraw(waiter):
                self._release()
        # Whoever is not in line any more has been given a place, if only just in time.
        if self._withdraw(waiter):
            return None, self._full(self.clock.monotonic() - began)
        return None, None

    def _patience(self) -> float | None:
        left = remaining()
        if left is None or self.max_wait is None:
            return self.max_wait if left is None else max(0.0, left)
        return max(0.0, min(left, self.max_wait))

    def _line_up(self, waiter: _Waiter) -> bool:
        with self._lock:
            if len(self._line) >= self.queue:
                return False
            try:
                self._places.pop()
            except IndexError:
                self._line.append(waiter)
            else:
                waiter.set_result(None)
        self._pass_on()
        return True

    def _pass_on(self) -> None:
        """Hand over what was given back without a look at the line.

        Only a queue that has just been switched on, or a generator collected in this very
        moment, leaves anything to do.
        """
        while self._line:
            try:
                self._places.pop()
            except IndexError:
                return
            self._release()

    def _release(self) -> None:
        with self._lock:
            # Nothing else of this thread can run between the look and the step.
            waiter = self._line.popleft() if self._line else None
            if waiter is None:
                self._places.append(None)
                return
        # Outside the lock, because this wakes others and calls back.
        waiter.set_result(None)

    def _withdraw(self, waiter: _Waiter) -> bool:
        """Leave the queue; False if a place has been handed over instead."""
        if waiter.done():
            return False
        with self._lock:
            try:
                self._line.remove(waiter)
            except ValueError:
                return False
        return True

    def _full(self, waited: float | None = None) -> BulkheadFull:
        with self._lock:
            self._rejected += 1
            waiting = len(self._line)
        return BulkheadFull(self.name, self.limit, waiting, waited)


def _in_event_loop() -> bool:
    asyncio: Any = sys.modules.get("asyncio")
    return asyncio is not None and asyncio._get_running_loop() is not None  # noqa: SLF001
