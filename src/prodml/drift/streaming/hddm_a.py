"""HDDM_A: averages that differ by more than Hoeffding's inequality allows."""

import math
from dataclasses import dataclass, field
from typing import ClassVar, final

from prodml.drift.streaming.detector import StreamDetector, between, known
from prodml.errors import BadConfiguration

__all__ = ["HDDM_A"]


@final
@dataclass(kw_only=True, slots=True, eq=False)
class HDDM_A(StreamDetector):  # noqa: N801 - the name it is known by
    """Hoeffding drift detection by averages [1]_, for values in [0, 1].

    The past is cut where its average was lowest; drift is an average since that lies higher
    than Hoeffding's bound allows.  Good for sudden changes.

    Parameters
    ----------
    drift_confidence, warning_confidence
        Levels of one comparison: smaller ones alarm later.
    two_sided
        Whether a fall is drift too.

    Raises
    ------
    BadConfiguration
        A setting makes no sense.

    References
    ----------
    .. [1] Frias-Blanco et al. (2015), "Online and non-parametric drift detection methods
       based on Hoeffding's bounds", IEEE TKDE 27(3).

    Examples
    --------
    >>> detector = HDDM_A()
    >>> stream = [0, 0, 0, 0, 1] * 100 + [0, 1] * 100
    >>> [i for i, error in enumerate(stream) if detector.update(error)]
    [541]
    """

    low: ClassVar[float] = 0.0
    high: ClassVar[float] = 1.0

    drift_confidence: float = 0.001
    warning_confidence: float = 0.005
    two_sided: bool = False
    _count: int = field(default=0, init=False, repr=False)
    _mean: float = field(default=0.0, init=False, repr=False)
    _low_count: int = field(default=0, init=False, repr=False)
    _low_mean: float = field(default=0.0, init=False, repr=False)
    _high_count: int = field(default=0, init=False, repr=False)
    _high_mean: float = field(default=0.0, init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("drift_confidence", "warning_confidence"):
            between(name, getattr(self, name), 0.0, 1.0)
        if self.warning_confidence < self.drift_confidence:
            raise BadConfiguration("warning_confidence must not be less than drift_confidence")

    def _start(self) -> None:
        self._count = self._low_count = self._high_count = 0
        self._mean = self._low_mean = self._high_mean = 0.0

    def _restored(self) -> None:
        for count in (self._low_count, self._high_count):
            known("a cut", min(1, self._count) <= count <= self._count)
        means = (self._mean, self._low_mean, self._high_mean)
        known("a mean", all(0.0 <= mean <= 1.0 + 1e-9 for mean in means))

    def _take(self, value: float) -> bool:
        self._count += 1
        self._mean += 1.0 / self._count * (value - self._mean)
        bound = self._bound(self._count)
        if not self._low_count or (
            self._low_mean + self._bound(self._low_count) >= self._mean + bound
        ):
            self._low_count, self._low_mean = self._count, self._mean
        if not self._high_count or (
            self._high_mean - self._bound(self._high_count) <= self._mean - bound
        ):
            self._high_count, self._high_mean = self._count, self._mean
        self.warning = self._moved(self.warning_confidence)
        return self._moved(self.drift_confidence)

    def _moved(self, confidence: float) -> bool:
        if self._apart(self._low_count, confidence) <= self._mean - self._low_mean:
            return True
        fallen = self._high_mean - self._mean
        return self.two_sided and self._apart(self._high_count, confidence) <= fallen

    def _apart(self, cut: int, confidence: float) -> float:
        """How far the averages up to ``cut`` and up to now may lie apart."""
        if cut == self._count:
            return math.inf
        share = (self._count - cut) / cut * (1.0 / self._count)
        return math.sqrt(share / 2.0 * math.log(2.0 / confidence))

    def _bound(self, count: int) -> float:
        return math.sqrt(1.0 / (2 * count) * math.log(1.0 / self.drift_confidence))
