"""Stop calling what is broken, and find out carefully whether it works again.

Each period of one state is an *era*.  A call carries the era that admitted it, so an
outcome that arrives after the state has changed is recognised and changes nothing.  While
the breaker is closed a healthy call reads a few attributes: no lock, and no clock unless
durations or time windows are asked for.
"""

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, final

from prodml._call import NO_RESULT, CalmGuard
from prodml._window import FAILED, OK, SLOW, CountWindow, Tally, Ticks, TimeWindow, Window
from prodml.clock import SYSTEM_CLOCK, Clock
from prodml.errors import BadConfiguration, CircuitOpen
from prodml.events import (
    EVENTS,
    CircuitClosed,
    CircuitHalfOpened,
    CircuitOpened,
    SettingsChanged,
    Stream,
)
from prodml.resilience._bounds import at_least, error_types, seconds, share
from prodml.resilience._era import UNWATCHED, CircuitToken, Era, Pass, Timed, Trial
from prodml.resilience._verdict import Failures, check_failures, counts, refused
from prodml.resilience.backoff import asked_wait
from prodml.resilience.circuit_state import CircuitSnapshot, CircuitState, Mode

if TYPE_CHECKING:
    from prodml.resilience.shared_circuit import SharedCircuit

__all__ = ["CircuitBreaker"]

_DEFAULT_SECONDS = 60.0


