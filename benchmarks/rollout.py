"""Rollout: guards that are looked at all the time, by simulation, and what observing costs.

``python -m benchmarks rollout`` prints the tables; the simulation of 4,000 rollouts a cell takes
some minutes.  Beside the guard stands a controller with a fixed floor, as Flagger has it by
default: a success rate of 99 % at each look, 1 or 10 failed checks to roll back.
"""

import random
import threading
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from benchmarks._rollout_simulation import NEVER, Cell, caught, floored, guarded
from benchmarks.runner import Case, Counted, main
from prodml.events import Stream
from prodml.rollout import Disagreement, ErrorRate, Floor, Latency, Metric, PairedLoss, Rollout
from prodml.stores import MemoryStore

LOOKS, SHARES = (5, 20, 100, 1000), (0.05, 0.10)
SCENES = {
    "none worse, 0.5 % both": (0.005, 0.005),
    "upstream incident, 3 % both": (0.03, 0.03),
    "canary 2 %, stable 0.5 %": (0.02, 0.005),
    "canary 10 %, stable 0.5 %": (0.10, 0.005),
}
HARMLESS, HARMFUL = list(SCENES)[:2], list(SCENES)[2:]


@cache
def found(scene: str, share: float, look: int) -> Any:
    return guarded(Cell(*SCENES[scene], share, look))


def named(share: float, look: int) -> str:
    return f"{look:,} canary requests a look, share {share:.0%}"


# -- S5 ---------------------------------------------------------------------------------


def false_alarms(scene: str) -> Counted:
    cells = [(share, look) for share in SHARES for look in LOOKS]

    def wrong(share: float, look: int) -> Callable[[], float]:
        return lambda: 100.0 * caught(found(scene, share, look))

    return Counted(
        f"rolled back though {scene}",
        "% of rollouts",
        {named(*cell): wrong(*cell) for cell in cells},
        {named(*cell): 1.0 for cell in cells},
    )


def delay(scene: str, limit: float, looks: tuple[int, ...]) -> Counted:
    cells = [(share, look) for share in SHARES for look in looks]

    def median(share: float, look: int) -> Callable[[], float]:
        return lambda: float(np.median(found(scene, share, look)))

    return Counted(
        f"until found: {scene}",
        "canary requests, median",
        {named(*cell): median(*cell) for cell in cells},
        {named(*cell): limit for cell in cells},
    )


def late_case() -> Counted:
    """Harm that begins after 20,000 good canary requests, at 100 a look."""

    def after(canary: float, *, eras: bool) -> Callable[[], float]:
        cell = Cell(canary, 0.005, 0.10, 100, good=20_000)

        def median() -> float:
            first = guarded(cell, rollouts=400, eras=eras)
            return float(np.median(first[first > cell.good])) - cell.good

        return median

    return Counted(
        "until found, when harm begins after 20,000 good canary requests",
        "canary requests, median",
        {
            f"{rate:.0%} v 0.5 %, {'eras' if eras else 'one era'}": after(rate, eras=eras)
            for rate in (0.02, 0.10)
            for eras in (False, True)
        },
        {"10% v 0.5 %, eras": 200.0},
    )


# -- what it costs ----------------------------------------------------------------------


def opened(guards: Any, **changes: Any) -> Rollout:
    rollout = Rollout("v2", "v1", guards=guards, shadow=False, events=Stream(), **changes)
    rollout.tick()
    return rollout


def outcomes(rollout: Rollout, count: int = 1000) -> Callable[[], object]:
    rng = random.Random(0)
    seen = [
        ("canary" if rng.random() < 0.1 else "stable", rng.random() >= 0.005, rng.expovariate(20))
        for _ in range(count)
    ]

    def work() -> None:
        for arm, ok, seconds in seen:
            rollout.observe_outcome(arm, ok=ok, seconds=seconds)

    return work


def lock_only(count: int = 1000) -> Callable[[], object]:
    lock, counts = threading.Lock(), [0]

    def work() -> None:
        for _ in range(count):
            with lock:
                counts[0] += 1

    return work


def pairs(rollout: Rollout, count: int = 1000) -> Callable[[], object]:
    rng = random.Random(0)
    losses = [(rng.random(), rng.random()) for _ in range(count)]
    return lambda: [rollout.observe_pair(*pair) for pair in losses]


def answers(rollout: Rollout, count: int = 1000) -> Callable[[], object]:
    rng = random.Random(0)
    values = [rng.random() for _ in range(count)]
    return lambda: [rollout.observe_answers(value, value) for value in values]


def observing_case() -> Case:
    rates = [ErrorRate(), Floor(limit=0.05)]
    return Case(
        "observe one request",
        "one lock and one count",
        {
            "one lock and one count": lock_only(),
            "ErrorRate": outcomes(opened([ErrorRate()])),
            "ErrorRate, Floor": outcomes(opened(rates)),
            "ErrorRate, Floor, Latency": outcomes(opened([*rates, Latency()])),
            "PairedLoss": pairs(opened([PairedLoss()])),
            "Disagreement": answers(opened([Disagreement()])),
        },
        {"ErrorRate": 5.0, "ErrorRate, Floor, Latency": 15.0},
        inner=1000,
    )


def ticking_case() -> Case:
    def fleet(workers: int) -> Callable[[], object]:
        store = MemoryStore()
        guards = [PairedLoss(enough=10**9), ErrorRate(enough=10**9), Metric("clicks")]
        rollouts = [opened(guards, store=store) for _ in range(workers)]
        for rollout in rollouts:
            outcomes(rollout)()
            pairs(rollout)()
            rollout.tick()
        return rollouts[0].tick

    sizes = (1, 4, 16, 64)
    return Case(
        "tick, rows of all workers in memory",
        "1 worker",
        {f"{size} worker{'s' * (size > 1)}": fleet(size) for size in sizes},
        rounds=9,
    )


def cases() -> list[Case | Counted]:
    return [
        *(false_alarms(scene) for scene in HARMLESS),
        delay(HARMFUL[0], 650.0, (5, 20, 100)),
        delay(HARMFUL[1], 60.0, (5, 20)),
        late_case(),
        observing_case(),
        ticking_case(),
    ]


def told(first: Any) -> str:
    """Share of the rollouts that were rolled back, and the median of when."""
    share = 100.0 * caught(first)
    if not share:
        return "0 %"
    return f"{share:.3g} % @ {np.median(first[first < NEVER]):,.0f}"


def table() -> str:
    lines = [
        "Rolled back, and after how many canary requests (median of those), of 4,000 rollouts.",
        "Under a harmless canary every roll back is a false one.  With 1,000 canary requests a",
        "look nothing can be found before the first look.",
        "",
        "| case | share | requests a look | floor 99 %, 1 failed | floor 99 %, 10 failed | guard |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for scene, rates in SCENES.items():
        for share in SHARES:
            for look in LOOKS:
                cell = Cell(*rates, share, look)
                floors = " | ".join(told(floored(cell, threshold)) for threshold in (1, 10))
                guard = told(found(scene, share, look))
                lines.append(f"| {scene} | {share:.0%} | {look:,} | {floors} | **{guard}** |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main(cases())
