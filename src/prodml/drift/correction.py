"""Many features, one decision: p-values adjusted for being many."""

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from prodml.errors import BadConfiguration

__all__ = ["CORRECTIONS", "Correction", "adjust", "benjamini_hochberg", "bonferroni", "holm"]

Correction: TypeAlias = Literal["bh", "holm", "bonferroni", "none"]
CORRECTIONS: tuple[Correction, ...] = ("bh", "holm", "bonferroni", "none")


def adjust(p_values: Sequence[float], correction: Correction = "bh") -> npt.NDArray[np.float64]:
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

    Returns
    -------
    array of shape (len(p_values),), float
        In the order of ``p_values``, each at least as large as what came in.

    Raises
    ------
    BadConfiguration
        An unknown correction.
    ValueError
        A p-value is NaN or outside [0, 1].

    Examples
    --------
    >>> adjust([0.01, 0.02, 0.5], "bh").round(3).tolist()
    [0.03, 0.03, 0.5]
    >>> adjust([0.01, 0.02, 0.5], "holm").round(3).tolist()
    [0.03, 0.04, 0.5]

    References
    ----------
    .. [1] Benjamini and Hochberg (1995), *Controlling the false discovery rate*, JRSS B 57.
    .. [2] Holm (1979), *A simple sequentially rejective multiple test procedure*,
       Scandinavian Journal of Statistics 6.
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
    if correction == "bonferroni":
        return np.minimum(1.0, p * p.size)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = _step_up(p[order]) if correction == "bh" else _step_down(p[order])
    return adjusted


def _step_up(ascending: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    scaled = ascending * ascending.size / np.arange(1, ascending.size + 1)
    return np.minimum(1.0, np.minimum.accumulate(scaled[::-1])[::-1])


def _step_down(ascending: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    scaled = ascending * np.arange(ascending.size, 0, -1)
    return np.minimum(1.0, np.maximum.accumulate(scaled))


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
