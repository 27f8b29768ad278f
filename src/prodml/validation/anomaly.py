"""Rows that are valid one value at a time, and still unlike the reference."""

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import copysign, isnan, sqrt
from operator import itemgetter
from typing import Any, cast

from prodml.errors import BadConfiguration
from prodml.types import MISS, Features
from prodml.validation.columns import Column, Mask, Table, rows_of, table_of, transposed
from prodml.validation.surprise import Levels, Numbers, Surprise, number

__all__ = ["AnomalyDetector", "BatchAnomaly", "RowAnomaly"]

_FEWEST = 50
_FEWEST_FITTED = 10
_TOGETHER = "(together)"
_FAR = 20.0
_HUGE = 1e100
_NOTHING: Mapping[str, Any] = {}


@dataclass(frozen=True, slots=True)
class RowAnomaly:
    """How unlike the reference one row is.

    Parameters
    ----------
    score
        0 to 1: the share of held-out reference rows that are less surprising.
    p_value
        Chance that a row of the reference is at least as surprising, calibrated on rows that
        the detector was not fitted on (split conformal: valid at any sample size).
    surprise
        What was compared: ranks rows even where ``p_value`` has reached its smallest.
    contributions
        The fields that surprise most, with their part of ``surprise``; ``"(together)"`` is
        the combination of the numbers.

    Examples
    --------
    >>> RowAnomaly(0.99, 0.01, 17.0, (("age", 9.1),)).contributions[0][0]
    'age'
    """

    score: float
    p_value: float
    surprise: float
    contributions: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True, eq=False)
class BatchAnomaly:
    """How unlike the reference every row of a batch is.

    Parameters
    ----------
    scores, p_values, surprises
        Arrays of shape (n_rows,), as in :class:`RowAnomaly`.
    parts
        Surprise by field: arrays of shape (n_rows,).

    Examples
    --------
    >>> import numpy as np
    >>> one = np.array([0.5])
    >>> BatchAnomaly(one, one, one, {"a": one}).row(0).contributions
    (('a', 0.5),)
    """

    scores: Any
    p_values: Any
    surprises: Any
    parts: Mapping[str, Any] = field(repr=False)

    def row(self, index: int, top: int = 3) -> RowAnomaly:
        """One row, with its ``top`` contributions."""
        parts = {name: float(values[index]) for name, values in self.parts.items()}
        return RowAnomaly(
            float(self.scores[index]),
            float(self.p_values[index]),
            float(self.surprises[index]),
            _largest(parts, top),
        )


