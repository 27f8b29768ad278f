"""What speaks for drift in a column of numbers, sorted or counted in cells."""

import math
from dataclasses import replace
from typing import TypeAlias

import numpy as np

from prodml.drift.anderson_darling import anderson_darling
from prodml.drift.cells import Cells
from prodml.drift.cramer_von_mises import cramer_von_mises
from prodml.drift.evidence import (
    Evidence,
    Rules,
    inconclusive,
    nothing_of,
    of_rate,
    percent,
    too_few,
)
from prodml.drift.level import DriftLevel
from prodml.drift.overlap import CellGap, cell_gap
from prodml.drift.sample import Numbers
from prodml.drift.smirnov import Gap, largest_gap, rounding_of, tail, tolerant_gap

__all__ = ["Counted", "always_moves", "of_freshness", "of_numbers"]

Counted: TypeAlias = Numbers | Cells
"""A numeric column in one of its two forms."""


def of_numbers(
    old: Counted, new: Counted, design: float, rules: Rules, test: str = ""
) -> list[Evidence]:
    """Distribution, range, and fractions where all numbers were whole."""
    if min(old.size, new.size) < rules.min_rows:
        return [too_few(old.size, new.size, rules, "numbers")]
    found = [_distribution(old, new, design, rules, test), _beyond(old, new, design, rules)]
    if not old.fractional:
        sizes = old.size, new.size
        hits = (0, _fractions(new))
        fractions = of_rate("fractions", hits, sizes, design, rules.min_effect)
        found += [replace(fractions, aspect="type")] if fractions else []
    return found


def always_moves() -> Evidence:
    """A point in time is compared with nothing: it is later every day."""
    return inconclusive(
        "time always moves: derive what the model uses (an hour, an age), "
        "or set its kind to 'numeric'"
    )


def of_freshness(new: Counted, limit: float, now: float) -> Evidence:
    """Whether the newest time is older than ``limit`` seconds."""
    if not new.size:
        return inconclusive("no time in current: nothing says how fresh it is")
    age = now - new.maximum
    if -age > limit:
        # The year 9999, or local time for UTC, would look fresh for ever.
        return inconclusive(f"newest {-age:.3g} s in the future: nothing says how fresh it is")
    stale = age > limit
    return Evidence(
        aspect="freshness",
        measure="age",
        statistic=age,
        effect=1.0 if stale else 0.0,
        level=DriftLevel.DRIFT if stale else DriftLevel.NONE,
        reason=f"newest {age:.3g} s old, {'more than' if stale else 'within'} {limit:.3g} s",
    )


def _distribution(old: Counted, new: Counted, design: float, rules: Rules, test: str) -> Evidence:
    gap = _gap(old, new)
    n, m = old.size, new.size
    statistic = gap.lattice / (n * m)
    p_value, _ = tail(gap.lattice, n, m, design)
    found = Evidence(
        aspect="distribution",
        measure="ks",
        statistic=statistic,
        p_value=p_value,
        effect=statistic,
        floor=rules.min_effect,
        bound=gap.bound if isinstance(gap, CellGap) else 0.0,
    )
    if test in _TESTS and isinstance(old, Numbers) and isinstance(new, Numbers):
        # The size stays the largest change of a share, in which all effects are told.
        other, p_value = _tested(test, old, new, design)
        found = replace(found, measure=test, statistic=other, p_value=p_value)
    bound = found.bound
    if bound > rules.min_effect / 2 and statistic < rules.min_effect <= statistic + bound:
        most = math.floor((statistic + bound) * n * m)
        if tail(most, n, m, design)[0] < rules.alpha:
            # Anything may hide in the fullest cell, so "no drift" would be a guess.
            return replace(found, level=DriftLevel.INCONCLUSIVE, reason=_too_coarse(found))
    if p_value >= rules.alpha:
        # No correction makes a p-value smaller, so nobody will ask what moved.
        return found
    return _sized(replace(found, reason=_moved(old, new, gap)), old, new)


_TESTS = {"cramer_von_mises": cramer_von_mises, "anderson_darling": anderson_darling}


def _tested(test: str, old: Numbers, new: Numbers, design: float) -> tuple[float, float]:
    if old.minimum == new.maximum and old.maximum == new.minimum:
        return 0.0, 1.0
    result = _TESTS[test](old.values, new.values, design)
    return result.statistic, result.p_value


def _gap(old: Counted, new: Counted) -> Gap | CellGap:
    if isinstance(old, Numbers) and isinstance(new, Numbers):
        return largest_gap(old.values, new.values)
    assert isinstance(old, Cells)
    assert isinstance(new, Cells)
    return cell_gap(old, new)


