"""At most so many calls at once: one slow dependency cannot take every thread with it."""

import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Any, final

from prodml._call import Guard
from prodml.errors import BulkheadFull
from prodml.resilience._bounds import at_least

__all__ = ["Bulkhead"]


@final
@dataclass(kw_only=True, slots=True, eq=False)
class Bulkhead(Guard[None]):
    """Admit at most ``limit`` calls at once; reject the rest instead of queueing them.

    One limit holds for all threads and event loops together.  However a call ends, its
    place is free again; an abandoned *thread* that still hangs behind a timeout outside
    the bulkhead keeps its place until it really returns.

    Parameters
    ----------
    limit
        Calls at once, at least 1.
    name
        Names the bulkhead in errors.

    Raises
    ------
    BadConfiguration
        ``limit`` is below 1.

    Notes
    -----
    The places lie in a deque whose two ends are safe to use from any thread, so neither
    entering nor leaving takes a lock.

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
    """

    limit: int = field(kw_only=False, metadata={"fixed": "its places are handed out already"})
    name: str = "bulkhead"
    _places: deque[None] = field(init=False, repr=False)
    _rejected: int = field(default=0, init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def __post_init__(self) -> None:
        at_least(self, 1, "limit")
        self._places = deque([None] * self.limit)

    @property
    def in_flight(self) -> int:
        """Calls inside now."""
        return self.limit - len(self._places)

    @property
    def rejected(self) -> int:
        """Calls that found no place."""
        return self._rejected

    def enter(self) -> None:
        """Take a place, or raise :class:`~prodml.errors.BulkheadFull`."""
        try:
            self._places.pop()
        except IndexError:
            with self._lock:
                self._rejected += 1
            raise BulkheadFull(self.name, self.limit) from None

    def leave(self, token: None, result: Any) -> None:  # noqa: ARG002
        """Give the place back."""
        self._places.append(None)

    def fail(self, token: None, error: BaseException) -> None:  # noqa: ARG002
        """Give the place back."""
        self._places.append(None)
