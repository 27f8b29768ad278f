"""What a time line keeps of a report: a few numbers a feature."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from prodml.drift.level import DriftLevel
from prodml.drift.ranking import Judged, ranked
from prodml.errors import CorruptRecord

__all__ = ["CheckSummary", "FeatureSummary", "Report", "restored", "summary_of"]

# A time line is for people: beyond these nobody looks, and a check must stay small.
_MOST = 200
_REASON = 160
_VERSION = 1


class Report(Protocol):
    """A report of any check, of a detector or of a monitor."""

    @property
    def at(self) -> float:
        """When, seconds since the epoch."""
        ...

    @property
    def source(self) -> str:
        """Who checked."""
        ...

    def items(self) -> Any:
        """Names and verdicts."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureSummary:
    """One feature in one check; ``reason`` is kept where it drifted.

    Examples
    --------
    >>> FeatureSummary(level=DriftLevel.NONE, effect=0.01).reason
    ''
    """

    level: DriftLevel
    effect: float
    p_adjusted: float = math.nan
    floor: float = math.nan
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON: numbers that are not finite become None, empty ones are left out."""
        numbers = ("effect", "p_adjusted", "floor")
        plain = {"level": self.level.value} | {name: _json(getattr(self, name)) for name in numbers}
        return plain | ({"reason": self.reason} if self.reason else {})


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckSummary:
    """One check: when, by whom, and its features, the gravest first (200 at most).

    Examples
    --------
    >>> from prodml.drift import DriftDetector
    >>> report = DriftDetector([float(i) for i in range(50)]).detect_drift({"y": [1.0]})
    >>> summary = summary_of(report)
    >>> summary.drifted, summary.score, summary.count
    (('x0',), 1.0, 1)
    """

    at: float
    source: str
    count: int
    features: Mapping[str, FeatureSummary] = field(default_factory=dict[str, FeatureSummary])

    @property
    def drifted(self) -> tuple[str, ...]:
        """Features that drifted."""
        return tuple(n for n, f in self.features.items() if f.level is DriftLevel.DRIFT)

    @property
    def score(self) -> float:
        """The largest effect among the features that drifted; 0 if none did."""
        return max((self.features[name].effect for name in self.drifted), default=0.0)

    @property
    def share(self) -> float:
        """Share of the features that drifted."""
        return len(self.drifted) / self.count if self.count else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "version": _VERSION,
            "at": self.at,
            "source": self.source,
            "count": self.count,
            "features": {name: feature.to_dict() for name, feature in self.features.items()},
        }


def summary_of(report: Report) -> CheckSummary:
    """The little that is kept of ``report``."""
    verdicts = cast("dict[str, Judged]", dict(report.items()))
    kept = ranked(verdicts, getattr(report, "importance", {}))[:_MOST]
    return CheckSummary(
        at=float(report.at),
        source=report.source,
        count=len(verdicts),
        features={name: _summary(verdict) for name, verdict in kept},
    )


def _summary(verdict: Judged) -> FeatureSummary:
    drifted = verdict.level is DriftLevel.DRIFT
    return FeatureSummary(
        level=verdict.level,
        effect=_short(verdict.effect),
        p_adjusted=_short(verdict.p_adjusted),
        floor=_short(getattr(verdict, "floor", math.nan)),
        reason=verdict.reason[:_REASON] if drifted else "",
    )


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def _json(value: float) -> float | None:
    return value if math.isfinite(value) else None


def restored(plain: Any) -> CheckSummary:
    """What ``CheckSummary.to_dict`` gave.

    Raises
    ------
    CorruptRecord
        It is something else.
    """
    try:
        if plain["version"] != _VERSION:
            raise CorruptRecord("a drift time line", f"version {plain['version']!r:.20}")
        return CheckSummary(
            at=float(plain["at"]),
            source=str(plain["source"]),
            count=int(plain["count"]),
            features={str(name): _feature(f) for name, f in plain["features"].items()},
        )
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise CorruptRecord("a drift time line", f"{type(error).__name__}: {error}") from error


def _feature(plain: Mapping[str, Any]) -> FeatureSummary:
    effect, p_adjusted, floor = (
        math.nan if plain[name] is None else float(plain[name])
        for name in ("effect", "p_adjusted", "floor")
    )
    return FeatureSummary(
        level=DriftLevel(plain["level"]),
        effect=effect,
        p_adjusted=p_adjusted,
        floor=floor,
        reason=str(plain.get("reason", "")),
    )
