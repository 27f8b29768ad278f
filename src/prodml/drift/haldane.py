"""The tail of Pearson's chi-square where some expected counts are small and others large.

The chi-square distribution has the right mean and nearly the right variance there, but too
short a tail: of ten levels with five expected rows each beside one with half of the rows, a
p-value of 0.0025 comes half as often again.
"""

import numpy as np
import numpy.typing as npt

__all__ = ["chi_square_tail"]


def chi_square_tail(
    statistic: float, shares: npt.NDArray[np.float64], sizes: tuple[float, float]
) -> float:
    """P(statistic >= observed) by its first three moments.

    Parameters
    ----------
    statistic
        Of two samples over ``k`` levels.
    shares : array of shape (k,), float
        Share of each level in both samples together, none 0.
    sizes
        Rows of both samples.

    Returns
    -------
    float
        That of the gamma distribution with the mean, variance and third moment that the
        statistic has under the multinomial distribution (Haldane [1]_).  They are those of
        chi-square and a term in ``1 / rows``, whose weight falls to nothing as the samples
        become equally large: there skewness cancels, and chi-square errs towards fewer alarms.

    Examples
    --------
    >>> even = np.full(4, 0.25)
    >>> round(chi_square_tail(7.81, even, (1e9, 1e6)), 3)
    0.05

    References
    ----------
    .. [1] Haldane (1937), *The exact value of the moments of the distribution of chi-square,
       used as a test of goodness of fit, when expectations are small*, Biometrika 29.
    """
    from scipy.special import chdtrc, gammaincc

    k, (n, m) = len(shares), sizes
    once, twice = float((1.0 / shares).sum()), float((1.0 / shares**2).sum())
    # 1 / rows of one sample beside a much larger one.
    less = (n**-3 + m**-3) / (1.0 / n + 1.0 / m) ** 2 * ((n - m) / (n + m)) ** 2
    variance = 2 * (k - 1) + less * (once - k * k - 2 * k + 2)
    third = 8 * (k - 1) + less * (22 * once - 18 * k * k - 36 * k + 32)
    third += less**2 * (twice - (3 * k + 22) * once + 2 * k**3 + 18 * k * k + 28 * k - 24)
    if variance <= 0.0 or third <= 0.0:
        return float(chdtrc(k - 1, statistic))
    shape = 4.0 * variance**3 / third**2
    at = shape + (statistic - (k - 1)) / variance**0.5 * shape**0.5
    return float(gammaincc(shape, max(at, 0.0)))
