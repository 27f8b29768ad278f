"""The verdict on one feature."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from prodml.drift.evidence import Evidence, pooled
from prodml.drift.level import DriftLevel
from prodml.drift.measures import counts_in, psi_of_shares
from prodml.drift.reference import ReferenceColumn
from prodml.drift.sample import Levels, Numbers

__all__ = ["FeatureDrift", "Profile", "verdict"]

_BINS = 24
_BARS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What a picture of a feature needs: shares of both samples by bin or by level.

    ``edges`` has one more entry than ``labels`` for numbers and is empty for categories.
    The first and the last bin of numbers also hold what lies outside the picture.
    """

    labels: tuple[str, ...]
    edges: tuple[float, ...]
    reference: tuple[float, ...]
    current: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureDrift:
    """What a check found out about one feature.

    Parameters
    ----------
    level
        The verdict; ``drift_detected`` is short for ``level is DriftLevel.DRIFT``.
    measure, statistic, p_value, p_adjusted, effect, floor
        Those of the aspect that decided: see :class:`Evidence`.  ``effect`` is the share of
        rows that moved, in [0, 1], and ``floor`` the smallest that alarms.
    reason
        What changed, with numbers, for people.
    evidence
        All aspects, the deciding one first.
    reference_mean, current_mean, reference_std, current_std
        Of the finite numbers (``std`` divides by n); NaN for categories.
    reference_missing, current_missing
        Share of rows without a value.
    psi
        Population stability index without its small-sample bias; NaN where nothing could
        be compared.
    new_levels, vanished_levels
        Levels of a category that only one of the samples has, the most frequent first.

    Examples
    --------
    >>> from prodml.drift import DriftDetector
    >>> detector = DriftDetector({"plan": ["basic"] * 60 + ["pro"] * 40})
    >>> plan = detector.detect_drift({"plan": ["basic"] * 20 + ["gold"] * 80})["plan"]
    >>> plan.drift_detected, plan.new_levels, plan.vanished_levels
    (True, ('gold',), ('pro',))
    >>> plan.reason
    'new level gold 80 %; gold 0 % -> 80 %'
    """

    name: str
    kind: str
    level: DriftLevel
    measure: str
    statistic: float
    p_value: float
    p_adjusted: float
    effect: float
    floor: float
    reason: str
    evidence: tuple[Evidence, ...]
    reference_rows: int
    current_rows: int
    reference_mean: float = math.nan
    current_mean: float = math.nan
    reference_std: float = math.nan
    current_std: float = math.nan
    reference_missing: float = math.nan
    current_missing: float = math.nan
    psi: float = math.nan
    new_levels: tuple[Any, ...] = ()
    vanished_levels: tuple[Any, ...] = ()
    profile: Profile | None = None

    @property
    def drift_detected(self) -> bool:
        """Whether there is evidence of a change that is large enough to matter."""
        return self.level is DriftLevel.DRIFT

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON: numbers that are not finite become None.

        Examples
        --------
        >>> from prodml.drift import DriftDetector
        >>> report = DriftDetector([float(i) for i in range(50)]).detect_drift([])
        >>> report["x0"].to_dict()["level"]
        'inconclusive'
        """
        plain = {name: getattr(self, name) for name in _PLAIN}
        return {
            "level": self.level.value,
            "drift_detected": self.drift_detected,
            **{name: _json(value) for name, value in plain.items()},
            "evidence": [_evidence_dict(item) for item in self.evidence],
        }


_PLAIN = (
    "kind",
    "measure",
    "statistic",
    "p_value",
    "p_adjusted",
    "effect",
    "floor",
    "reason",
    "reference_rows",
    "current_rows",
    "reference_mean",
    "current_mean",
    "reference_std",
    "current_std",
    "reference_missing",
    "current_missing",
    "psi",
    "new_levels",
    "vanished_levels",
)
_EVIDENCE = ("aspect", "measure", "statistic", "p_value", "p_adjusted", "effect", "floor", "reason")


def _evidence_dict(evidence: Evidence) -> dict[str, Any]:
    plain = {name: _json(getattr(evidence, name)) for name in _EVIDENCE}
    return {**plain, "level": evidence.level.value}


def _json(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, tuple):
        return [str(level) for level in value]
    return value


_RANK = (DriftLevel.DRIFT, DriftLevel.INCONCLUSIVE, DriftLevel.NEGLIGIBLE, DriftLevel.NONE)


def verdict(
    reference: ReferenceColumn, current: Numbers | Levels | None, evidence: tuple[Evidence, ...]
) -> FeatureDrift:
    """One verdict from judged ``evidence``: the gravest level, then the largest effect."""
    order = sorted(evidence, key=lambda e: (_RANK.index(e.level), -_times_floor(e)))
    first = order[0]
    told = [e for e in order if e.level is not DriftLevel.NONE] or order[:1]
    details = {} if current is None else _details(reference, current)
    return FeatureDrift(
        name=reference.name,
        kind=reference.kind,
        level=first.level,
        measure=first.measure,
        statistic=first.statistic,
        p_value=first.p_value,
        p_adjusted=first.p_adjusted,
        effect=first.effect,
        floor=first.floor,
        reason="; ".join(e.reason for e in told),
        evidence=tuple(order),
        reference_rows=reference.sample.rows,
        current_rows=0 if current is None else current.rows,
        **details,
    )


def _times_floor(evidence: Evidence) -> float:
    return evidence.effect / evidence.floor if evidence.floor else evidence.effect


def _details(reference: ReferenceColumn, new: Numbers | Levels) -> dict[str, Any]:
    old = reference.sample
    details: dict[str, Any] = {
        "reference_missing": old.missing / old.rows if old.rows else math.nan,
        "current_missing": new.missing / new.rows if new.rows else math.nan,
    }
    if isinstance(old, Numbers) and isinstance(new, Numbers):
        details |= {
            "reference_mean": old.mean,
            "current_mean": new.mean,
            "reference_std": old.std,
            "current_std": new.std,
        }
        if old.size and new.size:
            counts = (counts_in(sample.values, reference.cells) for sample in (old, new))
            details |= {"psi": psi_of_shares(*counts, unbiased=True), "profile": _bins(old, new)}
    elif isinstance(old, Levels) and isinstance(new, Levels):
        details |= {
            "new_levels": _only(new.counts, old.counts),
            "vanished_levels": _only(old.counts, new.counts),
        }
        if old.size and new.size:
            levels, a, b = pooled(old, new)
            details |= {"psi": psi_of_shares(a, b, unbiased=True)}
            details |= {"profile": _bars(levels, a / old.size, b / new.size)}
    return details


def _only(counts: dict[Any, int], others: dict[Any, int]) -> tuple[Any, ...]:
    return tuple(sorted((x for x in counts if x not in others), key=lambda x: -counts[x]))


def _bins(old: Numbers, new: Numbers) -> Profile:
    low, high = old.quantile(0.005), old.quantile(0.995)
    room = 2.0 * (high - low) or max(1.0, abs(high))
    # One wild value must not squash the picture: at most twice the span on either side.
    low, high = (
        max(min(low, new.quantile(0.005)), low - room),
        min(max(high, new.quantile(0.995)), high + room),
    )
    edges = np.linspace(low, high, _BINS + 1)
    shares = [counts_in(sample.values, edges[1:-1]) / sample.size for sample in (old, new)]
    return Profile(
        labels=tuple(f"{a:.3g} to {b:.3g}" for a, b in pairwise(edges)),
        edges=tuple(edges.tolist()),
        reference=tuple(shares[0].tolist()),
        current=tuple(shares[1].tolist()),
    )


def _bars(levels: list[Any], old: Any, new: Any) -> Profile:
    top = sorted(np.argsort(-np.maximum(old, new), kind="stable")[:_BARS].tolist())
    names = ["(rare)" if levels[i] is None else f"{levels[i]!s:.20}" for i in top]
    return Profile(
        labels=tuple(names),
        edges=(),
        reference=tuple(old[top].tolist()),
        current=tuple(new[top].tolist()),
    )
