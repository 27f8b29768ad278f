"""What a batch of n rows will take, learnt from those that have run."""

from typing import Final, final

__all__ = ["Cost"]

# A batch counts for 1/10 of all that is known: the last 20 or so decide.
_GAIN: Final = 0.1
# An observation counts for at most so many times what was expected, and at least 1/so many.
_TRUSTED: Final = 3.0
# Times below this are all the same: some clocks see no shorter ones.
_GRAIN: Final = 1e-4
# So much of the mean size squared stands for the slope that was known before.
_INERTIA: Final = 1e-3


@final
class Cost:
    """Seconds of a batch of n rows as ``base + slope * n``, both >= 0.

    Least squares with exponential forgetting [1]_, by decayed means and covariances.  While
    all batches are of one size the slope cannot be seen and stays what it was, where the
    recursion by an inverse matrix winds up.  Before a second size is seen the slope is 0: the
    first large batch teaches it.

    One pause (a collection, a page fault, a neighbour) should not refuse a thousand requests:
    an observation counts for at most three times what was expected.  One after another in the
    same direction are trusted twice as much each, so a model that has really become slower
    is believed after a few batches.

    References
    ----------
    .. [1] Haykin (2014), *Adaptive Filter Theory*, 5th ed., chapter 10.

    Examples
    --------
    >>> cost = Cost()
    >>> for rows in (1, 8, 1, 64, 16):
    ...     cost.learn(rows, 0.001 + 0.0001 * rows)
    >>> round(cost.of(32), 5)
    0.0042
    """

    __slots__: tuple[str, ...] = (
        "_gain",
        "_rows",
        "_seconds",
        "_spread",
        "_streak",
        "_together",
        "base",
        "slope",
    )

    def __init__(self) -> None:
        self.base: float = 0.0
        self.slope: float = 0.0
        # Weight of the next observation, means, variance of the rows and covariance.
        self._gain: float = 1.0
        self._rows: float = 0.0
        self._seconds: float = 0.0
        self._spread: float = 0.0
        self._together: float = 0.0
        # Observations out of the trusted range in a row; negative below it.
        self._streak: int = 0

    def of(self, rows: int) -> float:
        """Seconds that a batch of ``rows`` will take; 0 before anything is known."""
        return self.base + self.slope * rows

    def learn(self, rows: int, seconds: float) -> None:
        """Hear that a batch of ``rows`` took ``seconds``."""
        gain = self._gain
        if gain < 1.0:
            expected = self.base + self.slope * rows
            # A size that was never seen may cost in proportion.
            most = max(expected, self._seconds / self._rows * rows, _GRAIN) * _TRUSTED
            if expected <= seconds * _TRUSTED and seconds <= most:
                self._streak = 0
            else:
                seconds = self._doubted(seconds, expected / _TRUSTED, most)
        more, longer = rows - self._rows, seconds - self._seconds
        self._rows += gain * more
        self._seconds += gain * longer
        kept = 1.0 - gain
        self._spread = kept * (self._spread + gain * more * more)
        self._together = kept * (self._together + gain * more * longer)
        self._gain = max(gain / (1.0 + gain), _GAIN)
        self._fit(self._rows, self._seconds)

    def _fit(self, rows: float, seconds: float) -> None:
        inertia = _INERTIA * rows * rows
        slope = (self._together + inertia * self.slope) / (self._spread + inertia)
        slope = max(slope, 0.0)
        base = seconds - slope * rows
        if base < 0.0:
            base = 0.0
            slope = (self._together + rows * seconds) / (self._spread + rows * rows)
        self.base, self.slope = base, slope

    def _doubted(self, seconds: float, low: float, high: float) -> float:
        """Bring ``seconds`` nearer to the range that one observation is believed."""
        if seconds > high:
            self._streak = max(self._streak, 0) + 1
            return min(seconds, high * _more_each_time(self._streak))
        self._streak = min(self._streak, 0) - 1
        return max(seconds, low / _more_each_time(self._streak))


def _more_each_time(streak: int) -> float:
    return 2.0 ** (min(abs(streak), 60) - 1)
