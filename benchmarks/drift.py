"""Drift: what a report of twenty features costs against the tests alone.

``python -m benchmarks drift`` prints the tables.  The baseline is measured in the same
rounds: ``scipy.stats.ks_2samp``, mean and standard deviation of each column, which is what
a loop written by hand does on every check.
"""

import random
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.runner import Case, main
from prodml.drift import DriftDetector, PredictionDriftMonitor
from prodml.events import Stream

ROWS, COLUMNS = 100_000, 20


def by_hand(reference: Any, current: Any) -> Callable[[], object]:
    from scipy.stats import ks_2samp

    def loop() -> list[tuple[float, float, float, float]]:
        found = []
        for i in range(reference.shape[1]):
            old, new = reference[:, i], current[:, i]
            test = ks_2samp(old, new)
            found.append((test.statistic, test.pvalue, new.mean(), new.std()))
        return found

    return loop


def report_case() -> Case:
    rng = np.random.default_rng(0)
    reference, current = rng.normal(size=(2, ROWS, COLUMNS))
    detector = DriftDetector(reference, events=Stream())
    return Case(
        "report of 100k rows, 20 numeric features",
        "scipy loop",
        {
            "scipy loop": by_hand(reference, current),
            "detect_drift": lambda: detector.detect_drift(current),
        },
        {"detect_drift": 0.2},
        rounds=3,
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


def cases() -> list[Case]:
    return [report_case(), monitor_case(), check_case()]


if __name__ == "__main__":
    main(cases())
