"""Call again what may work the next time.

The success path of a plain function is a ``try`` around it; everything else happens only
after a failure.
"""

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import CoroutineType
from typing import Any, ParamSpec, TypeVar, cast, final

from prodml._call import Flow, Invoke, Kind, Pause, Steps, kind_of, run
from prodml._deadline import CURRENT, narrow, remaining, restore
from prodml.clock import SYSTEM_CLOCK, Clock
from prodml.errors import DeadlineExceeded, Rejected
from prodml.events import EVENTS, CallRetried, Stream
from prodml.resilience._bounds import at_least, error_types, seconds
from prodml.resilience.backoff import FullJitter, Wait, waiting
from prodml.resilience.budget import RetryBudget

__all__ = ["Retry"]

P = ParamSpec("P")
R = TypeVar("R")


@final
@dataclass(kw_only=True, slots=True, eq=False)
class Retry(Flow):
    """Make up to ``attempts`` attempts while the errors are of the kinds in ``on``.

    The last error is raised as it is, with a note about the attempts.  A rejection by
    another policy (open breaker, full bulkhead) is never retried; a
    :class:`~prodml.errors.DeadlineExceeded` is, if ``on`` covers ``TimeoutError`` and the
    request has time left.  Cancellation and interrupts pass at once.  Of a generator only
    the opening is retried, up to its first item.

    Parameters
    ----------
    attempts
        Calls in all, at least 1.
    on
        Exception class or classes worth another attempt.
    wait
        Seconds between attempts: a number, a function of the attempt that failed (from
        1), or a tenacity wait strategy.  A larger ``retry_after`` (seconds) of the error
        is honoured.
    retry_after_cap
        A ``retry_after`` beyond so many seconds is not waited for: the error is raised.
    deadline
        Seconds for all attempts and waits together.  A wait that would not end in time is
        not begun; layers below see the deadline.
    budget
        Shared limit on the load that retries add.
    name
        Names the retry in facts.
    clock, events
        Collaborators.

    Raises
    ------
    BadConfiguration
        A setting makes no sense.

    Notes
    -----
    States :class:`~prodml.events.CallRetried` before each wait.  An attempt is never
    interrupted: put a :class:`Timeout` inside for that.

    Examples
    --------
    >>> answers = iter([ConnectionError("lost"), 42])
    >>> @Retry(attempts=3, wait=0.0)
    ... def fetch() -> int:
    ...     answer = next(answers)
    ...     if isinstance(answer, Exception):
    ...         raise answer
    ...     return answer
    >>> fetch()
    42
    """

    attempts: int = 3
    on: type[Exception] | tuple[type[Exception], ...] = (ConnectionError,)
    wait: Wait = field(default_factory=FullJitter)
    retry_after_cap: float = 60.0
    deadline: float | None = field(default=None, metadata={"fixed": "it chose the way of the call"})
    budget: RetryBudget | None = None
    name: str = "retry"
    clock: Clock = SYSTEM_CLOCK
    events: Stream = EVENTS
    _waiting: Callable[[int, Exception], float] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        at_least(self, 1, "attempts")
        error_types(self, "on")
        seconds(self, "deadline", optional=True)
        seconds(self, "retry_after_cap", zero=True)
        self._retuned()

    def _retuned(self) -> None:
        self._waiting = waiting(self.wait)

    def __call__(self, fn: Callable[P, R]) -> Callable[P, R]:
        """Retry ``fn`` of any kind; the result is a plain function of its signature."""
        if kind_of(fn) is Kind.PLAIN and self.deadline is None:
            return cast("Callable[P, R]", self._plain(fn))
        return Flow.__call__(self, fn)

    def steps(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Steps:
        """Attempts and the pauses between them."""
        if self.budget is not None:
            self.budget.deposit()
        if self.deadline is None:
            return (yield from self._first(Invoke(fn, args, kwargs)))
        before = narrow(self.deadline, self.clock)
        try:
            return (yield from self._first(Invoke(fn, args, kwargs)))
        finally:
            restore(before)

    def _plain(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        limit, budget = CURRENT.get, self.budget

        @functools.wraps(fn)
        def retried(*args: Any, **kwargs: Any) -> Any:
            if limit() is not None:
                return run(self.steps(fn, args, kwargs), self.clock)
            if budget is not None:
                budget.deposit()
            try:
                result = fn(*args, **kwargs)
            except Exception as first:
                error = first
            else:
                if type(result) is CoroutineType:
                    # The long way says what is wrong with that.
                    result.close()
                    return run(self.steps(fn, args, kwargs), self.clock)
                return result
            try:
                return run(self._again(Invoke(fn, args, kwargs), error), self.clock)
            finally:
                # The traceback refers to this frame: error and frame would keep each other.
                del error

        return retried

    def _first(self, call: Invoke) -> Steps:
        result, error = yield call
        if error is None:
            return result, None
        return (yield from self._again(call, error))

    def _again(self, call: Invoke, error: Exception) -> Steps:
        attempt = 1
        while self._worthwhile(error):
            pause, obstacle = self._next_wait(attempt, error)
            if obstacle:
                _note(error, f"attempt {attempt} of {self.attempts}; {obstacle}")
                break
            self.events.emit(
                CallRetried(
                    at=self.clock.time(),
                    source=self.name,
                    attempt=attempt,
                    wait=pause,
                    error=error,
                )
            )
            yield Pause(pause)
            attempt += 1
            result, failure = yield call
            if failure is None:
                return result, None
            error = failure
        return None, error

    def _worthwhile(self, error: Exception) -> bool:
        if not isinstance(error, self.on):
            return False
        return not isinstance(error, Rejected) or isinstance(error, DeadlineExceeded)

    def _next_wait(self, attempt: int, error: Exception) -> tuple[float, str]:
        if attempt >= self.attempts:
            return 0.0, "no attempts left"
        pause = max(0.0, self._waiting(attempt, error))
        asked = _retry_after(error)
        if asked > self.retry_after_cap:
            return 0.0, f"the callee asks for {asked:.3g} s, more than retry_after_cap"
        pause, left = max(pause, asked), remaining()
        if left is not None and pause >= left:
            return 0.0, "the deadline ends before the next attempt"
        if self.budget is not None and not self.budget.withdraw():
            return 0.0, "the retry budget is spent"
        return pause, ""


def _retry_after(error: Exception) -> float:
    asked = getattr(error, "retry_after", None)
    # Whatever else a foreign error may keep under that name is not a number of seconds.
    if isinstance(asked, int | float) and not math.isnan(asked):
        return max(0.0, asked)
    return 0.0


def _note(error: Exception, note: str) -> None:
    # Some libraries raise one error object again and again: its notes must not pile up.
    if note not in getattr(error, "__notes__", ()):
        error.add_note(note)
