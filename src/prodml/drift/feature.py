"""The verdict on one feature."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from prodml.drift.categorical import frequent_first, pooled, side_by_side
from prodml.drift.cells import Cells
from prodml.drift.evidence import Evidence
from prodml.drift.level import DriftLevel
from prodml.drift.measures import divergences, jensen_shannon_of_shares, psi_of_shares
from prodml.drift.numeric import Counted
from prodml.drift.overlap import cell_wasserstein
from prodml.drift.reference import ReferenceColumn, Sample
from prodml.drift.sample import Levels, Numbers
from prodml.drift.transport import sorted_wasserstein

__all__ = ["Details", "FeatureDrift", "Profile", "details_of", "verdict"]

_BINS = 24
_BARS = 12
# A column of identifiers has no end of new ones.
_NAMED = 100
_WIDEST = 8e307
# Beside the quantiles that are told, where a picture begins and ends.
_SHARES = (0.05, 0.25, 0.5, 0.75, 0.95, 0.005, 0.995)


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
    jensen_shannon
        Distance of the same shares, in [0, 1].
    wasserstein, wasserstein_bound
        How far the rows moved on average, in the units of the data, and how far that may
        be off: 0 in exact mode.
    bound
        Of ``statistic``: the truth lies between it and ``statistic + bound``.
    reference_quantiles, current_quantiles
        At 5, 25, 50, 75 and 95 %; empty for categories.
    new_levels, vanished_levels
        Levels of a category that only one of the samples has, the most frequent first, at
        most 100.

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
    bound: float = 0.0
    jensen_shannon: float = math.nan
    wasserstein: float = math.nan
    wasserstein_bound: float = 0.0
    reference_quantiles: tuple[float, ...] = ()
    current_quantiles: tuple[float, ...] = ()

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
    "bound",
    "psi",
    "jensen_shannon",
    "wasserstein",
    "wasserstein_bound",
    "new_levels",
    "vanished_levels",
)
_EVIDENCE = (
    "aspect",
    "measure",
    "statistic",
    "bound",
    "p_value",
    "p_adjusted",
    "effect",
    "floor",
    "reason",
)


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


@dataclass(frozen=True, slots=True)
class Details:
    """What a batch held of a feature, beside the evidence; the sample itself is let go."""

    rows: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])


def verdict(
    reference: ReferenceColumn, details: Details, evidence: tuple[Evidence, ...]
) -> FeatureDrift:
    """One verdict from judged ``evidence``: the gravest level, then the largest effect."""
    # What moved beyond the range has moved: the distribution tells more, and comes first.
    order = sorted(
        evidence, key=lambda e: (_RANK.index(e.level), e.aspect == "range", -_times_floor(e))
    )
    first = order[0]
    told = [e for e in order if e.level is not DriftLevel.NONE] or order[:1]
    return FeatureDrift(
        name=reference.name,
        kind=reference.kind,
        level=first.level,
        measure=first.measure,
        statistic=first.statistic,
        bound=first.bound,
        p_value=first.p_value,
        p_adjusted=first.p_adjusted,
        effect=first.effect,
        floor=first.floor,
        reason="; ".join(e.reason for e in told),
        evidence=tuple(order),
        reference_rows=reference.sample.rows,
        current_rows=details.rows,
        **details.facts,
    )


def _times_floor(evidence: Evidence) -> float:
    return evidence.effect / evidence.floor if evidence.floor else evidence.effect


def details_of(reference: ReferenceColumn, new: Sample) -> Details:
    """Everything that a report shows of ``new`` beside the evidence."""
    old = reference.sample
    facts: dict[str, Any] = {
        "reference_missing": old.missing / old.rows if old.rows else math.nan,
        "current_missing": new.missing / new.rows if new.rows else math.nan,
    }
    if isinstance(old, Levels) and isinstance(new, Levels):
        facts |= _of_levels(old, new)
    elif not isinstance(old, Levels) and not isinstance(new, Levels):
        facts |= _of_numbers(reference, old, new)
    return Details(new.rows, facts)


def _of_numbers(reference: ReferenceColumn, old: Counted, new: Counted) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "reference_mean": old.mean,
        "current_mean": new.mean,
        "reference_std": old.std,
        "current_std": new.std,
    }
    if not old.size or not new.size:
        return facts
    *before, first, last = old.quantiles(_SHARES)
    *now, low, high = new.quantiles(_SHARES)
    outer, inner = reference.cells.tolist(), _picture((first, last), (low, high))
    upto = _cumulative(old, new, np.array(outer + inner[1:-1]))
    sizes, cut = (old.size, new.size), len(outer)
    a, b = (_steps(c[:cut], size) for c, size in zip(upto, sizes, strict=True))
    psi, jensen_shannon = divergences(a, b)
    distance, error = _distance(old, new)
    return facts | {
        "psi": psi,
        "jensen_shannon": jensen_shannon,
        "wasserstein": distance,
        "wasserstein_bound": error,
        "reference_quantiles": tuple(before),
        "current_quantiles": tuple(now),
        "profile": _bins(inner, [c[cut:] for c in upto], sizes),
    }


def _distance(old: Counted, new: Counted) -> tuple[float, float]:
    if isinstance(old, Cells) and isinstance(new, Cells):
        return cell_wasserstein(old, new)
    assert isinstance(old, Numbers)
    assert isinstance(new, Numbers)
    return sorted_wasserstein(old.values, new.values), 0.0


def _cumulative(old: Counted, new: Counted, edges: Any) -> list[list[int]]:
    """Values of both at or below each edge."""
    if isinstance(old, Cells) and isinstance(new, Cells) and old.shift == new.shift:
        codes = old.codes_of(edges)
        return [sample.upto(codes).tolist() for sample in (old, new)]
    return [sample.cumulative(edges).tolist() for sample in (old, new)]


def _steps(upto: list[int], size: int) -> list[int]:
    """Values in each cell, of those at or below its upper edge; the last is open."""
    return [b - a for a, b in pairwise((0, *upto, size))]


def _of_levels(old: Levels, new: Levels) -> dict[str, Any]:
    old, new = side_by_side(old, new)
    facts: dict[str, Any] = {
        "new_levels": _only(new.counts, old.counts),
        "vanished_levels": _only(old.counts, new.counts),
    }
    if not old.size or not new.size:
        return facts
    levels, a, b = pooled(old, new)
    return facts | {
        "psi": psi_of_shares(a, b, unbiased=True),
        "jensen_shannon": jensen_shannon_of_shares(a, b),
        "profile": _bars(levels, a / old.size, b / new.size),
    }


def _only(counts: dict[Any, int], others: dict[Any, int]) -> tuple[Any, ...]:
    return tuple(frequent_first((x for x in counts if x not in others), counts)[:_NAMED])


def _picture(old: tuple[float, float], new: tuple[float, float]) -> list[float]:
    """Edges of the bins in which a picture is drawn of what lies between two quantiles."""
    low, high = old
    room = 2.0 * (high - low) or max(1.0, abs(high))
    # One wild value must not squash the picture: at most twice the span on either side.
    low, high = max(min(low, new[0]), low - room), min(max(high, new[1]), high + room)
    # The distance of two floats may be none itself.
    low, high = max(low, -_WIDEST), min(high, _WIDEST)
    step = (high - low) / _BINS
    return [*(low + i * step for i in range(_BINS)), high]


def _bins(edges: list[float], upto: list[list[int]], sizes: tuple[int, int]) -> Profile:
    old, new = (
        tuple([held / size for held in _steps(counts, size)])
        for counts, size in zip(upto, sizes, strict=True)
    )
    told = [f"{edge:.3g}" for edge in edges]
    labels = tuple([f"{a} to {b}" for a, b in pairwise(told)])
    return Profile(labels=labels, edges=tuple(edges), reference=old, current=new)


def _bars(levels: list[Any], old: Any, new: Any) -> Profile:
    top = sorted(np.argsort(-np.maximum(old, new), kind="stable")[:_BARS].tolist())
    names = ["(rare)" if levels[i] is None else f"{levels[i]!s:.20}" for i in top]
    return Profile(
        labels=tuple(names),
        edges=(),
        reference=tuple(old[top].tolist()),
        current=tuple(new[top].tolist()),
    )
