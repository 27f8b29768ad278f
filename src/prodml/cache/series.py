"""Series and frames of pandas, polars and pyarrow as plain values, and back.

Only what comes back exactly is taken apart: dtype, name, labels and every value.
"""

import re
from collections.abc import Callable, Sequence
from importlib import import_module as _import
from typing import Any, Final, NamedTuple

from prodml.cache.arrays import vector_of

__all__ = ["EITHER", "put_together", "taken_apart"]

EITHER: Final = "either"
"""Where the labels of a result come from while that cannot be told: both look the same."""

_NO_INDEX, _INHERITED, _COUNTED = "", "rows", "count"
_LABELS: Final = frozenset({str, int, type(None)})


def _module(name: str) -> Any:
    # Only those are here whose user has made one of their containers; their types are theirs.
    return _import(name)


def taken_apart(result: Any, count: int, index: Any) -> tuple[tuple[Any, ...], list[Any]] | None:
    """Kind of a series or frame and its values; of a frame, a tuple a row.

    ``index`` are the labels of the rows that were asked about.  None if ``result`` is
    something else, or of another length.

    Raises
    ------
    Exception
        It would not come back as it is.

    Examples
    --------
    >>> import pandas as pd
    >>> taken_apart(pd.Series([1, 2], name="score"), 2, None)
    (('series', 'pandas', 'int64', 'score', 'count'), [1, 2])
    """
    import narwhals as nw

    outside: Any = nw.from_native(result, eager_only=True, allow_series=True, pass_through=True)
    if not isinstance(outside, nw.Series | nw.DataFrame) or len(outside) != count:
        return None
    backend: str = str(outside.implementation.value)
    where = _index_of(result, index) if backend == "pandas" else _NO_INDEX
    if isinstance(outside, nw.Series):
        name = _label(getattr(result, "name", None))
        kind: tuple[Any, ...] = ("series", backend, _text_of(backend, result), name, where)
        values = _BACKENDS[backend].values(result)
    else:
        names = tuple(map(_label, outside.columns))
        columns = [_BACKENDS[backend].column(result, at) for at in range(len(names))]
        texts = tuple(_text_of(backend, column) for column in columns)
        kind = ("frame", backend, names, texts, where)
        parts = [_BACKENDS[backend].values(column) for column in columns]
        values = list(zip(*parts, strict=True)) if parts else [()] * count
    _check(result, put_together(kind, values, index))
    return kind, values


def put_together(kind: tuple[Any, ...], values: Sequence[Any], index: Any) -> Any:
    """Series or frame of ``kind``, with the labels ``index`` if it inherits them.

    Raises
    ------
    Exception
        A value does not fit, or the labels are not known.

    Examples
    --------
    >>> put_together(("series", "pandas", "Int64", None, "count"), [1, None], None).to_list()
    [1, <NA>]
    """
    backend, where = _BACKENDS[kind[1]], kind[-1]
    if kind[0] == "series":
        native = backend.series(kind[2], kind[3], values)
    else:
        native = _frame(kind[1], kind[2], kind[3], values)
    if where == EITHER and index is not None and not _is_count(index):
        raise ValueError("nobody knows where its labels come from")
    if where == _INHERITED:
        if index is None:
            raise ValueError("rows without labels")
        native.index = index
    return native


def _frame(backend: str, names: Sequence[Any], texts: Sequence[str], values: Sequence[Any]) -> Any:
    if not all(type(value) is tuple and len(value) == len(names) for value in values):
        raise ValueError("a row of another width")
    columns = list(zip(*values, strict=True)) if values else [()] * len(names)
    parts = {
        name: _BACKENDS[backend].series(text, name, list(column))
        for name, text, column in zip(names, texts, columns, strict=True)
    }
    return _BACKENDS[backend].frame(parts)


def _check(result: Any, again: Any) -> None:
    """Refuse what the values do not show: labels of columns, notes, a height without columns."""
    same = again.shape == result.shape if hasattr(result, "shape") else True
    if hasattr(result, "attrs"):
        same = same and not result.attrs
    if getattr(result, "ndim", 1) == 2 and hasattr(result, "iloc"):
        same = same and again.columns.identical(result.columns)
    if not same:
        raise TypeError("it would come back as something else")


