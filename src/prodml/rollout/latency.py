"""Is the canary slower in its slowest answers than the stable arm is at the same time?"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

from prodml.errors import BadConfiguration
from prodml.rollout.analysis import Sequential, Tally
from prodml.rollout.odds import Arms, arms_told, odds_bets

__all__ = ["Latency"]

# The quantile of stable is taken from its last answers, and not before there are enough.
_LAST, _FIRST = 500, 100


@final
@dataclass(slots=True, kw_only=True)
class Latency(Sequential):
    """Quantile of the canary's latency against the stable arm at the same time.

    Parameters
    ----------
    q
        The quantile to guard, in (0, 1).
    worse
        Factor by which the canary may be slower, at least 1.
    alpha
        Probability that a canary which is no slower than that is ever called worse.
    enough
        Canary requests in a step after which a canary that was not shown to be slower is fine.
    name
        By default ``latency p`` with the quantile in percent.

    Raises
    ------
    BadConfiguration
        A setting out of its range.

    Notes
    -----
    The limit is the quantile of stable's last 500 answers in this process, taken before each
    block.  A stable answer above the limit counts as slow, and so does a canary's above
    ``worse`` times the limit; slow answers are then compared as :class:`ErrorRate` compares
    failures.  So no shape of the distribution is assumed, and a slow hour of the whole
    system hits both arms and cancels.  Precisely, what is harmless is a canary whose latency
    is stochastically no larger than ``worse`` times stable's.

    Examples
    --------
    >>> guard = Latency(q=0.9, worse=1.5)
    >>> for request in range(400):
    ...     guard.observe(0.010 + request % 10 / 1000, canary=False)
    ...     guard.observe(0.030 + request % 10 / 1000, canary=True)
    >>> guard.judge().verdict.value
    'worse'
    """

    name: str = ""
    q: float = 0.95
    worse: float = 1.2
    _arms: Arms = field(default_factory=Arms, init=False, repr=False)
    _recent: deque[float] = field(init=False, repr=False)
    _limit: float = field(default=math.nan, init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0.0 < self.q < 1.0:
            raise BadConfiguration(f"q must lie in (0, 1), not {self.q}")
        if not 1.0 <= self.worse < math.inf:
            raise BadConfiguration(f"worse must be a factor of at least 1, not {self.worse}")
        self.name = self.name or f"latency p{100 * self.q:g}"
        self._recent = deque(maxlen=_LAST)
        Sequential.__post_init__(self)

    def observe(self, seconds: float, *, canary: bool) -> None:
        """Take in how long a request of an arm took."""
        if not math.isfinite(seconds):
            return
        self.tally["heard"] = 1
        if len(self._recent) >= _FIRST:
            self._compare(seconds, canary=canary)
        if not canary:
            self._recent.append(seconds)

    def _compare(self, seconds: float, *, canary: bool) -> None:
        if math.isnan(self._limit):
            self._limit = sorted(self._recent)[int(self.q * len(self._recent))]
        limit = self._limit * self.worse if canary else self._limit
        if self._arms.add(self.tally, canary=canary, bad=seconds > limit):
            self.tally["limit"] = self.tally.get("limit", 0.0) + self._limit
            self.tally["blocks"] = self.tally.get("blocks", 0) + 1
            self._limit = math.nan

    def _bets(self, tally: Tally) -> Sequence[tuple[float, float]]:
        return odds_bets(tally)

    def _told(self, step: Tally) -> tuple[str, Tally]:
        limit = step["limit"] / step["blocks"]
        told, numbers = arms_told(step, f"took more than {self.worse:g} x {limit * 1e3:.3g} ms")
        return told, numbers | {"limit": limit}

    def _drop(self) -> None:
        self._arms.drop()
        self._limit = math.nan
