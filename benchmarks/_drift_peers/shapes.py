"""Drift-free tables, the same to the last digit in every environment; numpy alone."""

from typing import Any

import numpy as np

LEVELS = {"2 levels": 2, "5 levels": 5, "20 levels": 20}
SHAPES = ("normal", "lognormal", "90 % zeros", "constant", *LEVELS, "200 levels, zipf")
SIZES = ((5_000, 100), (1_000, 1_000), (100_000, 200), (1_000_000, 1_000_000))
COLUMNS = 20

_ZIPF = np.arange(1, 201, dtype=np.float64) ** -1.3


def is_category(shape: str) -> bool:
    return "levels" in shape


def draw(shape: str, rng: Any, rows: int) -> Any:
    """One column: floats, or codes of levels as int64."""
    if shape == "normal":
        return rng.normal(size=rows)
    if shape == "lognormal":
        return rng.lognormal(0.0, 1.5, size=rows)
    if shape == "90 % zeros":
        return rng.normal(size=rows) * (rng.random(rows) < 0.1)
    if shape == "constant":
        return np.full(rows, 7.0)
    if shape == "200 levels, zipf":
        return np.searchsorted(np.cumsum(_ZIPF / _ZIPF.sum()), rng.random(rows), "right")
    return rng.integers(0, LEVELS[shape], size=rows)


def table(shape: str, seed: int, rows: int, current: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reference and current of twenty independent columns: nothing has moved."""
    rng = np.random.default_rng([seed, SHAPES.index(shape), rows])
    names = [f"x{i}" for i in range(COLUMNS)]
    return (
        {name: draw(shape, rng, rows) for name in names},
        {name: draw(shape, rng, current) for name in names},
    )
