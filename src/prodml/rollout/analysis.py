"""Is the challenger worse?  Tests that stay right while one looks.

Both guards bet.  Let ``d`` in [-1, 1] be how much worse the challenger did than stable on
one occasion.  If on average it is no worse than ``tolerance``, then for every stake ``s`` in
[0, 1) the wealth ``prod(1 + s (d - tolerance) / (1 + tolerance))`` is a non-negative
supermartingale, and so is the mean of the wealths of several stakes.  By Ville's inequality
the wealth of a harmless challenger *ever* reaches ``1 / alpha`` with probability at most
``alpha``, however often one looks and whenever one stops [1]_.

References
----------
.. [1] Waudby-Smith and Ramdas (2024), "Estimating means of bounded random variables by
   betting", JRSS-B 86(1), section 4; Ville (1939).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol, final

from prodml.errors import BadConfiguration

__all__ = ["ErrorRate", "Finding", "Guardrail", "PairedLoss", "Verdict"]

# Small stakes find small harm late, large ones find great harm early.
_STAKES = (0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95)


class Verdict(Enum):
    """What a guard can say; ``UNKNOWN`` never moves a rollout.

    Examples
    --------
    >>> Verdict("worse") is Verdict.WORSE
    True
    """

    WORSE = "worse"
    FINE = "fine"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Finding:
    """A verdict with its reason in numbers.

    Examples
    --------
    >>> Finding(Verdict.FINE, "500 pairs").verdict.value
    'fine'
    """

    verdict: Verdict
    reason: str


class Guardrail(Protocol):
    """What a rollout asks of a guard."""

    name: str

    def judge(self) -> Finding:
        """What is known now."""
        ...

    def begin_step(self) -> None:
        """A new step begins: fresh observations are needed for FINE, evidence of harm stays."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """State as plain data."""
        ...

    def load(self, state: Mapping[str, Any]) -> None:
        """Take a state up again."""
        ...


@dataclass(slots=True)
class _Bets:
    """Wealth of each stake, as logarithms, and the moments of what was seen."""

    tolerance: float
    wealth: list[float] = field(default_factory=lambda: [0.0] * len(_STAKES))
    count: int = 0
    total: float = 0.0

    def add(self, worse_by: float) -> None:
        self.count += 1
        self.total += worse_by
        fair = (worse_by - self.tolerance) / (1.0 + self.tolerance)
        for place, stake in enumerate(_STAKES):
            self.wealth[place] += math.log1p(stake * fair)

    @property
    def evidence(self) -> float:
        """Logarithm of the mean wealth."""
        top = max(self.wealth)
        return top + math.log(sum(math.exp(w - top) for w in self.wealth) / len(_STAKES))

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else math.nan


@dataclass(slots=True)
class _Betting:
    """What the two guards share: settings, the bets, and the observations of this step."""

    tolerance: float = 0.0
    alpha: float = 0.01
    enough: int = 500
    _bets: _Bets = field(init=False, repr=False)
    _step: int = field(default=0, init=False, repr=False)
    _peak: float = field(default=0.0, init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0.0 <= self.tolerance < 1.0:
            raise BadConfiguration(f"tolerance must lie in [0, 1), not {self.tolerance}")
        if not 0.0 < self.alpha < 1.0:
            raise BadConfiguration(f"alpha must lie in (0, 1), not {self.alpha}")
        if self.enough < 1:
            raise BadConfiguration(f"enough must be at least 1, not {self.enough}")
        self._bets = _Bets(self.tolerance)

    @property
    def count(self) -> int:
        """Occasions seen."""
        return self._bets.count

    def begin_step(self) -> None:
        """Ask for fresh observations before the next FINE."""
        self._step = 0

    def to_dict(self) -> dict[str, Any]:
        """State as plain data."""
        bets = self._bets
        return {
            "wealth": list(bets.wealth),
            "count": bets.count,
            "total": bets.total,
            "step": self._step,
            "peak": self._peak,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take a state up again."""
        self._bets = _Bets(
            self.tolerance, [float(w) for w in state["wealth"]], state["count"], state["total"]
        )
        self._step, self._peak = state["step"], state["peak"]

    def _bet(self, worse_by: float) -> None:
        self._bets.add(worse_by)
        self._step += 1
        # Ville bounds the highest wealth ever, so harm once shown stays shown.
        self._peak = max(self._peak, self._bets.evidence)

    def _finding(self, what: str) -> Finding:
        bets, limit = self._bets, -math.log(self.alpha)
        told = f"{what} {bets.mean:+.4f} over {bets.count}"
        if self._peak >= limit:
            # Beyond a million the number says nothing but its length.
            odds = f"{math.exp(self._peak):,.0f}" if self._peak < 14.0 else "over a million"
            return Finding(Verdict.WORSE, f"{told}, odds {odds} : 1 against the challenger")
        if self._step < self.enough:
            return Finding(Verdict.UNKNOWN, f"{told}, {self._step} of {self.enough} in this step")
        return Finding(Verdict.FINE, f"{told}, no sign of harm beyond {self.tolerance:g}")


