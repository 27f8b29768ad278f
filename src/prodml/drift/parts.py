"""Data that comes in parts: batch after batch, so that no more than a few are ever held."""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

__all__ = ["PART_ROWS", "columns_of", "is_lazy", "parts_of"]

PART_ROWS: int = 1 << 17
"""Rows of a part: enough that counting costs more than handing over."""


def is_lazy(data: Any) -> bool:
    """Whether ``data`` is a lazy frame that narwhals knows: polars, DuckDB, Ibis, Spark, ...

    Examples
    --------
    >>> import polars as pl
    >>> is_lazy(pl.LazyFrame({"x": [1.0]})), is_lazy({"x": [1.0]})
    (True, False)
    """
    if type(data).__module__ in {"builtins", "numpy"}:
        # Arrays, dictionaries and lists, without asking about twelve libraries.
        return False
    import narwhals as nw

    try:
        frame: Any = nw.from_native(data, pass_through=True)
    except nw.exceptions.DuplicateError:
        # Two columns of one name: who reads the table says so.
        return False
    return isinstance(frame, nw.LazyFrame)


def parts_of(
    data: Any, columns: Sequence[str] | None = None, *, rows: int = PART_ROWS
) -> Iterator[Any] | None:
    """``data`` as an iterator of tables, in order or not; None if it does not come in parts.

    Parameters
    ----------
    data
        A lazy frame of polars, DuckDB or Ibis; a record batch reader, dataset, scanner or
        Parquet file of pyarrow; or the :class:`~pathlib.Path` of a Parquet file or of a
        folder of them.
    columns
        Only these are read.
    rows
        About how many a part holds.

    Examples
    --------
    >>> import polars as pl
    >>> parts = parts_of(pl.LazyFrame({"x": range(1000), "y": 0}), ["x"], rows=300)
    >>> frames = list(parts)
    >>> sum(len(frame) for frame in frames), frames[0].columns
    (1000, ['x'])
    """
    data = _opened(data)
    chosen = None if columns is None else list(columns)
    root = type(data).__module__.partition(".")[0]
    if root == "pyarrow":
        return _of_arrow(data, chosen, rows)
    return _of_lazy(data, chosen, rows) if is_lazy(data) else None


def columns_of(data: Any) -> list[str]:
    """Names of the columns of what :func:`parts_of` takes.

    Examples
    --------
    >>> import pyarrow
    >>> columns_of(pyarrow.table({"x": [1.0], "y": [2.0]}).to_reader())
    ['x', 'y']
    """
    import narwhals as nw

    data = _opened(data)
    for name in ("projected_schema", "schema_arrow", "schema"):
        names = getattr(getattr(data, name, None), "names", None)
        if isinstance(names, list):
            return names
    frame: Any = nw.from_native(data)
    return list(frame.collect_schema().names())


def _opened(data: Any) -> Any:
    if not isinstance(data, os.PathLike):
        return data
    from pyarrow import dataset

    return dataset.dataset(data, format="parquet")


def _of_arrow(data: Any, columns: list[str] | None, rows: int) -> Iterator[Any] | None:
    if hasattr(data, "iter_batches"):
        return _tables(data.iter_batches(batch_size=rows, columns=columns))
    if hasattr(data, "read_next_batch"):
        return _tables(data, columns)
    if hasattr(data, "scanner"):
        # Few batches ahead: the default holds dozens of them, whatever they weigh.
        return _tables(
            data.to_batches(
                batch_size=rows, columns=columns, batch_readahead=2, fragment_readahead=1
            )
        )
    if hasattr(data, "projected_schema"):
        return _tables(data.to_batches(), columns)
    return None


def _tables(batches: Any, columns: list[str] | None = None) -> Iterator[Any]:
    from pyarrow import Table

    for batch in batches:
        table = Table.from_batches([batch])
        yield table if columns is None else table.select(columns)


def _of_lazy(data: Any, columns: list[str] | None, rows: int) -> Iterator[Any] | None:
    import narwhals as nw

    frame: Any = nw.from_native(data)
    native: Any = frame.to_native() if columns is None else frame.select(columns).to_native()
    if hasattr(native, "collect_batches"):
        yielded: Iterator[Any] = iter(native.collect_batches(chunk_size=rows, maintain_order=False))
        return yielded
    for name in ("to_arrow_reader", "fetch_record_batch"):
        if hasattr(native, name):
            return _read(getattr(native, name)(rows))
    if hasattr(native, "to_pyarrow_batches"):
        return _read(native.to_pyarrow_batches(chunk_size=rows))
    return None


def _read(reader: Any) -> Iterator[Any]:
    """The reader is closed whatever happens: an open one may block its connection."""
    try:
        yield from _tables(reader)
    finally:
        with suppress(AttributeError):
            reader.close()
