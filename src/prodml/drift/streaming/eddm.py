"""EDDM: errors that come closer together."""

import math
from dataclasses import dataclass, field
from typing import ClassVar, final

from prodml.drift.streaming.detector import StreamDetector, between, known, whole
from prodml.errors import BadConfiguration

__all__ = ["EDDM"]


@final
@dataclass(kw_only=True, slots=True, eq=False)
class EDDM(StreamDetector):
    """Early drift detection method [1]_ for a stream of errors: 1 wrong, 0 right.

    Watches the distance between errors; drift is a mean plus two standard deviations of it
    that has fallen below ``beta`` of its largest.

    Parameters
    ----------
    warm_start
        Errors before the first verdict.
    alpha, beta
        Shares of the largest below which there is a warning, and drift.

    Raises
    ------
    BadConfiguration
        A setting makes no sense.

    Notes
    -----
    Found to be rash: about 18 false alarms in 10,000 values at an error rate of 0.1.  It is
    here to compare with; for slow changes :class:`~prodml.drift.RankCUSUM` with a small
    ``shift`` is the better choice.

    References
    ----------
    .. [1] Baena-Garcia et al. (2006), "Early drift detection method", Fourth International
       Workshop on Knowledge Discovery from Data Streams.

    Examples
    --------
    >>> detector = EDDM(alpha=0.8, beta=0.75)
    >>> right = [i * i % 29 == 0 or i * i % 31 == 1 for i in range(2000)]
    >>> wrong = [i * i % 7 < 2 for i in range(2000, 3000)]
    >>> [i for i, error in enumerate(right + wrong) if detector.update(error)]
    [309, 2136]
    """

    low: ClassVar[float] = 0.0
    high: ClassVar[float] = 1.0

    warm_start: int = 30
    alpha: float = 0.95
    beta: float = 0.9
    _count: int = field(default=0, init=False, repr=False)
    _errors: int = field(default=0, init=False, repr=False)
    _last: int = field(default=0, init=False, repr=False)
    _mean: float = field(default=0.0, init=False, repr=False)
    _squares: float = field(default=0.0, init=False, repr=False)
    _largest: float = field(default=-1.0, init=False, repr=False)

    def __post_init__(self) -> None:
        whole("warm_start", self.warm_start, 1)
        for name in ("alpha", "beta"):
            between(name, getattr(self, name), 0.0, 1.0 + 1e-12)
        if self.alpha < self.beta:
            raise BadConfiguration("alpha must not be less than beta: a warning comes first")

    def _start(self) -> None:
        self._count = self._errors = self._last = 0
        self._mean = self._squares = 0.0
        self._largest = -1.0

    def _restored(self) -> None:
        known("errors", max(self._errors, self._last) <= self._count)
        known("distances", 0.0 <= self._mean <= self._count and self._squares >= 0.0)
        known("distances", self._largest > 0.0 or self._largest == -1.0)

    def _take(self, value: float) -> bool:
        self._count += 1
        return value == 1.0 and self._error()

    def _error(self) -> bool:
        self._errors += 1
        distance, self._last = self._count - self._last, self._count
        apart = distance - self._mean
        self._mean += apart / self._errors
        self._squares += apart * (distance - self._mean)
        if self._count <= self.warm_start:
            return False
        variance = self._squares / (self._errors - 1) if self._errors > 1 else 0.0
        reach = self._mean + 2.0 * math.sqrt(variance)
        if reach > self._largest:
            self._largest = reach
            return False
        if self._errors <= self.warm_start:
            return False
        share = reach / self._largest
        self.warning = share < self.alpha
        return share < self.beta
