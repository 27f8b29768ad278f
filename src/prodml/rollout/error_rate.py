"""Does the canary fail more often than the stable arm does at the same time?"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

from prodml.rollout.analysis import Sequential, Tally
from prodml.rollout.odds import Arms, arms_told, odds_bets

__all__ = ["ErrorRate"]


@final
@dataclass(slots=True, kw_only=True)
class ErrorRate(Sequential):
    """Error rate of the canary against the stable arm at the same time.

    Parameters
    ----------
    tolerance
        Share of the requests that stable answers which the canary may fail, in [0, 1).
    alpha
        Probability that a harmless canary is ever called worse.
    enough
        Canary requests in a step after which a canary that was not shown to be worse is fine.

    Raises
    ------
    BadConfiguration
        A setting out of its range.

    Notes
    -----
    Requests are compared in blocks of at least five of each arm, see
    :mod:`prodml.rollout.odds`, so an incident upstream, which hits both arms, cancels.  The
    promise holds if chance, and nothing that has to do with failing, sends a request to its
    arm; with sticky keys a failing user who asks again and again is one failure and not many.

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
    tolerance: float = 0.0
    _arms: Arms = field(init=False, repr=False)

    def __post_init__(self) -> None:
        Sequential.__post_init__(self)
        self._arms = Arms(self.tolerance)

    def observe(self, *, canary: bool, ok: bool) -> None:
        """Take in how one request of an arm ended."""
        self.tally["heard"] = 1
        self._arms.add(self.tally, canary=canary, bad=not ok)

    def _bets(self, tally: Tally) -> Sequence[tuple[float, float]]:
        return odds_bets(tally)

    def _told(self, step: Tally) -> tuple[str, Tally]:
        return arms_told(step, "failed")

    def _drop(self) -> None:
        self._arms.drop()
