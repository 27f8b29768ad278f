"""Counting values into cells: a cast, a look at the bits, one count of small numbers."""

import math
import sys
import threading
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from prodml.drift.layout import BITS, CELLS, PARTS, ZERO, Layout

__all__ = ["count_fractional", "mean_and_std", "tallied", "tallied_together"]

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]

# Small enough that a chunk stays in the cache through all the passes over it.
_CHUNK = 1 << 15
# Rows of a matrix that are turned into columns at a time.
_ROWS = 512
_HIGH = 1 if sys.byteorder == "little" else 0
# Where single precision has what is special, as its sign and exponent number it.
_STRIP = 8
_LAST, _INF, _NEGATIVE = 0x7F7F, 0x7F80, 0x8000


class _Space(threading.local):
    """Memory that a thread uses over and over: fresh pages cost more than the counting."""

    def __init__(self) -> None:
        self.counts: Ints = np.zeros(CELLS, dtype=np.int64)
        # Not so after a count that somebody interrupted.
        self.clean: bool = True
        self.values: Floats = np.empty(_CHUNK)
        self.apart: Floats = np.empty(_CHUNK)
        self.single: npt.NDArray[np.float32] = np.empty(_CHUNK, dtype=np.float32)
        self.index: npt.NDArray[np.intp] = np.empty(_CHUNK, dtype=np.intp)
        self.mask: npt.NDArray[np.bool_] = np.empty(_CHUNK, dtype=np.bool_)

    def cleared(self) -> Ints:
        """Counters at zero; set ``clean`` when they are so again."""
        if not self.clean:
            self.counts.fill(0)
        self.clean = False
        return self.counts


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
    tally = _Tally(layout, _SPACE.cleared(), whole=whole)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        for start in range(0, len(values), _CHUNK):
            tally.add(values[start : start + _CHUNK])
    reach = _settled([tally])
    found = tally.result(*_occupied(tally.raw, reach)[0])
    tally.raw.reshape(2, -1)[:, : reach << _STRIP] = 0
    _SPACE.clean = True
    return found


def tallied_together(
    rows: npt.NDArray[Any], places: Sequence[int], layouts: Sequence[Layout], whole: Sequence[bool]
) -> list[dict[str, Any]]:
    """:func:`tallied` of some columns of a matrix that is stored row by row, in one pass.

    A row's numbers come into the cache together, so reading each column by itself would
    fetch all of them over and over.  Takes 400 kB a column for a while.

    Examples
    --------
    >>> x = np.array([[1.0, 4.0], [2.0, np.nan], [3.0, 6.0]])
    >>> [found["missing"] for found in tallied_together(x, [0, 1], [Layout()] * 2, [True] * 2)]
    [0, 1]
    """
    chosen: Any = list(places)
    if chosen == list(range(chosen[0], chosen[-1] + 1)):
        # Not copied before they are turned.
        chosen = slice(chosen[0], chosen[-1] + 1)
    # Half of the memory is a quarter of a millisecond less to clear.
    counts = np.zeros((len(layouts), CELLS), np.int32 if len(rows) < 1 << 31 else np.int64)
    tallies = [
        _Tally(layout, raw, whole=look)
        for layout, raw, look in zip(layouts, counts, whole, strict=True)
    ]
    turned = np.empty((len(layouts), min(_CHUNK, len(rows))))
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        for start in range(0, len(rows), _CHUNK):
            block = rows[start : start + _CHUNK]
            for first in range(0, len(block), _ROWS):
                part = block[first : first + _ROWS]
                turned[:, first : first + len(part)] = part.T[chosen]
            for tally, column in zip(tallies, turned, strict=True):
                tally.add(column[: len(block)])
    found = _occupied(counts, _settled(tallies))
    return [tally.result(*of) for tally, of in zip(tallies, found, strict=True)]


