"""Two columns counted in the same cells: how far apart are they, and how sure is that?

Between two ends of cells the distribution functions are known only to rise.  So the truth
lies between what is found at the ends and the most that the counts allow in between: both
are exact, and the difference is the bound that is stated.
"""

from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from prodml.drift.cells import Cells, merged

__all__ = ["CellGap", "cell_gap", "cell_wasserstein"]

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]


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
    codes, below, beneath = _aligned(reference, current)
    n, m = reference.size, current.size
    old, new = np.diff(below, prepend=0), np.diff(beneath, prepend=0)
    gaps = np.abs(below * m - beneath * n)
    top = int(gaps.argmax())
    best = int(gaps[top])
    most = np.maximum(below * m - (beneath - new) * n, beneath * n - (below - old) * m)
    open_cells = (old > 0) & (new > 0) & ~_single(reference, current, codes)
    bound = max(0, int(most[open_cells].max(initial=0)) - best) / (n * m)
    return CellGap(best, bound, int(codes[top]), int(below[top]) / n, int(beneath[top]) / m)


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
        steps = np.concatenate((reference.counts / reference.size, -current.counts / current.size))
        # Two sorted runs: a merge sort sees them.
        order = np.argsort(points, kind="stable")
        apart = np.abs(np.cumsum(steps[order]))[:-1]
        return float((apart * np.diff(points[order])).sum()), error


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
    last_of_its_kind = np.flatnonzero(np.diff(codes, append=-1))
    below = np.cumsum(np.concatenate((a.counts, np.zeros_like(b.counts)))[order])
    beneath = np.cumsum(np.concatenate((np.zeros_like(a.counts), b.counts))[order])
    return codes[last_of_its_kind], below[last_of_its_kind], beneath[last_of_its_kind]


def _single(reference: Cells, current: Cells, codes: Ints) -> npt.NDArray[np.bool_]:
    if reference.marks is None and current.marks is None and reference.shift == current.shift:
        return reference.single(codes) & current.single(codes)
    if reference.marks is None and current.marks is None:
        return np.asarray(codes & 1 == 1)
    # Between two marks lies one value if the first ends just below a point of the layout.
    before = np.concatenate(([-1], codes[:-1]))
    return np.asarray((codes & 1 == 1) & (before == codes - 1))
