"""What is kept of one column: its sorted numbers, or the counts of its levels.

Every row is accounted for: it holds a number (or a level), or it is missing, infinite, or
of the wrong type.  Nothing is dropped without being counted.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import lru_cache
from numbers import Real
from typing import Any, Literal, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from prodml.drift.cells import Cells
from prodml.drift.counting import count_fractional, mean_and_std
from prodml.drift.layout import Layout
from prodml.drift.table import Column, Counted
from prodml.errors import BadConfiguration
from prodml.types import is_missing

__all__ = [
    "KINDS",
    "MOST_LEVELS",
    "Kind",
    "Levels",
    "Numbers",
    "cells_of",
    "floats_of",
    "kind_of",
    "levels_of",
    "numbers_of",
    "sort_of",
]

Floats: TypeAlias = npt.NDArray[np.float64]
Kind: TypeAlias = Literal["numeric", "categorical", "time"]
KINDS: tuple[Kind, ...] = ("numeric", "categorical", "time")

MOST_LEVELS: int = 1 << 18
"""Levels that added states count at most: beyond, a column is an identifier."""

_NONE: Floats = np.empty(0)
_LONGEST = 80
_CODES = 1 << 16


@dataclass(frozen=True, slots=True)
class Numbers:
    """A numeric column.  ``values`` are finite and ascending; ``fractional`` of them are not
    whole, and ``above`` of the infinite ones are positive.

    Examples
    --------
    >>> numbers = numbers_of([3, 1.5, None, float("inf"), "n/a"])
    >>> numbers.values.tolist(), numbers.missing, numbers.infinite, numbers.invalid
    ([1.5, 3.0], 1, 1, 1)
    """

    values: Floats
    rows: int
    missing: int = 0
    infinite: int = 0
    invalid: int = 0
    temporal: bool = False
    fractional: int = 0
    above: int = 0
    mean: float = field(init=False)
    std: float = field(init=False)

    def __post_init__(self) -> None:
        mean, std = mean_and_std(self.values)
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "std", std)

    @property
    def size(self) -> int:
        """Rows that hold a finite number."""
        return self.values.size

    @property
    def minimum(self) -> float:
        """Smallest value; NaN where there is none."""
        return float(self.values[0]) + 0.0 if self.values.size else math.nan

    @property
    def maximum(self) -> float:
        """Largest value; NaN where there is none."""
        return float(self.values[-1]) + 0.0 if self.values.size else math.nan

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Numbers):
            return NotImplemented
        names = ("rows", "missing", "infinite", "invalid", "temporal", "fractional", "above")
        same = all(getattr(self, name) == getattr(other, name) for name in names)
        return same and np.array_equal(self.values, other.values)

    def __hash__(self) -> int:
        return hash((self.rows, self.missing, self.size))

    def quantile(self, share: float) -> float:
        """Smallest value with at least ``share`` of the values at or below it."""
        # -0.0 and 0.0 are one value, whichever came first.
        return float(self.values[max(0, int(np.ceil(share * self.values.size)) - 1)]) + 0.0

    def quantiles(self, shares: Iterable[float]) -> tuple[float, ...]:
        """:meth:`quantile` of each share."""
        return tuple(map(self.quantile, shares))

    def cumulative(self, edges: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Values at or below each edge."""
        return np.searchsorted(self.values, edges, "right").astype(np.int64)

    def counted(self, layout: Layout) -> Cells:
        """The same column as counts by cell.

        Examples
        --------
        >>> numbers_of([1.0, 2.0, None]).counted(Layout()).size
        2
        """
        found = Cells.of(self.values, layout)
        return replace(
            found,
            rows=self.rows,
            missing=self.missing,
            invalid=self.invalid,
            above=self.above,
            below=self.infinite - self.above,
            temporal=self.temporal,
        )

    def __add__(self, other: "Numbers") -> "Numbers":
        """Both together, sorted: the order never matters."""
        if self.temporal != other.temporal and self.size and other.size:
            raise BadConfiguration("points in time and numbers do not add up")
        names = ("rows", "missing", "infinite", "invalid", "fractional", "above")
        return Numbers(
            # Two sorted runs: a merge sort sees them.
            np.sort(np.concatenate((self.values, other.values)), kind="stable"),
            temporal=self.temporal or other.temporal,
            **{name: getattr(self, name) + getattr(other, name) for name in names},
        )