def _settled(tallies: "list[_Tally]") -> int:
    """How many strips of each sign hold all that was counted, after it is put right."""
    for tally in tallies:
        tally.settle()
    with np.errstate(over="ignore"):
        farthest = np.array([tally.farthest() for tally in tallies]).astype(np.float32)
    return 1 + (int(farthest.view(np.uint32).max()) >> (16 + _STRIP))


def _occupied(counts: npt.NDArray[Any], reach: int) -> list[tuple[Ints, Ints]]:
    """Occupied cells, ascending, and their counts, by column; beyond ``reach`` is nothing."""
    # Most strips are empty, and all of a strip are looked at together.
    strips = counts.reshape(-1, _NEGATIVE >> _STRIP, 1 << _STRIP)
    held = np.bitwise_or.reduce(strips[:, :reach], axis=2).nonzero()
    few = strips[held].reshape(-1)
    held = held[0] * strips.shape[1] + held[1]
    some = np.flatnonzero(few != 0)
    found = few[some].astype(np.int64)
    index = some + ((held - np.arange(len(held))) << _STRIP)[some >> _STRIP]
    ends = index.searchsorted(np.arange(0, counts.size + 1, ZERO)).tolist()
    index &= CELLS - 1
    cells = np.where(index < ZERO, index + ZERO, CELLS - 1 - index)
    # Negative numbers stand after the positive ones of their column, the largest last.
    return [
        (_turned(cells, *bounds), _turned(found, *bounds))
        for bounds in zip(ends[:-2:2], ends[1:-1:2], ends[2::2], strict=True)
    ]


