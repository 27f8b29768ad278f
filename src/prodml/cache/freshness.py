"""When an entry is good as it is, when it should be renewed, and when it is of no use.

::

    created          calm until        ttl            + stale        + stale_if_error
       |---- FRESH ------|- FRESH or EARLY -|---- STALE ----|---- FAILED ----|  GONE
                          by chance          served while     served when
                                             one renews it    computing failed

EARLY is XFetch (Vattani, Chierichetti and Lowenstein 2015, "Optimal probabilistic cache
stampede prevention", VLDB): the nearer the end, and the longer computing takes, the more
likely it is that a caller begins the renewal, so that it is over before anybody has to wait.
"""

import math
from dataclasses import dataclass
from enum import Enum
from typing import Final

from prodml.errors import BadConfiguration

__all__ = ["Freshness", "Life", "Verdict"]

_WINDOW: Final = 20.0
"""Multiples of the cost before the end in which chance is asked at all."""

# Chance below this would reach further back than the window.
_LEAST: Final = math.exp(-_WINDOW)


class Verdict(Enum):
    """What may be done with an entry."""

    FRESH = "answer with it"
    EARLY = "answer with it, and begin to renew it"
    STALE = "its time is over: answer with it while it is renewed"
    FAILED = "answer with it if computing another fails"
    GONE = "of no use"


# Not frozen: a frozen one takes four times as long to make.
@dataclass(slots=True)
class Life:
    """Times of one entry, by one clock.

    Parameters
    ----------
    created, ttl, cost
        When it was computed, the seconds that it is fresh, and those that computing took.
    stamp
        When it was computed by the clock of whoever did: tells two entries of a key apart.

    Examples
    --------
    >>> Life(created=100.0, ttl=60.0).age(130.0)
    30.0
    """

    created: float
    ttl: float = math.inf
    cost: float = 0.0
    stamp: float = 0.0

    def age(self, now: float) -> float:
        """Seconds since it was computed, never negative."""
        return max(0.0, now - self.created)


@dataclass(frozen=True, slots=True)
class Freshness:
    """The windows of an entry's life, and the rule about them.

    Parameters
    ----------
    early
        How eager renewals before the end are: 1 is the optimum of XFetch, 0 is never.
    stale
        Seconds after the end in which the old answer is served while a new one is computed.
    stale_if_error
        Seconds after the end in which the old answer is served if computing fails.

    Raises
    ------
    BadConfiguration
        One of them is negative or not finite.

    Examples
    --------
    >>> rule = Freshness(early=1.0, stale=30.0, stale_if_error=300.0)
    >>> [rule.verdict(0.0, 60.0, 2.0, now, 0.5).name for now in (0, 59, 89, 359, 360)]
    ['FRESH', 'EARLY', 'STALE', 'FAILED', 'GONE']
    >>> rule.calm(0.0, 60.0, 2.0)
    20.0
    """

    early: float = 1.0
    stale: float = 0.0
    stale_if_error: float = 0.0

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if not 0.0 <= getattr(self, name) < math.inf:
                raise BadConfiguration(f"{name}={getattr(self, name)!r} must be 0 or more")

    @property
    def grace(self) -> float:
        """Seconds after its end for which an entry must be kept."""
        return max(self.stale, self.stale_if_error)

    def calm(self, created: float, ttl: float, cost: float) -> float:
        """Until when an entry is fresh whatever chance says."""
        return created + ttl - _WINDOW * cost * self.early

    def verdict(self, created: float, ttl: float, cost: float, now: float, draw: float) -> Verdict:
        """What may be done with an entry at ``now``.

        Parameters
        ----------
        created, ttl, cost
            Its times; one that was made in the future, by a clock that differs, is new.
        draw
            Chance, evenly distributed in [0, 1).
        """
        age = max(0.0, now - created)
        if age < ttl:
            ahead = -cost * self.early * math.log(max(draw, _LEAST))
            return Verdict.EARLY if age + ahead >= ttl else Verdict.FRESH
        late = age - ttl
        if late < self.stale:
            return Verdict.STALE
        return Verdict.FAILED if late < self.stale_if_error else Verdict.GONE