def _place(old: Counted, gap: Gap | CellGap) -> float:
    """At which value the gap is the largest."""
    if isinstance(gap, Gap):
        return gap.at
    assert isinstance(old, Cells)
    return float(old.spans(np.array([gap.code]))[1][0])


def _too_coarse(found: Evidence) -> str:
    most = found.statistic + found.bound
    return (
        f"cells too coarse: ks lies between {found.statistic:.3g} and {most:.3g}; "
        f"fit the reference again, or exactly"
    )


def _sized(found: Evidence, old: Counted, new: Counted) -> Evidence:
    """Differences that are rounding have no size; cells cannot see them."""
    if not (isinstance(old, Numbers) and isinstance(new, Numbers)) or found.effect < found.floor:
        return found
    kept = tolerant_gap(old.values, new.values, found.floor)
    if kept >= found.floor:
        return found
    reason = f"differences within rounding ({found.reason})"
    return replace(found, effect=kept, reason=reason)


def _moved(old: Counted, new: Counted, gap: Gap | CellGap) -> str:
    before, after = old.quantile(0.5), new.quantile(0.5)
    spread = old.quantile(0.75) - old.quantile(0.25)
    was, now, at = (_figure(value, spread) for value in (before, after, _place(old, gap)))
    middle = f"median {was} -> {now}"
    if 0.0 < spread < math.inf:
        middle = f"median {(after - before) / spread:+.2f} IQR ({was} -> {now})"
    shares = f"{percent(gap.reference_share)} -> {percent(gap.current_share)}"
    return f"{middle}; at most {at}: {shares}"


def _figure(value: float, spread: float) -> str:
    """``value`` with four digits, or with those that tell it from another a spread away."""
    size = abs(value)
    more = math.log10(size) - math.log10(spread) - 1.0 if 0.0 < spread < size else 0.0
    return f"{value:.{4 + int(min(max(0.0, more), 13.0))}g}"


def _beyond(old: Counted, new: Counted, design: float, rules: Rules) -> Evidence:
    """Values beyond the range of the reference.

    If rows were dealt at random, the chance that the ``k`` largest of both samples together
    are all in current is a product of ``k`` shares; so on the other side.
    """
    under, over = _outside(old, new)
    if not under and not over:
        return nothing_of("range", "beyond", rules.min_new)
    n, m = old.size / design, new.size / design
    share = (under + over) / new.size
    p_value = min(1.0, 2.0 * min(_extremes(k / design, n, m) for k in (under, over)))
    span = old.maximum - old.minimum
    ends = (old.minimum, old.maximum, new.minimum, new.maximum)
    low, high, first, last = (_figure(value, span) for value in ends)
    return Evidence(
        aspect="range",
        measure="beyond",
        statistic=share,
        p_value=p_value,
        effect=share,
        floor=rules.min_new,
        reason=f"beyond {low} to {high}: {percent(share)}, {first} to {last}",
    )


def _outside(old: Counted, new: Counted) -> tuple[int, int]:
    """Values of current below, and above, the range; of cells, those in cells beyond it."""
    if isinstance(old, Numbers) and isinstance(new, Numbers):
        rounding = rounding_of(old.values, new.values)
        low = old.minimum - abs(old.minimum) * rounding
        high = old.maximum + abs(old.maximum) * rounding
        return int(np.searchsorted(new.values, low)), new.size - int(new.cumulative(high))
    assert isinstance(old, Cells)
    assert isinstance(new, Cells)
    first, last = old.coarser(new.shift).codes[[0, -1]]
    upto = new.coarser(old.shift).upto(np.array([first - 1, last]))
    return int(upto[0]), new.size - int(upto[1])


def _fractions(new: Counted) -> int:
    """Numbers that are not whole; of a sorted sample, by more than rounding."""
    if isinstance(new, Cells) or not new.fractional:
        return new.fractional
    off = np.abs(new.values - np.rint(new.values))
    return int(np.count_nonzero(off > np.abs(new.values) * rounding_of(new.values, new.values)))


def _extremes(k: float, n: float, m: float) -> float:
    from scipy.special import gammaln

    # One by one: arrays of two cost more than four logarithms.
    logs = gammaln(m + 1.0) + gammaln(n + m - k + 1.0)
    logs -= gammaln(m - k + 1.0) + gammaln(n + m + 1.0)
    return min(1.0, math.exp(float(logs)))
