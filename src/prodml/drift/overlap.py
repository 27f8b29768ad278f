"""Two columns counted in the same cells: how far apart are they, and how sure is that?

Between two ends of cells the distribution functions are known only to rise.  So the truth
lies between what is found at the ends and the most that the counts allow in between: both
are exact, and the difference is the bound that is stated.
"""

import math
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from prodml.drift.cells import Cells, merged, near_whole, single_whole, steps

__all__ = ["CellGap", "cell_gap", "cell_wasserstein"]

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]

_MOST = 1 << 62


class CellGap(NamedTuple):
    """The largest gap at an end of a cell: ``lattice / (n * m)`` of the rows.

    The largest gap anywhere is at most ``bound`` larger, in [0, 1].  ``code`` is where.
    """

    lattice: int
    bound: float
    code: int
    reference_share: float
    current_share: float


def cell_gap(reference: Cells, current: Cells) -> CellGap:
    """Where the distribution functions of two columns lie furthest apart.

    The bound is nothing where a cell holds one value only, or is empty in one of the
    columns; else it is at most the share of the fullest cell that both share.

    Examples
    --------
    >>> reference = Cells.of(np.arange(1000.0) / 7)
    >>> found = cell_gap(reference, Cells.of(np.arange(1000.0) / 7 + 30, reference.layout))
    >>> round(found.lattice / 1e6, 2), found.bound < 0.01
    (0.21, True)
    """
    if _alike(reference, current):
        return _gap_of(_join(reference, current), reference, current)
    codes, below, beneath = _aligned(reference, current)
    n, m = reference.size, current.size
    below, beneath = (_whole(counts, n * m) for counts in (below, beneath))
    old, new = steps(below), steps(beneath)
    gaps = np.abs(below * m - beneath * n)
    top = int(gaps.argmax())
    best = int(gaps[top])
    most = np.maximum(below * m - (beneath - new) * n, beneath * n - (below - old) * m)
    open_cells = (old > 0) & (new > 0) & ~_single(reference, current, codes)
    bound = max(0, int(most[open_cells].max(initial=0)) - best) / (n * m)
    return CellGap(best, bound, int(codes[top]), int(below[top]) / n, int(beneath[top]) / m)


class _Joined(NamedTuple):
    """The entries of two columns in one order: by code, and the reference first.

    ``running`` is ``n * m`` times the signed gap after each entry, and ``added`` what each
    adds to it.  ``pairs`` are those entries whose code the next one has too.
    """

    codes: Ints
    order: Ints
    added: Ints
    running: Ints
    pairs: Ints


def _alike(reference: Cells, current: Cells) -> bool:
    """Whether the cells of both are the same, and products of their sizes fit 64 bits."""
    plain = reference.marks is None and current.marks is None and reference.shift == current.shift
    return plain and reference.size * current.size < _MOST


def _join(reference: Cells, current: Cells) -> _Joined:
    """Found once for two tests of the same two columns."""
    return current._with(reference, _joined)  # noqa: SLF001


def _middle(cells: Cells) -> Floats:
    return cells._middle()  # noqa: SLF001


def _joined(reference: Cells, current: Cells) -> _Joined:
    both = np.concatenate((reference.codes, current.codes))
    # Two sorted runs: a merge sort sees them.
    order = both.argsort(kind="stable")
    codes = both.take(order)
    weights = reference.counts * current.size, current.counts * -reference.size
    added = np.concatenate(weights).take(order)
    pairs = (codes[1:] == codes[:-1]).nonzero()[0]
    return _Joined(codes, order, added, added.cumsum(), pairs)


def _gap_of(joined: _Joined, reference: Cells, current: Cells) -> CellGap:
    codes, running, pairs = joined.codes, joined.running, joined.pairs
    gaps = np.abs(running)
    # Half of a pair is no end of a cell.
    gaps[pairs] = -1
    top = int(gaps.argmax())
    best, code = int(gaps[top]), codes[top]
    several = pairs[_several(reference, current, codes.take(pairs))]
    # All of one column at the near end of the cell, and all of the other at its far end.
    ahead = joined.added.take(several) - running.take(several + 1)
    most = np.maximum(running.take(several), ahead)
    n, m = reference.size, current.size
    bound = max(0, int(most.max(initial=0)) - best) / (n * m)
    return CellGap(
        best, bound, int(code), int(reference.upto(code)) / n, int(current.upto(code)) / m
    )


