"""Replay a year at three airports: ``python examples/flights [--fast] [--out flights.html]``."""

import argparse
import os
import tempfile
from pathlib import Path

# Before numpy is loaded: on busy cores more threads make boosting many times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import counterfactual
from data import load
from operation import START, Operation
from progress import progress
from report import Story, as_text, tell, write
from simulation import date

FAST = (*range(START, START + 21), *range(331, 365))
"""Three weeks of February, and from 28 November on: every incident but the summer's."""


def replay(*, fast: bool, folder: Path) -> Story:
    """Run the year (or the fast part of it) beside its counterfactuals."""
    days = FAST if fast else tuple(range(START, 365))
    names = ("never retrained",) if fast else tuple(counterfactual.POLICIES)
    others = counterfactual.replay_all(days, names)
    operation = Operation(load(), folder)
    for _ in progress(operation.run(days), len(days), date):
        pass
    return tell(operation, days, others.results())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fast", action="store_true", help="two months instead of eleven")
    parser.add_argument("--out", type=Path, default=Path("flights.html"), help="the report")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="flights-") as folder:
        story = replay(fast=options.fast, folder=Path(folder))
    write(story, options.out)
    print(as_text(story))
    print(f"Report: {options.out}")


if __name__ == "__main__":
    main()
