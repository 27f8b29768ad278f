"""What prodml says by default of the tables of :mod:`.shapes`, sorted and counted.

``python -m benchmarks._drift_peers.ours [SECONDS] [MOST_RUNS]`` prints one line of JSON a
shape, size and mode, on as many seeded tables as fit into so many seconds of processor time.
"""

import json
import sys
import time
from collections.abc import Iterator
from itertools import count
from typing import Any

from benchmarks._drift_peers.shapes import COLUMNS, SHAPES, SIZES, is_category, table
from prodml.drift import DriftDetector, DriftReport, Reference
from prodml.events import Stream

MODES = {"sorted": True, "counted": False}


def report(
    shape: str, old: dict[str, Any], new: dict[str, Any], *, exact: bool, **settings: Any
) -> DriftReport:
    """One check by a detector as it comes; numbers that are codes have to be named."""
    codes: Any = dict.fromkeys(old, "categorical") if is_category(shape) else {}
    reference = Reference.fit(old, kinds=codes, exact=exact)
    return DriftDetector(reference, events=Stream(), **settings).detect_drift(new)


def drifted(
    shape: str, seed: int, size: tuple[int, int], *, exact: bool, **settings: Any
) -> tuple[str, ...]:
    """The columns that one check of one drift-free table names."""
    return report(shape, *table(shape, seed, *size), exact=exact, **settings).drifted


def rates(shape: str, size: tuple[int, int], seconds: float, most: int) -> Iterator[dict[str, Any]]:
    """Both modes on the same tables."""
    columns, tables, runs = dict.fromkeys(MODES, 0), dict.fromkeys(MODES, 0), 0
    began = time.process_time()
    for seed in count():
        old, new = table(shape, seed, *size)
        for mode, exact in MODES.items():
            found = report(shape, old, new, exact=exact).drifted
            columns[mode] += len(found)
            tables[mode] += bool(found)
        runs = seed + 1
        if runs == most or time.process_time() - began > seconds:
            break
    for mode in MODES:
        told = {"peer": f"prodml, {mode}", "shape": shape, "rows": size[0], "current": size[1]}
        yield told | {
            "runs": runs,
            "column": columns[mode] / runs / COLUMNS,
            "table": tables[mode] / runs,
        }


def main(seconds: float = 20.0, most: int = 1000) -> None:
    for size in SIZES:
        for shape in SHAPES:
            for line in rates(shape, size, seconds, most):
                sys.stdout.write(json.dumps(line) + "\n")
                sys.stdout.flush()


if __name__ == "__main__":
    main(*(float(sys.argv[1]),) if len(sys.argv) > 1 else (), *map(int, sys.argv[2:3]))
