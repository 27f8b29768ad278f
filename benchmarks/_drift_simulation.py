"""Drift monitors by the hundred: false alarms without drift, delay with it.

``python -m benchmarks._drift_simulation [level|delay|minutes|blocks] [seconds]`` prints one
table, on as many seeded runs as fit into so many seconds of processor time a row.  The ordinary
tests run a small share of it, ``nox -s soak`` a large one.
"""

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prodml.drift import DriftMonitor, MonitorReport
from prodml.drift.baseline import baseline
from prodml.drift.sequential import Grains, Rules, Watched, standing
from prodml.events import Stream

Rng = np.random.Generator
Draw = Callable[[Rng, int], NDArray[Any]]

DAY = 86400.0
QUARTER = 91.3125 * DAY
FEATURES = 20
NEVER = 10**9


def _missing(rng: Rng, n: int) -> NDArray[Any]:
    return np.where(rng.random(n) < 0.03, np.nan, rng.normal(size=n))


SHAPES: dict[str, Draw] = {
    "normal": lambda rng, n: rng.normal(size=n),
    "lognormal": lambda rng, n: rng.lognormal(0, 1.5, size=n),
    "90 % zeros": lambda rng, n: rng.normal(size=n) * (rng.random(n) < 0.1),
    "counts": lambda rng, n: rng.poisson(20, size=n).astype(float),
    "constant": lambda rng, n: np.ones(n),
    "3 % missing": _missing,
    "2 levels": lambda rng, n: rng.integers(0, 2, n),
    "1 in 1000": lambda rng, n: (rng.random(n) < 0.001).astype(int),
    "5 levels": lambda rng, n: rng.integers(0, 5, n),
    "20 levels": lambda rng, n: rng.integers(0, 20, n),
    "zipf, 200 levels": lambda rng, n: np.minimum(rng.zipf(1.3, n), 200),
    "zipf, no end": lambda rng, n: rng.zipf(1.5, n),
}
CATEGORIES = {name for name in SHAPES if "level" in name or "1000" in name or "no end" in name}


@dataclass(frozen=True)
class Looks:
    """One feature, looked at ``looks`` times, with so many rows each."""

    reference: int = 2000
    rows: int = 250
    looks: int = 90
    every: float = DAY
    period: float = QUARTER


def feature(shape: str, reference: NDArray[Any]) -> tuple[Watched, Any]:
    """A feature fitted on its reference, and how batches of it are read."""
    kinds: Any = {"x": "categorical"} if shape in CATEGORIES else {}
    base = baseline({"x": reference}, kinds=kinds)
    return base.features["x"], base.columns["x"].read


def most_evidence(shape: str, plan: Looks, seed: int) -> float:
    """Largest log evidence of one feature that does not move; sizes are not asked for.

    An alarm in a family of 20 at 5 % is one beyond log(400).
    """
    rng, draw = np.random.default_rng(seed), SHAPES[shape]
    one, read = feature(shape, draw(rng, plan.reference))
    ledgers = one.ledgers(Grains.over(plan.period, plan.every))
    rules = Rules(
        alpha=1e-300, features=1, min_effect=0.0, min_new=0.0, min_rows=30, recent_rows=1000
    )
    most = -np.inf
    for look in range(plan.looks):
        for ledger, counts in zip(ledgers, one.count(read(draw(rng, plan.rows)), 0), strict=True):
            ledger.add((look + 0.5) * plan.every, counts)
        for track, ledger in zip(one.tracks, ledgers, strict=True):
            found = standing(track, ledger, rules, drifting=False)
            most = max(most, found.log_e if found else -np.inf)
    return most


def shifted(by: float, seed: int, *, quiet: int = 10, days: int = 60, **settings: Any) -> int:
    """Days from a shift of one of 20 normal features to the check that says so.

    0 and less is a false alarm, on that day or in another feature.
    """
    rng = np.random.default_rng(seed)
    monitor = DriftMonitor(
        rng.normal(size=(2000, FEATURES)), events=Stream(), order=False, **settings
    )
    for day in range(quiet + days):
        batch = rng.normal(size=(250, FEATURES))
        batch[:, 0] += by * (day >= quiet)
        report = monitor.check(batch, at=day * DAY)
        if report.drift_detected:
            return day - quiet + 1 if report.drifted == ("x0",) and day >= quiet else -day
    return NEVER


def lumpy(
    share: float, seed: int, *, days: int = 90, features: int = FEATURES, calibrated: bool = True
) -> MonitorReport:
    """A last report on features whose rows share their day; ``share`` of the variance."""
    rng = np.random.default_rng(seed)

    def draw(count: int) -> NDArray[Any]:
        common = np.repeat(rng.normal(size=(count, features)), 100, axis=0)
        own = rng.normal(size=(count * 100, features))
        return np.sqrt(share) * common + np.sqrt(1.0 - share) * own

    blocks = np.repeat(np.arange(60), 100) if calibrated else None
    monitor = DriftMonitor(draw(60), blocks=blocks, events=Stream(), order=False)
    for day in range(days):
        report = monitor.check(draw(1), at=day * DAY)
        if report.drift_detected:
            break
    return report


def seeds(seconds: float) -> Iterator[int]:
    """Seeds until so much processor time is used."""
    begun = time.process_time()
    for seed in count():
        if time.process_time() - begun > seconds:
            return
        yield seed


def _level(seconds: float, plans: dict[str, Looks]) -> None:
    print(
        "| data | plan | runs of a feature | beyond log 5 (<= .2) | log 20 (<= .05) "
        "| log 400 (<= .0025) | most |"
    )
    for name, plan in plans.items():
        for shape in SHAPES:
            found = np.array([most_evidence(shape, plan, seed) for seed in seeds(seconds)])
            over = [f"{(found >= np.log(k)).mean():.4f}" for k in (5, 20, 400)]
            print(
                f"| {shape} | {name} | {len(found)} | {' | '.join(over)} | {found.max():.1f} |",
                flush=True,
            )


def level(seconds: float) -> None:
    """Ninety days of daily looks."""
    _level(seconds, {"2000 v 250 a day": Looks(), "100k v 250 a day": Looks(reference=100_000)})


def minutes(seconds: float) -> None:
    """A day of looks each minute, the budget being for that day."""
    _level(seconds, {"1440 looks": Looks(rows=5, looks=1440, every=60.0, period=DAY)})


def delay(seconds: float) -> None:
    """Days to an alarm."""
    print("| shift | runs | false | found in 60 days | median | 90 % within |")
    for by in (0.1, 0.2, 0.3, 0.5):
        found = np.array([shifted(by, seed) for seed in seeds(seconds)])
        right = found[found > 0]
        print(
            f"| {by} | {len(found)} | {(found <= 0).sum()} | {(right < NEVER).mean():.3f} "
            f"| {np.median(right):g} | {np.quantile(right, 0.9):g} |",
            flush=True,
        )


def blocks(seconds: float) -> None:
    """Ninety days without drift that share their day."""
    print("| share of the day | calibrated | runs of 20 features | with an alarm |")
    for share in (0.05, 0.3, 0.6):
        for calibrated in (True, False):
            found = [
                lumpy(share, seed, calibrated=calibrated).drift_detected for seed in seeds(seconds)
            ]
            print(f"| {share} | {calibrated} | {len(found)} | {np.mean(found):.3f} |", flush=True)


if __name__ == "__main__":
    chosen = sys.argv[1] if len(sys.argv) > 1 else "delay"
    globals()[chosen](float(sys.argv[2]) if len(sys.argv) > 2 else 20.0)
