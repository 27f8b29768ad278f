"""Ask again while the first call is slow, and take whichever answer comes first."""

import math
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, final

from prodml._call import Flow, Invoke, Race, Steps
from prodml.clock import SYSTEM_CLOCK, Clock
from prodml.errors import BadConfiguration
from prodml.resilience._bounds import at_least, seconds
from prodml.resilience.budget import RetryBudget

__all__ = ["Hedge", "HedgeStats"]

# The delay is worked out anew each time this part of the window has been replaced.
_RENEWED = 20


@dataclass(frozen=True, slots=True)
class HedgeStats:
    """What hedging has come to so far.

    Parameters
    ----------
    calls
        Calls made through the hedge.
    hedged
        Hedges made: further calls while an earlier one was slow.
    won
        Hedges that answered before the call they were made for.
    refused
        Hedges that were due and not made for want of budget.

    Examples
    --------
    >>> HedgeStats(calls=100, hedged=5, won=4).refused
    0
    """

    calls: int = 0
    hedged: int = 0
    won: int = 0
    refused: int = 0


@final
@dataclass(kw_only=True, slots=True, eq=False)
class Hedge(Flow):
    """Call once more while the first call is slow; the first answer counts.

    Where most calls are quick and a few are slow for reasons of their own (a collection of
    garbage, a full queue in front of one replica), the same call made again is most likely
    quick.  Waiting for the 95th percentile first keeps the load within 5 % of what it was,
    and the budget keeps it so when *every* call becomes slow.

    Of coroutines the losers are cancelled.  Plain code cannot be interrupted: its calls run
    on worker threads with the caller's context variables, and the losers are left behind
    there, their results thrown away.  **Hedge only what may safely happen twice**, with
    arguments that the callee does not change.

    Parameters
    ----------
    after
        Seconds without an answer until a hedge is made; 0.0 makes it at once.  None learns
        them: the ``quantile`` of the latest calls.
    quantile
        Share of the calls, in (0, 1), that shall answer without a hedge.
    window
        Calls that the learned delay looks back on.
    min_calls
        Calls below which nothing is known, and no hedge is made.
    attempts
        Calls side by side at most, the first included; 1 switches hedging off.
    budget
        Shared limit on the load that hedges *and* retries add.  None means one of its own:
        a tenth of the calls, and one hedge a second on top.  A retry and a hedge around the
        same call both pay in for it, so halve the ratio of a budget that they share.
    name
        Names the hedge in ``explain()``.
    clock
        Collaborator; measures the latencies.  The waiting itself is done by the machine's
        clock.

    Raises
    ------
    BadConfiguration
        A setting is out of range.

    See Also
    --------
    Retry : calls again after a failure; a hedge is made before one is known.

    Notes
    -----
    *What teaches.*  Each answer teaches how long the caller has waited.  If a hedge has
    answered, the first call would have taken longer than that, so the learned quantile
    stays right up to itself.  Errors teach nothing: quick ones would shorten the delay.

    *Errors.*  A call that fails while another is under way is no answer yet.  If all fail,
    the first call's own error is raised.  Cancellation and interrupts end all calls.  A
    failure before the delay is over is raised at once: that is a matter for a ``Retry``
    outside.

    *Time.*  The wait ends with the request's deadline, if there is one, with
    :class:`~prodml.errors.DeadlineExceeded`.

    *Generators.*  Of a generator the opening is hedged, up to its first item; the streams
    of the losers are closed.

    *Threads.*  When no worker can be had, because too many calls hang, the call is made in
    the caller's thread, without a hedge.

    The idea, and the advice to wait for the 95th percentile, are Dean and Barroso's [1]_.

    Examples
    --------
    >>> hedge = Hedge(0.05)
    >>> @hedge
    ... def lookup(user_id: int) -> str:
    ...     return f"user {user_id}"
    >>> lookup(7), hedge.stats()
    ('user 7', HedgeStats(calls=1, hedged=0, won=0, refused=0))

    With a learned delay nothing is known at first:

    >>> Hedge(quantile=0.99, min_calls=50).delay is None
    True

    References
    ----------
    .. [1] Dean and Barroso (2013), "The tail at scale", *Communications of the ACM* 56(2).
    """

    after: float | None = field(default=None, kw_only=False)
    quantile: float = 0.95
    window: int = field(default=1000, metadata={"fixed": "make another hedge"})
    min_calls: int = 100
    attempts: int = 2
    budget: RetryBudget | None = None
    name: str = "hedge"
    clock: Clock = SYSTEM_CLOCK
    _budget: RetryBudget = field(init=False, repr=False)
    _latencies: deque[float] = field(init=False, repr=False)
    # Calls until the delay is worked out (anew).
    _due: int = field(init=False, repr=False)
    _learned: float | None = field(default=None, init=False, repr=False)
    _calls: int = field(default=0, init=False, repr=False)
    _hedged: int = field(default=0, init=False, repr=False)
    _won: int = field(default=0, init=False, repr=False)
    _refused: int = field(default=0, init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def __post_init__(self) -> None:
        seconds(self, "after", zero=True, optional=True)
        at_least(self, 1, "window", "min_calls", "attempts")
        quantile: Any = self.quantile
        if not (isinstance(quantile, int | float) and 0 < quantile < 1):
            raise BadConfiguration(f"quantile must be between 0 and 1, not {quantile!r}")
        if self.min_calls > self.window:
            raise BadConfiguration(
                f"min_calls={self.min_calls} is never reached in a window of {self.window} calls"
            )
        self._budget = RetryBudget(clock=self.clock) if self.budget is None else self.budget
        self._latencies = deque(maxlen=self.window)
        self._due = self.min_calls

    @property
    def delay(self) -> float | None:
        """Seconds after which a hedge is made now; None while they are not known."""
        return self._learned if self.after is None else self.after

    def stats(self) -> HedgeStats:
        """Counters since the hedge was made."""
        with self._lock:
            return HedgeStats(self._calls, self._hedged, self._won, self._refused)

    def steps(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Steps:
        """Make the call, and hedges of it while it is slow."""
        if self.attempts == 1:
            return (yield Invoke(fn, args, kwargs))
        self._budget.deposit()
        with self._lock:
            self._calls += 1
        call = Invoke(fn, args, kwargs)
        spare = iter(range(1, self.attempts))

        def again() -> Invoke | None:
            possible = next(spare, None) is not None
            return Invoke(fn, args, kwargs) if possible and self._afforded() else None

        began = self.clock.monotonic()
        won, error = yield Race(call, self._patience, again)
        if error is not None:
            return None, error
        winner, answer = won
        self._learn(self.clock.monotonic() - began, hedge_won=winner is not call)
        return answer, None

    def _patience(self) -> float:
        delay = self.delay
        return math.inf if delay is None else delay

    def _afforded(self) -> bool:
        granted = self._budget.withdraw()
        with self._lock:
            self._hedged += granted
            self._refused += not granted
        return granted

    def _learn(self, latency: float, *, hedge_won: bool) -> None:
        with self._lock:
            self._won += hedge_won
            self._latencies.append(latency)
            self._due -= 1
            if self._due <= 0:
                self._reckon()

    def _reckon(self) -> None:
        ranked = sorted(self._latencies)
        # The nearest rank: so many of the calls took no longer.  Half of four calls are two.
        rank = math.ceil(self.quantile * len(ranked) - 1e-9)
        self._learned = ranked[rank - 1]
        self._due = max(1, self.window // _RENEWED)

    def _retuned(self) -> None:
        self._learned = None
        self._due = self.min_calls - len(self._latencies)
        if self._due <= 0:
            self._reckon()
