"""How long to wait before the next attempt, or before the next trial call."""

import math
import random
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, TypeAlias, cast, final

from prodml.errors import BadConfiguration
from prodml.resilience._bounds import seconds

__all__ = ["LONGEST_WAIT", "DecorrelatedJitter", "Exponential", "FullJitter", "Wait", "asked_wait"]

Wait: TypeAlias = float | Callable[[int], float] | Any
"""Seconds, a function of the attempt that failed (from 1), or a tenacity wait strategy."""

LONGEST_WAIT = 365.0 * 86_400.0
"""Seconds that nobody means to wait for longer; a machine's clock cannot count much further."""

# 2.0 ** 1024 overflows; no cap is reached later than this.
_LAST_DOUBLING = 60


@final
@dataclass(kw_only=True, slots=True, eq=False)
class FullJitter:
    """A random wait between nothing and a bound that doubles with every attempt.

    Clients that failed together do not come back together.

    Parameters
    ----------
    base
        Seconds of the first bound, > 0.
    cap
        Seconds that no bound exceeds, > 0.
    rng
        Source of chance; seed it for the same waits in every run.

    Raises
    ------
    BadConfiguration
        A time is not a positive number.

    Examples
    --------
    >>> wait = FullJitter(base=0.1, cap=10.0, rng=random.Random(7))
    >>> all(wait(attempt) <= 0.1 * 2 ** (attempt - 1) for attempt in (1, 2, 3))
    True

    References
    ----------
    .. [1] Brooker (2015), "Exponential Backoff And Jitter", AWS Architecture Blog:
       ``sleep = random_between(0, min(cap, base * 2 ** attempt))``.
    """

    base: float = 0.1
    cap: float = 10.0
    rng: random.Random = field(default_factory=random.Random)

    def __post_init__(self) -> None:
        seconds(self, "base", "cap")

    def __call__(self, attempt: int) -> float:
        """Seconds to wait after ``attempt`` attempts have failed."""
        bound: float = self.base * 2.0 ** min(attempt - 1, _LAST_DOUBLING)
        return self.rng.uniform(0.0, min(self.cap, bound))


@final
@dataclass(kw_only=True, slots=True, eq=False)
class DecorrelatedJitter:
    """A random wait between ``base`` and three times the wait before it.

    Waits grow like those of :class:`FullJitter`, but none is near zero.

    Parameters
    ----------
    base
        Seconds of the shortest wait, > 0.
    cap
        Seconds that no wait exceeds, >= ``base``.
    rng
        Source of chance; seed it for the same waits in every run.

    Raises
    ------
    BadConfiguration
        A time is not a positive number, or ``cap`` is below ``base``.

    Examples
    --------
    >>> wait = DecorrelatedJitter(base=0.1, cap=10.0, rng=random.Random(7))
    >>> 0.1 <= wait(1) <= 0.3, 0.1 <= wait(2, 1.0) <= 3.0
    (True, True)

    References
    ----------
    .. [1] Brooker (2015), "Exponential Backoff And Jitter", AWS Architecture Blog:
       ``sleep = min(cap, random_between(base, sleep * 3))``.
    """

    base: float = 0.1
    cap: float = 10.0
    rng: random.Random = field(default_factory=random.Random)

    def __post_init__(self) -> None:
        seconds(self, "base", "cap")
        _ordered(self.base, self.cap)

    def __call__(self, attempt: int, before: float = 0.0) -> float:  # noqa: ARG002
        """Seconds to wait when the wait ``before`` was so many (0 before the first)."""
        return min(self.cap, self.rng.uniform(self.base, 3.0 * max(before, self.base)))


