"""Any table, column by column: mappings of columns, arrays, data frames of any library.

Numpy and narwhals are imported when the first table arrives; a single row needs neither.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias, cast

from prodml.errors import BadConfiguration
from prodml.types import MISS, Features
from prodml.validation.kinds import Kind

TYPE_CHECKING = False
if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["Column", "Mask", "Table", "Texts", "rows_of", "table_of", "transposed"]

Mask: TypeAlias = "npt.NDArray[np.bool_]"
Column: TypeAlias = "list[Any] | npt.NDArray[Any]"


_EXACT = 2**53
"""Whole numbers up to here are floats without loss."""
_QUICK: Mapping[str, Kind] = {"Boolean": "bool", "Date": "date", "Datetime": "datetime"}
_FEW = 64
"""Rows below which a list is cheaper than asking for distinct values."""


class Texts:
    """A column of text: its distinct values, and where they are."""

    __slots__: tuple[str, ...] = ("_series", "levels")

    def __init__(self, series: Any) -> None:
        self._series: Any = series
        self.levels: list[str | None] = series.unique().to_list()

    def rows(self, levels: Sequence[Any]) -> Mask:
        """Rows that hold one of ``levels``."""
        import numpy as np

        texts = [level for level in levels if isinstance(level, str)]
        hits = np.zeros(len(self._series), dtype=np.bool_)
        if texts:
            hits |= self._series.is_in(texts).fill_null(value=False).to_numpy().astype(np.bool_)
        if len(texts) < len(levels):
            hits |= self._series.is_null().to_numpy()
        return hits


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

    def quick(self, name: str) -> tuple[Column, Kind | None]:
        """As :meth:`column`, in the form that is judged fastest; not for rules to look at."""
        ...

    def texts(self, name: str) -> Texts | None:
        """The column as distinct texts, if it is a long column of texts."""
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
    for i, row in enumerate(rows):
        if not isinstance(cast("Any", row), Mapping):
            raise TypeError(f"row {i} is {row!r}, and not a mapping of feature to value")
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
        for name, values in self._data.items():
            if isinstance(values, (str, bytes)) or not hasattr(values, "__len__"):
                raise TypeError(
                    f"column {name!r} must be a list or array, not {values!r}; "
                    "a single row is for validate()"
                )
        lengths = {name: len(values) for name, values in self._data.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"columns differ in length: {lengths}")

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return len(next(iter(self._data.values()), ()))

    def column(self, name: str) -> tuple[Column, Kind | None]:
        """Values of ``name``: an array as it is, everything else as a list."""
        return _column(self._data[name]), None

    def quick(self, name: str) -> tuple[Column, Kind | None]:
        """As :meth:`column`."""
        return self.column(name)

    def texts(self, name: str) -> None:
        """Lists and arrays are looked at as they are."""

    def take(self, mask: Mask) -> dict[str, Any]:
        """Every column, where ``mask`` is true."""
        return {name: _taken(values, mask) for name, values in self._data.items()}

    def put(self, changes: Mapping[str, Column], drop: Sequence[str]) -> "Columns":
        """Copy with ``changes`` and without ``drop``."""
        merged = {**self._data, **changes}
        return Columns({name: merged[name] for name in merged if name not in drop})


def _column(values: Any) -> Column:
    import numpy as np

    # What hides behind a mask is None in a list.
    if isinstance(values, np.ndarray) and values.ndim == 1 and not hasattr(values, "mask"):
        return cast("Column", values)
    for way in ("to_list", "to_pylist", "tolist"):
        if hasattr(values, way):
            return cast("list[Any]", getattr(values, way)())
    return list(values)


def _taken(values: Any, mask: Mask) -> Any:
    if hasattr(values, "dtype"):
        # A series of polars wants to be asked in its own way.
        return values.filter(mask) if hasattr(values, "to_arrow") else values[mask]
    kept = [value for value, keep in zip(values, mask, strict=True) if keep]
    return tuple(kept) if isinstance(values, tuple) else kept


class Array:
    """A two-dimensional numpy array with names for its columns.

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
        if len(set(self.names)) < width:
            raise ValueError(f"names of columns must differ: {self.names}")

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return len(self._data)

    def column(self, name: str) -> tuple[Column, Kind | None]:
        """Column of ``name``, a view; a list where there is a mask."""
        return _column(self._data[:, self.names.index(name)]), None

    def quick(self, name: str) -> tuple[Column, Kind | None]:
        """As :meth:`column`."""
        return self.column(name)

    def texts(self, name: str) -> None:
        """An array is looked at as it is."""

    def take(self, mask: Mask) -> Any:
        """Rows where ``mask`` is true."""
        return self._data[mask]

    def put(self, changes: Mapping[str, Column], drop: Sequence[str]) -> "Array":
        """Copy with ``changes``; nothing is dropped, for each column is a field."""
        import numpy as np

        assert not drop
        # A bound of 0.5 must not be cut to fit into ints, nor a text made of numbers.
        plain = all(not isinstance(values, list) for values in changes.values())
        kinds = [values.dtype for values in changes.values() if not isinstance(values, list)]
        copy = self._data.astype(np.result_type(self._data.dtype, *kinds) if plain else object)
        for name, values in changes.items():
            copy[:, self.names.index(name)] = values
        return Array(copy, self.names)