def _label(name: Any) -> Any:
    if type(name) not in _LABELS:
        raise TypeError("a label that is neither text nor number")
    return name


def _index_of(result: Any, index: Any) -> str:
    counted = _is_count(result.index)
    if index is not None and result.index.identical(index):
        return EITHER if counted else _INHERITED
    if not counted:
        raise TypeError("labels of its own")
    return _COUNTED


def _is_count(index: Any) -> bool:
    pd = _module("pandas")

    return bool(index.identical(pd.RangeIndex(len(index))))


def _text_of(backend: str, series: Any) -> str:
    dtype = series.type if backend == "pyarrow" else series.dtype
    text = str(dtype)
    if _BACKENDS[backend].dtype(text) != dtype:
        raise TypeError(f"no name for {text}")
    return text


def _exactly(values: Sequence[Any], series: Any, back: Callable[[Any], list[Any]]) -> Any:
    """``series``, if it holds ``values``."""
    for one, other in zip(values, back(series), strict=True):
        # NaN is the only value that is not itself.
        equal = one is other or one == other or (one != one and other != other)  # noqa: PLR0124
        if type(one) is not type(other) or not equal:
            raise ValueError(f"a value that would become {other!r}")
    return series


def _plain(values: Sequence[Any]) -> list[Any]:
    """Numbers of numpy as numbers of Python."""
    import numpy as np

    return [
        value.item() if isinstance(value, np.number | np.bool_) and _is_number(value) else value
        for value in values
    ]


def _is_number(value: Any) -> bool:
    return value.dtype.kind in "biufc"


# -- pandas -----------------------------------------------------------------------------


def _pandas_dtype(text: str) -> Any:
    return _module("pandas").api.types.pandas_dtype(text)


def _pandas_values(series: Any) -> list[Any]:
    pd = _module("pandas")

    if getattr(series.dtype, "tz", None) is not None:
        series = series.dt.tz_convert("UTC").dt.tz_localize(None)
    if getattr(series.dtype, "kind", "") in "mM" and hasattr(series.dtype, "str"):
        # Dates of Python have no nanoseconds.
        return list(series.to_numpy())
    return [None if value is pd.NA else value for value in series.to_list()]


def _pandas_series(text: str, name: Any, values: Sequence[Any]) -> Any:
    import numpy as np

    pd = _module("pandas")

    dtype = _pandas_dtype(text)
    if isinstance(dtype, np.dtype):
        return pd.Series(vector_of(dtype, values), name=name, copy=False)
    zone = getattr(dtype, "tz", None)
    if zone is None:
        plain = _plain(values)
        return _exactly(plain, pd.Series(plain, dtype=dtype, name=name), _pandas_values)
    naive = pd.Series(vector_of(np.dtype(f"M8[{dtype.unit}]"), values), name=name)
    return naive.dt.tz_localize("UTC").dt.tz_convert(zone)


def _pandas_column(frame: Any, at: int) -> Any:
    return frame.iloc[:, at]


def _pandas_frame(parts: dict[Any, Any]) -> Any:
    pd = _module("pandas")

    frame: Any = pd.DataFrame(parts)
    if tuple(parts) == tuple(range(len(parts))):
        frame.columns = pd.RangeIndex(len(parts))
    return frame


# -- polars -----------------------------------------------------------------------------

_POLARS_NAME: Final = re.compile(r"(\w+)(?:\((.*)\))?")
_OPTION: Final = re.compile(r"(\w+)=(?:'([\w/+:-]+)'|(\d+)|None)")


def _polars_dtype(text: str) -> Any:
    pl = _module("polars")

    found = _POLARS_NAME.fullmatch(text)
    if found is None:
        raise TypeError(f"no dtype {text!r}")
    cls: Any = getattr(pl.datatypes, found[1])
    plain = isinstance(cls, type) and issubclass(cls, pl.DataType)
    if not plain or getattr(cls, "is_nested")():  # noqa: B009 - pl is Any: no type knows it
        raise TypeError(f"no plain dtype {text!r}")
    options = {
        name: word or (int(number) if number else None)
        for name, word, number in _OPTION.findall(found[2] or "")
    }
    return cls(**options)