@dataclass(frozen=True, slots=True)
class Levels:
    """A categorical column; ``rest`` are rows with a level that is not listed.

    Examples
    --------
    >>> levels_of(["a", "b", "a", None])
    Levels(counts={'a': 2, 'b': 1}, rows=4, missing=1, infinite=0, invalid=0, rest=0)
    """

    counts: dict[Any, int]
    rows: int
    missing: int = 0
    infinite: int = field(default=0, init=False)
    invalid: int = field(default=0, init=False)
    rest: int = 0

    @property
    def size(self) -> int:
        """Rows that hold a level."""
        return self.rows - self.missing

    @property
    def uncounted(self) -> bool:
        """Whether there were too many levels to count any: it is an identifier."""
        return self.rest > 0 and not self.counts

    def __add__(self, other: "Levels") -> "Levels":
        """Both together.  Past :data:`MOST_LEVELS` only the rows are counted, in any order."""
        rows, missing = self.rows + other.rows, self.missing + other.missing
        counts = Counter(self.counts)
        # Not ``+``: it drops what is zero, and counts one by one.
        counts.update(other.counts)
        if self.uncounted or other.uncounted or len(counts) > MOST_LEVELS:
            return Levels({}, rows, missing, rest=rows - missing)
        return Levels(dict(counts), rows, missing, rest=self.rest + other.rest)

    def within(self, other: "Levels") -> "Levels":
        """Levels that ``other`` does not list go into the rest, if it has one itself."""
        if not other.rest:
            return self
        listed = {level: self.counts[level] for level in self.counts if level in other.counts}
        return replace(self, counts=listed, rest=self.size - sum(listed.values()))


@lru_cache(maxsize=1024)
def sort_of(cls: type) -> str:
    """What values of a type are: "boolean", "number", "duration", "time", "text" or "other"."""
    if issubclass(cls, bool | np.bool_):
        return "boolean"
    if issubclass(cls, timedelta | np.timedelta64) or cls.__name__ == "MonthDayNano":
        return "duration"
    if issubclass(cls, Real | Decimal | np.number) and not issubclass(cls, np.complexfloating):
        return "number"
    if issubclass(cls, date | datetime | np.datetime64):
        return "time"
    return "text" if issubclass(cls, str) else "other"


def kind_of(column: Column) -> Kind:
    """Kind by type, never by the number of rows or of distinct values.

    Numbers and durations are numeric; dates and times are times; text, booleans and
    everything else are categories.  A list of mixed types is what most of its values are.

    Examples
    --------
    >>> kind_of([1, 2.5, "n/a"]), kind_of(["1", "2"]), kind_of([True, False])
    ('numeric', 'categorical', 'categorical')
    """
    if isinstance(column, Counted):
        return "categorical"
    if isinstance(column, np.ndarray):
        by_code: dict[str, Kind] = {"b": "categorical", "M": "time"}
        return by_code.get(column.dtype.kind, "numeric")
    types = Counter(map(type, (value for value in column if not is_missing(value))))
    sorts: Counter[str] = Counter()
    for cls, count in types.items():
        sorts[sort_of(cls)] += count
    half = sorts.total() / 2
    numeric = sorts["number"] + sorts["duration"] + (sorts["boolean"] if sorts["number"] else 0)
    if numeric > half:
        return "numeric"
    return "time" if sorts["time"] > half else "categorical"


def numbers_of(column: Column) -> Numbers:
    """Sort the finite numbers of ``column`` and count the rest; times count in seconds.

    Examples
    --------
    >>> numbers_of(np.array([2.0, np.nan, 1.0])).values.tolist()
    [1.0, 2.0]
    """
    if isinstance(column, Counted):
        column = _truths(column)
    rows = column.missing + sum(column.counts.values()) if isinstance(column, Counted) else 0
    if isinstance(column, Counted):
        return Numbers(_NONE, rows, column.missing, invalid=rows - column.missing)
    values, invalid, temporal = floats_of(column)
    ascending = np.sort(values) if values is column else _in_place(values)
    # Sorting sets the others apart: -inf, numbers, inf, NaN.
    first = int(np.searchsorted(ascending, -np.inf, "right"))
    last, end = (int(at) for at in np.searchsorted(ascending, [np.inf, np.nan], "left"))
    finite = ascending[first:last]
    whole = temporal or (isinstance(column, np.ndarray) and column.dtype.kind in "iu")
    return Numbers(
        finite,
        len(values),
        missing=len(values) - end - invalid,
        infinite=first + end - last,
        invalid=invalid,
        temporal=temporal,
        fractional=0 if whole else count_fractional(finite),
        above=end - last,
    )


def _in_place(values: Floats) -> Floats:
    values.sort()
    return values


def cells_of(column: Column, layout: Layout, *, whole: bool = True) -> Cells:
    """Count ``column`` into the cells of ``layout``: nothing is sorted and nothing kept.

    ``whole`` says whether it matters how many numbers are whole.

    Examples
    --------
    >>> cells = cells_of([3, 1.5, None, float("inf"), "n/a"], Layout())
    >>> cells.size, cells.missing, cells.infinite, cells.invalid
    (2, 1, 1, 1)
    """
    if isinstance(column, Counted):
        column = _truths(column)
    if isinstance(column, Counted):
        rows = column.missing + sum(column.counts.values())
        return Cells(
            layout=layout, rows=rows, missing=column.missing, invalid=rows - column.missing
        )
    if isinstance(column, np.ndarray) and column.dtype.kind in "fiu":
        return Cells.of(column, layout, whole=whole)
    values, invalid, temporal = floats_of(column)
    found = Cells.of(values, layout, whole=whole)
    fractional = 0 if temporal else found.fractional
    return replace(
        found,
        missing=found.missing - invalid,
        invalid=invalid,
        fractional=fractional,
        temporal=temporal,
    )