class Frame:
    """A data frame of any library that narwhals knows; lazy ones are collected.

    Examples
    --------
    >>> import polars as pl
    >>> Frame(pl.DataFrame({"a": [1, 2]})).column("a")
    ([1, 2], None)
    >>> Frame(pl.DataFrame({"a": range(100)})).column("a")[1]
    'int'
    """

    __slots__: tuple[str, ...] = ("_frame", "_lists", "n_rows", "names")

    def __init__(self, data: Any) -> None:
        import narwhals as nw

        frame = nw.from_native(data)
        self._frame: Any = frame.collect() if isinstance(frame, nw.LazyFrame) else frame
        self.names: list[str] = list(self._frame.columns)
        self.n_rows: int = len(self._frame)
        # A column at a time costs microseconds apiece, whatever its length.
        few = self.n_rows <= _FEW
        self._lists: dict[str, list[Any]] | None = _listed(self._frame) if few else None

    def column(self, name: str) -> tuple[Column, Kind | None]:
        """Many numbers as an array (nulls as NaN), everything else as a list of values."""
        if self._lists is not None:
            return self._lists[name], None
        series = self._frame.get_column(name)
        if series.dtype.is_integer():
            return _whole(series)
        if series.dtype.is_float():
            return series.to_numpy(), "float"
        return series.to_list(), None

    def quick(self, name: str) -> tuple[Column, Kind | None]:
        """As :meth:`column`, and truths and moments as arrays: as lists they take a while."""
        if self._lists is None:
            series = self._frame.get_column(name)
            kind = _QUICK.get(type(series.dtype).__name__)
            if kind is not None and getattr(series.dtype, "time_zone", None) is None:
                values = series.to_numpy()
                if values.dtype.kind in "bM":
                    return values, kind
        return self.column(name)

    def texts(self, name: str) -> Texts | None:
        """The column as distinct texts, unless it is short or holds other things."""
        import narwhals as nw

        if self._lists is not None:
            return None
        series = self._frame.get_column(name)
        if series.dtype != nw.String:
            return None
        # A column of Python objects is called text for its first rows.
        objects = str(getattr(series.to_native(), "dtype", "")) == "object"
        return None if objects else Texts(series)

    def take(self, mask: Mask) -> Any:
        """Rows where ``mask`` is true, as a frame of the library that came in."""
        import narwhals as nw

        if mask.all():
            return self._frame.to_native()
        backend, native = self._frame.implementation, self._frame.to_native()
        if backend.is_pandas_like():
            return native[mask] if mask.any() else native.iloc[:0]
        if not mask.any():
            return self._frame.head(0).to_native()
        return native.filter(nw.new_series("", mask, nw.Boolean, backend=backend).to_native())

    def put(self, changes: Mapping[str, Column], drop: Sequence[str]) -> "Frame":
        """Copy with ``changes`` and without ``drop``."""
        import narwhals as nw

        backend = self._frame.implementation
        made: list[Any] = []
        for name, values in changes.items():
            try:
                series = nw.new_series(name, _of_one_sort(values), backend=backend)
            except Exception as error:
                # Each library has errors of its own; none can mix texts with numbers.
                raise BadConfiguration(
                    f"field {name!r}: its bounds or default fit no column of this frame: {error}"
                ) from error
            made.append(_as_before(self._frame, series))
        return Frame(self._frame.with_columns(*made).drop(list(drop)).to_native())


def _whole(series: Any) -> tuple[Column, Kind | None]:
    import narwhals as nw

    # Numpy has no whole numbers of 128 bits.
    if series.dtype not in {nw.Int128, nw.UInt128}:
        values = series.to_numpy()
        # A null made floats of them all, and large ones may have been rounded.
        if values.dtype.kind in "iu" or not (abs(values) >= _EXACT).any():
            return values, "int"
    return series.to_list(), None


def _of_one_sort(values: Column) -> Column:
    """Floats where ints have come among them: a bound of 0 in a column of 0.5."""
    if not isinstance(values, list):
        return values
    whole = [value for value in values if type(value) is int]
    numbers = len(whole) + sum(1 for value in values if type(value) is float)
    mixed = 0 < len(whole) < numbers == sum(1 for value in values if value is not None)
    if not mixed or max(map(abs, whole)) > _EXACT:
        return values
    return [None if value is None else float(value) for value in values]


def _as_before(frame: Any, series: Any) -> Any:
    """``series`` in the type of the column that it replaces, if that loses nothing."""
    if series.name not in frame.columns:
        return series
    wanted = frame.get_column(series.name).dtype
    if series.dtype == wanted:
        return series
    try:
        cast_back = series.cast(wanted)
        same = cast_back.to_list() == series.to_list()
    except Exception:
        # Each library has errors of its own for what does not fit.
        return series
    return cast_back if same else series


def _listed(frame: Any) -> dict[str, list[Any]]:
    """Columns of a short frame as lists, by the cheapest way of its library."""
    native = frame.to_native()
    if frame.implementation.is_polars():
        return cast("dict[str, list[Any]]", native.to_dict(as_series=False))
    if frame.implementation.is_pyarrow():
        return cast("dict[str, list[Any]]", native.to_pydict())
    if frame.implementation.is_pandas():
        cells = native.to_numpy(dtype=object).T.tolist()
        return dict(zip(native.columns, cells, strict=True))
    return {name: frame.get_column(name).to_list() for name in frame.columns}