def _several(reference: Cells, current: Cells, codes: Ints) -> npt.NDArray[np.bool_]:
    """Which codes of both can hold more than one value."""
    several = np.asarray(codes & 1 == 0)
    if single_whole(reference) and single_whole(current):
        several &= ~near_whole(reference.layout, codes)
    return several


def _whole(counts: Ints, pairs: int) -> Ints:
    """Counts whose products stay whole: beyond 64 bits, as integers of Python."""
    return counts if pairs < _MOST else counts.astype(object)


def cell_wasserstein(reference: Cells, current: Cells) -> tuple[float, float]:
    """Earth mover's distance of values in the middle of their cells, and its error bound.

    Examples
    --------
    >>> reference = Cells.of(np.arange(100.0))
    >>> cell_wasserstein(reference, Cells.of(np.arange(100.0) + 5, reference.layout))
    (5.0, 0.0)
    """
    with np.errstate(over="ignore", invalid="ignore"):
        moved = _moved(reference, current) if _alike(reference, current) else math.nan
        if math.isfinite(moved):
            return moved, reference.errors[0] + current.errors[0]
        return _distance(reference, current)


def _moved(reference: Cells, current: Cells) -> float:
    """The distance, if the entries of both stand in the order of the middles of their spans."""
    joined = _join(reference, current)
    points = np.concatenate((_middle(reference), _middle(current))).take(joined.order)
    widths = points[1:] - points[:-1]
    if (widths < 0.0).any():
        return math.nan
    apart = np.abs(joined.running[:-1])
    return float((apart * widths).sum()) / (reference.size * current.size)


def _distance(reference: Cells, current: Cells) -> tuple[float, float]:
    """The same, whatever is known and wherever in a cell the middle of a span lies."""
    error = 0.0
    for cells in (reference, current):
        low, high = cells.spans()
        error += float(((high - low) / 2 * cells.counts).sum()) / cells.size
    points = np.concatenate((_middle(reference), _middle(current)))
    shares = np.concatenate((reference.counts / reference.size, -current.counts / current.size))
    # Two sorted runs: a merge sort sees them.
    order = points.argsort(kind="stable")
    points = points[order]
    apart = np.abs(shares[order].cumsum()[:-1])
    return float((apart * (points[1:] - points[:-1])).sum()), error


def _aligned(reference: Cells, current: Cells) -> tuple[Ints, Ints, Ints]:
    """All codes, and how much of both has at most each; where marks are, only those."""
    shift = max(reference.shift, current.shift)
    a, b = reference.coarser(shift), current.coarser(shift)
    marks = [cells.marks for cells in (a, b) if cells.marks is not None]
    if marks:
        last = [max(int(x[-1]) for x in (a.codes, b.codes, *marks) if len(x))]
        codes = merged(np.intersect1d(marks[0], marks[-1]), np.array(last))
        return codes, a.upto(codes), b.upto(codes)
    both = np.concatenate((a.codes, b.codes))
    # Two sorted runs: a merge sort sees them.
    order = np.argsort(both, kind="stable")
    codes = both[order]
    differs = np.empty(len(codes), dtype=np.bool_)
    np.not_equal(codes[1:], codes[:-1], out=differs[:-1])
    differs[-1:] = True
    codes = codes[differs]
    return codes, a.upto(codes), b.upto(codes)


def _single(reference: Cells, current: Cells, codes: Ints) -> npt.NDArray[np.bool_]:
    if reference.marks is None and current.marks is None:
        return np.asarray(codes & 1 == 1)
    return _single_between_marks(reference, current, codes)


def _single_between_marks(reference: Cells, current: Cells, codes: Ints) -> npt.NDArray[np.bool_]:
    """Whether no two values fit between the marks: neighbouring floats, or whole numbers."""
    wide = reference if reference.shift > current.shift else current
    ends = wide.layout.upper(wide._last_of(codes) if wide.shift else codes)  # noqa: SLF001
    starts = np.concatenate(([-np.inf], ends[:-1]))
    with np.errstate(over="ignore", invalid="ignore"):
        single = np.nextafter(ends, -np.inf) <= starts
        if reference.fractional == current.fractional == 0:
            single |= np.floor(ends) - np.floor(starts) <= 1.0
    return np.asarray(single)
