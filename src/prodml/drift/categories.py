"""How far two samples of categories lie apart, from counts by level in one order."""

from collections.abc import Sequence

import numpy as np

from prodml.drift.measures import Floats, Ints, TestResult, chi_square

__all__ = ["cramers_v", "g_test", "l_infinity", "total_variation"]


def g_test(
    reference: Sequence[int] | Ints, current: Sequence[int] | Ints, design: float = 1.0
) -> TestResult:
    """Two-sample likelihood-ratio test: like :func:`chi_square`, by logarithms.

    Parameters
    ----------
    reference, current : array of shape (k,), int
        Counts by level, in the same order.  Levels that occur in neither are left out.
    design
        Divides the statistic, see :mod:`prodml.drift.blocks`.

    Returns
    -------
    TestResult
        The p-value is that of the chi-square distribution with ``k - 1`` degrees of
        freedom; with expected counts below 5 the chi-square test keeps its level better.

    Raises
    ------
    ValueError
        Rows of different length, or without any count.

    Examples
    --------
    >>> round(g_test([50, 50], [60, 40]).statistic, 4)
    2.0238

    References
    ----------
    .. [1] Wilks (1935), *The likelihood test of independence in contingency tables*,
       Annals of Mathematical Statistics 6.
    """
    from scipy.special import chdtrc, xlogy

    table = _table(reference, current)
    sums = table.sum(axis=1)
    expected = np.outer(sums, table.sum(axis=0)) / sums.sum()
    statistic = max(0.0, 2.0 * float(xlogy(table, table / expected).sum())) / design
    degrees = table.shape[1] - 1
    p_value = float(chdtrc(degrees, statistic)) if degrees else 1.0
    return TestResult(statistic=statistic, p_value=p_value, method="g-test")


def cramers_v(reference: Sequence[int] | Ints, current: Sequence[int] | Ints) -> float:
    """Cramér's V between sample and level, without its small-sample bias [1]_.

    Returns
    -------
    float
        In [0, 1]: 0 where the samples differ by no more than chance, 1 where the level
        tells the sample.

    Raises
    ------
    ValueError
        Rows of different length, or without any count.

    Examples
    --------
    >>> cramers_v([50, 50], [52, 48]), round(cramers_v([500, 0], [0, 500]), 3)
    (0.0, 1.0)

    References
    ----------
    .. [1] Bergsma (2013), *A bias-correction for Cramér's V and Tschuprow's T*, Journal of
       the Korean Statistical Society 42.
    """
    table = _table(reference, current)
    n, levels = float(table.sum()), table.shape[1]
    if levels == 1:
        return 0.0
    found = chi_square(table[0].astype(np.int64), table[1].astype(np.int64)).statistic / n
    squared = max(0.0, found - (levels - 1) / (n - 1))
    rows, columns = 2 - 1 / (n - 1), levels - (levels - 1) ** 2 / (n - 1)
    least = min(rows, columns) - 1
    return min(1.0, float((squared / least) ** 0.5)) if least > 0.0 else 0.0


def l_infinity(reference: Sequence[int] | Ints, current: Sequence[int] | Ints) -> float:
    """Largest change of the share of one level, in [0, 1].

    Raises
    ------
    ValueError
        Rows of different length, or without any count.

    Examples
    --------
    >>> round(l_infinity([50, 50, 0], [50, 20, 30]), 6)
    0.3
    """
    return float(np.abs(_apart(reference, current)).max())


def total_variation(reference: Sequence[int] | Ints, current: Sequence[int] | Ints) -> float:
    """Share of rows that are in other levels than before, in [0, 1].

    Raises
    ------
    ValueError
        Rows of different length, or without any count.

    Examples
    --------
    >>> round(total_variation([50, 50, 0], [50, 20, 30]), 6)
    0.3
    """
    return float(np.abs(_apart(reference, current)).sum() / 2)


def _apart(reference: Sequence[int] | Ints, current: Sequence[int] | Ints) -> Floats:
    table = _table(reference, current)
    apart: Floats = table[1] / table[1].sum() - table[0] / table[0].sum()
    return apart


def _table(reference: Sequence[int] | Ints, current: Sequence[int] | Ints) -> Floats:
    if len(reference) != len(current):
        raise ValueError(f"{len(reference)} counts cannot be compared with {len(current)}")
    table = np.array([reference, current], dtype=np.float64)
    table = table[:, table.sum(axis=0) > 0.0]
    if not table.sum(axis=1).all():
        raise ValueError("both samples need at least one count")
    return table