def _truths(column: Counted) -> Column:
    """Truth values are 0 and 1 where numbers are wanted, counted or not."""
    if not column.counts or set(map(type, column.counts)) != {bool}:
        return column
    times = [column.counts.get(False, 0), column.counts.get(True, 0), column.missing]
    return np.repeat([0.0, 1.0, np.nan], times)


def floats_of(column: "npt.NDArray[Any] | list[Any]") -> tuple[Floats, int, bool]:
    """One float a row (NaN where there is none), rows of a wrong type, and whether times.

    Examples
    --------
    >>> values, invalid, temporal = floats_of([1, True, "x"])
    >>> values.tolist(), invalid
    ([1.0, 1.0, nan], 1)
    """
    if isinstance(column, list):
        return _from_list(column)
    if column.dtype.kind in "mM":
        return _seconds(column), 0, column.dtype.kind == "M"
    return column.astype(np.float64, copy=False), 0, False


def _seconds(column: "npt.NDArray[Any]") -> Floats:
    """Times in seconds, to the same bits from any unit that can hold them."""
    # Nanoseconds end in 2262 and wrap, and the year 9999 is in many a table.
    fine = np.datetime_data(column.dtype)[0] in {"ns", "ps", "fs", "as"}
    ticks = column.astype(f"{column.dtype.kind}8[{'ns' if fine else 'us'}]")
    whole = ticks.astype(np.int64)
    # Rounded once, as Python rounds them: microseconds fit into a double, nanoseconds do not.
    seconds = np.where(whole % 1000 == 0, whole // 1000 / 1e6, whole / 1e9) if fine else whole / 1e6
    seconds[np.isnat(ticks)] = np.nan
    return np.asarray(seconds, dtype=np.float64)


def _from_list(values: list[Any]) -> tuple[Floats, int, bool]:
    types = set(map(type, values))
    if types <= {float, bool, int}:
        with suppress(OverflowError):
            return np.array(values, dtype=np.float64), 0, False
    readers = {cls: _READERS[sort_of(cls)] for cls in types}
    wrong = _Wrong()
    found = [
        np.nan if is_missing(value) else readers[type(value)](value, wrong) for value in values
    ]
    temporal = bool(types) and sum(sort_of(cls) == "time" for cls in types) > 0
    return np.array(found, dtype=np.float64), wrong.count, temporal


class _Wrong:
    """Counts values that cannot be read as numbers."""

    def __init__(self) -> None:
        self.count: int = 0


def _number(value: Any, wrong: _Wrong) -> float:  # noqa: ARG001
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


def _duration(value: Any, wrong: _Wrong) -> float:  # noqa: ARG001
    if isinstance(value, tuple):
        # An interval of SQL: months of thirty days, as databases count them.
        months, days, nanoseconds = cast("tuple[int, int, int]", value)
        return (months * 30 + days) * 86_400 + nanoseconds / 1e9
    return float(
        value / np.timedelta64(1, "s")
        if isinstance(value, np.timedelta64)
        else value.total_seconds()
    )


def _time(value: Any, wrong: _Wrong) -> float:  # noqa: ARG001
    if isinstance(value, np.datetime64):
        return float(value.astype("M8[us]").astype(np.int64)) / 1e6
    if not isinstance(value, datetime):
        value = datetime.combine(value, time())
    return cast("datetime", value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()


def _other(value: Any, wrong: _Wrong) -> float:  # noqa: ARG001
    wrong.count += 1
    return float("nan")


_READERS: dict[str, Callable[[Any, _Wrong], float]] = {
    "boolean": _number,
    "number": _number,
    "duration": _duration,
    "time": _time,
    "text": _other,
    "other": _other,
}


def levels_of(column: Column) -> Levels:
    """Count the levels of ``column``; what cannot be hashed counts by its text.

    Examples
    --------
    >>> levels_of([[1], [1], True]).counts
    {'[1]': 2, True: 1}
    """
    if isinstance(column, Counted):
        rows = column.missing + sum(column.counts.values())
        return Levels(column.counts, rows, column.missing)
    counts = _tally(column) if isinstance(column, list) else _distinct(column)
    missing = sum(counts.pop(level) for level in [x for x in counts if is_missing(x)])
    return Levels(counts, len(column), missing)


def _tally(values: list[Any]) -> dict[Any, int]:
    try:
        return dict(Counter(values))
    except TypeError:
        return dict(Counter(map(_hashable, values)))


def _hashable(value: Any) -> Any:
    try:
        hash(value)
    except TypeError:
        # A list of one library is an array of another.
        plain = value.tolist() if isinstance(value, np.ndarray) else value
        return repr(plain)[:_LONGEST]
    return value


def _distinct(values: npt.NDArray[Any]) -> dict[Any, int]:
    if values.dtype.kind in "iu" and values.size:
        low, high = int(values.min()), int(values.max())
        if high - low < _CODES and high < 1 << 62:
            found = np.bincount(values.astype(np.int64) - low)
            some = np.flatnonzero(found)
            return dict(zip((some + low).tolist(), found[some].tolist(), strict=True))
    levels, counts = np.unique(values, return_counts=True)
    return dict(zip(levels.tolist(), counts.tolist(), strict=True))
