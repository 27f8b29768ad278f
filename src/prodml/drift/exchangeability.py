"""Is a batch in order?  What is wrong with the rows themselves, before drift is called.

Every comparison of a batch with a reference takes the rows of the batch to be exchangeable:
one window is as good as another.  A file sorted by group, two half-batches put together, or
rows delivered twice look like drift and are none.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from prodml.drift.correction import adjust
from prodml.drift.measures import chi_square, ks
from prodml.drift.sample import floats_of, kind_of
from prodml.drift.table import Counted, column_of, table_of
from prodml.errors import BadConfiguration
from prodml.types import is_missing

__all__ = ["Finding", "exchangeability", "noted", "repeats"]

Floats: TypeAlias = npt.NDArray[np.float64]

_FEW = 40
_LEVELS = 50
# Rows that are looked at for duplicates: tuples of values cost a microsecond each.
_MOST = 20_000
# Rows whose order is looked at.
_LOOK = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something about a batch that has to be known before its drift is read.

    Parameters
    ----------
    name
        ``"trend"``, ``"halves"``, ``"runs"``, ``"duplicates"``, ``"empty"`` or ``"malformed"``.
    feature
        The column, or ``""`` for whole rows.
    p_value
        Corrected for all tests of the batch; 0 where nothing had to be tested.
    effect
        Rank correlation with the position (trend), share of rows that differ between the
        halves, share of neighbours alike beyond what chance gives (runs), share of rows that
        are copies beyond what the reference has (duplicates).

    Examples
    --------
    >>> found = exchangeability({"x": [float(i) for i in range(100)]})
    >>> found[0].name, found[0].feature, round(found[0].effect, 2)
    ('trend', 'x', 1.0)
    """

    name: str
    feature: str
    p_value: float
    effect: float
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "name": self.name,
            "feature": self.feature,
            "p_value": self.p_value,
            "effect": self.effect,
            "reason": self.reason,
        }


def exchangeability(
    batch: Any,
    reference: Any = None,
    *,
    feature_names: Sequence[str] | None = None,
    alpha: float = 0.001,
    min_effect: float = 0.1,
) -> tuple[Finding, ...]:
    """What is wrong with the order of a batch, and with its copies.

    Points in time are left out: rows come in their order.

    Parameters
    ----------
    batch
        A table, rows in the order in which they came.
    reference
        A table of the rows that the model knows, to know how many copies are usual (or what
        :func:`repeats` said of it); None leaves copies out.
    feature_names
        Names of an array's columns.
    alpha
        Level of all tests of the batch together (Holm), in (0, 1).
    min_effect
        Smallest effect that is reported, in [0, 1].

    Raises
    ------
    BadConfiguration
        A setting out of its range.
    TypeError
        ``batch`` is no table.

    Notes
    -----
    Trend: Spearman's rank correlation with the position.  Halves: two-sample
    Kolmogorov-Smirnov or chi-square of the first against the second half.  Runs: the number
    of neighbours on the same side of the median, or of the same level (Wald and Wolfowitz
    [1]_).  Copies: how many rows of as many rows of the reference would be copies of an
    earlier one; Poisson.  A batch that is larger than the reference is allowed as many as
    chance could give it at most: copies grow with the square of the rows.  Of long batches
    100,000 rows are looked at for order, evenly spread (for runs, those in the middle), and
    20,000 for copies, at random.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> batch = {"age": rng.normal(size=400), "group": ["a"] * 300 + ["b"] * 100}
    >>> [(found.name, found.feature) for found in exchangeability(batch)]
    [('halves', 'group'), ('runs', 'group')]

    References
    ----------
    .. [1] Wald and Wolfowitz (1940), "On a test whether two samples are from the same
       population", Annals of Mathematical Statistics 11.
    """
    for name, value in (("alpha", alpha), ("min_effect", min_effect)):
        if not 0.0 < value < 1.0:
            raise BadConfiguration(f"{name} must lie in (0, 1), not {value!r}")
    if reference is not None and not isinstance(reference, Counter):
        reference = repeats(reference, feature_names)
    columns = table_of(batch, feature_names).columns
    return noted(columns, reference, alpha=alpha, min_effect=min_effect)


