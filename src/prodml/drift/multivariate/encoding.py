"""A table as a matrix: every column standardised, every cell without a value counted.

Numbers are centred by the reference's median, divided by its spread (interquartile range over
1.349, the standard deviation of a normal column) and clipped at eight spreads, so that no single
row, however wild, decides anything: an infinite cell is a clipped one.  Categories become the
share that their level has in the reference, or one column a level.  A cell without a value takes
the middle of its column, and a column of its own says that it was missing.

A table is read some thousand rows at a time: the matrix of a large one is never held whole.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from prodml.drift.sample import KINDS, Kind, floats_of, kind_of
from prodml.drift.table import Counted, Table, column_of, table_of
from prodml.errors import BadConfiguration
from prodml.types import is_missing

__all__ = [
    "UNSEEN",
    "Encoder",
    "Sheet",
    "check_kinds",
    "columns_of",
    "drawn",
    "length_of",
    "missed_of",
    "named",
    "picked",
    "rows_of",
]

Floats: TypeAlias = npt.NDArray[np.float64]
Bools: TypeAlias = npt.NDArray[np.bool_]

UNSEEN = "(unseen)"
"""Owner of the column for what the reference never has: a value missing, a new level."""

# Rows that are encoded at a time, and numbers that a page of wide ones may hold.
_PAGE = 4096
_NUMBERS = 1 << 17
_LEAST_PAGE = 256
_MOST_NEW = 1000
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
    new: Mapping[Any, int] = field(default_factory=dict[Any, int])
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

    @property
    def width(self) -> int:
        """Columns of the matrix."""
        return 1

    @classmethod
    def fit(cls, column: Any) -> "NumberCode":
        """Centre and spread of the finite numbers."""
        values = floats_of(column)[0]
        finite = values[np.isfinite(values)]
        # Halves: two numbers in the middle may be too large to be added.
        center = 2.0 * float(np.median(finite / 2.0)) if finite.size else 0.0
        return cls(Scale(center, _spread(finite)))

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

    @property
    def width(self) -> int:
        """Columns of the matrix."""
        return min(_LEVELS, len(self.shares)) + 2 if self.onehot else 1

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
        unseen = np.array([x not in self.shares for x in levels], dtype=np.bool_) & ~missing
        new = Counter(levels[at] for at in np.flatnonzero(unseen).tolist())
        values = self._onehot(levels) if self.onehot else self._share(levels)
        return Part(values, missing, new=new, unseen=unseen)

    def _share(self, levels: list[Any]) -> Floats:
        shares = [np.nan if level is None else self.shares.get(level, 0.0) for level in levels]
        return self.scale.standard(np.array(shares, dtype=np.float64)).reshape(-1, 1)

    def _onehot(self, levels: list[Any]) -> Floats:
        places = {level: i for i, level in enumerate(list(self.shares)[:_LEVELS])}
        width = self.width
        # The rare ones share a column, the new ones another.
        at = [places.get(x, width - 2 if x in self.shares else width - 1) for x in levels]
        values = np.zeros((len(levels), width))
        values[np.arange(len(levels)), np.array(at, dtype=np.int64)] = 1.0
        values[[x is None for x in levels]] = 0.0
        return values


@dataclass(frozen=True, slots=True)
class NoCode:
    """A point in time is no number, even though both can be counted in seconds."""

    def part(self, column: Any) -> Part:
        """A column in which nothing can be read."""
        rows = len(column)
        return Part(np.zeros((rows, 1)), np.ones(rows, dtype=np.bool_), invalid=rows)


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


@dataclass(slots=True)
class Seen:
    """What was wrong with a feature, page by page."""

    missing: int = 0
    infinite: int = 0
    invalid: int = 0
    unseen: int = 0
    new: Counter[Any] = field(default_factory=Counter[Any])

    def add(self, part: Part) -> None:
        """Count another page."""
        self.missing += int(part.missing.sum())
        self.infinite += part.infinite
        self.invalid += part.invalid
        self.unseen += sum(part.new.values())
        # Three are told: which of very many they are hardly matters.
        if len(self.new) < _MOST_NEW:
            self.new.update(part.new)


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table as a matrix.

    ``owner`` names the feature of every column of ``values``; ``some`` says which of the
    ``rows`` hold any value, only these are lines of ``values``; ``missing`` and ``infinite`` are
    shares by feature; ``findings`` say what is wrong with the data, ``gone`` which features it
    lacks.
    """

    values: Floats
    owner: tuple[str, ...]
    missing: Mapping[str, float]
    infinite: Mapping[str, float]
    rows: int
    some: Bools
    findings: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()

    @property
    def used(self) -> int:
        """Rows that hold any value."""
        return int(self.some.sum())


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
    onehot: bool

    @classmethod
    def fit(
        cls,
        data: Any,
        feature_names: Sequence[str] | None = None,
        kinds: Mapping[str, Kind] | None = None,
        *,
        onehot: bool = False,
    ) -> "tuple[Encoder, Sheet]":
        """Fit ``data``, which is also read, without its values; times are left out and named.

        Raises
        ------
        BadConfiguration
            ``data`` is no table, or it has no column that can be compared.
        """
        columns = columns_of(data, feature_names)
        check_kinds(kinds or {}, columns)
        codes: dict[str, Code] = {}
        for name, column in columns.items():
            kind = (kinds or {}).get(name) or kind_of(column)
            if kind == "categorical":
                codes[name] = LevelCode.fit(column, onehot=onehot)
            elif kind == "numeric":
                codes[name] = NumberCode.fit(column)
        if not codes:
            raise BadConfiguration("reference has no column that can be compared")
        bare = cls(tuple(columns), codes, {}, _NOTHING, onehot)
        before = bare.survey(columns)
        often = {name: share for name, share in before.missing.items() if share > 0.0}
        missed = {n: Scale(s, float(np.sqrt(s * (1.0 - s)))) for n, s in often.items()}
        return replace(bare, missed=missed, before=replace(before, some=_NOTHING.some)), before

    def read(self, data: Any, each: Callable[[Floats], None] | None = None) -> Sheet:
        """``data`` as a matrix; columns are matched by name, those of an array by position.

        With ``each``, some thousand lines at a time go there, and the sheet has none.

        Raises
        ------
        TypeError
            ``data`` is no table at all.
        """
        table = named(data, self.names)
        raw = picked(table, [name for name in self.codes if name in table.columns])
        gone = missed_of(table, self.codes)
        pages: list[Floats] = [np.empty((0, len(self._owner(raw))))]
        # What lacks a column is no line of this matrix.
        take = _dropped if gone else (each or pages.append)
        seen = {name: Seen() for name in raw}
        some = self._turn(raw, seen, take)
        rows = len(some)
        sheet = Sheet(
            np.concatenate(pages),
            self._owner(raw),
            {name: _share(one.missing, rows) for name, one in seen.items()},
            {name: _share(one.infinite, rows) for name, one in seen.items()},
            rows,
            some,
            gone=gone,
        )
        return replace(sheet, findings=self._findings(seen, sheet, table))

    def _turn(
        self, raw: Mapping[str, Any], seen: Mapping[str, Seen], take: Callable[[Floats], None]
    ) -> Bools:
        """Read page by page; which rows hold any value."""
        readers = {name: self._reader(name, column) for name, column in raw.items()}
        some = np.zeros(length_of(raw), dtype=np.bool_)
        height = max(_LEAST_PAGE, min(_PAGE, _NUMBERS // len(self._owner(raw))))
        for start in range(0, len(some), height):
            page = slice(start, start + height)
            parts = {name: readers[name].part(column[page]) for name, column in raw.items()}
            for name, part in parts.items():
                seen[name].add(part)
            some[page] = ~np.logical_and.reduce([part.missing for part in parts.values()])
            take(self._lines(parts)[some[page]])
        return some

    def raw(self, data: Any) -> dict[str, Any]:
        """Columns of ``data`` that this encoder reads, as they are; it lacks none."""
        return picked(named(data, self.names), self.codes)

    def survey(self, data: Any) -> Sheet:
        """What :meth:`read` says of ``data``, without its values."""
        return self.read(data, _dropped)

    def pair(self, old: Mapping[str, Any], new: Mapping[str, Any]) -> "tuple[Sheet, Sheet]":
        """Two samples of this encoder's features, encoded by both of them together.

        What one sample alone decided (which levels are frequent, how wide a column is) would fit
        that sample better than the other, and a test would see it.
        """
        both = {name: _pooled(old[name], new[name]) for name in self.codes}
        kinds: dict[str, Kind] = {n: _kind(code) for n, code in self.codes.items()}
        encoder, _ = Encoder.fit(both, tuple(both), kinds, onehot=self.onehot)
        return encoder.read(old), encoder.read(new)

    def _reader(self, name: str, column: Any) -> Code | NoCode:
        code = self.codes[name]
        if isinstance(code, NumberCode) and kind_of(column) == "time":
            return NoCode()
        return code

    def _owner(self, names: Iterable[str]) -> tuple[str, ...]:
        names = tuple(names)
        owner = [name for name in names for _ in range(self.codes[name].width)]
        return (*owner, *(name for name in names if name in self.missed), UNSEEN)

    def _lines(self, parts: Mapping[str, Part]) -> Floats:
        blocks = [part.values for part in parts.values()]
        surprise = np.zeros(len(blocks[0]))
        for name, part in parts.items():
            if name in self.missed:
                said = self.missed[name].standard(part.missing.astype(np.float64))
                blocks.append(said.reshape(-1, 1))
            else:
                surprise += part.missing
            if part.unseen is not None:
                surprise += part.unseen
        blocks.append(np.minimum(surprise, 1.0).reshape(-1, 1) * _CLIP)
        return np.hstack(blocks)

    def _findings(self, seen: Mapping[str, Seen], sheet: Sheet, table: Table) -> tuple[str, ...]:
        told = [f"{n}: time always moves, left out" for n in self.names if n not in self.codes]
        if sheet.used < sheet.rows:
            told.append(f"{sheet.rows - sheet.used} rows without any value left out")
        for name, one in seen.items():
            told += self._of_feature(name, one, sheet)
        if table.misfit:
            told.append(f"current has {table.misfit}")
        return tuple(told)

    def _of_feature(self, name: str, seen: Seen, sheet: Sheet) -> list[str]:
        told: list[str] = []
        was = self.before
        for what, new, old in (
            ("missing", sheet.missing[name], was.missing.get(name, 0.0)),
            ("infinite", sheet.infinite[name], was.infinite.get(name, 0.0)),
        ):
            if sheet.rows and abs(new - old) >= _TOLD:
                told.append(f"{name}: {what} {100 * old:.3g} % -> {100 * new:.3g} %")
        if seen.invalid:
            told.append(f"{name}: {seen.invalid} values of a wrong type")
        if seen.new:
            levels = ", ".join(f"{level!s:.40}" for level, _ in seen.new.most_common(3))
            share = 100 * _share(seen.unseen, sheet.rows)
            told.append(f"{name}: new levels {levels} {share:.3g} %")
        return told


_NOTHING = Sheet(np.empty((0, 0)), (), {}, {}, 0, np.zeros(0, dtype=np.bool_))


def _dropped(lines: Floats) -> None:
    """Nobody needs them."""


def _share(count: int, rows: int) -> float:
    return count / rows if rows else 0.0


def _column(raw: Any) -> Any:
    column = column_of(raw, by_row=True)
    assert not isinstance(column, Counted)
    return column


def named(data: Any, names: Sequence[str] | None) -> Table:
    """``data`` as raw columns; those of an array are views of it.

    Raises
    ------
    TypeError
        ``data`` is no table at all.
    """
    if isinstance(data, np.ndarray) and data.ndim == 2 and not data.dtype.names:
        # A page of it is small enough to be read across.
        table = table_of(data[:0], names)
        return replace(table, columns={n: data[:, i] for i, n in enumerate(table.columns)})
    return table_of(data, names)


def picked(table: Table, names: Iterable[str]) -> dict[str, Any]:
    """Some columns in one of their two forms, in the order of rows."""
    return {name: _column(table.columns[name]) for name in names}


def missed_of(table: Table, names: Iterable[str]) -> tuple[str, ...]:
    """Columns that ``table`` lacks."""
    if not table.columns and not table.misfit:
        # A list without rows cannot say which columns it would have had.
        return ()
    return tuple(name for name in names if name not in table.columns)


def length_of(columns: Mapping[str, Any]) -> int:
    """Rows of raw columns.

    Raises
    ------
    TypeError
        Columns of different lengths.
    """
    lengths = {len(column) for column in columns.values()}
    if len(lengths) > 1:
        raise TypeError(f"columns of different lengths: {sorted(lengths)}")
    return lengths.pop() if lengths else 0


def _kind(code: Code) -> Kind:
    return "numeric" if isinstance(code, NumberCode) else "categorical"


def _pooled(old: Any, new: Any) -> Any:
    if isinstance(old, np.ndarray) and isinstance(new, np.ndarray) and old.dtype == new.dtype:
        return np.concatenate((old, new))
    return [*_listed(old), *_listed(new)]


def _listed(column: Any) -> list[Any]:
    return column if isinstance(column, list) else column.tolist()


def drawn(
    columns: Mapping[str, Any], some: Bools, most: int, rng: np.random.Generator
) -> dict[str, Any]:
    """At most ``most`` of the rows that hold something, without replacement, in their order."""
    filled = np.flatnonzero(some)
    if len(filled) > most:
        filled = np.sort(rng.choice(filled, most, replace=False))
    return rows_of(columns, filled)


def rows_of(columns: Mapping[str, Any], index: Any) -> dict[str, Any]:
    """Some rows of raw columns, as copies."""
    places: list[int] = index.tolist()
    return {
        name: [column[at] for at in places] if isinstance(column, list) else column[index]
        for name, column in columns.items()
    }


def columns_of(data: Any, names: Sequence[str] | None) -> dict[str, Any]:
    """Raw columns of a reference by name, in the order of its rows.

    Raises
    ------
    BadConfiguration
        It is no table, columns are not there, or their lengths differ.
    """
    try:
        table = named(data, names)
        columns = picked(table, [name for name in table.columns if name in (names or {name})])
        length_of(columns)
    except TypeError as error:
        raise BadConfiguration(f"reference is no table: {error}") from error
    if table.misfit:
        raise BadConfiguration(f"reference has {table.misfit} feature_names")
    absent = [name for name in names or () if name not in columns]
    if absent:
        known = ", ".join(table.columns)
        raise BadConfiguration(f"reference has no column {absent[0]!r}; columns: {known}")
    return {name: columns[name] for name in names or columns}


def check_kinds(kinds: Mapping[str, Kind], columns: Mapping[str, Any]) -> None:
    """Refuse kinds that there are not, or of columns that there are not."""
    for name, kind in kinds.items():
        if name not in columns:
            raise BadConfiguration(f"kinds names {name!r}, which is no feature of the reference")
        if kind not in KINDS:
            raise BadConfiguration(f"kinds[{name!r}] must be one of {KINDS}, not {kind!r}")
