"""Thresholds from the average run length asked.

A CUSUM adds up ``z - k`` (never below 0) until it exceeds ``h``.  Let ``t`` solve
``E exp(t (z - k)) = 1``.  Then ``exp(t * sum)`` is a martingale, and the run length is about
``(exp(t h) - 1 - t h) / (t k)`` (Siegmund 1985, section 2.6).  The sum jumps
beyond ``h``, which makes the true run longer, by a factor of about ``exp(1.17 t)``; that is
left as the margin for what is not known about the distribution.
"""

import math
from functools import lru_cache

__all__ = ["log_threshold", "threshold_of", "tilt"]


@lru_cache(maxsize=256)
def log_threshold(length: float, fall: float) -> float:
    """``b`` with ``(exp(b) - 1 - b) / fall == length``: the threshold of ``t * sum``.

    Examples
    --------
    >>> round(log_threshold(20_000.0, 0.125), 3)
    7.828
    """
    wanted = max(length * fall, 1e-9)
    b = math.log1p(wanted + math.sqrt(2.0 * wanted))
    for _ in range(50):
        step = (math.expm1(b) - b - wanted) / math.expm1(b)
        b -= step
        if abs(step) < 1e-12 * b:
            break
    return b


def tilt(k: float, skew: float = 0.0) -> float:
    """``t`` of a standardised value with third moment ``skew``, and at most ``2 k``.

    Examples
    --------
    >>> tilt(0.25), round(tilt(0.25, 2.67), 3), tilt(0.25, -1.0)
    (0.5, 0.375, 0.5)
    """
    if skew <= 1e-9:
        # A tail that is cut short makes runs longer: not counted on.
        return 2.0 * k
    # t/2 + skew t^2 / 6 = k
    a = skew / 3.0
    return (math.sqrt(1.0 + 8.0 * a * k) - 1.0) / (2.0 * a)


@lru_cache(maxsize=256)
def threshold_of(length: float, k: float, skew: float = 0.0) -> float:
    """Sum of ``z - k`` that chance exceeds every ``length`` values.

    Examples
    --------
    >>> round(threshold_of(20_000.0, 0.25), 2)
    15.66
    """
    t = tilt(k, skew)
    return log_threshold(length, t * k) / t
