"""Stop calling what is broken, and find out carefully whether it works again.

Each period of one state is an *era*.  A call carries the era that admitted it, so an
outcome that arrives after the state has changed is recognised and changes nothing.  While
the breaker is closed a healthy call reads two attributes: no lock, no clock.
"""

import functools
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar, ParamSpec, TypeAlias, TypeVar, cast, final

from prodml._call import Guard, Kind, kind_of
from prodml._window import FAILED, OK, SLOW, CountWindow, Tally, TimeWindow, Window
from prodml.clock import SYSTEM_CLOCK, Clock
from prodml.errors import BadConfiguration, CircuitOpen, DeadlineExceeded, Rejected
from prodml.events import (
    EVENTS,
    CircuitClosed,
    CircuitHalfOpened,
    CircuitOpened,
    SettingsChanged,
    Stream,
)
from prodml.resilience._bounds import at_least, error_types, seconds, share

__all__ = ["CircuitBreaker", "CircuitSnapshot", "CircuitState"]

P = ParamSpec("P")
R = TypeVar("R")

_DEFAULT_LEASE = 60.0


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


class _Mode(Enum):
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
    successes, trials
        Trial calls that succeeded and that are in flight, while half open.
    retry_after
        Seconds until a trial call is admitted for certain; 0.0 if calls are admitted now,
        ``inf`` if forced open.
    opened, rejected
        How often the breaker opened and how many calls it rejected, since it was made.
    would_reject, would_reject_succeeded
        Shadow mode: calls it would have rejected, and how many of those succeeded.
    reason
        Why the current state was entered.

    Examples
    --------
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
    successes: int
    trials: int
    retry_after: float
    opened: int
    rejected: int
    would_reject: int
    would_reject_succeeded: int
    reason: str


class _Era:
    """One period of one state; while closed also the token of its calls."""

    __slots__: tuple[str, ...] = (
        "admits",
        "failures",
        "note",
        "number",
        "quiet",
        "reason",
        "state",
        "successes",
        "trials",
        "until",
        "window",
    )

    def __init__(self, state: CircuitState, number: int, reason: str) -> None:
        self.state: CircuitState = state
        self.number: int = number
        self.reason: str = reason
        # The fast path: enter() needs nothing but this token, and leave() of a success has
        # nothing to note, or no more than ``note(OK)``.
        self.admits: bool = False
        self.quiet: bool = False
        self.note: Callable[[int], None] | None = None
        self.failures: int = 0
        self.window: Window | None = None
        self.until: float = 0.0
        self.successes: int = 0
        self.trials: set[_Trial] = set()

    def seen_at(self, now: float) -> CircuitState:
        """State that a call at ``now`` meets: OPEN ends by itself, unnoticed."""
        over = self.state is CircuitState.OPEN and now >= self.until
        return CircuitState.HALF_OPEN if over else self.state

    def in_flight(self, now: float) -> set["_Trial"]:
        """Return the trials whose lease runs; forget the others."""
        for trial in [trial for trial in self.trials if trial.ends <= now]:
            self.trials.discard(trial)
        return self.trials


class _Timed:
    """A call admitted while closed, whose duration matters."""

    __slots__: tuple[str, ...] = ("at", "era")

    quiet: ClassVar[bool] = False
    note: ClassVar[None] = None

    def __init__(self, era: _Era, at: float) -> None:
        self.era: _Era = era
        self.at: float = at


class _Trial(_Timed):
    """A call admitted while half open; its slot is free again at ``ends``."""

    __slots__: tuple[str, ...] = ("ends",)

    def __init__(self, era: _Era, at: float, ends: float) -> None:
        super().__init__(era, at)
        self.ends: float = ends


class _Pass:
    """A call that the breaker lets through without judging by it."""

    __slots__: tuple[str, ...] = ("quiet",)

    note: ClassVar[None] = None

    def __init__(self, *, quiet: bool) -> None:
        self.quiet: bool = quiet


_Token: TypeAlias = _Era | _Timed | _Pass

