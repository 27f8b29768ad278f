"""Drift reports: what a page for a mail costs, in time and in bytes.

``python -m benchmarks drift_reports`` prints the tables.  The report is the default one, of 20
numeric and 5 categorical features with 100,000 rows, three of which drifted.  Time is that of
the process, all threads together: what one waits for on a machine that has nothing else to do.
"""

import time
from typing import Any

import numpy as np

from benchmarks.runner import Case, Counted, main
from prodml.drift import DriftDetector, DriftReport, DriftTimeline
from prodml.events import Stream
from prodml.testing import ManualClock

ROWS = 100_000
LEVELS = [f"level {i}" for i in range(12)]


def batch(seed: int, shift: float = 0.0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    numbers = {f"number {i}": rng.normal(shift * (i < 2), size=ROWS) for i in range(20)}
    moved = np.full(12, 1 / 12) + np.linspace(-shift, shift, 12) / 13
    levels = {
        f"level {i}": rng.choice(LEVELS, size=ROWS, p=moved if i == 0 else None) for i in range(5)
    }
    return {**numbers, **levels}


def page_case(reference: Any, current: Any) -> Case:
    detector = DriftDetector(reference, events=Stream())
    report = detector.detect_drift(current)
    return Case(
        "a check of 25 features, 100k rows, and its page",
        "detect_drift",
        {
            "detect_drift": lambda: detector.detect_drift(current),
            "detect_drift + to_html": lambda: detector.detect_drift(current).to_html(),
            "to_html": report.to_html,
            "to_json": report.to_json,
            "str": lambda: str(report),
        },
        limits_ns={"detect_drift + to_html": 0.3e9},
        rounds=7,
        clock=time.process_time,
    )


def size_case(report: DriftReport, timeline: DriftTimeline) -> Counted:
    return Counted(
        "size of a page",
        "kB",
        {
            "25 features": lambda: len(report.to_html().encode()) / 1000,
            "25 features, JSON": lambda: len(report.to_json()) / 1000,
            "25 features, notebook": lambda: len(report._repr_html_().encode()) / 1000,
            "25 features, 90 checks": lambda: len(timeline.to_html().encode()) / 1000,
        },
        {"25 features": 300, "25 features, 90 checks": 300},
    )


def cases() -> list[Case | Counted]:
    reference, current = batch(0), batch(1, shift=0.5)
    clock = ManualClock(0.0)
    detector = DriftDetector(reference, events=Stream(), clock=clock)
    report, timeline = detector.detect_drift(current), DriftTimeline()
    for _ in range(90):
        report.at = clock.time()
        timeline.add(report)
        clock.advance(86400.0)
    return [page_case(reference, current), size_case(report, timeline)]


if __name__ == "__main__":
    main(cases())
