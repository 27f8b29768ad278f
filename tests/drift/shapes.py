"""The eight shapes on which counting in cells is tried, and three that are worse."""

import numpy as np

SHAPES = {
    "normal": lambda rng, n: rng.normal(size=n),
    "normal far from zero": lambda rng, n: rng.normal(1000, 1, size=n),
    "unix times of a day": lambda rng, n: 1.7e9 + rng.uniform(0, 86_400, size=n),
    "lognormal": lambda rng, n: rng.lognormal(0, 3, size=n),
    "cauchy": lambda rng, n: rng.standard_cauchy(size=n),
    "ninety per cent zeros": lambda rng, n: rng.normal(size=n) * (rng.random(n) < 0.1),
    "whole numbers": lambda rng, n: rng.integers(0, 1001, size=n).astype(float),
    "two modes far apart": lambda rng, n: rng.normal(size=n) + 1e6 * (rng.random(n) < 0.5),
    "forty per cent zeros": lambda rng, n: rng.normal(3, 1, size=n) * (rng.random(n) < 0.6),
    "prices": lambda rng, n: np.round(rng.lognormal(3, 1, size=n), 2),
    "all sizes": lambda rng, n: np.exp(rng.uniform(-80, 80, size=n)) * rng.choice([-1, 1], size=n),
}
