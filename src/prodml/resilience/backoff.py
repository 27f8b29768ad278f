"""How long to wait before the next attempt."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast, final

from prodml.errors import BadConfiguration
from prodml.resilience._bounds import seconds

__all__ = ["FullJitter", "Wait"]

Wait: TypeAlias = float | Callable[[int], float] | Any
"""Seconds, a function of the attempt that failed (from 1), or a tenacity wait strategy."""

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


def waiting(wait: Wait) -> Callable[[int, Exception], float]:
    """Turn any way of saying how long to wait into a function of attempt and error.

    Raises
    ------
    BadConfiguration
        ``wait`` is neither seconds >= 0 nor callable.
    """
    if callable(wait):
        strategy = cast("Callable[[Any], float]", wait)
        if _is_tenacity(type(strategy)):
            return lambda attempt, error: float(strategy(_tenacity_state(attempt, error)))
        return lambda attempt, _error: float(strategy(attempt))
    if isinstance(wait, int | float) and 0 <= wait < float("inf"):
        constant = float(wait)
        return lambda _attempt, _error: constant
    raise BadConfiguration(
        f"wait must be seconds >= 0, a function of the attempt or a tenacity wait strategy, "
        f"not {wait!r}"
    )


def _is_tenacity(kind: type) -> bool:
    return any(base.__module__.startswith("tenacity.") for base in kind.__mro__)


def _tenacity_state(attempt: int, error: Exception) -> Any:
    import tenacity

    state = tenacity.RetryCallState(tenacity.Retrying(), None, (), {})
    state.attempt_number = attempt
    state.outcome = tenacity.Future.construct(attempt, error, has_exception=True)
    return state
