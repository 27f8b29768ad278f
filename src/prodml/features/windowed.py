"""Means over a window that ends some time ago."""

from bisect import bisect_left, bisect_right
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from math import isfinite
from threading import Lock
from typing import final

from prodml.clock import SYSTEM_CLOCK, Clock
from prodml.errors import BadConfiguration
from prodml.features.online import entity_key
from prodml.types import Features

__all__ = ["WindowedMean"]


class _Series:
    """Observations of one entity by event time, with running sums in two parts.

    The low parts keep what rounding took from the high ones (Knuth's two-sum), so that the
    difference of two sums is as exact as adding up the window itself.
    """

    __slots__: tuple[str, ...] = ("highs", "lows", "times", "values")

    def __init__(self) -> None:
        self.times: list[float] = []
        self.values: list[float] = []
        # One entry more than observations: the sum before each, and after the last.
        self.highs: list[float] = [0.0]
        self.lows: list[float] = [0.0]

    def add(self, value: float, at: float) -> None:
        index = bisect_right(self.times, at)
        self.times.insert(index, at)
        self.values.insert(index, value)
        del self.highs[index + 1 :], self.lows[index + 1 :]
        high, low = self.highs[index], self.lows[index]
        for later in self.values[index:]:
            total = high + later
            virtual = total - high
            low += (high - (total - virtual)) + (later - virtual)
            high = total
            self.highs.append(high)
            self.lows.append(low)

    def prune(self, horizon: float) -> None:
        old = bisect_left(self.times, horizon)
        # Half at a time: a deletion a value would make every insertion linear.
        if old * 2 > len(self.times):
            del self.times[:old], self.values[:old], self.highs[:old], self.lows[:old]

    def window(self, start: float, end: float) -> tuple[int, float]:
        """Count and sum of the observations in [start, end]."""
        first, last = bisect_left(self.times, start), bisect_right(self.times, end)
        if last <= first:
            return 0, 0.0
        high = self.highs[last] - self.highs[first]
        return last - first, high + (self.lows[last] - self.lows[first])


@final
@dataclass(slots=True, eq=False)
class WindowedMean:
    """Mean of what was observed of an entity in ``[t - window_start, t - window_end]``.

    Parameters
    ----------
    feature
        Name of the feature that this is.
    window_start, window_end
        Seconds before ``t`` at which the window begins and ends, both ends included.
        ``window_end`` above 0 leaves time for observations to arrive before they count.
    retention
        Seconds of observations kept, counted back from the newest of an entity; by default
        ``window_start``, which is enough for any ``t`` not before the newest observation.
        ``math.inf`` keeps all, to compute training rows for the past.
    min_count
        Observations below which there is no mean.
    clock
        Says what ``t`` is for :meth:`fetch`.

    Raises
    ------
    BadConfiguration
        ``window_start`` not above ``window_end``, ``window_end`` negative, ``retention``
        below ``window_start``, ``min_count`` below 1.

    Notes
    -----
    O(log n) a query, O(1) an observation in order, O(k) one that arrives k places late.
    NaN and infinite observations are not observations: they are counted in ``ignored``.
    Observations count by event time; one that arrives after its window has been asked for
    changes the answer for that window from then on.  Safe for any number of threads.

    Examples
    --------
    Mean delay of the flights that left this airport 3 h to 1 h ago:

    >>> delay = WindowedMean("delay", window_start=3 * 3600, window_end=3600)
    >>> delay.observe({"origin": "JFK"}, 30.0, at=0.0)
    >>> delay.observe({"origin": "JFK"}, 10.0, at=1800.0)
    >>> delay.mean({"origin": "JFK"}, at=5400.0), delay.mean({"origin": "JFK"}, at=3600.0)
    (20.0, 30.0)
    """

    feature: str
    _: KW_ONLY
    window_start: float
    window_end: float = 0.0
    retention: float | None = None
    min_count: int = 1
    clock: Clock = SYSTEM_CLOCK
    _series: dict[Hashable, _Series] = field(init=False, repr=False)
    _ignored: int = field(default=0, init=False, repr=False)
    _lock: Lock = field(default_factory=Lock, init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.window_end < self.window_start:
            raise BadConfiguration(
                "0 <= window_end < window_start must hold (seconds before t), not "
                f"window_end={self.window_end!r}, window_start={self.window_start!r}"
            )
        if self.retention is not None and not self.retention >= self.window_start:
            raise BadConfiguration(f"retention {self.retention!r} is below window_start")
        if self.min_count < 1:
            raise BadConfiguration(f"min_count must be at least 1, not {self.min_count!r}")
        self._series = {}

    @property
    def ignored(self) -> int:
        """Observations that were no finite number."""
        return self._ignored

    def observe(self, entity: Features, value: float, at: float) -> None:
        """Add what happened to ``entity`` at ``at``, in any order.

        Parameters
        ----------
        entity
            Keys that identify the entity, for example ``{"origin": "JFK"}``.
        value
            The observation.
        at
            Event time in seconds since the epoch, UTC.

        Examples
        --------
        >>> delay = WindowedMean("delay", window_start=60)
        >>> delay.observe({"origin": "JFK"}, float("nan"), at=0.0)
        >>> delay.ignored
        1
        """
        key = entity_key(entity)
        with self._lock:
            if not (isfinite(value) and isfinite(at)):
                self._ignored += 1
                return
            series = self._series.get(key)
            if series is None:
                series = self._series[key] = _Series()
            series.add(float(value), at)
            kept = self.window_start if self.retention is None else self.retention
            series.prune(series.times[-1] - kept)

    def mean(self, entity: Features, at: float | None = None) -> float | None:
        """Mean of the window as seen from ``at`` (now by default); None if too few observations.

        Examples
        --------
        >>> WindowedMean("delay", window_start=60).mean({"origin": "JFK"}, at=0.0) is None
        True
        """
        count, total = self._window(entity, at)
        return total / count if count >= self.min_count else None

    def count(self, entity: Features, at: float | None = None) -> int:
        """Observations in the window as seen from ``at`` (now by default).

        Examples
        --------
        >>> WindowedMean("delay", window_start=60).count({"origin": "JFK"}, at=0.0)
        0
        """
        return self._window(entity, at)[0]

    def _window(self, entity: Features, at: float | None) -> tuple[int, float]:
        key, at = entity_key(entity), self.clock.time() if at is None else at
        with self._lock:
            series = self._series.get(key)
            if series is None:
                return 0, 0.0
            return series.window(at - self.window_start, at - self.window_end)

    def fetch(self, entity: Features, names: Sequence[str]) -> Mapping[str, float]:
        """The mean as of now under the feature's name, for a view; empty if there is none.

        Examples
        --------
        >>> WindowedMean("delay", window_start=60).fetch({"origin": "JFK"}, ["delay"])
        {}
        """
        mean = self.mean(entity) if self.feature in names else None
        return {} if mean is None else {self.feature: mean}
