"""DDM: an error rate that leaves its best by three standard deviations."""

import math
from dataclasses import dataclass, field
from typing import ClassVar, final

from prodml.drift.streaming.detector import StreamDetector, between, known, whole
from prodml.errors import BadConfiguration

__all__ = ["DDM"]


@final
@dataclass(kw_only=True, slots=True, eq=False)
class DDM(StreamDetector):
    """Drift detection method [1]_ for a stream of errors: 1 wrong, 0 right.

    Keeps the smallest error rate plus standard deviation that was ever reached; drift is a
    rate that lies ``drift_threshold`` of those standard deviations above that rate.

    Parameters
    ----------
    warm_start
        Values before the first verdict.
    warning_threshold, drift_threshold
        Standard deviations above the best rate.

    Raises
    ------
    BadConfiguration
        A setting makes no sense.

    Notes
    -----
    The minimum is taken over all the past, so false alarms depend on how long the stream
    has been: no run length can be asked.  Falls of the error rate are not found.

    References
    ----------
    .. [1] Gama, Medas, Castillo and Rodrigues (2004), "Learning with drift detection", SBIA.

    Examples
    --------
    >>> detector = DDM()
    >>> stream = [0, 0, 0, 0, 1] * 100 + [0, 1] * 100
    >>> [i for i, error in enumerate(stream) if detector.update(error)]
    [565]
    """

    low: ClassVar[float] = 0.0
    high: ClassVar[float] = 1.0

    warm_start: int = 30
    warning_threshold: float = 2.0
    drift_threshold: float = 3.0
    _count: int = field(default=0, init=False, repr=False)
    _rate: float = field(default=0.0, init=False, repr=False)
    _best_rate: float = field(default=2.0, init=False, repr=False)
    _best_spread: float = field(default=0.0, init=False, repr=False)

    def __post_init__(self) -> None:
        whole("warm_start", self.warm_start, 1)
        for name in ("warning_threshold", "drift_threshold"):
            between(name, getattr(self, name), 0.0, math.inf)
        if self.warning_threshold > self.drift_threshold:
            raise BadConfiguration("warning_threshold must not exceed drift_threshold")

    def _start(self) -> None:
        self._count, self._rate = 0, 0.0
        self._best_rate, self._best_spread = 2.0, 0.0

    def _restored(self) -> None:
        known("a rate", 0.0 <= self._rate <= 1.0 + 1e-9 and self._best_spread >= 0.0)

    def _take(self, value: float) -> bool:
        self._count += 1
        self._rate += 1.0 / self._count * (value - self._rate)
        if self._count <= self.warm_start:
            return False
        # Rounding may carry a rate of all ones past one.
        spread = math.sqrt(max(0.0, self._rate * (1.0 - self._rate)) / self._count)
        now = self._rate + spread
        if now <= self._best_rate + self._best_spread:
            self._best_rate, self._best_spread = self._rate, spread
        self.warning = now > self._best_rate + self.warning_threshold * self._best_spread
        return now > self._best_rate + self.drift_threshold * self._best_spread
