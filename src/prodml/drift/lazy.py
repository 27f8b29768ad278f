"""A batch that lies in an engine is counted there: rows are never collected.

Of a column of numbers the engine is asked how many rows are at most each of about a hundred
edges of the reference's cells, how many are missing, infinite or not whole, and for the
extremes: sums of comparisons, which every engine does alike, to the last bit.  Levels are
counted by group.  What cannot be asked for in these words (times, decimals, lists) is read
in parts, and counted here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any, TypeAlias

import numpy as np

from prodml.drift.cells import Cells
from prodml.drift.engines import engine_of
from prodml.drift.layout import Layout
from prodml.drift.parts import columns_of, is_lazy, parts_of
from prodml.drift.reading import levels_in
from prodml.drift.reference import Reference, ReferenceColumn, Sample, updated
from prodml.drift.sample import MOST_LEVELS, Levels, Numbers, cells_of
from prodml.drift.table import Counted, Table, table_of
from prodml.errors import BadConfiguration
from prodml.types import is_missing

__all__ = ["EDGES", "AtEdges", "Unread", "batch_of", "counted", "counted_at"]

EDGES: int = 100
"""Edges a column: distances are then at most about 1 % of the rows off, and say so."""

Answer: TypeAlias = Mapping[str, Any]


class Unread:
    """A column that could not be counted: who reads it learns why.

    Examples
    --------
    >>> list(Unread(ValueError("no such function")))
    Traceback (most recent call last):
        ...
    ValueError: no such function
    """

    def __init__(self, error: Exception) -> None:
        self.error: Exception = error

    def __iter__(self) -> Any:
        raise self.error


def batch_of(data: Any, reference: Reference) -> tuple[Reference, Table]:
    """``data`` as a table whose columns are counted already, if it does not lie here.

    Returns
    -------
    tuple
        The reference to compare with, and the table.  Samples of an exact reference are
        counted in cells where the batch is.

    Raises
    ------
    TypeError
        ``data`` is no table.

    Examples
    --------
    >>> import polars as pl
    >>> reference = Reference.fit({"x": [1.0, 2.0]}, exact=False)
    >>> _, table = batch_of(pl.LazyFrame({"x": [1.5, None]}), reference)
    >>> table.columns["x"].rows, table.columns["x"].missing
    (2, 1)
    """
    door = engine_of(data, "counted")
    if door is not None:
        data = door(data, reference)
    if isinstance(data, Reference):
        raw: dict[str, Any] = {name: column.sample for name, column in data.columns.items()}
    elif is_lazy(data):
        raw = _columns(data, reference, EDGES)
    elif parts_of(data) is not None:
        raw = _of_parts(data, reference)
    else:
        return reference, table_of(data, reference.names)
    alike = _counted_alike(reference, raw)
    return alike, Table({name: _checked(alike.columns.get(name), raw[name]) for name in raw})


def _checked(column: ReferenceColumn | None, sample: Any) -> Any:
    """``sample``, or why it cannot be compared with the column."""
    if column is None or isinstance(sample, Unread):
        return sample
    if isinstance(column.sample, Levels) != isinstance(sample, Levels):
        told = f"{column.name!r} is {column.kind} in the reference, and was counted otherwise"
        return Unread(BadConfiguration(f"{told}: count it like the reference"))
    if not isinstance(column.sample, Cells):
        return sample
    if isinstance(sample, Numbers):
        return sample.counted(column.sample.layout)
    if sample.layout != column.sample.layout:
        told = f"{column.name!r} was counted in other cells than the reference"
        return Unread(BadConfiguration(f"{told}: count it like the reference"))
    return sample


def counted(data: Any, like: Reference, *, edges: int = EDGES) -> Reference:
    """Count ``data`` where the cells of ``like`` lie, without collecting its rows.

    Parameters
    ----------
    data
        A lazy frame of any library that narwhals knows, or data that comes in parts (see
        :func:`~prodml.drift.parts.parts_of`), which are counted in all cells.
    like
        The reference, exact or counted.
    edges
        How many a column a lazy frame is asked for, at least 10.

    Returns
    -------
    Reference
        The counts of the batch, to give to ``detect_drift``, to keep, or to add to others
        that were counted at the same edges.

    Raises
    ------
    BadConfiguration
        ``data`` lacks a feature, or ``edges`` is too small.
    TypeError
        ``data`` is none of these.

    Examples
    --------
    >>> import polars as pl
    >>> reference = Reference.fit({"x": [1.0, 2.0, 3.0]}, exact=False)
    >>> counted(pl.LazyFrame({"x": [1.5, 9.0, None]}), reference).columns["x"].sample.maximum
    9.0
    """
    like = like.counted()
    if not is_lazy(data):
        return _in_parts(data, like)
    _check(edges)
    found = _columns(data, like, edges)
    absent = [name for name in like.names if name not in found]
    if absent:
        raise BadConfiguration(f"the frame has no column {absent[0]!r}")
    for sample in found.values():
        if isinstance(sample, Unread):
            raise sample.error
    return Reference(
        {
            name: replace(column, sample=found[name], design={})
            for name, column in like.columns.items()
        }
    )


def _check(edges: Any) -> None:
    if not (isinstance(edges, int) and edges >= 10):
        raise BadConfiguration(f"edges must be a whole number >= 10, not {edges!r}")


def _in_parts(data: Any, like: Reference) -> Reference:
    parts = parts_of(data, like.names)
    if parts is None:
        raise TypeError(f"neither lazy nor in parts: {type(data).__name__}")
    state = Reference.empty(like)
    for part in parts:
        state = state.update(part)
    return state


def _of_parts(data: Any, reference: Reference) -> dict[str, Any]:
    names = columns_of(data)
    found: dict[str, Any] = dict.fromkeys(names)
    if len(found) < len(names):
        raise TypeError(f"two columns of one name: {', '.join(names):.80}")
    present = {name: column for name, column in reference.columns.items() if name in found}
    state: dict[str, Any] = dict(Reference.empty(Reference(present).counted()).columns)
    for part in parts_of(data, list(present)) or ():
        raw = table_of(part).columns
        state = {name: _more(column, raw[name]) for name, column in state.items()}
    return found | {name: getattr(column, "sample", column) for name, column in state.items()}


def _more(column: "ReferenceColumn | Unread", raw: Any) -> "ReferenceColumn | Unread":
    if isinstance(column, Unread):
        return column
    try:
        return updated(column, raw)
    except BadConfiguration as error:
        # One column that cannot be read must not cost the others.
        return Unread(error)


def _counted_alike(reference: Reference, raw: Mapping[str, Any]) -> Reference:
    """Numbers are compared with numbers, and cells with cells."""
    numbers = any(
        isinstance(column.sample, Numbers) and isinstance(raw.get(name), Cells)
        for name, column in reference.columns.items()
    )
    return reference.counted() if numbers else reference


def _columns(data: Any, reference: Reference, edges: int) -> dict[str, Any]:
    """Sample by name, an :class:`Unread`, or None for a column that is no feature."""
    import narwhals as nw

    frame: Any = nw.from_native(data)
    schema = frame.collect_schema()
    found: dict[str, Any] = dict.fromkeys(schema.names())
    like = reference.counted()
    asked = [
        _asked(i, like.columns[name], schema[name], edges)
        for i, name in enumerate(found)
        if name in like.columns
    ]
    answer = _answers(frame, [question for question in asked if question.exprs()])
    for question in asked:
        found[question.column.name] = _settled(question, frame, answer)
    return found


def _settled(question: "_Question", frame: Any, answer: Answer) -> "Sample | Unread":
    failed = answer.get(question.column.name)
    if failed is not None:
        return Unread(failed)
    try:
        return question.settle(frame, answer)
    except Exception as error:
        # One column that the engine cannot count must not cost the others.
        return Unread(error)


def _answers(frame: Any, questions: "Sequence[_Question]") -> Answer:
    """One query for all columns; one each if it fails, so that it is known whose fault it is.

    An error stands under the name of the column.
    """
    if not questions:
        return {}
    try:
        exprs = [expr for question in questions for expr in question.exprs()]
        return dict(_rows(frame.select(*exprs))[0])
    except Exception as error:
        if len(questions) == 1:
            return {questions[0].column.name: error}
    found: dict[str, Any] = {}
    for question in questions:
        found |= _answers(frame, [question])
    return found


def _rows(frame: Any) -> list[dict[str, Any]]:
    import narwhals as nw

    # Polars would hold whole columns; its other engine works through them in pieces.
    lazily = {"engine": "streaming"} if frame.implementation is nw.Implementation.POLARS else {}
    rows: list[dict[str, Any]] = frame.collect(**lazily).rows(named=True)
    return rows


@dataclass(frozen=True, slots=True)
class _Question:
    """Read in parts, whatever it is."""

    index: int
    column: ReferenceColumn
    dtype: Any

    def exprs(self) -> list[Any]:
        """What is asked for together with the other columns."""
        return []

    def settle(self, frame: Any, answer: Answer) -> Sample:  # noqa: ARG002
        """The sample, from the answer and from further questions."""
        name = self.column.name
        parts = parts_of(frame.to_native(), [name])
        if parts is None:
            engine = frame.implementation
            raise TypeError(f"{self.dtype} cannot be counted in a lazy frame of {engine}")
        state = Reference.empty(Reference({name: self.column}))
        for part in parts:
            state = state.update(part)
        return state.columns[name].sample

    def named(self, what: str) -> str:
        """Column of the answer."""
        return f"c{self.index}_{what}"

    def number(self, answer: Answer, what: str) -> int:
        """A count: engines call it an integer, a decimal, or nothing where no row was."""
        return int(answer[self.named(what)] or 0)

    def values(self) -> Any:
        """The column as doubles, which all engines compare alike."""
        import narwhals as nw

        return nw.col(self.column.name).cast(nw.Float64)

    def gone(self) -> list[Any]:
        """Rows, and rows without a value."""
        import narwhals as nw

        column = nw.col(self.column.name)
        found = [
            nw.len().alias(self.named("rows")),
            column.is_null().sum().alias(self.named("null")),
        ]
        if self.dtype.is_float():
            found.append(self.values().is_nan().sum().alias(self.named("nan")))
        return found

    def rows_and_missing(self, answer: Answer) -> tuple[int, int]:
        """Counts of :meth:`gone`."""
        nan = self.number(answer, "nan") if self.dtype.is_float() else 0
        return self.number(answer, "rows"), self.number(answer, "null") + nan


@dataclass(frozen=True, slots=True)
class _Numbers(_Question):
    edges: Any

    def exprs(self) -> list[Any]:
        import narwhals as nw

        x = self.values()
        finite = x.is_finite()
        inner = nw.when(finite).then(x)
        found = {
            "above": (x == inf).sum(),
            "below": (x == -inf).sum(),
            "fractional": (finite & (x.round(0) != x)).sum(),
        }
        found = found if self.dtype.is_float() else {}
        found |= {"low": inner.min(), "high": inner.max()}
        found |= {f"e{i}": (x <= edge).sum() for i, edge in enumerate(self.edges.tolist())}
        return self.gone() + [expr.alias(self.named(what)) for what, expr in found.items()]

    def settle(self, frame: Any, answer: Answer) -> Sample:  # noqa: ARG002
        rows, missing = self.rows_and_missing(answer)
        names = ("above", "below", "fractional") if self.dtype.is_float() else ()
        others = {name: self.number(answer, name) for name in names}
        upto = [self.number(answer, f"e{i}") for i in range(len(self.edges))]
        low, high = answer[self.named("low")], answer[self.named("high")]
        sample = self.column.sample
        assert isinstance(sample, Cells)
        return Cells.at_edges(
            sample.layout,
            self.edges,
            np.array(upto, dtype=np.int64) - others.get("below", 0),
            rows=rows,
            missing=missing,
            minimum=np.nan if low is None else float(low) + 0.0,
            maximum=np.nan if high is None else float(high) + 0.0,
            **others,
        )


@dataclass(frozen=True, slots=True)
class _Strange(_Question):
    """Text where numbers were: nobody needs to know which."""

    def exprs(self) -> list[Any]:
        return self.gone()

    def settle(self, frame: Any, answer: Answer) -> Sample:  # noqa: ARG002
        rows, missing = self.rows_and_missing(answer)
        text = {"text": rows - missing} if rows > missing else {}
        return _as_expected(self.column, Counted(text, missing))


@dataclass(frozen=True, slots=True)
class _Levels(_Question):
    def exprs(self) -> list[Any]:
        return self.gone()

    def settle(self, frame: Any, answer: Answer) -> Sample:
        import narwhals as nw

        rows, missing = self.rows_and_missing(answer)
        level = nw.col(self.column.name)
        if self.dtype in (nw.Categorical, nw.Enum):
            level = level.cast(nw.String)
        groups = frame.select(level=level).group_by("level").agg(count=nw.len())
        # One more than are counted: so it is seen that there are too many.
        found = _rows(groups.head(MOST_LEVELS + 2))
        counts: dict[Any, int] = {}
        for row in found:
            if not is_missing(row["level"]):
                counts[row["level"]] = counts.get(row["level"], 0) + int(row["count"])
        if len(counts) > MOST_LEVELS:
            return Levels({}, rows, missing, rest=rows - missing)
        return _as_expected(self.column, Counted(counts, missing))


def _as_expected(column: ReferenceColumn, found: Counted) -> Sample:
    if isinstance(column.sample, Cells):
        return cells_of(found, column.sample.layout)
    return levels_in(found)


def _asked(index: int, column: ReferenceColumn, dtype: Any, edges: int) -> _Question:
    import narwhals as nw

    plain = dtype.is_integer() or dtype.is_float()
    # Not a set: a dtype with parameters equals its class, but hashes otherwise.
    text = dtype in (nw.String, nw.Categorical, nw.Enum)
    if isinstance(column.sample, Cells):
        if plain and not column.sample.temporal:
            return _Numbers(index, column, dtype, _edges(column.sample, edges))
        if text:
            return _Strange(index, column, dtype)
        if dtype == nw.Boolean:
            return _Levels(index, column, dtype)
    elif plain or text or dtype == nw.Boolean:
        return _Levels(index, column, dtype)
    return _Question(index, column, dtype)


def _edges(sample: Cells, count: int) -> Any:
    if sample.marks is None:
        return sample.edges(count)
    # The reference was counted at edges itself: nothing is known between them.
    edges = sample.layout.upper(sample.marks)
    return edges[np.isfinite(edges)]


@dataclass(frozen=True, slots=True)
class AtEdges:
    """A column of numbers of which is known how many are at or below some edges, exactly.

    Examples
    --------
    >>> sample = AtEdges(np.array([0.0, 1.0]), np.array([2, 5]), rows=9, missing=1, infinite=1)
    >>> sample.size, sample.cumulative([1.0]).tolist()
    (7, [5])
    """

    edges: Any
    upto: Any
    rows: int
    missing: int = 0
    infinite: int = 0
    invalid: int = 0

    @property
    def size(self) -> int:
        """Rows that hold a finite number."""
        return self.rows - self.missing - self.infinite - self.invalid

    def cumulative(self, edges: Any) -> Any:
        """Finite values at or below each of some of the edges."""
        return self.upto[np.searchsorted(self.edges, edges)]


@dataclass(frozen=True, slots=True)
class _Exactly(_Numbers):
    """Numbers at edges that need be no ends of cells."""

    def settle(self, frame: Any, answer: Answer) -> Any:  # noqa: ARG002
        rows, missing = self.rows_and_missing(answer)
        fractions = self.dtype.is_float()
        above, below = (
            self.number(answer, name) if fractions else 0 for name in ("above", "below")
        )
        upto = [self.number(answer, f"e{i}") - below for i in range(len(self.edges))]
        return AtEdges(
            self.edges, np.array(upto, dtype=np.int64), rows, missing, infinite=above + below
        )


def counted_at(
    data: Any, reference: Reference, edges: Mapping[str, Any]
) -> "dict[str, Sample | AtEdges | Unread | None]":
    """Features of a lazy frame, counted where it lies, numbers at ``edges`` of one's own.

    Returns
    -------
    dict
        By name, for the features that the frame has.  None is a column for which no engine
        can be asked in sums of comparisons (times, decimals): read it in parts.

    Examples
    --------
    >>> import polars as pl
    >>> reference = Reference.fit({"x": [1.0, 2.0]})
    >>> found = counted_at(pl.LazyFrame({"x": [1.5, None]}), reference, {"x": np.array([1.0, 2.0])})
    >>> found["x"].upto.tolist(), found["x"].missing
    ([0, 1], 1)
    """
    import narwhals as nw

    frame: Any = nw.from_native(data)
    schema = frame.collect_schema()
    found: dict[str, Any] = {name: None for name in schema.names() if name in reference.columns}
    asked = [
        question
        for i, name in enumerate(found)
        if (question := _asked_at(i, reference.columns[name], schema[name], edges.get(name)))
    ]
    answer = _answers(frame, asked)
    return found | {one.column.name: _settled(one, frame, answer) for one in asked}


def _asked_at(index: int, column: ReferenceColumn, dtype: Any, edges: Any) -> "_Question | None":
    import narwhals as nw

    numbers = dtype.is_integer() or dtype.is_float() or dtype == nw.Boolean
    if edges is not None and numbers:
        return _Exactly(index, column, dtype, edges)
    if edges is not None and dtype in (nw.String, nw.Categorical, nw.Enum):
        return _Strange(index, replace(column, sample=Cells(layout=Layout())), dtype)
    question = _asked(index, column, dtype, EDGES) if column.kind == "categorical" else None
    return question if isinstance(question, _Levels) else None
