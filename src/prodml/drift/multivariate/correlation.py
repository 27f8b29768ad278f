"""Which pairs of features go together as they did, and which do not?"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any, Literal, TypeAlias, final

import numpy as np
import numpy.typing as npt

from prodml.drift.correction import CORRECTIONS, Correction, adjust
from prodml.drift.level import DriftLevel
from prodml.drift.multivariate.auc import midranks
from prodml.drift.multivariate.dealing import Dealt
from prodml.drift.multivariate.encoding import (
    Sheet,
    check_kinds,
    columns_of,
    length_of,
    missed_of,
    named,
    picked,
)
from prodml.drift.multivariate.method import Method
from prodml.drift.multivariate.verdict import (
    MultivariateDrift,
    PairDrift,
    check_settings,
    undecided,
    unfit,
)
from prodml.drift.sample import floats_of, kind_of
from prodml.drift.table import Counted, column_of
from prodml.errors import BadConfiguration

__all__ = ["CorrelationDrift", "correlation_change"]

Floats: TypeAlias = npt.NDArray[np.float64]
Measure: TypeAlias = Literal["spearman", "pearson"]
# Correlation and rows of every pair.
Pairs: TypeAlias = dict[tuple[str, str], tuple[float, int]]

# A correlation of 1 has no finite Fisher transform; this is 1 to twelve digits.
_ONE = 1.0 - 1e-12
# Rows whose products are taken at a time.
_PAGE = 4096
# Ranks up to here, halves of them too, are exact in single precision.
_MOST_SINGLE = 1 << 22
# Rows of either sample that are kept of blocks.
_IN_BLOCKS = 2000


def correlation_change(
    before: float, rows_before: int, after: float, rows_after: int, *, method: Measure = "pearson"
) -> float:
    """Two-sided p-value for a correlation of ``before`` and one of ``after`` being the same.

    Fisher's z: the difference of ``atanh(r)`` over its standard error, with a variance of
    ``1 / (n - 3)`` for Pearson's correlation [1]_ and ``(1 + r^2 / 2) / (n - 3)`` for
    Spearman's [2]_.  Pearson's needs normal data, Spearman's does not.

    Raises
    ------
    ValueError
        A correlation outside [-1, 1], or fewer than four rows.

    References
    ----------
    .. [1] Fisher (1921), *On the probable error of a coefficient of correlation*, Metron 1.
    .. [2] Bonett and Wright (2000), *Sample size requirements for estimating Pearson, Kendall
       and Spearman correlations*, Psychometrika 65.

    Examples
    --------
    >>> round(correlation_change(0.5, 103, 0.2, 103), 4)
    0.0143
    """
    if min(rows_before, rows_after) < 4:
        raise ValueError("a correlation needs at least four rows to be compared")
    if not (abs(before) <= 1.0 and abs(after) <= 1.0):
        raise ValueError(f"correlations must lie in [-1, 1]: {before}, {after}")
    z = variance = 0.0
    for sign, r, n in ((-1.0, before, rows_before), (1.0, after, rows_after)):
        z += sign * math.atanh(max(-_ONE, min(_ONE, r)))
        variance += (1.0 + r * r / 2.0 if method == "spearman" else 1.0) / (n - 3)
    return math.erfc(abs(z) / math.sqrt(2.0 * variance))


@final
@dataclass(kw_only=True, slots=True, eq=False)
class CorrelationDrift(Method):
    """Compare the correlation of every pair of numeric features with the reference's.

    The p-value of a pair is :func:`correlation_change`, corrected for the number of pairs.  The
    effect is the change of the correlation, in [0, 2]; a pair drifted when there is evidence and
    a change of at least ``min_effect``, and the whole when any pair did.

    Parameters
    ----------
    reference
        The data that the model knows, a table in any form of :class:`DriftDetector`; only its
        correlations are kept, and of blocks some rows.
    feature_names, kinds
        Columns to compare; default all that are numeric.  Kinds as for :class:`DriftDetector`.
    method
        ``"spearman"`` (ranks: any shape, no outlier matters) or ``"pearson"``.
    correction
        Over pairs; see :func:`adjust`.
    min_effect
        Smallest change of a correlation that is called drift.
    alpha, min_rows
        As for :class:`DriftDetector`; a pair needs ``min_rows`` rows that have both values.
    seed
        Of the draws that blocks need.
    blocks
        One label a row of the reference (its day) when rows of one block are alike.  Whole
        blocks are then dealt out anew, and a change is weighed against the largest of all pairs
        in every dealing (Westfall and Young), whatever ``correction``.

    Raises
    ------
    BadConfiguration
        A setting makes no sense, or the reference has no two numeric columns.

    Notes
    -----
    A row counts for a pair when both values are finite; what is missing is named.  A pair with
    a constant has no correlation: it is left out and named.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> age, fare = rng.normal(size=(2, 1000))
    >>> check = CorrelationDrift({"age": age, "fare": age + fare, "hour": rng.normal(size=1000)})
    >>> result = check.detect_drift({"age": age, "fare": fare - age, "hour": fare})
    >>> result.drift_detected, result.pairs[0].name
    (True, 'age ~ fare')
    """

    method: Measure = "spearman"
    correction: Correction = "bh"
    min_effect: float = 0.1
    _pairs: Pairs = field(init=False, repr=False)
    _numbers: "_Numbers" = field(init=False, repr=False)
    _rows: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        _check(self)
        raw = columns_of(self.reference, self.feature_names)
        check_kinds(self.kinds or {}, raw)
        kinds = {name: (self.kinds or {}).get(name) or kind_of(raw[name]) for name in raw}
        self._numbers = _Numbers(
            tuple(raw),
            tuple(name for name in raw if kinds[name] == "numeric"),
            tuple(
                f"{name}: {kind}, has no correlation"
                for name, kind in kinds.items()
                if kind != "numeric"
            ),
            self.method,
        )
        if len(self._numbers.numeric) < 2:
            raise BadConfiguration("reference needs two numeric columns to have a correlation")
        self._rows = length_of(raw)
        check_settings(self, self._rows)
        _, columns = self._numbers.read(raw)
        self._pairs = _correlations(columns, self.method, self.min_rows)
        numeric = {name: raw[name] for name in self._numbers.numeric}
        self._settle(self._numbers.numeric, self._hold(numeric, self._numbers, _IN_BLOCKS))

    def detect_drift(self, current: Any, *, blocks: Any = None) -> MultivariateDrift:
        """Compare ``current`` with the reference.

        Parameters
        ----------
        current
            A table like the reference.
        blocks
            One label a row, if the reference has blocks; without, ``current`` is one block.

        Raises
        ------
        TypeError
            ``current`` is no table at all, or has not one label a row.

        Examples
        --------
        >>> check = CorrelationDrift({"a": [1.0, 2.0, 3.0] * 20, "b": [2.0, 1.0, 3.0] * 20})
        >>> check.detect_drift({"a": [1.0] * 40, "b": [2.0, 1.0] * 20}).reason
        'no pair of features can be compared; a ~ b: constant or too few rows with both'
        """
        sheet, columns = self._numbers.read(current)
        found = unfit("correlation", sheet, self.min_rows, self.min_effect)
        if found is not None:
            return found
        rows = self._dealt(self._numbers, current, sheet, blocks)
        few = "" if rows is None else rows.too_few(self.alpha)
        if few:
            return undecided("correlation", sheet, self.min_effect, few)
        return self._compared(_correlations(columns, self.method, self.min_rows), sheet, rows)

    def _compared(self, now: Pairs, sheet: Sheet, rows: Dealt | None) -> MultivariateDrift:
        both = [pair for pair in self._pairs if pair in now]
        lost = tuple(
            f"{a} ~ {b}: constant or too few rows with both"
            for a, b in combinations(self._numbers.numeric, 2)
            if (a, b) not in both
        )
        sheet = replace(sheet, findings=(*sheet.findings, *lost))
        if not both:
            what = "no pair of features can be compared"
            return undecided("correlation", sheet, self.min_effect, what)
        adjusted = self._by_row(both, now) if rows is None else self._by_block(both, rows)
        pairs = [
            self._pair(pair, now[pair][0], value)
            for pair, value in zip(both, adjusted, strict=True)
        ]
        return self._verdict(pairs, sheet, "" if rows is None else f"; {rows.told}")

    def _by_row(self, both: list[tuple[str, str]], now: Pairs) -> list[float]:
        p = [correlation_change(*self._pairs[x], *now[x], method=self.method) for x in both]
        return list(map(float, adjust(p, self.correction)))

    def _by_block(self, both: list[tuple[str, str]], rows: Dealt) -> list[float]:
        ways = rows.ways.T.astype(np.float64)
        found, largest = np.zeros(len(both)), np.zeros(len(ways))
        for at, pair in enumerate(both):
            places = [rows.owner.index(name) for name in pair]
            change = _changes(rows, rows.rows[:, places], ways)
            found[at] = change[0]
            largest = np.maximum(largest, change)
        return [float((largest >= one * (1.0 - 1e-10)).mean()) for one in found.tolist()]

    def _verdict(self, pairs: list[PairDrift], sheet: Sheet, of: str) -> MultivariateDrift:
        pairs.sort(key=lambda pair: (pair.p_adjusted, -abs(pair.after - pair.before)))
        # The strongest evidence of the gravest pairs: a larger change that is less certain must
        # not cost the verdict when p-values are corrected over methods.
        first = max(pairs, key=lambda pair: _RANK[pair.level])
        change = first.after - first.before
        told = [pair for pair in pairs if pair.level is first.level][:3]
        return MultivariateDrift(
            method="correlation",
            level=DriftLevel.INCONCLUSIVE,
            floor=self.min_effect,
            findings=sheet.findings,
            reference_rows=self._rows,
            current_rows=sheet.rows,
            statistic=change,
            p_value=first.p_adjusted,
            effect=abs(change),
            what="correlations " + ", ".join(_told(pair) for pair in told) + of,
            pairs=tuple(pairs),
            moved={
                pair.name: abs(pair.after - pair.before)
                for pair in sorted(pairs, key=lambda pair: -abs(pair.after - pair.before))
                if pair.p_adjusted < self.alpha
            },
        ).judged(first.p_adjusted, self.alpha)

    def _pair(self, pair: tuple[str, str], after: float, p_adjusted: float) -> PairDrift:
        before = self._pairs[pair][0]
        level = DriftLevel.NONE
        if p_adjusted < self.alpha:
            large = abs(after - before) >= self.min_effect
            level = DriftLevel.DRIFT if large else DriftLevel.NEGLIGIBLE
        return PairDrift(
            a=pair[0], b=pair[1], before=before, after=after, p_adjusted=p_adjusted, level=level
        )


_RANK = {DriftLevel.NONE: 0, DriftLevel.NEGLIGIBLE: 1, DriftLevel.DRIFT: 2}


def _told(pair: PairDrift) -> str:
    return f"{pair.name} {pair.before:+.2f} -> {pair.after:+.2f}"


def _check(check: CorrelationDrift) -> None:
    if check.method not in {"spearman", "pearson"}:
        raise BadConfiguration(f"method must be 'spearman' or 'pearson', not {check.method!r}")
    if check.correction not in CORRECTIONS:
        known = ", ".join(CORRECTIONS)
        raise BadConfiguration(f"correction must be one of {known}, not {check.correction!r}")


@dataclass(frozen=True, slots=True)
class _Numbers:
    """Reads the columns that have a correlation: as they are, or as ranks where these are asked.

    ``names`` are all columns of the reference, ``numeric`` those that are numbers, ``left_out``
    tells of the others.  What is no finite number is NaN.
    """

    names: tuple[str, ...]
    numeric: tuple[str, ...]
    left_out: tuple[str, ...]
    method: Measure

    def raw(self, data: Any) -> dict[str, Any]:
        """Columns of ``data`` that have a correlation, as they are."""
        return picked(named(data, self.names), self.numeric)

    def read(self, data: Any) -> tuple[Sheet, dict[str, Floats]]:
        """What is in ``data``, and its numbers."""
        table = named(data, self.names)
        raw = {name: table.columns[name] for name in self.numeric if name in table.columns}
        columns: dict[str, Floats] = {}
        findings: list[str] = []
        for name, column in raw.items():
            values, wrong = _numbers_of(column)
            columns[name] = _standing(values, self.method)
            absent = int(np.isnan(columns[name]).sum())
            if absent:
                findings.append(f"{name}: {absent} of {len(values)} values missing or infinite")
            if wrong:
                findings.append(f"{name}: values of a wrong type")
        rows = length_of(columns)
        gone = missed_of(table, self.numeric)
        told = (*self.left_out, *findings)
        some = np.zeros(rows, dtype=np.bool_)
        for values in columns.values():
            some |= ~np.isnan(values)
        return _sheet(np.empty((0, 0)), self.numeric, some, told, gone), columns

    def survey(self, data: Any) -> Sheet:
        """What is in ``data``; a row is one that holds any number."""
        return self.read(data)[0]

    def pair(self, old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[Sheet, Sheet]:
        """Two samples, ranked together."""
        sides = [[_numbers_of(side[name])[0] for name in self.numeric] for side in (old, new)]
        both = [_standing(np.concatenate(two), self.method) for two in zip(*sides, strict=True)]
        values = np.column_stack(both).astype(np.float64)
        first, second = values[: len(sides[0][0])], values[len(sides[0][0]) :]
        whole = [np.ones(len(side), dtype=np.bool_) for side in (first, second)]
        return _sheet(first, self.numeric, whole[0]), _sheet(second, self.numeric, whole[1])


def _sheet(
    values: Floats,
    owner: tuple[str, ...],
    some: Any,
    findings: tuple[str, ...] = (),
    gone: tuple[str, ...] = (),
) -> Sheet:
    return Sheet(values, owner, {}, {}, len(some), some, findings, gone)


def _numbers_of(raw: Any) -> tuple[Floats, bool]:
    """Numbers of a column, and whether some have a wrong type."""
    column = column_of(raw, by_row=True)
    assert not isinstance(column, Counted)
    values, invalid, temporal = floats_of(column)
    return (np.full(len(values), np.nan) if temporal else values), bool(invalid or temporal)


def _standing(values: Floats, method: Measure) -> Any:
    """Ranks of the finite numbers, or the numbers themselves; NaN for all others."""
    finite = np.isfinite(values)
    if method == "pearson":
        return values if finite.all() else np.where(finite, values, np.nan)
    ranks = np.full(len(values), np.nan, np.float32 if len(values) < _MOST_SINGLE else np.float64)
    ranks[finite] = midranks(values[finite])
    return ranks


def _changes(dealt: Dealt, pair: Floats, ways: Floats) -> Floats:
    """How much the correlation of a pair changes, in standard errors, in every dealing."""
    both = ~np.isnan(pair).any(axis=1)
    codes = dealt.codes[both]
    x, y = _standard(pair[both].T)
    parts = (np.ones_like(x), x, y, x * x, y * y, x * y)
    sums = np.stack([np.bincount(codes, part, dealt.blocks) for part in parts])
    new = sums @ ways.T
    old = sums.sum(axis=1, keepdims=True) - new
    error = sum(1.0 / np.maximum(side[0] - 3.0, 1.0) for side in (old, new))
    return np.asarray(np.abs(_fisher(new) - _fisher(old)) / np.sqrt(error))


def _standard(columns: Floats) -> Floats:
    """In units that have squares."""
    columns = columns / np.maximum(np.abs(columns).max(axis=1, keepdims=True, initial=0.0), 1e-300)
    return np.asarray(columns - columns.mean(axis=1, keepdims=True))


def _fisher(sums: Floats) -> Floats:
    """Fisher's z from sums over rows; 0 where there is no correlation."""
    n, x, y, xx, yy, xy = np.maximum(sums[0], 1.0), *sums[1:]
    spread = np.sqrt(np.maximum((xx - x * x / n) * (yy - y * y / n), 0.0))
    some = spread > 1e-12 * n
    r = np.where(some, (xy - x * y / n) / np.where(some, spread, 1.0), 0.0)
    return np.asarray(np.arctanh(np.clip(r, -_ONE, _ONE)))


