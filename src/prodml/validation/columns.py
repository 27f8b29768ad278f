"""Any table, column by column: mappings of columns, arrays, data frames of any library.

Numpy and narwhals are imported when the first table arrives; a single row needs neither.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias, cast

from prodml.types import MISS, Features
from prodml.validation.field import Kind

TYPE_CHECKING = False
if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["Column", "Mask", "Table", "rows_of", "table_of", "transposed"]

Mask: TypeAlias = "npt.NDArray[np.bool_]"
Column: TypeAlias = "list[Any] | npt.NDArray[Any]"


class Table(Protocol):
    """What validation asks of a table."""

    @property
    def names(self) -> Sequence[str]:
        """Column names in order."""
        ...

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        ...

    def column(self, name: str) -> tuple[Column, Kind | None]:
        """Values of ``name``, and their kind if the table declares one."""
        ...

    def take(self, mask: Mask) -> Any:
        """Rows where ``mask`` is true, in the container that came in."""
        ...

    def put(self, changes: Mapping[str, Column], drop: Sequence[str]) -> "Table":
        """Copy with some columns replaced or added and some left out."""
        ...


def rows_of(data: Any) -> list[Features] | None:
    """``data`` as a list if it is a sequence of rows, else None.

    Examples
    --------
    >>> rows_of([{"a": 1}]), rows_of({"a": [1]})
    ([{'a': 1}], None)
    """
    return list(cast("Sequence[Features]", data)) if isinstance(data, (list, tuple)) else None


def transposed(rows: Sequence[Features]) -> dict[str, list[Any]]:
    """Columns of ``rows`` in order of appearance; ``MISS`` where a row lacks the field.

    Examples
    --------
    >>> transposed([{"a": 1}, {"a": 2, "b": 3}])["a"]
    [1, 2]
    """
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name, MISS) for row in rows] for name in names}


def table_of(data: Any, names: Sequence[str] | None = None) -> Table:
    """``data`` as a :class:`Table`; ``names`` are those of an array's columns.

    Raises
    ------
    TypeError
        ``data`` is no table that is known here.
    ValueError
        An array that is not two-dimensional, the wrong number of names, ragged columns.

    Examples
    --------
    >>> table_of({"a": [1, 2]}).n_rows
    2
    """
    if isinstance(data, Mapping):
        return Columns(cast("Mapping[str, Any]", data))
    if hasattr(data, "dtype") and hasattr(data, "ndim"):
        return Array(data, names)
    return Frame(data)


class Columns:
    """A mapping of column name to values.

    Examples
    --------
    >>> Columns({"a": [1, 2]}).column("a")
    ([1, 2], None)
    """

    __slots__: tuple[str, ...] = ("_data", "names")

    def __init__(self, data: Mapping[str, Any]) -> None:
        self._data: dict[str, Any] = dict(data)
        self.names: list[str] = list(self._data)
        if len({len(values) for values in self._data.values()}) > 1:
            raise ValueError("columns differ in length")

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return len(next(iter(self._data.values()), ()))

    def column(self, name: str) -> tuple[Column, Kind | None]:
        """Values of ``name``: an array as it is, everything else as a list."""
        values = self._data[name]
        if hasattr(values, "dtype") and not hasattr(values, "iloc") and hasattr(values, "tolist"):
            return values, None
        return list(values), None

    def take(self, mask: Mask) -> dict[str, Any]:
        """Every column, where ``mask`` is true."""
        return {name: _taken(values, mask) for name, values in self._data.items()}

    def put(self, changes: Mapping[str, Column], drop: Sequence[str]) -> "Columns":
        """Copy with ``changes`` and without ``drop``."""
        merged = {**self._data, **changes}
        return Columns({name: merged[name] for name in merged if name not in drop})


def _taken(values: Any, mask: Mask) -> Any:
    if isinstance(values, (list, tuple)):
        kept = [value for value, keep in zip(cast("list[Any]", values), mask, strict=True) if keep]
        return tuple(kept) if isinstance(values, tuple) else kept
    return values[mask]


class Array:
    """A two-dimensional numpy array with names for its columns, or a structured one.

    Examples
    --------
    >>> import numpy as np
    >>> Array(np.zeros((3, 1)), ["a"]).n_rows
    3
    """

    __slots__: tuple[str, ...] = ("_data", "names")

    def __init__(self, data: Any, names: Sequence[str] | None) -> None:
        if data.ndim != 2:
            raise ValueError(
                f"an array must have two dimensions, rows and columns, not {data.ndim}"
            )
        width = data.shape[1]
        self._data: Any = data
        self.names: list[str] = [f"x{i}" for i in range(width)] if names is None else list(names)
        if len(self.names) != width:
            raise ValueError(f"{len(self.names)} names for {width} columns")

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return len(self._data)

    def column(self, name: str) -> tuple[Column, Kind | None]:
        """Column of ``name``, a view."""
        return self._data[:, self.names.index(name)], None

    def take(self, mask: Mask) -> Any:
        """Rows where ``mask`` is true."""
        return self._data[mask]

    def put(self, changes: Mapping[str, Column], drop: Sequence[str]) -> "Array":
        """Copy with ``changes``; nothing is dropped, for each column is a field."""
        assert not drop
        copy = self._data.copy()
        for name, values in changes.items():
            copy[:, self.names.index(name)] = values
        return Array(copy, self.names)


class Frame:
    """A data frame of any library that narwhals knows; lazy ones are collected.

    Examples
    --------
    >>> import polars as pl
    >>> Frame(pl.DataFrame({"a": [1, 2]})).column("a")[1]
    'int'
    """

    __slots__: tuple[str, ...] = ("_frame", "names")

    def __init__(self, data: Any) -> None:
        import narwhals as nw

        frame = nw.from_native(data)
        self._frame: Any = frame.collect() if isinstance(frame, nw.LazyFrame) else frame
        self.names: list[str] = list(self._frame.columns)

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return len(self._frame)

    def column(self, name: str) -> tuple[Column, Kind | None]:
        """Numbers as an array (nulls as NaN), everything else as a list of Python values."""
        series = self._frame.get_column(name)
        if series.dtype.is_integer():
            return series.to_numpy(), "int"
        if series.dtype.is_float():
            return series.to_numpy(), "float"
        return series.to_list(), None

    def take(self, mask: Mask) -> Any:
        """Rows where ``mask`` is true, as a frame of the library that came in."""
        # An empty list of booleans would be no condition at all.
        kept = self._frame if mask.all() else self._frame.filter(mask.tolist())
        return kept.to_native()

    def put(self, changes: Mapping[str, Column], drop: Sequence[str]) -> "Frame":
        """Copy with ``changes`` and without ``drop``."""
        import narwhals as nw

        backend = self._frame.implementation
        made = [nw.new_series(name, values, backend=backend) for name, values in changes.items()]
        return Frame(self._frame.with_columns(*made).drop(list(drop)).to_native())
