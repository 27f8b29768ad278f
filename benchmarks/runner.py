"""Interleaved timing: every round measures each candidate once, in random order.

Absolute times on a shared machine mean little; the median over rounds of the *ratio to
the baseline of the same round* means a lot.  CPU time of the thread is the default clock.
"""

import contextlib
import gc
import json
import math
import os
import platform
import random
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

Candidate = Callable[[], object]


@dataclass
class Case:
    """One question: how much does each candidate cost against ``baseline``?

    ``candidates`` maps a name to a function that does the work ``inner`` times over (or
    once, when ``inner`` is 1).  ``limits`` gives the largest ratio that is accepted,
    ``limits_ns`` the longest time where the goal is one of microseconds.

    With ``per_second`` the ratio is that of the calls a second, and ``floors`` gives the
    smallest that is accepted.  ``one_core`` keeps every thread on one core, where the
    system can: a hand-over between threads then costs the same each time.
    """

    name: str
    baseline: str
    candidates: dict[str, Candidate]
    limits: dict[str, float] = field(default_factory=dict)
    inner: int = 1
    rounds: int = 25
    target: float = 0.004
    clock: Callable[[], float] = time.thread_time
    limits_ns: dict[str, float] = field(default_factory=dict)
    per_second: bool = False
    floors: dict[str, float] = field(default_factory=dict)
    one_core: bool = False


@dataclass
class Counted:
    """One question whose answer is a number of ``unit`` and no time: each is asked once."""

    name: str
    unit: str
    candidates: dict[str, Callable[[], float]]
    limits: dict[str, float] = field(default_factory=dict)
    floors: dict[str, float] = field(default_factory=dict)


@dataclass
class Result:
    """Median cost in ns of one operation and median ratio to the baseline, by candidate.

    What was counted (``unit`` says in what) stands in ``ratio`` and took no time.
    """

    case: str
    candidate: str
    baseline: str
    ns: float
    ratio: float
    low: float
    high: float
    limit: float | None
    limit_ns: float | None = None
    floor: float | None = None
    unit: str = ""


def measure(case: Case | Counted, *, seed: int = 0) -> list[Result]:
    if isinstance(case, Counted):
        return [_counted(case, name, float(count())) for name, count in case.candidates.items()]
    with _on_one_core() if case.one_core else contextlib.nullcontext():
        return _timed(case, seed)


def _timed(case: Case, seed: int) -> list[Result]:
    repeats = {name: _repeats(case, work) for name, work in case.candidates.items()}
    times: dict[str, list[float]] = {name: [] for name in case.candidates}
    order, rng = list(case.candidates), random.Random(seed)
    for _ in range(case.rounds):
        rng.shuffle(order)
        for name in order:
            times[name].append(_once(case, name, repeats[name]))
    return [_summary(case, name, times) for name in case.candidates]


def _repeats(case: Case, work: Candidate) -> int:
    work()
    count = 1
    while True:
        began = case.clock()
        for _ in range(count):
            work()
        took = case.clock() - began
        if took >= case.target / 4 or count >= 1_000_000:
            return max(1, math.ceil(count * case.target / max(took, 1e-9)))
        count *= 4


def _once(case: Case, name: str, repeats: int) -> float:
    work = case.candidates[name]
    gc.collect()
    gc.disable()
    try:
        began = case.clock()
        for _ in range(repeats):
            work()
        return (case.clock() - began) / repeats / case.inner
    finally:
        gc.enable()


@contextlib.contextmanager
def _on_one_core() -> Iterator[None]:
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    _move({min(before)})
    try:
        yield
    finally:
        _move(before)


def _move(cores: set[int]) -> None:
    # A thread that is made later goes where the one is that makes it.
    for thread in threading.enumerate():
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(thread.native_id or 0, cores)


def _counted(case: Counted, name: str, count: float) -> Result:
    limit, floor = case.limits.get(name), case.floors.get(name)
    return Result(case.name, name, "", 0.0, count, count, count, limit, floor=floor, unit=case.unit)


def _summary(case: Case, name: str, times: dict[str, list[float]]) -> Result:
    pairs = zip(times[name], times[case.baseline], strict=True)
    if case.per_second:
        pairs = ((base, own) for own, base in pairs)
    ratios = sorted(own / max(base, 1e-12) for own, base in pairs)
    quarter = len(ratios) // 4
    return Result(
        case.name,
        name,
        f"calls a second of {case.baseline}" if case.per_second else case.baseline,
        statistics.median(times[name]) * 1e9,
        statistics.median(ratios),
        ratios[quarter],
        ratios[-1 - quarter],
        case.limits.get(name),
        case.limits_ns.get(name),
        case.floors.get(name),
    )


def markdown(results: list[Result]) -> str:
    lines: list[str] = []
    case = ""
    for r in results:
        if r.case != case:
            case = r.case
            lines += ["", f"### {case}", "", *_heading(r)]
        lines.append(_line(r))
    return "\n".join(lines).lstrip("\n") + "\n"


def _heading(r: Result) -> list[str]:
    if r.unit:
        return [f"| candidate | {r.unit} | limit |", "|---|--:|--:|"]
    return [
        f"| candidate | ns | x {r.baseline} | quartiles | limit |",
        "|---|--:|--:|--:|--:|",
    ]


def _line(r: Result) -> str:
    if r.unit:
        return f"| {r.candidate} | {r.ratio:.4g} | {_verdict(r)} |"
    quartiles = f"{r.low:.2f}-{r.high:.2f}"
    return f"| {r.candidate} | {_round(r.ns)} | {r.ratio:.2f} | {quartiles} | {_verdict(r)} |"


def _verdict(r: Result) -> str:
    if r.limit is not None:
        return f"{'ok' if r.ratio <= r.limit else 'MISSED'} <= {r.limit:g}"
    if r.floor is not None:
        return f"{'ok' if r.ratio >= r.floor else 'MISSED'} >= {r.floor:g}"
    if r.limit_ns is not None:
        return f"{'ok' if r.ns <= r.limit_ns else 'MISSED'} <= {r.limit_ns:,.0f} ns"
    return ""


def _round(ns: float) -> str:
    return f"{float(f'{ns:.3g}'):,.0f}"


def record(results: list[Result], path: Path) -> None:
    """Write JSON with what was measured and on what."""
    document = {
        "python": platform.python_version(),
        "system": platform.system(),
        "cores": os.cpu_count() or 1,
        "results": [asdict(result) for result in results],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n")


def main(cases: Iterable[Case | Counted]) -> None:
    """Measure ``cases`` and print the table; for ``python benchmarks/x.py``."""
    results = [result for case in cases for result in measure(case)]
    sys.stdout.write(markdown(results))
