"""What validation refused or repaired is part of how the data moved."""

from collections import Counter
from typing import TYPE_CHECKING

from prodml.drift.evidence import Evidence, Rules, percent
from prodml.drift.measures import rate_change

if TYPE_CHECKING:
    from prodml.validation import SchemaStats

__all__ = ["of_breaches"]

_NONE: Counter[str] = Counter()


def of_breaches(
    name: str, reference: "SchemaStats", current: "SchemaStats", rules: Rules
) -> list[Evidence]:
    """Whether the share of rows that break a rule of the schema changed, rule by rule.

    Rows that were clipped or imputed look like good ones, and rows that were refused are not
    there at all: only the counters still know.

    Examples
    --------
    >>> from prodml.validation import SchemaStats
    >>> rules = Rules(alpha=0.05, min_effect=0.05, min_new=0.01, min_rows=30)
    >>> fine = SchemaStats(rows=1000)
    >>> today = SchemaStats(rows=200, breaches={("age", "range", "clip"): 40})
    >>> of_breaches("age", fine, today, rules)[0].reason
    'breaks range 0 % -> 20 % (clip)'
    """
    if min(reference.rows, current.rows) < rules.min_rows:
        return []
    old, new = _by_rule(name, reference), _by_rule(name, current)
    # Shares of nulls are counted by batch, not by row.
    return [
        _evidence(rule, old.get(rule, _NONE), new.get(rule, _NONE), (reference, current), rules)
        for rule in sorted({*old, *new} - {"null_share"})
    ]


def _by_rule(name: str, stats: "SchemaStats") -> dict[str, Counter[str]]:
    found: dict[str, Counter[str]] = {}
    for (field, rule, action), count in stats.breaches.items():
        if field == name:
            found.setdefault(rule, Counter())[action] += count
    return found


def _evidence(
    rule: str,
    old: Counter[str],
    new: Counter[str],
    stats: "tuple[SchemaStats, SchemaStats]",
    rules: Rules,
) -> Evidence:
    (n, m), (before, after) = (one.rows for one in stats), (old.total(), new.total())
    test = rate_change(before, n, after, m)
    done = ", ".join(sorted(new)) or "none now"
    return Evidence(
        aspect="validation",
        measure="rate",
        statistic=test.statistic,
        p_value=test.p_value,
        effect=abs(test.statistic),
        floor=rules.min_effect,
        reason=f"breaks {rule} {percent(before / n)} -> {percent(after / m)} ({done})",
    )