_UNWATCHED = _Pass(quiet=True)
_WAVED = _Pass(quiet=False)


@final
@dataclass(kw_only=True, slots=True, eq=False)
class CircuitBreaker(Guard[_Token]):
    """Reject calls to a dependency that keeps failing, until trial calls succeed again.

    Closed, every call passes.  When a rule trips the breaker opens and rejects calls with
    :class:`~prodml.errors.CircuitOpen`.  After ``reset_timeout`` it is half open: at most
    ``trial_limit`` calls at once go through; ``success_threshold`` successes close it, one
    failure opens it again.  A trial that has not come back when its lease ends loses its
    slot, so a hung call cannot keep the breaker half open for ever.

    A call ends as a success, as a failure, or with *no verdict*: an exception outside
    ``on`` or inside ``ignore``, a rejection by another policy, a cancellation, an
    interrupt, a closed generator.  No verdict counts as nothing and frees the slot.

    Parameters
    ----------
    name
        Names the breaker in errors and facts.
    failure_threshold
        Failures in a row that open it; None turns the rule off.
    success_threshold
        Successful trials that close it.
    reset_timeout
        Seconds it stays open; late failures do not prolong them.
    failure_rate
        Share of failures in the window that opens it, in (0, 1]; None turns the rule off.
        Either rule trips.
    slow_after
        Seconds from which a call is slow; None turns the rule off.  A slow trial is a
        failed one.
    slow_rate
        Share of slow calls in the window that opens it, in (0, 1].
    window
        Calls that the rates look back on.
    window_seconds
        Seconds that the rates look back on, instead of ``window`` calls.
    min_calls
        Calls in the window below which no rate trips.
    trial_limit
        Trial calls at once.
    trial_lease
        Seconds a trial keeps its slot; None means ``reset_timeout`` (60 if that is 0).
    on, ignore
        Exception classes that are failures, and those of them that give no verdict.
    failed
        Tells from a result whether the call failed; one that raises counts as a failure.
    clock, events
        Collaborators.

    Raises
    ------
    BadConfiguration
        A setting makes no sense, or every rule is off.

    Notes
    -----
    ``state`` says HALF_OPEN as soon as the open time is over; the fact
    :class:`~prodml.events.CircuitHalfOpened` follows with the first call after that.
    A success never opens the breaker, except by being slow.  ``retune`` of a closed
    breaker starts its counts afresh.  The states are Nygard's [1]_; eras and leases are
    the generations of gobreaker and the lease of a lock service.

    Examples
    --------
    >>> breaker = CircuitBreaker("feature-service", failure_threshold=2, reset_timeout=30.0)
    >>> @breaker
    ... def fetch(entity: int) -> dict[str, float]:
    ...     raise ConnectionError("no route")
    >>> for _ in range(3):
    ...     try:
    ...         fetch(1)
    ...     except Exception as error:
    ...         print(type(error).__name__)
    ConnectionError
    ConnectionError
    CircuitOpen
    >>> breaker.state
    <CircuitState.OPEN: 'open'>

    References
    ----------
    .. [1] Nygard (2018), *Release It!*, 2nd ed., section 5.2.
    """

    name: str = field(default="circuit-breaker", kw_only=False)
    failure_threshold: int | None = 5
    success_threshold: int = 2
    reset_timeout: float = 60.0
    failure_rate: float | None = None
    slow_after: float | None = None
    slow_rate: float = 0.5
    window: int = 100
    window_seconds: float | None = None
    min_calls: int = 20
    trial_limit: int = 1
    trial_lease: float | None = None
    on: tuple[type[Exception], ...] = (Exception,)
    ignore: tuple[type[Exception], ...] = ()
    failed: Callable[[Any], object] | None = None
    clock: Clock = SYSTEM_CLOCK
    events: Stream = EVENTS
    _era: _Era = field(init=False, repr=False)
    _mode: _Mode = field(default=_Mode.ENFORCING, init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)
    _opened: int = field(default=0, init=False, repr=False)
    _rejected: int = field(default=0, init=False, repr=False)
    _waved: int = field(default=0, init=False, repr=False)
    _waved_well: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        at_least(self, 1, "failure_threshold", optional=True)
        at_least(self, 1, "success_threshold", "window", "min_calls", "trial_limit")
        seconds(self, "reset_timeout", zero=True)
        seconds(self, "slow_after", zero=True, optional=True)
        seconds(self, "window_seconds", "trial_lease", optional=True)
        share(self, "failure_rate", optional=True)
        share(self, "slow_rate")
        error_types(self, "on", "ignore")
        if self.failure_threshold is None and not self._rated:
            raise BadConfiguration("set failure_threshold, failure_rate or slow_after: no rule")
        if self._rated and self.window_seconds is None and self.min_calls > self.window:
            raise BadConfiguration(
                f"min_calls={self.min_calls} is never reached in a window of {self.window} calls"
            )
        self._era = self._closed(0, "new")

    # -- the guard ----------------------------------------------------------------------

    def __call__(self, fn: Callable[P, R]) -> Callable[P, R]:
        """Protect ``fn`` of any kind; the result is a plain function of its signature."""
        if kind_of(fn) is Kind.PLAIN:
            return cast("Callable[P, R]", self._plain(fn))
        return Guard.__call__(self, fn)

    def _plain(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        # The shell of _call with enter() and leave() written out, because a closed breaker
        # has next to nothing to do: two calls less are a quarter of its price.
        @functools.wraps(fn)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            era = self._era
            token = era if era.admits else self._admit()
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:
                self.fail(token, error)
                raise
            if not token.quiet:
                note = token.note
                if note is None:
                    self.leave(token, result)
                else:
                    note(OK)
            return result

        return guarded

    def enter(self) -> _Token:
        """Admit the call, or raise :class:`~prodml.errors.CircuitOpen`."""
        era = self._era
        return era if era.admits else self._admit()

    def leave(self, token: _Token, result: Any) -> None:
        """Note that the call returned ``result``."""
        if token.quiet:
            return
        note = token.note
        if note is not None:
            note(OK)
        else:
            self._conclude(token, OK if self.failed is None else self._verdict_on(result))

    def fail(self, token: _Token, error: BaseException) -> None:
        """Note that the call raised, or was abandoned."""
        if self._no_verdict(error):
            self._conclude(token, None)
        else:
            self._conclude(token, FAILED, type(error).__name__)

    # -- what operators see and do --------------------------------------------------------

    @property
    def state(self) -> CircuitState:
        """What the next call meets; in shadow mode, what it would have met."""
        return self._era.seen_at(self.clock.monotonic())

    def snapshot(self) -> CircuitSnapshot:
        """Everything at one moment, for a health page or a scrape.

        Examples
        --------
        >>> CircuitBreaker("db").snapshot().retry_after
        0.0
        """
        now = self.clock.monotonic()
        with self._lock:
            era = self._era
            return CircuitSnapshot(
                name=self.name,
                state=era.seen_at(now),
                mode=self._mode.value,
                era=era.number,
                consecutive=era.failures,
                window=era.window.tally(now) if era.window else Tally(),
                successes=era.successes,
                trials=len(era.in_flight(now)),
                retry_after=self._retry_after(era, now),
                opened=self._opened,
                rejected=self._rejected,
                would_reject=self._waved,
                would_reject_succeeded=self._waved_well,
                reason=era.reason,
            )

    def force_open(self, reason: str) -> None:
        """Reject every call until :meth:`reset`."""
        with self._lock:
            old, self._mode = self._mode, _Mode.FORCED
            era = self._open(reason, math.inf)
        self._tell_mode(old, _Mode.FORCED)
        self._announce(era)

    def disable(self) -> None:
        """Let every call through, counting nothing, until :meth:`reset`."""
        self._switch(_Mode.DISABLED, "disabled")

    def shadow(self) -> None:
        """Go through the states but reject nothing, until :meth:`reset`.

        The snapshot counts the calls that would have been rejected, and how many of them
        succeeded all the same.  Nothing opens in truth, so no facts are stated.
        """
        self._switch(_Mode.SHADOW, "shadow")

    def reset(self) -> None:
        """Close, forget what was counted, and enforce again."""
        self._switch(_Mode.ENFORCING, "reset")

    # -- admission ------------------------------------------------------------------------

    def _admit(self) -> _Token:
        if self._mode is _Mode.DISABLED:
            return _UNWATCHED
        era, now = self._era, self.clock.monotonic()
        if era.state is CircuitState.CLOSED:
            return _Timed(era, now)
        begun, after = None, 0.0
        with self._lock:
            if self._era.state is not self._era.seen_at(now):
                begun = self._era = self._next(CircuitState.HALF_OPEN, "the open time is over")
            token = self._token(self._era, now)
            if token is None:
                after = self._retry_after(self._era, now)
        self._announce(begun)
        if token is None:
            raise CircuitOpen(self.name, after)
        return token

    def _token(self, era: _Era, now: float) -> _Token | None:
        if era.state is CircuitState.CLOSED:
            return era if self.slow_after is None else _Timed(era, now)
        if era.state is CircuitState.HALF_OPEN and len(era.in_flight(now)) < self.trial_limit:
            trial = _Trial(era, now, now + self._lease)
            era.trials.add(trial)
            return trial
        if self._mode is _Mode.SHADOW:
            self._waved += 1
            return _WAVED
        self._rejected += 1
        return None

    @property
    def _lease(self) -> float:
        return (
            self.reset_timeout or _DEFAULT_LEASE if self.trial_lease is None else self.trial_lease
        )

    def _retry_after(self, era: _Era, now: float) -> float:
        if era.state is CircuitState.OPEN:
            return max(0.0, era.until - now)
        if len(era.trials) < self.trial_limit:
            return 0.0
        return max(0.0, min(trial.ends for trial in era.trials) - now)

    # -- verdicts -------------------------------------------------------------------------

    def _verdict_on(self, result: Any) -> int:
        failed = self.failed
        try:
            return FAILED if failed is not None and failed(result) else OK
        except Exception:
            # An answer that the predicate cannot read is not a good one.
            return FAILED

    def _no_verdict(self, error: BaseException) -> bool:
        # What was abandoned is no Exception, so ``on`` cannot cover it.
        if not isinstance(error, self.on) or isinstance(error, self.ignore):
            return True
        # A rejection says that the dependency was not called; a timeout says that it hung.
        return isinstance(error, Rejected) and not isinstance(error, DeadlineExceeded)

    def _conclude(self, token: _Token, verdict: int | None, cause: str = "result") -> None:
        if isinstance(token, _Pass):
            if verdict == OK:
                with self._lock:
                    self._waved_well += 1
        elif isinstance(token, _Era):
            if verdict is not None:
                # Time matters only to a time window, and to a failure: it may open.
                timed = verdict != OK or self.window_seconds is not None
                self._note(token, verdict, self.clock.monotonic() if timed else 0.0, cause)
        else:
            self._conclude_timed(token, verdict, cause)

    def _conclude_timed(self, token: _Timed, verdict: int | None, cause: str) -> None:
        now = self.clock.monotonic()
        if verdict is not None and self.slow_after is not None:
            verdict |= SLOW if now - token.at >= self.slow_after else OK
        if isinstance(token, _Trial):
            self._note_trial(token, verdict, now, cause)
        elif verdict is not None:
            self._note(token.era, verdict, now, cause)

    def _note(self, era: _Era, verdict: int, now: float, cause: str) -> None:
        if era.window is not None:
            era.window.add(verdict, now)
        if verdict == OK and not era.failures:
            return
        begun = None
        with self._lock:
            if self._era is not era:
                return
            era.failures = era.failures + 1 if verdict & FAILED else 0
            self._calm(era)
            reason = self._grounds(era, now, cause) if verdict else ""
            if reason:
                begun = self._open(reason, now + self.reset_timeout)
        self._announce(begun)

    def _grounds(self, era: _Era, now: float, cause: str) -> str:
        if self.failure_threshold is not None and era.failures >= self.failure_threshold:
            return f"{era.failures} failures in a row, the last: {cause}"
        tally = Tally() if era.window is None else era.window.tally(now)
        if tally.total < self.min_calls:
            return ""
        if self.failure_rate is not None and tally.failure_rate >= self.failure_rate:
            return f"{tally.failures} of {tally.total} calls failed, the last: {cause}"
        if self.slow_after is not None and tally.slow_rate >= self.slow_rate:
            return f"{tally.slow} of {tally.total} calls took {self.slow_after:.3g} s or more"
        return ""

    def _note_trial(self, trial: _Trial, verdict: int | None, now: float, cause: str) -> None:
        begun = None
        with self._lock:
            era = trial.era
            if self._era is not era or trial not in era.in_flight(now):
                return
            era.trials.discard(trial)
            if verdict:
                why = f"failed: {cause}" if verdict & FAILED else "was slow"
                begun = self._open(f"trial call {why}", now + self.reset_timeout)
            elif verdict == OK:
                era.successes += 1
                if era.successes >= self.success_threshold:
                    begun = self._close(f"{era.successes} trial calls succeeded")
        self._announce(begun)

    # -- eras: all of these but _announce run under the lock --------------------------------

    def _open(self, reason: str, until: float) -> _Era:
        self._opened += 1
        self._era = era = self._next(CircuitState.OPEN, reason)
        era.until = until
        return era

    def _close(self, reason: str) -> _Era:
        self._era = era = self._closed(self._era.number + 1, reason)
        return era

    def _next(self, state: CircuitState, reason: str) -> _Era:
        return _Era(state, self._era.number + 1, reason)

    def _closed(self, number: int, reason: str) -> _Era:
        era = _Era(CircuitState.CLOSED, number, reason)
        era.admits = self.slow_after is None and self._mode is not _Mode.DISABLED
        if self._rated:
            span = self.window_seconds
            era.window = CountWindow(self.window) if span is None else TimeWindow(span)
        self._calm(era)
        return era

    def _calm(self, era: _Era) -> None:
        """Say what a success means in ``era`` as it stands: while it is calm, very little."""
        calm = not era.failures and self.failed is None and self.slow_after is None
        window = era.window
        era.quiet = calm and window is None
        if not calm or window is None:
            era.note = None
        elif isinstance(window, CountWindow):
            era.note = window.add
        else:
            monotonic = self.clock.monotonic
            era.note = lambda outcome: window.add(outcome, monotonic())

    @property
    def _rated(self) -> bool:
        return self.failure_rate is not None or self.slow_after is not None

    def _retuned(self) -> None:
        if self._era.state is CircuitState.CLOSED:
            self._close("retuned")

    def _announce(self, era: _Era | None) -> None:
        if era is None or self._mode is _Mode.SHADOW:
            return
        at, reason = self.clock.time(), era.reason
        if era.state is CircuitState.OPEN:
            after = math.inf if era.until == math.inf else self.reset_timeout
            self.events.emit(
                CircuitOpened(at=at, source=self.name, reason=reason, retry_after=after)
            )
        elif era.state is CircuitState.HALF_OPEN:
            self.events.emit(CircuitHalfOpened(at=at, source=self.name))
        else:
            self.events.emit(CircuitClosed(at=at, source=self.name, reason=reason))

    # -- modes ----------------------------------------------------------------------------

    def _switch(self, mode: _Mode, reason: str) -> None:
        with self._lock:
            old, self._mode = self._mode, mode
            rejecting = old is not _Mode.SHADOW and self._era.state is not CircuitState.CLOSED
            era = self._close(reason)
            self._waved = self._waved_well = 0
        self._tell_mode(old, mode)
        if rejecting:
            at = self.clock.time()
            self.events.emit(CircuitClosed(at=at, source=self.name, reason=era.reason))

    def _tell_mode(self, old: _Mode, new: _Mode) -> None:
        if old is new:
            return
        changes = {"mode": (old.value, new.value)}
        self.events.emit(SettingsChanged(at=self.clock.time(), source=self.name, changes=changes))
