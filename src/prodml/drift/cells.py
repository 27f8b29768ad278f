"""Counts of a numeric column by cell: small, mergeable, and the same on every machine.

Everything kept is a whole number or an extreme, so states add up in any order to the same
bits.  Nothing is dropped without being counted: a row holds a finite number, or it is
infinite, missing, or of a wrong type.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, TypeVar, cast

import numpy as np
import numpy.typing as npt

from prodml.drift.counting import tallied
from prodml.drift.layout import BITS, CELLS, PARTS, Layout
from prodml.errors import BadConfiguration

__all__ = ["Cells", "merged"]

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]

T = TypeVar("T")

_NO_INTS: Ints = np.empty(0, dtype=np.int64)
_EXACT_WHOLE = 256


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cells:
    """A numeric column as counts by code of a :class:`Layout`.

    Parameters
    ----------
    layout
        Where the cells lie.  Only states of one layout can be added or compared.
    codes, counts
        Occupied codes, ascending, and the finite values in each.
    rows, missing, invalid
        All rows; those without a value; those with a value that is no number.
    above, below
        Rows with ``inf`` and ``-inf``.
    fractional
        Rows with a finite number that is not whole.
    minimum, maximum
        Of the finite numbers, exact; NaN where there are none.
    shift
        Low bits of the cells that were dropped to save room: cells are ``2 ** shift``
        times wider.
    marks
        Codes up to which the counts are right, where only counts at edges are known
        (see :meth:`at_edges`); None where they are right everywhere.
    temporal
        Whether the numbers are points in time, in seconds.

    Examples
    --------
    >>> layout = Layout(centre=0.0, scale=1.0)
    >>> monday = Cells.of([1.0, 2.0, np.nan], layout)
    >>> tuesday = Cells.of([-0.5, np.inf], layout)
    >>> both = monday + tuesday
    >>> both.rows, both.size, both.missing, both.infinite, both.minimum, both.maximum
    (5, 3, 1, 1, -0.5, 2.0)
    >>> both == tuesday + monday == Cells.of([np.inf, 2.0, -0.5, np.nan, 1.0], layout)
    True
    """

    layout: Layout
    codes: Ints = field(default_factory=_NO_INTS.copy)
    counts: Ints = field(default_factory=_NO_INTS.copy)
    rows: int = 0
    missing: int = 0
    invalid: int = 0
    above: int = 0
    below: int = 0
    fractional: int = 0
    minimum: float = math.nan
    maximum: float = math.nan
    shift: int = 0
    marks: Ints | None = None
    temporal: bool = False
    _size: int = field(default=0, init=False, repr=False)
    _upto: Ints | None = field(default=None, init=False, repr=False)
    _spans: tuple[Floats, Floats] | None = field(default=None, init=False, repr=False)
    _middles: Floats | None = field(default=None, init=False, repr=False)
    _moments: tuple[float, ...] = field(default=(), init=False, repr=False)
    _beside: tuple[Any, Any] | None = field(default=None, init=False, repr=False)
    _quantiles: dict[float, float] = field(
        default_factory=dict[float, float], init=False, repr=False
    )

    def __post_init__(self) -> None:
        # Counts by hand may be of numpy, whose products overflow.
        size = int(self.rows - self.missing - self.invalid - self.above - self.below)
        object.__setattr__(self, "_size", size)

    @classmethod
    def of(
        cls, values: npt.ArrayLike, layout: Layout | None = None, *, whole: bool = True
    ) -> "Cells":
        """Count ``values``; NaN is missing.  Without a layout, that of the values.

        ``whole=False`` does not look for whole numbers, and takes all to be fractional.

        Time and memory do not depend on how the values are spread: a third of a
        millisecond for 100,000 values, and 5 MB for any number.
        """
        # Not ``ravel``, which copies a column of a matrix.
        flat = np.asarray(values).reshape(-1)
        if flat.dtype.kind not in "fiu":
            flat = flat.astype(np.float64)
        layout = Layout.of(flat) if layout is None else layout
        return cls(layout=layout, **tallied(flat, layout, whole=whole))

    @classmethod
    def at_edges(
        cls,
        layout: Layout,
        edges: npt.ArrayLike,
        at_or_below: Sequence[int] | Ints,
        **exact: Any,
    ) -> "Cells":
        """A state from counts that a database or an engine made: rows with ``x <= edge``.

        Parameters
        ----------
        edges
            Some of :meth:`edges` of a reference of this layout, ascending.
        at_or_below
            Finite values at or below each edge.
        exact
            ``rows``, ``missing``, ``above``, ``below``, ``minimum``, ... as above.

        Raises
        ------
        BadConfiguration
            Counts that fall, or do not fit the rows.

        Examples
        --------
        >>> reference = Cells.of(np.arange(1000.0))
        >>> edges = reference.edges(4)
        >>> x = np.arange(1000.0) + 0.5
        >>> found = Cells.at_edges(
        ...     reference.layout, edges, [int((x <= e).sum()) for e in edges], rows=1000
        ... )
        >>> found.size, found.cumulative(edges).tolist() == [int((x <= e).sum()) for e in edges]
        (1000, True)
        """
        marks = layout.codes(edges)
        empty = cls(layout=layout, **exact)
        upto = np.concatenate(([0], np.asarray(at_or_below, dtype=np.int64), [empty.size]))
        if len(upto) != len(marks) + 2 or (np.diff(upto) < 0).any() or (np.diff(marks) <= 0).any():
            raise BadConfiguration(
                f"at_or_below must rise with the edges, one count each, to {empty.size} at most"
            )
        counts, codes = np.diff(upto), np.append(marks, CELLS << BITS)
        some = counts > 0
        return replace(empty, codes=codes[some], counts=counts[some], marks=marks)

    @property
    def size(self) -> int:
        """Rows that hold a finite number."""
        return self._size

    @property
    def infinite(self) -> int:
        """Rows that hold an infinity."""
        return self.above + self.below

    @property
    def mean(self) -> float:
        """Mean of the finite numbers, at most ``errors[0]`` off."""
        return self._four()[0]

    @property
    def std(self) -> float:
        """Standard deviation (dividing by n), at most ``errors[1]`` off."""
        return self._four()[1]

    @property
    def errors(self) -> tuple[float, float]:
        """Bounds of the errors of :attr:`mean` and :attr:`std`.

        Half the width of the cells that the values lie in: on average, and root mean square.
        """
        return self._four()[2], self._four()[3]

    def __add__(self, other: "Cells") -> "Cells":
        """Both together; the order never matters.

        Raises
        ------
        BadConfiguration
            Other cells: another layout, or times and numbers.
        """
        if self.layout != other.layout or (self.temporal != other.temporal and self and other):
            raise BadConfiguration(
                f"only counts of one layout add up, not {self.layout} and {other.layout}: "
                f"fit all parts with the layouts of the first"
            )
        shift = max(self.shift, other.shift)
        mine, theirs = self.coarser(shift), other.coarser(shift)
        codes = merged(mine.codes, theirs.codes)
        counts = np.zeros(len(codes), dtype=np.int64)
        for part in (mine, theirs):
            counts[np.searchsorted(codes, part.codes)] += part.counts
        return Cells(
            layout=self.layout,
            codes=codes,
            counts=counts,
            shift=shift,
            marks=_common_marks(mine, theirs),
            minimum=_extreme(min, self.minimum, other.minimum),
            maximum=_extreme(max, self.maximum, other.maximum),
            temporal=self.temporal or other.temporal,
            **{name: getattr(self, name) + getattr(other, name) for name in ADDED},
        )

    def __bool__(self) -> bool:
        return self.rows > 0

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Cells):
            return NotImplemented
        return _plain(self) == _plain(other)

    def __hash__(self) -> int:
        return hash((self.layout, self.rows, self.missing))

    def coarser(self, shift: int) -> "Cells":
        """The same counts in cells ``2 ** shift`` times wider; points stay apart.

        Examples
        --------
        >>> fine = Cells.of([1.0, 1.01, 1.02], Layout())
        >>> len(fine.codes), len(fine.coarser(4).codes)
        (3, 1)
        """
        more = shift - self.shift
        if more <= 0:
            return self
        wide = self._wider(self.codes, more)
        starts = np.flatnonzero(np.diff(wide, prepend=-1))
        codes, counts = wide[starts], np.add.reduceat(self.counts, starts) if len(starts) else wide
        marks = self.marks
        if marks is not None:
            # Only a mark at the end of a wide cell is still the end of one.
            ends = self._wider(marks, more)
            marks = ends[self._wider(marks + PARTS, more) != ends]
        return replace(self, codes=codes, counts=counts, shift=shift, marks=marks)

    def _wider(self, codes: Ints, more: int, since: int | None = None) -> Ints:
        cell, part = codes >> BITS, codes & (PARTS - 1)
        owners = self.layout.point_cells >> (self.shift if since is None else since)
        wide = cell >> more
        before = np.searchsorted(owners, cell, "left") - np.searchsorted(
            owners >> more, wide, "left"
        )
        return np.asarray(wide * PARTS + 2 * before + part)

    def codes_of(self, values: npt.ArrayLike) -> Ints:
        """Codes of ``values`` in these cells."""
        codes = self.layout.codes(values)
        return self._wider(codes, self.shift, since=0) if self.shift else codes

    def upto(self, codes: Ints) -> Ints:
        """Values with at most each code."""
        return self._running()[self.codes.searchsorted(codes, "right")]

    def _running(self) -> Ints:
        """Values before the first of the occupied codes, and with at most each of them."""
        running = self._upto
        if running is None:
            running = np.zeros(len(self.counts) + 1, dtype=np.int64)
            self.counts.cumsum(out=running[1:])
            object.__setattr__(self, "_upto", running)
        return running

    def _with(self, other: "Cells", find: Callable[["Cells", "Cells"], T]) -> T:
        """``find(other, self)``, found once for the ``other`` that was asked for last."""
        kept = self._beside
        if kept is None or kept[0] is not other:
            kept = other, find(other, self)
            object.__setattr__(self, "_beside", kept)
        return cast("T", kept[1])

    def cumulative(self, edges: npt.ArrayLike) -> Ints:
        """Values at or below each edge, exact where the edge ends a cell.

        Any other edge counts as the end of its cell.

        Examples
        --------
        >>> Cells.of([1.0, 2.0, 2.0, 3.0]).cumulative([0.0, 2.0, 9.0]).tolist()
        [0, 3, 4]
        """
        return self.upto(self.codes_of(edges))

    def quantile(self, share: float) -> float:
        """About the smallest value with at least ``share`` of the values at or below it.

        Within a cell the values are taken to be spread evenly: the error is at most its
        width, and there is none at points of the layout and at whole numbers near it.

        Examples
        --------
        >>> cells = Cells.of(np.arange(101.0))
        >>> cells.quantile(0.5), cells.quantile(0.25)
        (50.0, 25.0)
        """
        return self.quantiles((share,))[0]

    def quantiles(self, shares: Sequence[float]) -> tuple[float, ...]:
        """:meth:`quantile` of each share.

        Examples
        --------
        >>> Cells.of(np.arange(101.0)).quantiles((0.5, 0.25))
        (50.0, 25.0)
        """
        new = [share for share in shares if share not in self._quantiles]
        if new:
            self._quantiles.update(zip(new, self._found(new), strict=True))
        return tuple(self._quantiles[share] for share in shares)

    def _found(self, shares: Sequence[float]) -> list[float]:
        ranks = [max(1, math.ceil(share * self.size)) for share in shares]
        places = self._running().searchsorted(ranks, "left") - 1
        low, high = (ends[places].tolist() for ends in self.spans())
        before, held = self._running()[places].tolist(), self.counts[places].tolist()
        return [
            a + (b - a) * ((rank - 0.5 - under) / count)
            for rank, a, b, under, count in zip(ranks, low, high, before, held, strict=True)
        ]

    def interval(self, share: float) -> tuple[float, float]:
        """Between which values the quantile lies for certain."""
        rank = max(1, math.ceil(share * self.size))
        at = int(np.searchsorted(self._running(), rank, "left")) - 1
        low, high = self.spans()
        return float(low[at]), float(high[at])

    def edges(self, k: int = 100, *, outer: bool = False) -> Floats:
        """About ``k`` ends of cells at the quantiles, for counts that others make.

        Ascending; points of the layout (what lies below, and at, each) and the range are
        among them.  Give the counts of ``x <= edge`` to :meth:`at_edges`.

        With ``outer``, only the quantiles: upper ends of ``k`` parts of about equal share,
        the last of them open.  Where a tie fills the first, what lies below gets its own.

        Examples
        --------
        >>> edges = Cells.of(np.linspace(0.0, 1.0, 1000)).edges(10)
        >>> 10 <= len(edges) <= 16
        True
        """
        codes = self._edge_codes(k, outer=outer)
        if self.shift:
            # A wide cell ends where its last narrow one does; points are no wider than ever.
            codes = self._last_of(codes)
        edges = np.unique(self.layout.upper(codes))
        return edges[np.isfinite(edges)]

    def _edge_codes(self, k: int, *, outer: bool) -> Ints:
        if not self.size:
            return _NO_INTS.copy()
        ranks = np.ceil(np.arange(1, k) * self.size / k)
        chosen = self.codes[np.searchsorted(self._running(), ranks, "left") - 1]
        ends = self.codes[[0, -1]]
        if outer:
            first = ends[:1] - 1 if chosen[0] == ends[0] else ends[:0]
            return np.unique(np.concatenate((first, chosen)))
        points = self.codes_of(self.layout.points)
        return np.unique(np.concatenate((chosen, points - 1, points, ends - [1, 0])))

    def _last_of(self, codes: Ints) -> Ints:
        """The last code without a shift that belongs to each of ``codes``."""
        cell, part = codes >> BITS, codes & (PARTS - 1)
        owners = self.layout.point_cells >> self.shift
        first, after = np.searchsorted(owners, cell, "left"), np.searchsorted(owners, cell, "right")
        at = first + part // 2
        ahead = at < after
        own = self.layout.point_cells[at.clip(0, len(owners) - 1)]
        before = np.searchsorted(self.layout.point_cells, own, "left")
        upto_point = own * PARTS + 2 * (at - before) + part % 2
        return np.where(ahead, upto_point, ((cell + 1) << self.shift) * PARTS - 1)

    def spans(self, codes: Ints | None = None) -> tuple[Floats, Floats]:
        """Between which values those of each code lie; without codes, of those occupied.

        Within the range, and at whole numbers if all are and the cells are fine enough.
        """
        if codes is not None:
            return self._spans_of(codes)
        spans = self._spans
        if spans is None:
            spans = self._spans_of(self.codes)
            object.__setattr__(self, "_spans", spans)
        return spans

    def _spans_of(self, codes: Ints) -> tuple[Floats, Floats]:
        low, high = self.layout.spans(codes, self.shift)
        if self.marks is not None and len(self.marks):
            # What lies between two marks may lie anywhere between them.
            before = np.searchsorted(self.marks, codes, "left")
            ends = self.layout.spans(self.marks, self.shift)[1]
            low = np.where(before > 0, ends[(before - 1).clip(0)], -np.inf)
        if self.size:
            np.minimum(np.maximum(low, self.minimum, out=low), self.maximum, out=low)
            np.minimum(np.maximum(high, self.minimum, out=high), self.maximum, out=high)
        if single_whole(self):
            nearest = np.where(low >= self.layout.centre, low, high)
            near = near_whole(self.layout, codes)
            low, high = np.where(near, nearest, low), np.where(near, nearest, high)
        return low, high

    def _middle(self) -> Floats:
        """The middle of the span of each occupied code; may overflow."""
        middles = self._middles
        if middles is None:
            low, high = self.spans()
            middles = low + (high - low) / 2
            object.__setattr__(self, "_middles", middles)
        return middles

    def _four(self) -> tuple[float, ...]:
        """Mean and standard deviation, and the bounds of their errors."""
        if not self._moments:
            object.__setattr__(self, "_moments", self._computed_moments())
        return self._moments

    def _computed_moments(self) -> tuple[float, ...]:
        if not self.size or self.marks is not None:
            return (math.nan,) * 4
        low, high = self.spans()
        with np.errstate(over="ignore", invalid="ignore"):
            middle, half = self._middle(), (high - low) / 2
            weights = self.counts / self.size
            mean = float((weights * middle).sum())
            apart = middle - mean
            apart *= apart
            apart *= weights
            weights *= half
            off = float(weights.sum())
            weights *= half
        return mean, math.sqrt(float(apart.sum())), off, math.sqrt(float(weights.sum()))


ADDED: tuple[str, ...] = (
    "rows",
    "missing",
    "invalid",
    "above",
    "below",
    "fractional",
)
"""What of a state is counted, beside the cells."""


def single_whole(cells: Cells) -> bool:
    """Whether whole numbers near the centre have a cell each."""
    fine = cells.fractional == cells.shift == 0 and cells.marks is None
    return fine and cells.layout.centre % 1 == 0


def near_whole(layout: Layout, codes: Ints) -> npt.NDArray[np.bool_]:
    """Which codes lie so near the centre that a whole number has a cell for itself."""
    # Eight bits of the fraction tell whole numbers apart up to 2 ** 8.
    reach = layout.cells(layout.centre + np.array([-_EXACT_WHOLE, _EXACT_WHOLE]))
    cell = codes >> BITS
    return np.asarray((cell > reach[0]) & (cell < reach[1]))


def steps(running: Ints) -> Ints:
    """What was added at each place of a running sum."""
    # Not ``np.diff(..., prepend=0)``, which takes four times as long.
    added = running.copy()
    added[1:] -= running[:-1]
    return added


def merged(a: Ints, b: Ints) -> Ints:
    """What is in either of two ascending arrays, once."""
    both = np.sort(np.concatenate((a, b)), kind="stable")
    return np.asarray(both[np.diff(both, prepend=-1) != 0])


def _common_marks(a: Cells, b: Cells) -> Ints | None:
    if a.marks is None or b.marks is None:
        return b.marks if a.marks is None else a.marks
    return np.intersect1d(a.marks, b.marks)


def _extreme(which: Any, a: float, b: float) -> float:
    if math.isnan(a) or math.isnan(b):
        return b if math.isnan(a) else a
    return float(which(a, b))


def _plain(cells: Cells) -> tuple[Any, ...]:
    marks = None if cells.marks is None else cells.marks.tolist()
    extremes = repr((cells.minimum + 0.0, cells.maximum + 0.0))
    counted = [getattr(cells, name) for name in ADDED]
    return (
        cells.layout,
        cells.codes.tolist(),
        cells.counts.tolist(),
        counted,
        extremes,
        cells.shift,
        marks,
        cells.temporal,
    )
