"""What answers when the weather is lost: four rungs, their order priced from data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from data import FEATURES, LIVE, WEATHER, Floats, Ints, Year
from model import OFFLINE, FlightModel, TableModel

from prodml import Rung

BLIND = (*OFFLINE, *LIVE)
"""Everything but the weather."""
RUNGS = (
    "model without weather",
    "model without live features",
    "carrier-origin-hour table",
    "base rate",
)


@dataclass
class Ladder:
    """The rungs' models, refitted together; a rung of the service asks by name."""

    models: dict[str, Any]

    @classmethod
    def fit(cls, table: Floats, late: Floats) -> "Ladder":
        blind = [FEATURES.index(name) for name in BLIND]
        offline = [FEATURES.index(name) for name in OFFLINE]
        rate = float(late.mean())
        models = (
            FlightModel.fit(table[:, blind], late, BLIND),
            FlightModel.fit(table[:, offline], late, OFFLINE),
            TableModel.fit(table, late),
            lambda _: rate,
        )
        return cls(dict(zip(RUNGS, models, strict=True)))

    def predict(self, name: str, row: Mapping[str, Any]) -> float:
        model = self.models[name]
        return float(model(row) if callable(model) else model.predict(row))

    def rung(self, name: str) -> Rung[float]:
        return Rung(name, lambda row: self.predict(name, row))


def price(year: Year, table: Floats, train: Ints, test: Ints) -> dict[str, float]:
    """Brier of each rung, and of the model itself, on ``test`` with its weather taken away."""
    late = year.late
    ladder = Ladder.fit(table[train], late[train])
    full = FlightModel.fit(table[train], late[train])
    lost = table[test].copy()
    lost[:, [FEATURES.index(name) for name in WEATHER]] = np.nan
    answers = {
        "model, nothing lost": full.score(table[test]),
        "model, weather lost": full.score(lost),
    }
    rows = [dict(zip(FEATURES, row, strict=True)) for row in lost.tolist()]
    for name in RUNGS:
        model = ladder.models[name]
        told = (
            model.predict_batch(rows)
            if isinstance(model, FlightModel)
            else [ladder.predict(name, row) for row in rows]
        )
        answers[name] = np.array(told)
    return {name: float(np.mean((told - late[test]) ** 2)) for name, told in answers.items()}


def order(prices: Mapping[str, float]) -> list[str]:
    """Rungs by price, cheapest error first."""
    return sorted(RUNGS, key=lambda name: prices[name])
