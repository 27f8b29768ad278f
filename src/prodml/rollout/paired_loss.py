"""Does the challenger lose more than stable on the same requests?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from prodml.errors import BadConfiguration
from prodml.rollout.analysis import Sequential, Tally
from prodml.rollout.bets import bet, bets

__all__ = ["PairedLoss", "difference_told", "tolerable"]


def tolerable(tolerance: float) -> None:
    """Refuse a tolerance that leaves nothing to bet on."""
    if not 0.0 <= tolerance < 1.0:
        raise BadConfiguration(f"tolerance must lie in [0, 1), not {tolerance}")


def difference_told(step: Tally, what: str, tolerance: float) -> tuple[str, Tally]:
    """Mean difference of a step, in words and numbers."""
    mean = step["d"] / step["n"]
    told = f"{what} {mean:+.4f} over {step['n']:,g} ({tolerance:g} accepted)"
    return told, {"worse by": mean}


@final
@dataclass(slots=True, kw_only=True)
class PairedLoss(Sequential):
    """Loss of the challenger minus loss of stable on the same requests.

    Pairs see a small difference with a fraction of the requests that two separate arms would
    need, because the request's own difficulty cancels.

    Parameters
    ----------
    tolerance
        Mean difference that is still acceptable, in [0, 1).  Requests of one day share the
        day, and a good challenger has days on which it is unlucky: leave room for them.
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
    the expected difference is never above the tolerance.

    Examples
    --------
    >>> guard = PairedLoss(enough=3)
    >>> for _ in range(3):
    ...     guard.observe(0.10, 0.12)
    >>> guard.judge().verdict.value
    'fine'
    """

    name: str = "paired loss"
    tolerance: float = 0.005

    def __post_init__(self) -> None:
        Sequential.__post_init__(self)
        tolerable(self.tolerance)

    def observe(self, challenger: float, stable: float) -> None:
        """Take in one pair of losses; pairs that are not in [0, 1] count as a full loss."""
        # A challenger whose loss cannot be told must not look good for it.
        sound = 0.0 <= challenger <= 1.0
        stable = 0.0 if math.isnan(stable) else min(max(stable, 0.0), 1.0)
        bet(self.tally, (challenger if sound else 1.0) - stable, self.tolerance)

    def _bets(self, tally: Tally) -> Sequence[tuple[float, float]]:
        return bets(tally)

    def _told(self, step: Tally) -> tuple[str, Tally]:
        return difference_told(step, "mean loss difference", self.tolerance)
