"""How much time the current request has left, carried by a context variable.

``contextvars`` follow the request through threads of our own workers and through tasks,
so a layer far below can ask :func:`remaining` without being told.
"""

from contextvars import ContextVar, Token
from dataclasses import dataclass
from typing import TypeAlias

from prodml.clock import Clock

__all__ = ["CURRENT", "USED", "Limit", "expired", "narrow", "remaining", "restore", "use"]


# Not frozen: that would triple its price, and one is made for every limited call.
@dataclass(slots=True)
class Limit:
    """The request ends at ``at`` seconds of ``clock.monotonic()``; it was given ``seconds``."""

    at: float
    clock: Clock
    seconds: float

    def left(self) -> float:
        """Seconds until the end, negative after it."""
        return self.at - self.clock.monotonic()


Reset: TypeAlias = Token[Limit | None]

CURRENT: ContextVar[Limit | None] = ContextVar("prodml_deadline", default=None)


USED: list[None] = []
"""Not empty once anything in this process has to do with deadlines.

Asking that costs a third of asking for the deadline itself, which every retry does.
"""


def use() -> None:
    """Note that there are deadlines in this process from now on."""
    if not USED:
        USED.append(None)


def remaining() -> float | None:
    """Seconds left (negative when overdue), or None when no deadline is set."""
    limit = CURRENT.get()
    return None if limit is None else limit.left()


def expired() -> Limit | None:
    """Return the deadline that has passed, or None."""
    limit = CURRENT.get()
    return None if limit is None or limit.left() > 0.0 else limit


def narrow(seconds: float, clock: Clock) -> Reset:
    """Set a deadline ``seconds`` from now; an earlier one that is set stays in force."""
    use()
    current = CURRENT.get()
    if current is not None and current.left() <= seconds:
        return CURRENT.set(current)
    return CURRENT.set(Limit(clock.monotonic() + seconds, clock, seconds))


def restore(reset: Reset) -> None:
    """Undo :func:`narrow`."""
    try:
        CURRENT.reset(reset)
    except ValueError:
        # Closed by the collector, elsewhere: the context that was narrowed is gone.
        return
