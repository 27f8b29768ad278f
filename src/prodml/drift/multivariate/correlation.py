"""Which pairs of features go together as they did, and which do not?"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any, Literal, TypeAlias, final

import numpy as np
import numpy.typing as npt

from prodml.drift.correction import CORRECTIONS, Correction, adjust
from prodml.drift.level import DriftLevel
from prodml.drift.multivariate.auc import midranks
from prodml.drift.multivariate.encoding import columns_of
from prodml.drift.multivariate.verdict import MultivariateDrift, PairDrift, check_settings
from prodml.drift.sample import floats_of, kind_of
from prodml.drift.table import Counted, Table, column_of, table_of
from prodml.errors import BadConfiguration

__all__ = ["CorrelationDrift", "correlation_change"]

Floats: TypeAlias = npt.NDArray[np.float64]
Method: TypeAlias = Literal["spearman", "pearson"]
# Correlation and rows of every pair.
Pairs: TypeAlias = dict[tuple[str, str], tuple[float, int]]

# A correlation of 1 has no finite Fisher transform; this is 1 to twelve digits.
_ONE = 1.0 - 1e-12


def correlation_change(
    before: float, rows_before: int, after: float, rows_after: int, *, method: Method = "pearson"
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
class CorrelationDrift:
    """Compare the correlation of every pair of numeric features with the reference's.

    The p-value of a pair is :func:`correlation_change`, corrected for the number of pairs.  The
    effect is the change of the correlation, in [0, 2]; a pair drifted when there is evidence and
    a change of at least ``min_effect``, and the whole when any pair did.

    Parameters
    ----------
    reference
        The data that the model knows, a table in any form of :class:`DriftDetector`; only its
        correlations are kept.
    feature_names
        Columns to compare; default all that are numeric.
    method
        ``"spearman"`` (ranks: any shape, no outlier matters) or ``"pearson"``.
    correction
        Over pairs; see :func:`adjust`.
    min_effect
        Smallest change of a correlation that is called drift.
    alpha, min_rows
        As for :class:`DriftDetector`; a pair needs ``min_rows`` rows that have both values.

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

    reference: Any = field(kw_only=False, repr=False)
    feature_names: Sequence[str] | None = field(default=None, kw_only=False)
    method: Method = "spearman"
    correction: Correction = "bh"
    alpha: float = 0.05
    min_effect: float = 0.1
    min_rows: int = 30
    _pairs: Pairs = field(init=False, repr=False)
    _left_out: tuple[str, ...] = field(default=(), init=False, repr=False)
    _columns: tuple[str, ...] = field(default=(), init=False, repr=False)
    _rows: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        _check(self)
        raw = columns_of(self.reference, self.feature_names)
        kinds = {name: kind_of(column) for name, column in raw.items()}
        columns = {n: floats_of(column)[0] for n, column in raw.items() if kinds[n] == "numeric"}
        if len(columns) < 2:
            raise BadConfiguration("reference needs two numeric columns to have a correlation")
        self._rows = max(len(column) for column in columns.values())
        check_settings(self, self._rows)
        self._pairs = _correlations(columns, self.method, self.min_rows)
        self._columns = tuple(raw)
        self._left_out = tuple(
            f"{name}: {kind}, has no correlation"
            for name, kind in kinds.items()
            if kind != "numeric"
        )
        self.feature_names = tuple(columns)
        self.reference = None

    def detect_drift(self, current: Any) -> MultivariateDrift:
        """Compare ``current`` with the reference.

        Raises
        ------
        TypeError
            ``current`` is no table at all.

        Examples
        --------
        >>> check = CorrelationDrift({"a": [1.0, 2.0, 3.0] * 20, "b": [2.0, 1.0, 3.0] * 20})
        >>> check.detect_drift({"a": [1.0] * 40, "b": [2.0, 1.0] * 20}).reason
        'no pair of features can be compared; a ~ b: constant or too few rows with both'
        """
        table = table_of(current, self._columns)
        columns, findings = _read(table, self.feature_names or ())
        base = MultivariateDrift(
            method="correlation",
            level=DriftLevel.INCONCLUSIVE,
            floor=self.min_effect,
            findings=(*self._left_out, *findings),
            reference_rows=self._rows,
            current_rows=max((len(column) for column in columns.values()), default=0),
        )
        gone = [name for name in self.feature_names or () if name not in columns]
        if gone and (table.columns or table.misfit):
            plural = "the columns are gone" if len(gone) > 1 else "the column is gone"
            what = f"{', '.join(gone)}: {plural}"
            return replace(base, level=DriftLevel.DRIFT, effect=1.0, what=what)
        if base.current_rows < self.min_rows:
            what = f"{base.current_rows} rows in current; at least {self.min_rows} are needed"
            return replace(base, what=what)
        return self._compared(_correlations(columns, self.method, self.min_rows), base)

    def _compared(self, now: Pairs, base: MultivariateDrift) -> MultivariateDrift:
        both = [pair for pair in self._pairs if pair in now]
        lost = tuple(
            f"{a} ~ {b}: constant or too few rows with both"
            for a, b in combinations(self.feature_names or (), 2)
            if (a, b) not in both
        )
        base = replace(base, findings=(*base.findings, *lost))
        if not both:
            return replace(base, what="no pair of features can be compared")
        p = [correlation_change(*self._pairs[x], *now[x], method=self.method) for x in both]
        adjusted = adjust(p, self.correction).tolist()
        pairs = [
            self._pair(pair, now[pair][0], value)
            for pair, value in zip(both, adjusted, strict=True)
        ]
        pairs.sort(key=lambda pair: (pair.p_adjusted, -abs(pair.after - pair.before)))
        # The strongest evidence of the gravest pairs: a larger change that is less certain must
        # not cost the verdict when p-values are corrected over methods.
        first = max(pairs, key=lambda pair: _RANK[pair.level])
        change = first.after - first.before
        told = [pair for pair in pairs if pair.level is first.level][:3]
        return replace(
            base,
            statistic=change,
            p_value=first.p_adjusted,
            effect=abs(change),
            what="correlations " + ", ".join(_told(pair) for pair in told),
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


def _read(table: Table, names: Sequence[str]) -> tuple[dict[str, Floats], list[str]]:
    columns: dict[str, Floats] = {}
    findings: list[str] = []
    for name in names:
        if name in table.columns:
            column = column_of(table.columns[name], by_row=True)
            assert not isinstance(column, Counted)
            values, invalid, temporal = floats_of(column)
            columns[name] = np.full(len(values), np.nan) if temporal else values
            absent = len(values) - int(np.isfinite(columns[name]).sum())
            if absent:
                findings.append(f"{name}: {absent} of {len(values)} values missing or infinite")
            if invalid or temporal:
                findings.append(f"{name}: values of a wrong type")
    return columns, findings


def _correlations(columns: Mapping[str, Floats], method: Method, least: int) -> Pairs:
    """Correlations of all pairs that have one."""
    lengths = {len(column) for column in columns.values()}
    if len(lengths) > 1:
        raise TypeError(f"columns of different lengths: {sorted(lengths)}")
    finite = {name: np.isfinite(column) for name, column in columns.items()}
    whole = [name for name, mask in finite.items() if mask.all()]
    scores = {name: _scores(columns[name], method) for name in whole}
    found: Pairs = {}
    for a, b in combinations(columns, 2):
        if a in scores and b in scores:
            one, two = scores[a], scores[b]
        else:
            both = finite[a] & finite[b]
            one, two = (_scores(columns[name][both], method) for name in (a, b))
        if one is not None and two is not None and len(one) >= max(4, least):
            found[a, b] = (max(-1.0, min(1.0, float((one * two).sum()))), len(one))
    return found


def _scores(values: Floats, method: Method) -> Floats | None:
    """Centred and of length 1, so that a product is a correlation; None for a constant."""
    if not values.size or values.min() == values.max():
        return None
    values = midranks(values) if method == "spearman" else values / np.abs(values).max()
    centred = values - values.mean()
    length = float(np.sqrt((centred**2).sum()))
    return centred / length if length else None
