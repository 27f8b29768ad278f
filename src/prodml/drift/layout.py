"""Where the cells of a column lie: the top sixteen bits of a float, seen from its middle.

A value is centred, divided by a power of two near the spread, and cast to single precision;
the sign, the exponent and the first seven bits of the fraction number its cell.  Cells are
0.8 % wide, measured from the centre: nothing is fitted at the edges, no outlier can squash
them, and one pair of numbers describes all 65,000 of them.

A value that very many rows share (zero, a cap, a sentinel) would lie in its cell with
strangers.  Such values are *points* of the layout: each is a cell of its own, and so is the
centre.  Points also divide a cell that would hold very many rows: a second mode far away.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from prodml.errors import BadConfiguration

__all__ = ["BITS", "CELLS", "PARTS", "ZERO", "Layout"]

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]

CELLS: int = 1 << 16
"""Cells in the order of their values; some hold infinities and NaN, and stay empty."""
BITS: int = 6
PARTS: int = 1 << BITS
"""Codes a cell: a point of the layout divides its cell into below, at and above."""
ZERO: int = 1 << 15
"""The cell of the centre: nothing else lies in it."""

LOWEST, HIGHEST = 0x0080, 0xFF7F
_MOST_ATOMS = 24
_MOST_TIES = 16
_HEAVY = 1 / 256
_FULL = 1 / 64
_SAMPLE = 1 << 16
_REACH = 1000
_MAX = float(np.finfo(np.float64).max)
_FAR = 1e250
_SIGN = np.uint64(1 << 63)
_PLACES = np.arange(1, 32, dtype=np.uint64)


@dataclass(frozen=True, slots=True)
class Layout:
    """Cells of one column: ``(value - centre) / scale`` as a float, cut to sixteen bits.

    Parameters
    ----------
    centre
        Where cells are finest: the median.
    scale
        A power of two near the spread, so that dividing by it rounds nothing.
    atoms
        Up to 24 values, each of which becomes a cell of its own and divides the one it
        lies in.

    Raises
    ------
    BadConfiguration
        A value is not finite, ``scale`` is no power of two, or there are too many atoms.

    Examples
    --------
    >>> layout = Layout.of(np.array([1.0, 2.0, 3.0, 4.0, 5.0]))
    >>> layout.centre, layout.scale
    (3.0, 2.0)
    >>> codes = layout.codes(np.array([2.99, 3.0, 3.01]))
    >>> (np.diff(codes) > 0).all()
    np.True_
    """

    centre: float = 0.0
    scale: float = 1.0
    atoms: tuple[float, ...] = ()
    points: Floats = field(init=False, repr=False, compare=False)
    point_cells: Ints = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check(self)
        # -0.0 and 0.0 are one value; sorted, so that equal layouts compare equal.
        centre = float(self.centre) + 0.0
        atoms = tuple(sorted({float(a) + 0.0 for a in self.atoms} - {centre}))
        points = np.array(sorted({*atoms, centre}))
        object.__setattr__(self, "centre", centre)
        object.__setattr__(self, "scale", float(self.scale))
        object.__setattr__(self, "atoms", atoms)
        object.__setattr__(self, "points", points)
        object.__setattr__(self, "point_cells", self.cells(points))

    @classmethod
    def of(cls, values: npt.ArrayLike) -> "Layout":
        """Layout for ``values``: median, spread, and what more than one row in 256 shares.

        Beyond 65,536 values only as many, evenly spaced, are looked at.  A layout decides
        how finely is counted, never whether it is right.

        Examples
        --------
        >>> Layout.of([0.0] * 60 + [0.5] * 40 + [np.nan]).atoms
        (0.5,)
        """
        flat = np.asarray(values).reshape(-1)
        seen = flat[:: max(1, -(-flat.size // _SAMPLE))].astype(np.float64)
        seen = np.sort(seen[np.isfinite(seen)])
        if not seen.size:
            return cls()
        n = seen.size
        centre = float(seen[(n - 1) // 2])
        plain = cls(centre, _power(_spread(seen, centre)), _heavy(seen, centre))
        return cls(centre, plain.scale, (*plain.atoms, *_cuts(plain, seen)))

    def cells(self, values: Floats) -> Ints:
        """Cell of each finite value, from 0x0080 to 0xFF7F, in the order of the values.

        Examples
        --------
        >>> Layout().cells(np.array([-1e308, -0.0, 0.0, 1e308])).tolist()
        [128, 32768, 32768, 65407]
        """
        with np.errstate(over="ignore", under="ignore"):
            apart = np.asarray(values, dtype=np.float64) - self.centre
            single = (apart * (1.0 / self.scale)).astype(np.float32)
        # Sign, exponent and seven bits: as whole numbers, negative ones fall with their size.
        high = single.view(np.int32) >> 16
        # Only the centre lies in its cell; what is merely very near goes to the next.
        upper = np.maximum(high + ZERO, ZERO + (apart > 0.0))
        cells = np.where(apart < 0.0, ~high, upper)
        return np.minimum(np.maximum(cells, LOWEST), HIGHEST)

    def codes(self, values: npt.ArrayLike) -> Ints:
        """Cell and part of each finite value as one number, in the order of the values.

        Without a point in the cell the code is ``PARTS`` times the cell.

        Examples
        --------
        >>> (Layout(0.0, 1.0, (1.0,)).codes([0.999, 1.0, 1.001]) % PARTS).tolist()
        [0, 1, 2]
        """
        flat = np.asarray(values, dtype=np.float64)
        cells = self.cells(flat)
        if not self.atoms:
            return np.asarray(cells * PARTS + (flat == self.centre))
        first = np.searchsorted(self.point_cells, cells, "left")
        below = np.searchsorted(self.points, flat, "left")
        upto = np.searchsorted(self.points, flat, "right")
        return np.asarray(cells * PARTS + (below - first) + (upto - first))

    def upper(self, codes: npt.ArrayLike) -> Floats:
        """The largest float with at most each code: ``x <= edge`` cuts exactly there.

        Any engine that compares doubles gets the same counts from it.

        Examples
        --------
        >>> layout = Layout(0.1, 0.25, (0.3,))
        >>> codes = layout.codes([-5.0, 0.0, 0.1, 0.3, 77.0])
        >>> edges = layout.upper(codes)
        >>> beyond = layout.codes(np.nextafter(edges, 9e9))
        >>> (layout.codes(edges) == codes).all(), (beyond > codes).all()
        (np.True_, np.True_)
        """
        flat = np.asarray(codes, dtype=np.int64)
        wanted = flat.reshape(-1, 1)
        low = np.full(wanted.shape, _ordered(-math.inf))
        high = np.full(wanted.shape, _ordered(math.inf))
        # A 32nd of the distance at a time, in the order of all floats, until neighbours are left.
        while (high - low > 1).any():
            width = (high - low + np.uint64(31)) >> np.uint64(5)
            values = _floats(np.minimum(low + width * _PLACES, high))
            inside = np.isfinite(values)
            fits = np.where(inside, self.codes(np.where(inside, values, 0.0)) <= wanted, values < 0)
            low = low + width * fits.sum(axis=1, keepdims=True).astype(np.uint64)
            high = np.minimum(low + width, high)
        return _floats(low).reshape(flat.shape)

    def spans(self, codes: Ints, shift: int = 0) -> tuple[Floats, Floats]:
        """About where the values of each code lie: from, to.

        Examples
        --------
        >>> layout = Layout()
        >>> low, high = layout.spans(layout.codes([1.0, -1.0]))
        >>> low.tolist(), high.tolist()
        ([1.0, -1.0078125], [1.0078125, -1.0])
        """
        cell = codes >> BITS
        low, high = self._edge(cell << shift, 0), self._edge(cell << shift, 1 << shift)
        owners = self.point_cells >> shift
        owned = (np.isin(cell, owners) if len(owners) > 1 else cell == owners).nonzero()[0]
        if len(owned):
            low[owned], high[owned] = self._divided(
                cell[owned], codes[owned] & (PARTS - 1), shift, low[owned], high[owned]
            )
        return low, high

    def _divided(
        self, cell: Ints, part: Ints, shift: int, low: Floats, high: Floats
    ) -> tuple[Floats, Floats]:
        """Spans of parts of cells that points divide."""
        first = np.searchsorted(self.point_cells >> shift, cell, "left")
        before, after = first + ((part - 1) >> 1), first + ((part + 1) >> 1)
        points = np.concatenate((self.points, [math.inf]))
        own = np.concatenate((self.point_cells >> shift, [-1]))
        low = np.where(part > 0, points[before], low)
        divided = (part & 1 == 0) & (own[after.clip(0, len(own) - 1)] == cell)
        high = np.where(divided, points[after.clip(0, len(own) - 1)], high)
        return low, np.where(part & 1 == 1, low, high)

    def _edge(self, cells: Ints, after: int) -> Floats:
        """Where the cell so many after each begins, up to the rounding of single precision."""
        edges = _unit_edges()[after:].take(cells, mode="clip")
        if self.scale < _FAR and abs(self.centre) < _FAR:
            edges *= self.scale
            edges += self.centre
            return edges
        # Only far away can the last cells end beyond all floats.
        with np.errstate(over="ignore"):
            return np.clip(edges * self.scale + self.centre, -_MAX, _MAX)


@lru_cache(maxsize=1)
def _unit_edges() -> Floats:
    """Where each cell begins for centre 0 and scale 1: half a megabyte, made once."""
    cells = np.arange(CELLS + 1)
    up = cells >= ZERO
    high = np.where(up, cells - ZERO, ZERO - cells).clip(0, 0x7F80)
    # What is merely very near the centre lies in the cell after it.
    high[ZERO + 1] = 0
    size = (high.astype(np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)
    return np.where(up, size, -size)


def _check(layout: Any) -> None:
    if not isinstance(layout.atoms, Sequence) or len(layout.atoms) > _MOST_ATOMS:
        raise BadConfiguration(f"atoms must be at most {_MOST_ATOMS} values: {layout.atoms!r}")
    for name, value in (("centre", layout.centre), *(("atoms", a) for a in layout.atoms)):
        if not (isinstance(value, int | float) and math.isfinite(value)):
            raise BadConfiguration(f"{name} must be finite, not {value!r}")
    scale = layout.scale
    whole = isinstance(scale, int | float) and math.isfinite(scale) and scale > 0
    if not whole or math.frexp(scale)[0] != 0.5 or abs(math.frexp(scale)[1]) > _REACH + 1:
        raise BadConfiguration(f"scale must be a power of two, not {scale!r}")


def _spread(ascending: Floats, centre: float) -> float:
    n = ascending.size
    with np.errstate(over="ignore"):
        spread = float(ascending[(3 * n - 1) // 4] - ascending[(n - 1) // 4])
        # Half of the rows are one value: what the others do, or nothing at all.
        return spread or float(np.abs(ascending - centre).mean()) or abs(centre)


def _power(spread: float) -> float:
    exponent = math.frexp(spread)[1] - 1 if 0.0 < spread < math.inf else 0
    return math.ldexp(1.0, min(max(exponent, -_REACH), _REACH))


def _heavy(ascending: Floats, centre: float) -> tuple[float, ...]:
    starts = np.concatenate(([0], np.flatnonzero(ascending[1:] != ascending[:-1]) + 1))
    lengths = np.diff(starts, append=ascending.size)
    heavy = np.flatnonzero(lengths > max(1, ascending.size * _HEAVY))
    whole = bool((np.floor(ascending) == ascending).all())
    # Whole numbers near the centre have cells of their own already.
    found = [
        (-int(lengths[i]), float(ascending[starts[i]]))
        for i in heavy
        if not (whole and abs(float(ascending[starts[i]]) - centre) < 256.0)
    ]
    return tuple(value for _, value in sorted(found)[:_MOST_TIES] if value != centre)


def _cuts(layout: Layout, ascending: Floats) -> tuple[float, ...]:
    """Quantiles inside the fullest cells, as many as there is room for."""
    codes = layout.codes(ascending)
    starts = np.flatnonzero(np.diff(codes, prepend=-1))
    lengths = np.diff(starts, append=codes.size)
    several = codes[starts] & 1 == 0
    # A handful of values says nothing about where the next will lie.
    width, room = max(ascending.size * _FULL, 8.0), _MOST_ATOMS - len(layout.atoms)
    while (wanted := np.where(several, lengths // width, 0).astype(np.int64)).sum() > room:
        width *= 2
    found: set[float] = set()
    for i in np.flatnonzero(wanted):
        parts = np.arange(1, wanted[i] + 1) / (wanted[i] + 1)
        found |= set(ascending[starts[i] + (parts * lengths[i]).astype(np.int64)].tolist())
    return tuple(found)


@lru_cache(maxsize=4)
def _ordered(value: float) -> np.uint64:
    bits = np.float64(value).view(np.uint64)
    return np.uint64(~bits) if bits & _SIGN else np.uint64(bits | _SIGN)


def _floats(ordered: Any) -> Floats:
    bits = np.where(ordered & _SIGN, ordered ^ _SIGN, ~ordered)
    return np.asarray(bits, dtype=np.uint64).view(np.float64)
