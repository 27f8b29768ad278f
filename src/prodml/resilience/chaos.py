"""Break things on purpose: errors, delays and bad answers at a rate."""

import math
import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, final

from prodml._call import Flow, Invoke, Opened, Pause, Steps
from prodml.clock import SYSTEM_CLOCK, Clock
from prodml.errors import BadConfiguration
from prodml.resilience._bounds import seconds

__all__ = ["Chaos", "ChaosStats"]


@dataclass(frozen=True, slots=True)
class ChaosStats:
    """What has been injected so far.

    Parameters
    ----------
    calls
        Calls made while the chaos was active.
    errors, delayed, spoiled
        How many of them raised the injected error, were delayed, and answered badly; one
        call may be delayed and raise.

    Examples
    --------
    >>> ChaosStats(calls=10, errors=2).spoiled
    0
    """

    calls: int = 0
    errors: int = 0
    delayed: int = 0
    spoiled: int = 0


def _injected() -> ConnectionError:
    return ConnectionError("injected fault")


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is to happen to one call."""

    delayed: bool
    fails: bool
    spoils: bool
    seed: int


@final
@dataclass(kw_only=True, slots=True, eq=False)
class Chaos(Flow):
    """Let calls fail, dawdle or answer nonsense at a rate, to see what happens then.

    A layer like any other: around a function in a test, innermost in a ``compose(...)`` in
    a staging system, or switched on for the minutes of a game day.  What stands outside
    (breaker, retry, timeout, fallback chain) cannot tell it from a broken dependency.

    Parameters
    ----------
    error_rate
        Share of calls, in [0, 1], that raise ``error`` instead of being made.
    error
        An exception, or what makes one: its class or a function without arguments.
    delay_rate
        Share of calls, in [0, 1], that are delayed first.
    delay
        Seconds, or a function that draws them from a ``random.Random``.
    bad_rate
        Share of answers, in [0, 1], that are replaced by ``bad``.
    bad
        The bad answer, or a function that makes it from the true one.
    active
        Off switch: False or a function that answers falsy leaves calls as they are.
    rng
        Source of chance; seed it for the same faults in every run.
    name
        Names the chaos in ``explain()``.
    clock
        Collaborator; the delays pass on it.

    Raises
    ------
    BadConfiguration
        A rate is not in [0, 1], or ``error`` or ``delay`` makes no sense.

    Notes
    -----
    The three rates are independent.  Every active call draws the same numbers whatever the
    rates are, so the n-th call of a seed is delayed, fails or is spoiled by its own luck:
    a change of one rate leaves the others' faults where they were.  Threads that call at
    once share one sequence; who gets which number is the scheduler's choice.

    Of a generator the opening is delayed or fails, and its first item is the answer that
    is spoiled.

    ``retune(chaos, error_rate=0.5)`` changes a running one.  An ``active`` that raises
    means off: the layer breaks only what it was told to.

    Fault, latency and outcome are the kinds that Simmy injects; experiments in production,
    under control, are the principle [1]_.

    Examples
    --------
    >>> chaos = Chaos(error_rate=0.5, rng=random.Random(1))
    >>> predict = chaos(lambda features: 0.7)
    >>> def outcome():
    ...     try:
    ...         return predict({})
    ...     except ConnectionError as error:
    ...         return str(error)
    >>> [outcome() for _ in range(3)]
    [0.7, 'injected fault', 'injected fault']
    >>> chaos.stats()
    ChaosStats(calls=3, errors=2, delayed=0, spoiled=0)

    References
    ----------
    .. [1] Basiri et al. (2016), "Chaos engineering", *IEEE Software* 33(3).
    """

    error_rate: float = 0.0
    error: Exception | Callable[[], Exception] = _injected
    delay_rate: float = 0.0
    delay: float | Callable[[random.Random], float] = 1.0
    bad_rate: float = 0.0
    bad: Any = math.nan
    active: bool | Callable[[], object] = True
    rng: random.Random = field(default_factory=random.Random)
    name: str = "chaos"
    clock: Clock = SYSTEM_CLOCK
    _calls: int = field(default=0, init=False, repr=False)
    _errors: int = field(default=0, init=False, repr=False)
    _delayed: int = field(default=0, init=False, repr=False)
    _spoiled: int = field(default=0, init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("error_rate", "delay_rate", "bad_rate"):
            rate = getattr(self, name)
            if not (isinstance(rate, int | float) and 0 <= rate <= 1):
                raise BadConfiguration(f"{name} must be a share in [0, 1], not {rate!r}")
        if not callable(self.delay):
            seconds(self, "delay", zero=True)
        if not _makes_an_error(self.error):
            raise BadConfiguration(
                f"error must be an Exception, its class or a function that makes one, "
                f"not {self.error!r}"
            )

    def stats(self) -> ChaosStats:
        """Counters since the chaos was made."""
        with self._lock:
            return ChaosStats(self._calls, self._errors, self._delayed, self._spoiled)

    def steps(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Steps:
        """Make the call, or what chance makes of it."""
        call = Invoke(fn, args, kwargs)
        if not self._on():
            return (yield call)
        plan = self._draw()
        if plan.delayed:
            yield Pause(self._seconds(plan.seed))
        if plan.fails:
            return None, self._error()
        answer, error = yield call
        if error is not None or not plan.spoils:
            return answer, error
        return self._spoil(answer)

    def _on(self) -> bool:
        try:
            return bool(self.active() if callable(self.active) else self.active)
        except Exception:
            return False

    def _draw(self) -> _Plan:
        with self._lock:
            draw = self.rng.random
            delayed = draw() < self.delay_rate
            fails = draw() < self.error_rate
            spoils = draw() < self.bad_rate
            seed = self.rng.getrandbits(64)
            self._calls += 1
            self._delayed += delayed
            self._errors += fails
        return _Plan(delayed, fails, spoils, seed)

    def _seconds(self, seed: int) -> float:
        # A function gets chance of its own: how much it draws changes nobody else's luck.
        drawn = self.delay(random.Random(seed)) if callable(self.delay) else self.delay
        return max(0.0, drawn)

    def _error(self) -> Exception:
        if isinstance(self.error, Exception):
            # Raised again and again, its traceback would grow without end.
            return self.error.with_traceback(None)
        return self.error()

    def _bad(self, answer: Any) -> Any:
        return self.bad(answer) if callable(self.bad) else self.bad

    def _spoil(self, answer: Any) -> tuple[Any, Exception | None]:
        stream = answer if isinstance(answer, Opened) else None
        if stream is not None and stream.ended:
            return answer, None
        try:
            spoiled = self._bad(answer if stream is None else stream.item)
        except Exception as error:
            return None, error
        if stream is not None:
            stream.item, spoiled = spoiled, stream
        with self._lock:
            self._spoiled += 1
        return spoiled, None


def _makes_an_error(error: Any) -> bool:
    if isinstance(error, type):
        # KeyboardInterrupt and the like are no fault of a dependency.
        return issubclass(error, Exception)
    return isinstance(error, Exception) or callable(error)
