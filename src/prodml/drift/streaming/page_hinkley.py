"""Page-Hinkley: the sum of deviations from the mean, less what chance may bring."""

import math
from dataclasses import dataclass, field
from typing import Literal, final

from prodml.drift.streaming.detector import StreamDetector, between, known, whole
from prodml.drift.streaming.run_length import threshold_of
from prodml.errors import BadConfiguration

__all__ = ["PageHinkley"]


@final
@dataclass(kw_only=True, slots=True, eq=False)
class PageHinkley(StreamDetector):
    """Page's CUSUM [1]_ around the running mean, in units of the stream's own spread.

    Parameters
    ----------
    arl
        Values between false alarms on average; the threshold follows by Siegmund's formula
        [2]_, with the skewness of the stream as it has been so far.
    delta
        Allowance: shifts below it are never added up.  In units of ``scale``; half of the
        shift that is to be found fastest.
    threshold
        Sum that is drift, in units of ``scale``, instead of ``arl``.
    scale
        What the unit is: None learns the standard deviation of the stream (nothing is added
        up in the first ``min_instances`` values), a number is taken as it is.
    mode
        ``"up"``, ``"down"`` or ``"both"``.
    min_instances
        Values before the first drift.
    forgetting
        Factor on the sums at each value, in (0, 1].

    Raises
    ------
    BadConfiguration
        A setting makes no sense.

    Notes
    -----
    With ``scale`` None a value counts as four standard deviations at most: one outlier is no
    change.  ``PageHinkley(threshold=50, delta=0.005, scale=1.0, forgetting=0.9999)`` is what
    river does by default: in the units of the data, so that N(100, 20) alarms every 30
    values.

    References
    ----------
    .. [1] Page (1954), "Continuous inspection schemes", Biometrika 41.
    .. [2] Siegmund (1985), *Sequential Analysis*, section 2.6.

    Examples
    --------
    >>> stream = [0.0, 1.0] * 250 + [1.0, 2.0] * 250
    >>> for unit in (1.0, 1000.0):
    ...     detector = PageHinkley()
    ...     print([i for i, x in enumerate(stream) if detector.update(x * unit)])
    [509]
    [509]
    """

    arl: float = 10_000.0
    delta: float = 0.25
    threshold: float | None = None
    scale: float | None = None
    mode: Literal["up", "down", "both"] = "both"
    min_instances: int = 30
    forgetting: float = 1.0
    _count: int = field(default=0, init=False, repr=False)
    _mean: float = field(default=0.0, init=False, repr=False)
    _squares: float = field(default=0.0, init=False, repr=False)
    _cubes: float = field(default=0.0, init=False, repr=False)
    _rise: float = field(default=0.0, init=False, repr=False)
    _fall: float = field(default=0.0, init=False, repr=False)
    _lowest: float = field(default=0.0, init=False, repr=False)
    _highest: float = field(default=0.0, init=False, repr=False)
    _limit: float = field(default=0.0, init=False, repr=False)

    def __post_init__(self) -> None:
        between("arl", self.arl, 1.0, math.inf)
        between("forgetting", self.forgetting, 0.0, 1.0 + 1e-12)
        whole("min_instances", self.min_instances, 2)
        if self.threshold is None or self.delta != 0.0:
            between("delta", self.delta, 0.0, math.inf)
        for name in ("threshold", "scale"):
            if getattr(self, name) is not None:
                between(name, getattr(self, name), 0.0, math.inf)
        if self.mode not in {"up", "down", "both"}:
            raise BadConfiguration(f"mode must be 'up', 'down' or 'both', not {self.mode!r}")
        self._start()

    def _start(self) -> None:
        self._count = 0
        self._mean = self._squares = self._cubes = self._rise = self._fall = 0.0
        # As in Page's scheme the sums may fall below where they began, and rise above it.
        self._lowest = self._highest = 0.0
        self._limit = self._plain()

    def _restored(self) -> None:
        known("a spread", self._squares >= 0.0)
        known("a limit", self._limit == self._plain())

    def _plain(self) -> float:
        if self.threshold is not None:
            return self.threshold
        return threshold_of(self._rate(), self.delta)

    def _rate(self) -> float:
        return self.arl * (2.0 if self.mode == "both" else 1.0)

    def _take(self, value: float) -> bool:
        self._count += 1
        apart = value - self._mean
        self._mean += apart / self._count
        self._squares += apart * (value - self._mean)
        if self.scale is not None:
            return self._add((value - self._mean) / self.scale)
        spread = math.sqrt(self._squares / max(1, self._count - 1))
        if self._count <= self.min_instances or spread <= 0.0:
            return False
        unit = min(4.0, max(-4.0, (value - self._mean) / spread))
        self._cubes += unit * unit * unit
        return self._add(unit)

    def _add(self, unit: float) -> bool:
        keep, delta = self.forgetting, self.delta
        self._rise = rise = keep * self._rise + unit - delta
        self._fall = fall = keep * self._fall + unit + delta
        if rise < self._lowest or self._count == 1:
            self._lowest = rise
        self._highest = max(self._highest, fall)
        up = rise - self._lowest if self.mode != "down" else 0.0
        down = self._highest - fall if self.mode != "up" else 0.0
        if max(up, down) <= self._limit or self._count < self.min_instances:
            return False
        return self._beyond(up, down)

    def _beyond(self, up: float, down: float) -> bool:
        """Judge a large sum by the skewness learnt: few large values are less of a sign."""
        if self.threshold is not None or self.scale is not None:
            return True
        skew = self._cubes / (self._count - self.min_instances)
        rate = self._rate()
        return up > threshold_of(rate, self.delta, skew) or down > threshold_of(
            rate, self.delta, -skew
        )
