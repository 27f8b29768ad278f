"""What speaks for drift in one feature: several aspects, each with evidence and size.

All effects share one unit, the share of rows: how many rows in a hundred lie on another
side of some threshold (numbers), in other levels (categories), or are missing, infinite, of
a wrong type or of a new level that were not before.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from prodml.drift.level import DriftLevel
from prodml.drift.measures import Ints, TestResult, chi_square, ks_sorted, rate_change
from prodml.drift.reference import ReferenceColumn
from prodml.drift.sample import Levels, Numbers
from prodml.drift.smirnov import largest_gap, tolerant_gap

__all__ = ["Evidence", "Rules", "absent", "examine", "judge", "percent", "pooled", "unreadable"]

# The rule of thumb for the chi-square distribution: this many expected rows in each cell.
_EXPECTED = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The numbers a verdict is judged by; see :class:`~prodml.drift.DriftDetector`."""

    alpha: float
    min_effect: float
    min_new: float
    min_rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One aspect of a feature.

    Parameters
    ----------
    aspect
        ``"distribution"``, ``"missing"``, ``"infinite"``, ``"type"``, ``"levels"`` (new
        ones) or ``"column"`` (it is gone).
    measure
        ``"ks"``, ``"chi2"``, ``"rate"``, ``"new"`` or ``"column"``.
    statistic
        KS distance, chi-square statistic, difference of rates, or share of new levels.
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

    @property
    def tested(self) -> bool:
        """Whether it has a p-value to be corrected with the others."""
        return self.level is DriftLevel.NONE


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
    return _inconclusive(f"cannot be read: {type(error).__name__}: {error}")


def examine(
    reference: ReferenceColumn, current: Numbers | Levels, rules: Rules
) -> tuple[Evidence, ...]:
    """Every aspect of one feature, not yet judged."""
    old = reference.sample
    if min(old.rows, current.rows) < rules.min_rows:
        return (_too_few(old.rows, current.rows, rules, "rows"),)
    design = reference.design.get("missing", 1.0)
    found = [
        _rate(aspect, getattr(old, name), getattr(current, name), (old.rows, current.rows), design)
        for aspect, name in (("missing", "missing"), ("infinite", "infinite"), ("type", "invalid"))
    ]
    evidence = [replace(e, floor=rules.min_effect) for e in found if e is not None]
    if isinstance(old, Levels) and isinstance(current, Levels):
        evidence += _of_levels(reference, old, current, rules)
    elif isinstance(old, Numbers) and isinstance(current, Numbers):
        evidence.append(_of_numbers(reference, old, current, rules))
    return tuple(evidence)


def judge(evidence: Evidence, p_adjusted: float, rules: Rules) -> Evidence:
    """The verdict: drift needs evidence and size."""
    if p_adjusted >= rules.alpha:
        reason = f"no evidence: {evidence.measure} {evidence.statistic:.3g}, p {p_adjusted:.3g}"
        return replace(evidence, p_adjusted=p_adjusted, reason=reason)
    if evidence.effect < evidence.floor:
        reason = f"{evidence.reason} (below the floor of {percent(evidence.floor)})"
        level = DriftLevel.NEGLIGIBLE
        return replace(evidence, p_adjusted=p_adjusted, reason=reason, level=level)
    return replace(evidence, p_adjusted=p_adjusted, level=DriftLevel.DRIFT)


def _inconclusive(reason: str) -> Evidence:
    level = DriftLevel.INCONCLUSIVE
    return Evidence(aspect="distribution", measure="none", level=level, reason=reason)


def _too_few(old: int, new: int, rules: Rules, what: str) -> Evidence:
    return _inconclusive(
        f"{what}: {old} in the reference, {new} in current; at least {rules.min_rows} are needed"
    )


def _rate(aspect: str, old: int, new: int, rows: tuple[int, int], design: float) -> Evidence | None:
    if not old and not new:
        return None
    test = rate_change(old, rows[0], new, rows[1], design)
    return Evidence(
        aspect=aspect,
        measure="rate",
        statistic=test.statistic,
        p_value=test.p_value,
        effect=abs(test.statistic),
        reason=f"{_RATES[aspect]} {percent(old / rows[0])} -> {percent(new / rows[1])}",
    )


_RATES = {"missing": "missing", "infinite": "infinite", "type": "of a wrong type"}


def _of_numbers(reference: ReferenceColumn, old: Numbers, new: Numbers, rules: Rules) -> Evidence:
    if min(old.size, new.size) < rules.min_rows:
        return _too_few(old.size, new.size, rules, "numbers")
    if reference.kind == "time":
        return _inconclusive(
            "time always moves: derive what the model uses (an hour, an age), "
            "or set its kind to 'numeric'"
        )
    test = ks_sorted(old.values, new.values, reference.design.get("distribution", 1.0))
    if test.p_value >= rules.alpha:
        # No correction makes a p-value smaller, so nobody will ask what moved.
        return _evidence("ks", test, test.statistic, rules.min_effect, "")
    effect, reason = test.statistic, _moved(old, new)
    if effect >= rules.min_effect:
        kept = tolerant_gap(old.values, new.values, rules.min_effect)
        if kept < rules.min_effect:
            effect = kept
            reason = f"differences within the rounding of single precision ({reason})"
    return _evidence("ks", test, effect, rules.min_effect, reason)


