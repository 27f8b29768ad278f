"""Counting values into cells: a cast, a look at the bits, one count of small numbers."""

import math
import sys
import threading
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from prodml.drift.layout import CELLS, HIGHEST, LOWEST, PARTS, ZERO, Layout

__all__ = ["count_fractional", "mean_and_std", "tallied"]

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]

# Small enough that a chunk stays in the cache through all the passes over it.
_CHUNK = 1 << 14
_HIGH = 1 if sys.byteorder == "little" else 0
_INF = HIGHEST + 1
_MINUS_INF = LOWEST - 1


class _Space(threading.local):
    """Memory that a thread uses over and over: fresh pages cost more than the counting."""

    def __init__(self) -> None:
        self.counts: Ints = np.zeros(CELLS, dtype=np.int64)
        self.values: Floats = np.empty(_CHUNK)
        self.apart: Floats = np.empty(_CHUNK)
        self.single: npt.NDArray[np.float32] = np.empty(_CHUNK, dtype=np.float32)
        self.index: npt.NDArray[np.intp] = np.empty(_CHUNK, dtype=np.intp)
        self.mask: npt.NDArray[np.bool_] = np.empty(_CHUNK, dtype=np.bool_)


_SPACE = _Space()


def tallied(values: npt.NDArray[Any], layout: Layout, *, whole: bool = True) -> dict[str, Any]:
    """Counts of one-dimensional numbers, as :class:`~prodml.drift.cells.Cells` has them.

    Not ``whole``, nobody looks whether numbers are whole: all count as fractional.

    Examples
    --------
    >>> found = tallied(np.array([1.0, -1.0, np.nan, np.inf]), Layout())
    >>> found["rows"], found["missing"], found["above"]
    (4, 1, 1)
    """
    tally = _Tally(layout, look=whole and values.dtype.kind not in "iub")
    for start in range(0, len(values), _CHUNK):
        tally.add(values[start : start + _CHUNK])
    found = tally.result(values)
    return found if whole else found | {"fractional": int(found["counts"].sum())}


def count_fractional(values: npt.NDArray[Any]) -> int:
    """How many of the finite ``values`` are not whole.

    Examples
    --------
    >>> count_fractional(np.array([1.0, 1.5, -2.0]))
    1
    """
    if values.dtype.kind in "iub":
        return 0
    parts = (values[i : i + _CHUNK] for i in range(0, len(values), _CHUNK))
    return sum(_fractional(part) for part in parts)


def mean_and_std(values: Floats) -> tuple[float, float]:
    """Mean, and standard deviation dividing by n, without a second copy of the values.

    Examples
    --------
    >>> mean_and_std(np.array([1.0, 3.0]))
    (2.0, 1.0)
    """
    if not values.size:
        return math.nan, math.nan
    with np.errstate(over="ignore", invalid="ignore"):
        # Not ``@``: the threads of a linear algebra library wait for busy cores.
        mean, total = float(values.mean()), 0.0
        if not math.isfinite(mean):
            # The sum of finite numbers may be none.
            mean = float((values / values.size).sum())
        for start in range(0, len(values), _CHUNK):
            part = values[start : start + _CHUNK]
            apart = np.subtract(part, mean, out=_SPACE.apart[: len(part)])
            total += float(np.multiply(apart, apart, out=apart).sum())
    return mean, math.sqrt(total / values.size)


def _fractional(part: npt.NDArray[Any]) -> int:
    n = len(part)
    floor = np.trunc(part, out=_SPACE.apart[:n])
    return int(np.count_nonzero(np.not_equal(floor, part, out=_SPACE.mask[:n])))


