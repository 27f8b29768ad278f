"""Two arms at the same time, yes or no: is the challenger's share of the yeses too large?

Requests are taken in blocks of a few challengers and the stable ones around them.  Given how
many requests of each arm a block has and how many of them failed, the number of failures on
the challenger's side has, if the arms do not differ, the hypergeometric distribution, whatever
the failure rate is: an incident that hits both arms cancels.  If the odds of a failure are
``odds`` times larger it has Fisher's noncentral one, and the ratio of the two is a bet that is
fair, or worse, as long as the challenger is harmless [1]_.  Where a block ends depends on the
arms of its requests alone, never on how they ended.

References
----------
.. [1] Turner, Ly and Grunwald (2024), "Generic E-variables for exact sequential k-sample
   tests that allow for optional stopping", JSPI 230; Fisher (1935).  Conditioning on the
   failures makes theirs free of the unknown rate.
"""

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TypeAlias

from prodml.errors import BadConfiguration
from prodml.rollout.analysis import Tally, log_sum

__all__ = ["BLOCK", "ODDS", "WEIGHTS", "Arms", "arms_told", "odds_bets"]

ODDS = (1.25, 1.5, 2.0, 3.0, 5.0, 9.0, 20.0, 50.0)
"""How much larger the odds of a failure may have become.  Small ones find small harm late."""

# Most weight lies where releases break: three to twenty times.
WEIGHTS = (0.02, 0.05, 0.11, 0.22, 0.23, 0.14, 0.15, 0.08)
_LOG_ODDS = tuple(math.log(odds) for odds in ODDS)
_NAMES = tuple(f"w{place}" for place in range(len(ODDS)))
_PLACES = tuple(enumerate(_NAMES))

# Requests of each arm in a block.  Fewer leave requests without a counterpart, more delay.
BLOCK = 5
# A challenger that waits so long for stable requests has no concurrent ones.
_ALONE = 1000
# Chances that are left out make the bet smaller, never larger.
_NEGLIGIBLE = math.log(1e-12)

Wealth: TypeAlias = tuple[float, ...]


def odds_bets(tally: Tally) -> list[tuple[float, float]]:
    """Weight and logarithm of the wealth of each of :data:`ODDS`."""
    return [(w, tally.get(name, 0.0)) for w, name in zip(WEIGHTS, _NAMES, strict=True)]


@dataclass(slots=True)
class Arms:
    """The open block, and the sums of the closed ones in ``tally``.

    ``n`` and ``bad`` count the challenger's requests and failures, ``m`` and ``worse`` those of
    stable.

    Examples
    --------
    >>> arms, tally = Arms(), {}
    >>> [arms.add(tally, canary=i % 2 == 0, bad=i == 0) for i in range(10)].index(True)
    9
    >>> tally["n"], tally["bad"], tally["m"], tally["worse"]
    (5, 1, 5, 0)
    """

    tolerance: float = 0.0
    _counts: list[int] = field(default_factory=lambda: [0, 0, 0, 0], init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0.0 <= self.tolerance < 1.0:
            raise BadConfiguration(f"tolerance must lie in [0, 1), not {self.tolerance}")

    def add(self, tally: Tally, *, canary: bool, bad: bool) -> bool:
        """Take in one request; say whether it closed a block."""
        counts = self._counts
        place = 0 if canary else 2
        counts[place] += 1
        counts[place + 1] += bad
        if counts[0] < BLOCK or counts[2] < BLOCK:
            if counts[0] > _ALONE:
                self.drop()
            return False
        self._close(tally)
        return True

    def drop(self) -> None:
        """Forget the open block."""
        self._counts = [0, 0, 0, 0]

    def _close(self, tally: Tally) -> None:
        canary, bad, stable, worse = self._counts
        self.drop()
        for name, count in (("n", canary), ("bad", bad), ("m", stable), ("worse", worse)):
            tally[name] = tally.get(name, 0) + count
        if not (bad or worse or self.tolerance):
            # Nobody failed: every bet keeps its money.
            return
        wealth = _wealth(canary, bad, stable, worse, self.tolerance)
        for place, name in _PLACES:
            tally[name] = tally.get(name, 0.0) + wealth[place]


@lru_cache(maxsize=4096)
def _wealth(canary: int, bad: int, stable: int, worse: int, tolerance: float) -> Wealth:
    """Logarithm of what each bet makes of a block.

    A tolerance lets stable fail at that share of its good requests too.  Which ones is not
    known, so the bet is the mean over all that might: still fair, with no lot drawn.
    """
    extra = _binomial(stable - worse, tolerance)
    means = [_log_means(canary, stable, bad + worse + more) for more, _ in extra]
    return tuple(
        bad * log_odds
        + log_sum(chance - mean[place] for (_, chance), mean in zip(extra, means, strict=True))
        for place, log_odds in enumerate(_LOG_ODDS)
    )


def _binomial(count: int, share: float) -> list[tuple[int, float]]:
    """Hits among ``count`` with the logarithm of their chance, as far as it is not negligible."""
    if not share:
        return [(0, 0.0)]
    chance, found = count * math.log1p(-share), list[tuple[int, float]]()
    log_share = math.log(share) - math.log1p(-share)
    for hits in range(count + 1):
        if chance > _NEGLIGIBLE:
            found.append((hits, chance))
        elif hits > share * count:
            break
        chance += log_share + math.log(max(count - hits, 1) / (hits + 1))
    return found


@lru_cache(maxsize=4096)
def _log_means(canary: int, stable: int, failed: int) -> Wealth:
    """Logarithm of the mean of ``odds ** x`` for hypergeometric ``x``, for each of the odds."""
    first, last = max(0, failed - stable), min(canary, failed)
    logs = [0.0]
    for x in range(first, last):
        ways = (canary - x) * (failed - x) / ((x + 1) * (stable - failed + x + 1))
        logs.append(logs[-1] + math.log(ways))
    whole = log_sum(logs)
    return tuple(
        log_sum(x * log_odds + chance for x, chance in enumerate(logs, first)) - whole
        for log_odds in _LOG_ODDS
    )


def arms_told(step: Tally, what: str) -> tuple[str, Tally]:
    """What was seen of both arms, in words and numbers.

    Examples
    --------
    >>> arms_told({"n": 50, "bad": 2, "m": 450, "worse": 9}, "failed")[0]
    '4.00 % of 50 failed, of stable 2.00 % of 450'
    """
    canary, stable = step["bad"] / step["n"], step["worse"] / step["m"]
    told = f"{canary:.2%} of {step['n']:,g} {what}, of stable {stable:.2%} of {step['m']:,g}"
    return told.replace("%", " %"), {"canary": canary, "stable": stable, "m": step["m"]}
