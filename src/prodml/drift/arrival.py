"""What comes to a monitor, as counts: rows, tables, and data that lie elsewhere.

A table in memory is counted column by column.  A lazy frame is asked for the counts at the
monitor's own edges, where it lies, and data that come in parts are counted part by part: no
more than a part is ever held, and the counts are those of memory to the last bit.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

import numpy as np

from prodml.drift.baseline import Baseline, codes_of, taken
from prodml.drift.cells import Cells
from prodml.drift.engines import engine_of
from prodml.drift.lazy import Unread, batch_of, counted_at
from prodml.drift.parts import columns_of, is_lazy, parts_of
from prodml.drift.reference import Reference, ReferenceColumn
from prodml.drift.sequential import Watched
from prodml.drift.table import Table, table_of
from prodml.errors import BadConfiguration
from prodml.types import MISS

__all__ = ["Arrival", "arrived", "in_order", "lies_here", "of_rows"]

Counts: TypeAlias = Mapping[str, list[Any]]


@dataclass(frozen=True, slots=True)
class Arrival:
    """A batch as counts.

    Parameters
    ----------
    counts
        Counts by track of each feature, for each season that has rows.
    gone
        Features that the batch does not have, and why.
    unread
        Features that cannot be counted, and why.
    columns
        Names of all columns of the batch.
    table
        The batch itself where it lies in memory, for those who look at the order of rows.

    Examples
    --------
    >>> from prodml.drift.baseline import baseline
    >>> base = baseline({"x": [float(i) for i in range(100)]})
    >>> arrived(base, {"y": [1.0]}).gone
    {'x': 'the column is gone'}
    """

    counts: Sequence[Counts] = ()
    gone: Mapping[str, str] = field(default_factory=dict[str, str])
    unread: Mapping[str, str] = field(default_factory=dict[str, str])
    columns: Sequence[str] = ()
    table: Mapping[str, Any] | None = None

    @property
    def rows(self) -> bool:
        """Whether anything was counted, or something hindered it."""
        counted = any(one.any() for part in self.counts for found in part.values() for one in found)
        return counted or bool(self.gone or self.unread)


def lies_here(data: Any) -> bool:
    """Whether ``data`` is a table in memory, whose rows have an order.

    Examples
    --------
    >>> import polars as pl
    >>> lies_here({"x": [1.0]}), lies_here(pl.LazyFrame({"x": [1.0]}))
    (True, False)
    """
    if isinstance(data, Mapping | list | tuple | np.ndarray):
        return True
    elsewhere = isinstance(data, Reference | Iterator) or engine_of(data, "counted") is not None
    if elsewhere:
        return False
    return not is_lazy(data) and parts_of(data) is None


def arrived(base: Baseline, batch: Any, season: Any = None) -> Arrival:
    """Count ``batch``; see :meth:`~prodml.drift.DriftMonitor.check` for what it may be.

    Raises
    ------
    TypeError
        It is no table.
    BadConfiguration
        No such season; labels that do not fit the rows, or for rows that lie elsewhere.
    """
    if lies_here(batch):
        return _of_table(base, _held(table_of(batch, base.names)), season)
    if _by_row(season):
        raise BadConfiguration("one season a row needs the rows in memory: give one for the batch")
    at = base.season(season)
    if is_lazy(batch) and engine_of(batch, "counted") is None:
        return _of_lazy(base, batch, at)
    parts = None if isinstance(batch, Reference) else parts_of(batch, _present(base, batch))
    if parts is not None:
        return _of_parts(base, parts, at, columns_of(batch))
    return _of_engine(base, batch, at)


# -- in memory ------------------------------------------------------------------------------


def _of_table(base: Baseline, table: Table, season: Any) -> Arrival:
    unread: dict[str, str] = {}
    counts = [
        _counted(base, table.columns, at, rows, unread)
        for at, rows in _portions(base, table, season)
    ]
    why = f"the batch has {table.misfit}" if table.misfit else "the column is gone"
    absent = base.names if table.columns or table.misfit else ()
    return Arrival(
        [_without(one, unread) for one in counts],
        {name: why for name in absent if name not in table.columns},
        unread,
        tuple(table.columns),
        table.columns,
    )


def _without(counts: Counts, unread: Mapping[str, str]) -> Counts:
    """A column of which some could not be read was not counted at all."""
    return {name: found for name, found in counts.items() if name not in unread}


def _held(table: Table) -> Table:
    """Columns that can be read only once, as lists."""
    columns = table.columns
    # Other tables make their columns when asked: there nothing is read once.
    listed = columns.items() if isinstance(columns, dict) else ()
    once = {n: list(raw) for n, raw in listed if hasattr(raw, "__next__")}
    return Table({**columns, **once}, table.misfit) if once else table


def _by_row(season: Any) -> bool:
    return hasattr(season, "__len__") and not isinstance(season, str | bytes)


def _portions(base: Baseline, table: Table, season: Any) -> list[tuple[int, Any]]:
    """Place of each season that the batch has, and its rows; None are all."""
    if not table.columns:
        return []
    if not _by_row(season):
        return [(base.season(season), None)]
    try:
        labels, codes = codes_of(season)
    except TypeError as error:
        raise BadConfiguration(f"a season must be a label: {error}") from error
    return [
        (base.season(label), (np.nonzero(codes == code)[0], len(codes)))
        for code, label in enumerate(labels)
    ]


def _counted(
    base: Baseline, columns: Mapping[str, Any], season: int, rows: Any, unread: dict[str, str]
) -> dict[str, list[Any]]:
    """Counts by feature; what cannot be read stands in ``unread`` and costs the others nothing."""
    found: dict[str, list[Any]] = {}
    for name, one in base.features.items():
        if name not in columns:
            continue
        try:
            raw = columns[name] if rows is None else taken(columns[name], *rows)
            found[name] = _counts(one, base.columns[name], raw, season)
        except BadConfiguration:
            raise
        except Exception as error:
            unread[name] = f"cannot be read: {type(error).__name__}: {error}"
    return found


def _counts(one: Watched, column: ReferenceColumn, raw: Any, season: int) -> list[Any]:
    return one.count(column.read(raw), season)


def in_order(row: Any, names: Sequence[str]) -> list[Any]:
    """Values of one row in the order of ``names``: copied, so that the row may be used again.

    What is no row has no values.

    Examples
    --------
    >>> in_order({"b": 2, "c": 3}, ("b",)), in_order((1, 2), ("a", "b"))
    ([2], [1, 2])
    """
    try:
        if isinstance(row, Mapping):
            get = cast("Mapping[str, Any]", row).get
            return [get(name, MISS) for name in names]
        if isinstance(row, list | tuple | np.ndarray) and len(row) == len(names):
            return row.tolist() if isinstance(row, np.ndarray) else list(cast("Any", row))
    except Exception:
        # A row of a kind that fails when it is read is one without values.
        return [MISS] * len(names)
    return [MISS] * len(names)


def of_rows(base: Baseline, rows: Sequence[Sequence[Any]], season: int) -> Arrival:
    """Count rows that :func:`in_order` gave."""
    columns = dict(zip(base.names, map(list, zip(*rows, strict=True)), strict=True))
    unread: dict[str, str] = {}
    return Arrival([_counted(base, columns, season, None, unread)], unread=unread)


# -- elsewhere --------------------------------------------------------------------------------


def _present(base: Baseline, batch: Any) -> list[str]:
    if isinstance(batch, Reference) or engine_of(batch, "counted") is not None:
        return []
    known = set(columns_of(batch)) if parts_of(batch) is not None else set[str]()
    return [name for name in base.names if name in known]


def _of_parts(base: Baseline, parts: Any, season: int, columns: Sequence[str]) -> Arrival:
    """Part by part; nothing is kept of a part but its counts."""
    unread: dict[str, str] = {}
    total: dict[str, list[Any]] = {}
    for part in parts:
        own = _counted(base, table_of(part).columns, season, None, unread)
        for name, counts in own.items():
            before = total.get(name)
            total[name] = (
                counts if before is None else [a + b for a, b in zip(before, counts, strict=True)]
            )
    gone = {name: "the column is gone" for name in base.names if name not in columns}
    return Arrival([_without(total, unread)], gone, unread, columns)


def _of_lazy(base: Baseline, frame: Any, season: int) -> Arrival:
    """Counts at the monitor's edges from the engine; what it cannot be asked for, by parts."""
    import narwhals as nw

    lazy: Any = nw.from_native(frame)
    columns = tuple(lazy.collect_schema().names())
    numbers = {name: one for name, one in base.features.items() if one.kind == "numeric"}
    edges = {name: _edges(one, season) for name, one in numbers.items()}
    samples = counted_at(frame, Reference(base.columns), edges)
    asked = _of_samples(base, samples, season, columns)
    rest = [name for name, sample in samples.items() if sample is None]
    if not rest:
        return asked
    try:
        read = _of_parts(base, _handed_out(frame, rest), season, base.names)
    except Exception as error:
        # What the engine does not hand out must not cost what it counted.
        told = f"cannot be read: {type(error).__name__}: {error}"
        read = Arrival([{}], unread=dict.fromkeys(rest, told))
    counts = {**asked.counts[0], **read.counts[0]}
    return Arrival([counts], asked.gone, {**asked.unread, **read.unread}, columns)


