"""What a monitor says: one verdict a feature, with its evidence so far."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from prodml.clock import utc
from prodml.drift.exchangeability import Finding
from prodml.drift.level import DriftLevel
from prodml.drift.tracks import Aspect

__all__ = ["MonitorReport", "MonitoredFeature"]

_ORDER = (DriftLevel.DRIFT, DriftLevel.INCONCLUSIVE, DriftLevel.NEGLIGIBLE, DriftLevel.NONE)


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitoredFeature:
    """Where one feature stands.

    Parameters
    ----------
    level
        The verdict; ``drift_detected`` is short for ``level is DriftLevel.DRIFT``.
    aspect
        What decided: ``"distribution"``, ``"levels"`` (new ones), ``"missing"``,
        ``"infinite"``, ``"type"`` or ``"column"`` (it is gone).
    effect, floor
        Share of rows that moved, in [0, 1], and the smallest that alarms.
    log_e
        Natural logarithm of the e-value: what a stake of 1 against "nothing has moved" has
        become, after its share of all starts and aspects; minus infinity before there are
        rows enough.
    since
        When what was found began, by the bet that won most, seconds since the epoch; NaN
        where there is no evidence.
    rows
        Rows of late that the effect was read off.

    Examples
    --------
    >>> from prodml.drift import DriftMonitor
    >>> monitor = DriftMonitor({"plan": ["basic"] * 60 + ["pro"] * 40})
    >>> plan = monitor.check({"plan": ["basic"] * 20 + ["gold"] * 80})["plan"]
    >>> plan.level.value, plan.aspect, plan.e_value > 1e6, plan.p_adjusted < 1e-6
    ('drift', 'levels', True, True)
    """

    name: str
    kind: str
    level: DriftLevel
    aspect: str
    effect: float
    floor: float
    log_e: float
    p_adjusted: float
    reason: str
    since: float = math.nan
    rows: int = 0
    aspects: tuple[Aspect, ...] = ()

    @property
    def drift_detected(self) -> bool:
        """Whether there is evidence of a change that is large enough to matter."""
        return self.level is DriftLevel.DRIFT

    @property
    def e_value(self) -> float:
        """The evidence: 20 is what chance exceeds once in twenty periods, for one feature."""
        return math.exp(min(self.log_e, 700.0))

    @property
    def p_value(self) -> float:
        """Anytime-valid p-value of this feature alone: the inverse of ``e_value``."""
        return min(1.0, math.exp(-min(self.log_e, 700.0))) if self.log_e > 0.0 else 1.0

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON: numbers that are not finite become None."""
        plain = {name: getattr(self, name) for name in _PLAIN}
        return {
            "level": self.level.value,
            "drift_detected": self.drift_detected,
            **{name: _finite(value) for name, value in plain.items()},
            "aspects": [
                {
                    "aspect": one.aspect,
                    "level": one.level.value,
                    "effect": one.effect,
                    "floor": one.floor,
                    "reason": one.reason,
                }
                for one in self.aspects
            ],
        }


_PLAIN = (
    "kind",
    "aspect",
    "effect",
    "floor",
    "log_e",
    "p_value",
    "p_adjusted",
    "since",
    "rows",
    "reason",
)


def _finite(value: Any) -> Any:
    return value if not isinstance(value, float) or math.isfinite(value) else None


class MonitorReport(Mapping[str, MonitoredFeature]):
    """Verdicts by feature name, in the order of the reference.

    Parameters
    ----------
    features
        Verdict of every feature.
    alpha
        Chance of a false alarm in one period of the budget, over all features and checks.
    at
        When the check was made, seconds since the epoch.
    source
        Name of the monitor.
    findings
        What is to be known about the rows of the batch before its drift is read.
    new_columns
        Columns of the batch that the reference does not know.

    Examples
    --------
    >>> from prodml.drift import DriftMonitor
    >>> monitor = DriftMonitor({"age": [float(i) for i in range(100)]})
    >>> report = monitor.check({"age": [float(i) for i in range(40, 140)]})
    >>> report.drift_detected, report.drifted
    (True, ('age',))
    """

    __slots__: tuple[str, ...] = ("_features", "alpha", "at", "findings", "new_columns", "source")

    def __init__(
        self,
        features: Mapping[str, MonitoredFeature],
        *,
        alpha: float,
        at: float,
        source: str,
        findings: tuple[Finding, ...] = (),
        new_columns: tuple[str, ...] = (),
    ) -> None:
        self._features: dict[str, MonitoredFeature] = dict(features)
        self.alpha: float = alpha
        self.at: float = at
        self.source: str = source
        self.findings: tuple[Finding, ...] = findings
        self.new_columns: tuple[str, ...] = new_columns

    def __getitem__(self, name: str) -> MonitoredFeature:
        return self._features[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._features)

    def __len__(self) -> int:
        return len(self._features)

    @property
    def drift_detected(self) -> bool:
        """Whether any feature drifted."""
        return bool(self.drifted)

    @property
    def drifted(self) -> tuple[str, ...]:
        """Features that drifted, the largest effect first."""
        return tuple(f.name for f in self.ranked() if f.drift_detected)

    @property
    def inconclusive(self) -> tuple[str, ...]:
        """Features about which nothing can be said."""
        return tuple(n for n, f in self.items() if f.level is DriftLevel.INCONCLUSIVE)

    @property
    def score(self) -> float:
        """The largest effect among the features that drifted, in [0, 1]; 0 if none did."""
        return max((f.effect for f in self.values() if f.drift_detected), default=0.0)

    def ranked(self) -> list[MonitoredFeature]:
        """Verdicts, the gravest level and then the largest effect first."""
        return sorted(self.values(), key=lambda f: (_ORDER.index(f.level), -f.effect))

    @property
    def headline(self) -> str:
        """One sentence with the outcome."""
        count = len(self.drifted)
        told = f"{count} of {len(self)} features drifted" if count else "no feature drifted"
        if self.inconclusive:
            told += f", {len(self.inconclusive)} inconclusive"
        return f"{self.source}, {utc(self.at):%Y-%m-%d %H:%M} UTC: {told}"

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON.

        Examples
        --------
        >>> from prodml.drift import DriftMonitor
        >>> DriftMonitor([float(i) for i in range(50)]).check([]).to_dict()["drift_detected"]
        False
        """
        return {
            "at": self.at,
            "source": self.source,
            "alpha": self.alpha,
            "drift_detected": self.drift_detected,
            "drifted": list(self.drifted),
            "inconclusive": list(self.inconclusive),
            "new_columns": list(self.new_columns),
            "score": self.score,
            "findings": [finding.to_dict() for finding in self.findings],
            "features": {name: feature.to_dict() for name, feature in self.items()},
        }

    def __str__(self) -> str:
        rows = [
            (f.name, f.level.value, f"{f.effect:.3f}", f"{f.p_adjusted:.2g}", f.reason)
            for f in self.ranked()
        ]
        table = [("feature", "level", "effect", "p", "reason"), *rows]
        widths = [max(len(row[i]) for row in table) for i in range(4)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row[:4], widths, strict=True))
            + f"  {row[4]}"
            for row in table
        ]
        notes = [f"note: {finding.reason}" for finding in self.findings]
        return "\n".join([self.headline, *notes, *lines])

    def __repr__(self) -> str:
        return f"<MonitorReport {self.headline}>"
