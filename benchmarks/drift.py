"""Drift: what a report of twenty features costs against the tests alone.

``python -m benchmarks drift`` prints the tables.  The baseline is measured in the same
rounds: ``scipy.stats.ks_2samp``, two means and two standard deviations of each column, which
is what a loop written by hand does on every check.
"""

import json
import random
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.runner import Case, Counted, main
from prodml.drift import DriftDetector, PredictionDriftMonitor, Reference
from prodml.events import Stream

ROWS, COLUMNS = 100_000, 20


def by_hand(reference: Any, current: Any) -> Callable[[], object]:
    from scipy.stats import ks_2samp

    def loop() -> list[tuple[float, float, float, float]]:
        found = []
        for i in range(reference.shape[1]):
            old, new = reference[:, i], current[:, i]
            test = ks_2samp(old, new)
            old.mean(), old.std()
            found.append((test.statistic, test.pvalue, new.mean(), new.std()))
        return found

    return loop


def report_case(rows: int, limits: dict[str, float]) -> Case:
    """Sorted: KS and Wasserstein, exact.  Counted: KS with its bound, Wasserstein, PSI, JS.

    Both with the missing and infinite shares, range, moments, quantiles and a picture.
    """
    rng = np.random.default_rng(0)
    reference, current = rng.normal(size=(2, rows, COLUMNS))
    exact, counted = (
        DriftDetector(Reference.fit(reference, exact=exact), events=Stream())
        for exact in (True, False)
    )
    return Case(
        f"report of {rows:,} rows, 20 numeric features",
        "scipy loop",
        {
            "scipy loop": by_hand(reference, current),
            "sorted": lambda: exact.detect_drift(current),
            "counted": lambda: counted.detect_drift(current),
        },
        limits,
        rounds=5 if rows <= ROWS else 3,
    )


def memory_case() -> Counted:
    rng = np.random.default_rng(0)
    current = rng.normal(size=(1_000_000, COLUMNS))

    def megabytes(*, exact: bool) -> Callable[[], float]:
        detector = DriftDetector(Reference.fit(current, exact=exact), events=Stream())
        other = current[::-1].copy()
        other += 0.01

        def work() -> float:
            tracemalloc.start()
            detector.detect_drift(other)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            return peak / 2**20

        return work

    return Counted(
        "memory that a check of a million rows by 20 adds",
        "MB",
        {"sorted": megabytes(exact=True), "counted": megabytes(exact=False)},
        {"sorted": 32.0, "counted": 32.0},
    )


def size_case() -> Counted:
    rng = np.random.default_rng(0)
    shapes = {
        "normal": rng.normal(size=1_000_000),
        "Cauchy": rng.standard_cauchy(1_000_000),
        "all sizes": np.exp(rng.uniform(-80, 80, size=1_000_000)),
        "100,000 levels": rng.integers(0, 100_000, size=1_000_000).astype(str),
    }

    def kilobytes(values: Any) -> Callable[[], float]:
        reference = Reference.fit({"x": values}, exact=False)
        return lambda: len(json.dumps(reference.to_dict(), separators=(",", ":"))) / 1000

    return Counted(
        "a saved column of a million rows",
        "kB",
        {name: kilobytes(values) for name, values in shapes.items()},
        dict.fromkeys(shapes, 64.0),
    )


def monitor_case() -> Case:
    rng = random.Random(0)
    values = [rng.random() for _ in range(1000)]
    baseline = [rng.random() for _ in range(5000)]
    small, large = (PredictionDriftMonitor(size, events=Stream()) for size in (100, 10_000))

    def add(monitor: PredictionDriftMonitor) -> Callable[[], object]:
        monitor.set_baseline(baseline)

        def work() -> None:
            for value in values:
                monitor.add_prediction(value)

        return work

    return Case(
        "add a prediction",
        "window of 100",
        {"window of 100": add(small), "window of 10,000": add(large)},
        {"window of 10,000": 1.3},
        inner=len(values),
        rounds=9,
        target=0.02,
    )


def check_case() -> Case:
    rng = np.random.default_rng(0)
    monitors = {}
    for size in (100, 10_000):
        monitors[size] = monitor = PredictionDriftMonitor(size, events=Stream())
        monitor.set_baseline(rng.normal(size=5000))
        for value in rng.normal(size=size):
            monitor.add_prediction(value)
    return Case(
        "check the predictions",
        "window of 100",
        {
            "window of 100": monitors[100].check_drift,
            "window of 10,000": monitors[10_000].check_drift,
        },
        {"window of 10,000": 1.3},
        rounds=9,
    )


def cases() -> list[Case | Counted]:
    return [
        report_case(ROWS, {"sorted": 0.20, "counted": 0.06}),
        report_case(10 * ROWS, {"sorted": 0.30, "counted": 0.04}),
        memory_case(),
        size_case(),
        monitor_case(),
        check_case(),
    ]


if __name__ == "__main__":
    main(cases())