def noted(
    columns: Mapping[str, Any],
    usual: "Counter[int] | None" = None,
    *,
    alpha: float = 0.001,
    min_effect: float = 0.1,
) -> tuple[Finding, ...]:
    """:func:`exchangeability` of columns, which are read one after the other.

    Examples
    --------
    >>> [found.name for found in noted({"x": [float(i) for i in range(100)]})]
    ['trend', 'halves', 'runs']
    """
    found: list[Finding] = []
    for feature, raw in columns.items():
        found += _of_column(feature, raw)
    if usual is not None:
        found += _copies(columns, usual)
    adjusted = adjust([one.p_value for one in found], "holm")
    return tuple(
        Finding(
            name=one.name,
            feature=one.feature,
            p_value=float(p),
            effect=one.effect,
            reason=one.reason,
        )
        for one, p in zip(found, adjusted, strict=True)
        if p < alpha and one.effect >= min_effect
    )


def _of_column(feature: str, raw: Any) -> list[Finding]:
    try:
        column = column_of(raw, by_row=True)
        assert not isinstance(column, Counted)
        kind = kind_of(column)
        if kind == "categorical":
            return _of_levels(feature, column)
        values = floats_of(column)[0]
    except Exception:
        # That a column cannot be read is told by the check itself.
        return []
    if kind == "time":
        # Rows come in the order of their time: that says nothing about the others.
        return []
    return _of_numbers(feature, values[np.isfinite(values)])


