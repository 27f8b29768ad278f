"""How much of what moved is seen: by the default detector, and by tests and rules alone.

``python -m benchmarks._drift_peers.power [RUNS]`` prints two tables, in per cent of the runs.
The first feature of twenty has moved; tests by hand are corrected for twenty by Bonferroni.
"""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.stats import ks_2samp

from benchmarks._drift_peers.ours import MODES
from benchmarks._drift_peers.shapes import COLUMNS
from prodml.drift import DriftDetector, Reference, anderson_darling, cramer_von_mises, ks, psi
from prodml.events import Stream

ALPHA = 0.05
BY_HAND = "KS / 20"


def shifted(seed: int, shift: float, rows: int, current: int) -> tuple[Any, Any]:
    """Twenty normal features, the first of which has moved by ``shift`` standard deviations."""
    rng = np.random.default_rng(seed)
    old, new = rng.normal(size=(rows, COLUMNS)), rng.normal(size=(current, COLUMNS))
    new[:, 0] += shift
    return old, new


def named(old: Any, new: Any, *, exact: bool) -> bool:
    """Whether a detector as it comes names the first feature."""
    detector = DriftDetector(Reference.fit(old, exact=exact), events=Stream())
    return "x0" in detector.detect_drift(new).drifted


def seen(shift: float, size: tuple[int, int], runs: int) -> dict[str, int]:
    """In how many of so many tables the shift is seen."""
    counts = dict.fromkeys((*MODES, BY_HAND), 0)
    for seed in range(runs):
        old, new = shifted(seed, shift, *size)
        for mode, exact in MODES.items():
            counts[mode] += named(old, new, exact=exact)
        p_value = ks_2samp(old[:, 0], new[:, 0], method="asymp").pvalue
        counts[BY_HAND] += p_value < ALPHA / COLUMNS
    return counts


def _far(rng: Any, values: Any) -> Any:
    return np.where(rng.random(len(values)) < 0.02, values + 5.0, values)


def _humps(rng: Any, values: Any) -> Any:
    return values * 0.6 + np.where(rng.random(len(values)) < 0.5, 0.8, -0.8)


CHANGES: dict[str, Callable[[Any, Any], Any]] = {
    "nothing": lambda _, values: values,
    "shift by 0.1 sd": lambda _, values: values + 0.1,
    "shift by 0.2 sd": lambda _, values: values + 0.2,
    "shift by 0.3 sd": lambda _, values: values + 0.3,
    "spread x 1.2": lambda _, values: values * 1.2,
    "spread x 1.5": lambda _, values: values * 1.5,
    "2 % of rows 5 sd away": _far,
    "two humps, same mean and spread": _humps,
}
RULES: dict[str, Callable[[Any, Any], bool]] = {
    BY_HAND: lambda a, b: ks(a, b).p_value < ALPHA / COLUMNS,
    "CvM / 20": lambda a, b: cramer_von_mises(a, b).p_value < ALPHA / COLUMNS,
    "AD / 20": lambda a, b: anderson_darling(a, b).p_value < ALPHA / COLUMNS,
    "PSI > 0.1": lambda a, b: psi(a, b) > 0.1,
    "PSI > 0.2": lambda a, b: psi(a, b) > 0.2,
}


def compared(size: tuple[int, int], runs: int) -> dict[str, dict[str, int]]:
    """Each rule on each change."""
    table = {change: dict.fromkeys(("detector", *RULES), 0) for change in CHANGES}
    for seed in range(runs):
        old, new = shifted(seed, 0.0, *size)
        rng, still = np.random.default_rng([seed, 1]), new[:, 0].copy()
        for change, move in CHANGES.items():
            new[:, 0] = move(rng, still)
            table[change]["detector"] += named(old, new, exact=True)
            for rule, judge in RULES.items():
                table[change][rule] += judge(old[:, 0], new[:, 0])
    return table


def _printed(title: str, rows: dict[str, dict[str, int]], runs: int) -> None:
    names = list(next(iter(rows.values())))
    lines = [f"| {title} | {' | '.join(names)} |", f"|---|{'--:|' * len(names)}"]
    for row, counts in rows.items():
        lines.append(f"| {row} | {' | '.join(f'{100 * counts[n] / runs:.0f}' for n in names)} |")
    sys.stdout.write("\n".join(lines) + "\n\n")
    sys.stdout.flush()


def main(runs: int = 200) -> None:
    for size in ((1000, 1000), (5000, 100)):
        _printed(f"{size[0]} v {size[1]}, {runs} runs", compared(size, runs), runs)
    rows = {
        f"{shift:g} sd, {size[0]} v {size[1]}": seen(shift, size, runs)
        for size in ((2000, 1000), (5000, 100), (1000, 1000))
        for shift in (0.1, 0.15, 0.2, 0.3)
    }
    _printed(f"{runs} runs", rows, runs)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
