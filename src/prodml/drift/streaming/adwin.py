"""ADWIN: a window that is cut where its two parts have different means."""

import math
from dataclasses import dataclass, field
from typing import final

from prodml.drift.streaming.detector import StreamDetector, between, known, whole

__all__ = ["ADWIN"]

_FAR = math.inf
# More values than any stream has.
_ROWS = 64


@final
@dataclass(kw_only=True, slots=True, eq=False)
class ADWIN(StreamDetector):
    """Adaptive windowing [1]_: no window length to choose, bounds instead of thresholds.

    The window is kept in buckets of 1, 2, 4, ... values.  Where some cut of it divides two
    parts whose means differ by more than chance allows (Bernstein's bound), the oldest
    buckets go, and that is drift.

    Parameters
    ----------
    arl
        Values between false alarms, at least; sets ``delta`` to ``check_every / arl``,
        since each of the checks errs with probability ``delta`` at most.
    delta
        Level of a check, instead of ``arl``.
    scale
        Unit of the values, which the bound takes to span about one unit.  None takes the
        spread of the window, so that metres and millimetres give the same alarms; 1.0 is
        the original, meant for values in [0, 1].
    check_every
        Values between checks.
    max_buckets
        Buckets of one size before two are made one: more are finer and cost more.
    min_window_length, grace_period
        Smallest part compared, and values before the first check.

    Raises
    ------
    BadConfiguration
        A setting makes no sense.

    Notes
    -----
    All buckets of a size are possible cuts.  Versions of river before 0.22 and
    scikit-multiflow left out the last of each size (a ``range`` one too short), MOA did not:
    the paper asks for every cut, so MOA is right, and river has followed.  After a change
    the window begins anew, as in river: what the paper keeps still holds old values for a
    while and would alarm twice for one change.

    References
    ----------
    .. [1] Bifet and Gavalda (2007), "Learning from time-changing data with adaptive
       windowing", SIAM International Conference on Data Mining.

    Examples
    --------
    >>> detector = ADWIN()
    >>> stream = [0.0, 1.0] * 500 + [4.0, 5.0] * 500
    >>> [i for i, x in enumerate(stream) if detector.update(x)]
    [1023]
    >>> detector.width
    976
    """

    arl: float = 10_000.0
    delta: float | None = None
    scale: float | None = None
    check_every: int = 32
    max_buckets: int = 5
    min_window_length: int = 5
    grace_period: int = 10
    width: int = field(default=0, init=False)
    # Sums are of distances from the first value: a constant leaves no rounding behind.
    _origin: float = field(default=0.0, init=False, repr=False)
    _total: float = field(default=0.0, init=False, repr=False)
    _squares: float = field(default=0.0, init=False, repr=False)
    _tick: int = field(default=0, init=False, repr=False)
    # Row i: sums, and sums of squared deviations, of its buckets of 2**i values, oldest first.
    _rows: list[list[list[float]]] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("check_every", "max_buckets", "min_window_length"):
            whole(name, getattr(self, name), 1)
        whole("grace_period", self.grace_period, 0)
        between("arl", self.arl, 1.0, _FAR)
        if self.delta is not None:
            between("delta", self.delta, 0.0, 1.0)
        if self.scale is not None:
            between("scale", self.scale, 0.0, _FAR)
        self._start()

    @property
    def mean(self) -> float:
        """Mean of the window; NaN when it is empty."""
        return self._origin + self._total / self.width if self.width else math.nan

    @property
    def variance(self) -> float:
        """Variance of the window; NaN when it is empty."""
        return max(0.0, self._squares) / self.width if self.width else math.nan

    def _start(self) -> None:
        self.width = self._tick = 0
        self._total = self._squares = 0.0
        self._rows = [[[], []]]

    def _take(self, value: float) -> bool:
        self._insert(value)
        self._tick += 1
        if self._tick % self.check_every or self.width <= self.grace_period:
            return False
        found = False
        while self._cut():
            self._drop()
            found = True
        return found

    def _insert(self, value: float) -> None:
        before, self.width = self.width, self.width + 1
        if not before:
            self._origin = value
        value -= self._origin
        if before:
            apart = value - self._total / before
            self._squares += before * apart * apart / self.width
        self._total += value
        sums, squares = self._rows[0]
        sums.append(value)
        squares.append(0.0)
        if len(sums) > self.max_buckets:
            self._compress()

    def _compress(self) -> None:
        for i, (sums, squares) in enumerate(self._rows):
            if len(sums) <= self.max_buckets:
                return
            if i + 1 == len(self._rows):
                self._rows.append([[], []])
            size = 2**i
            apart = sums[0] / size - sums[1] / size
            above = self._rows[i + 1]
            above[0].append(sums[0] + sums[1])
            above[1].append(squares[0] + squares[1] + size * 0.5 * apart * apart)
            del sums[:2], squares[:2]

    def _drop(self) -> None:
        """Let the oldest bucket go."""
        size = 2 ** (len(self._rows) - 1)
        sums, squares = self._rows[-1]
        total = sums.pop(0)
        self.width -= size
        self._total -= total
        apart = total / size - self._total / self.width
        together = size * self.width * apart * apart / (size + self.width)
        self._squares -= squares.pop(0) + together
        if not sums:
            self._rows.pop()

    def _restored(self) -> None:
        rows = self._rows
        held = sum(2**i * len(sums) for i, (sums, _) in enumerate(rows))
        if held != self.width or any(len(a) != len(b) for a, b in rows):
            raise ValueError(f"its buckets hold {held} values and not {self.width}")
        known("buckets", 1 <= len(rows) <= _ROWS and (len(rows) == 1 or bool(rows[-1][0])))
        sides = [side for row in rows for side in row]
        known("buckets", all(isinstance(each, float | int) for side in sides for each in side))

    def _cut(self) -> bool:
        """Whether some cut divides two parts with different means."""
        spread = self.variance
        level = self.check_every / self.arl if self.delta is None else self.delta
        chance = math.log(max(2.0 * math.log(self.width) / min(level, 0.5), 1.0))
        unit = math.sqrt(spread) if self.scale is None else self.scale
        wide, narrow = 2.0 * spread * chance, 2.0 / 3.0 * chance * unit
        edge, shortest = self.min_window_length - 1, self.min_window_length
        old, new = 0, self.width
        old_sum, new_sum = 0.0, self._total
        for i in range(len(self._rows) - 1, -1, -1):
            size = 2**i
            for total in self._rows[i][0]:
                old += size
                new -= size
                if new < shortest:
                    return False
                old_sum += total
                new_sum -= total
                if old < shortest:
                    continue
                apart = abs(old_sum / old - new_sum / new)
                share = 1.0 / (old - edge) + 1.0 / (new - edge)
                if apart > math.sqrt(wide * share) + narrow * share:
                    return True
        return False
