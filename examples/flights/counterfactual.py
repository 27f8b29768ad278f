"""What other policies would have done with the same year, week by week.

Plain array code beside the library's run: the same flights, the same recipe, the labels that
had arrived.  Each policy gives one (loss, base loss, flights) a week, so differences between
policies are paired over weeks.  One year is one sample: the intervals say how much of a
difference the weeks carry, and cover neither the choice of the policies nor another year.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from data import DAY, FEATURES, WEATHER, Floats, Ints, Year, load
from model import FlightModel

START = 31
"""First day served: 1 February."""
MIDNIGHT = 300
"""Minute of midnight (UTC-5) at the airports, in UTC."""
BASE_DAYS = 28


@dataclass(frozen=True)
class Weekly:
    """Sums over the weeks of one policy: squared error, that of the base rate, flights."""

    name: str
    loss: Floats
    base: Floats
    flights: Floats
    trainings: int

    @property
    def skill(self) -> float:
        """1 - Brier / Brier of the base rate of the last 28 days, over all weeks."""
        return float(1.0 - self.loss.sum() / self.base.sum())


def weeks(last: int) -> Iterator[tuple[int, int]]:
    """Days [first, end) of each week from the start to day ``last``."""
    for first in range(START, last, 7):
        yield first, min(first + 7, last)


def known_by(year: Year, minute: float, since: float = -np.inf) -> Ints:
    """Flights whose label has arrived by ``minute`` and that were due after ``since``."""
    arrived = np.where(np.isnan(year.late), np.inf, year.landed)
    return np.flatnonzero((arrived <= minute) & (year.sched >= since))


def base_rates(year: Year, last: int) -> Floats:
    """Share of late flights known at each midnight, over the 28 days before."""
    rates = np.full(last, np.nan)
    for day in range(START, last):
        minute = day * DAY + MIDNIGHT
        rates[day] = year.late[known_by(year, minute, minute - BASE_DAYS * DAY)].mean()
    return rates


Decide = Callable[[int], tuple[float, float] | None]
"""Day -> (labels until, flights since) of a training to be done that day, or None."""


def never(day: int) -> tuple[float, float] | None:
    return (day * DAY + MIDNIGHT, -np.inf) if day == START else None


def weekly(day: int) -> tuple[float, float] | None:
    return (day * DAY + MIDNIGHT, -np.inf)


def monthly(day: int) -> tuple[float, float] | None:
    return (day * DAY + MIDNIGHT, -np.inf) if (day - START) % 28 == 0 else None


def last_month(day: int) -> tuple[float, float] | None:
    minute = day * DAY + MIDNIGHT
    return (minute, minute - 28 * DAY) if (day - START) % 28 == 0 else None


POLICIES: Mapping[str, Decide] = {
    "never retrained": never,
    "weekly, all data": weekly,
    "every 28 days, all data": monthly,
    "every 28 days, last 28 days": last_month,
}


def replay(name: str, served: tuple[int, ...]) -> Weekly:
    """Run one policy over the days served; a process of its own may do it."""
    year, table = _year()
    last = max(served) + 1
    rates = base_rates(year, last)
    decide, champion, trainings = POLICIES[name], None, -1
    sums: list[tuple[float, float, float]] = []
    for first, end in weeks(last):
        wanted = decide(first)
        if wanted is not None:
            rows = known_by(year, *wanted)
            champion = FlightModel.fit(table[rows], year.late[rows])
            trainings += 1
        days = year.local_day
        here = np.isin(days, [day for day in range(first, end) if day in set(served)])
        week = np.flatnonzero(here & ~np.isnan(year.late))
        if not len(week):
            sums.append((0.0, 0.0, 0.0))
            continue
        assert champion is not None
        error = (champion.score(table[week]) - year.late[week]) ** 2
        base = (rates[days[week]] - year.late[week]) ** 2
        sums.append((float(error.sum()), float(base.sum()), float(len(week))))
    loss, base_loss, flights = np.array(sums).T
    return Weekly(name, loss, base_loss, flights, trainings)


def replay_all(served: tuple[int, ...], names: tuple[str, ...] = tuple(POLICIES)) -> "Replays":
    """Start every policy in processes of their own; collect the results when they are needed."""
    pool = ProcessPoolExecutor(max_workers=1)
    return Replays(pool, {name: pool.submit(replay, name, served) for name in names})


class Replays:
    """Replays under way."""

    def __init__(self, pool: ProcessPoolExecutor, futures: Mapping[str, object]) -> None:
        self._pool = pool
        self._futures = futures

    def results(self) -> list[Weekly]:
        found = [future.result() for future in self._futures.values()]  # type: ignore[attr-defined]
        self._pool.shutdown()
        return found


@cache
def _year() -> tuple[Year, Floats]:
    year = load()
    return year, year.matrix()


def paired_interval(
    a: Weekly, b: Weekly, *, draws: int = 4000, seed: int = 0
) -> tuple[float, float, float]:
    """Skill of ``a`` minus skill of ``b`` with a 95 % paired bootstrap interval over weeks."""
    rng = np.random.default_rng(seed)
    picks = rng.integers(0, len(a.loss), size=(draws, len(a.loss)))
    base = a.base[picks].sum(axis=1)
    drawn = (b.loss[picks].sum(axis=1) - a.loss[picks].sum(axis=1)) / base
    low, high = np.quantile(drawn, [0.025, 0.975])
    return a.skill - b.skill, float(low), float(high)


def ladder_prices(year: Year, table: Floats, train: Ints, test: Ints) -> dict[str, float]:
    """Brier of each rung on the same flights once the weather is lost: what orders the ladder."""
    from model import OFFLINE, TableModel

    late = year.late
    lost = table[test].copy()
    lost[:, [FEATURES.index(name) for name in WEATHER]] = np.nan
    offline = [FEATURES.index(name) for name in OFFLINE]
    full = FlightModel.fit(table[train], late[train])
    reduced = FlightModel.fit(table[train][:, offline], late[train], OFFLINE)
    shares = TableModel.fit(table[train], late[train])
    names = {"carrier": 0, "origin": 1, "clock": 3}
    told = [shares.predict({n: row[c] for n, c in names.items()}) for row in lost]
    answers = {
        "model, all features": full.score(table[test]),
        "model, weather lost": full.score(lost),
        "model without live features": reduced.score(lost[:, offline]),
        "carrier-origin-hour table": np.array(told),
        "base rate": np.full(len(test), late[train].mean()),
    }
    return {name: float(np.mean((p - late[test]) ** 2)) for name, p in answers.items()}
