"""A table as a matrix: every column standardised, every cell without a value counted.

Numbers are centred by the reference's median, divided by its spread (interquartile range over
1.349, the standard deviation of a normal column) and clipped at eight spreads, so that no single
row, however wild, decides anything: an infinite cell is a clipped one.  Categories become the
share that their level has in the reference, or one column a level.  A cell without a value takes
the middle of its column, and a column of its own says that it was missing.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from prodml.drift.sample import KINDS, Kind, floats_of, kind_of
from prodml.drift.table import Counted, Table, column_of, table_of
from prodml.errors import BadConfiguration
from prodml.types import is_missing

__all__ = ["UNSEEN", "Encoder", "Sheet", "columns_of", "drawn", "rows_of"]

Floats: TypeAlias = npt.NDArray[np.float64]
Bools: TypeAlias = npt.NDArray[np.bool_]

UNSEEN = "(unseen)"
"""Owner of the column for what the reference never has: a value missing, a new level."""

_CLIP = 8.0
_LEVELS = 15
# Half a unit in the last place of single precision: what differs by less is the same.
_SAME = 2.0**-23
# A share that differs by less is not worth a word.
_TOLD = 0.01


@dataclass(frozen=True, slots=True)
class Part:
    """One encoded column: ``values`` (rows, width), and what could not be read as it is."""

    values: Floats
    missing: Bools
    infinite: int = 0
    invalid: int = 0
    new: tuple[str, ...] = ()
    unseen: Bools | None = None


@dataclass(frozen=True, slots=True)
class Scale:
    """Centre and spread of one column of the matrix; a spread of 0 means constant."""

    center: float
    spread: float

    def standard(self, values: Floats) -> Floats:
        """``values`` in spreads from the centre, at most eight; NaN becomes 0."""
        with np.errstate(over="ignore", invalid="ignore"):
            away = values - self.center
            # A constant read back in single precision is still that constant.
            same = np.abs(away) <= _SAME * abs(self.center)
            z = away / self.spread if self.spread else np.where(same, 0.0, np.sign(away) * _CLIP)
        known = np.nan_to_num(z, nan=0.0, posinf=_CLIP, neginf=-_CLIP)
        return np.asarray(np.clip(known, -_CLIP, _CLIP), dtype=np.float64)


def _spread(values: Floats) -> float:
    if not values.size:
        return 0.0
    if np.ptp(values) <= _SAME * np.abs(values).max():
        return 0.0
    q = np.quantile(values, (0.005, 0.25, 0.75, 0.995))
    with np.errstate(over="ignore", invalid="ignore"):
        # Mostly one value: what the rare others do, the wildest of them last.
        for spread in ((q[2] - q[1]) / 1.349, (q[3] - q[0]) / 5.152, values.std()):
            if 0.0 < spread < np.inf:
                return float(spread)
    return 0.0


@dataclass(frozen=True, slots=True)
class NumberCode:
    """How a numeric column is encoded."""

    scale: Scale

    @classmethod
    def fit(cls, column: Any) -> "NumberCode":
        """Centre and spread of the finite numbers."""
        values = floats_of(column)[0]
        finite = values[np.isfinite(values)]
        return cls(Scale(float(np.median(finite)) if finite.size else 0.0, _spread(finite)))

    def part(self, column: Any) -> Part:
        """One standardised column."""
        values, invalid, _ = floats_of(column)
        return Part(
            self.scale.standard(values).reshape(-1, 1),
            np.isnan(values),
            int(np.isinf(values).sum()),
            invalid,
        )


@dataclass(frozen=True, slots=True)
class LevelCode:
    """How a categorical column is encoded."""

    shares: Mapping[Any, float]
    scale: Scale
    onehot: bool

    @classmethod
    def fit(cls, column: Any, *, onehot: bool) -> "LevelCode":
        """Shares of the levels, and the mean and spread of a row's share."""
        levels = [level for level in _levels(column) if level is not None]
        counts = Counter(levels)
        shares = {level: count / len(levels) for level, count in counts.most_common()}
        of_rows = np.array([shares[level] for level in levels])
        spread = float(of_rows.std()) if of_rows.size else 0.0
        mean = float(of_rows.mean()) if of_rows.size else 0.0
        return cls(shares, Scale(mean, spread if spread > 1e-12 else 0.0), onehot)

    def part(self, column: Any) -> Part:
        """One column with standardised shares, or one a frequent level and one for the rest."""
        levels = _levels(column)
        missing = np.array([level is None for level in levels], dtype=np.bool_)
        new = Counter(x for x in levels if x is not None and x not in self.shares)
        names = tuple(f"{level!s:.40}" for level, _ in new.most_common(3))
        values = self._onehot(levels) if self.onehot else self._share(levels)
        unseen = np.array([x is not None and x not in self.shares for x in levels], dtype=np.bool_)
        return Part(values, missing, new=names, unseen=unseen)

    def _share(self, levels: list[Any]) -> Floats:
        shares = [np.nan if level is None else self.shares.get(level, 0.0) for level in levels]
        return self.scale.standard(np.array(shares, dtype=np.float64)).reshape(-1, 1)

    def _onehot(self, levels: list[Any]) -> Floats:
        places = {level: i for i, level in enumerate(list(self.shares)[:_LEVELS])}
        width = len(places) + 2
        # The rare ones share a column, the new ones another.
        at = [places.get(x, width - 2 if x in self.shares else width - 1) for x in levels]
        values = np.zeros((len(levels), width))
        values[np.arange(len(levels)), np.array(at, dtype=np.int64)] = 1.0
        values[[x is None for x in levels]] = 0.0
        return values


