"""The reference, fitted once: what a detector compares every batch with."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np

from prodml.drift.blocks import block_codes
from prodml.drift.cells import Cells
from prodml.drift.engines import engine_of
from prodml.drift.fitting import (
    Plan,
    check_kinds,
    chosen,
    fitted_sample,
    names_of,
    table_like,
    unreadable,
)
from prodml.drift.layout import Layout
from prodml.drift.measures import Floats, reference_cells
from prodml.drift.parts import parts_of
from prodml.drift.reading import levels_in, of_one_sort, sum_of_levels
from prodml.drift.sample import Kind, Levels, Numbers, cells_of, numbers_of
from prodml.drift.table import column_of
from prodml.errors import BadConfiguration

if TYPE_CHECKING:
    from prodml.validation import Schema

__all__ = ["Reference", "ReferenceColumn", "Sample", "check_agrees", "updated"]

Sample: TypeAlias = Numbers | Cells | Levels
"""What is known of one column: sorted numbers, counts by cell, or counts by level."""

_BINS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceColumn:
    """One fitted feature: its sample, and the design effects that tests need.

    Examples
    --------
    >>> Reference.fit({"age": [30.0, 40.0, 50.0]}).columns["age"].kind
    'numeric'
    """

    name: str
    kind: Kind
    sample: Sample
    design: Mapping[str, float] = field(default_factory=dict[str, float])
    _cells: Floats | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def cells(self) -> Floats:
        """Upper edges of the ten cells that PSI and Jensen-Shannon count in; none for levels."""
        if self._cells is None:
            object.__setattr__(self, "_cells", _outer_edges(self.sample))
        return cast("Floats", self._cells)

    def _times(self) -> bool | None:
        """Whether points in time are right here; None where nobody knows yet."""
        if isinstance(self.sample, Levels) or self.kind == "time":
            return self.kind == "time"
        return self.sample.temporal if self.sample.size else None

    def read(self, raw: Any, *, add: bool = False) -> Sample:
        """``raw`` as a sample of this feature's kind, counted where the reference is.

        What is to be added later is counted in every respect; what is only compared, where
        it matters.
        """
        if isinstance(raw, Numbers | Cells | Levels):
            return raw
        column = column_of(raw)
        if isinstance(self.sample, Levels):
            return levels_in(column)
        column = of_one_sort(column, times=self._times())
        numbers = (
            numbers_of(column)
            if isinstance(self.sample, Numbers)
            else cells_of(column, self.sample.layout, whole=add or not self.sample.fractional)
        )
        if numbers.temporal == self.sample.temporal or not numbers.size or not self.sample.size:
            return numbers
        # A point in time is no number, even though both can be counted in seconds.
        wrong = numbers.rows - numbers.missing
        if isinstance(numbers, Cells):
            return Cells(
                layout=numbers.layout, rows=numbers.rows, missing=numbers.missing, invalid=wrong
            )
        return Numbers(np.empty(0), numbers.rows, numbers.missing, invalid=wrong)

    def __add__(self, other: "ReferenceColumn") -> "ReferenceColumn":
        """Both together."""
        if self.kind != other.kind:
            raise BadConfiguration(f"{self.name!r} is {self.kind} here and {other.kind} there")
        design = {
            aspect: max(self.design.get(aspect, 1.0), other.design.get(aspect, 1.0))
            for aspect in {**self.design, **other.design}
        }
        return replace(self, sample=_sum(self.sample, other.sample), design=design)


@dataclass(frozen=True, slots=True)
class Reference:
    """What is known of every feature: sorted samples or counts by cell, and counts by level.

    One artefact: what batches are compared with, what a schema is read off, and what adds
    up over days and machines.  Immutable: any number of detectors and threads may share it.

    Examples
    --------
    >>> reference = Reference.fit({"age": [30, 40], "plan": ["basic", "pro"]})
    >>> {name: column.kind for name, column in reference.columns.items()}
    {'age': 'numeric', 'plan': 'categorical'}

    Counted, it takes at most 64 kB a column for any number of rows, and parts add up to
    the same bits in any order.

    >>> monday = Reference.fit({"age": [30.0, 40.0]}, exact=False)
    >>> tuesday = Reference.empty(monday).update({"age": [50.0]})
    >>> (monday + tuesday).columns["age"].sample.size
    3
    """

    columns: Mapping[str, ReferenceColumn] = field(default_factory=dict[str, ReferenceColumn])

    @property
    def names(self) -> tuple[str, ...]:
        """Feature names in order."""
        return tuple(self.columns)

    @property
    def exact(self) -> bool:
        """Whether every numeric feature is kept as its sorted sample."""
        return not any(isinstance(column.sample, Cells) for column in self.columns.values())

    @property
    def layouts(self) -> dict[str, Layout]:
        """Where the cells of every numeric feature lie, to fit other parts alike."""
        found: dict[str, Layout] = {}
        for name, column in self.columns.items():
            if isinstance(column.sample, Cells):
                found[name] = column.sample.layout
            elif isinstance(column.sample, Numbers):
                found[name] = Layout.of(column.sample.values)
        return found

    @classmethod
    def fit(
        cls,
        data: Any,
        feature_names: Sequence[str] | None = None,
        *,
        kinds: Mapping[str, Kind] | None = None,
        blocks: Any = None,
        exact: bool = True,
        layouts: Mapping[str, Layout] | None = None,
    ) -> "Reference":
        """Fit ``data``; see :class:`DriftDetector` for the first four parameters.

        Parameters
        ----------
        data
            A table, or an iterator of tables (parts of one): each is read once and let go.
        exact
            Keep the sorted sample of numbers (eight bytes a number).  Otherwise they are
            counted in cells, whose layout the first part decides.
        layouts
            Layout by feature, those of another reference say, so that parts fitted apart
            add up; means ``exact=False``.

        Raises
        ------
        BadConfiguration
            ``data`` is no table, has no columns or other columns than ``feature_names``, or
            a column that cannot be read; a name is given twice; ``kinds`` or ``layouts`` name
            an unknown feature; too few blocks, or blocks together with parts.

        Examples
        --------
        >>> Reference.fit([[1.0, 2.0], [3.0, 4.0]], ["a", "b"]).names
        ('a', 'b')
        >>> days = ({"x": [float(day), day + 1.0]} for day in range(7))
        >>> Reference.fit(days, exact=False).columns["x"].sample.rows
        14
        """
        door = engine_of(data, "fit")
        if door is not None:
            if blocks is not None:
                raise BadConfiguration("blocks need the whole reference here, not on an engine")
            found: Reference = door(data, feature_names, kinds=kinds, layouts=layouts)
            return found
        parts = parts_of(data, feature_names)
        if parts is not None:
            # What does not lie here is not kept here either.
            data, exact = parts, False
        if isinstance(data, Iterator):
            return _fit_parts(data, feature_names, kinds, blocks, exact=exact, layouts=layouts)
        names = names_of(feature_names)
        raw = chosen(table_like(data, names), names)
        check_kinds(kinds or {}, raw)
        codes = None if blocks is None else block_codes(blocks)
        plan = Plan(kinds or {}, layouts or {}, exact=exact and not layouts)
        plan.check(raw)
        columns: dict[str, ReferenceColumn] = {}
        for name, values in raw.items():
            kind, sample, design = fitted_sample(name, values, plan, codes)
            columns[name] = ReferenceColumn(name=name, kind=kind, sample=sample, design=design)
        return cls(columns)

    @classmethod
    def empty(cls, like: "Reference | Mapping[str, Layout | None]") -> "Reference":
        """No row yet: where the count of a part begins that will be added to others.

        Parameters
        ----------
        like
            A reference with the same features and cells; or a layout by feature, None for
            categories.

        Examples
        --------
        >>> first = Reference.fit({"x": [1.0]}, exact=False)
        >>> Reference.empty(first).columns["x"].sample.rows
        0
        >>> Reference.empty({"x": Layout(), "plan": None}).update({"x": [1.0], "plan": ["a"]}).names
        ('x', 'plan')
        """
        if isinstance(like, Reference):
            return cls({name: _emptied(column) for name, column in like.columns.items()})
        return cls({name: _empty_column(name, layout) for name, layout in like.items()})

    def update(self, batch: Any) -> "Reference":
        """A reference that has the rows of ``batch`` too; neither is changed.

        Raises
        ------
        BadConfiguration
            ``batch`` is no table, lacks a feature, or has one that cannot be read.

        Examples
        --------
        >>> reference = Reference.fit({"x": [1.0, 2.0]}).update({"x": [3.0, None]})
        >>> reference.columns["x"].sample.size, reference.columns["x"].sample.missing
        (3, 1)
        """
        door = engine_of(batch, "counted")
        if door is not None:
            # Rows of an engine are counted there: none is collected.
            return self + cast("Reference", door(batch, self))
        parts = parts_of(batch, self.names)
        if parts is not None:
            return reduce(Reference.update, parts, self)
        raw = chosen(table_like(batch, self.names), self.names)
        return Reference(
            {name: updated(column, raw[name]) for name, column in self.columns.items()}
        )

    def __add__(self, other: "Reference") -> "Reference":
        """Both together, the same to the last bit in any order.

        Raises
        ------
        BadConfiguration
            Other features, kinds or layouts.
        """
        if set(self.columns) != set(other.columns):
            raise BadConfiguration(
                f"only references of the same features add up, not {other!r:.80}"
            )
        return Reference(
            {name: column + other.columns[name] for name, column in self.columns.items()}
        )

    def counted(self) -> "Reference":
        """The same reference with numbers counted in cells.

        Examples
        --------
        >>> Reference.fit({"x": [1.0, 2.0]}).counted().exact
        False
        """
        return Reference(
            {
                name: replace(column, sample=_counted(column.sample))
                for name, column in self.columns.items()
            }
        )

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON, at most 64 kB a column.

        Samples too large for that are counted in cells; cells and levels too many for it
        are widened, or summed in a rest that is counted.

        Examples
        --------
        >>> Reference.fit({"x": [1.0, 2.0]}).to_dict()["format"]
        'prodml.drift.Reference'
        """
        from prodml.drift.stored import to_dict

        return to_dict(self.columns)

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "Reference":
        """What :meth:`to_dict` gave.

        Raises
        ------
        CorruptRecord
            Another format or version, or counts that do not fit together.
        """
        from prodml.drift.stored import from_dict

        return _restored(from_dict(stored))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to ``path``: JSON, or Arrow (which needs pyarrow) if it ends in ``.arrow``.

        The file is replaced whole or not at all.

        Raises
        ------
        BadConfiguration
            ``.arrow`` without pyarrow.
        OSError
            The file cannot be written.
        """
        from pathlib import Path

        from prodml.drift.stored import save

        save(self.columns, Path(path))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Reference":
        """Read what :meth:`save` wrote; nothing in it is ever run.

        Raises
        ------
        CorruptRecord
            It is not what was written.
        OSError
            The file cannot be read.
        """
        from pathlib import Path

        from prodml.drift.stored import load

        return _restored(load(Path(path)))

    def schema(self, **settings: Any) -> "Schema":
        """What every row must look like, read off the reference.

        Parameters
        ----------
        settings
            Of :class:`prodml.validation.Schema`: ``extra``, ``on``, ``name``.

        Examples
        --------
        >>> schema = Reference.fit({"age": [30, 40], "plan": ["basic", "pro"] }).schema()
        >>> [violation.rule for violation in schema.check({"age": 300, "plan": "gold"})]
        ['range', 'category']
        """
        from prodml.drift.inferred import schema_of

        return schema_of(self.columns, settings)


def check_agrees(
    reference: Reference, feature_names: Sequence[str] | None, kinds: Mapping[str, Kind] | None
) -> None:
    """Refuse what only a fit can heed and this reference was not fitted by.

    Raises
    ------
    BadConfiguration
        Other names, or kinds.

    Examples
    --------
    >>> check_agrees(Reference.fit({"x": [1.0]}), ["x"], {"x": "numeric"})
    """
    columns = reference.columns
    if feature_names is not None and tuple(feature_names) != tuple(columns):
        raise BadConfiguration("feature_names are fitted already: give them to Reference.fit")
    for name, kind in (kinds or {}).items():
        if name not in columns or columns[name].kind != kind:
            raise BadConfiguration(f"{name!r} is no {kind} feature of the fitted reference")


def _restored(columns: Mapping[str, tuple[Kind, Sample, Mapping[str, float]]]) -> Reference:
    return Reference(
        {
            name: ReferenceColumn(name=name, kind=kind, sample=sample, design=design)
            for name, (kind, sample, design) in columns.items()
        }
    )


def _fit_parts(
    parts: Iterator[Any],
    feature_names: Sequence[str] | None,
    kinds: Mapping[str, Kind] | None,
    blocks: Any,
    *,
    exact: bool,
    layouts: Mapping[str, Layout] | None,
) -> Reference:
    if blocks is not None:
        raise BadConfiguration("blocks need the whole reference at once, not an iterator of parts")
    first = next(parts, None)
    if first is None:
        raise BadConfiguration("reference has no parts: the iterator is empty")
    reference = Reference.fit(first, feature_names, kinds=kinds, exact=exact, layouts=layouts)
    for part in parts:
        blank = [name for name, column in reference.columns.items() if _is_blank(column.sample)]
        if blank:
            new = Reference.fit(part, feature_names, kinds=kinds, exact=exact, layouts=layouts)
            reference = _begun(reference, new, blank)
        reference = reference.update(part)
    return reference


def _is_blank(sample: Sample) -> bool:
    return sample.missing == sample.rows


def _begun(reference: Reference, new: Reference, blank: Sequence[str]) -> Reference:
    """Features without any value so far are of the kind of their first values, and lie there."""
    begun: dict[str, ReferenceColumn] = {}
    for name in blank:
        rows, column = reference.columns[name].sample.rows, _emptied(new.columns[name])
        begun[name] = replace(column, sample=replace(column.sample, rows=rows, missing=rows))
    return Reference({**reference.columns, **begun})


def updated(column: ReferenceColumn, raw: Any) -> ReferenceColumn:
    """The feature with the rows of ``raw`` too.

    Raises
    ------
    BadConfiguration
        ``raw`` cannot be read.

    Examples
    --------
    >>> updated(Reference.fit({"x": [1.0]}).columns["x"], [2.0, None]).sample.rows
    3
    """
    try:
        more = column.read(raw, add=True)
    except Exception as error:
        raise unreadable(column.name, error) from error
    return replace(column, sample=_sum(column.sample, more))


def _outer_edges(sample: Sample) -> Floats:
    if isinstance(sample, Levels) or not sample.size:
        return np.empty(0)
    if isinstance(sample, Cells):
        return sample.edges(_BINS, outer=True)
    return reference_cells(sample.values, _BINS)


def _sum(a: Sample, b: Sample) -> Sample:
    if isinstance(a, Levels) and isinstance(b, Levels):
        return sum_of_levels(a, b)
    if isinstance(a, Numbers) and isinstance(b, Numbers):
        return a + b
    if isinstance(a, Levels) or isinstance(b, Levels):
        raise BadConfiguration("numbers and levels do not add up")
    layout = a.layout if isinstance(a, Cells) else cast("Cells", b).layout
    one, other = (x if isinstance(x, Cells) else x.counted(layout) for x in (a, b))
    return one + other


def _emptied(column: ReferenceColumn) -> ReferenceColumn:
    sample: Sample
    if isinstance(column.sample, Levels):
        sample = Levels({}, 0)
    elif isinstance(column.sample, Numbers):
        sample = Numbers(np.empty(0), 0, temporal=column.sample.temporal)
    else:
        sample = Cells(layout=column.sample.layout, temporal=column.sample.temporal)
    return replace(column, sample=sample, design={})


def _empty_column(name: str, layout: Layout | None) -> ReferenceColumn:
    if layout is None:
        return ReferenceColumn(name=name, kind="categorical", sample=Levels({}, 0))
    if not isinstance(layout, Layout):
        raise BadConfiguration(f"the layout of {name!r} must be a Layout or None, not {layout!r}")
    return ReferenceColumn(name=name, kind="numeric", sample=Cells(layout=layout))


def _counted(sample: Sample) -> Sample:
    return sample.counted(Layout.of(sample.values)) if isinstance(sample, Numbers) else sample