def _turned(values: Ints, first: int, split: int, end: int) -> Ints:
    return np.concatenate((values[split:end][::-1], values[first:split]))


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
    """Counters of one column while it is read, chunk by chunk.

    ``raw`` counts by the upper sixteen bits of single precision: signs and sizes as they
    stand there, so the negative numbers come last and rise with their size.
    """

    def __init__(self, layout: Layout, raw: npt.NDArray[Any], *, whole: bool) -> None:
        self.layout: Layout = layout
        self.whole: bool = whole
        self.inverse: float = 1.0 / layout.scale
        self.raw: npt.NDArray[Any] = raw
        self.one: Any = raw.dtype.type(1)
        self.others: list[float] = [x for x in layout.points.tolist() if x != layout.centre]
        self.under: list[int] = [0] * len(self.others)
        self.at: list[int] = [0] * len(self.others)
        self.rows: int = 0
        self.above: int = 0
        self.below: int = 0
        self.fractional: int = 0
        self.centred: int = 0
        self.zeros: int = 0
        self.near: int = 0
        self.low: float = math.inf
        self.high: float = -math.inf

    def add(self, chunk: npt.NDArray[Any]) -> None:
        n = len(chunk)
        values, index = chunk, _SPACE.index[:n]
        if chunk.dtype != np.float64 or not chunk.flags.c_contiguous:
            values = _SPACE.values[:n]
            np.copyto(values, chunk)
        apart, single = _SPACE.apart[:n], _SPACE.single[:n]
        np.subtract(values, self.layout.centre, out=apart)
        if self.inverse != 1.0:
            np.multiply(apart, self.inverse, out=apart)
        np.copyto(single, apart, casting="same_kind")
        np.copyto(index, single.view(np.uint16)[_HIGH::2])
        np.add.at(self.raw, index, self.one)
        self.rows += n
        centred = int(self.raw[0] + self.raw[_NEGATIVE])
        if centred != self.centred:
            self._tell_apart(values, index, centred - self.centred)
            self.centred = centred
        self._measure(values, whole=chunk.dtype.kind in "iub")

    def _tell_apart(self, values: Floats, index: npt.NDArray[np.intp], held: int) -> None:
        """Only the centre lies in its cell; what is merely very near goes to the next."""
        centre, mask = self.layout.centre, _SPACE.mask[: len(values)]
        zeros = int(np.count_nonzero(np.equal(values, centre, out=mask)))
        self.zeros += zeros
        if zeros < held:
            close = values[index & (_NEGATIVE - 1) == 0]
            self.near += int(np.count_nonzero(close > centre))

    def _measure(self, values: Floats, *, whole: bool) -> None:
        low, high = float(np.minimum.reduce(values)), float(np.maximum.reduce(values))
        if not math.isfinite(low - high):
            values = self._finite(values)
            low = float(np.minimum.reduce(values, initial=math.inf))
            high = float(np.maximum.reduce(values, initial=-math.inf))
        self.low, self.high = min(self.low, low), max(self.high, high)
        if self.whole and not whole:
            self.fractional += _fractional(values)
        mask = _SPACE.mask[: len(values)]
        for i, point in enumerate(self.others):
            under = int(np.count_nonzero(np.less(values, point, out=mask)))
            self.under[i] += under
            self.at[i] += int(np.count_nonzero(np.less_equal(values, point, out=mask))) - under

    def _finite(self, values: Floats) -> Floats:
        self.above += int(np.count_nonzero(values == math.inf))
        self.below += int(np.count_nonzero(values == -math.inf))
        return values[np.isfinite(values)]

    def result(self, cells: Ints, counts: Ints) -> dict[str, Any]:
        size = int(counts.sum())
        codes, found = cells << BITS, counts
        # The centre is a point, alone in its cell.
        codes[cells == ZERO] += 1
        if self.others:
            codes, found = self._divided(codes, cells, counts)
        return {
            "codes": codes,
            "counts": found,
            "rows": self.rows,
            "missing": self.rows - size - self.above - self.below,
            "above": self.above,
            "below": self.below,
            "fractional": self.fractional if self.whole else size,
            "minimum": self.low + 0.0 if size else math.nan,
            "maximum": self.high + 0.0 if size else math.nan,
        }

    def farthest(self) -> float:
        """How far from the centre the counted numbers lie, in units of the scale."""
        centre = self.layout.centre
        return max(centre - self.low, self.high - centre, 0.0) * self.inverse

    def settle(self) -> None:
        """Put right what single precision cannot tell."""
        raw = self.raw
        for last, infinite in ((_LAST, self.above), (_LAST + _NEGATIVE, self.below)):
            # Finite numbers too large for single precision belong to the last cells.
            raw[last] += raw[last + 1] - infinite
            raw[last + 1 : last + 129] = 0
        if self.centred:
            raw[0], raw[1] = self.zeros, raw[1] + self.near
            raw[_NEGATIVE] = self.centred - self.zeros - self.near

    def _divided(self, codes: Ints, cells: Ints, counts: Ints) -> tuple[Ints, Ints]:
        """Codes and counts; cells of points are split into below, at and above each."""
        owners = np.unique(self.layout.cells(np.array(self.others)))
        upto = np.concatenate(([0], np.cumsum(counts)))
        split: dict[int, int] = {}
        for cell in owners.tolist():
            before = int(upto[np.searchsorted(cells, cell)])
            held, part = _held(cells, counts, cell), 0
            for under, at in self._points_in(cell):
                split[cell * PARTS + part], split[cell * PARTS + part + 1] = under - before, at
                held -= under - before + at
                before, part = under + at, part + 2
            split[cell * PARTS + part] = held
        rest = np.isin(cells, owners, invert=True)
        parts = np.array([code for code, held in split.items() if held], dtype=np.int64)
        codes = np.concatenate((codes[rest], parts))
        found = np.concatenate((counts[rest], [split[code] for code in parts.tolist()]))
        order = np.argsort(codes, kind="stable")
        return codes[order], found[order].astype(np.int64)

    def _points_in(self, cell: int) -> list[tuple[int, int]]:
        """Values under, and at, each point of a cell."""
        owners = self.layout.cells(np.array(self.others))
        return [(self.under[i], self.at[i]) for i in np.flatnonzero(owners == cell)]


def _held(cells: Ints, counts: Ints, cell: int) -> int:
    at = int(np.searchsorted(cells, cell))
    return int(counts[at]) if at < len(cells) and cells[at] == cell else 0