class _Tally:
    """Counters of one column while it is read, chunk by chunk."""

    def __init__(self, layout: Layout, *, look: bool) -> None:
        self.layout: Layout = layout
        self.look: bool = look
        self.inverse: float = 1.0 / layout.scale
        # Signs and sizes as the bits have them: the negative cells stand last, reversed.
        self.raw: Ints = _SPACE.counts
        if self.raw.any():
            # Somebody interrupted the count before this one.
            self.raw.fill(0)
        self.others: list[float] = [x for x in layout.points.tolist() if x != layout.centre]
        self.under: list[int] = [0] * len(self.others)
        self.at: list[int] = [0] * len(self.others)
        self.rows: int = 0
        self.fractional: int = 0
        self.low: float = math.inf
        self.high: float = -math.inf

    def add(self, chunk: npt.NDArray[Any]) -> None:
        n = len(chunk)
        values, apart, single = chunk, _SPACE.apart[:n], _SPACE.single[:n]
        if chunk.dtype != np.float64 or not chunk.flags.c_contiguous:
            values = _SPACE.values[:n]
            np.copyto(values, chunk)
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            np.subtract(values, self.layout.centre, out=apart)
            np.multiply(apart, self.inverse, out=single, casting="unsafe")
        index = _SPACE.index[:n]
        np.copyto(index, single.view(np.uint16)[_HIGH::2])
        np.add.at(self.raw, index, 1)
        self.rows += n
        low, high = float(values.min()), float(values.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            values = values[np.isfinite(values)]
            if not len(values):
                return
            low, high = float(values.min()), float(values.max())
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._measure(values)

    def _measure(self, finite: Floats) -> None:
        if self.look:
            self.fractional += _fractional(finite)
        mask = _SPACE.mask[: len(finite)]
        for i, point in enumerate(self.others):
            under = int(np.count_nonzero(np.less(finite, point, out=mask)))
            self.under[i] += under
            self.at[i] += int(np.count_nonzero(np.less_equal(finite, point, out=mask))) - under

    def result(self, values: npt.NDArray[Any]) -> dict[str, Any]:
        cells, counts = self._occupied()
        specials = (cells < LOWEST) | (cells > HIGHEST)
        above = below = missing = 0
        if specials.any():
            above, below = (int(np.count_nonzero(values == x)) for x in (np.inf, -np.inf))
            missing = int(counts[specials].sum())
            # Finite numbers too large for single precision belong to the last cells.
            over = _held(cells, counts, _INF) - above, _held(cells, counts, _MINUS_INF) - below
            missing -= above + below + sum(over)
            cells, counts = cells[~specials], counts[~specials]
            cells, counts = _raised(cells, counts, {HIGHEST: over[0], LOWEST: over[1]})
        if _held(cells, counts, ZERO - 1) or _held(cells, counts, ZERO):
            cells, counts = self._centre_apart(cells, counts, values)
        codes, found = self._by_code(cells, counts)
        some = bool(len(codes))
        return {
            "codes": codes,
            "counts": found,
            "rows": self.rows,
            "missing": missing,
            "above": above,
            "below": below,
            "fractional": self.fractional,
            "minimum": self.low + 0.0 if some else math.nan,
            "maximum": self.high + 0.0 if some else math.nan,
        }

    def _occupied(self) -> tuple[Ints, Ints]:
        """Occupied cells, ascending, and their counts; the counters are left at zero."""
        held = np.flatnonzero(self.raw != 0)
        counts = self.raw[held]
        self.raw[held] = 0
        # The bits of negative numbers stand last and rise with their size.
        split = int(np.searchsorted(held, ZERO))
        cells = np.concatenate((CELLS - 1 - held[split:][::-1], held[:split] + ZERO))
        return cells, np.concatenate((counts[split:][::-1], counts[:split]))

    def _centre_apart(
        self, cells: Ints, counts: Ints, values: npt.NDArray[Any]
    ) -> tuple[Ints, Ints]:
        """Only the centre stays in its cell; what is merely very near goes to the next."""
        zeros = int(np.count_nonzero(values == self.layout.centre))
        both = _held(cells, counts, ZERO - 1), _held(cells, counts, ZERO)
        near, above = sum(both) - zeros, 0
        if near:
            finite = values[np.isfinite(values)].astype(np.float64)
            above = int(np.count_nonzero(self.layout.cells(finite) == ZERO + 1))
            above -= _held(cells, counts, ZERO + 1)
        extra = {ZERO - 1: near - above - both[0], ZERO: zeros - both[1], ZERO + 1: above}
        return _raised(cells, counts, extra)

    def _by_code(self, cells: Ints, counts: Ints) -> tuple[Ints, Ints]:
        """Codes and counts; cells of points are split into below, at and above each."""
        owners = np.unique(self.layout.point_cells)
        upto = np.concatenate(([0], np.cumsum(counts)))
        split: dict[int, int] = {}
        for cell in owners.tolist():
            before = int(upto[np.searchsorted(cells, cell)])
            held, part = _held(cells, counts, cell), 0
            for under, at in self._points_in(cell, before, held):
                split[cell * PARTS + part], split[cell * PARTS + part + 1] = under - before, at
                held -= under - before + at
                before, part = under + at, part + 2
            split[cell * PARTS + part] = held
        others = np.isin(cells, owners, invert=True) if len(owners) > 1 else cells != owners[0]
        parts = np.array([code for code, held in split.items() if held], dtype=np.int64)
        codes = np.concatenate((cells[others] * PARTS, parts))
        found = np.concatenate((counts[others], [split[code] for code in parts.tolist()]))
        order = np.argsort(codes, kind="stable")
        return codes[order], found[order].astype(np.int64)

    def _points_in(self, cell: int, before: int, held: int) -> list[tuple[int, int]]:
        """Values under, and at, each point of a cell."""
        if cell == ZERO:
            return [(before, held)]
        owners = self.layout.cells(np.array(self.others))
        return [(self.under[i], self.at[i]) for i in np.flatnonzero(owners == cell)]


def _held(cells: Ints, counts: Ints, cell: int) -> int:
    at = int(np.searchsorted(cells, cell))
    return int(counts[at]) if at < len(cells) and cells[at] == cell else 0


def _raised(cells: Ints, counts: Ints, more: dict[int, int]) -> tuple[Ints, Ints]:
    """Counts raised by ``more``; cells that are left empty go."""
    every = np.union1d(cells, np.array(list(more)))
    total = np.zeros(len(every), dtype=np.int64)
    total[np.searchsorted(every, cells)] = counts
    for cell, extra in more.items():
        total[np.searchsorted(every, cell)] += extra
    return every[total > 0], total[total > 0]
