"""Two columns counted in the same cells: how far apart are they, and how sure is that?

Between two ends of cells the distribution functions are known only to rise.  So the truth
lies between what is found at the ends and the most that the counts allow in between: both
are exact, and the difference is the bound that is stated.
"""

from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from prodml.drift.cells import Cells, merged, of_first, steps

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
    if reference.marks is None and current.marks is None and reference.shift == current.shift:
        return _plain_gap(reference, current)
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


def _plain_gap(a: Cells, b: Cells) -> CellGap:
    """The same for cells of one width, without sorting the codes of both together."""
    n, m = a.size, b.size
    beside = b.codes.searchsorted(a.codes, "right")
    below, beneath = a.upto(a.codes), of_first(b.upto(b.codes), beside)
    under, beyond = a.upto(b.codes), b.upto(b.codes)
    below, beneath, under, beyond = (
        _whole(counts, n * m) for counts in (below, beneath, under, beyond)
    )
    at_a, at_b = np.abs(below * m - beneath * n), np.abs(under * m - beyond * n)
    i, j = int(at_a.argmax()), int(at_b.argmax())
    if at_a[i] >= at_b[j]:
        best, place = int(at_a[i]), (int(a.codes[i]), int(below[i]), int(beneath[i]))
    else:
        best, place = int(at_b[j]), (int(b.codes[j]), int(under[j]), int(beyond[j]))
    shared = b.codes[beside - 1] == a.codes
    open_cells = np.flatnonzero(shared & ~(a.single(a.codes) & b.single(a.codes)))
    below, beneath, beside = below[open_cells], beneath[open_cells], beside[open_cells] - 1
    most = np.maximum(
        below * m - (beneath - b.counts[beside]) * n,
        beneath * n - (below - a.counts[open_cells]) * m,
    )
    bound = max(0, int(most.max(initial=0)) - best) / (n * m)
    return CellGap(best, bound, place[0], place[1] / n, place[2] / m)


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
    places: list[Floats] = []
    error = 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        for cells in (reference, current):
            low, high = cells.spans()
            half = (high - low) / 2
            error += float((half * cells.counts).sum()) / cells.size
            places.append(low + half)
        points = np.concatenate(places)
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
