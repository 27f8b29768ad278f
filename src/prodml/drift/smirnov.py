"""The two-sample Kolmogorov-Smirnov statistic and its distribution, from sorted samples.

Everything is counted in whole numbers: ``n * m`` times the largest gap between the two
empirical distribution functions.  No rounding can turn a gap into a tie.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = [
    "ROUNDING",
    "Gap",
    "exact_tail",
    "largest_gap",
    "limit_tail",
    "rounding_of",
    "tail",
    "tolerant_gap",
]

Floats = npt.NDArray[np.float64]

# Cells into which the reference is cut before any value of the sample is looked at alone.
_CELLS = 4096
_AT_ONCE = 1 << 16
# The exact distribution is counted while the smaller sample and the lattice are small; by
# then the limit is within a few per cent, on the side of fewer alarms.
_EXACT_SMALLER = 200
_EXACT_LATTICE = 4_000_000
ROUNDING: float = float(np.finfo(np.float32).eps)
"""Differences that single precision cannot hold are rounding, not drift."""
# What is left of double precision after long sums.
_DOUBLE = 2.0**-32
_SOME = 256


class Gap(NamedTuple):
    """The largest gap: ``lattice / (n * m)`` of the rows, at ``at``."""

    lattice: int
    at: float
    reference_share: float
    current_share: float


def largest_gap(reference: Floats, current: Floats) -> Gap:
    """Where the distribution functions of two sorted, non-empty samples lie furthest apart.

    The gap is known at some edges; between two of them it is bounded by the counts on both
    sides, and only the cells whose bound beats the best edge are looked into.

    Examples
    --------
    >>> largest_gap(np.array([1.0, 2.0, 3.0]), np.array([2.5, 3.5, 4.5]))
    Gap(lattice=6, at=2.0, reference_share=0.6666666666666666, current_share=0.0)
    """
    n, m = len(reference), len(current)
    step = max(1, n // _CELLS)
    edges = reference[step - 1 :: step]
    below = np.concatenate(([0], np.searchsorted(reference, edges, "right"), [n]))
    beneath = np.concatenate(([0], np.searchsorted(current, edges, "right"), [m]))
    best = int(np.abs(below * m - beneath * n).max())
    bound = np.maximum(below[1:] * m - beneath[:-1] * n, beneath[1:] * n - below[:-1] * m)
    found: list[Gap] = []
    opened = np.flatnonzero(bound >= max(best, 1))
    # Some cells at a time: of samples that hardly differ, all have to be looked into.
    for start in range(0, len(opened), step := max(1, _AT_ONCE * len(bound) // (n + m))):
        cells = opened[start : start + step]
        for values, counts in ((reference, below), (current, beneath)):
            parts = [values[counts[i] : counts[i + 1]] for i in cells.tolist()]
            points = np.concatenate(parts)
            if len(points):
                found.append(_gap_at(reference, current, points))
    found.append(_gap_at(reference, current, edges[-1:]))
    return max(found, key=lambda gap: gap.lattice)


def _gap_at(reference: Floats, current: Floats, points: Floats) -> Gap:
    """The largest of the gaps at ``points``, which ascend."""
    n, m = len(reference), len(current)
    below = np.searchsorted(reference, points, "right")
    beneath = np.searchsorted(current, points, "right")
    gaps = np.abs(below * m - beneath * n)
    top = int(gaps.argmax())
    return Gap(int(gaps[top]), float(points[top]), int(below[top]) / n, int(beneath[top]) / m)


def rounding_of(reference: Floats, current: Floats) -> float:
    """Relative differences of two sorted samples that are rounding.

    Those of single precision if either sample looks as if it had been through it, by 256 of its
    values; else only those of long sums in double precision: around a billion, a sensor's tenths
    are no rounding.

    Examples
    --------
    >>> rounding_of(np.array([0.5, 0.75]), np.array([0.1])) == ROUNDING
    True
    >>> rounding_of(np.array([1e9 + 0.1]), np.array([1e9 + 0.3])) < ROUNDING
    True
    """
    for values in (reference, current):
        some = values[np.linspace(0, len(values) - 1, _SOME).astype(np.int64)]
        with np.errstate(over="ignore"):
            if (some.astype(np.float32) == some).all():
                return ROUNDING
    return _DOUBLE


def tolerant_gap(reference: Floats, current: Floats, enough: float) -> float:
    """Largest gap, in [0, 1], that remains when rounding is forgiven; see :func:`rounding_of`.

    Stops early with a lower bound of it that is at least ``enough``.

    Examples
    --------
    >>> tolerant_gap(np.ones(50), np.ones(50) + 1e-12, 0.05)
    0.0
    """
    rounding = rounding_of(reference, current)
    at = np.array([largest_gap(reference, current).at])
    quick = _forgiving(reference, current, at, rounding)
    if quick >= enough:
        return quick
    parts = (current[i : i + _AT_ONCE] for i in range(0, len(current), _AT_ONCE))
    return max(quick, *(_forgiving(reference, current, part, rounding) for part in parts))


def _forgiving(reference: Floats, current: Floats, points: Floats, rounding: float) -> float:
    n, m = len(reference), len(current)
    slack = np.abs(points) * rounding
    above = np.searchsorted(current, points, "right") / m
    above = above - np.searchsorted(reference, points + slack, "right") / n
    below = np.searchsorted(reference, points - slack, "left") / n
    below = below - np.searchsorted(current, points, "left") / m
    return max(0.0, float(above.max()), float(below.max()))


def tail(lattice: int, n: int, m: int, design: float = 1.0) -> tuple[float, str]:
    """P(gap >= observed), exact for small samples, and which of the two it is.

    Examples
    --------
    >>> tail(9, 3, 3)[1], tail(9, 3000, 3000)[1]
    ('exact', 'limit')
    """
    if design == 1.0 and min(n, m) <= _EXACT_SMALLER and n * m <= _EXACT_LATTICE:
        return exact_tail(lattice, n, m), "exact"
    return limit_tail(lattice, n, m, design), "limit"


def limit_tail(lattice: int, n: int, m: int, design: float = 1.0) -> float:
    """P(gap >= observed) in the limit of large samples; slightly too large before it.

    ``design`` divides the effective sample size, see :mod:`prodml.drift.blocks`.

    Examples
    --------
    >>> round(limit_tail(60_000, 1000, 1000), 4)
    0.0546
    """
    from scipy.special import kolmogorov

    effective = n * m / (n + m) / design
    return float(kolmogorov(lattice / (n * m) * effective**0.5))


def exact_tail(lattice: int, n: int, m: int) -> float:
    """P(gap >= observed) over all ``n + m`` over ``n`` orders of two samples without ties.

    Lattice paths that leave the band around the diagonal are counted by the step on which
    they first leave it (Hodges 1958), so that nothing cancels and small tails keep their
    digits.  O(min(n, m)) sweeps over the band.

    Examples
    --------
    >>> round(exact_tail(9, 3, 3), 9)
    0.1
    """
    if lattice <= 0:
        return 1.0
    a, b = min(n, m), max(n, m)
    row = np.arange(a + 2)
    low = np.clip((row * b - lattice) // a + 1, 0, b + 1)
    high = np.clip(-((-row * b - lattice) // a) - 1, -1, b)
    left = _log_factorials(a + b)
    paths, scale, tail = np.ones(int(high[0]) + 1), 0.0, 0.0
    for i in range(a + 1):
        lo, hi = int(low[i]), int(high[i])
        weight = scale - left[a + b] + left[a] + left[b]
        if hi < b:
            ways = left[a - i + b - hi - 1] - left[a - i] - left[b - hi - 1]
            tail += _times(paths[-1:], ways + weight)
        if i == a:
            break
        dropped = min(int(low[i + 1]), hi + 1) - lo
        if dropped > 0:
            rest = b - np.arange(lo, lo + dropped)
            ways = left[a - i - 1 + rest] - left[a - i - 1] - left[rest]
            tail += _times(paths[:dropped], ways + weight)
        paths = _next_row(paths, lo, int(low[i + 1]), int(high[i + 1]))
        if not paths.size:
            break
        top = float(paths[-1])
        paths, scale = paths / top, scale + float(np.log(top))
    return min(1.0, tail)


def _next_row(paths: Floats, low: int, new_low: int, new_high: int) -> Floats:
    """Paths to each column of the next row: straight up from this one, then to the right."""
    if new_high < new_low or new_low - low >= len(paths):
        return np.empty(0)
    arrive = np.zeros(new_high - new_low + 1)
    kept = paths[new_low - low :][: len(arrive)]
    arrive[: len(kept)] = kept
    return np.cumsum(arrive)


def _times(paths: Floats, logs: "Floats | float") -> float:
    return float(np.sum(paths * np.exp(logs)))


def _log_factorials(top: int) -> Floats:
    from scipy.special import gammaln

    return np.asarray(gammaln(np.arange(top + 1) + 1.0), dtype=np.float64)
