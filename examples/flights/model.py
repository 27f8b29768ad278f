"""The models: boosting on everything, boosting without live features, a table, a rate."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from data import CATEGORICAL, FEATURES, PLANE, SCHEDULE, WEATHER, Floats
from sklearn.ensemble import HistGradientBoostingClassifier

OFFLINE = (*SCHEDULE, *PLANE)
"""What is known without asking any live source."""

# An honest baseline: an over-fitted January model would make retraining look better.
RECIPE: Mapping[str, Any] = {
    "max_iter": 100,
    "max_leaf_nodes": 15,
    "min_samples_leaf": 200,
    "l2_regularization": 10.0,
    "early_stopping": False,
    "random_state": 0,
}


def boosting(names: Sequence[str]) -> HistGradientBoostingClassifier:
    columns = [names.index(name) for name in CATEGORICAL]
    return HistGradientBoostingClassifier(categorical_features=columns, **RECIPE)


@dataclass
class FlightModel:
    """Probability that a flight arrives late, from rows of features.

    Without weather a model that was trained with it answers NaN: models trained without it
    do better on such a row, so the service should ask them.
    """

    names: tuple[str, ...]
    estimator: HistGradientBoostingClassifier

    @classmethod
    def fit(cls, rows: Floats, late: Floats, names: tuple[str, ...] = FEATURES) -> "FlightModel":
        return cls(names, boosting(names).fit(rows, late))

    def predict(self, row: Mapping[str, Any]) -> float:
        return self.predict_batch([row])[0]

    def predict_batch(self, rows: Sequence[Mapping[str, Any]]) -> list[float]:
        nothing = float("nan")
        table = np.array([[row.get(name, nothing) for name in self.names] for row in rows], float)
        told = self.score(table)
        if WEATHER[0] in self.names:
            told[np.isnan(table[:, self.names.index(WEATHER[0])])] = nothing
        return [float(p) for p in told]

    def score(self, table: Floats) -> Floats:
        """Probabilities for an array of shape (n_rows, n_names)."""
        return np.asarray(self.estimator.predict_proba(table)[:, 1], dtype=float)


@dataclass
class TableModel:
    """Share of late flights by carrier, origin and hour, drawn towards the overall rate."""

    shares: dict[tuple[int, int, int], float]
    rate: float

    @classmethod
    def fit(cls, rows: Floats, late: Floats, *, weight: float = 50.0) -> "TableModel":
        """``rows`` hold at least the schedule features, in the order of ``FEATURES``."""
        rate = float(late.mean())
        carrier, origin, clock = (FEATURES.index(n) for n in ("carrier", "origin", "clock"))
        keys = np.column_stack([rows[:, carrier], rows[:, origin], rows[:, clock] // 60])
        groups, inverse = np.unique(keys.astype(int), axis=0, return_inverse=True)
        counts, sums = np.bincount(inverse), np.bincount(inverse, late)
        shares = (sums + weight * rate) / (counts + weight)
        cells = {
            (int(key[0]), int(key[1]), int(key[2])): float(share)
            for key, share in zip(groups, shares, strict=True)
        }
        return cls(cells, rate)

    def predict(self, row: Mapping[str, Any]) -> float:
        key = (int(row["carrier"]), int(row["origin"]), int(row["clock"]) // 60)
        return self.shares.get(key, self.rate)
