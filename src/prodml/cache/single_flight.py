"""One computation per key, shared by all who ask for it at the same time.

The first caller of a key *leads*; the others wait for its landing.  Threads and tasks,
plain and awaiting callers share one flight.  A leader that is cancelled hands over to one
of those who wait; a leader that fails fails them all, at once.  Nobody waits for himself:
a caller that would is told to compute alone.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import ContextVar
from enum import Enum
from typing import Final, TypeAlias

from prodml._call import Outcome, Steps, Wait
from prodml._deadline import expired, remaining
from prodml.errors import DeadlineExceeded

__all__ = ["ALONE", "HANDOVER", "SingleFlight", "leave_flights"]

Work: TypeAlias = Callable[[], Steps]


class _Word(Enum):
    """What a flight or its passenger may be told instead of an outcome."""

    HANDOVER = "the leader is gone"
    ALONE = "compute alone"


ALONE: Final = _Word.ALONE
"""Result told to a caller who cannot wait: he would wait for himself, or has waited enough."""


HANDOVER: Final = _Word.HANDOVER
"""Result of work that others cannot use: one of those who wait for it leads anew."""


class _WouldBlock(RuntimeError):
    """The thread that would wait is the one that has to finish the work."""


class _Flight(Future["Outcome | _Word"]):
    """A computation under way, and the thread in which its leader runs."""

    def __init__(self) -> None:
        super().__init__()
        self._leader: int = threading.get_ident()

    def result(self, timeout: float | None = None) -> "Outcome | _Word":
        # Only blocking callers come here before the landing; awaiting ones use callbacks.
        if not self.done() and self._leader == threading.get_ident():
            raise _WouldBlock
        return super().result(timeout)

    def seat(self, key: bytes) -> "_Flight":  # noqa: ARG002
        """What somebody waits for who wants ``key`` of it: one for many keys tells apart."""
        return self


# Flights led in this thread or task, or by whoever started it.
_LED: ContextVar[tuple[_Flight, ...]] = ContextVar("prodml_led_flights", default=())


def leave_flights() -> None:
    """Lead no flight any more in this context: it goes on apart from the one it came from.

    Examples
    --------
    >>> leave_flights()
    """
    _LED.set(())


class SingleFlight:
    """Shares the outcome of ``work()`` among concurrent callers of one key.

    Parameters
    ----------
    timeout
        Seconds that a caller waits for another's computation before it is told
        :data:`ALONE`; its request's deadline may end the wait earlier.

    Examples
    --------
    >>> from prodml._call import Invoke, run
    >>> flights = SingleFlight(timeout=30.0)
    >>> def work():
    ...     return (yield Invoke(lambda: 42))
    >>> run(flights.steps(b"key", work))
    (42, True)
    """

    __slots__: tuple[str, ...] = ("_flights", "timeout")

    def __init__(self, timeout: float) -> None:
        self.timeout: float = timeout
        self._flights: dict[bytes, _Flight] = {}

    def __len__(self) -> int:
        return len(self._flights)

    def steps(self, key: bytes, work: Work) -> Steps:
        """Steps to ``((result, led), error)``: of ``work()`` here (``led``), or of another."""
        while True:
            mine = _Flight()
            # One atomic operation decides who leads.
            flight = self._flights.setdefault(key, mine)
            if flight is mine:
                result, error = yield from self._lead(key, flight, work)
                return (result, True), error
            if flight in _LED.get():
                return (ALONE, False), None
            landed, error = yield Wait(flight.seat(key), timeout=self._patience())
            if error is not None:
                late = isinstance(error, DeadlineExceeded) and expired() is not None
                return (ALONE, False), (error if late else None)
            if landed is not _Word.HANDOVER:
                return (landed[0], False), landed[1]

    def only(self, key: bytes, work: Work) -> Steps:
        """:meth:`steps` without waiting: to ``((ALONE, False), None)`` if another leads."""
        mine = _Flight()
        if self._flights.setdefault(key, mine) is not mine:
            return (ALONE, False), None
        result, error = yield from self._lead(key, mine, work)
        return (result, True), error

    def _lead(self, key: bytes, flight: _Flight, work: Work) -> Steps:
        before = _LED.get()
        _LED.set((*(other for other in before if not other.done()), flight))
        landed: Outcome | _Word = _Word.HANDOVER
        try:
            result, error = yield from work()
            # A leader's own deadline is no fault of the work: another may have more time.
            late = isinstance(error, DeadlineExceeded) and expired() is not None
            if not late and result is not HANDOVER:
                landed = result, error
            _LED.set(before)
            return result, error
        finally:
            del self._flights[key]
            flight.set_result(landed)

    def _patience(self) -> float:
        left = remaining()
        return self.timeout if left is None else max(0.0, min(left, self.timeout))
