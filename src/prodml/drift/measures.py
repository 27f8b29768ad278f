"""How far two samples lie apart: pure functions, each with one definition and its source.

Tests give a :class:`TestResult` (statistic and p-value); distances give a number.  None of
them takes missing values: whether values are missing is a finding of its own, which
:class:`~prodml.drift.DriftDetector` tests beside the rest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log, log2, sqrt
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from prodml.drift.smirnov import largest_gap, tail
from prodml.errors import BadConfiguration

__all__ = [
    "TestResult",
    "ascending",
    "chance_of_one_order",
    "chi_square",
    "counts_in",
    "divergences",
    "hellinger",
    "hellinger_of_shares",
    "jensen_shannon",
    "jensen_shannon_of_shares",
    "ks",
    "ks_sorted",
    "psi",
    "psi_of_shares",
    "rate_change",
    "reference_cells",
    "wasserstein",
]

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]
Counts: TypeAlias = Mapping[Any, int]

# Support up to which Fisher's test sums the hypergeometric distribution.
_EXACT_SUPPORT = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class TestResult:
    """What a test found: ``method`` names the test and how its p-value was computed.

    Examples
    --------
    >>> result = ks([1.0, 2.0, 3.0], [4.0, 5.0, 6.0])
    >>> result.statistic, round(result.p_value, 9), result.method
    (1.0, 0.1, 'ks, exact')
    """

    # Or pytest would collect it in the tests of those who import it.
    __test__ = False

    statistic: float
    p_value: float
    method: str


def ks(reference: npt.ArrayLike, current: npt.ArrayLike) -> TestResult:
    """Two-sample Kolmogorov-Smirnov test: the largest gap between two distribution functions.

    The statistic is the largest change of the share of rows at or below any threshold: at
    0.05 there is a threshold with five rows in a hundred on another side than before.

    Parameters
    ----------
    reference, current : array of shape (n,) and (m,), float
        At least one value each, no NaN.

    Returns
    -------
    TestResult
        ``statistic`` in [0, 1], exact.  ``p_value`` is exact (as if there were no ties;
        with ties it is too large, never too small) while the smaller sample has at most
        200 values and ``n * m <= 4e6``; beyond it is Kolmogorov's limit, which for samples
        of that size is a few per cent too large.

    Raises
    ------
    ValueError
        No value, or NaN.

    Notes
    -----
    O(n log n + m log m) time for sorting.

    Examples
    --------
    >>> result = ks([1.0, 2.0, 3.0, 4.0], [1.5, 2.5, 3.5, 4.5])
    >>> result.statistic, round(result.p_value, 9)
    (0.25, 1.0)

    References
    ----------
    .. [1] Hodges (1958), *The significance probability of the Smirnov two-sample test*,
       Arkiv för Matematik 3.
    """
    return ks_sorted(ascending(reference), ascending(current))


def ks_sorted(reference: Floats, current: Floats, design: float = 1.0) -> TestResult:
    """Kolmogorov-Smirnov test of two *sorted* samples; ``design`` divides their size.

    Examples
    --------
    >>> ks_sorted(np.array([1.0, 2.0]), np.array([1.0, 2.0])).p_value
    1.0
    """
    n, m = len(reference), len(current)
    lattice = largest_gap(reference, current).lattice
    p_value, method = tail(lattice, n, m, design)
    return TestResult(statistic=lattice / (n * m), p_value=p_value, method=f"ks, {method}")


def chi_square(
    reference: Sequence[int] | Ints, current: Sequence[int] | Ints, design: float = 1.0
) -> TestResult:
    """Two-sample chi-square test: both rows of counts are samples.

    The goodness-of-fit test, which takes the reference for the truth, alarms in 38 to 74 %
    of all comparisons in which nothing moved; this is the test of homogeneity.

    Parameters
    ----------
    reference, current : array of shape (k,), int
        Counts by level, in the same order.  Levels that occur in neither are left out.
    design
        Divides the statistic (Rao and Scott [1]_), see :mod:`prodml.drift.blocks`.

    Returns
    -------
    TestResult
        The p-value is that of the chi-square distribution with ``k - 1`` degrees of
        freedom: expected counts should be 5 or more.  1 when there are fewer than two levels.

    Raises
    ------
    ValueError
        Rows of different length, or without any count.

    Examples
    --------
    >>> round(chi_square([50, 50], [60, 40]).p_value, 4)
    0.1552

    References
    ----------
    .. [1] Rao and Scott (1981), *The analysis of categorical data from complex sample
       surveys*, JASA 76.
    """
    from scipy.special import chdtrc

    table = np.array([reference, current], dtype=np.float64)
    table = table[:, table.sum(axis=0) > 0.0]
    sums = table.sum(axis=1)
    if not sums.all():
        raise ValueError("both samples need at least one count")
    expected = np.outer(sums, table.sum(axis=0)) / sums.sum()
    statistic = float(((table - expected) ** 2 / expected).sum()) / design
    degrees = table.shape[1] - 1
    p_value = float(chdtrc(degrees, statistic)) if degrees else 1.0
    return TestResult(statistic=statistic, p_value=p_value, method="chi-square")


def rate_change(
    reference_hits: int,
    reference_rows: int,
    current_hits: int,
    current_rows: int,
    design: float = 1.0,
) -> TestResult:
    """Whether a share changed: Fisher's exact test, two-sided.

    Parameters
    ----------
    reference_hits, current_hits
        Rows that have the property (a missing value, say).
    reference_rows, current_rows
        All rows, at least 1.
    design
        Divides the size of both samples, see :mod:`prodml.drift.blocks`.

    Returns
    -------
    TestResult
        ``statistic`` is the difference of the shares, current less reference.  Beyond
        10,000 possible tables the p-value is that of the chi-square test.

    Raises
    ------
    ValueError
        No rows, or more hits than rows.

    Examples
    --------
    >>> result = rate_change(1, 10, 9, 10)
    >>> result.statistic, round(result.p_value, 6)
    (0.8, 0.001093)

    References
    ----------
    .. [1] Fisher (1935), *The logic of inductive inference*, JRSS 98.
    """
    a, n, b, m = reference_hits, reference_rows, current_hits, current_rows
    if not (0 <= a <= n and 0 <= b <= m and n and m):
        raise ValueError(f"hits must lie between 0 and rows: {a} of {n}, {b} of {m}")
    difference = b / m - a / n
    if a + b in {0, n + m}:
        return TestResult(statistic=difference, p_value=1.0, method="fisher, exact")
    low, high = max(0, a + b - m), min(a + b, n)
    if design == 1.0 and high - low < _EXACT_SUPPORT:
        p_value, method = _fisher(a, n, a + b, m, np.arange(low, high + 1)), "fisher, exact"
    else:
        p_value, method = chi_square([a, n - a], [b, m - b], design).p_value, "chi-square"
    return TestResult(statistic=difference, p_value=p_value, method=method)


def _fisher(hits: int, n: int, total: int, m: int, support: Ints) -> float:
    from scipy.special import gammaln

    def ways(size: int, taken: Any) -> Any:
        return gammaln(size + 1.0) - gammaln(taken + 1.0) - gammaln(size - taken + 1.0)

    logs = ways(n, support) + ways(m, total - support) - ways(n + m, total)
    seen = logs[hits - int(support[0])]
    # Tables as likely as the one seen count; rounding must not part equals.
    return min(1.0, float(np.exp(logs[logs <= seen + 1e-7]).sum()))


def reference_cells(reference: Floats, bins: int = 10) -> Floats:
    """Upper edges of the cells that PSI and Jensen-Shannon count in; the last is open.

    Quantiles of the *sorted* ``reference``; equal ones become one cell.  Cells never depend
    on the current sample, so one outlier there cannot squash them.  Where a tie fills the
    first cell, what lies below it gets a cell of its own.

    Examples
    --------
    >>> reference_cells(np.array([0.0, 0.0, 0.0, 1.0]), 4).tolist()
    [-5e-324, 0.0]
    """
    if bins < 2:
        raise BadConfiguration(f"bins must be at least 2, not {bins}")
    n = len(reference)
    ranks = np.ceil(np.arange(1, bins) * n / bins).astype(np.int64) - 1
    edges = np.unique(reference[np.maximum(ranks, 0)])
    if edges[0] == reference[0]:
        edges = np.concatenate((np.nextafter(edges[:1], -np.inf), edges))
    return edges


def psi(
    reference: npt.ArrayLike, current: npt.ArrayLike, *, bins: int = 10, unbiased: bool = False
) -> float:
    """Population stability index: the symmetric Kullback-Leibler divergence of binned shares.

    Parameters
    ----------
    reference, current : array of shape (n,) and (m,), float
        At least one value each, no NaN.
    bins
        Cells of equal share of the reference, see :func:`reference_cells`.
    unbiased
        Subtract what is expected where nothing moved, ``(cells - 1) (1/n + 1/m)`` over
        the cells that hold anything [1]_, and cut at zero.

    Returns
    -------
    float
        In nats, >= 0.  Every count is raised by a half, so an empty cell gives a finite
        number.  Below 0.1 is usually called stable, above 0.2 shifted; with 100 rows and
        10 bins, 0.09 is expected where nothing moved at all.

    Raises
    ------
    BadConfiguration
        Fewer than two bins.
    ValueError
        No value, or NaN.

    Examples
    --------
    >>> psi([1, 2, 3, 4] * 25, [1, 2, 3, 4] * 25, bins=4)
    0.0
    >>> round(psi(range(100), range(50, 150)), 2)
    2.28

    References
    ----------
    .. [1] Yurdakul (2018), *Statistical properties of population stability index*.
    """
    return psi_of_shares(*_binned(reference, current, bins), unbiased=unbiased)


def psi_of_shares(
    reference: Sequence[int] | Ints, current: Sequence[int] | Ints, *, unbiased: bool = False
) -> float:
    """Population stability index of counts by cell; the formula of :func:`psi`.

    Examples
    --------
    >>> round(psi_of_shares([50, 50], [80, 20]), 3)
    0.406
    """
    a, b = np.asarray(reference, dtype=np.float64), np.asarray(current, dtype=np.float64)
    n, m, cells = float(a.sum()), float(b.sum()), len(a)
    p, q = (a + 0.5) / (n + cells / 2), (b + 0.5) / (m + cells / 2)
    index = float(((p - q) * np.log(p / q)).sum())
    if not unbiased:
        return index
    used = np.count_nonzero(a + b)
    return max(0.0, index - (used - 1) * (1 / n + 1 / m))


def jensen_shannon(
    reference: npt.ArrayLike, current: npt.ArrayLike, *, bins: int = 10, unbiased: bool = False
) -> float:
    """Jensen-Shannon distance of binned shares: the root of the divergence in bits.

    Parameters
    ----------
    reference, current : array of shape (n,) and (m,), float
        At least one value each, no NaN.
    bins
        Cells of equal share of the reference, see :func:`reference_cells`.
    unbiased
        Subtract from the divergence what is expected where nothing moved,
        ``(cells - 1) (1/n + 1/m) / (8 ln 2)`` over the cells that hold anything, and cut at
        zero: twice the divergence is the statistic of a likelihood-ratio test [2]_.

    Returns
    -------
    float
        In [0, 1]: 0 for equal shares, 1 for shares that have no cell in common.

    Raises
    ------
    BadConfiguration
        Fewer than two bins.
    ValueError
        No value, or NaN.

    Examples
    --------
    >>> jensen_shannon([1, 2, 3, 4], [1, 2, 3, 4], bins=4)
    0.0
    >>> round(jensen_shannon(range(100), range(50, 150)), 3)
    0.627

    References
    ----------
    .. [1] Endres and Schindelin (2003), *A new metric for probability distributions*,
       IEEE Transactions on Information Theory 49.
    .. [2] Grosse et al. (2002), *Analysis of symbolic sequences using the Jensen-Shannon
       divergence*, Physical Review E 65.
    """
    return jensen_shannon_of_shares(*_binned(reference, current, bins), unbiased=unbiased)


def jensen_shannon_of_shares(
    reference: Sequence[int] | Ints, current: Sequence[int] | Ints, *, unbiased: bool = False
) -> float:
    """Jensen-Shannon distance of counts by cell or level; the formula of :func:`jensen_shannon`.

    Examples
    --------
    >>> jensen_shannon_of_shares([50, 50, 0], [0, 0, 10])
    1.0
    """
    a, b = np.asarray(reference, dtype=np.float64), np.asarray(current, dtype=np.float64)
    n, m = float(a.sum()), float(b.sum())
    p, q = a / n, b / m
    middle = (p + q) / 2
    divergence = (_relative_entropy(p, middle) + _relative_entropy(q, middle)) / 2
    if unbiased:
        divergence -= (np.count_nonzero(a + b) - 1) * (1 / n + 1 / m) / (8 * np.log(2))
    return float(np.sqrt(max(0.0, divergence)))


def _relative_entropy(p: Floats, q: Floats) -> float:
    some = p > 0.0
    return float((p[some] * np.log2(p[some] / q[some])).sum())


def divergences(reference: Sequence[int], current: Sequence[int]) -> tuple[float, float]:
    """:func:`psi_of_shares`, unbiased, and :func:`jensen_shannon_of_shares` of a few cells.

    The same up to rounding; of ten cells in a third of the time.

    Examples
    --------
    >>> psi, distance = divergences([50, 50], [80, 20])
    >>> round(psi, 3), round(distance, 3)
    (0.386, 0.27)
    """
    n, m, half = sum(reference), sum(current), len(reference) / 2
    index = divergence = 0.0
    used = -1
    for a, b in zip(reference, current, strict=True):
        p, q = (a + 0.5) / (n + half), (b + 0.5) / (m + half)
        index += (p - q) * log(p / q)
        used += a + b > 0
        p, q = a / n, b / m
        divergence += _times_log(p, q) + _times_log(q, p)
    return max(0.0, index - used * (1 / n + 1 / m)), sqrt(max(0.0, divergence / 2))


def _times_log(p: float, q: float) -> float:
    return p * log2(2.0 * p / (p + q)) if p else 0.0


def hellinger(reference: npt.ArrayLike, current: npt.ArrayLike, *, bins: int = 10) -> float:
    """Hellinger distance of binned shares: ``sqrt(1 - sum(sqrt(p q)))``.

    Parameters
    ----------
    reference, current : array of shape (n,) and (m,), float
        At least one value each, no NaN.
    bins
        Cells of equal share of the reference, see :func:`reference_cells`.

    Returns
    -------
    float
        In [0, 1]: 0 for equal shares, 1 for shares that have no cell in common.

    Raises
    ------
    BadConfiguration
        Fewer than two bins.
    ValueError
        No value, or NaN.

    Examples
    --------
    >>> hellinger([1, 2, 3, 4], [1, 2, 3, 4], bins=4)
    0.0
    >>> round(hellinger(range(100), range(50, 150)), 3)
    0.596

    References
    ----------
    .. [1] Hellinger (1909), *Neue Begründung der Theorie quadratischer Formen von unendlich
       vielen Veränderlichen*, Journal für die reine und angewandte Mathematik 136.
    """
    return hellinger_of_shares(*_binned(reference, current, bins))


def hellinger_of_shares(reference: Sequence[int] | Ints, current: Sequence[int] | Ints) -> float:
    """Hellinger distance of counts by cell or level; the formula of :func:`hellinger`.

    Examples
    --------
    >>> hellinger_of_shares([50, 50, 0], [0, 0, 10])
    1.0
    """
    a, b = np.asarray(reference, dtype=np.float64), np.asarray(current, dtype=np.float64)
    # Half the squared difference of the roots: 1 - sum would keep its rounding under the root.
    apart = np.sqrt(a / a.sum()) - np.sqrt(b / b.sum())
    return float(np.sqrt((apart**2).sum() / 2))


def wasserstein(reference: npt.ArrayLike, current: npt.ArrayLike) -> float:
    """Earth mover's distance of order one: how far the rows moved, on average.

    Parameters
    ----------
    reference, current : array of shape (n,) and (m,), float
        At least one value each, finite.

    Returns
    -------
    float
        In the units of the data, >= 0.

    Raises
    ------
    ValueError
        No value, NaN or infinity.

    Examples
    --------
    >>> wasserstein([0.0, 1.0, 3.0], [5.0, 6.0, 8.0])
    5.0
    """
    x, y = ascending(reference), ascending(current)
    if not (np.isfinite(x[[0, -1]]).all() and np.isfinite(y[[0, -1]]).all()):
        raise ValueError("infinite values have no distance")
    both = np.sort(np.concatenate((x, y)), kind="stable")
    here = np.searchsorted(x, both[:-1], "right") / len(x)
    there = np.searchsorted(y, both[:-1], "right") / len(y)
    return float((np.abs(here - there) * np.diff(both)).sum())


def chance_of_one_order(n: float, m: float) -> float:
    """Chance of each order of two samples if rows were dealt at random: no p-value is smaller.

    Examples
    --------
    >>> round(chance_of_one_order(2, 2), 12)
    0.166666666667
    """
    from scipy.special import gammaln

    return float(np.exp(gammaln(n + 1.0) + gammaln(m + 1.0) - gammaln(n + m + 1.0)))


def _binned(reference: npt.ArrayLike, current: npt.ArrayLike, bins: int) -> tuple[Ints, Ints]:
    x, y = ascending(reference), ascending(current)
    edges = reference_cells(x, bins)
    return counts_in(x, edges), counts_in(y, edges)


def counts_in(ascending: Floats, edges: Floats) -> Ints:
    """Counts of a sorted sample in the cells with upper ``edges``; the last cell is open."""
    below = np.searchsorted(ascending, edges, "right")
    return np.diff(below, prepend=0, append=len(ascending))


def ascending(values: npt.ArrayLike) -> Floats:
    """Sorted copy of a sample that tests can take.

    Raises
    ------
    ValueError
        No value, or NaN.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64).ravel())
    if not ordered.size:
        raise ValueError("a sample needs at least one value")
    # NaN sorts to the end.
    if np.isnan(ordered[-1]):
        raise ValueError("NaN in a sample: DriftDetector tests missing values beside the rest")
    return ordered
