"""Seeded streams, and how long a detector runs on one."""

import numpy as np

DRAWS = {
    "N(0,1)": lambda rng, n: rng.normal(0.0, 1.0, n),
    "N(100,20)": lambda rng, n: rng.normal(100.0, 20.0, n),
    "Bernoulli(0.1)": lambda rng, n: (rng.random(n) < 0.1).astype(float),
    "lognormal": lambda rng, n: rng.lognormal(0.0, 1.0, n),
}


def run_length(detector, draw, rng, *, cap=120_000):
    """Values until the first false alarm, ``cap`` at most."""
    taken = 0
    while taken < cap:
        for value in draw(rng, 2000).tolist():
            taken += 1
            if detector.update(value):
                return taken
    return cap


def run_lengths(make, draw, *, runs, seed=1, cap=120_000):
    rng = np.random.default_rng(seed)
    return np.array([run_length(make(), draw, rng, cap=cap) for _ in range(runs)])


def delays(make, before, after, *, runs, seed=2, calm=2000, cap=4000):
    """Values from the change to its detection; ``cap`` where it was missed."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(runs):
        detector = make()
        for value in before(rng, calm).tolist():
            detector.update(value)
        hits = (i for i, x in enumerate(after(rng, cap).tolist(), 1) if detector.update(x))
        found.append(next(hits, cap))
    return np.array(found)


def detections(detector, values):
    return [i for i, value in enumerate(values) if detector.update(value)]
