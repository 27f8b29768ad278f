"""Draws the pictures of the page on freshness: ``python docs/assets/freshness.py``.

Every point is asked of the cache itself, and a test draws them anew: a picture that no longer
says what the code does is found.
"""
# ruff: noqa: INP001 - a script beside what it draws

import random
from collections.abc import Callable
from pathlib import Path
from typing import Final

from prodml.cache import MISS, PredictionCache
from prodml.cache.freshness import Freshness, Verdict
from prodml.svg import heat_map, line_chart
from prodml.testing import ManualClock

TTL: Final = 60.0
RULE: Final = Freshness(early=1.0, stale=30.0, stale_if_error=300.0)
COSTS: Final = (0.5, 3.0)
# Chance in even steps: shares instead of samples.
DRAWS: Final = [(at + 0.5) / 500 for at in range(500)]


def share(verdict: Verdict, age: float, cost: float) -> float:
    """How likely ``verdict`` is for an entry of this age."""
    found = [RULE.verdict(0.0, TTL, cost, age, draw) for draw in DRAWS]
    return found.count(verdict) / len(found)


def over(ages: list[float], rows: int = 2000) -> list[float]:
    """Share of the entries made together, with the usual jitter, that are over by each age."""
    clock = ManualClock()
    cache = PredictionCache(ttl=TTL, early=0.0, rng=random.Random(7), clock=clock)
    for row in range(rows):
        cache.set(row, "v1", 0.5)
    shares: list[float] = []
    for before, age in zip([0.0, *ages], ages, strict=False):
        clock.advance(age - before)
        shares.append(sum(cache.get(row, "v1") is MISS for row in range(rows)) / rows)
    return shares


def early() -> str:
    """Near the end: which share of calls renews, and which share of entries is over."""
    ages = [40.0 + 0.25 * step for step in range(84)]
    # From its end on every call would compute, whatever chance says.
    renewing = {
        f"calls that renew, cost {cost:g} s": [
            share(Verdict.EARLY, age, cost) if age < TTL else 1.0 for age in ages
        ]
        for cost in COSTS
    }
    return line_chart(
        {**renewing, "entries over, by jitter": over(ages)},
        x=ages,
        title=f"Shares by age in seconds, ttl {TTL:g} s",
    )


def life() -> str:
    """What an entry is good for, by its age."""
    ages = [0.0, 30.0, 50.0, 55.0, 58.0, 59.5, 60.0, 75.0, 90.0, 200.0, 359.0, 360.0]
    shares = [[share(verdict, age, COSTS[1]) for age in ages] for verdict in Verdict]
    return heat_map(
        [verdict.name for verdict in Verdict],
        [f"{age:g} s" for age in ages],
        shares,
        title=f"What an entry is good for, by its age: ttl {TTL:g} s, stale {RULE.stale:g} s, "
        f"stale_if_error {RULE.stale_if_error:g} s, computed in {COSTS[1]:g} s",
        labels=[[f"{100 * each:.0f} %" if each else "" for each in row] for row in shares],
        top=1.0,
    )


FIGURES: Final[dict[str, Callable[[], str]]] = {
    "freshness-early.svg": early,
    "freshness-life.svg": life,
}

if __name__ == "__main__":
    for name, drawn in FIGURES.items():
        Path(__file__).with_name(name).write_text(drawn() + "\n")
