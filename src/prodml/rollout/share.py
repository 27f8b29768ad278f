"""Is a share too large, by itself and with no other arm to compare with?"""

import math
from collections.abc import Sequence

from prodml.errors import BadConfiguration
from prodml.rollout.analysis import Tally
from prodml.rollout.odds import ODDS, WEIGHTS

__all__ = ["count_one", "share_bets", "share_told", "within"]


def within(name: str, share: float) -> None:
    """Refuse a share that nothing can be above, or below."""
    if not 0.0 < share < 1.0:
        raise BadConfiguration(f"{name} must lie in (0, 1), not {share}")


def count_one(tally: Tally, *, bad: bool) -> None:
    """Count one occasion, and whether it was bad."""
    tally["n"] = tally.get("n", 0) + 1
    tally["bad"] = tally.get("bad", 0) + bad


def share_bets(tally: Tally, limit: float) -> Sequence[tuple[float, float]]:
    """Weight and logarithm of the wealth of bets on a share above ``limit``.

    Each is the likelihood ratio of a share whose odds are so many times larger; if the share
    is ``limit`` or less, given what came before, it is a supermartingale.

    Examples
    --------
    >>> [round(wealth, 2) for _, wealth in share_bets({"n": 100, "bad": 10}, 0.02)][:3]
    [1.73, 3.06, 4.95]
    """
    bad, good = tally.get("bad", 0), tally.get("n", 0) - tally.get("bad", 0)
    found: list[tuple[float, float]] = []
    for weight, odds in zip(WEIGHTS, ODDS, strict=True):
        whole = math.log1p((odds - 1.0) * limit)
        found.append((weight, bad * (math.log(odds) - whole) - good * whole))
    return found


def share_told(step: Tally, what: str, limit: float) -> tuple[str, Tally]:
    """Share of a step, in words and numbers."""
    share = step["bad"] / step["n"]
    told = f"{share:.2%} of {step['n']:,g} {what}, {limit:.2%} accepted"
    return told.replace("%", " %"), {"canary": share}