def _is_moment(text: str) -> bool:
    return text.startswith(("Datetime", "Duration", "timestamp", "duration"))


def _polars_values(series: Any) -> list[Any]:
    return list(series.to_numpy()) if _is_moment(str(series.dtype)) else series.to_list()


def _polars_series(text: str, name: Any, values: Sequence[Any]) -> Any:
    import numpy as np

    pl = _module("polars")

    dtype: Any = _polars_dtype(text)
    if not _is_moment(text):
        plain = _plain(values)
        series = pl.Series(name or "", plain, dtype=dtype, strict=True)
        return _exactly(plain, series, _polars_values)
    letter = "M" if text.startswith("Datetime") else "m"
    series = pl.Series(name or "", vector_of(np.dtype(f"{letter}8[{dtype.time_unit}]"), values))
    zone = getattr(dtype, "time_zone", None)
    if zone is not None:
        series = series.dt.replace_time_zone("UTC").dt.convert_time_zone(zone)
    return series


def _polars_frame(parts: dict[Any, Any]) -> Any:
    pl = _module("polars")

    return pl.DataFrame(list(parts.values()))


# -- pyarrow ----------------------------------------------------------------------------

_ZONED: Final = re.compile(r"timestamp\[(s|ms|us|ns), tz=([\w/+:-]+)\]")
_DECIMAL: Final = re.compile(r"decimal128\((\d+), (-?\d+)\)")


def _arrow_dtype(text: str) -> Any:
    pa = _module("pyarrow")

    zoned, decimal = _ZONED.fullmatch(text), _DECIMAL.fullmatch(text)
    if zoned is not None:
        return pa.timestamp(zoned[1], zoned[2])
    if decimal is not None:
        return pa.decimal128(int(decimal[1]), int(decimal[2]))
    return pa.type_for_alias(text)


def _arrow_values(series: Any) -> list[Any]:
    if _is_moment(str(series.type)):
        return list(series.to_numpy())
    return list(series.to_pylist())


def _arrow_series(text: str, _: Any, values: Sequence[Any]) -> Any:
    import numpy as np

    pa = _module("pyarrow")

    dtype = _arrow_dtype(text)
    if _is_moment(text):
        letter = "M" if text.startswith("timestamp") else "m"
        array = pa.array(vector_of(np.dtype(f"{letter}8[{dtype.unit}]"), values)).cast(dtype)
        return pa.chunked_array([array], dtype)
    plain = _plain(values)
    series = pa.chunked_array([pa.array(plain, dtype)], dtype)
    return _exactly(plain, series, _arrow_values)


def _arrow_frame(parts: dict[Any, Any]) -> Any:
    pa = _module("pyarrow")

    return pa.table(parts)


def _column(frame: Any, at: int) -> Any:
    return frame[frame.columns[at]] if hasattr(frame, "to_arrow") else frame.column(at)


class _Backend(NamedTuple):
    dtype: Callable[[str], Any]
    values: Callable[[Any], list[Any]]
    series: Callable[[str, Any, Sequence[Any]], Any]
    frame: Callable[[dict[Any, Any]], Any]
    column: Callable[[Any, int], Any]


_PANDAS: Final = _Backend(
    dtype=_pandas_dtype,
    values=_pandas_values,
    series=_pandas_series,
    frame=_pandas_frame,
    column=_pandas_column,
)
_POLARS: Final = _Backend(
    dtype=_polars_dtype,
    values=_polars_values,
    series=_polars_series,
    frame=_polars_frame,
    column=_column,
)
_ARROW: Final = _Backend(
    dtype=_arrow_dtype,
    values=_arrow_values,
    series=_arrow_series,
    frame=_arrow_frame,
    column=_column,
)
_BACKENDS: Final = {"pandas": _PANDAS, "polars": _POLARS, "pyarrow": _ARROW}
