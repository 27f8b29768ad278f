"""What speaks for drift in a column of levels."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from prodml.drift.categories import g_tail, g_test
from prodml.drift.evidence import (
    Evidence,
    Rules,
    inconclusive,
    nothing_of,
    of_rate,
    percent,
    too_few,
)
from prodml.drift.haldane import chi_square_tail
from prodml.drift.measures import Ints, chi_square
from prodml.drift.sample import Levels, sort_of

__all__ = ["frequent_first", "of_levels", "pooled", "side_by_side"]

# The rule of thumb for the chi-square distribution: this many expected rows in each cell.
_EXPECTED = 5.0


def frequent_first(levels: Iterable[Any], counts: Mapping[Any, int]) -> list[Any]:
    """``levels`` by how frequent they are; of one frequency by name, whichever came first.

    Examples
    --------
    >>> frequent_first(["b", "c", "a"], {"a": 1, "b": 1, "c": 2})
    ['c', 'a', 'b']
    """
    return sorted(levels, key=lambda level: (-counts[level], type(level).__name__, str(level)))


def side_by_side(old: Levels, new: Levels) -> tuple[Levels, Levels]:
    """Both with only those levels listed that can be looked up in the other.

    What a stored count does not list is in its rest, and not gone.  Where current has more
    levels than can be counted at all, that is a finding.

    Examples
    --------
    >>> new = Levels({"a": 5}, 9, rest=4)
    >>> side_by_side(Levels({"a": 5, "b": 4}, 9), new)[0].rest
    4
    """
    return (old if new.uncounted else old.within(new)), new.within(old)


def pooled(old: Levels, new: Levels) -> tuple[list[Any], Ints, Ints]:
    """Counts by level in both samples; levels too rare to be tested alone go into one cell.

    Which levels are rare depends on both samples together, so it cannot be chosen in favour
    of a result.  The cell of the rare ones stands last, under the label ``None``.
    """
    n, m = old.size, new.size
    both = {x: old.counts.get(x, 0) + new.counts.get(x, 0) for x in {**old.counts, **new.counts}}
    least = _EXPECTED * (n + m) / min(n, m)
    kept = frequent_first((level for level, count in both.items() if count >= least), both)
    a = [old.counts.get(level, 0) for level in kept]
    b = [new.counts.get(level, 0) for level in kept]
    rest = (n - sum(a), m - sum(b))
    if kept and 0 < sum(rest) < least:
        # Too few to stand alone even together: they join the rarest level.
        a[-1], b[-1] = a[-1] + rest[0], b[-1] + rest[1]
    elif sum(rest):
        kept, a, b = [*kept, None], [*a, rest[0]], [*b, rest[1]]
    return kept, np.array(a, dtype=np.int64), np.array(b, dtype=np.int64)


def of_levels(
    old: Levels, new: Levels, design: float, rules: Rules, test: str = ""
) -> list[Evidence]:
    """Shares by level, and levels that the reference does not have."""
    if min(old.size, new.size) < rules.min_rows:
        return [too_few(old.size, new.size, rules, "values")]
    listed, new = side_by_side(old, new)
    return [_of_shares(listed, new, design, rules, test), *_new_levels(old, new, design, rules)]


def _of_shares(old: Levels, new: Levels, design: float, rules: Rules, chosen: str) -> Evidence:
    levels, a, b = pooled(old, new)
    count = len({*old.counts, *new.counts})
    if len(levels) < 2 and (count != 1 or old.rest):
        told = f"{count} levels" if count else "too many levels to count"
        return inconclusive(
            f"{told}, and no two of them frequent enough to be compared: an identifier?"
        )
    shares = a / old.size, b / new.size
    by_logs = chosen == "g_test"
    test = g_test(a, b, design) if by_logs else chi_square(a, b, design)
    p_value = test.p_value
    if len(levels) > 1:
        both, sizes = (a + b) / (a + b).sum(), (old.size / design, new.size / design)
        tail = g_tail if by_logs else chi_square_tail
        p_value = tail(test.statistic, both, sizes)
    # Many levels differ by chance alone: chi-square is on average what chance adds to it
    # (its degrees of freedom) and what the change adds, and so is the squared distance.
    chance = (len(levels) - 1) / max(test.statistic, len(levels) - 1, 1)
    distance = float(np.abs(shares[0] - shares[1]).sum() / 2)
    return Evidence(
        aspect="distribution",
        measure="g_test" if by_logs else "chi2",
        statistic=test.statistic,
        p_value=p_value,
        effect=distance * math.sqrt(1.0 - chance),
        floor=rules.min_effect,
        reason=_shifted(levels, *shares),
    )


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
    if old.rest:
        return _unlisted(old, new, design, rules)
    counts = {level: count for level, count in new.counts.items() if level not in old.counts}
    if not counts:
        return [nothing_of("levels", "new", rules.min_new)]
    n, m = old.size / design, new.size / design
    most = max(counts.values())
    both = np.array([count + new.counts.get(level, 0) for level, count in old.counts.items()])
    both = np.concatenate((both, list(counts.values())))
    # Sorted: the sum must not hang on the order in which levels came.
    both = np.sort(both[(both >= most) & (both <= new.size)]) / design
    share = sum(counts.values()) / new.size
    names = frequent_first(counts, counts)
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
            reason=f"{_other_type(old, counts)}new level{plural} {shown}{more} {percent(share)}",
        )
    ]


def _unlisted(old: Levels, new: Levels, design: float, rules: Rules) -> list[Evidence]:
    """Levels beyond those that a stored reference lists: are there more than there were?"""
    found = of_rate("levels", (old.rest, new.rest), (old.size, new.size), design, rules.min_new)
    if found is None or found.statistic <= 0.0:
        return []
    return [replace(found, measure="new")]


def _other_type(old: Levels, counts: dict[Any, int]) -> str:
    before, after = _sorts(old.counts), _sorts(counts)
    if before & after:
        return ""
    return f"type {'/'.join(sorted(before))} -> {'/'.join(sorted(after))}; "


def _sorts(levels: dict[Any, int]) -> set[str]:
    return {sort_of(cls) for cls in set(map(type, levels))}


def _all_in_current(counts: Any, n: float, m: float) -> float:
    from scipy.special import gammaln

    logs = gammaln(n + m - counts + 1) + gammaln(m + 1) - gammaln(m - counts + 1)
    return min(1.0, float(np.exp(logs - gammaln(n + m + 1)).sum()))
