"""Call again what may work the next time.

A first attempt that succeeds passes as it is; everything else happens only after a failure.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, final

from prodml._call import Invoke, Opened, Outcome, Pause, Recovery, Steps
from prodml._deadline import narrow, remaining, restore
from prodml.clock import SYSTEM_CLOCK, Clock
from prodml.errors import RejectedAnswer
from prodml.events import EVENTS, CallRetried, Stream
from prodml.resilience._bounds import at_least, seconds
from prodml.resilience._verdict import Failures, check_failures, counts, refused
from prodml.resilience.backoff import LONGEST_WAIT, FullJitter, Wait, asked_wait, waiting
from prodml.resilience.budget import RetryBudget

__all__ = ["Retry"]


_FIXED = {"fixed": "it chose the way of the call"}


@final
@dataclass(kw_only=True, slots=True, eq=False)
class Retry(Recovery):
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
        Exception class or classes worth another attempt, or a predicate of the exception.
    on_result
        Tells from a result whether it is worth another attempt.  When no attempt is left
        the last result is returned.  Of a generator it judges the first item.
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
    on: Failures = (ConnectionError,)
    on_result: Callable[[Any], object] | None = field(default=None, metadata=_FIXED)
    wait: Wait = field(default_factory=FullJitter)
    retry_after_cap: float = 60.0
    deadline: float | None = field(default=None, metadata=_FIXED)
    budget: RetryBudget | None = None
    name: str = "retry"
    clock: Clock = SYSTEM_CLOCK
    events: Stream = EVENTS
    _waiting: Callable[[int, Exception, float], float] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        at_least(self, 1, "attempts")
        check_failures(self, "on")
        seconds(self, "deadline", optional=True)
        seconds(self, "retry_after_cap", zero=True)
        self._retuned()

    def _retuned(self) -> None:
        self._waiting = waiting(self.wait)

    @property
    def paid(self) -> Callable[[], object] | None:
        """The budget's deposit, made before each call."""
        return None if self.budget is None else self.budget.deposit

    @property
    def watchful(self) -> bool:
        """Whether a first attempt that returns is not the end of it."""
        return self.deadline is not None or self.on_result is not None

    def steps(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Steps:
        """Attempts and the pauses between them."""
        if self.budget is not None:
            self.budget.deposit()
        if self.deadline is None:
            return (yield from self._attempts(Invoke(fn, args, kwargs)))
        before = narrow(self.deadline, self.clock)
        try:
            return (yield from self._attempts(Invoke(fn, args, kwargs)))
        finally:
            restore(before)

    def recover(self, call: Invoke, error: Exception) -> Steps:
        """Attempts after the first one, which has failed with ``error``."""
        return self._again(call, (None, error))

    def _attempts(self, call: Invoke) -> Steps:
        return (yield from self._again(call, (yield call)))

    def _again(self, call: Invoke, outcome: Outcome) -> Steps:
        attempt, pause = 1, 0.0
        while (reason := self._reason(outcome)) is not None:
            pause, obstacle = self._next_wait(attempt, reason, pause)
            if obstacle:
                _note(reason, f"attempt {attempt} of {self.attempts}; {obstacle}")
                break
            self.events.emit(
                CallRetried(
                    at=self.clock.time(),
                    source=self.name,
                    attempt=attempt,
                    wait=pause,
                    error=reason,
                )
            )
            if isinstance(outcome[0], Opened):
                # The stream whose first item was not good enough: nobody will read on.
                yield Invoke(outcome[0].close, acall=outcome[0].aclose)
            yield Pause(pause)
            attempt += 1
            outcome = yield call
        return outcome

    def _reason(self, outcome: Outcome) -> Exception | None:
        """Why there should be another attempt, or None."""
        result, error = outcome
        if error is not None:
            return error if counts(self.on, error) and not refused(error) else None
        if self.on_result is None:
            return None
        answer = result.item if isinstance(result, Opened) else result
        try:
            again = bool(self.on_result(answer))
        except Exception:
            # A predicate that cannot read the answer does not say that it is a bad one.
            return None
        return RejectedAnswer("on_result asks again", answer) if again else None

    def _next_wait(self, attempt: int, error: Exception, before: float) -> tuple[float, str]:
        if attempt >= self.attempts:
            return 0.0, "no attempts left"
        pause = min(max(0.0, self._waiting(attempt, error, before)), LONGEST_WAIT)
        asked = asked_wait(error)
        if asked > self.retry_after_cap:
            return 0.0, f"the callee asks for {asked:.3g} s, more than retry_after_cap"
        pause, left = max(pause, asked), remaining()
        if left is not None and pause >= left:
            return 0.0, "the deadline ends before the next attempt"
        if self.budget is not None and not self.budget.withdraw():
            return 0.0, "the retry budget is spent"
        return pause, ""


def _note(error: Exception, note: str) -> None:
    # Some libraries raise one error object again and again: its notes must not pile up.
    if note not in getattr(error, "__notes__", ()):
        error.add_note(note)
