"""The area under the ROC curve with DeLong's interval.

The AUC is the chance that a row of one group scores higher than a row of the other, ties
counting half.  DeLong's variance [1]_ of its estimate is ``var(V) / m + var(W) / n``, where
``V`` holds, for each of the ``m`` rows of the first group, the share of rows of the second that
score lower, ``W`` the same the other way round, and variances divide by one less than their
count.  Ranks give both in ``O(n log n)`` [2]_.  Where rows come in blocks, what varies is not
the row but the block: ``V`` and ``W`` are added up by block first [3]_.

References
----------
.. [1] DeLong, DeLong and Clarke-Pearson (1988), *Comparing the areas under two or more
   correlated receiver operating characteristic curves*, Biometrics 44.
.. [2] Sun and Xu (2014), *Fast implementation of DeLong's algorithm*, IEEE Signal Processing
   Letters 21.
.. [3] Obuchowski (1997), *Nonparametric analysis of clustered ROC curve data*, Biometrics 53.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["AucInterval", "auc_interval", "interval_of", "midranks"]

Floats: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class AucInterval:
    """An AUC with its standard error and its two-sided normal interval, within [0, 1].

    ``p_value`` is two-sided against 0.5 for an AUC above it, and 1 for one below: what cannot
    tell two groups apart is no evidence.  A standard error of 0 (groups without overlap) gives 0.

    Examples
    --------
    >>> auc_interval([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1]).auc
    0.75
    """

    auc: float
    standard_error: float
    low: float
    high: float
    p_value: float


def midranks(values: Floats) -> Floats:
    """Ranks from 1; equal values share the mean of theirs.

    Examples
    --------
    >>> midranks(np.array([3.0, 1.0, 3.0])).tolist()
    [2.5, 1.0, 2.5]
    """
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2.0)[place], dtype=np.float64)


def delong(
    first: Floats, second: Floats, blocks: tuple[Any, Any] | None = None
) -> tuple[float, float]:
    """The AUC of scores of ``first`` over those of ``second``, and its variance.

    ``blocks`` are those of the rows of either, by number.
    """
    m, n = len(first), len(second)
    together = midranks(np.concatenate((first, second)))
    above = (together[:m] - midranks(first)) / n
    below = 1.0 - (together[m:] - midranks(second)) / m
    variance = sum(map(_spread, (above, below), blocks or (None, None)))
    return float(above.mean()), float(variance)


def _spread(parts: Floats, blocks: Any) -> float:
    """Variance of a mean of ``parts``, added up by block."""
    away = parts - parts.mean()
    if blocks is not None:
        _, place = np.unique(blocks, return_inverse=True)
        away = np.bincount(place, weights=away)
    return float((away**2).sum() * len(away) / (len(away) - 1) / len(parts) ** 2)


def interval_of(
    auc: float, variance: float, confidence: float, freedom: float = math.inf
) -> AucInterval:
    """The interval around ``auc``: normal, or Student's with that many degrees of freedom."""
    error = math.sqrt(variance)
    half = _quantile(0.5 + confidence / 2.0, freedom) * error
    p_value = 1.0
    if auc > 0.5:
        p_value = _beyond((auc - 0.5) / error, freedom) if error else 0.0
    low, high = max(0.0, auc - half), min(1.0, auc + half)
    return AucInterval(auc=auc, standard_error=error, low=low, high=high, p_value=p_value)


def _quantile(share: float, freedom: float) -> float:
    if math.isinf(freedom):
        return NormalDist().inv_cdf(share)
    from scipy.special import stdtrit

    return float(stdtrit(freedom, share))


def _beyond(away: float, freedom: float) -> float:
    """Chance of as much or more, on either side."""
    if math.isinf(freedom):
        return math.erfc(away / math.sqrt(2.0))
    from scipy.special import stdtr

    return 2.0 * float(stdtr(freedom, -away))


def auc_interval(scores: Any, labels: Any, confidence: float = 0.95) -> AucInterval:
    """The AUC of ``scores`` for ``labels`` (true for the rows that should score high).

    Raises
    ------
    ValueError
        Fewer than two rows in a group, scores that are not finite, labels that are NaN, or
        different lengths.

    Examples
    --------
    >>> found = auc_interval([0.2, 0.6, 0.3, 0.7, 0.5, 0.9], [0, 0, 0, 1, 1, 1])
    >>> round(found.auc, 4), round(found.standard_error, 4)
    (0.8889, 0.1571)
    """
    values = np.asarray(scores, dtype=np.float64)
    truths = np.asarray(labels)
    if not np.equal(truths, truths).all():
        raise ValueError("labels must be known: leave out rows without one")
    positive = truths.astype(np.bool_)
    if values.shape != positive.shape or values.ndim != 1:
        raise ValueError(f"one label a score: {values.shape} scores, {positive.shape} labels")
    if not np.isfinite(values).all():
        raise ValueError("scores must be finite")
    if min(positive.sum(), (~positive).sum()) < 2:
        raise ValueError("both groups need at least two rows")
    return interval_of(*delong(values[positive], values[~positive]), confidence)
