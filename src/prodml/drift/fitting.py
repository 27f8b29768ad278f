"""Reading a table for the first time: which columns, of which kind, counted how."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from prodml.drift.blocks import design_effects
from prodml.drift.cells import Cells
from prodml.drift.layout import Layout
from prodml.drift.reading import levels_in, of_one_sort
from prodml.drift.sample import (
    KINDS,
    Kind,
    Levels,
    Numbers,
    cells_of,
    floats_of,
    kind_of,
    numbers_of,
)
from prodml.drift.table import Column, Counted, Picked, Table, column_of, table_of
from prodml.errors import BadConfiguration

__all__ = [
    "Plan",
    "check_kinds",
    "chosen",
    "fitted_sample",
    "names_of",
    "table_like",
    "unreadable",
]


@dataclass(frozen=True, slots=True)
class Plan:
    """Kind and layout by feature, where they are given, and whether samples are kept."""

    kinds: Mapping[str, Kind]
    layouts: Mapping[str, Layout]
    exact: bool

    def check(self, raw: Mapping[str, Any]) -> None:
        """Refuse layouts of features that are not there, or that are none."""
        for name, layout in self.layouts.items():
            if name not in raw:
                raise BadConfiguration(f"layouts names {name!r}, which is no feature")
            if not isinstance(layout, Layout):
                raise BadConfiguration(f"layouts[{name!r}] must be a Layout, not {layout!r}")


def names_of(feature_names: Sequence[str] | None) -> tuple[str, ...] | None:
    """Names of features, if any are given: several, and different."""
    if feature_names is None:
        return None
    names = tuple(feature_names)
    if isinstance(feature_names, str) or len(set(names)) < len(names):
        raise BadConfiguration(f"feature_names must be different names, not {feature_names!r:.80}")
    return names


def unreadable(name: str, error: Exception) -> BadConfiguration:
    """What to raise where a column is none."""
    return BadConfiguration(f"column {name!r} cannot be read: {type(error).__name__}: {error}")


def table_like(data: Any, names: Sequence[str] | None) -> Table:
    """``data`` as a table, or BadConfiguration."""
    try:
        return table_of(data, names)
    except (TypeError, ValueError) as error:
        # Narwhals refuses two columns of one name by a ValueError.
        raise BadConfiguration(f"reference is no table: {error}") from error


def chosen(table: Table, names: Sequence[str] | None) -> Mapping[str, Any]:
    """The columns ``names``, or all; none may be absent."""
    if table.misfit:
        raise BadConfiguration(f"reference has {table.misfit} feature_names")
    if not table.columns:
        raise BadConfiguration("reference has no columns")
    absent = [name for name in names or () if name not in table.columns]
    if absent:
        known = ", ".join(table.columns)
        raise BadConfiguration(f"reference has no column {absent[0]!r}; columns: {known}")
    return table.columns if names is None else Picked(table.columns, names)


def check_kinds(kinds: Mapping[str, Kind], raw: Mapping[str, Any]) -> None:
    """Refuse unknown features and kinds."""
    for name, kind in kinds.items():
        if name not in raw:
            raise BadConfiguration(f"kinds names {name!r}, which is no feature of the reference")
        if kind not in KINDS:
            raise BadConfiguration(f"kinds[{name!r}] must be one of {KINDS}, not {kind!r}")


def fitted_sample(
    name: str, raw: Any, plan: Plan, codes: Any
) -> tuple[Kind, Numbers | Cells | Levels, dict[str, float]]:
    """Kind, sample and design effects of one column."""
    try:
        return _fitted(name, raw, plan, codes)
    except BadConfiguration:
        raise
    except Exception as error:
        raise unreadable(name, error) from error


def _fitted(
    name: str, raw: Any, plan: Plan, codes: Any
) -> tuple[Kind, Numbers | Cells | Levels, dict[str, float]]:
    column: Column = column_of(raw)
    kind = plan.kinds.get(name) or kind_of(column)
    if kind == "categorical" and name in plan.layouts:
        # A part in which a number is never there looks like a category.
        kind = "numeric"
    design = {} if codes is None else design_effects(raw, kind, codes)
    if kind == "categorical":
        return kind, levels_in(column), design
    column = of_one_sort(column)
    if plan.exact:
        return kind, numbers_of(column), design
    return kind, cells_of(column, plan.layouts.get(name) or _layout_of(column)), design


def _layout_of(column: Column) -> Layout:
    if isinstance(column, Counted):
        return Layout()
    if isinstance(column, np.ndarray) and column.dtype.kind in "fiu":
        return Layout.of(column)
    return Layout.of(floats_of(column)[0])