def _edges(one: Watched, season: int) -> Any:
    cuts = [track.cuts[season] for track in one.tracks if track.name == "numbers"]
    return cuts[0][np.isfinite(cuts[0])] if cuts else np.empty(0)


def _handed_out(frame: Any, names: list[str]) -> Any:
    parts = parts_of(frame, names)
    if parts is None:
        raise TypeError("the engine cannot count it, and does not hand out its rows")
    return parts


def _of_engine(base: Baseline, batch: Any, season: int) -> Arrival:
    """Counts that another process or another door made in the cells of the reference."""
    table = batch_of(batch, Reference(base.columns))[1]
    samples = {name: table.columns[name] for name in base.names if name in table.columns}
    return _of_samples(base, samples, season, tuple(table.columns))


def _of_samples(
    base: Baseline, samples: Mapping[str, Any], season: int, columns: Sequence[str]
) -> Arrival:
    unread: dict[str, str] = {}
    counts: dict[str, list[Any]] = {}
    for name, sample in samples.items():
        if sample is None:
            continue
        told = _amiss(base.features[name], base.columns[name], sample)
        if told:
            unread[name] = f"cannot be read: {told}"
        else:
            counts[name] = base.features[name].count(sample, season)
    gone = {name: "the column is gone" for name in base.names if name not in columns}
    return Arrival([counts], gone, unread, columns)


def _amiss(one: Watched, column: ReferenceColumn, sample: Any) -> str:
    """Why a sample does not say what the tracks want to know; empty if it does."""
    if isinstance(sample, Unread):
        return f"{type(sample.error).__name__}: {sample.error}"
    numbers = any(track.name == "numbers" for track in one.tracks)
    if not (numbers and isinstance(sample, Cells) and sample.size):
        return ""
    like = column.sample
    fits = isinstance(like, Cells) and like.layout == sample.layout and sample.shift <= like.shift
    cuts = one.tracks[0].cuts
    if fits and sample.marks is not None:
        marked = np.isin(sample.codes_of(cuts[np.isfinite(cuts)]), sample.marks)
        fits = bool(marked.all())
    return (
        ""
        if fits
        else (
            "it was counted in other cells than the reference: fit the monitor on a counted "
            "Reference, fit(..., exact=False), and count the batch like it"
        )
    )
