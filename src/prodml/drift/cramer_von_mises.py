"""The two-sample Cramér-von Mises test, from two samples."""

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from prodml.drift.measures import Floats, TestResult, ascending

__all__ = ["cramer_von_mises"]

# Orders of two samples are counted one by one while the larger has at most this many values.
_EXACT = 20
_FAR = 3.0
# The next term, as found where the series still has its digits (x from 2 to 3).
_NEXT = 0.0368


def cramer_von_mises(
    reference: npt.ArrayLike, current: npt.ArrayLike, design: float = 1.0
) -> TestResult:
    """Two-sample Cramér-von Mises test: the mean squared gap of two distribution functions.

    Sees changes that are spread over the whole range better than Kolmogorov-Smirnov, which
    looks at the largest gap alone; weaker on changes of a tail.

    Parameters
    ----------
    reference, current : array of shape (n,) and (m,), float
        At least two values each, no NaN.
    design
        Divides the size of both samples, see :mod:`prodml.drift.blocks`.

    Returns
    -------
    TestResult
        ``statistic`` is Anderson's T [1]_, with the gap in the middle of each tie.
        ``p_value`` is exact (with ties too large, never too small) while neither sample has
        more than 20 values, beyond it that of the limiting distribution [2]_, corrected for
        mean and variance.

    Raises
    ------
    ValueError
        Fewer than two values, or NaN.

    Notes
    -----
    O(n log n + m log m) time for sorting.  Without ties the same numbers as
    ``scipy.stats.cramervonmises_2samp``, whose statistic grows with ties alone: of two samples
    with nine zeros in ten it always alarms.

    Examples
    --------
    >>> result = cramer_von_mises([1.0, 2.0, 3.0, 4.0], [1.5, 2.5, 3.5, 4.5])
    >>> round(result.statistic, 4), round(result.p_value, 4), result.method
    (0.0625, 1.0, 'cramer-von mises, exact')

    References
    ----------
    .. [1] Anderson (1962), *On the distribution of the two-sample Cramér-von Mises
       criterion*, Annals of Mathematical Statistics 33.
    .. [2] Csörgő and Faraway (1996), *The exact and asymptotic distributions of
       Cramér-von Mises statistics*, JRSS B 58.
    """
    x, y = ascending(reference), ascending(current)
    n, m = len(x), len(y)
    if min(n, m) < 2:
        raise ValueError(f"both samples need at least two values, not {n} and {m}")
    statistic = _mean_square(x, y) / design
    if max(n, m) <= _EXACT and design == 1.0:
        total = n + m
        u = (statistic + (4 * n * m - 1) / (6 * total)) * n * m * total
        tail, method = _exact_tail(u, n, m), "cramer-von mises, exact"
    else:
        tail, method = _limit_tail(statistic, n, m), "cramer-von mises, limit"
    return TestResult(statistic=statistic, p_value=tail, method=method)


def _mean_square(x: Floats, y: Floats) -> float:
    """Anderson's T, with the gap in the middle of each tie.

    Half a step before a value, half a step after it: without ties their squares differ by
    ``1 / (4 (n + m))`` from those after it.  Of a tie the middle is never more than what a
    random order of the tied would give on average, so no tie makes a p-value too small.
    """
    n, m = len(x), len(y)
    points, counts = np.unique(np.concatenate((x, y)), return_counts=True)
    here, there = (
        (np.searchsorted(sample, points, "left") + np.searchsorted(sample, points, "right"))
        / (2 * len(sample))
        for sample in (x, y)
    )
    squares = float((counts * (here - there) ** 2).sum())
    return squares * n * m / (n + m) ** 2 + 1 / (4 * (n + m))


def _limit_tail(statistic: float, n: int, m: int) -> float:
    total = n + m
    mean = (1 + 1 / total) / 6
    spread = (total + 1) * (4 * n * m * total - 3 * (n**2 + m**2) - 2 * n * m)
    variance = spread / (45 * total**2 * 4 * n * m)
    # Shifted and scaled to the moments of the limit, 1/6 and 1/45.
    return _tail_of_limit(1 / 6 + (statistic - mean) / (45 * variance) ** 0.5)


def _tail_of_limit(x: float) -> float:
    from scipy.special import gammaln, kv

    if x <= 0.0:
        return 1.0
    if x > _FAR:
        # One less the series would lose its digits: the largest of the squares that the
        # limit is a weighted sum of decides nearly alone (Zolotarev 1961).
        return math.sqrt(2.0) * math.erfc(math.pi * math.sqrt(x / 2.0)) * (1.0 + _NEXT / x)
    k = np.arange(50)
    order = 4 * k + 1
    logs = gammaln(k + 0.5) - gammaln(k + 1.0)
    q = order**2 / (16 * x)
    below = (np.exp(logs - q) * np.sqrt(order) * kv(0.25, q)).sum() / (np.pi**1.5 * np.sqrt(x))
    return float(min(1.0, max(0.0, 1.0 - below)))


def _exact_tail(u: float, n: int, m: int) -> float:
    squares, ways = _distribution(n, m)
    # In units of 1 / (n + m)^2: whole numbers, which rounding cannot part.
    zeta = _zeta(u, n, m)
    return min(1.0, float(ways[squares >= zeta].sum() / ways.sum()))


def _zeta(u: float, n: int, m: int) -> int:
    """Whole number of the lattice that the statistic ``u`` stands for, rounded down."""
    total = n + m
    lcm = int(np.lcm(n, m))
    scaled = lcm**2 * total * (6 * u - n * m * (4 * n * m - 1))
    return int(np.floor(round(scaled / (6 * n**2 * m**2), 9)))


@lru_cache(maxsize=64)
def _distribution(n: int, m: int) -> tuple[npt.NDArray[np.int64], Floats]:
    """Values of the statistic over all orders of two samples, and how many orders have each.

    Orders are paths of ``n`` and ``m`` steps; each point adds the squared gap of the two
    distribution functions there.  Paths that share a point and a sum are counted together.
    """
    lcm = int(np.lcm(n, m))
    a, b = lcm // n, lcm // m
    row: list[dict[int, int]] = [{} for _ in range(m + 1)]
    for i in range(n + 1):
        for j in range(m + 1):
            if i == j == 0:
                row[j] = {0: 1}
                continue
            here = dict(row[j]) if i else {}
            if j:
                for value, ways in row[j - 1].items():
                    here[value] = here.get(value, 0) + ways
            gap = (a * i - b * j) ** 2
            row[j] = {value + gap: ways for value, ways in here.items()}
    values = np.array(list(row[m]), dtype=np.int64)
    return values, np.array(list(row[m].values()), dtype=np.float64)
