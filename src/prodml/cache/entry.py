"""One entry of a shared store: the bytes of an answer, and what a reader must know of it."""

import math
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias

__all__ = ["EXPIRED", "Entry", "Expired", "Kind"]


class Kind(Enum):
    """What an entry remembers: an answer, or that there was none."""

    VALUE = 0
    FAILURE = 1


class _Word(Enum):
    EXPIRED = "its time is over"


Expired: TypeAlias = _Word

EXPIRED: Final = _Word.EXPIRED
"""Read in place of an entry whose time is over: a miss, and nobody's fault."""


# Not frozen: a frozen one takes four times as long to make, and one is made per read.
@dataclass(slots=True)
class Entry:
    """What lies under one name in a shared store.

    Parameters
    ----------
    body
        Bytes of the answer, or of what is known about the failure.
    created
        When it was computed, seconds since the epoch.
    ttl
        Seconds that it is fresh; infinite for one without end.
    cost
        Seconds that computing it took.
    kind
        Whether ``body`` is an answer.

    Examples
    --------
    >>> entry = Entry(b"body", created=100.0, ttl=60.0, cost=0.5)
    >>> entry.expires, entry.age(130.0), entry.kind is Kind.VALUE
    (160.0, 30.0, True)
    """

    body: bytes
    created: float
    ttl: float = math.inf
    cost: float = 0.0
    kind: Kind = Kind.VALUE

    @property
    def expires(self) -> float:
        """When it stops being fresh, seconds since the epoch."""
        return self.created + self.ttl

    def age(self, now: float) -> float:
        """Seconds since it was computed; never negative, whatever the other clock says."""
        return max(0.0, now - self.created)
