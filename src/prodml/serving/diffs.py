"""How a shadow's answers differ from those that were served."""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

__all__ = ["Difference", "ShadowDiff", "Tally"]

_LARGEST = 10


class Difference(NamedTuple):
    """One request that the shadow answered otherwise.

    ``apart`` is the largest difference between the numbers of the two answers, infinite where
    there are none; ``features`` is None if the row was too large to be kept.

    Examples
    --------
    >>> Difference(0.4, 0.5, 0.9, {"age": 30}, "r1").apart
    0.4
    """

    apart: float
    stable_value: Any
    value: Any
    features: Any
    request_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowDiff:
    """What comparing a shadow version with the default has shown so far.

    Parameters
    ----------
    version
        The shadow version.
    compared
        Rows that both have answered.
    disagreed
        Rows whose answers differ by more than the tolerance.
    failed
        Rows that the shadow could not answer.
    apart
        Mean difference over the rows that can be subtracted.
    latency_ms
        Mean milliseconds that the shadow took a row.
    largest
        The ten largest disagreements, largest first.

    Examples
    --------
    >>> diff = ShadowDiff(version="v2", compared=1000, disagreed=20)
    >>> diff.rate, [round(bound, 4) for bound in diff.interval()]
    (0.02, [0.013, 0.0307])
    """

    version: str
    compared: int = 0
    disagreed: int = 0
    failed: int = 0
    apart: float = math.nan
    latency_ms: float = math.nan
    largest: tuple[Difference, ...] = ()

    @property
    def rate(self) -> float:
        """Share of the compared rows that disagreed; NaN if there are none."""
        return self.disagreed / self.compared if self.compared else math.nan

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Bounds within which the rate of disagreement lies [1]_; 0 and 1 if nothing is known.

        For one look at a time: a guard that looks after every request needs a sequential
        test, as ``prodml.rollout`` has.

        References
        ----------
        .. [1] Wilson (1927), *Probable inference, the law of succession, and statistical
           inference*, JASA 22.
        """
        if not self.compared:
            return 0.0, 1.0
        from statistics import NormalDist

        n, p = self.compared, self.rate
        z = NormalDist().inv_cdf(0.5 + confidence / 2)
        centre = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
        return max(0.0, centre - half), min(1.0, centre + half)


@dataclass(slots=True, kw_only=True, eq=False)
class Tally:
    """Counts the differences of one loaded shadow version; used under the shadow's lock.

    Examples
    --------
    >>> tally = Tally(version="v2")
    >>> tally.add(agree=False, distance=0.4, latency_ms=1.0)
    >>> tally.diff().disagreed, tally.diff().apart
    (1, 0.4)
    """

    version: str
    # The marks of the loaded version: another one of the same name begins anew.
    busy: Sequence[None] = ()
    compared: int = 0
    disagreed: int = 0
    failed: int = 0
    _subtracted: int = 0
    _distance: float = 0.0
    _latency: float = 0.0
    _largest: list[tuple[float, int, Difference]] = field(
        default_factory=list[tuple[float, int, Difference]]
    )

    def add(self, agree: bool, distance: float, latency_ms: float) -> None:
        """Count one row."""
        self.compared += 1
        self.disagreed += not agree
        self._latency += latency_ms
        if math.isfinite(distance):
            self._subtracted += 1
            self._distance += distance

    def keep(self, found: Difference) -> None:
        """Remember a disagreement if it is one of the largest."""
        # Of equal distances the first stays: later ones have smaller numbers.
        entry = (found.apart, -self.compared, found)
        put = heapq.heappush if len(self._largest) < _LARGEST else heapq.heappushpop
        put(self._largest, entry)

    def diff(self) -> ShadowDiff:
        """What is known now."""
        return ShadowDiff(
            version=self.version,
            compared=self.compared,
            disagreed=self.disagreed,
            failed=self.failed,
            apart=_mean(self._distance, self._subtracted),
            latency_ms=_mean(self._latency, self.compared),
            largest=tuple(found for _, _, found in sorted(self._largest, reverse=True)),
        )


def _mean(total: float, count: int) -> float:
    return total / count if count else math.nan
