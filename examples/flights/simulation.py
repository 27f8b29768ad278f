"""Simulated time: a clock that the replay sets, and the events of the year in order."""

from collections.abc import Awaitable

import numpy as np
from data import DAY, EPOCH, Floats, Ints, Year

MIDNIGHT = 300
"""Minute of midnight at the airports (UTC-5) in UTC; summer time is ignored."""
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
FIRST_DAY = (0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334, 365)


def date(day: int) -> str:
    """Day of the year, from 0, as text.

    >>> date(39), date(364)
    ('9 Feb', '31 Dec')
    """
    month = max(m for m in range(12) if FIRST_DAY[m] <= day)
    return f"{day - FIRST_DAY[month] + 1} {MONTHS[month]}"


def midnight(day: int) -> int:
    """First minute of a day at the airports."""
    return day * DAY + MIDNIGHT


class SimulatedClock:
    """Both hands stand at the replay's minute; who waits for a source moves them on."""

    def __init__(self) -> None:
        self.minute = 0.0

    def set(self, minute: float) -> None:
        self.minute = minute

    def monotonic(self) -> float:
        return 60.0 * self.minute

    def time(self) -> float:
        return EPOCH + 60.0 * self.minute

    def sleep(self, seconds: float) -> None:
        self.minute += seconds / 60.0

    def asleep(self, seconds: float) -> Awaitable[None]:
        raise RuntimeError(f"nothing may sleep in the replay, not even {seconds} s")


class Queue:
    """Flights in the order of one of their moments; hands out what is due."""

    def __init__(self, moments: Ints | Floats) -> None:
        self._order = np.argsort(moments, kind="stable")
        self._moments = np.asarray(moments, dtype=float)[self._order]
        self._next = 0

    def skip(self, minute: float) -> None:
        """Forget what was due before ``minute``."""
        self._next = int(np.searchsorted(self._moments, minute, "left"))

    def due(self, minute: float) -> list[int]:
        """Flights whose moment is not after ``minute``, once."""
        first, self._next = self._next, int(np.searchsorted(self._moments, minute, "right"))
        return [int(flight) for flight in self._order[first : self._next]]


def label_queue(year: Year) -> Queue:
    """Flights by the moment at which their label is known; those without one never come."""
    return Queue(np.where(np.isnan(year.late), np.inf, year.landed))