class AnomalyDetector:
    """Scores rows by how far out their values lie, each by itself and the numbers together.

    Parameters
    ----------
    reference
        Rows of normal operation, 50 or more: list of mappings, mapping of columns, array with
        ``names``, or a frame.
    names
        Column names of an array; ``x0``, ``x1``, ... by default.
    fields
        Columns to look at; all of numbers, booleans and texts by default.
    held_out
        Share of the reference that calibrates the p-values instead of being fitted, 0..1.
    together
        Whether to look at combinations of numbers too (a distance that knows how they move
        together).
    top
        How many contributions a row names.
    seed
        Seed of the split.

    Raises
    ------
    BadConfiguration
        Too few rows, no column that can be judged, or a setting out of range.

    Notes
    -----
    A number's surprise is ``-log`` of its empirical tail, as in ECOD [1]_, read from 128
    quantiles and carried on by an exponential beyond the extremes; a text's that of levels
    as rare; a missing value's that of missing values.  ``"(together)"`` is the tail of the
    Mahalanobis distance of the numbers, scaled by median and quartiles.  The root of the sum
    of squares is compared with that of held-out rows.

    A p-value says how often the *reference* is as odd.  At 0.01, one good row in a hundred
    is called odd: use it to sort, to sample and to count, rather than to refuse.  What the
    fields do not tell (a wrong row that looks usual) stays unseen.

    Fitting keeps tables, no rows.  ``score`` never raises: a value that cannot be judged
    counts as missing.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> age = rng.normal(40, 8, 2000)
    >>> detector = AnomalyDetector({"age": age, "tenure": age / 4 + rng.normal(0, 1, 2000)})
    >>> detector.score({"age": 41.0, "tenure": 10.0}).p_value > 0.1
    True
    >>> odd = detector.score({"age": 25.0, "tenure": 14.0})
    >>> odd.p_value < 0.01, odd.contributions[0][0]
    (True, '(together)')

    References
    ----------
    .. [1] Li, Zhao, Hu, Botta, Ionescu, Chen (2022), *ECOD: Unsupervised outlier detection
       using empirical cumulative distribution functions*, IEEE TKDE.
    """

    __slots__: tuple[str, ...] = (
        "_calibration",
        "_judges",
        "_names",
        "_odds",
        "_together",
        "skipped",
        "top",
    )

    def __init__(
        self,
        reference: Any,
        names: Sequence[str] | None = None,
        *,
        fields: Sequence[str] | None = None,
        held_out: float = 0.3,
        together: bool = True,
        top: int = 3,
        seed: int = 0,
    ) -> None:
        import numpy as np

        if not 0.0 < held_out < 1.0:
            raise BadConfiguration(f"held_out is a share between 0 and 1, not {held_out!r}")
        if not isinstance(cast("Any", top), int) or top < 0:
            raise BadConfiguration(f"top is a count, >= 0, not {top!r}")
        table = _table(reference, names)
        if table.n_rows < _FEWEST:
            raise BadConfiguration(f"{table.n_rows} rows are too few, {_FEWEST} are needed")
        _refuse_strangers(fields, table.names)
        held = np.random.default_rng(seed).permutation(table.n_rows) < held_out * table.n_rows
        if (~held).sum() < _FEWEST_FITTED:
            raise BadConfiguration(
                f"held_out {held_out} of {table.n_rows} rows leaves too few to fit; "
                f"{_FEWEST_FITTED} are needed"
            )
        self.top: int = top
        self._names: tuple[str, ...] = tuple(table.names)
        self.skipped: tuple[str, ...] = ()
        self._judges: dict[str, Surprise] = {}
        columns = {name: table.column(name)[0] for name in table.names if _asked(name, fields)}
        # Distances of huge numbers overflow, which is far enough.
        with np.errstate(over="ignore", invalid="ignore"):
            self._learn(columns, held, together=together)

    def _learn(self, columns: Mapping[str, Column], held: Mask, *, together: bool) -> None:
        import numpy as np

        self._fit(columns, ~held)
        if not self._judges:
            raise BadConfiguration("no column holds numbers or texts")
        numeric = [name for name, judge in self._judges.items() if isinstance(judge, Numbers)]
        self._together: _Together | None = None
        if together and len(numeric) > 1:
            self._together = _Together({n: _floats(columns[n])[~held] for n in numeric})
        parts = self._parts({name: _part(values, held) for name, values in columns.items()})
        self._calibration: Any = np.sort(_length(parts))
        self._odds: list[float] = self._calibration.tolist()

    def _fit(self, columns: Mapping[str, Column], fitted: Mask) -> None:
        skipped: list[str] = []
        for name, values in columns.items():
            kind = _kind(values)
            if kind == "number":
                self._judges[name] = Numbers(_floats(values)[fitted])
            elif kind == "text":
                self._judges[name] = Levels(_listed(_part(values, fitted)))
            else:
                skipped.append(name)
        self.skipped = tuple(skipped)

    def score(self, row: Features, /) -> RowAnomaly:
        """How unlike the reference ``row`` is.

        Examples
        --------
        >>> detector = AnomalyDetector({"plan": ["a", "b"] * 500})
        >>> detector.score({"plan": "zzz"}).score > 0.99
        True
        """
        get = row.get if hasattr(row, "get") else _NOTHING.get
        parts = {name: judge.of(get(name, MISS)) for name, judge in self._judges.items()}
        if self._together is not None:
            parts[_TOGETHER] = self._together.of(get)
        surprise = sqrt(sum([part * part for part in parts.values()]))
        size = len(self._odds)
        p_value = (1 + size - bisect_left(self._odds, surprise - 1e-9)) / (size + 1)
        return RowAnomaly(1.0 - p_value, p_value, surprise, _largest(parts, self.top))

    def score_batch(self, rows: Any, /, names: Sequence[str] | None = None) -> BatchAnomaly:
        """How unlike the reference every row is; a missing column is a column of nulls.

        ``names`` are those of an array's columns; the reference's by default.

        Examples
        --------
        >>> detector = AnomalyDetector({"plan": ["a", "b"] * 500})
        >>> (detector.score_batch({"plan": ["a", "zzz"]}).p_values < 0.01).tolist()
        [False, True]
        """
        parts = self._parts(self._columns(rows, names))
        surprises = _length(parts)
        p_values = self._p_values(surprises)
        return BatchAnomaly(1.0 - p_values, p_values, surprises, parts)

    def _columns(self, rows: Any, names: Sequence[str] | None) -> dict[str, Column]:
        listed: Any = rows_of(rows)
        if listed is not None:
            gets = [row.get if hasattr(row, "get") else _NOTHING.get for row in listed]
            return {name: [get(name, MISS) for get in gets] for name in self._judges}
        table = table_of(rows, self._names if names is None else names)
        gone: list[Any] = [None] * table.n_rows
        return {n: table.column(n)[0] if n in table.names else gone for n in self._judges}

    def _parts(self, columns: Mapping[str, Column]) -> dict[str, Any]:
        parts = {name: judge.of_all(columns[name]) for name, judge in self._judges.items()}
        if self._together is not None:
            parts[_TOGETHER] = self._together.of_all(columns)
        return parts

    def _p_values(self, surprise: Any) -> Any:
        import numpy as np

        size = len(self._calibration)
        # Sums in another order differ in their last bits.
        as_odd = size - np.searchsorted(self._calibration, surprise - 1e-9, "left")
        return (1 + as_odd) / (size + 1)


