"""What a score of 0.8 was worth on the reference."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["CALIBRATIONS", "Calibration", "Calibrator", "Curve", "binned", "isotonic"]

Floats: TypeAlias = npt.NDArray[np.float64]
Calibration: TypeAlias = Literal["auto", "isotonic", "binned", "none"]
CALIBRATIONS: tuple[Calibration, ...] = ("auto", "isotonic", "binned", "none")

_BINS = 20


@dataclass(frozen=True, slots=True)
class Curve:
    """A calibration curve, linear between its points and level beyond them."""

    scores: Floats
    chances: Floats

    def __call__(self, scores: Floats) -> Floats:
        """The chances that belong to ``scores``."""
        return np.asarray(np.interp(scores, self.scores, self.chances))


def isotonic(scores: Floats, hits: Floats) -> Curve:
    """The non-decreasing curve with the least squared error: pool adjacent violators [1]_.

    References
    ----------
    .. [1] Zadrozny and Elkan (2002), *Transforming classifier scores into accurate multiclass
       probability estimates*, KDD.

    Examples
    --------
    >>> isotonic(np.array([0.1, 0.2, 0.3]), np.array([0.0, 1.0, 0.0])).chances.tolist()
    [0.0, 0.5, 0.5]
    """
    points, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    sums = np.bincount(place, weights=hits)
    # Blocks of points: total, rows, points.
    blocks: list[tuple[float, int, int]] = []
    for total, rows in zip(sums.tolist(), counts.tolist(), strict=True):
        block = (total, rows, 1)
        while blocks and blocks[-1][0] * block[1] >= block[0] * blocks[-1][1]:
            last = blocks.pop()
            block = (last[0] + block[0], last[1] + block[1], last[2] + block[2])
        blocks.append(block)
    levels = np.array([total / rows for total, rows, _ in blocks])
    chances = np.repeat(levels, [count for _, _, count in blocks])
    # Within a level stretch its ends say everything.
    same = chances[1:] == chances[:-1]
    kept = np.ones(len(points), dtype=np.bool_)
    kept[1:-1] = ~(same[1:] & same[:-1])
    return Curve(points[kept], chances[kept])


def binned(scores: Floats, hits: Floats, bins: int = _BINS) -> Curve:
    """Mean hits over mean score in bins of equally many rows; equal scores share a bin.

    Examples
    --------
    >>> curve = binned(np.array([0.1, 0.3, 0.6, 0.8]), np.array([0.0, 0.0, 1.0, 1.0]), bins=2)
    >>> curve.scores.round(3).tolist(), curve.chances.tolist()
    ([0.2, 0.7], [0.0, 1.0])
    """
    edges = np.unique(np.quantile(scores, np.linspace(0.0, 1.0, bins + 1)[1:-1], method="lower"))
    place = np.searchsorted(edges, scores, "left")
    rows = np.bincount(place)
    kept = rows > 0
    x = np.bincount(place, weights=scores)[kept] / rows[kept]
    y = np.bincount(place, weights=hits)[kept] / rows[kept]
    return Curve(x, y)


@dataclass(frozen=True, slots=True)
class Calibrator:
    """One curve a class against the rest; two classes share one."""

    curves: tuple[Curve, ...]

    @classmethod
    def fit(cls, kind: Calibration, scores: Floats, hits: Floats) -> "Calibrator":
        """Fit curves of ``kind`` on probabilities and labels, both (rows, classes)."""
        if kind == "none":
            return cls(())
        curve = isotonic if kind == "isotonic" else binned
        columns = [1] if scores.shape[1] == 2 else list(range(scores.shape[1]))
        return cls(tuple(curve(scores[:, k], hits[:, k]) for k in columns))

    def __call__(self, scores: Floats) -> Floats:
        """Calibrated chances (rows, classes); every row adds up to 1."""
        if not self.curves:
            return scores
        if len(self.curves) == 1:
            positive = self.curves[0](scores[:, 1])
            return np.column_stack((1.0 - positive, positive))
        chances = np.column_stack([c(scores[:, k]) for k, c in enumerate(self.curves)])
        total = chances.sum(axis=1, keepdims=True)
        # No curve gives any class a chance: what the model said stands.
        return np.where(total > 0.0, chances / np.where(total > 0.0, total, 1.0), scores)
