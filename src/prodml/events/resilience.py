"""Circuits that open and close, and calls that are made again."""

from typing import ClassVar

from prodml.events.fact import Event, fact

__all__ = ["CallRetried", "CircuitClosed", "CircuitHalfOpened", "CircuitOpened"]


@fact
class CircuitOpened(Event):
    """The breaker rejects calls for ``retry_after`` seconds."""

    level: ClassVar[str] = "error"
    reason: str
    retry_after: float


@fact
class CircuitHalfOpened(Event):
    """The breaker admits trial calls."""


@fact
class CircuitClosed(Event):
    """The breaker admits every call again."""

    reason: str


@fact
class CallRetried(Event):
    """Attempt ``attempt`` failed; the next follows in ``wait`` seconds."""

    level: ClassVar[str] = "warning"
    attempt: int
    wait: float
    error: BaseException | None
