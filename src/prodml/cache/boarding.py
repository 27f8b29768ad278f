"""Rows of one batch: those that it computes for all who ask, and those that others compute.

A batch boards all its free rows at once, lands them, and only then waits for those of
others: nobody who waits holds a row, so batches that share rows cannot wait for each other.
"""
# ruff: noqa: SLF001 - files of one room may know each other's private names

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

from prodml._call import Wait
from prodml._deadline import expired
from prodml.cache.single_flight import _LED, HANDOVER, SingleFlight, _Flight
from prodml.cache.tiers import Answer
from prodml.errors import DeadlineExceeded

__all__ = ["Boarding"]

# What those who wait for the row at a place are told.
Tell: TypeAlias = Callable[[bytes], Answer]


class _BatchFlight(_Flight):
    """Rows that are computed together.

    There is one for all of them, since nearly nobody ever waits for one: who does takes a
    seat, which is settled when the row lands.
    """

    def __init__(self) -> None:
        super().__init__()
        # The error that computing has failed with, and which rows have with it.
        self.failed: tuple[Exception, frozenset[bytes]] | None = None
        self._landed: dict[bytes, Tell] = {}
        self._seats: dict[bytes, _Flight] = {}
        self._lock: threading.Lock = threading.Lock()

    def seat(self, key: bytes) -> _Flight:
        """What settles when the row at ``key`` lands, at once if it has."""
        with self._lock:
            seat = self._seats.get(key)
            if seat is None:
                seat = self._seats[key] = _Flight()
                seat._leader = self._leader
                if key in self._landed or self.done():
                    seat.set_result(self._told(key))
            return seat

    def land(self, places: Sequence[bytes], tell: Tell) -> None:
        """Settle the rows at ``places``."""
        with self._lock:
            self._landed.update(dict.fromkeys(places, tell))
            awaited = self._seats.keys() & set(places) if self._seats else ()
        self._call(awaited)

    def end(self, places: Sequence[bytes]) -> None:
        """Let those who wait for what has not landed, which is at ``places``, lead anew."""
        with self._lock:
            self.set_result(HANDOVER)
            awaited = self._seats.keys() & set(places)
        self._call(awaited)

    def _call(self, places: Iterable[bytes]) -> None:
        for place in places:
            self._seats[place].set_result(self._told(place))

    def _told(self, place: bytes) -> Any:
        tell = self._landed.get(place)
        return HANDOVER if tell is None else (tell(place), None)


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
        *("_before", "_flight", "_flights", "_leads", "_places"),
        *("mine", "theirs"),
    )

    def __init__(self, flights: SingleFlight, places: Sequence[bytes]) -> None:
        self._flights: SingleFlight = flights
        self._places: frozenset[bytes] = frozenset(places)
        self._flight: _BatchFlight = _BatchFlight()
        # In the order in which they were given; what has landed is no longer among them.
        self.mine: dict[bytes, None] = {}
        self.theirs: dict[bytes, _Flight] = {}
        self._before: tuple[_Flight, ...] = _LED.get()
        mine, led, board = self._flight, {*self._before}, flights._flights
        for place in places:
            # One atomic operation decides who leads.
            flight = board.setdefault(place, mine)
            if flight is mine:
                self.mine[place] = None
            elif flight not in led:
                # Of those led further up in this call nobody is told: they are computed.
                self.theirs[place] = flight
        self._leads: bool = bool(self.mine)
        if self._leads:
            _LED.set((*(flight for flight in led if not flight.done()), mine))

    def land(self, places: Iterable[bytes | None], tell: Tell) -> None:
        """Tell those who wait for rows of ``mine`` their answers; other places are left out."""
        mine, board = self.mine, self._flights._flights
        landed = [place for place in places if place is not None and place in mine]
        self._flight.land(landed, tell)
        for place in landed:
            del mine[place], board[place]

    def fail(self, error: Exception) -> None:
        """Tell those who wait that computing has failed."""
        # A leader's own deadline is no fault of the work: another may have more time.
        if not (isinstance(error, DeadlineExceeded) and expired() is not None):
            self._flight.failed = error, frozenset(self.mine)
        self.leave()

    def leave(self) -> None:
        """Hand over what has not landed; does nothing a second time."""
        if not self._leads:
            return
        self._leads = False
        _LED.set(self._before)
        board, left = self._flights._flights, list(self.mine)
        self.mine.clear()
        for place in left:
            del board[place]
        self._flight.end(left)

    def wait(self, place: bytes) -> Wait:
        """Step that waits for a row of ``theirs``."""
        return Wait(self.theirs[place].seat(place), timeout=self._flights._patience())

    def judged(self, place: bytes, landed: Any) -> "tuple[Answer | None, Exception | None]":
        """What a landing means here: an answer, an error, or neither: compute it anew."""
        if landed is not HANDOVER:
            return landed[0], landed[1]
        failed = getattr(self.theirs[place], "failed", None)
        if failed is not None and failed[1] <= self._places:
            # All that was computed there would be computed here: it would fail again.
            return None, failed[0]
        return None, None
