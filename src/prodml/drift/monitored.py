"""What a monitor says: one verdict a feature, with its evidence so far."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prodml.drift.exchangeability import Finding
from prodml.drift.level import DriftLevel
from prodml.drift.report import CheckReport
from prodml.drift.tracks import Aspect

__all__ = ["MonitorReport", "MonitoredFeature"]


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


class MonitorReport(CheckReport[MonitoredFeature]):
    """Verdicts by feature name, in the order of the reference: a :class:`CheckReport`.

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

    __slots__: tuple[str, ...] = ("findings",)

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
        super().__init__(features, alpha=alpha, at=at, source=source, new_columns=new_columns)
        self.findings: tuple[Finding, ...] = findings

    @property
    def headline(self) -> str:
        """One sentence with the outcome, and what the rows of the batch are like."""
        return "; ".join((super().headline, *(finding.reason for finding in self.findings)))

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
