"""What an estimate says, metric by metric, and what late labels made of it."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from prodml.types import DriftLevel

__all__ = ["MetricEstimate", "PerformanceReport", "Settlement"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricEstimate:
    """One metric of one chunk, estimated without labels.

    Parameters
    ----------
    value
        The estimate, corrected by ``bias`` (what late labels taught; 0 before); NaN if there is
        none.
    interval
        Where the realised metric of this chunk should lie, with the estimator's ``confidence``.
    reference, band
        The realised metric of the reference, and where chunks of this size that are like the
        reference keep within.
    level
        ``DRIFT``: outside the band and by at least the floor.  ``NEGLIGIBLE``: outside, by less.
    effect, floor
        Distance from the reference as a share of the reference's metric.
    worse
        Whether the change is to the worse.
    reason
        The numbers in words.

    Examples
    --------
    >>> metric = MetricEstimate(metric="auc", level=DriftLevel.INCONCLUSIVE, reason="no rows")
    >>> metric.alarm is None, metric.to_dict()["value"] is None
    (True, True)
    """

    metric: str
    level: DriftLevel
    reason: str
    value: float = math.nan
    interval: tuple[float, float] = (math.nan, math.nan)
    reference: float = math.nan
    band: tuple[float, float] = (math.nan, math.nan)
    effect: float = math.nan
    floor: float = 0.0
    bias: float = 0.0
    worse: bool = False

    @property
    def drift_detected(self) -> bool:
        """Whether the metric changed, to the worse or the better."""
        return self.level is DriftLevel.DRIFT

    @property
    def alarm(self) -> bool | None:
        """Whether the metric became worse; None where nothing can be said."""
        if self.level is DriftLevel.INCONCLUSIVE:
            return None
        return self.drift_detected and self.worse

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON: numbers that are not finite become None.

        Examples
        --------
        >>> metric = MetricEstimate(metric="auc", level=DriftLevel.NONE, reason="", value=0.9)
        >>> metric.to_dict()["value"], metric.to_dict()["alarm"]
        (0.9, False)
        """
        numbers = ("value", "reference", "effect", "floor", "bias")
        return {
            "metric": self.metric,
            "level": self.level.value,
            "drift_detected": self.drift_detected,
            "alarm": self.alarm,
            "worse": self.worse,
            **{name: _json(getattr(self, name)) for name in numbers},
            "interval": [_json(x) for x in self.interval],
            "band": [_json(x) for x in self.band],
            "reason": self.reason,
        }


def _json(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


class PerformanceReport(Mapping[str, MetricEstimate]):
    """Estimates by metric.

    Parameters
    ----------
    rows, used
        Rows of the chunk, and those that could be used.
    findings
        What is wrong with the others.

    Examples
    --------
    >>> metric = MetricEstimate(metric="auc", level=DriftLevel.NONE, reason="", value=0.9)
    >>> report = PerformanceReport({"auc": metric}, rows=100, used=100)
    >>> report.value, report.alarm, report.level.value
    (0.9, False, 'none')
    """

    __slots__: tuple[str, ...] = ("_metrics", "at", "findings", "rows", "source", "used")

    def __init__(
        self,
        metrics: Mapping[str, MetricEstimate],
        *,
        rows: int,
        used: int,
        findings: tuple[str, ...] = (),
        at: float = 0.0,
        source: str = "performance",
    ) -> None:
        self._metrics: dict[str, MetricEstimate] = dict(metrics)
        self.rows: int = rows
        self.used: int = used
        self.findings: tuple[str, ...] = findings
        self.at: float = at
        self.source: str = source

    def __getitem__(self, metric: str) -> MetricEstimate:
        return self._metrics[metric]

    def __iter__(self) -> Iterator[str]:
        return iter(self._metrics)

    def __len__(self) -> int:
        return len(self._metrics)

    @property
    def level(self) -> DriftLevel:
        """The gravest verdict: drift before inconclusive before negligible before none."""
        found = {metric.level for metric in self.values()}
        return next(level for level in _GRAVEST if level in found)

    @property
    def drift_detected(self) -> bool:
        """Whether any metric changed."""
        return self.level is DriftLevel.DRIFT

    @property
    def alarm(self) -> bool | None:
        """Whether any metric became worse; None if none did but one cannot be judged."""
        alarms = [metric.alarm for metric in self.values()]
        return True if True in alarms else None if None in alarms else False

    @property
    def alarms(self) -> tuple[str, ...]:
        """Metrics that became worse."""
        return tuple(name for name, metric in self.items() if metric.alarm)

    @property
    def value(self) -> float:
        """The estimate of the only metric; of several, ask for one by name."""
        return self._only().value

    @property
    def interval(self) -> tuple[float, float]:
        """The interval of the only metric."""
        return self._only().interval

    @property
    def reason(self) -> str:
        """What the metrics with the gravest verdict say, and what is wrong with the rows."""
        told = [metric.reason for metric in self.values() if metric.level is self.level]
        return "; ".join([*dict.fromkeys(told), *self.findings])

    def _only(self) -> MetricEstimate:
        if len(self) != 1:
            raise ValueError(f"one of several: ask for report[name], name in {list(self)}")
        return next(iter(self.values()))

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON.

        Examples
        --------
        >>> metric = MetricEstimate(metric="auc", level=DriftLevel.NONE, reason="fine")
        >>> PerformanceReport({"auc": metric}, rows=9, used=9).to_dict()["level"]
        'none'
        """
        return {
            "at": self.at,
            "source": self.source,
            "level": self.level.value,
            "drift_detected": self.drift_detected,
            "alarm": self.alarm,
            "rows": self.rows,
            "used": self.used,
            "reason": self.reason,
            "findings": list(self.findings),
            "metrics": {name: metric.to_dict() for name, metric in self.items()},
        }

    def __repr__(self) -> str:
        return f"<PerformanceReport {self.source}: {self.level.value}: {self.reason}>"


_GRAVEST = (DriftLevel.DRIFT, DriftLevel.INCONCLUSIVE, DriftLevel.NEGLIGIBLE, DriftLevel.NONE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """What late labels brought.

    Parameters
    ----------
    joined
        Labels that found their prediction.
    unknown
        Labels without one: never estimated with this id, settled before, or left for others.
    invalid
        Labels that are none (missing, an unknown class).
    waiting, evicted
        Predictions that still wait, and those that left without a label so far.
    held
        Joined labels that wait until there are enough to learn from.
    realised, estimated
        Metric of the joined rows by their labels, and as it was estimated for the same rows
        without any correction; NaN where it is not defined.
    bias
        What is now added to every estimate.

    Examples
    --------
    >>> Settlement(joined=0, unknown=3, invalid=0, waiting=0, evicted=0, held=0).unknown
    3
    """

    joined: int
    unknown: int
    invalid: int
    waiting: int
    evicted: int
    held: int
    realised: Mapping[str, float] = field(default_factory=dict[str, float])
    estimated: Mapping[str, float] = field(default_factory=dict[str, float])
    bias: Mapping[str, float] = field(default_factory=dict[str, float])
