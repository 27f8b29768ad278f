"""Moments and quantiles of a stream in constant memory, mergeable across workers.

:class:`Moments` follows Welford (1962) and merges by Chan, Golub and LeVeque (1979).
:class:`Quantiles` counts values in cells whose width grows with the value, so a quantile
is off by at most ``accuracy`` of its own size (DDSketch; Masson, Rim and Lee, VLDB 2019).
Merging adds integers, so its order does not matter.
"""

import math
from dataclasses import dataclass, field
from typing import Self

from prodml.errors import BadConfiguration

__all__ = ["Moments", "Quantiles"]


@dataclass(slots=True)
class Moments:
    """Count, mean, variance, smallest and largest of finite values.

    Examples
    --------
    >>> moments = Moments()
    >>> for x in (1.0, 2.0, 3.0):
    ...     moments.add(x)
    >>> moments.mean, moments.variance, moments.minimum
    (2.0, 1.0, 1.0)
    """

    count: int = 0
    mean: float = 0.0
    m2: float = 0.0
    minimum: float = math.inf
    maximum: float = -math.inf

    def add(self, value: float) -> None:
        """Take one value in; what is not finite is left out."""
        if not math.isfinite(value):
            return
        self.count += 1
        delta = value - self.mean
        self.mean += delta / self.count
        self.m2 += delta * (value - self.mean)
        self.minimum = min(self.minimum, value)
        self.maximum = max(self.maximum, value)

    def merge(self, other: "Moments") -> Self:
        """Take in all that ``other`` has seen."""
        if other.count:
            count = self.count + other.count
            delta = other.mean - self.mean
            self.mean += delta * other.count / count
            self.m2 += other.m2 + delta * delta * self.count * other.count / count
            self.count = count
            self.minimum = min(self.minimum, other.minimum)
            self.maximum = max(self.maximum, other.maximum)
        return self

    @property
    def variance(self) -> float:
        """Sample variance (n - 1); NaN below two values."""
        return self.m2 / (self.count - 1) if self.count > 1 else math.nan

    @property
    def std(self) -> float:
        """Square root of :attr:`variance`."""
        return math.sqrt(self.variance) if self.count > 1 else math.nan


# Below this a value counts as zero: cells of ever smaller values would never end.
_TINY = 1e-12


@dataclass(slots=True)
class Quantiles:
    """Quantiles with relative error ``accuracy``.

    Parameters
    ----------
    accuracy
        Relative error of an answer, in (0, 1).

    Examples
    --------
    >>> sketch = Quantiles()
    >>> for ms in range(1, 1001):
    ...     sketch.add(ms)
    >>> abs(sketch.quantile(0.99) - 990) <= 0.01 * 990
    True
    """

    accuracy: float = 0.01
    count: int = field(default=0, init=False)
    cells: dict[int, int] = field(default_factory=dict[int, int], init=False)
    negative: dict[int, int] = field(default_factory=dict[int, int], init=False)
    zeros: int = field(default=0, init=False)
    _scale: float = field(default=0.0, init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0.0 < self.accuracy < 1.0:
            raise BadConfiguration(f"accuracy must lie in (0, 1), not {self.accuracy}")
        self._scale = 1.0 / math.log((1.0 + self.accuracy) / (1.0 - self.accuracy))

    def add(self, value: float) -> None:
        """Take one value in; what is not finite is left out."""
        if not math.isfinite(value):
            return
        self.count += 1
        if abs(value) < _TINY:
            self.zeros += 1
            return
        cells = self.cells if value > 0.0 else self.negative
        cell = math.ceil(math.log(abs(value)) * self._scale)
        cells[cell] = cells.get(cell, 0) + 1

    def merge(self, other: "Quantiles") -> Self:
        """Take in all that ``other``, of the same accuracy, has seen."""
        if other.accuracy != self.accuracy:
            raise BadConfiguration(
                f"cannot merge accuracy {other.accuracy} into {self.accuracy}: build both alike"
            )
        self.count += other.count
        self.zeros += other.zeros
        for mine, theirs in ((self.cells, other.cells), (self.negative, other.negative)):
            for cell, count in theirs.items():
                mine[cell] = mine.get(cell, 0) + count
        return self

    def quantile(self, q: float) -> float:
        """Value below which a share ``q`` of the values lies; NaN when empty."""
        if not 0.0 <= q <= 1.0:
            raise BadConfiguration(f"q must lie in [0, 1], not {q}")
        if not self.count:
            return math.nan
        left = q * (self.count - 1)
        cells = self._ordered()
        while left >= cells[0][1]:
            left -= cells.pop(0)[1]
        return cells[0][0]

    def _ordered(self) -> list[tuple[float, int]]:
        below = [(-self._middle(cell), self.negative[cell]) for cell in sorted(self.negative)]
        above = [(self._middle(cell), self.cells[cell]) for cell in sorted(self.cells)]
        return [*reversed(below), (0.0, self.zeros), *above]

    def _middle(self, cell: int) -> float:
        upper = math.exp(cell / self._scale)
        return upper * (1.0 - self.accuracy)
