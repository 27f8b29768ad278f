"""Streams: what a value costs, and how long detectors run before they are wrong and right.

``python -m benchmarks drift_streams`` prints the tables.  river is compiled and in the
development environment; without it only our own candidates are measured.  Run lengths are
means over seeded streams, cut at 40,000 values; delays are medians, the shift coming after
2,000 values.
"""

import random
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.runner import Case, main
from prodml.drift import (
    ADWIN,
    DDM,
    EDDM,
    HDDM_A,
    HDDM_W,
    KSWIN,
    PageHinkley,
    PredictionDriftMonitor,
    RankCUSUM,
)
from prodml.events import Stream

VALUES = 4096 * 5
CAP = 40_000


def river() -> Any:
    try:
        from river import drift
        from river.drift import binary
    except ImportError:
        return None
    return {
        "river ADWIN": drift.ADWIN,
        "river PageHinkley": drift.PageHinkley,
        "river KSWIN": drift.KSWIN,
        "river DDM": binary.DDM,
        "river EDDM": binary.EDDM,
        "river HDDM_A": binary.HDDMA,
        "river HDDM_W": binary.HDDMW,
    }


def feeding(update: Callable[[float], object], values: list[float]) -> Callable[[], object]:
    def work() -> None:
        for value in values:
            update(value)

    return work


def monitor(window: int, **settings: Any) -> PredictionDriftMonitor:
    made = PredictionDriftMonitor(window, events=Stream(), **settings)
    made.set_baseline(np.random.default_rng(0).normal(size=5000))
    return made


def value_case() -> Case:
    rng = random.Random(0)
    values = [rng.gauss(0.0, 1.0) for _ in range(VALUES)]
    candidates = {
        "add_prediction, window 1,000": feeding(monitor(1000).add_prediction, values),
        "add_prediction, window 10,000": feeding(monitor(10_000).add_prediction, values),
        "add_prediction, 60 seconds": feeding(
            monitor(10_000, window_seconds=60.0).add_prediction, values
        ),
        "RankCUSUM": feeding(RankCUSUM(arl=1e9).update, values),
        "PageHinkley": feeding(PageHinkley(arl=1e9).update, values),
        "ADWIN": feeding(ADWIN().update, values),
    }
    peers = river()
    baseline = "add_prediction, window 1,000"
    limits = {}
    if peers is not None:
        baseline = "river ADWIN"
        candidates["river ADWIN"] = feeding(peers["river ADWIN"]().update, values)
        candidates["river PageHinkley"] = feeding(
            peers["river PageHinkley"](threshold=1e9).update, values
        )
        limits = {
            "add_prediction, window 1,000": 1.1,
            "add_prediction, window 10,000": 1.1,
        }
    return Case(
        "one value of a stream",
        baseline,
        candidates,
        limits,
        inner=len(values),
        rounds=11,
        target=0.01,
    )


def cases() -> list[Case]:
    return [value_case()]


def normal(mean: float, deviation: float) -> Callable[[Any, int], Any]:
    return lambda rng, n: rng.normal(mean, deviation, n)


def errors(rate: float) -> Callable[[Any, int], Any]:
    return lambda rng, n: (rng.random(n) < rate) * 1.0


STREAMS = {
    "N(0,1)": normal(0.0, 1.0),
    "N(100,20)": normal(100.0, 20.0),
    "Bernoulli(0.1)": errors(0.1),
    "lognormal": lambda rng, n: rng.lognormal(0.0, 1.0, n),
}
CHANGED = {"N(0,1)": normal(0.5, 1.0), "Bernoulli(0.1)": errors(0.2)}
OURS = {
    "RankCUSUM": (RankCUSUM, 60),
    "PageHinkley": (PageHinkley, 60),
    "ADWIN": (ADWIN, 20),
    "KSWIN": (KSWIN, 3),
    "DDM": (DDM, 20),
    "EDDM": (EDDM, 20),
    "HDDM_A": (HDDM_A, 20),
    "HDDM_W": (HDDM_W, 20),
}


def alarmed(detector: Any, value: float) -> bool:
    found = detector.update(value)
    return bool(detector.drift_detected if found is None else found)


def run_length(make: Callable[[], Any], draw: Any, runs: int) -> float:
    rng, total = np.random.default_rng(1), 0
    for _ in range(runs):
        detector = make()
        values = draw(rng, CAP).tolist()
        total += next((i for i, x in enumerate(values, 1) if alarmed(detector, x)), CAP)
    return total / runs


def delay(make: Callable[[], Any], before: Any, after: Any, runs: int) -> tuple[float, int]:
    """Median values from the change to the detection, and how often there was none in 4,000."""
    rng, found = np.random.default_rng(2), []
    for _ in range(runs):
        detector = make()
        for value in before(rng, 2000).tolist():
            alarmed(detector, value)
        values = after(rng, 4000).tolist()
        found.append(next((i for i, x in enumerate(values, 1) if alarmed(detector, x)), 4000))
    return float(np.median(found)), found.count(4000)


def row(name: str, make: Callable[[], Any], runs: int) -> str:
    binary = any(word in name for word in ("DDM", "HDDM"))
    cells = []
    for stream, draw in STREAMS.items():
        if binary and stream != "Bernoulli(0.1)":
            cells.append("-")
            continue
        length = run_length(make, draw, runs)
        cells.append(f"{'>= ' if length >= CAP else ''}{float(f'{length:.2g}'):,.0f}")
    for stream, after in CHANGED.items():
        if binary and stream != "Bernoulli(0.1)":
            cells.append("-")
            continue
        # A few runs tell how long one is, and nothing about what is missed.
        tries = max(runs, 12) if "river" not in name else runs
        median, missed = delay(make, STREAMS[stream], after, tries)
        cells.append(f"{median:.0f}" + (f" ({missed} of {tries} missed)" if missed else ""))
    return f"| {name} | " + " | ".join(cells) + " |"


def table() -> str:
    """Run lengths to a false alarm and delays, ours with 10,000 asked and river's defaults."""
    lines = [
        "### values to a false alarm, and to the detection of a shift",
        "",
        "| detector | " + " | ".join(STREAMS) + " | N: +0.5 | Bernoulli: 0.1 -> 0.2 |",
        "|---|" + "--:|" * (len(STREAMS) + len(CHANGED)),
    ]
    lines += [row(name, make, runs) for name, (make, runs) in OURS.items()]
    for name, make in (river() or {}).items():
        # A test with SciPy for every value.
        lines.append(row(name, make, 2 if "KSWIN" in name else 20))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main(cases())
