"""Many rows in one container: take it apart, and put the answers together again."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from prodml.cache.keys import Namer

__all__ = ["Column", "Kind", "Table", "assemble", "column_of", "is_kind", "table_of"]

Kind: TypeAlias = tuple[Any, ...]

_CONTAINERS = ("array", "list", "series", "tuple")


class Table(NamedTuple):
    """Rows of any container.

    Parameters
    ----------
    kind
        Type of the container, by name.
    bodies
        Canonical bytes of each row, None where a row cannot be named.
    take
        The rows at some places, in a container of the same type.
    index
        Labels that a series of answers inherits, or None.
    """

    kind: str
    bodies: Sequence[bytes | None]
    take: Callable[[list[int]], Any]
    index: Any = None


class Column(NamedTuple):
    """Answers of a batch: what they came in, and one value a row."""

    kind: Kind
    values: Sequence[Any]


def table_of(rows: Any, namer: Namer) -> Table | None:
    """``rows`` taken apart, or None for a container that is not known.

    Examples
    --------
    >>> table = table_of([{"a": 1}, {"a": 2}], Namer())
    >>> table.take([1])
    [{'a': 2}]
    """
    if type(rows) in {list, tuple}:
        bodies = [_named(namer, row) for row in rows]
        return Table(type(rows).__name__, bodies, partial(_items, rows))
    if _is_array(rows):
        if not rows.ndim:
            return None
        named = namer.vectors(rows) if rows.ndim > 1 else [_named(namer, row) for row in rows]
        return Table("array", named, rows.__getitem__)
    return _frame(rows, namer)


def _named(namer: Namer, row: Any) -> bytes | None:
    try:
        return namer.name(row)
    except Exception:
        # Rows may be objects of anyone's making, and raise anything when read.
        return None


def _is_array(value: Any) -> bool:
    cls = type(value)
    return cls.__name__ == "ndarray" and cls.__module__ == "numpy"


def _frame(rows: Any, namer: Namer) -> Table | None:
    import narwhals as nw

    frame: Any = nw.from_native(rows, eager_only=True, pass_through=True)
    if not isinstance(frame, nw.DataFrame):
        return None
    names = tuple(frame.columns)
    bodies = namer.rows(names, [frame[name].to_list() for name in names])
    kind = f"frame:{frame.implementation}"
    return Table(kind, bodies, partial(_rows, frame), nw.maybe_get_index(frame))


def _items(rows: Any, places: list[int]) -> Any:
    return type(rows)(rows[place] for place in places)


def _rows(frame: Any, places: list[int]) -> Any:
    return frame[places].to_native()


def column_of(result: Any, count: int) -> Column | None:
    """``result`` taken apart into ``count`` values, or None if it is not one value a row.

    Examples
    --------
    >>> column_of([1, 2], 2), column_of([1, 2], 3), column_of("ab", 2)
    (Column(kind=('list',), values=[1, 2]), None, None)
    """
    if type(result) in {list, tuple}:
        return Column((type(result).__name__,), list(result)) if len(result) == count else None
    if _is_array(result):
        if not result.ndim or len(result) != count:
            return None
        # Text is as wide as its longest: another batch may have a longer one.
        text = result.dtype.kind if result.dtype.kind in "US" else result.dtype.str
        return Column(("array", text, *result.shape[1:]), list(result))
    return _series_column(result, count)


def _series_column(result: Any, count: int) -> Column | None:
    import narwhals as nw

    series: Any = nw.from_native(result, series_only=True, pass_through=True)
    if not isinstance(series, nw.Series) or len(series) != count:
        return None
    name, dtype = series.name, str(series.dtype)
    # A dtype with parameters has no constructor by name.
    if not isinstance(getattr(nw, dtype, None), type):
        return None
    return Column(("series", series.implementation.value, dtype, name), series.to_list())


def is_kind(value: Any) -> bool:
    """Whether ``value``, read from a store, may be the kind of a column.

    Examples
    --------
    >>> is_kind(("list",)), is_kind("list")
    (True, False)
    """
    return type(value) is tuple and bool(value) and value[0] in _CONTAINERS


def assemble(kind: Kind, values: Sequence[Any], index: Any = None) -> Any:
    """Container of ``kind`` with ``values``; a pandas series gets ``index``.

    Examples
    --------
    >>> assemble(("tuple",), [1, 2])
    (1, 2)
    """
    if kind[0] == "array":
        return _array(kind[1], kind[2:], values)
    if kind[0] == "series":
        return _series(kind[1], kind[2], kind[3], values, index)
    return tuple(values) if kind[0] == "tuple" else list(values)


def _array(dtype: str, shape: tuple[int, ...], values: Sequence[Any]) -> Any:
    import numpy as np

    if dtype in {"U", "S"}:
        return np.array(values, dtype=dtype).reshape(len(values), *shape)
    array = np.empty((len(values), *shape), dtype=dtype)
    for place, value in enumerate(values):
        array[place] = value
    return array


def _series(backend: Any, dtype: str, name: str | None, values: Sequence[Any], index: Any) -> Any:
    import narwhals as nw

    series: Any = nw.new_series(name or "", list(values), getattr(nw, dtype)(), backend=backend)
    if index is not None:
        series = nw.maybe_set_index(series, index=index)
    return series.alias(name).to_native() if name != "" else series.to_native()