@final
@dataclass(slots=True, eq=False)
class Exponential:
    """Seconds that grow by ``factor`` each time, up to ``cap``, give or take some jitter.

    For a breaker's ``reset_timeout``: a dependency that stays down is asked less and less
    often, and breakers of many workers do not ask at the same moment.

    Parameters
    ----------
    base
        Seconds the first time, > 0.
    factor
        Growth from one time to the next, >= 1.
    cap
        Seconds that are never exceeded, jitter included, >= ``base``.
    jitter
        Share, in [0, 1), by which the seconds are longer or shorter at random.
    rng
        Source of chance; seed it for the same times in every run.

    Raises
    ------
    BadConfiguration
        A setting is out of range.

    Examples
    --------
    >>> growing = Exponential(5.0, cap=60.0, jitter=0.0)
    >>> [growing(attempt) for attempt in (1, 2, 3, 4, 5)]
    [5.0, 10.0, 20.0, 40.0, 60.0]
    """

    base: float
    _: KW_ONLY
    factor: float = 2.0
    cap: float = 300.0
    jitter: float = 0.1
    rng: random.Random = field(default_factory=random.Random)

    def __post_init__(self) -> None:
        seconds(self, "base", "cap")
        _ordered(self.base, self.cap)
        if not 1.0 <= self.factor < float("inf"):
            raise BadConfiguration(f"factor must be a number >= 1, not {self.factor!r}")
        if not 0.0 <= self.jitter < 1.0:
            raise BadConfiguration(f"jitter must be a share in [0, 1), not {self.jitter!r}")

    def __call__(self, attempt: int) -> float:
        """Seconds of the ``attempt``-th time, from 1."""
        # The logarithm decides, because the power itself may be too large for a float.
        doublings = (attempt - 1) * math.log(self.factor)
        grown = self.cap if doublings > math.log(self.cap / self.base) else None
        plain = self.base * self.factor ** (attempt - 1) if grown is None else grown
        return min(self.cap, plain * self.rng.uniform(1.0 - self.jitter, 1.0 + self.jitter))


def _ordered(base: float, cap: float) -> None:
    if cap < base:
        raise BadConfiguration(f"cap must be at least base={base!r}, not {cap!r}")


def asked_wait(error: BaseException) -> float:
    """Seconds that the callee asks to be left alone, by its error's ``retry_after``; or 0.0."""
    try:
        asked = getattr(error, "retry_after", None)
    except Exception:
        # A property that reads a header which is not there.
        return 0.0
    # Whatever else a foreign error may keep under that name is not a number of seconds.
    if isinstance(asked, int | float) and not math.isnan(asked):
        return max(0.0, asked)
    return 0.0


def waiting(wait: Wait) -> Callable[[int, Exception, float], float]:
    """Turn any way of saying how long to wait into one function.

    It takes the attempt that failed, its error and the wait before it.

    Raises
    ------
    BadConfiguration
        ``wait`` is neither seconds >= 0 nor callable.
    """
    if isinstance(wait, DecorrelatedJitter):
        return lambda attempt, _error, before: wait(attempt, before)
    if callable(wait):
        strategy = cast("Callable[[Any], float]", wait)
        if _is_tenacity(type(strategy)):
            return lambda attempt, error, _: float(strategy(_tenacity_state(attempt, error)))
        return lambda attempt, _error, _before: float(strategy(attempt))
    if isinstance(wait, int | float) and 0 <= wait <= LONGEST_WAIT:
        constant = float(wait)
        return lambda _attempt, _error, _before: constant
    raise BadConfiguration(
        f"wait must be seconds >= 0, a year at most, a function of the attempt or a tenacity "
        f"wait strategy, not {wait!r}"
    )


def _is_tenacity(kind: type) -> bool:
    return any(base.__module__.startswith("tenacity.") for base in kind.__mro__)


def _tenacity_state(attempt: int, error: Exception) -> Any:
    import tenacity

    state = tenacity.RetryCallState(tenacity.Retrying(), None, (), {})
    state.attempt_number = attempt
    state.outcome = tenacity.Future.construct(attempt, error, has_exception=True)
    return state
