"""What a monitor watches against: the reference, by season, in effective rows."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from prodml.drift.blocks import block_codes, design_effect, design_effects
from prodml.drift.reference import Reference, ReferenceColumn, check_agrees
from prodml.drift.sample import Kind, Numbers, floats_of
from prodml.drift.sequential import Watched, watched
from prodml.drift.table import Counted, column_of, table_of
from prodml.errors import BadConfiguration

__all__ = ["Baseline", "baseline", "codes_of", "taken"]

_LEVELS = 40


@dataclass(frozen=True, slots=True)
class Baseline:
    """Fitted features by name, and the labels of the seasons (none if there are none).

    Examples
    --------
    >>> base = baseline({"x": [float(i) for i in range(100)]}, min_rows=30)
    >>> base.names, base.features["x"].kind, base.seasons
    (('x',), 'numeric', ())
    """

    features: Mapping[str, Watched]
    columns: Mapping[str, ReferenceColumn]
    seasons: tuple[Any, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Feature names in order."""
        return tuple(self.features)

    def season(self, label: Any) -> int:
        """Place of a season.

        Raises
        ------
        BadConfiguration
            No such season, or a season where there are none.
        """
        if not self.seasons and label is None:
            return 0
        if label not in self.seasons:
            known = ", ".join(map(str, self.seasons)) or "none: give the monitor seasonal="
            raise BadConfiguration(f"season {label!r} is not in the reference; seasons: {known}")
        return self.seasons.index(label)


def baseline(
    reference: Any,
    names: Sequence[str] | None = None,
    *,
    kinds: Mapping[str, Kind] | None = None,
    blocks: Any = None,
    seasonal: Any = None,
    design: Mapping[str, Mapping[str, float]] | None = None,
    min_rows: int = 30,
) -> Baseline:
    """Fit a reference; see :class:`~prodml.drift.DriftMonitor` for the parameters.

    ``design`` goes before the design effects that ``blocks`` would have.
    """
    effects: list[dict[str, dict[str, float]]]
    if isinstance(reference, Reference):
        if blocks is not None or seasonal is not None:
            raise BadConfiguration(
                "blocks and seasonal need the rows of the reference: give the data itself"
            )
        check_agrees(reference, names, kinds)
        parts, seasons = [reference], ()
        effects = [{name: dict(column.design) for name, column in reference.columns.items()}]
    else:
        parts, effects, seasons = _parts(reference, names, kinds, blocks, seasonal)
    features: dict[str, Watched] = {}
    for name, column in parts[0].columns.items():
        samples = [part.columns[name].sample for part in parts]
        own = (design or {}).get(name) or _largest([one.get(name, {}) for one in effects])
        features[name] = watched(name, column.kind, samples, own, min_rows)
    return Baseline(features, {n: _slim(c) for n, c in parts[0].columns.items()}, seasons)


def _slim(column: ReferenceColumn) -> ReferenceColumn:
    """Enough to read a batch by: the tracks know the rest, and a sample may be long."""
    sample = column.sample
    if not isinstance(sample, Numbers):
        return column
    return replace(column, sample=replace(sample, values=sample.values[:1].copy()))


def _largest(designs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {aspect: max(d.get(aspect, 1.0) for d in designs) for aspect in designs[0]}


def _parts(
    data: Any,
    names: Sequence[str] | None,
    kinds: Mapping[str, Kind] | None,
    blocks: Any,
    seasonal: Any,
) -> tuple[list[Reference], list[dict[str, dict[str, float]]], tuple[Any, ...]]:
    """A reference a season, with design effects within it."""
    whole = Reference.fit(data, names, kinds=kinds)
    if blocks is None and seasonal is None:
        # What is lazy, or comes in parts, is never collected.
        return [whole], [{}], ()
    columns = table_of(data, names).columns
    same: dict[str, Kind] = {name: column.kind for name, column in whole.columns.items()}
    if seasonal is None:
        own = {name: columns[name] for name in whole.names}
        return [whole], [_effects(own, same, blocks)], ()
    labels, codes = codes_of(seasonal)
    n, parts, effects = len(codes), list[Reference](), list[dict[str, dict[str, float]]]()
    for code in range(len(labels)):
        rows = np.nonzero(codes == code)[0]
        own = {name: taken(columns[name], rows, n) for name in whole.names}
        parts.append(Reference.fit(own, whole.names, kinds=same))
        effects.append(_effects(own, same, None if blocks is None else taken(blocks, rows, n)))
    return parts, effects, labels


def _effects(
    columns: Mapping[str, Any], kinds: Mapping[str, Kind], blocks: Any
) -> dict[str, dict[str, float]]:
    if blocks is None:
        return {}
    codes = block_codes(blocks)
    # Effects of so many blocks are estimates: one standard error is added.
    margin = 1.0 + math.sqrt(2.0 / codes.max())
    found: dict[str, dict[str, float]] = {}
    for name, raw in columns.items():
        effects = design_effects(raw, kinds[name], codes)
        effects["distribution"] = max(effects["distribution"], _whole(raw, kinds[name], codes))
        found[name] = {aspect: 1.0 + (effect - 1.0) * margin for aspect, effect in effects.items()}
    return found


def _whole(raw: Any, kind: Kind, codes: Any) -> float:
    """Design effect of what is bet on: the mean normal score, or the worst of the levels."""
    from scipy.special import ndtri

    column = column_of(raw, by_row=True)
    assert not isinstance(column, Counted)
    if kind == "categorical":
        texts = np.array([f"={value!s}" for value in column])
        levels, counts = np.unique(texts, return_counts=True)
        top = levels[np.argsort(counts)[::-1][:_LEVELS]]
        return design_effect(texts[:, None] == top, codes)
    values = floats_of(column)[0]
    kept = np.isfinite(values)
    if not kept.any():
        return 1.0
    _, place, counts = np.unique(values[kept], return_inverse=True, return_counts=True)
    middle = (np.cumsum(counts) - counts / 2) / kept.sum()
    scores = np.asarray(ndtri(middle))[place]
    scores -= scores.mean()
    sums = np.bincount(codes[kept], weights=scores)
    used = int(np.count_nonzero(np.bincount(codes[kept])))
    single = float((scores**2).sum())
    if not single:
        return 1.0
    return max(1.0, float((sums**2).sum()) / single * float(used / max(1, used - 1)))


def codes_of(labels: Any) -> tuple[tuple[Any, ...], Any]:
    """Distinct labels in order of appearance, and the place of each row's.

    Examples
    --------
    >>> labels, codes = codes_of(["Mon", "Tue", "Mon"])
    >>> labels, codes.tolist()
    (('Mon', 'Tue'), [0, 1, 0])
    """
    column = column_of(labels, by_row=True)
    assert not isinstance(column, Counted)
    seen: dict[Any, int] = {}
    listed: list[Any] = column if isinstance(column, list) else column.tolist()
    codes = [seen.setdefault(label, len(seen)) for label in listed]
    return tuple(seen), np.array(codes, dtype=np.int64)


def taken(raw: Any, rows: Any, of: int) -> Any:
    """Some rows of a raw column, which must have ``of``.

    Raises
    ------
    BadConfiguration
        It has another number: labels and rows do not belong together.
    """
    column = column_of(raw, by_row=True)
    assert not isinstance(column, Counted)
    if len(column) != of:
        raise BadConfiguration(f"{len(column)} values or labels for {of} rows")
    if isinstance(column, list):
        return [column[row] for row in rows.tolist()]
    return column[rows]
