"""Rows that come in blocks: a day's weather is one observation, not a thousand.

Tests count rows as independent.  Rows of one day, one customer or one batch are alike, so
the same difference is weaker evidence than it looks.  The *design effect* says by how much:
the variance of a share over blocks, divided by its variance if every row were drawn for
itself.  The effective sample size is the number of rows divided by it.
"""

from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from prodml.drift.sample import Kind, floats_of
from prodml.drift.table import Counted, column_of
from prodml.errors import BadConfiguration
from prodml.types import is_missing

__all__ = ["MIN_BLOCKS", "block_codes", "design_effect", "design_effects"]

Floats: TypeAlias = npt.NDArray[np.float64]
Codes: TypeAlias = npt.NDArray[np.int64]

MIN_BLOCKS: int = 10
"""Fewer blocks cannot tell how much blocks differ."""

_LEVELS = 50


def block_codes(blocks: Any) -> Codes:
    """Labels of rows, of any sort, as numbers from 0; rows keep their order.

    Raises
    ------
    BadConfiguration
        Fewer than ten different labels.

    Examples
    --------
    >>> block_codes([f"day {row // 3}" for row in range(30)])[:4].tolist()
    [0, 0, 0, 1]
    """
    column = column_of(blocks, by_row=True)
    assert not isinstance(column, Counted)
    labels: list[Any] = column if isinstance(column, list) else column.tolist()
    seen: dict[Any, int] = {}
    # Rows without a label are one block: nothing says that they are independent.
    codes = [seen.setdefault(None if is_missing(x) else x, len(seen)) for x in labels]
    if len(seen) < MIN_BLOCKS:
        raise BadConfiguration(
            f"blocks must have at least {MIN_BLOCKS} different labels, not {len(seen)}: "
            f"use shorter blocks or a longer reference"
        )
    return np.array(codes, dtype=np.int64)


def design_effect(hits: npt.NDArray[Any], codes: Codes) -> float:
    """Variance of a share over blocks against its variance over rows, at least 1.

    Parameters
    ----------
    hits : array of shape (n,) or (n, k), bool
        Whether each row has the property, or each of ``k`` properties.
    codes : array of shape (n,), int
        Block of each row.

    Returns
    -------
    float
        For ``k`` properties, the largest.  The variance over blocks is that of a ratio
        estimator under cluster sampling (Kish [1]_, section 6.3).

    Examples
    --------
    >>> days = np.repeat(np.arange(20), 50)
    >>> round(design_effect(days % 2 == 0, days), 1)
    52.6

    References
    ----------
    .. [1] Kish (1965), *Survey Sampling*.
    """
    return float(_effects(np.asarray(hits).reshape(len(codes), -1), codes).max(initial=1.0))


def _effects(hits: npt.NDArray[Any], codes: Codes) -> Floats:
    blocks = int(codes.max()) + 1
    sizes = np.bincount(codes, minlength=blocks)
    n, used = len(codes), int(np.count_nonzero(sizes))
    share = hits.mean(axis=0)
    varies = (share > 0.0) & (share < 1.0)
    if used < 2 or not varies.any():
        return np.ones(hits.shape[1])
    sums = np.stack([np.bincount(codes, weights=column, minlength=blocks) for column in hits.T])
    spread = ((sums - share[:, None] * sizes) ** 2).sum(axis=1) * used / (used - 1)
    single = np.where(varies, n * share * (1.0 - share), 1.0)
    return np.where(varies, np.maximum(1.0, spread / single), 1.0)


def design_effects(raw: Any, kind: Kind, codes: Codes) -> dict[str, float]:
    """Design effect by aspect of a column: its distribution, its missing values.

    Examples
    --------
    >>> days = np.repeat(np.arange(20), 50)
    >>> design_effects(days.astype(float), "numeric", days)["missing"]
    1.0
    """
    column = column_of(raw, by_row=True)
    assert not isinstance(column, Counted)
    if len(column) != len(codes):
        raise BadConfiguration(f"blocks has {len(codes)} labels for {len(column)} rows")
    if kind == "categorical":
        return _of_levels(column, codes)
    values = floats_of(column)[0]
    kept = np.isfinite(values)
    effects = {"missing": design_effect(~kept, codes), "distribution": 1.0}
    if kept.any():
        deciles = np.quantile(values[kept], np.arange(1, 10) / 10)
        effects["distribution"] = design_effect(values[kept, None] <= deciles, codes[kept])
    return effects


def _of_levels(values: Iterable[Any], codes: Codes) -> dict[str, float]:
    # Numbers for levels: an array of texts would give each row the room of the longest.
    known: dict[str, int] = {"": -1}
    places = np.array([known.setdefault(_text(value), len(known) - 1) for value in values])
    kept = places >= 0
    effects = {"missing": design_effect(~kept, codes), "distribution": 1.0}
    levels, index, counts = np.unique(places[kept], return_inverse=True, return_counts=True)
    top = np.argsort(counts, kind="stable")[::-1][:_LEVELS]
    if len(levels) > 1:
        # Rao and Scott's first-order correction: the mean, weighted by 1 - share.
        weights = 1.0 - counts[top] / counts.sum()
        found = _effects(index[:, None] == top, codes[kept])
        effects["distribution"] = float((found * weights).sum() / weights.sum())
    return effects


def _text(value: Any) -> str:
    return "" if is_missing(value) else f"={value!s}"
