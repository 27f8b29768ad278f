"""The earth mover's distance of two sorted samples, without merging them.

The distance is the area between two distribution functions.  Where one of them lies above
the other all through a stretch, the area is the difference of two integrals, which sums of
the values give; only stretches in which they may cross are looked into value by value.
"""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["sorted_wasserstein"]

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]

_STRETCHES = 16_384
_CHUNK = 1 << 15


def sorted_wasserstein(reference: Floats, current: Floats) -> float:
    """Earth mover's distance of order one, in the units of the data.

    Parameters
    ----------
    reference, current
        Sorted and finite, at least one value each.

    Examples
    --------
    >>> sorted_wasserstein(np.array([0.0, 1.0, 3.0]), np.array([5.0, 6.0, 8.0]))
    5.0
    >>> sorted_wasserstein(np.array([0.0, 2.0]), np.array([1.0]))
    1.0
    """
    with np.errstate(over="ignore", invalid="ignore"):
        if len(reference) == len(current):
            return _paired(reference, current)
        return _by_stretches(reference, current)


def _paired(x: Floats, y: Floats) -> float:
    """Samples of one size: the ranks are paired."""
    parts = range(0, len(x), _CHUNK)
    return sum(float(np.abs(x[i : i + _CHUNK] - y[i : i + _CHUNK]).sum()) for i in parts) / len(x)


def _by_stretches(x: Floats, y: Floats) -> float:
    n, m = len(x), len(y)
    inner = x[:: max(1, n // _STRETCHES)]
    edges = np.unique(np.concatenate((inner, x[-1:], y[:1], y[-1:])))
    if len(edges) < 2:
        return 0.0
    below, beneath = np.searchsorted(x, edges, "right"), np.searchsorted(y, edges, "right")
    never_under = below[:-1] * m >= beneath[1:] * n
    never_over = below[1:] * m <= beneath[:-1] * n
    closed = never_under | never_over
    areas = _area(x, edges, below) / n - _area(y, edges, beneath) / m
    total = float(np.abs(areas[closed]).sum())
    opened = np.flatnonzero(~closed)
    # Some stretches at a time: of samples that hardly differ, most have to be looked into.
    at_once = max(1, _CHUNK * len(closed) // (n + m))
    for start in range(0, len(opened), at_once):
        total += _crossing(x, y, edges, (below, beneath), opened[start : start + at_once])
    return total


def _area(values: Floats, edges: Floats, upto: Ints) -> Floats:
    """Area under the counts of ``values`` between neighbouring edges."""
    held = np.diff(upto)
    sums = np.zeros(len(held))
    # Stretches are neighbours: each sum ends where the next that holds a value begins.
    some = np.flatnonzero(held)
    if len(some):
        sums[some] = np.add.reduceat(values, upto[:-1][some])
    return upto[:-1] * np.diff(edges) + (held * edges[1:] - sums)


def _crossing(x: Floats, y: Floats, edges: Floats, upto: tuple[Ints, Ints], opened: Ints) -> float:
    inside = [
        values[counts[i] : counts[i + 1]]
        for values, counts in ((x, upto[0]), (y, upto[1]))
        for i in opened.tolist()
    ]
    points = np.sort(np.concatenate((*inside, edges[opened], edges[opened + 1])), kind="stable")
    # Between two open stretches lies one that has been counted.
    mine = np.searchsorted(edges, points[:-1], "right") - 1
    here = np.isin(mine, opened)
    gaps = np.searchsorted(x, points[:-1], "right") / len(x)
    gaps -= np.searchsorted(y, points[:-1], "right") / len(y)
    return float((np.abs(gaps) * np.diff(points))[here].sum())
