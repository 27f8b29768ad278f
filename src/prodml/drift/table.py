"""Any table, column by column: arrays, mappings, rows, data frames of any library.

A column comes out as one of three things: a numpy array, a list of Python values, or
:class:`Counted` levels where the library that holds the column can count them itself.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from prodml.types import MISS, is_missing

# Room for a block of columns that is turned, in bytes; rows that are turned at a time.
_BLOCK = 16 << 20
# Beyond, floats skip integers.
_WHOLE = 1 << 53
_ROWS = 512

__all__ = ["Column", "Counted", "Picked", "Table", "column_of", "table_of"]


@dataclass(frozen=True, slots=True)
class Counted:
    """Levels of a column with their counts, and how many rows hold none."""

    counts: dict[Any, int]
    missing: int


Column: TypeAlias = "npt.NDArray[Any] | list[Any] | Counted"


@dataclass(frozen=True, slots=True)
class Table:
    """Raw columns by name; ``misfit`` says why they could not be told apart, if so.

    ``matrix`` is the array of numbers, stored row by row, whose columns these are in order.

    Examples
    --------
    >>> table_of({"a": [1, 2]}).columns
    {'a': [1, 2]}
    """

    columns: Mapping[str, Any] = field(default_factory=dict[str, Any])
    misfit: str = ""
    matrix: "npt.NDArray[Any] | None" = None


def table_of(data: Any, names: Sequence[str] | None = None) -> Table:
    """``data`` as a :class:`Table`; ``names`` are those of columns that have none.

    Lazy frames are collected.  An array of one dimension is one column.

    Raises
    ------
    TypeError
        ``data`` is no table that is known here.

    Examples
    --------
    >>> sorted(table_of([{"a": 1}, {"a": 2, "b": 3}]).columns)
    ['a', 'b']
    >>> table_of(np.zeros((3, 2)), ["a"]).misfit
    '2 columns instead of 1'
    """
    if isinstance(data, Mapping):
        return Table({str(name): values for name, values in cast("Any", data).items()})
    if isinstance(data, list | tuple):
        return _of_rows(cast("Sequence[Any]", data), names)
    if isinstance(data, np.ndarray):
        return _of_array(data, names)
    return _of_frame(data)


def _of_rows(rows: Sequence[Any], names: Sequence[str] | None) -> Table:
    if not rows:
        return Table()
    if all(isinstance(row, Mapping) for row in rows):
        seen = dict.fromkeys(name for row in rows for name in row)
        return Table({str(name): [row.get(name, MISS) for row in rows] for name in seen})
    if all(isinstance(row, list | tuple | np.ndarray) for row in rows):
        return _of_sequences(rows, names)
    if any(isinstance(row, Mapping | list | tuple) for row in rows):
        raise TypeError("rows must all be mappings, or all sequences")
    return _by_position([list(rows)], names)


def _of_sequences(rows: Sequence[Any], names: Sequence[str] | None) -> Table:
    widths = set(map(len, rows))
    if len(widths) > 1:
        return Table(misfit=f"{min(widths)} columns in some rows instead of {max(widths)}")
    return _by_position([list(column) for column in zip(*rows, strict=True)], names)


def _of_array(data: npt.NDArray[Any], names: Sequence[str] | None) -> Table:
    if data.dtype.names:
        return Table({name: data[name] for name in data.dtype.names})
    if data.ndim == 1:
        data = data.reshape(-1, 1)
    if data.ndim != 2:
        raise TypeError(f"an array must have one or two dimensions, not {data.ndim}")
    # A block would lose which values a mask hides.
    plain = data.dtype.kind in "fiub" and not isinstance(data, np.ma.MaskedArray)
    if len(data) <= _ROWS or not plain or not data.flags.c_contiguous:
        return _by_position([data[:, i] for i in range(data.shape[1])], names)
    table = _by_position(_Turned(data, max(1, _BLOCK // data[:, :1].nbytes)), names)
    # Two columns of one name are one.
    whole = len(table.columns) == data.shape[1] and data.dtype.kind != "b"
    return replace(table, matrix=data) if whole else table


class _Turned(Sequence[Any]):
    """Columns of a matrix that is stored row by row, turned some at a time.

    A row's numbers come into the cache together, so reading each column by itself would
    fetch all of them over and over.
    """

    def __init__(self, data: npt.NDArray[Any], width: int) -> None:
        self._data: npt.NDArray[Any] = data
        self._width: int = width
        self._first: int = -1
        self._block: npt.NDArray[Any] = data[:0]

    def __len__(self) -> int:
        return int(self._data.shape[1])

    def __getitem__(self, i: Any) -> Any:
        first = i - i % self._width
        if first != self._first:
            part = self._data[:, first : first + self._width]
            # The old block goes before the new one comes, if nobody keeps it.
            self._block = self._data[:0]
            self._block = np.empty(part.shape[::-1], dtype=part.dtype)
            for row in range(0, len(part), _ROWS):
                self._block[:, row : row + _ROWS] = part[row : row + _ROWS].T
            self._first = first
        return self._block[i - first]


class _Named(Mapping[str, Any]):
    """Columns by name that are made when they are asked for."""

    def __init__(self, names: Sequence[str], columns: Sequence[Any]) -> None:
        self._places: dict[str, int] = {name: i for i, name in enumerate(names)}
        self._columns: Sequence[Any] = columns

    def __getitem__(self, name: str) -> Any:
        return self._columns[self._places[name]]

    def __contains__(self, name: object) -> bool:
        # Or a column would be made to see whether it is there.
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


@dataclass(frozen=True, slots=True)
class Picked(Mapping[str, Any]):
    """Some columns of a table, in the order of ``names``.

    Examples
    --------
    >>> list(Picked({"a": [1], "b": [2]}, ("b",)))
    ['b']
    """

    columns: Mapping[str, Any]
    names: Sequence[str]

    def __getitem__(self, name: str) -> Any:
        return self.columns[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def _by_position(columns: Sequence[Any], names: Sequence[str] | None) -> Table:
    if names is None:
        names = [f"x{i}" for i in range(len(columns))]
    if len(names) != len(columns):
        return Table(misfit=f"{len(columns)} columns instead of {len(names)}")
    return Table(_Named(names, columns))


def _of_frame(data: Any) -> Table:
    import narwhals as nw

    if type(data).__name__ == "RecordBatch" and type(data).__module__.startswith("pyarrow"):
        from pyarrow import Table as Arrow

        data = Arrow.from_batches([data])
    try:
        frame = nw.from_native(data)
        if isinstance(frame, nw.LazyFrame):
            frame = frame.collect()
        # Pandas names the columns of an array 0, 1, ...
        return Table({str(name): frame.get_column(name) for name in frame.columns})
    except nw.exceptions.DuplicateError as error:
        raise TypeError(f"two columns of one name: {error}") from error


def column_of(raw: Any, *, by_row: bool = False) -> Column:
    """One raw column in one of the three forms; ``by_row`` keeps the order of rows.

    Examples
    --------
    >>> column_of((1, None)), column_of(np.array([1.0])).dtype.name
    ([1, None], 'float64')
    """
    if isinstance(raw, np.ma.MaskedArray):
        return _of_masked(raw)
    if isinstance(raw, np.ndarray):
        return raw if raw.dtype.kind in "fiubmM" else raw.tolist()
    if isinstance(raw, list):
        return raw
    series = _as_series(raw)
    if series is None:
        return list(cast("Iterable[Any]", raw))
    return _of_series(series, by_row=by_row)


def _of_masked(raw: Any) -> Column:
    if raw.dtype.kind in "fiub":
        return cast("Column", raw.astype(np.float64).filled(np.nan))
    return cast("list[Any]", raw.tolist())


def _as_series(raw: Any) -> Any:
    import narwhals as nw

    series = nw.from_native(raw, series_only=True, pass_through=True)
    return series if isinstance(series, nw.Series) else None


def _of_series(series: Any, *, by_row: bool) -> Column:
    import narwhals as nw

    dtype = series.dtype
    if dtype.is_integer() and series.null_count() and _beyond_floats(series):
        return cast("list[int | None]", series.to_list())
    if dtype.is_numeric():
        return _numbers(series)
    if dtype in (nw.Datetime, nw.Date, nw.Duration):
        return _times(series)
    if not by_row and dtype in (nw.String, nw.Categorical, nw.Enum, nw.Boolean):
        return _counted(series)
    return cast("list[Any]", series.to_list())


def _beyond_floats(series: Any) -> bool:
    ends = [end for end in (series.min(), series.max()) if end is not None]
    return any(abs(int(end)) > _WHOLE for end in ends)


def _numbers(series: Any) -> npt.NDArray[Any]:
    import narwhals as nw

    dtype = series.dtype
    if dtype.is_decimal():
        # By its digits, rounded once: some libraries multiply by a tenth, which is none.
        series = series.cast(nw.String)
    elif dtype not in (nw.Int128, nw.UInt128) and (dtype.is_float() or not series.null_count()):
        return np.asarray(series.to_numpy())
    return np.asarray(series.cast(nw.Float64).to_numpy())


def _times(series: Any) -> Column:
    values = np.asarray(series.to_numpy())
    # A column with a time zone comes as objects from some libraries.
    return values if values.dtype.kind in "mM" else cast("list[Any]", series.to_list())


def _counted(series: Any) -> Column:
    try:
        return _by_level(series)
    except NotImplementedError:
        # Arrow cannot do much with views of strings.
        return cast("list[Any]", series.to_list())


def _by_level(series: Any) -> Counted:
    kept = series.drop_nulls()
    table = kept.alias("level").value_counts(name="count")
    pairs = zip(table["level"].to_list(), table["count"].to_list(), strict=True)
    # A categorical column remembers levels that no row has.
    found = Counter({level: int(count) for level, count in pairs if count})
    gone = [level for level in found if is_missing(level)]
    missing = len(series) - len(kept) + sum(found.pop(level) for level in gone)
    return Counted(dict(found), missing)
