"""Frames of PySpark, counted where their partitions are (extra ``spark``).

Every task counts the Arrow batches of its partition as numpy counts them anywhere else, and
sends one small state; the states are added.  No row is collected, and pandas is not needed.
The executors need prodml, as they need any package that a function of yours uses.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial, reduce
from operator import add
from typing import Any

from prodml.drift import Reference
from prodml.drift.layout import Layout
from prodml.drift.outline import Outline, awaited, named, outline_of, planned
from prodml.drift.packed import packed, unpacked
from prodml.drift.sample import Kind

__all__ = ["counted", "fit"]

_MERGERS = 4
_FIRST = 1 << 14
# The lower bits of the number of a row are its place in the partition.
_IS_FIRST = f"monotonically_increasing_id() % {1 << 33} < {_FIRST}"


def counted(frame: Any, like: Reference) -> Reference:
    """Count the rows of ``frame`` in the cells of ``like``: the same to the last bit as here.

    Parameters
    ----------
    frame
        A ``pyspark.sql.DataFrame``, with Spark Connect or without.
    like
        A reference; only its features are read.

    Returns
    -------
    Reference
        To give to ``detect_drift`` (which calls this for a frame of Spark), to keep, or to
        add to those of other days.

    Raises
    ------
    BadConfiguration
        The frame lacks a feature.

    Examples
    --------
    >>> today = counted(spark.read.parquet("today"), detector.reference)  # doctest: +SKIP
    >>> detector.detect_drift(today).drifted  # doctest: +SKIP
    ('fare',)
    """
    empty = awaited(frame.columns, like)
    return _summed(_renamed(frame, empty.names), empty)


def fit(
    frame: Any,
    feature_names: Sequence[str] | None = None,
    *,
    kinds: Mapping[str, Kind] | None = None,
    layouts: Mapping[str, Layout] | None = None,
) -> Reference:
    """Fit a reference to ``frame``, counted in cells; see :meth:`Reference.fit`.

    Two passes: the first rows of every partition say where the cells should lie, and all
    rows are counted.

    Parameters
    ----------
    layouts
        Layout by feature.  Those of a reference that was fitted elsewhere give the same
        bits here as there, and make the sum of both possible.

    Raises
    ------
    BadConfiguration
        The frame has no row, or lacks a feature.

    Examples
    --------
    >>> reference = fit(spark.read.parquet("train"))  # doctest: +SKIP
    >>> reference.save("reference.json")  # doctest: +SKIP
    """
    names = named(frame.columns, feature_names)
    renamed = _renamed(frame, names)
    drawn = _mapped(renamed.where(_IS_FIRST), partial(_draw, names=names))
    return _summed(renamed, planned([_outline(found) for found in drawn], kinds, layouts))


def _renamed(frame: Any, names: Sequence[str]) -> Any:
    """The columns by number: Spark takes a dot in a name for a field of a structure."""
    quoted = [name.replace("`", "``") for name in names]
    return frame.selectExpr(*[f"`{name}` AS c{i}" for i, name in enumerate(quoted)])


def _summed(frame: Any, empty: Reference) -> Reference:
    states = frame.mapInArrow(partial(_count, empty=packed(empty)), "state binary")
    # A few tasks add the states of many partitions, so that the driver sees few.
    few = states.repartition(_MERGERS).mapInArrow(_merge, "state binary")
    return reduce(add, (unpacked(row.state) for row in few.collect()), empty)


def _mapped(frame: Any, function: Callable[..., Any]) -> list[bytes]:
    return [row.state for row in frame.mapInArrow(function, "state binary").collect()]


def _count(batches: Iterable[Any], empty: bytes) -> Iterator[Any]:
    state = start = unpacked(empty)
    for batch in batches:
        state = state.update(_table(batch, start.names))
    if state is not start:
        yield _batch(packed(state))


def _merge(batches: Iterable[Any]) -> Iterator[Any]:
    states = (unpacked(data) for batch in batches for data in batch.column(0).to_pylist())
    first = next(states, None)
    if first is not None:
        yield _batch(packed(reduce(add, states, first)))


def _draw(batches: Iterable[Any], names: Sequence[str]) -> Iterator[Any]:
    """Outline of the first batch that has rows."""
    import msgspec

    drawn = False
    # To the end: Spark ends a worker that leaves something, and a new one has to import all.
    for batch in batches:
        if batch.num_rows and not drawn:
            drawn, outline = True, outline_of(_table(batch, names), names)
            quantiles = {name: found.tolist() for name, found in outline.quantiles.items()}
            yield _batch(msgspec.msgpack.encode([dict(outline.kinds), quantiles]))


def _table(batch: Any, names: Sequence[str]) -> Any:
    from pyarrow import Table

    return Table.from_batches([batch]).rename_columns(list(names))


def _outline(data: bytes) -> Outline:
    import msgspec
    import numpy as np

    kinds, quantiles = msgspec.msgpack.decode(data)
    return Outline(kinds, {name: np.array(found) for name, found in quantiles.items()})


def _batch(state: bytes) -> Any:
    from pyarrow import RecordBatch, array, binary

    return RecordBatch.from_arrays([array([state], type=binary())], names=["state"])
