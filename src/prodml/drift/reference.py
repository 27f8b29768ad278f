"""The reference, fitted once: what a detector compares every batch with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from prodml.drift.blocks import block_codes, design_effects
from prodml.drift.measures import Floats, reference_cells
from prodml.drift.sample import KINDS, Kind, Levels, Numbers, kind_of, levels_of, numbers_of
from prodml.drift.table import Column, Table, column_of, table_of
from prodml.errors import BadConfiguration

__all__ = ["Reference", "ReferenceColumn"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceColumn:
    """One fitted feature: its sample, and the cells and design effects that tests need.

    Examples
    --------
    >>> Reference.fit({"age": [30.0, 40.0, 50.0]}).columns["age"].kind
    'numeric'
    """

    name: str
    kind: Kind
    sample: Numbers | Levels
    cells: Floats
    design: Mapping[str, float]

    def read(self, raw: Any) -> Numbers | Levels:
        """``raw`` as a sample of this feature's kind."""
        column = column_of(raw)
        if isinstance(self.sample, Levels):
            return levels_of(column)
        numbers = numbers_of(column)
        if numbers.temporal == self.sample.temporal or not numbers.size or not self.sample.size:
            return numbers
        # A point in time is no number, even though both can be counted in seconds.
        wrong = numbers.rows - numbers.missing
        return Numbers(np.empty(0), numbers.rows, numbers.missing, invalid=wrong)


@dataclass(frozen=True, slots=True)
class Reference:
    """Sorted samples and counts of every feature, in memory.

    Immutable: any number of detectors and threads may share it.

    Examples
    --------
    >>> reference = Reference.fit({"age": [30, 40], "plan": ["basic", "pro"]})
    >>> {name: column.kind for name, column in reference.columns.items()}
    {'age': 'numeric', 'plan': 'categorical'}
    """

    columns: Mapping[str, ReferenceColumn] = field(default_factory=dict[str, ReferenceColumn])

    @property
    def names(self) -> tuple[str, ...]:
        """Feature names in order."""
        return tuple(self.columns)

    @classmethod
    def fit(
        cls,
        data: Any,
        feature_names: Sequence[str] | None = None,
        *,
        kinds: Mapping[str, Kind] | None = None,
        blocks: Any = None,
    ) -> "Reference":
        """Fit ``data``; see :class:`DriftDetector` for the parameters.

        Raises
        ------
        BadConfiguration
            ``data`` is no table, has no columns or other columns than ``feature_names``;
            ``kinds`` names an unknown feature or kind; too few blocks.

        Examples
        --------
        >>> Reference.fit([[1.0, 2.0], [3.0, 4.0]], ["a", "b"]).names
        ('a', 'b')
        """
        names = None if feature_names is None else tuple(feature_names)
        raw = _chosen(_table(data, names), names)
        _check_kinds(kinds or {}, raw)
        codes = None if blocks is None else block_codes(blocks)
        return cls(
            {
                name: _fitted(name, values, (kinds or {}).get(name), codes)
                for name, values in raw.items()
            }
        )


def _table(data: Any, names: Sequence[str] | None) -> Table:
    try:
        return table_of(data, names)
    except TypeError as error:
        raise BadConfiguration(f"reference is no table: {error}") from error


def _chosen(table: Table, names: Sequence[str] | None) -> dict[str, Any]:
    if table.misfit:
        raise BadConfiguration(f"reference has {table.misfit} feature_names")
    if not table.columns:
        raise BadConfiguration("reference has no columns")
    absent = [name for name in names or () if name not in table.columns]
    if absent:
        known = ", ".join(table.columns)
        raise BadConfiguration(f"reference has no column {absent[0]!r}; columns: {known}")
    return {name: table.columns[name] for name in names or table.columns}


def _check_kinds(kinds: Mapping[str, Kind], raw: Mapping[str, Any]) -> None:
    for name, kind in kinds.items():
        if name not in raw:
            raise BadConfiguration(f"kinds names {name!r}, which is no feature of the reference")
        if kind not in KINDS:
            raise BadConfiguration(f"kinds[{name!r}] must be one of {KINDS}, not {kind!r}")


def _fitted(name: str, raw: Any, kind: Kind | None, codes: Any) -> ReferenceColumn:
    column: Column = column_of(raw)
    kind = kind or kind_of(column)
    sample = levels_of(column) if kind == "categorical" else numbers_of(column)
    cells = np.empty(0)
    if isinstance(sample, Numbers) and sample.size:
        cells = reference_cells(sample.values)
    design = {} if codes is None else design_effects(raw, kind, codes)
    return ReferenceColumn(name=name, kind=kind, sample=sample, cells=cells, design=design)
