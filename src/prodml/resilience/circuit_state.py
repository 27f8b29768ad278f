"""What a breaker is, at one moment: its states, and a snapshot of all it knows."""

from dataclasses import dataclass
from enum import Enum

from prodml._window import Tally

__all__ = ["CircuitSnapshot", "CircuitState", "Mode"]


class CircuitState(Enum):
    """What a breaker does with a call.

    Examples
    --------
    >>> CircuitState("half_open") is CircuitState.HALF_OPEN
    True
    """

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Mode(Enum):
    """Whether a breaker acts by its state, or as somebody has told it to."""

    ENFORCING = "enforcing"
    FORCED = "forced open"
    DISABLED = "disabled"
    SHADOW = "shadow"


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitSnapshot:
    """What a breaker knows at one moment.

    Parameters
    ----------
    mode
        ``"enforcing"``, ``"forced open"``, ``"disabled"`` or ``"shadow"``.
    era
        Number of the current period; grows by one with every change of state.
    consecutive
        Failures in a row, while closed.
    window
        Tally of the rate window, empty if no rate rule is on.
    reports
        Tally of the late verdicts of this period that the rules look back on.
    successes, trials
        Trial calls that succeeded and that are in flight, while half open.
    retry_after
        Seconds until a trial call is admitted for certain; 0.0 if calls are admitted now,
        ``inf`` if forced open.
    attempt
        How often it has opened since it was last closed.
    opened, rejected
        How often the breaker opened and how many calls it rejected, since it was made.
    would_open, would_reject, would_reject_succeeded
        Shadow mode: how often it would have opened, the calls it would have rejected, and
        how many of those succeeded.
    shared
        ``"local"``, or, when workers share their states, ``"cut off"`` if the last look into
        the store failed, else ``"connected"``.
    reason
        Why the current state was entered.

    Examples
    --------
    >>> from prodml import CircuitBreaker
    >>> breaker = CircuitBreaker("db")
    >>> breaker.force_open("maintenance")
    >>> breaker.snapshot().mode, breaker.snapshot().reason
    ('forced open', 'maintenance')
    """

    name: str
    state: CircuitState
    mode: str
    era: int
    consecutive: int
    window: Tally
    reports: Tally
    successes: int
    trials: int
    retry_after: float
    attempt: int
    opened: int
    rejected: int
    would_open: int
    would_reject: int
    would_reject_succeeded: int
    shared: str
    reason: str
