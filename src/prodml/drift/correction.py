"""Many features, one decision: p-values adjusted for being many."""

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from prodml.errors import BadConfiguration

__all__ = ["CORRECTIONS", "Correction", "adjust", "benjamini_hochberg", "bonferroni", "holm"]

Correction: TypeAlias = Literal["bh", "holm", "bonferroni", "none"]
CORRECTIONS: tuple[Correction, ...] = ("bh", "holm", "bonferroni", "none")


def adjust(
    p_values: Sequence[float],
    correction: Correction = "bh",
    weights: Sequence[float] | None = None,
) -> npt.NDArray[np.float64]:
    """P-values that may each be compared with the level of the whole family.

    Parameters
    ----------
    p_values
        Each in [0, 1]; may be empty.
    correction
        ``"bh"`` (Benjamini and Hochberg [1]_): of the alarms, at most a share ``alpha`` is
        false; where nothing moved, the chance of any alarm is at most ``alpha``.  Holds for
        independent and for positively dependent tests.  ``"holm"`` [2]_: the chance of any
        false alarm is at most ``alpha``, whatever the dependence.  ``"bonferroni"``: the
        same, never more powerful.  ``"none"``: every test for itself.
    weights
        How much of the level each test is given, above 0, in any unit; default: all the
        same.  Chosen before the data are seen, they keep each promise [3]_.

    Returns
    -------
    array of shape (len(p_values),), float
        In the order of ``p_values``, each at least as large as what came in.

    Raises
    ------
    BadConfiguration
        An unknown correction, or weights that are not one a p-value, each above 0.
    ValueError
        A p-value is NaN or outside [0, 1].

    Examples
    --------
    >>> adjust([0.01, 0.02, 0.5], "bh").round(3).tolist()
    [0.03, 0.03, 0.5]
    >>> adjust([0.01, 0.02, 0.5], "holm").round(3).tolist()
    [0.03, 0.04, 0.5]
    >>> adjust([0.03, 0.03], "bonferroni", weights=[3, 1]).round(3).tolist()
    [0.04, 0.12]

    References
    ----------
    .. [1] Benjamini and Hochberg (1995), *Controlling the false discovery rate*, JRSS B 57.
    .. [2] Holm (1979), *A simple sequentially rejective multiple test procedure*,
       Scandinavian Journal of Statistics 6.
    .. [3] Genovese, Roeder and Wasserman (2006), *False discovery control with p-value
       weighting*, Biometrika 93.
    """
    if correction not in CORRECTIONS:
        known = ", ".join(CORRECTIONS)
        raise BadConfiguration(f"correction must be one of {known}, not {correction!r}")
    p = np.asarray(p_values, dtype=np.float64)
    # Written so that NaN fails too: comparing it with a level would read as "no drift".
    if not bool(np.all((p >= 0.0) & (p <= 1.0))):
        raise ValueError("p-values must lie in [0, 1] and none may be NaN")
    if correction == "none" or p.size == 0:
        return p.copy()
    shares = _shares(weights, p.size)
    if correction == "bonferroni":
        return np.minimum(1.0, p / shares)
    order = np.argsort(p / shares, kind="stable")
    step = _step_up if correction == "bh" else _step_down
    adjusted = np.empty_like(p)
    adjusted[order] = step(p[order], shares[order])
    return adjusted


def _shares(weights: Sequence[float] | None, size: int) -> npt.NDArray[np.float64]:
    """The share of the level that each test is given."""
    given: npt.NDArray[np.float64] = np.ones(size)
    if weights is not None:
        given = np.asarray(weights, dtype=np.float64)
    if given.shape != (size,) or not bool(np.all((given > 0.0) & np.isfinite(given))):
        raise BadConfiguration(f"weights must be {size} numbers above 0, one a p-value")
    return given / float(given.sum())


def _step_up(
    p: npt.NDArray[np.float64], shares: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    scaled = p / shares / np.arange(1, p.size + 1)
    # Among many alarms a weight could lift a test above its own level: no one would believe it.
    return np.clip(np.minimum.accumulate(scaled[::-1])[::-1], p, 1.0)


def _step_down(
    p: npt.NDArray[np.float64], shares: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    left = np.cumsum(shares[::-1])[::-1]
    return np.minimum(1.0, np.maximum.accumulate(p * (left / shares)))


def benjamini_hochberg(p_values: Sequence[float]) -> npt.NDArray[np.float64]:
    """:func:`adjust` by Benjamini and Hochberg.

    Examples
    --------
    >>> benjamini_hochberg([0.01, 0.02]).tolist()
    [0.02, 0.02]
    """
    return adjust(p_values, "bh")


def holm(p_values: Sequence[float]) -> npt.NDArray[np.float64]:
    """:func:`adjust` by Holm.

    Examples
    --------
    >>> holm([0.01, 0.03]).tolist()
    [0.02, 0.03]
    """
    return adjust(p_values, "holm")


def bonferroni(p_values: Sequence[float]) -> npt.NDArray[np.float64]:
    """:func:`adjust` by Bonferroni.

    Examples
    --------
    >>> bonferroni([0.01, 0.6]).tolist()
    [0.02, 1.0]
    """
    return adjust(p_values, "bonferroni")