@final
@dataclass(kw_only=True, slots=True, eq=False, weakref_slot=True)
class CircuitBreaker(CalmGuard[CircuitToken]):
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
        Seconds it stays open; late failures do not prolong them.  Or a function of how
        often it has opened since it was last closed (from 1), such as
        :class:`~prodml.resilience.Exponential`; one that raises means 60.
    retry_after_cap
        A number ``retry_after`` of the error that opens it, as many HTTP clients give it,
        keeps it open for so many seconds if they are more, but at most for this many; 0
        turns that off.
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
        Seconds a trial keeps its slot; None means ``reset_timeout`` (60 if that is 0 or a
        function).
    on
        Exception classes that are failures, or a predicate of the exception; one that
        raises means yes.
    ignore
        Exception classes that give no verdict, whatever ``on`` says.
    failed
        Tells from a result whether the call failed; one that raises counts as a failure.
        Blocks and generators have no result.
    store
        Where workers share the state under the breaker's ``name``: a URL
        (``redis://...``, ``sqlite:///...``), a client, or a
        :class:`~prodml.stores.SharedStore`; see :class:`SharedCircuit`.  No call ever waits
        for it.  ``force_open``, ``disable`` and ``shadow`` concern this process alone.
    sync_interval
        Seconds between two looks into the store.
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
    reset_timeout: float | Callable[[int], float] = 60.0
    retry_after_cap: float = 300.0
    failure_rate: float | None = None
    slow_after: float | None = None
    slow_rate: float = 0.5
    window: int = 100
    window_seconds: float | None = None
    min_calls: int = 20
    trial_limit: int = 1
    trial_lease: float | None = None
    on: Failures = (Exception,)
    ignore: type[Exception] | tuple[type[Exception], ...] = ()
    failed: Callable[[Any], object] | None = None
    store: Any = field(default=None, metadata={"fixed": "workers share their states through it"})
    sync_interval: float = 0.5
    clock: Clock = SYSTEM_CLOCK
    events: Stream = EVENTS
    era: Era = field(init=False, repr=False)
    _mode: Mode = field(default=Mode.ENFORCING, init=False, repr=False)
    # Reentrant: a guarded generator may be collected, and end as abandoned, anywhere.
    _lock: threading.RLock = field(default_factory=threading.RLock, init=False, repr=False)
    _link: "SharedCircuit | None" = field(default=None, init=False, repr=False)
    _attempt: int = field(default=0, init=False, repr=False)
    _opened: int = field(default=0, init=False, repr=False)
    _rejected: Ticks = field(default_factory=Ticks, init=False, repr=False)
    _would_open: int = field(default=0, init=False, repr=False)
    _waved: int = field(default=0, init=False, repr=False)
    _waved_well: int = field(default=0, init=False, repr=False)
    _wave: Pass = field(default_factory=Pass, init=False, repr=False)

    def __post_init__(self) -> None:
        at_least(self, 1, "failure_threshold", optional=True)
        at_least(self, 1, "success_threshold", "window", "min_calls", "trial_limit")
        if not callable(self.reset_timeout):
            seconds(self, "reset_timeout", zero=True)
        seconds(self, "retry_after_cap", zero=True)
        seconds(self, "slow_after", zero=True, optional=True)
        seconds(self, "window_seconds", "trial_lease", optional=True)
        seconds(self, "sync_interval")
        share(self, "failure_rate", optional=True)
        share(self, "slow_rate")
        error_types(self, "ignore")
        check_failures(self, "on")
        if self.failure_threshold is None and not self._rated:
            raise BadConfiguration("set failure_threshold, failure_rate or slow_after: no rule")
        if self._rated and self.window_seconds is None and self.min_calls > self.window:
            raise BadConfiguration(
                f"min_calls={self.min_calls} is never reached in a window of {self.window} calls"
            )
        if self.store is not None:
            from prodml.resilience.shared_circuit import SharedCircuit
            from prodml.stores import open_shared_store

            # The store itself: a URL may hold a password, which nobody shall read here.
            self.store = open_shared_store(self.store)
            self._link = SharedCircuit(self, self.store)
        self.era = self._closed(0, "new")

    # -- the guard ----------------------------------------------------------------------

    def enter(self) -> CircuitToken:
        """Admit the call, or raise :class:`~prodml.errors.CircuitOpen`."""
        era = self.era
        if era.admits:
            return era if era.start is None else Timed(era, era.start())
        if era.rejects:
            after = era.until - self.clock.monotonic()
            if after > 0.0:
                self._rejected.up()
                raise CircuitOpen(self.name, after, era.reason)
        return self._admit()

    def token_of(self, era: Era, began: float) -> CircuitToken:
        """Token of a call that ``era`` admitted at ``began``."""
        return era if era.start is None else Timed(era, began)

    def leave(self, token: CircuitToken, result: Any) -> None:
        """Note that the call returned ``result``."""
        if isinstance(token, Era):
            if token.quiet:
                return
            if token.note is not None:
                token.note(0.0)
                return
        self._conclude(token, self._verdict_on(result), None)

    def fail(self, token: CircuitToken, error: BaseException) -> None:
        """Note that the call raised, or was abandoned."""
        self._conclude(token, FAILED if self._is_failure(error) else None, error)

    def report(self, token: CircuitToken, ok: bool) -> bool:
        """Note a verdict that came later: whether the answer of a call was a good one.

        Late verdicts (a label that arrives, a drift monitor) are counted apart from how the
        calls ended, by the same rules: ``failure_threshold`` bad ones in a row, or a
        ``failure_rate`` of bad ones, open the breaker.  A bad verdict on a trial call opens
        it again; a good one on a trial that is in flight ends the trial.

        Parameters
        ----------
        token
            What :meth:`enter` gave for the call, or ``breaker.era`` read when it was made.
        ok
            Whether the answer was good.

        Returns
        -------
        bool
            False if the call belongs to an earlier state: such a verdict changes nothing.

        Examples
        --------
        >>> breaker = CircuitBreaker("model", failure_threshold=2)
        >>> token = breaker.era
        >>> breaker.report(token, False), breaker.report(token, False)
        (True, True)
        >>> breaker.state.value, breaker.report(token, False)
        ('open', False)
        """
        era = token.era
        if era is None or self.era is not era or self._mode is Mode.DISABLED:
            return False
        if era.state is CircuitState.OPEN:
            return False
        now = self.clock.monotonic()
        if era.state is CircuitState.CLOSED:
            self._note_report(era, OK if ok else FAILED, now)
        elif isinstance(token, Trial) and token in era.in_flight(now):
            self._note_trial(token, OK if ok else FAILED, now, None)
        elif not ok:
            self._trip(era, "a late verdict on a trial call was bad", now, None)
        return True

    # -- what operators see and do --------------------------------------------------------

    @property
    def state(self) -> CircuitState:
        """What the next call meets; in shadow mode, what it would have met."""
        return self._seen(self.era, self.clock.monotonic())

    def snapshot(self) -> CircuitSnapshot:
        """Everything at one moment, for a health page or a scrape.

        Examples
        --------
        >>> CircuitBreaker("db").snapshot().retry_after
        0.0
        """
        now = self.clock.monotonic()
        with self._lock:
            era = self.era
            return CircuitSnapshot(
                name=self.name,
                state=self._seen(era, now),
                mode=self._mode.value,
                era=era.number,
                consecutive=era.failures,
                window=era.window.tally(now) if era.window else Tally(),
                reports=era.reports.tally(now) if era.reports else Tally(),
                successes=era.successes,
                trials=len(era.in_flight(now)),
                retry_after=self._retry_after(era, now),
                attempt=self._attempt,
                opened=self._opened,
                rejected=self._rejected.value(),
                would_open=self._would_open,
                would_reject=self._waved,
                would_reject_succeeded=self._waved_well,
                shared="local" if self._link is None else self._link.condition,
                reason=era.reason,
            )

    def force_open(self, reason: str) -> None:
        """Reject every call of this process until :meth:`reset`."""
        with self._lock:
            old, self._mode = self._mode, Mode.FORCED
            era = self._to_open(reason, math.inf)
        self._tell_mode(old, Mode.FORCED)
        self._announce(era)

    def disable(self) -> None:
        """Let every call through, counting nothing, until :meth:`reset`."""
        self._switch(Mode.DISABLED, "disabled")

    def shadow(self) -> None:
        """Go through the states but reject nothing, until :meth:`reset`.

        The snapshot counts how often it would have opened, the calls it would have
        rejected, and how many of them succeeded all the same.  Nothing opens in truth, so
        no facts are stated.
        """
        self._switch(Mode.SHADOW, "shadow")

    def reset(self) -> None:
        """Close, forget what was counted, and enforce again."""
        self._switch(Mode.ENFORCING, "reset")

    def sync(self) -> None:
        """Look into the ``store`` now, in this thread; otherwise that happens by itself."""
        if self._link is not None:
            self._link.sync()

    def unshare(self) -> None:
        """Stop sharing the state with other workers, and go on alone."""
        if self._link is not None:
            self._link.close()

    # -- admission ------------------------------------------------------------------------

    def _admit(self) -> CircuitToken:
        if self._link is not None:
            self._link.start()
        now = self.clock.monotonic()
        begun, after = None, 0.0
        with self._lock:
            if self.era.state is not self._seen(self.era, now):
                begun = self.era = self._next(CircuitState.HALF_OPEN, "the open time is over")
            era = self.era
            token = self._token(era, now)
            if token is None:
                after = self._retry_after(era, now)
        self._announce(begun)
        if token is None:
            self._rejected.up()
            if self._link is not None:
                self._link.want()
            raise CircuitOpen(self.name, after, era.reason)
        return token

    def _token(self, era: Era, now: float) -> CircuitToken | None:
        if self._mode is Mode.DISABLED:
            return UNWATCHED
        if era.state is CircuitState.CLOSED:
            era.admits = True
            return self.token_of(era, now)
        trying = era.state is CircuitState.HALF_OPEN and self._may_try
        if trying and len(era.in_flight(now)) < self.trial_limit:
            trial = Trial(era, now, now + self.lease)
            era.trials.add(trial)
            era.tried += 1
            return trial
        if self._mode is Mode.SHADOW:
            self._waved += 1
            return self._wave
        return None

    def _seen(self, era: Era, now: float) -> CircuitState:
        seen = era.seen_at(now)
        waits = seen is CircuitState.HALF_OPEN and era.state is not seen and not self._may_try
        return era.state if waits else seen

    @property
    def sharing(self) -> bool:
        """Whether this breaker tells other workers its state and hears theirs."""
        return self._link is not None and self._mode is Mode.ENFORCING

    @property
    def _may_try(self) -> bool:
        return self._link is None or not self.sharing or self._link.may_try

    @property
    def lease(self) -> float:
        """Seconds that a trial call keeps its slot."""
        if self.trial_lease is not None:
            return self.trial_lease
        usual = self.reset_timeout
        return _DEFAULT_SECONDS if callable(usual) or not usual else usual

    def _retry_after(self, era: Era, now: float) -> float:
        if era.state is CircuitState.OPEN:
            return max(0.0, era.until - now)
        if len(era.trials) < self.trial_limit:
            return 0.0
        return max(0.0, min(trial.ends for trial in era.trials) - now)

    # -- verdicts -------------------------------------------------------------------------

    def _verdict_on(self, result: Any) -> int:
        failed = self.failed
        if failed is None or result is NO_RESULT:
            return OK
        try:
            return FAILED if failed(result) else OK
        except Exception:
            # An answer that the predicate cannot read is not a good one.
            return FAILED

    def _is_failure(self, error: BaseException) -> bool:
        # What was abandoned is no Exception, and never a failure.
        if not isinstance(error, Exception) or isinstance(error, self.ignore):
            return False
        return counts(self.on, error) and not refused(error)

    def _conclude(
        self, token: CircuitToken, verdict: int | None, error: BaseException | None
    ) -> None:
        if isinstance(token, Pass):
            if token is self._wave and verdict == OK:
                with self._lock:
                    self._waved_well += 1
            return
        if verdict is None and not isinstance(token, Trial):
            return
        now = self.clock.monotonic()
        slow_after = self.slow_after
        if verdict is not None and slow_after is not None and isinstance(token, Timed):
            verdict |= SLOW if now - token.at >= slow_after else OK
        if isinstance(token, Trial):
            self._note_trial(token, verdict, now, error)
        elif verdict is not None:
            self._note(token.era, verdict, now, error)

    def _note(self, era: Era, verdict: int, now: float, error: BaseException | None) -> None:
        if era.window is not None:
            era.window.add(verdict, now)
        if verdict == OK and not era.failures:
            return
        with self._lock:
            if self.era is not era:
                return
            era.failures = era.failures + 1 if verdict & FAILED else 0
            self._calm(era)
            last = "a bad result" if error is None else type(error).__name__
            row = f"{era.failures} failures in a row, the last: {last}"
            tally = Tally() if era.window is None else era.window.tally(now)
            reason = self._grounds(era.failures, row, tally, f"calls failed, the last: {last}")
        if verdict and reason:
            self._trip(era, reason, now, error)

    def _note_report(self, era: Era, verdict: int, now: float) -> None:
        with self._lock:
            if self.era is not era:
                return
            era.unbroken = era.unbroken + 1 if verdict else 0
            if era.reports is not None:
                era.reports.add(verdict, now)
            row = f"{era.unbroken} bad late verdicts in a row"
            tally = Tally() if era.reports is None else era.reports.tally(now)
            reason = self._grounds(era.unbroken, row, tally, "late verdicts were bad")
        if verdict and reason:
            self._trip(era, reason, now, None)

    def _grounds(self, row: int, in_a_row: str, tally: Tally, in_all: str) -> str:
        if self.failure_threshold is not None and row >= self.failure_threshold:
            return in_a_row
        if tally.total < self.min_calls:
            return ""
        if self.failure_rate is not None and tally.failure_rate >= self.failure_rate:
            return f"{tally.failures} of {tally.total} {in_all}"
        if self.slow_after is not None and tally.slow_rate >= self.slow_rate:
            return f"{tally.slow} of {tally.total} calls took {self.slow_after:.3g} s or more"
        return ""

    def _note_trial(
        self, trial: Trial, verdict: int | None, now: float, error: BaseException | None
    ) -> None:
        # The user's strategy may do anything, so it is asked outside the lock.
        open_seconds = self._open_seconds(self._attempt + 1, error) if verdict else 0.0
        begun = None
        with self._lock:
            era = trial.era
            if self.era is not era or trial not in era.in_flight(now):
                return
            era.trials.discard(trial)
            if verdict:
                last = "a bad result" if error is None else type(error).__name__
                how = f"failed: {last}" if verdict & FAILED else "was slow"
                self._attempt += 1
                begun = self._to_open(f"trial call {how}", now + open_seconds)
            elif verdict == OK:
                era.successes += 1
                if era.successes >= self.success_threshold:
                    self._attempt = 0
                    begun = self._to_closed(f"{era.successes} trial calls succeeded")
        self._announce(begun)

    def _trip(self, era: Era, reason: str, now: float, error: BaseException | None) -> None:
        open_seconds = self._open_seconds(self._attempt + 1, error)
        with self._lock:
            if self.era is not era:
                return
            self._attempt += 1
            begun = self._to_open(reason, now + open_seconds)
        self._announce(begun)

    def _open_seconds(self, attempt: int, error: BaseException | None) -> float:
        usual = self.reset_timeout
        try:
            planned = float(usual(attempt) if callable(usual) else usual)
        except Exception:
            planned = _DEFAULT_SECONDS
        if not 0.0 <= planned < math.inf:
            planned = _DEFAULT_SECONDS
        asked = 0.0 if error is None else asked_wait(error)
        return max(planned, min(asked, self.retry_after_cap))

    # -- eras: all of these but _announce run under the lock --------------------------------

    def _to_open(self, reason: str, until: float) -> Era:
        shadow = self._mode is Mode.SHADOW
        self._opened += not shadow
        self._would_open += shadow
        self.era = era = self._next(CircuitState.OPEN, reason)
        era.until = until
        era.rejects = not shadow
        return era

    def _to_closed(self, reason: str) -> Era:
        self.era = era = self._closed(self.era.number + 1, reason)
        return era

    def _next(self, state: CircuitState, reason: str) -> Era:
        return Era(state, self.era.number + 1, reason)

    def _closed(self, number: int, reason: str) -> Era:
        era = Era(CircuitState.CLOSED, number, reason)
        # Before its first call a shared breaker has to begin listening to the others.
        started = self._link is None or self._link.started
        era.admits = started and self._mode is not Mode.DISABLED
        era.start = None if self.slow_after is None else self.clock.monotonic
        if self._rated:
            era.window, era.reports = self._new_window(), self._new_window()
            era.healthy = era.window.healthy(
                self.clock.monotonic,
                self.slow_after,
                lambda began: self._conclude(Timed(era, began), OK, None),
            )
        self._calm(era)
        return era

    def _new_window(self) -> Window:
        span = self.window_seconds
        return CountWindow(self.window) if span is None else TimeWindow(span)

    def _calm(self, era: Era) -> None:
        """Say what a success means in ``era`` as it stands: while it is calm, very little."""
        calm = not era.failures and self.failed is None
        era.quiet = calm and era.window is None
        era.note = era.healthy if calm else None

    @property
    def _rated(self) -> bool:
        return self.failure_rate is not None or self.slow_after is not None

    def _retuned(self) -> None:
        if self.era.state is CircuitState.CLOSED:
            self._to_closed("retuned")

    def _announce(self, era: Era | None, *, heard: bool = False) -> None:
        if era is None or self._mode is Mode.SHADOW:
            return
        if self._link is not None and self.sharing and not heard:
            self._link.tell(era)
        at, reason = self.clock.time(), era.reason
        if era.state is CircuitState.OPEN:
            after = max(0.0, era.until - self.clock.monotonic())
            self.events.emit(
                CircuitOpened(at=at, source=self.name, reason=reason, retry_after=after)
            )
        elif era.state is CircuitState.HALF_OPEN:
            self.events.emit(CircuitHalfOpened(at=at, source=self.name))
        else:
            self.events.emit(CircuitClosed(at=at, source=self.name, reason=reason))

    # -- what other workers say -----------------------------------------------------------

    def follow(
        self, state: CircuitState, open_seconds: float, reason: str, attempt: int = 0
    ) -> None:
        """Go to the state that another worker has found out; used by :class:`SharedCircuit`."""
        now = self.clock.monotonic()
        with self._lock:
            # Two that opened at once do not prolong each other's open time.
            known = self.era.state is state and (
                state is CircuitState.CLOSED or now < self.era.until
            )
            if known or self._mode is not Mode.ENFORCING:
                return
            self._attempt = attempt
            if state is CircuitState.OPEN:
                begun = self._to_open(reason, now + open_seconds)
            else:
                begun = self._to_closed(reason)
        self._announce(begun, heard=True)

    # -- modes ----------------------------------------------------------------------------

    def _switch(self, mode: Mode, reason: str) -> None:
        with self._lock:
            old, self._mode = self._mode, mode
            rejecting = old is not Mode.SHADOW and self.era.state is not CircuitState.CLOSED
            era = self._to_closed(reason)
            self._attempt = 0
            self._waved = self._waved_well = self._would_open = 0
            self._wave = Pass()
        self._tell_mode(old, mode)
        if rejecting:
            at = self.clock.time()
            self.events.emit(CircuitClosed(at=at, source=self.name, reason=era.reason))
        if self._link is not None and mode is Mode.ENFORCING:
            # What this process was told to do alone is over: the others know better.
            self._link.tell(era, insists=True) if old is mode else self._link.hear()

    def _tell_mode(self, old: Mode, new: Mode) -> None:
        if old is new:
            return
        changes = {"mode": (old.value, new.value)}
        self.events.emit(SettingsChanged(at=self.clock.time(), source=self.name, changes=changes))
