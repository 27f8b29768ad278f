"""Bets on a bounded difference: is the challenger worse on average than is acceptable?

Let ``d`` in [-1, 1] be how much worse the challenger did than stable on one occasion.  If on
average, given what came before, it is no worse than ``tolerance``, then for every stake ``s``
in [0, 1) the wealth ``prod(1 + s (d - tolerance) / (1 + tolerance))`` is a non-negative
supermartingale [1]_.

References
----------
.. [1] Waudby-Smith and Ramdas (2024), "Estimating means of bounded random variables by
   betting", JRSS-B 86(1), section 4.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from prodml.rollout.analysis import Tally

__all__ = ["Fresh", "bet", "bets"]

# Small stakes find small harm late, large ones find great harm early.
_STAKES = (0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95)
_NAMED = tuple((stake, f"w{place}") for place, stake in enumerate(_STAKES))
_WEIGHT = 1.0 / len(_STAKES)


def bet(tally: Tally, worse_by: float, tolerance: float) -> None:
    """Place every stake on one occasion; ``n`` and ``d`` sum up occasions and differences.

    Examples
    --------
    >>> tally = {}
    >>> bet(tally, 0.5, 0.0)
    >>> tally["n"], tally["d"], round(tally["w4"], 3)
    (1, 0.5, 0.223)
    """
    tally["n"] = tally.get("n", 0) + 1
    tally["d"] = tally.get("d", 0.0) + worse_by
    fair = (worse_by - tolerance) / (1.0 + tolerance)
    for stake, name in _NAMED:
        tally[name] = tally.get(name, 0.0) + math.log1p(stake * fair)


def bets(tally: Tally) -> list[tuple[float, float]]:
    """Weight and logarithm of the wealth of each stake."""
    return [(_WEIGHT, tally.get(name, 0.0)) for _, name in _NAMED]


@dataclass(slots=True)
class Fresh:
    """Sets each value of the challenger against stable values that no other was set against.

    ``compare`` gives how much worse a challenger's value is than a stable one's, in [-1, 1];
    the mean over the pairs is one occasion.

    Examples
    --------
    >>> fresh = Fresh(lambda canary, stable: stable - canary)
    >>> fresh.add(1.0, canary=False), fresh.add(0.5, canary=False), fresh.add(0.25, canary=True)
    (None, None, 0.5)
    """

    compare: Callable[[float, float], float]
    _canary: list[float] = field(default_factory=list[float], init=False, repr=False)
    _stable: list[float] = field(default_factory=list[float], init=False, repr=False)

    # Beyond that many, more values of one arm say little about the difference.
    most = 64

    def add(self, value: float, *, canary: bool) -> float | None:
        """Take in one value; the difference if it completed an occasion."""
        mine = self._canary if canary else self._stable
        if len(mine) >= self.most:
            # The oldest goes: what counts is what happened at the same time.
            mine.pop(0)
        mine.append(value)
        # Which arm a request went to ends an occasion, never its value.
        if not (self._stable and self._canary):
            return None
        pairs = [self.compare(c, s) for c in self._canary for s in self._stable]
        self.drop()
        return math.fsum(pairs) / len(pairs)

    def drop(self) -> None:
        """Forget the values that wait."""
        self._canary, self._stable = [], []
