"""The two-sample Anderson-Darling test, from two samples."""

import math

import numpy as np
import numpy.typing as npt

from prodml.drift.measures import Floats, TestResult, ascending, chance_of_one_order

__all__ = ["anderson_darling"]

# Where the series and the leading term agree to their last common digits.
_FAR = 12.0
# The next term, as found where the series still has its digits (z from 6 to 12).
_NEXT = 0.3
_STEP = 0.05


def anderson_darling(
    reference: npt.ArrayLike, current: npt.ArrayLike, design: float = 1.0
) -> TestResult:
    """Two-sample Anderson-Darling test: squared gaps, weighted so that tails count.

    Parameters
    ----------
    reference, current : array of shape (n,) and (m,), float
        At least one value each, four together, not all equal, no NaN.
    design
        Divides the size of both samples, see :mod:`prodml.drift.blocks`.

    Returns
    -------
    TestResult
        ``statistic`` is the standardised one of Scholz and Stephens [1]_ with mid-ranks for
        ties (negative where samples agree better than chance).  ``p_value`` is that of the
        limiting distribution [2]_ of the statistic whose mean is 1 (with ties too large, never
        too small); within a few hundredths
        of its own size for samples of eight values or more, and at least the chance of a single
        order of the values.

    Raises
    ------
    ValueError
        Fewer than four values, all values equal, or NaN.

    Notes
    -----
    O(n log n + m log m) time for sorting.  The statistic of ``scipy.stats.anderson_ksamp``;
    its p-value is interpolated between seven points and cut to [0.001, 0.25], ours is not.

    Examples
    --------
    >>> result = anderson_darling(range(50), range(25, 75))
    >>> round(result.statistic, 3), f"{result.p_value:.1e}"
    (27.482, '1.1e-10')

    References
    ----------
    .. [1] Scholz and Stephens (1987), *K-sample Anderson-Darling tests*, JASA 82.
    .. [2] Marsaglia and Marsaglia (2004), *Evaluating the Anderson-Darling distribution*,
       Journal of Statistical Software 9.
    """
    x, y = ascending(reference), ascending(current)
    n, m = len(x), len(y)
    if n + m < 4:
        raise ValueError(f"the samples need four values together, not {n + m}")
    distinct = np.unique(np.concatenate((x, y)))
    if len(distinct) == 1:
        raise ValueError(f"all values are {distinct[0]:.6g}: there is nothing to rank")
    squared, cautious = (found / design for found in _midrank(x, y, distinct))
    deviation = math.sqrt(_variance(n, m))
    # No limit knows how few orders two values among fifty can have.
    tail = max(_tail_of_limit(cautious), chance_of_one_order(n / design, m / design))
    return TestResult(
        statistic=(squared - 1.0) / deviation, p_value=tail, method="anderson-darling, limit"
    )


def _midrank(x: Floats, y: Floats, distinct: Floats) -> tuple[float, float]:
    """The statistic with mid-ranks, whose mean is one where nothing moved, and one for the tail.

    The limit is that of values without ties: two levels alone have chi-square's tail, which is
    heavier.  The second statistic weighs a tie like a value in its middle.  Squares over
    ``h (1 - h)`` are convex, so that is no more than what a random order of the tied gives on
    average, and no tie makes a p-value too small; without ties both are the same.
    """
    total = len(x) + len(y)
    left = [np.searchsorted(sample, distinct, "left") for sample in (x, y)]
    right = [np.searchsorted(sample, distinct, "right") for sample in (x, y)]
    ties = (right[0] - left[0]) + (right[1] - left[1])
    pooled = left[0] + left[1] + ties / 2
    weights = np.stack([pooled * (total - pooled) - total * size / 4 for size in (ties, 1)])
    found = np.zeros(2)
    for sample, low, high in zip((x, y), left, right, strict=True):
        size = len(sample)
        gap = total * (low + (high - low) / 2) - pooled * size
        found += (ties / total * gap**2 / weights).sum(axis=1) / size
    mean_one, cautious = (found * (total - 1) / total).tolist()
    return mean_one, cautious


def _variance(n: int, m: int) -> float:
    """Variance where nothing moved [1]_, equation 4, for two samples."""
    total = n + m
    inverse = 1 / n + 1 / m
    steps = np.arange(1, total, dtype=np.float64)
    harmonic = float((1 / steps).sum())
    # sum over i < j of 1 / ((N - i) j), by running sums.
    running = np.cumsum(1 / steps[::-1])[: total - 2]
    double = float((running / steps[1:]).sum())
    a = (4 * double - 6) + (10 - 6 * double) * inverse
    b = (2 * double - 4) * 4 + 16 * harmonic + (2 * double - 14 * harmonic - 4) * inverse
    b += -8 * harmonic + 4 * double - 6
    c = (6 * harmonic + 2 * double - 2) * 4 + (4 * harmonic - 4 * double + 6) * 2
    c += (2 * harmonic - 6) * inverse + 4 * harmonic
    d = (2 * harmonic + 6) * 4 - 8 * harmonic
    above = a * total**3 + b * total**2 + c * total + d
    return above / ((total - 1) * (total - 2) * (total - 3))


def _tail_of_limit(z: float) -> float:
    """P(A >= z) in the limit.

    Beyond ``_FAR`` the largest of the squares that A is a weighted sum of decides nearly
    alone (Zolotarev 1961); before it one less the series of Anderson and Darling, whose
    integrals the trapezoidal rule gives to the last digit.
    """
    if z <= 0.0:
        return 1.0
    if z > _FAR:
        return math.sqrt(3.0) * math.erfc(math.sqrt(z)) * (1.0 + _NEXT / z)
    below, binomial = 0.0, 1.0
    for j in range(100):
        rate = (4 * j + 1) ** 2 * math.pi**2 / (8.0 * z)
        if rate > 150.0:
            break
        w = np.arange(0.0, math.sqrt(40.0 / rate), _STEP)
        heights = np.exp(z / (8.0 * (w * w + 1.0)) - rate * (w * w + 1.0))
        area = _STEP * float(heights.sum() - heights[0] / 2.0)
        below += binomial * (4 * j + 1) * area
        binomial *= (-0.5 - j) / (j + 1)
    return min(1.0, max(0.0, 1.0 - math.sqrt(2.0 * math.pi) / z * below))
