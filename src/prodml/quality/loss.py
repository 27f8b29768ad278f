"""How wrong a regressor is where it says what it says."""

from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from prodml.quality.metric import Losses, NumberRows

__all__ = ["BinnedLoss", "LearntLoss", "LossModel", "losses_of"]

Floats: TypeAlias = npt.NDArray[np.float64]

_SPREAD_BINS = 10


class LossModel(Protocol):
    """Expected errors of rows."""

    def __call__(self, rows: NumberRows) -> Losses:
        """Absolute and squared error, and their variances."""
        ...


def losses_of(predictions: Floats, labels: Floats) -> Floats:
    """Absolute and squared errors, (rows, 2).

    Examples
    --------
    >>> losses_of(np.array([1.0, 2.0]), np.array([3.0, 2.0])).tolist()
    [[2.0, 4.0], [0.0, 0.0]]
    """
    error = np.abs(predictions - labels)
    return np.column_stack((error, error**2))


@dataclass(frozen=True, slots=True)
class BinnedLoss:
    """Mean and variance of the errors in bins of equally many rows by some number.

    Examples
    --------
    >>> model = BinnedLoss.fit(np.arange(4.0), losses_of(np.arange(4.0), np.zeros(4)), bins=2)
    >>> model.means[:, 0].tolist()
    [0.5, 2.5]
    """

    edges: Floats
    means: Floats
    variances: Floats

    @classmethod
    def fit(cls, by: Floats, losses: Floats, bins: int) -> "BinnedLoss":
        """Fit on ``losses`` (rows, 2) in bins of ``by``."""
        shares = np.linspace(0.0, 1.0, bins + 1)[1:-1]
        edges = np.unique(np.quantile(by, shares, method="lower"))
        place = np.searchsorted(edges, by, "left")
        used, place = np.unique(place, return_inverse=True)
        rows = np.bincount(place)[:, None]
        means = np.column_stack([np.bincount(place, weights=x) for x in losses.T]) / rows
        away = (losses - means[place]) ** 2
        variances = np.column_stack([np.bincount(place, weights=x) for x in away.T]) / rows
        return cls(edges[used[:-1]], means, variances)

    def place(self, by: Floats) -> Any:
        """Bins of ``by``; beyond the reference, the outermost ones."""
        return np.searchsorted(self.edges, by, "left")

    def __call__(self, rows: NumberRows) -> Losses:
        """The mean of the bin that a prediction falls into."""
        place = self.place(rows.predictions)
        return Losses(self.means[place], self.variances[place])


@dataclass(frozen=True, slots=True)
class LearntLoss:
    """Errors learnt from the prediction and the features by clones of a scikit-learn regressor.

    What the regressors leave unexplained, in bins of the error they expect, is the variance.
    """

    models: tuple[Any, Any]
    spread: BinnedLoss

    @classmethod
    def fit(cls, model: Any, rows: NumberRows, losses: Floats) -> "LearntLoss":
        """Fit one clone on the absolute and one on the squared errors."""
        from sklearn.base import clone

        x = _inputs(rows)
        fresh: tuple[Any, Any] = (clone(model), clone(model))
        models = (fresh[0].fit(x, losses[:, 0]), fresh[1].fit(x, losses[:, 1]))
        expected = _predicted(models, x)
        rest = (losses - expected) ** 2
        return cls(models, BinnedLoss.fit(expected[:, 0], rest, _SPREAD_BINS))

    def __call__(self, rows: NumberRows) -> Losses:
        """What the regressors expect, at least 0."""
        expected = _predicted(self.models, _inputs(rows))
        return Losses(expected, self.spread.means[self.spread.place(expected[:, 0])])


def _inputs(rows: NumberRows) -> Floats:
    if rows.features is None:
        return rows.predictions.reshape(-1, 1)
    return np.column_stack((rows.predictions, rows.features))


def _predicted(models: tuple[Any, Any], x: Floats) -> Floats:
    found = [np.asarray(model.predict(x), dtype=np.float64) for model in models]
    return np.maximum(np.column_stack(found), 0.0)