def _evidence(measure: str, test: TestResult, effect: float, floor: float, why: str) -> Evidence:
    return Evidence(
        aspect="distribution",
        measure=measure,
        statistic=test.statistic,
        p_value=test.p_value,
        effect=effect,
        floor=floor,
        reason=why,
    )


def _moved(old: Numbers, new: Numbers) -> str:
    gap = largest_gap(old.values, new.values)
    before, after = old.quantile(0.5), new.quantile(0.5)
    spread = old.quantile(0.75) - old.quantile(0.25)
    middle = f"median {before:.4g} -> {after:.4g}"
    if 0.0 < spread < math.inf:
        middle = f"median {(after - before) / spread:+.2f} IQR ({before:.4g} -> {after:.4g})"
    shares = f"{percent(gap.reference_share)} -> {percent(gap.current_share)}"
    return f"{middle}; at most {gap.at:.4g}: {shares}"


def pooled(old: Levels, new: Levels) -> tuple[list[Any], Ints, Ints]:
    """Counts by level in both samples; levels too rare to be tested alone go into one cell.

    Which levels are rare depends on both samples together, so it cannot be chosen in favour
    of a result.  The cell of the rare ones stands last, under the label ``None``.
    """
    n, m = old.size, new.size
    both = {x: old.counts.get(x, 0) + new.counts.get(x, 0) for x in {**old.counts, **new.counts}}
    least = _EXPECTED * (n + m) / min(n, m)
    kept: list[Any] = [level for level, count in both.items() if count >= least]
    kept.sort(key=lambda level: -both[level])
    a = [old.counts.get(level, 0) for level in kept]
    b = [new.counts.get(level, 0) for level in kept]
    rest = (n - sum(a), m - sum(b))
    if kept and 0 < sum(rest) < least:
        # Too few to stand alone even together: they join the rarest level.
        a[-1], b[-1] = a[-1] + rest[0], b[-1] + rest[1]
    elif sum(rest):
        kept, a, b = [*kept, None], [*a, rest[0]], [*b, rest[1]]
    return kept, np.array(a, dtype=np.int64), np.array(b, dtype=np.int64)


def _of_levels(
    reference: ReferenceColumn, old: Levels, new: Levels, rules: Rules
) -> list[Evidence]:
    if min(old.size, new.size) < rules.min_rows:
        return [_too_few(old.size, new.size, rules, "values")]
    design = reference.design.get("distribution", 1.0)
    levels, a, b = pooled(old, new)
    if len(levels) > 1 or len({*old.counts, *new.counts}) == 1:
        shares = a / old.size, b / new.size
        reason = _shifted(levels, *shares)
        test = chi_square(a, b, design)
        # Many levels differ by chance alone: chi-square is on average what chance adds to it
        # (its degrees of freedom) and what the change adds, and so is the squared distance.
        chance = (len(levels) - 1) / max(test.statistic, len(levels) - 1, 1)
        distance = float(np.abs(shares[0] - shares[1]).sum() / 2)
        effect = distance * math.sqrt(1.0 - chance)
        first = _evidence("chi2", test, effect, rules.min_effect, reason)
    else:
        count = len({*old.counts, *new.counts})
        first = _inconclusive(
            f"{count} levels, and no two of them frequent enough to be compared: an identifier?"
        )
    return [first, *_new_levels(old, new, design, rules)]


def _shifted(levels: list[Any], before: Any, after: Any) -> str:
    top = int(np.abs(after - before).argmax())
    name = "rare levels" if levels[top] is None else f"{levels[top]!s:.40}"
    return f"{name} {percent(float(before[top]))} -> {percent(float(after[top]))}"


def _new_levels(old: Levels, new: Levels, design: float, rules: Rules) -> list[Evidence]:
    """Levels that the reference does not have.

    The chance that a level with ``c`` rows in both samples together has all of them in
    current, if rows were dealt at random, is exact; summed over all levels as frequent as
    the most frequent new one, it bounds the chance of seeing such a new level at all.
    """
    counts = {level: count for level, count in new.counts.items() if level not in old.counts}
    if not counts:
        return []
    n, m = old.size / design, new.size / design
    most = max(counts.values())
    both = np.array([count + new.counts.get(level, 0) for level, count in old.counts.items()])
    both = np.concatenate((both, list(counts.values())))
    both = both[(both >= most) & (both <= new.size)] / design
    share = sum(counts.values()) / new.size
    names = sorted(counts, key=lambda level: -counts[level])
    shown = ", ".join(f"{level!s:.40}" for level in names[:3])
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    plural = "s" if len(names) > 1 else ""
    return [
        Evidence(
            aspect="levels",
            measure="new",
            statistic=share,
            p_value=_all_in_current(both, n, m),
            effect=share,
            floor=rules.min_new,
            reason=f"new level{plural} {shown}{more} {percent(share)}",
        )
    ]


def _all_in_current(counts: Any, n: float, m: float) -> float:
    from scipy.special import gammaln

    logs = gammaln(n + m - counts + 1) + gammaln(m + 1) - gammaln(m - counts + 1)
    return min(1.0, float(np.exp(logs - gammaln(n + m + 1)).sum()))
