"""Metrics as functions of chances: one formula for what is expected and what came true.

``chances[i, k]`` is the chance that row ``i`` belongs to class ``k``.  With calibrated
probabilities a metric of chances is the expected metric of the rows [1]_ (for ratios: the ratio of
the expectations); with the labels themselves, 0 and 1, it is the metric.  Every formula also gives
its gradient by the chances, and so its variance if labels are drawn from them: to first order
``sum_i Var(gradient_i . label_i)``, rows being independent.

References
----------
.. [1] Kivimäki, Białek, Nurminen and Kuberski (2025), *Confidence-based estimators for predictive
   performance in model monitoring*, Journal of Artificial Intelligence Research 82.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = [
    "CLASSIFICATION",
    "REGRESSION",
    "Chances",
    "Formula",
    "Losses",
    "NumberRows",
    "ScoreRows",
    "expected_auc",
]

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]
# Value, and gradient by the chances (or the losses) of every row.
Graded: TypeAlias = tuple[float, Floats]

_EPS = float(np.finfo(np.float64).eps)
# Squares of slopes are numbers.
_TINY = 1e-290


@dataclass(frozen=True, slots=True)
class ScoreRows:
    """What a classifier said: probabilities (rows, classes), and the class it picked."""

    scores: Floats
    picks: Ints

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, index: npt.NDArray[np.int64]) -> "ScoreRows":
        """Some of the rows."""
        return ScoreRows(self.scores[index], self.picks[index])


@dataclass(frozen=True, slots=True)
class Chances:
    """Chances of the classes, row by row; labels when all are 0 or 1."""

    values: Floats

    def noise(self, gradient: Floats) -> float:
        """Variance of a metric with this gradient if labels are drawn from the chances."""
        # A chance that is next to nothing has a slope whose square may be no number.
        weighed = self.values * gradient
        return float(((weighed * gradient).sum(axis=1) - weighed.sum(axis=1) ** 2).sum())

    def take(self, index: npt.NDArray[np.int64]) -> "Chances":
        """Some of the rows."""
        return Chances(self.values[index])


@dataclass(frozen=True, slots=True)
class NumberRows:
    """What a regressor said, and the features it said it to, if they are known."""

    predictions: Floats
    features: Floats | None = None

    def __len__(self) -> int:
        return len(self.predictions)

    def take(self, index: npt.NDArray[np.int64]) -> "NumberRows":
        """Some of the rows."""
        features = None if self.features is None else self.features[index]
        return NumberRows(self.predictions[index], features)


@dataclass(frozen=True, slots=True)
class Losses:
    """Absolute and squared error (rows, 2), and how uncertain they are."""

    values: Floats
    variances: Floats

    def noise(self, gradient: Floats) -> float:
        """Variance of a metric with this gradient, rows being independent."""
        return float((gradient**2 * self.variances).sum())

    def take(self, index: npt.NDArray[np.int64]) -> "Losses":
        """Some of the rows."""
        return Losses(self.values[index], self.variances[index])


@dataclass(frozen=True, slots=True)
class Formula:
    """A metric: how to grade it, and whether more is better."""

    grade: Callable[..., Graded]
    more_is_better: bool
    binary_only: bool = False
    top: float = 1.0

    def of(
        self, rows: "ScoreRows | NumberRows", outcome: "Chances | Losses"
    ) -> tuple[float, float]:
        """The metric of an outcome, and the standard deviation of its noise."""
        value, gradient = self.grade(outcome.values, rows)
        return value, math.sqrt(max(0.0, outcome.noise(gradient)))


def expected_auc(chances: Floats, scores: Floats) -> Graded:
    """Expected AUC of ``scores`` and its gradient by the chance of being positive.

    Over pairs of different rows, ``c_i (1 - c_j)`` weighs row ``i`` being positive and ``j``
    negative; ties count half.  With chances of 0 and 1 it is the usual AUC.

    Examples
    --------
    >>> value, _ = expected_auc(np.array([0.0, 0.0, 1.0, 1.0]), np.array([0.1, 0.4, 0.35, 0.8]))
    >>> value
    0.75
    """
    _, place = np.unique(scores, return_inverse=True)
    positive = np.bincount(place, weights=chances)
    negative = np.bincount(place, weights=1.0 - chances)
    below = np.cumsum(negative) - negative / 2.0
    above = positive.sum() - np.cumsum(positive) + positive / 2.0
    # A row is no pair with itself.
    lower = below[place] - (1.0 - chances) / 2.0
    higher = above[place] - chances / 2.0
    p, n = float(chances.sum()), float((1.0 - chances).sum())
    pairs = p * n - float((chances * (1.0 - chances)).sum())
    if pairs <= 0.0:
        return float("nan"), np.zeros_like(scores)
    won = float((chances * lower).sum())
    rest = (n - p) - (1.0 - 2.0 * chances)
    return won / pairs, (lower - higher - won / pairs * rest) / pairs


def _auc(chances: Floats, rows: ScoreRows) -> Graded:
    if rows.scores.shape[1] == 2:
        value, gradient = expected_auc(chances[:, 1], rows.scores[:, 1])
        return value, _binary(gradient)
    # One class against the rest, every class alike.
    count = rows.scores.shape[1]
    each = [expected_auc(chances[:, k], rows.scores[:, k]) for k in range(count)]
    gradient = np.column_stack([part for _, part in each]) / count
    return float(np.mean([value for value, _ in each])), gradient


def _binary(gradient: Floats) -> Floats:
    return np.column_stack((np.zeros_like(gradient), gradient))


def _mean_of(each: Floats, chances: Floats) -> Graded:
    return float((chances * each).sum() / len(each)), each / len(each)


def _accuracy(chances: Floats, rows: ScoreRows) -> Graded:
    return _mean_of(np.eye(chances.shape[1])[rows.picks], chances)


def _log_loss(chances: Floats, rows: ScoreRows) -> Graded:
    clipped = np.clip(rows.scores, _EPS, 1.0 - _EPS)
    return _mean_of(-np.log(clipped / clipped.sum(axis=1, keepdims=True)), chances)


def _brier(chances: Floats, rows: ScoreRows) -> Graded:
    if rows.scores.shape[1] == 2:
        missed = np.array([0.0, 1.0]) - rows.scores[:, [1]]
        return _mean_of(missed**2, chances)
    squares = (rows.scores**2).sum(axis=1, keepdims=True)
    return _mean_of(squares - 2.0 * rows.scores + 1.0, chances)


def _ratio(top: float, top_slope: Floats, bottom: float, bottom_slope: Floats) -> Graded:
    if bottom <= 0.0:
        return float("nan"), _binary(np.zeros_like(top_slope))
    value = top / bottom
    return value, _binary((top_slope - value * bottom_slope) / bottom)


def _precision(chances: Floats, rows: ScoreRows) -> Graded:
    picked = rows.picks.astype(np.float64)
    hit = float((picked * chances[:, 1]).sum())
    return _ratio(hit, picked, float(picked.sum()), np.zeros_like(picked))


def _recall(chances: Floats, rows: ScoreRows) -> Graded:
    picked = rows.picks.astype(np.float64)
    hit = float((picked * chances[:, 1]).sum())
    return _ratio(hit, picked, float(chances[:, 1].sum()), np.ones_like(picked))


def _f1(chances: Floats, rows: ScoreRows) -> Graded:
    picked = rows.picks.astype(np.float64)
    hit = 2.0 * float((picked * chances[:, 1]).sum())
    both = float(picked.sum() + chances[:, 1].sum())
    return _ratio(hit, 2.0 * picked, both, np.ones_like(picked))


def _specificity(chances: Floats, rows: ScoreRows) -> Graded:
    passed = np.asarray(1.0 - rows.picks, dtype=np.float64)
    negative = 1.0 - chances[:, 1]
    return _ratio(
        float((passed * negative).sum()), -passed, float(negative.sum()), -np.ones_like(passed)
    )


def _mean_loss(column: int) -> Callable[..., Graded]:
    def grade(losses: Floats, rows: NumberRows) -> Graded:
        gradient = np.zeros_like(losses)
        gradient[:, column] = 1.0 / len(rows)
        return float(losses[:, column].mean()), gradient

    return grade


def _rmse(losses: Floats, rows: NumberRows) -> Graded:
    squared, gradient = _mean_loss(1)(losses, rows)
    root = float(np.sqrt(squared))
    return root, gradient / (2.0 * root) if squared > _TINY else gradient


_UNBOUNDED = float("inf")
CLASSIFICATION: dict[str, Formula] = {
    "auc": Formula(_auc, more_is_better=True),
    "accuracy": Formula(_accuracy, more_is_better=True),
    "precision": Formula(_precision, more_is_better=True, binary_only=True),
    "recall": Formula(_recall, more_is_better=True, binary_only=True),
    "f1": Formula(_f1, more_is_better=True, binary_only=True),
    "specificity": Formula(_specificity, more_is_better=True, binary_only=True),
    "brier": Formula(_brier, more_is_better=False, top=2.0),
    "log_loss": Formula(_log_loss, more_is_better=False, top=_UNBOUNDED),
}
REGRESSION: dict[str, Formula] = {
    "mae": Formula(_mean_loss(0), more_is_better=False, top=_UNBOUNDED),
    "mse": Formula(_mean_loss(1), more_is_better=False, top=_UNBOUNDED),
    "rmse": Formula(_rmse, more_is_better=False, top=_UNBOUNDED),
}