@final
@dataclass(slots=True)
class PairedLoss(_Betting):
    """Loss of the challenger minus loss of stable on the same requests.

    Pairs see a small difference with a fraction of the requests that two separate arms would
    need, because the request's own difficulty cancels.

    Parameters
    ----------
    tolerance
        Mean difference that is still acceptable, in [0, 1).
    alpha
        Probability that a harmless challenger is ever called worse.
    enough
        Pairs in a step after which a challenger that was not shown to be worse is fine.

    Raises
    ------
    BadConfiguration
        A setting out of its range.

    Notes
    -----
    Losses must lie in [0, 1] (Brier's does).  The promise holds if, given what came before,
    the expected difference is never above the tolerance.  Requests of one day share the
    day: leave room for days on which a good challenger is unlucky in ``tolerance``.

    Examples
    --------
    >>> guard = PairedLoss(enough=3)
    >>> for _ in range(3):
    ...     guard.observe(0.10, 0.12)
    >>> guard.judge().verdict.value
    'fine'
    """

    name: str = "paired loss"

    def observe(self, challenger: float, stable: float) -> None:
        """Take in one pair of losses; pairs that are not in [0, 1] count as a full loss."""
        # A challenger whose loss cannot be told must not look good for it.
        sound = 0.0 <= challenger <= 1.0
        stable = 0.0 if math.isnan(stable) else min(max(stable, 0.0), 1.0)
        self._bet((challenger if sound else 1.0) - stable)

    def judge(self) -> Finding:
        """What is known now."""
        return self._finding("mean loss difference")


@final
@dataclass(slots=True)
class ErrorRate(_Betting):
    """Error rate of the canary against the stable arm at the same time.

    Each canary request is set against the mean outcome of the stable requests since the last
    one, so an incident upstream, which hits both arms, cancels.

    Parameters
    ----------
    tolerance
        Excess error rate that is still acceptable, in [0, 1).
    alpha
        Probability that a harmless canary is ever called worse.
    enough
        Canary requests in a step after which a canary that was not shown to be worse is fine.

    Examples
    --------
    >>> guard = ErrorRate(enough=100)
    >>> for _ in range(20):
    ...     guard.observe(canary=False, ok=True)
    ...     guard.observe(canary=True, ok=False)
    >>> guard.judge().verdict.value
    'worse'
    """

    name: str = "error rate"
    _stable: int = field(default=0, init=False, repr=False)
    _failed: int = field(default=0, init=False, repr=False)

    def observe(self, *, canary: bool, ok: bool) -> None:
        """Take in how one request of an arm ended."""
        if not canary:
            self._stable += 1
            self._failed += not ok
            return
        if not self._stable:
            # Nothing to compare with: the outcome says nothing about the difference.
            return
        self._bet((not ok) - self._failed / self._stable)
        self._stable = self._failed = 0

    def judge(self) -> Finding:
        """What is known now."""
        return self._finding("excess error rate")