Code: TypeAlias = NumberCode | LevelCode


def _levels(column: Any) -> list[Any]:
    values = _listed(column)
    return [None if is_missing(value) else _hashable(value) for value in values]


def _hashable(value: Any) -> Any:
    try:
        hash(value)
    except TypeError:
        return repr(value)[:80]
    return value


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table as a matrix.

    ``owner`` names the feature of every column of ``values``; ``missing`` and ``infinite`` are
    shares by feature; ``findings`` say what is wrong with the data, ``gone`` which features it
    lacks.
    """

    values: Floats
    owner: tuple[str, ...]
    missing: Mapping[str, float]
    infinite: Mapping[str, float]
    rows: int
    findings: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Encoder:
    """Fitted on a reference; turns any table into a matrix with the same columns.

    Examples
    --------
    >>> data = {"age": [20.0, 30.0, None, 50.0], "plan": ["a", "a", "b", "a"]}
    >>> encoder, _ = Encoder.fit(data)
    >>> sheet = encoder.read({"age": [30.0, float("inf")], "plan": ["c", None]})
    >>> sheet.owner
    ('age', 'plan', 'age', '(unseen)')
    >>> sheet.values[:, 0].tolist(), sheet.findings[-1]
    ([0.0, 8.0], 'plan: new levels c 50 %')
    """

    names: tuple[str, ...]
    codes: Mapping[str, Code]
    missed: Mapping[str, Scale]
    before: Sheet

    @classmethod
    def fit(
        cls,
        data: Any,
        feature_names: Sequence[str] | None = None,
        kinds: Mapping[str, Kind] | None = None,
        *,
        onehot: bool = False,
    ) -> "tuple[Encoder, Sheet]":
        """Fit ``data``; times are left out and named.

        Raises
        ------
        BadConfiguration
            ``data`` is no table, or it has no column that can be compared.
        """
        columns = columns_of(data, feature_names)
        _check_kinds(kinds or {}, columns)
        codes: dict[str, Code] = {}
        for name, column in columns.items():
            kind = (kinds or {}).get(name) or kind_of(column)
            if kind == "categorical":
                codes[name] = LevelCode.fit(column, onehot=onehot)
            elif kind == "numeric":
                codes[name] = NumberCode.fit(column)
        if not codes:
            raise BadConfiguration("reference has no column that can be compared")
        bare = cls(tuple(columns), codes, {}, _NOTHING)
        first = bare.read(data)
        often = {name: share for name, share in first.missing.items() if share > 0.0}
        missed = {n: Scale(s, float(np.sqrt(s * (1.0 - s)))) for n, s in often.items()}
        before = replace(first, values=_NOTHING.values)
        encoder = replace(bare, missed=missed, before=before)
        return encoder, encoder.read(data)

    def read(self, data: Any) -> Sheet:
        """``data`` as a matrix; columns are matched by name, those of an array by position.

        Raises
        ------
        TypeError
            ``data`` is no table at all.
        """
        table = table_of(data, self.names)
        # A list without rows cannot say which columns it would have had.
        nothing = not table.columns and not table.misfit
        found = {name: _part(code, table, name) for name, code in self.codes.items()}
        parts = {name: part for name, part in found.items() if part is not None}
        rows = {len(part.missing) for part in parts.values()}
        if len(rows) > 1:
            raise TypeError(f"columns of different lengths: {sorted(rows)}")
        sheet = self._sheet(parts, rows.pop()) if parts else _NOTHING
        gone = () if nothing else tuple(name for name in found if name not in parts)
        return replace(sheet, findings=self._findings(parts, sheet, table), gone=gone)

    def pair(self, old: Mapping[str, Any], new: Mapping[str, Any]) -> "tuple[Sheet, Sheet]":
        """Two samples of this encoder's features, encoded by both of them together.

        What one sample alone decided (which levels are frequent, how wide a column is) would fit
        that sample better than the other, and a test would see it.
        """
        both = {name: _pooled(old[name], new[name]) for name in self.codes}
        kinds: dict[str, Kind] = {n: _kind(code) for n, code in self.codes.items()}
        encoder, _ = Encoder.fit(both, tuple(both), kinds, onehot=True)
        return encoder.read(old), encoder.read(new)

    def _sheet(self, parts: Mapping[str, Part], rows: int) -> Sheet:
        owner = [name for name, part in parts.items() for _ in range(part.values.shape[1])]
        blocks = [part.values for part in parts.values()]
        surprise = np.zeros(rows)
        for name, part in parts.items():
            if name in self.missed:
                said = self.missed[name].standard(part.missing.astype(np.float64))
                blocks.append(said.reshape(-1, 1))
                owner.append(name)
            else:
                surprise += part.missing
            if part.unseen is not None:
                surprise += part.unseen
        blocks.append(np.minimum(surprise, 1.0).reshape(-1, 1) * _CLIP)
        some = ~np.logical_and.reduce([part.missing for part in parts.values()])
        return Sheet(
            np.hstack(blocks)[some],
            (*owner, UNSEEN),
            {name: _share(part.missing.sum(), rows) for name, part in parts.items()},
            {name: _share(part.infinite, rows) for name, part in parts.items()},
            rows,
        )

    def _findings(self, parts: Mapping[str, Part], sheet: Sheet, table: Table) -> tuple[str, ...]:
        told = [f"{n}: time always moves, left out" for n in self.names if n not in self.codes]
        empty = sheet.rows - len(sheet.values)
        if empty:
            told.append(f"{empty} rows without any value left out")
        for name, part in parts.items():
            told += self._of_part(name, part, sheet)
        if table.misfit:
            told.append(f"current has {table.misfit}")
        return tuple(told)

    def _of_part(self, name: str, part: Part, sheet: Sheet) -> list[str]:
        told: list[str] = []
        if not sheet.rows:
            return told
        was = self.before
        for what, new, old in (
            ("missing", sheet.missing[name], was.missing.get(name, 0.0)),
            ("infinite", sheet.infinite[name], was.infinite.get(name, 0.0)),
        ):
            if abs(new - old) >= _TOLD:
                told.append(f"{name}: {what} {100 * old:.3g} % -> {100 * new:.3g} %")
        if part.invalid:
            told.append(f"{name}: {part.invalid} values of a wrong type")
        if part.unseen is not None and part.new:
            share = 100 * _share(part.unseen.sum(), sheet.rows)
            told.append(f"{name}: new levels {', '.join(part.new)} {share:.3g} %")
        return told


_NOTHING = Sheet(np.empty((0, 0)), (), {}, {}, 0)


def _share(count: Any, rows: int) -> float:
    return float(count) / rows if rows else 0.0


def _part(code: Code, table: Table, name: str) -> Part | None:
    if name not in table.columns:
        return None
    column = column_of(table.columns[name], by_row=True)
    assert not isinstance(column, Counted)
    if isinstance(code, NumberCode) and kind_of(column) == "time":
        # A point in time is no number, even though both can be counted in seconds.
        return Part(
            np.zeros((len(column), 1)), np.ones(len(column), dtype=np.bool_), invalid=len(column)
        )
    return code.part(column)


def _kind(code: Code) -> Kind:
    return "numeric" if isinstance(code, NumberCode) else "categorical"


def _pooled(old: Any, new: Any) -> Any:
    if isinstance(old, np.ndarray) and isinstance(new, np.ndarray) and old.dtype == new.dtype:
        return np.concatenate((old, new))
    return [*_listed(old), *_listed(new)]


def _listed(column: Any) -> list[Any]:
    return column if isinstance(column, list) else column.tolist()


def drawn(columns: Mapping[str, Any], most: int, rng: np.random.Generator) -> dict[str, Any]:
    """At most ``most`` rows of raw columns, drawn without replacement, in their order."""
    rows = max((len(column) for column in columns.values()), default=0)
    if rows <= most:
        return dict(columns)
    return rows_of(columns, np.sort(rng.choice(rows, most, replace=False)))


def rows_of(columns: Mapping[str, Any], index: Any) -> dict[str, Any]:
    """Some rows of raw columns."""
    places: list[int] = index.tolist()
    return {
        name: [column[at] for at in places] if isinstance(column, list) else column[index]
        for name, column in columns.items()
    }


def columns_of(data: Any, names: Sequence[str] | None) -> dict[str, Any]:
    """Raw columns of a reference by name, in the order of its rows."""
    try:
        table = table_of(data, names)
    except TypeError as error:
        raise BadConfiguration(f"reference is no table: {error}") from error
    if table.misfit:
        raise BadConfiguration(f"reference has {table.misfit} feature_names")
    absent = [name for name in names or () if name not in table.columns]
    if absent:
        known = ", ".join(table.columns)
        raise BadConfiguration(f"reference has no column {absent[0]!r}; columns: {known}")
    return {n: column_of(table.columns[n], by_row=True) for n in names or table.columns}


def _check_kinds(kinds: Mapping[str, Kind], columns: Mapping[str, Any]) -> None:
    for name, kind in kinds.items():
        if name not in columns:
            raise BadConfiguration(f"kinds names {name!r}, which is no feature of the reference")
        if kind not in KINDS:
            raise BadConfiguration(f"kinds[{name!r}] must be one of {KINDS}, not {kind!r}")
