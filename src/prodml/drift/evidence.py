"""What speaks for drift in one feature: several aspects, each with evidence and size.

All effects share one unit, the share of rows: how many rows in a hundred lie on another
side of some threshold (numbers), in other levels (categories), or are missing, infinite, of
a wrong type or of a new level that were not before.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from prodml.drift.level import DriftLevel
from prodml.drift.measures import rate_change

__all__ = [
    "Evidence",
    "Rules",
    "absent",
    "inconclusive",
    "judge",
    "nothing_of",
    "of_rate",
    "percent",
    "too_few",
    "unreadable",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The numbers a verdict is judged by; see :class:`~prodml.drift.DriftDetector`."""

    alpha: float
    min_effect: float
    min_new: float
    min_rows: int
    now: float = 0.0
    fresh: Mapping[str, float] = field(default_factory=dict[str, float])
    tests: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One aspect of a feature.

    Parameters
    ----------
    aspect
        ``"distribution"``, ``"missing"``, ``"infinite"``, ``"type"`` (values of a wrong
        one, or fractions where all were whole), ``"levels"`` (new ones), ``"range"``
        (values beyond that of the reference), ``"freshness"``, ``"validation"`` (rows that
        break a rule of the schema) or ``"column"`` (it is gone).
    measure
        ``"ks"``, ``"chi2"``, ``"rate"``, ``"new"``, ``"beyond"``, ``"age"``, ``"column"``, or
        the test that was chosen: ``"cramer_von_mises"``, ``"anderson_darling"``, ``"g_test"``.
    statistic
        KS distance, the statistic of the test, difference of rates, share of new levels or
        of values beyond the range, or seconds since the newest time.
    bound
        The statistic lies between ``statistic`` and ``statistic + bound``: 0 where it is
        exact, more where it is counted in cells.  The p-value is that of ``statistic``, so
        it is never too small.
    p_value, p_adjusted
        Before and after the correction for many tests; NaN where nothing was tested.
    effect
        Share of rows that moved, in [0, 1]; ``floor`` is the smallest that alarms.
    reason
        What changed, with numbers.

    Examples
    --------
    >>> from prodml.drift import DriftDetector
    >>> report = DriftDetector({"x": [1.0] * 90 + [None] * 10}).detect_drift({"x": [None] * 50})
    >>> [(e.aspect, e.level.value) for e in report["x"].evidence]
    [('missing', 'drift'), ('distribution', 'inconclusive')]
    """

    aspect: str
    measure: str
    statistic: float = math.nan
    p_value: float = math.nan
    p_adjusted: float = math.nan
    effect: float = 0.0
    floor: float = 0.0
    level: DriftLevel = DriftLevel.NONE
    reason: str = ""
    bound: float = 0.0

    @property
    def tested(self) -> bool:
        """Whether it has a p-value to be corrected with the others."""
        return self.level is DriftLevel.NONE and not math.isnan(self.p_value)


def percent(share: float) -> str:
    """``share`` in per cent with three digits."""
    return f"{100 * share:.3g} %"


def absent(reason: str) -> Evidence:
    """Evidence that a column cannot be found: certain, so it takes no part in corrections."""
    return Evidence(
        aspect="column",
        measure="column",
        statistic=1.0,
        p_value=0.0,
        p_adjusted=0.0,
        effect=1.0,
        level=DriftLevel.DRIFT,
        reason=reason,
    )


def unreadable(error: Exception) -> Evidence:
    """Evidence that a column is there but is no column."""
    return inconclusive(f"cannot be read: {type(error).__name__}: {error}")


def judge(evidence: Evidence, p_adjusted: float, rules: Rules) -> Evidence:
    """The verdict: drift needs evidence and size."""
    if p_adjusted >= rules.alpha:
        reason = f"no evidence: {evidence.measure} {_told(evidence)}, p {p_adjusted:.3g}"
        return replace(evidence, p_adjusted=p_adjusted, reason=reason)
    if evidence.effect < evidence.floor:
        reason = f"{evidence.reason} (below the floor of {percent(evidence.floor)})"
        level = DriftLevel.NEGLIGIBLE
        return replace(evidence, p_adjusted=p_adjusted, reason=reason, level=level)
    return replace(evidence, p_adjusted=p_adjusted, level=DriftLevel.DRIFT)


def inconclusive(reason: str) -> Evidence:
    """Evidence that the distributions cannot be compared, and why."""
    level = DriftLevel.INCONCLUSIVE
    return Evidence(aspect="distribution", measure="none", level=level, reason=reason)


def too_few(old: int, new: int, rules: Rules, what: str) -> Evidence:
    """Evidence that there is too little data."""
    return inconclusive(
        f"{what}: {old} in the reference, {new} in current; at least {rules.min_rows} are needed"
    )


def nothing_of(aspect: str, measure: str, floor: float) -> Evidence:
    """Evidence that what was looked for is not there.

    It counts in the correction like any other: a test that is counted only where it finds
    something costs the others nothing and alarms all the same, and the level is exceeded.
    """
    return Evidence(aspect=aspect, measure=measure, statistic=0.0, p_value=1.0, floor=floor)


def of_rate(
    aspect: str, hits: tuple[int, int], rows: tuple[int, int], design: float, floor: float
) -> Evidence | None:
    """Evidence that a share of rows changed, ``(reference, current)``; None if it is no one's."""
    old, new = hits
    if not old and not new:
        return None
    test = rate_change(old, rows[0], new, rows[1], design)
    return Evidence(
        aspect=aspect,
        measure="rate",
        statistic=test.statistic,
        p_value=test.p_value,
        effect=abs(test.statistic),
        floor=floor,
        reason=f"{_RATES[aspect]} {percent(old / rows[0])} -> {percent(new / rows[1])}",
    )


_RATES = {
    "missing": "missing",
    "infinite": "infinite",
    "type": "of a wrong type",
    "levels": "levels that the reference does not list",
    "fractions": "whole numbers became fractions:",
}


def _told(evidence: Evidence) -> str:
    if not evidence.bound:
        return f"{evidence.statistic:.3g}"
    return f"{evidence.statistic:.3g} to {evidence.statistic + evidence.bound:.3g}"
