"""Columns of a matrix that are counted together, a strip of it at a time."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from prodml.drift.cells import Cells
from prodml.drift.counting import tallied_together
from prodml.drift.reference import Reference, ReferenceColumn
from prodml.drift.table import Table

__all__ = ["in_strips"]

# Columns of a strip: their counters take half a megabyte each.
_WIDTH = 32


def in_strips(table: Table, reference: Reference) -> Table:
    """``table`` whose numbers come counted as those of ``reference``, if it is a matrix.

    Nothing is counted before the first column of a strip is asked for, and no more than one
    strip is held.

    Examples
    --------
    >>> import numpy as np
    >>> from prodml.drift.table import table_of
    >>> rows = np.arange(2000.0).reshape(1000, 2)
    >>> reference = Reference.fit(rows, exact=False)
    >>> table = in_strips(table_of(rows, reference.names), reference)
    >>> table.columns["x1"] == reference.columns["x1"].sample
    True
    """
    if table.matrix is None:
        return table
    samples = {
        name: reference.columns[name].sample
        for name in table.columns
        if _countable(reference.columns.get(name))
    }
    return replace(table, columns=_Strips(table, samples))


def _countable(column: ReferenceColumn | None) -> bool:
    """Whether numbers are compared with it, in cells."""
    return column is not None and isinstance(column.sample, Cells) and not column.sample.temporal


class _Strips(Mapping[str, Any]):
    """Counts of some columns and the rest as it is; not safe for threads."""

    def __init__(self, table: Table, samples: Mapping[str, Any]) -> None:
        self._table: Table = table
        self._samples: Mapping[str, Any] = samples
        self._order: list[str] = list(samples)
        self._places: dict[str, int] = {name: i for i, name in enumerate(table.columns)}
        self._found: dict[str, Cells] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._samples:
            return self._table.columns[name]
        if name not in self._found:
            # The old strip goes before the new one comes.
            self._found = {}
            self._found = self._counted(name)
        return self._found[name]

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def _counted(self, name: str) -> dict[str, Cells]:
        first = self._order.index(name) // _WIDTH * _WIDTH
        names = self._order[first : first + _WIDTH]
        layouts = [self._samples[name].layout for name in names]
        whole = [not self._samples[name].fractional for name in names]
        places = [self._places[name] for name in names]
        assert self._table.matrix is not None
        found = tallied_together(self._table.matrix, places, layouts, whole)
        return {
            name: Cells(layout=layout, **counted)
            for name, layout, counted in zip(names, layouts, found, strict=True)
        }
