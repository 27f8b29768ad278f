"""HDDM_W: weighted averages that differ by more than McDiarmid's inequality allows."""

import math
from dataclasses import dataclass, field
from typing import ClassVar, final

from prodml.drift.streaming.detector import StreamDetector, between, known
from prodml.errors import BadConfiguration

__all__ = ["HDDM_W"]


@final
@dataclass(kw_only=True, slots=True, eq=False)
class HDDM_W(StreamDetector):  # noqa: N801 - the name it is known by
    """Hoeffding drift detection by weighted averages [1]_, for values in [0, 1].

    As :class:`~prodml.drift.HDDM_A` with exponentially weighted averages and McDiarmid's
    bound.  Meant for gradual changes.

    Parameters
    ----------
    drift_confidence, warning_confidence
        Levels of one comparison: smaller ones alarm later.
    weight
        Weight of the newest value, in (0, 1).
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
    >>> detector = HDDM_W()
    >>> stream = [0, 0, 0, 0, 1] * 100 + [1, 1, 1, 0] * 50
    >>> [i for i, error in enumerate(stream) if detector.update(error)]
    [522]
    """

    low: ClassVar[float] = 0.0
    high: ClassVar[float] = 1.0

    drift_confidence: float = 0.001
    warning_confidence: float = 0.005
    weight: float = 0.05
    two_sided: bool = False
    _total: list[float] = field(default_factory=list, init=False, repr=False)
    # Before and after the cut where the average was lowest, and where it was highest.
    _low: list[list[float]] = field(default_factory=list, init=False, repr=False)
    _high: list[list[float]] = field(default_factory=list, init=False, repr=False)
    _floor: float = field(default=1e9, init=False, repr=False)
    _ceiling: float = field(default=-1e9, init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("drift_confidence", "warning_confidence", "weight"):
            between(name, getattr(self, name), 0.0, 1.0)
        if self.warning_confidence < self.drift_confidence:
            raise BadConfiguration("warning_confidence must not be less than drift_confidence")
        self._start()

    def _start(self) -> None:
        self._total = []
        self._low, self._high = [[], []], [[], []]
        self._floor, self._ceiling = 1e9, -1e9

    def _restored(self) -> None:
        known("cuts", len(self._low) == len(self._high) == 2)
        for average in (self._total, *self._low, *self._high):
            known("an average", len(average) in {0, 2})
            known("an average", all(0.0 <= part <= 1.0 + 1e-9 for part in average))

    def _take(self, value: float) -> bool:
        self._add(self._total, value)
        mean, bound = self._total[0], self._bound(self._total[1], self.drift_confidence)
        if mean + bound < self._floor:
            self._floor, self._low = mean + bound, [[*self._total], []]
        else:
            self._add(self._low[1], value)
        if mean - bound > self._ceiling:
            self._ceiling, self._high = mean - bound, [[*self._total], []]
        else:
            self._add(self._high[1], value)
        self.warning = self._moved(self.warning_confidence)
        return self._moved(self.drift_confidence)

    def _moved(self, confidence: float) -> bool:
        (before, since), (above, fallen) = self._low, self._high
        if self._apart(before, since, confidence):
            return True
        return self.two_sided and self._apart(fallen, above, confidence)

    def _apart(self, lower: list[float], upper: list[float], confidence: float) -> bool:
        if not (lower and upper):
            return False
        return upper[0] - lower[0] > self._bound(lower[1] + upper[1], confidence)

    def _add(self, average: list[float], value: float) -> None:
        weight = self.weight
        if average:
            average[0] = weight * value + (1.0 - weight) * average[0]
            average[1] = weight * weight + (1.0 - weight) ** 2 * average[1]
        else:
            average[:] = value, weight * weight + (1.0 - weight) ** 2

    @staticmethod
    def _bound(squares: float, confidence: float) -> float:
        return math.sqrt(squares * math.log(1.0 / confidence) / 2.0)
