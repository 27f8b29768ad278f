"""Rows of one batch: those that it computes for all who ask, and those that others compute.

A batch boards all its free rows at once, lands them, and only then waits for those of
others: nobody who waits holds a row, so batches that share rows cannot wait for each other.
"""
# ruff: noqa: SLF001 - files of one room may know each other's private names

import threading
from collections.abc import Iterable, Sequence
from concurrent.futures._base import FINISHED, PENDING
from typing import Any, cast

from prodml._call import Wait
from prodml._deadline import expired
from prodml.cache.rows import Found
from prodml.cache.single_flight import _LED, HANDOVER, SingleFlight, _Flight
from prodml.cache.tiers import Answer
from prodml.errors import DeadlineExceeded

__all__ = ["Boarding"]


class _RowFlight(_Flight):
    """A row that is computed together with others: they share one lock.

    A failure may be that of another row, so it is told apart from an outcome.
    """

    failed: tuple[Exception, frozenset[bytes]] | None = None

    def __init__(self, condition: threading.Condition, leader: int) -> None:
        # As Future does it, but for the lock: making one takes longer than all the rest.
        self._condition: threading.Condition = condition
        self._state: str = PENDING
        self._result: Any = None
        self._exception: BaseException | None = None
        self._waiters: list[Any] = []
        self._done_callbacks: list[Any] = []
        self._leader: int = leader

    def result(self, timeout: float | None = None) -> Any:
        """What the others are told; made only if somebody asks."""
        landed = super().result(timeout)
        if not isinstance(landed, Found):
            return landed
        life = landed.life
        return Answer(landed.value, body=landed.body, life=life, shared=landed.shared), None

    def land(self, landed: Any) -> bool:
        """Settle it, under the lock; return whether there is somebody to be called."""
        self._result, self._state = landed, FINISHED
        for waiter in self._waiters:
            waiter.add_result(self)
        return bool(self._done_callbacks)

    def call(self) -> None:
        """Call those who asked for it, without the lock."""
        cast("Any", self)._invoke_callbacks()


class Boarding:
    """Which rows a batch leads, which it waits for, and which it computes for itself.

    Examples
    --------
    >>> flights = SingleFlight(timeout=30.0)
    >>> one, other = Boarding(flights, [b"1", b"2"]), Boarding(flights, [b"2", b"3"])
    >>> sorted(one.mine), sorted(other.mine), sorted(other.theirs)
    ([b'1', b'2'], [b'3'], [])
    >>> one.leave(); other.leave(); len(flights)
    0
    """

    __slots__: tuple[str, ...] = (
        *("_before", "_condition", "_flights", "_leads", "_places"),
        *("mine", "theirs"),
    )

    def __init__(self, flights: SingleFlight, places: Sequence[bytes]) -> None:
        self._flights: SingleFlight = flights
        self._places: frozenset[bytes] = frozenset(places)
        self.mine: dict[bytes, _RowFlight] = {}
        self.theirs: dict[bytes, _Flight] = {}
        self._condition: threading.Condition = threading.Condition()
        self._before: tuple[_Flight, ...] = _LED.get()
        led, thread = {*self._before}, threading.get_ident()
        board = flights._flights
        for place in places:
            mine = _RowFlight(self._condition, thread)
            # One atomic operation decides who leads.
            flight = board.setdefault(place, mine)
            if flight is mine:
                self.mine[place] = mine
            elif flight not in led:
                # Of those led further up in this call nobody is told: they are computed.
                self.theirs[place] = flight
        self._leads: bool = bool(self.mine)
        if self._leads:
            _LED.set((*(flight for flight in led if not flight.done()), *self.mine.values()))

    def land(self, found: Iterable[tuple[bytes | None, Found]]) -> None:
        """Tell those who wait for rows of ``mine`` their answers; other rows are left out."""
        mine = self.mine
        self._settle([(at, answer) for at, answer in found if at is not None and at in mine])

    def fail(self, error: Exception) -> None:
        """Tell those who wait that computing has failed."""
        # A leader's own deadline is no fault of the work: another may have more time.
        if not (isinstance(error, DeadlineExceeded) and expired() is not None):
            led = frozenset(self.mine)
            for flight in self.mine.values():
                flight.failed = error, led
        self.leave()

    def leave(self) -> None:
        """Hand over what has not landed; does nothing a second time."""
        self._settle([(place, HANDOVER) for place in self.mine])
        if self._leads:
            self._leads = False
            _LED.set(self._before)

    def wait(self, place: bytes) -> Wait:
        """Step that waits for a row of ``theirs``."""
        return Wait(self.theirs[place], timeout=self._flights._patience())

    def judged(self, place: bytes, landed: Any) -> "tuple[Answer | None, Exception | None]":
        """What a landing means here: an answer, an error, or neither: compute it anew."""
        if landed is not HANDOVER:
            return landed[0], landed[1]
        failed = getattr(self.theirs[place], "failed", None)
        if failed is not None and failed[1] <= self._places:
            # All that was computed there would be computed here: it would fail again.
            return None, failed[0]
        return None, None

    def _settle(self, landings: Iterable[tuple[bytes, Any]]) -> None:
        board, awaited = self._flights._flights, list[_RowFlight]()
        with self._condition:
            for place, landed in landings:
                flight = self.mine.pop(place)
                del board[place]
                if flight.land(landed):
                    awaited.append(flight)
            self._condition.notify_all()
        for flight in awaited:
            flight.call()
