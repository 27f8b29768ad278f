"""Is a number of the user's own worse on the canary than on the stable arm?"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Literal, TypeAlias, final

from prodml.errors import BadConfiguration
from prodml.rollout.analysis import Sequential, Tally
from prodml.rollout.bets import Fresh, bet, bets
from prodml.rollout.odds import Arms, arms_told, odds_bets
from prodml.rollout.paired_loss import difference_told, tolerable

__all__ = ["Metric", "Reader"]

Reader: TypeAlias = Callable[[float, float], Iterable[tuple[str, float]]]
"""``read(since, until)``: pairs of arm and value with ``since <= time < until``."""


@final
@dataclass(slots=True)
class Metric(Sequential):
    """A number of the user's own: clicks, revenue, corrections by hand.

    Parameters
    ----------
    name
        What it is called in reports and in ``Rollout.observe_metric``.
    compare
        What is promised about, and under which assumption:

        - ``"mean"``: the means, of values within ``bounds``; what lies outside is clipped.
        - ``"share"``: how often the value is true, of values that are true or false.
        - ``"sign"``: of two values, which is better more often.  Needs no bounds, and says
          nothing about means: a rare huge loss weighs as much as a small one.
    better
        Whether ``"higher"`` or ``"lower"`` values are good.
    bounds
        Smallest and largest value, for ``"mean"``.
    tolerance
        How much worse is still acceptable, in [0, 1): of the width of ``bounds``, of the
        requests, or of the pairs.
    alpha
        Probability that a harmless canary is ever called worse.
    enough
        Occasions in a step after which a canary that was not shown to be worse is fine.
    read
        Fetches values instead of being told: ``read(since, until)`` returns pairs of arm
        (``"canary"`` or ``"stable"``; others are left out) and value.  Each stretch of time is
        read by one worker, once; while reading fails, nothing goes on.
    every
        Seconds between two readings.
    lag
        Seconds until the values of a moment are all there to be read.

    Raises
    ------
    BadConfiguration
        A setting out of its range.

    Notes
    -----
    A value of the canary is set against the stable values since the last one, so what moves
    both arms cancels.  A value that is not a number counts as the worst there is for the
    canary, and is left out for stable.

    Examples
    --------
    >>> guard = Metric("clicks", compare="share")
    >>> for request in range(200):
    ...     guard.observe(request % 10 == 0, canary=True)
    ...     guard.observe(request % 3 == 0, canary=False)
    >>> guard.judge().verdict.value
    'worse'
    """

    name: str
    _: KW_ONLY
    compare: Literal["mean", "share", "sign"] = "mean"
    better: Literal["higher", "lower"] = "higher"
    bounds: tuple[float, float] = (0.0, 1.0)
    tolerance: float = 0.0
    read: Reader | None = None
    every: float = 60.0
    lag: float = 0.0
    _arms: Arms = field(init=False, repr=False)
    _fresh: Fresh = field(init=False, repr=False)

    def __post_init__(self) -> None:
        Sequential.__post_init__(self)
        tolerable(self.tolerance)
        if self.compare not in {"mean", "share", "sign"}:
            raise BadConfiguration(f"compare must be mean, share or sign, not {self.compare!r}")
        if self.better not in {"higher", "lower"}:
            raise BadConfiguration(f"better must be higher or lower, not {self.better!r}")
        low, high = self.bounds
        if not -math.inf < low < high < math.inf:
            raise BadConfiguration(f"bounds must be two growing numbers, not {self.bounds}")
        if not (self.every > 0.0 and self.lag >= 0.0):
            raise BadConfiguration("every must be positive and lag not negative, in seconds")
        self._arms = Arms(self.tolerance)
        self._fresh = Fresh(_sign if self.compare == "sign" else _gap)

    def observe(self, value: float, *, canary: bool) -> None:
        """Take in a value of an arm."""
        value = float(value)
        self.tally["heard"] = 1
        if math.isnan(value) and not canary:
            return
        if self.compare == "share":
            good = not math.isnan(value) and bool(value) == (self.better == "higher")
            self._arms.add(self.tally, canary=canary, bad=not good)
            return
        worse_by = self._fresh.add(self._badness(value), canary=canary)
        if worse_by is not None:
            bet(self.tally, worse_by, self.tolerance)

    def _badness(self, value: float) -> float:
        """The value on a scale on which more is worse; within [0, 1] where means count."""
        low, high = self.bounds
        if math.isnan(value):
            return 1.0 if self.compare == "mean" else math.inf
        if self.compare == "mean":
            value = (min(max(value, low), high) - low) / (high - low)
            return 1.0 - value if self.better == "higher" else value
        return -value if self.better == "higher" else value

    def _bets(self, tally: Tally) -> Sequence[tuple[float, float]]:
        return odds_bets(tally) if self.compare == "share" else bets(tally)

    def _told(self, step: Tally) -> tuple[str, Tally]:
        if self.compare == "share":
            return arms_told(step, "were bad")
        what = "worse by, of its range," if self.compare == "mean" else "worse minus better"
        return difference_told(step, what, self.tolerance)

    def _drop(self) -> None:
        self._arms.drop()
        self._fresh.drop()


def _gap(canary: float, stable: float) -> float:
    return canary - stable


def _sign(canary: float, stable: float) -> float:
    return float(canary > stable) - float(canary < stable)
