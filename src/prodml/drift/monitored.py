"""What a monitor says: one verdict a feature, with its evidence so far."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from prodml.drift.exchangeability import Finding
from prodml.drift.feature import Profile
from prodml.drift.level import DriftLevel
from prodml.drift.report import CheckReport
from prodml.drift.tracks import Aspect, Floats, Track

__all__ = ["MonitorReport", "MonitoredFeature", "profile_of"]

_BARS = 10


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
    reference_missing, current_missing
        Share of rows without a value, in the reference and of late.
    profile
        Shares of the reference and of late by level, or by a tenth of the reference.

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
    reference_missing: float = math.nan
    current_missing: float = math.nan
    profile: Profile | None = None

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
            "profile": self.profile and _drawn(self.profile),
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
    "reference_missing",
    "current_missing",
)


def _drawn(profile: Profile) -> dict[str, Any]:
    return {
        "labels": list(profile.labels),
        "reference": list(profile.reference),
        "current": list(profile.current),
    }


def profile_of(track: Track, before: Floats, after: Floats) -> Profile:
    """What a picture needs of a track: levels, or about a tenth of the reference a bar.

    Examples
    --------
    >>> from prodml.drift.sample import levels_of
    >>> from prodml.drift.tracks import level_track
    >>> track = level_track([levels_of(["a"] * 60 + ["b"] * 40)])
    >>> profile_of(track, np.array([0.6, 0.4, 0, 0]), np.array([0.5, 0.4, 0, 0.1])).labels
    ('a', 'b', '(new)')
    """
    if track.name == "numbers":
        ends, labels = _tenths(track, before)
        old, new = (np.add.reduceat(shares, ends) for shares in (before, after))
    else:
        chosen, labels = _weightiest(track, before, after)
        old, new = before[chosen], after[chosen]
    return Profile(
        labels=labels, edges=(), reference=tuple(old.tolist()), current=tuple(new.tolist())
    )


def _tenths(track: Track, before: Floats) -> tuple[Any, tuple[str, ...]]:
    """First cells of the bars, and how far each bar reaches."""
    upto = np.cumsum(before)
    last = np.unique(np.searchsorted(upto, np.arange(1, _BARS) / _BARS, "left"))
    last = last[last < len(before) - 1]
    if len(track.cuts) > 1:
        told = [f"lowest {100 * upto[at]:.0f} %" for at in last]
        return np.concatenate(([0], last + 1)), (*told, "highest")
    reach = track.cuts[0][last].tolist()
    told = [f"to {cut:.4g}" for cut in reach]
    return np.concatenate(([0], last + 1)), (*told, f"above {reach[-1]:.4g}" if reach else "all")


def _weightiest(track: Track, before: Floats, after: Floats) -> tuple[Any, tuple[str, ...]]:
    weight = np.maximum(before, after)
    top = np.argsort(-weight, kind="stable")[: _BARS + 2]
    chosen = np.sort(top[weight[top] > 0.0])
    return chosen, tuple(f"{track.labels[at]!s:.60}" for at in chosen)


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
        """One sentence with the outcome, and what was noted of the rows."""
        names = dict.fromkeys(finding.name for finding in self.findings)
        return super().headline + (f"; noted: {', '.join(names)}" if names else "")

    @property
    def notes(self) -> tuple[str, ...]:
        """Reasons of the findings."""
        return tuple(finding.reason for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON, as ``report_schema("monitor")`` describes it.

        Examples
        --------
        >>> from prodml.drift import DriftMonitor
        >>> DriftMonitor([float(i) for i in range(50)]).check([]).to_dict()["drift_detected"]
        False
        """
        return super().to_dict() | {
            "format": "prodml.drift.MonitorReport",
            "findings": [finding.to_dict() for finding in self.findings],
            "features": {name: feature.to_dict() for name, feature in self.items()},
        }
