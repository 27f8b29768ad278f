"""What parts must know before they are counted: kinds, and where the cells lie.

Each part draws an outline: of every column its kind and, of numbers, some of their
quantiles.  The layouts that all outlines together give decide how finely is counted, never
whether it is right; so an outline may be drawn from the first rows of a part.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from prodml.drift.cells import Cells
from prodml.drift.fitting import check_kinds, chosen, names_of, table_like
from prodml.drift.layout import Layout
from prodml.drift.reading import of_one_sort
from prodml.drift.reference import Reference, ReferenceColumn, Sample
from prodml.drift.sample import KINDS, Kind, Levels, floats_of, kind_of
from prodml.drift.table import Counted, column_of
from prodml.errors import BadConfiguration
from prodml.types import is_missing

__all__ = ["Outline", "awaited", "named", "outline_of", "planned"]

Floats: TypeAlias = npt.NDArray[np.float64]

_QUANTILES = 512


@dataclass(frozen=True, slots=True)
class Outline:
    """Kind by column (None where no row has a value), and quantiles of numbers."""

    kinds: Mapping[str, Kind | None] = field(default_factory=dict[str, "Kind | None"])
    quantiles: Mapping[str, Floats] = field(default_factory=dict[str, Floats])


def outline_of(part: Any, names: Sequence[str] | None = None) -> Outline:
    """Outline of a table.

    Raises
    ------
    BadConfiguration
        ``part`` is no table, or lacks a column of ``names``.

    Examples
    --------
    >>> outline = outline_of({"x": [3.0, 1.0, None], "plan": ["a", "b", "a"]})
    >>> dict(outline.kinds), outline.quantiles["x"].tolist()
    ({'x': 'numeric', 'plan': 'categorical'}, [1.0, 3.0])
    """
    kinds: dict[str, Kind | None] = {}
    quantiles: dict[str, Floats] = {}
    for name, raw in chosen(table_like(part, names), names).items():
        column = of_one_sort(column_of(raw))
        empty = isinstance(column, list) and all(map(is_missing, column))
        kinds[name] = None if empty else kind_of(column)
        if not isinstance(column, Counted):
            values = np.sort(_finite(column))
            some = np.linspace(0, len(values) - 1, min(_QUANTILES, len(values)))
            quantiles[name] = values[some.round().astype(np.int64)]
    return Outline(kinds, quantiles)


def _finite(column: Any) -> Floats:
    values = floats_of(column)[0]
    return values[np.isfinite(values)]


def named(columns: Sequence[str], feature_names: Sequence[str] | None) -> list[str]:
    """Features to fit to a frame with ``columns``: those asked for, or all.

    Raises
    ------
    BadConfiguration
        One that is asked for is not there, or twice.

    Examples
    --------
    >>> named(["a", "b"], None), named(["a", "b"], ["b"])
    (['a', 'b'], ['b'])
    """
    names = list(names_of(feature_names) or columns)
    absent = [name for name in names if name not in set(columns)]
    if absent:
        raise BadConfiguration(f"reference has no column {absent[0]!r}")
    return names


def awaited(columns: Sequence[str], like: Reference) -> Reference:
    """No row yet of those features of ``like`` that a frame with ``columns`` has.

    Raises
    ------
    BadConfiguration
        It has none of them.

    Examples
    --------
    >>> awaited(["a", "z"], Reference.fit({"a": [1.0], "b": [2.0]})).names
    ('a',)
    """
    known = set(columns)
    present = {name: column for name, column in like.columns.items() if name in known}
    if not present:
        raise BadConfiguration(f"the frame has none of the features {', '.join(like.names)}")
    return Reference.empty(Reference(present).counted())


def planned(
    outlines: Sequence[Outline],
    kinds: Mapping[str, Kind] | None = None,
    layouts: Mapping[str, Layout] | None = None,
) -> Reference:
    """An empty reference, in which all parts can be counted.

    Raises
    ------
    BadConfiguration
        No part has a row, or ``kinds`` or ``layouts`` name an unknown feature.

    Examples
    --------
    >>> parts = [{"x": [1.0, 2.0]}, {"x": [3.0]}]
    >>> plan = planned([outline_of(part) for part in parts])
    >>> plan.columns["x"].sample.layout.centre
    2.0
    """
    names = dict.fromkeys(name for outline in outlines for name in outline.kinds)
    if not names:
        raise BadConfiguration("reference has no parts: no partition has a row")
    check_kinds(kinds or {}, names)
    for name in layouts or {}:
        if name not in names:
            raise BadConfiguration(f"layouts names {name!r}, which is no feature")
    return Reference(
        {
            name: _planned(name, outlines, (kinds or {}).get(name), (layouts or {}).get(name))
            for name in names
        }
    )


def _planned(
    name: str, outlines: Sequence[Outline], kind: Kind | None, layout: Layout | None
) -> ReferenceColumn:
    if kind is None:
        kind = _kind(name, outlines)
        if kind == "categorical" and layout is not None:
            # Where no part has a number; times stay times.
            kind = "numeric"
    sample: Sample = Levels({}, 0)
    if kind != "categorical":
        found = [outline.quantiles[name] for outline in outlines if name in outline.quantiles]
        values = np.concatenate(found) if found else np.empty(0)
        sample = Cells(layout=layout or Layout.of(values))
    return ReferenceColumn(name=name, kind=kind, sample=sample)


def _kind(name: str, outlines: Sequence[Outline]) -> Kind:
    """That of most parts: they may disagree where values are of mixed types."""
    seen: Counter[Kind] = Counter()
    for outline in outlines:
        found = outline.kinds.get(name)
        if found is not None:
            seen[found] += 1
    return max(KINDS, key=lambda kind: seen[kind]) if seen else "categorical"
