"""Many rows in one container: take it apart, and hand on some of them in the same kind."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from prodml.cache.arrays import is_array
from prodml.cache.keys import Namer, columns_of

__all__ = ["Table", "table_of"]


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
        Labels that answers may inherit, or None.
    """

    kind: str
    bodies: Sequence[bytes | None]
    take: Callable[[list[int]], Any]
    index: Any = None


def table_of(rows: Any, namer: Namer) -> Table | None:
    """``rows`` taken apart, or None for a container that is not known.

    A lazy frame of polars is collected here, once.

    Examples
    --------
    >>> table = table_of([{"a": 1}, {"a": 2}], Namer())
    >>> table.take([1])
    [{'a': 2}]
    """
    if type(rows) in {list, tuple}:
        return Table(type(rows).__name__, namer.each(rows), partial(_items, rows))
    if is_array(rows):
        if not rows.ndim:
            return None
        named = namer.vectors(rows) if rows.ndim > 1 else namer.each(rows)
        return Table("array", named, rows.__getitem__)
    return _frame(rows, namer)


def _frame(rows: Any, namer: Namer) -> Table | None:
    import narwhals as nw

    frame: Any = nw.from_native(rows, pass_through=True)
    lazy = isinstance(frame, nw.LazyFrame) and frame.implementation.is_polars()
    if lazy:
        frame = frame.collect()
    if not isinstance(frame, nw.DataFrame):
        return None
    bodies = namer.rows(*columns_of(frame.to_native()))
    if lazy:
        return Table("lazy:polars", bodies, partial(_lazy_rows, frame))
    kind = f"frame:{frame.implementation}"
    return Table(kind, bodies, partial(_rows, frame), nw.maybe_get_index(frame))


def _items(rows: Any, places: list[int]) -> Any:
    return type(rows)(rows[place] for place in places)


def _rows(frame: Any, places: list[int]) -> Any:
    return frame[places].to_native()


def _lazy_rows(frame: Any, places: list[int]) -> Any:
    return frame[places].lazy().to_native()