def _of_numbers(feature: str, values: Floats) -> list[Finding]:
    if len(values) < _FEW or values.min() == values.max():
        return []
    beside = _middle(values)
    found = _runs(feature, (beside > np.median(values)).astype(np.int64))
    values = _spread(values)
    n = len(values)
    if values.min() == values.max():
        return found
    ranks = _ranks(values)
    place = np.arange(n) - (n - 1) / 2
    rho = float((ranks @ place) / math.sqrt((ranks @ ranks) * (place @ place)))
    halves = ks(values[: n // 2], values[n // 2 :])
    return [
        _finding("trend", feature, _two_sided(rho * math.sqrt(n - 1)), abs(rho)),
        _finding("halves", feature, halves.p_value, halves.statistic),
        *found,
    ]


def _spread(values: Any) -> Any:
    """As many as are looked at, from beginning to end."""
    return values[:: max(1, -(-len(values) // _LOOK))]


def _middle(values: Any) -> Any:
    """Neighbours, as many as are looked at."""
    start = max(0, len(values) - _LOOK) // 2
    return values[start : start + _LOOK]


def _ranks(values: Floats) -> Floats:
    """Centred ranks, ties in the middle."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    middle = np.cumsum(count) - (count - 1) / 2
    ranks = middle[place]
    return np.asarray(ranks - ranks.mean())


def _of_levels(feature: str, column: Any) -> list[Finding]:
    levels, beside = _coded(_middle(column))
    if len(beside) < _FEW or not 2 <= len(levels) <= _LEVELS:
        return []
    found = _runs(feature, beside)
    codes = _coded(_spread(column))[1]
    n, many = len(codes), codes.max() + 1
    first, second = (
        np.bincount(part, minlength=many) for part in (codes[: n // 2], codes[n // 2 :])
    )
    enough = first + second >= 10
    if enough.sum() > 1:
        test = chi_square(first[enough], second[enough])
        gap = float(np.abs(first / first.sum() - second / second.sum()).sum() / 2)
        found.insert(0, _finding("halves", feature, test.p_value, gap))
    return found


def _coded(column: Any) -> tuple[Any, npt.NDArray[np.int64]]:
    texts = np.array([str(value)[:80] for value in column if not is_missing(value)])
    return np.unique(texts, return_inverse=True)


def _runs(feature: str, codes: npt.NDArray[np.int64]) -> list[Finding]:
    """Neighbours alike, against their mean and variance over all orders of the rows."""
    n = len(codes)
    if n < _FEW:
        return []
    counts = np.bincount(codes).astype(float)
    two = float((counts * (counts - 1)).sum())
    three = float((counts * (counts - 1) * (counts - 2)).sum())
    pair = two / (n * (n - 1))
    if not 0.0 < pair < 1.0:
        return []
    alike = int((codes[1:] == codes[:-1]).sum())
    mean = (n - 1) * pair
    # Two pairs share a row, or they do not.
    sharing = (n - 2) * three / (n * (n - 1) * (n - 2))
    apart = (two**2 - 4.0 * three - 2.0 * two) / (n * (n - 1) * (n - 2) * (n - 3))
    variance = mean + 2.0 * sharing + (n - 2) * (n - 3) * apart - mean**2
    if variance <= 0.0:
        return []
    p = _tails(alike, n - 1, pair, variance)
    effect = abs(alike - mean) / (n - 1)
    return [_finding("runs", feature, p, effect)]


def _tails(hits: float, of: int, share: float, variance: float) -> float:
    """Two-sided p-value of a count by the binomial distribution that has its variance.

    Rare levels come in twos (before and after), which makes the tails longer than those of the
    normal distribution: so many fewer pairs are counted as independent.
    """
    from scipy.special import betainc

    own = min(1.0, of * share * (1.0 - share) / variance)
    hits, rest = hits * own, (of - hits) * own
    upper = float(betainc(hits, rest + own, share)) if hits else 1.0
    lower = float(betainc(rest, hits + own, 1.0 - share)) if rest else 1.0
    return min(1.0, 2.0 * min(upper, lower))


def _two_sided(z: float) -> float:
    return math.erfc(abs(z) / math.sqrt(2.0))


def _finding(name: str, feature: str, p: float, effect: float) -> Finding:
    what = _WORDS[name].format(effect)
    told = f"{feature:.80}: {what}; order of the rows, not drift?"
    return Finding(name=name, feature=feature, p_value=p, effect=effect, reason=told)


_WORDS: Mapping[str, str] = {
    "trend": "values change along the batch (rank correlation {:.2g})",
    "halves": "the first and the second half differ (in {:.2g} of the rows)",
    "runs": "neighbours are alike, or take turns ({:.2g} of them beyond chance)",
}


def repeats(reference: Any, feature_names: Sequence[str] | None = None) -> "Counter[int]":
    """How many distinct rows a table has once, twice, ...: what copies are usual.

    Examples
    --------
    >>> repeats({"x": [1, 1, 2], "y": ["a", "a", "b"]})
    Counter({2: 1, 1: 1})
    """
    return Counter(_rows(table_of(reference, feature_names).columns)[0].values())


def _rows(columns: Mapping[str, Any]) -> "tuple[Counter[tuple[str, ...]], float]":
    """Distinct rows with their counts, and which share of all rows they are."""
    kept: list[list[str]] = []
    chosen, of = np.empty(0, dtype=np.int64), 0
    for raw in columns.values():
        column = column_of(raw, by_row=True)
        assert not isinstance(column, Counted)
        if not kept:
            of = len(column)
            chosen = _some(of)
        own = chosen[: chosen.searchsorted(len(column))]
        part = [column[i] for i in own] if isinstance(column, list) else column[own].tolist()
        kept.append(["" if is_missing(value) else repr(value) for value in part])
    return Counter(zip(*kept, strict=False)), len(chosen) / max(1, of)


def _some(of: int) -> "npt.NDArray[np.int64]":
    """Which rows are looked at; at random, since copies may come at any distance."""
    if of <= _MOST:
        return np.arange(of)
    return np.sort(np.random.default_rng(0).choice(of, _MOST, replace=False))


def _copies(columns: Mapping[str, Any], usual: "Counter[int]") -> list[Finding]:
    from scipy.special import gammainc, gammaln

    counts, looked = _rows(columns)
    n, rows = sum(times * rows for times, rows in usual.items()), counts.total()
    if not n or rows < 2:
        return []
    m = min(n, rows)
    # Distinct rows among m drawn from the reference without putting them back.
    expected = float(m)
    for times, distinct in usual.items():
        none = 0.0
        if n - times >= m:
            none = math.exp(
                gammaln(n - times + 1)
                - gammaln(n - times - m + 1)
                - gammaln(n + 1)
                + gammaln(n - m + 1)
            )
        expected -= distinct * (1.0 - none)
    seen, likely = rows - len(counts), max(expected, 0.0) + 1.0
    if rows > n:
        # Two standard errors of what the reference has, too: they grow alike.
        likely = (likely + 2.0 * math.sqrt(likely)) * (rows / n) ** 2
    top, times = counts.most_common(1)[0]
    # Of copies whose twin was looked at as well.
    extra = min(max(0.0, (seen - likely) / rows) / looked, seen / rows / looked, 1.0)
    return [
        Finding(
            name="duplicates",
            feature="",
            p_value=float(gammainc(seen, likely)) if seen else 1.0,
            effect=extra,
            reason=(
                f"{seen} of {rows} rows are copies of earlier ones, {likely:.3g} were expected; "
                f"one row came {times} times: {', '.join(top)[:120]}"
            ),
        )
    ]