class _Together:
    """Surprise of the combination of numbers: the tail of their Mahalanobis distance."""

    __slots__: tuple[str, ...] = ("_middle", "_names", "_pairs", "_tail", "_weights")

    def __init__(self, columns: Mapping[str, Any]) -> None:
        import numpy as np

        self._names: list[str] = list(columns)
        data = np.column_stack(list(columns.values()))
        data[~np.isfinite(data)] = np.nan
        middles: list[float] = []
        scales: list[float] = []
        for column in data.T:
            known = column[~np.isnan(column)]
            low, middle, high = np.quantile(known, (0.25, 0.5, 0.75)) if len(known) else (0, 0, 0)
            middles.append(float(middle))
            scales.append(float(high - low or (known.std() if len(known) else 0) or 1.0))
        self._middle: Any = np.array(middles)
        self._pairs: list[tuple[str, float]] = list(zip(self._names, middles, strict=True))
        scaled = self._scaled(data, np.array(scales))
        spread = np.cov(scaled, rowvar=False) + 1e-3 * np.eye(len(middles))
        # Rows of W, with W'W the inverse: the distance is the length of W z.
        factor = np.linalg.inv(np.linalg.cholesky(spread))
        self._weights: Any = factor / np.array(scales)
        self._tail: Numbers = Numbers(self._distances(data), sides=1)

    def _scaled(self, data: Any, scales: Any) -> Any:
        import numpy as np

        return np.clip(np.nan_to_num((data - self._middle) / scales), -_FAR, _FAR)

    def _distances(self, data: Any) -> Any:
        import numpy as np

        away = np.nan_to_num(data - self._middle, nan=0.0, posinf=_HUGE, neginf=-_HUGE)
        away = np.clip(away, -_HUGE, _HUGE) @ self._weights.T
        return np.sqrt(np.square(away).sum(axis=-1))

    def of(self, get: Callable[[str, Any], Any]) -> float:
        away: list[float] = []
        for name, middle in self._pairs:
            x = get(name, MISS)
            x = (x if type(x) is float else number(x)) - middle
            # What is missing lies in the middle.
            away.append(x if -_HUGE < x < _HUGE else 0.0 if isnan(x) else copysign(_HUGE, x))
        mixed = self._weights.dot(away)
        return self._tail.of(sqrt(float(mixed.dot(mixed))))

    def of_all(self, columns: Mapping[str, Column]) -> Any:
        import numpy as np

        with np.errstate(all="ignore"):
            data = np.column_stack([_floats(columns[name]) for name in self._names])
            return self._tail.of_all(self._distances(data))


def _table(data: Any, names: Sequence[str] | None) -> Table:
    rows = rows_of(data)
    return table_of(data, names) if rows is None else table_of(transposed(rows))


def _refuse_strangers(fields: Sequence[str] | None, names: Sequence[str]) -> None:
    strangers = [name for name in fields or () if name not in names]
    if strangers:
        raise BadConfiguration(f"fields: no column {', '.join(map(repr, strangers))}")


def _asked(name: str, fields: Sequence[str] | None) -> bool:
    return fields is None or name in fields


def _kind(values: Column) -> str:
    from prodml.types import is_missing
    from prodml.validation.kinds import kind_of_type

    if not isinstance(values, list) and values.dtype.kind in "iufb":
        return "number"
    kinds = {kind_of_type(type(value)) for value in values if not is_missing(value)}
    if kinds and kinds <= {"bool", "float", "int"}:
        return "number"
    return "text" if kinds == {"str"} else "other"


def _floats(values: Column) -> Any:
    import numpy as np

    if not isinstance(values, list) and values.dtype.kind in "iufb":
        return values.astype(np.float64)
    return np.array([number(value) for value in values], dtype=np.float64)


def _listed(values: Column) -> list[Any]:
    return values if isinstance(values, list) else values.tolist()


def _part(values: Column, mask: Mask) -> Column:
    if not isinstance(values, list):
        return values[mask]
    return [value for value, keep in zip(values, mask, strict=True) if keep]


def _length(parts: Mapping[str, Any]) -> Any:
    """Squares let one value that was never seen outweigh many a bit odd."""
    import numpy as np

    return np.sqrt(sum(part * part for part in parts.values()))


def _largest(parts: Mapping[str, float], top: int) -> tuple[tuple[str, float], ...]:
    ordered = sorted(parts.items(), key=itemgetter(1), reverse=True)
    return tuple(ordered[:top])
