"""Draws the pictures of the page on evidence and effect: ``python docs/assets/drift.py``.

Every point is a test that the library does, and a test of the docs draws them anew.
"""
# ruff: noqa: INP001 - a script beside what it draws

import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np

from prodml.drift import jensen_shannon, ks, psi, wasserstein
from prodml.svg import line_chart

SHIFTS: Final = {"no drift": 0.0, "0.005 sd": 0.005, "0.1 sd": 0.1, "0.2 sd": 0.2}
SIZES: Final = [round(10 ** (2 + step / 4)) for step in range(17)]
TICKS: Final = {2.0: "100", 3.0: "1k", 4.0: "10k", 5.0: "100k", 6.0: "1M"}
STREAMS: Final = 3
SMALL: Final = [50, 70, 100, 140, 200, 300, 500, 700, 1000, 1400, 2000]
# Beyond it a p-value is beyond doubt, and a picture of it would show nothing else.
LEAST: Final = 1e-8


@cache
def growing() -> dict[str, list[tuple[float, float]]]:
    """(p-value, effect) by how far the rows have moved: the middle of three pairs of streams."""
    rng = np.random.default_rng(0)
    found: dict[str, list[list[tuple[float, float]]]] = {name: [] for name in SHIFTS}
    for _ in range(STREAMS):
        old, new = rng.normal(size=(2, SIZES[-1]))
        pairs = [(np.sort(old[:rows]), np.sort(new[:rows])) for rows in SIZES]
        for name, shift in SHIFTS.items():
            results = [ks(before, after + shift) for before, after in pairs]
            found[name].append([(result.p_value, result.statistic) for result in results])
    middle = {name: np.median(np.array(paths), axis=0) for name, paths in found.items()}
    return {name: [(float(p), float(size)) for p, size in path] for name, path in middle.items()}


def evidence() -> str:
    """P-values as batches grow."""
    return line_chart(
        {
            name: [math.log10(max(p, LEAST)) for p, _ in points]
            for name, points in growing().items()
        },
        x=[math.log10(rows) for rows in SIZES],
        labels=TICKS,
        title="Evidence: the p-value of a test, by the rows of both samples",
        y_label="log10 of p",
        threshold=math.log10(0.05),
        description="Without drift the p-value wanders anywhere; with any drift at all it falls "
        "to nothing as rows come, the sooner the larger the drift.",
    )


def effect() -> str:
    """Effects as batches grow."""
    return line_chart(
        {name: [size for _, size in points] for name, points in growing().items()},
        x=[math.log10(rows) for rows in SIZES],
        labels=TICKS,
        title="Effect: the share of rows that moved, by the rows of both samples",
        y_label="KS statistic",
        threshold=0.05,
        description="The effect settles at what it is: 0, 0.002, 0.04 and 0.08. On few rows it "
        "is mostly chance, and too large.",
    )


def distances() -> str:
    """The middle of a hundred distances between samples of one distribution."""
    rng = np.random.default_rng(0)
    old = rng.normal(size=5000)
    measures: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
        "wasserstein, in sd": wasserstein,
        "psi": psi,
        "jensen-shannon": jensen_shannon,
        "psi, unbiased": lambda a, b: psi(a, b, unbiased=True),
    }
    series: dict[str, list[float]] = {name: [] for name in measures}
    for rows in SMALL:
        batches = rng.normal(size=(100, rows))
        for name, measure in measures.items():
            told = [measure(old, batch) for batch in batches]
            series[name].append(round(float(np.median(told)), 4))
    return line_chart(
        series,
        x=[math.log10(rows) for rows in SMALL],
        labels={math.log10(rows): f"{rows}" for rows in (50, 100, 200, 500, 1000)},
        title="Distances without drift, by the rows of a batch; the reference has 5,000",
        threshold=0.1,
        description="Every distance is far from zero on small batches that have not moved, and "
        "shrinks as batches grow; the usual limit of 0.1 is chance on a hundred rows.",
    )


FIGURES: Final[dict[str, Callable[[], str]]] = {
    "drift-evidence.svg": evidence,
    "drift-effect.svg": effect,
    "drift-distances.svg": distances,
}

if __name__ == "__main__":
    for name, drawn in FIGURES.items():
        Path(__file__).with_name(name).write_text(drawn() + "\n")
