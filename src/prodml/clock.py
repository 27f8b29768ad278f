"""Time, passed in.

Durations come from :meth:`Clock.monotonic`, stamps for humans from :meth:`Clock.time`
(seconds since the epoch, UTC).  Nothing else in the library reads a clock, so
``prodml.testing.ManualClock`` makes every component deterministic.
"""

import time
from collections.abc import Awaitable
from datetime import UTC, datetime
from typing import Protocol, runtime_checkable

__all__ = ["SYSTEM_CLOCK", "Clock", "SystemClock", "utc"]


@runtime_checkable
class Clock(Protocol):
    """What a component may ask about time."""

    def monotonic(self) -> float:
        """Seconds on a clock that never steps back; only differences mean anything."""
        ...

    def time(self) -> float:
        """Seconds since the epoch, UTC; may step."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait in this thread."""
        ...

    def asleep(self, seconds: float) -> Awaitable[None]:
        """Wait in this task."""
        ...


class SystemClock:
    """The machine's clocks.

    Examples
    --------
    >>> clock = SystemClock()
    >>> clock.monotonic() <= clock.monotonic()
    True
    """

    __slots__: tuple[str, ...] = ()

    # The C functions themselves: a closed breaker reads the clock twice a call.
    monotonic: "staticmethod[[], float]" = staticmethod(time.monotonic)
    time: "staticmethod[[], float]" = staticmethod(time.time)

    def sleep(self, seconds: float) -> None:
        """Wait in this thread."""
        time.sleep(seconds)

    def asleep(self, seconds: float) -> Awaitable[None]:
        """Wait in this task."""
        import asyncio

        return asyncio.sleep(seconds)


SYSTEM_CLOCK: Clock = SystemClock()


def utc(at: float) -> datetime:
    """Aware UTC datetime of ``at`` seconds since the epoch.

    Examples
    --------
    >>> utc(0.0).isoformat()
    '1970-01-01T00:00:00+00:00'
    """
    return datetime.fromtimestamp(at, UTC)