def _correlations(columns: Mapping[str, Floats], method: Measure, least: int) -> Pairs:
    """Correlations of all pairs that have one."""
    missing = {name: np.isnan(column) for name, column in columns.items()}
    whole = {name: columns[name] for name, gaps in missing.items() if not gaps.any()}
    found = _of_whole(whole, least)
    for a, b in combinations(columns, 2):
        if a not in whole or b not in whole:
            both = ~(missing[a] | missing[b])
            one, two = (_scores(columns[name][both], method) for name in (a, b))
            if one is not None and two is not None and len(one) >= max(4, least):
                found[a, b] = (max(-1.0, min(1.0, float((one * two).sum()))), len(one))
    # In the order of the columns, whichever way they were found.
    return {pair: found[pair] for pair in combinations(columns, 2) if pair in found}


def _of_whole(columns: Mapping[str, Floats], least: int) -> Pairs:
    """All pairs of columns without gaps at once, some rows at a time."""
    varied = {n: c for n, c in columns.items() if c.size and c.min() < c.max()}
    rows = length_of(varied)
    if rows < max(4, least):
        return {}
    names = list(varied)
    scale = np.array([float(np.abs(varied[name]).max()) for name in names])
    products = np.zeros((len(names), len(names)))
    means = np.array([_mean(varied[name], by) for name, by in zip(names, scale, strict=True)])
    for start in range(0, rows, _PAGE):
        page = [varied[name][start : start + _PAGE] for name in names]
        lines = np.column_stack(page) / scale - means
        products += lines.T @ lines
    lengths = np.sqrt(np.diag(products))
    with np.errstate(invalid="ignore", divide="ignore"):
        r = np.clip(products / np.outer(lengths, lengths), -1.0, 1.0)
    return {
        (names[a], names[b]): (float(r[a, b]), rows)
        for a, b in combinations(range(len(names)), 2)
        if math.isfinite(r[a, b])
    }


def _mean(values: Floats, scale: float) -> float:
    """Of values that may be too large to be added up."""
    pages = [values[at : at + _PAGE] for at in range(0, len(values), _PAGE)]
    return math.fsum(float((page / scale).sum(dtype=np.float64)) for page in pages) / len(values)


def _scores(values: Floats, method: Measure) -> Floats | None:
    """Centred and of length 1, so that a product is a correlation; None for a constant."""
    if not values.size or values.min() == values.max():
        return None
    values = midranks(values) if method == "spearman" else values / np.abs(values).max()
    centred = values - values.mean()
    length = float(np.sqrt((centred**2).sum()))
    return centred / length if length else None
