"""The year in one page: a table on the terminal and one self-contained HTML file."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TypeAlias

import numpy as np
from counterfactual import Weekly, base_rates, paired_interval, weeks
from data import FEATURES, SCHEDULE, WEATHER, Floats
from feeds import SILENCE
from operation import DEADLINE, START, Operation, Week
from simulation import FIRST_DAY, MONTHS, date

from prodml import DriftDetector, PredictionLog, svg
from prodml.clock import utc
from prodml.drift import DriftReport
from prodml.events import (
    CircuitClosed,
    CircuitOpened,
    GateFailed,
    GatePassed,
    ModelPromoted,
    PredictionDriftDetected,
    RolledBack,
    RolloutStarted,
)

STORM = 0.4
"""A day on which more than so many flights never flew is told as a storm."""

Monthly: TypeAlias = Mapping[int, DriftReport]
"""A report by month."""


@dataclass
class Story:
    """Everything that the page shows, as plain data."""

    figures: dict[str, str]
    incidents: list[tuple[str, str]]
    policies: list[Weekly]
    drift: Monthly
    charts: list[str]
    prices: dict[str, float]


def own_weeks(operation: Operation, days: Sequence[int]) -> Weekly:
    """The library's run in the same sums as the counterfactuals."""
    year, trace = operation.year, operation.trace
    rates = base_rates(year, max(days) + 1)
    served = set(days)
    sums: list[tuple[float, float, float]] = []
    for first, end in weeks(max(days) + 1):
        week = np.isin(year.local_day, [d for d in range(first, end) if d in served])
        rows = np.flatnonzero(week & ~np.isnan(year.late) & ~np.isnan(trace.probability))
        error = (trace.probability[rows] - year.late[rows]) ** 2
        base = (rates[year.local_day[rows]] - year.late[rows]) ** 2
        sums.append((float(error.sum()), float(base.sum()), float(len(rows))))
    loss, base_loss, flights = np.array(sums).T
    trainings = sum(isinstance(f, GatePassed | GateFailed) for f in operation.facts)
    return Weekly("this run", loss, base_loss, flights, trainings)


def monthly_drift(detector: DriftDetector, operation: Operation, days: Sequence[int]) -> Monthly:
    """A drift report for each served month against January."""
    year, served = operation.year, np.isin(operation.year.local_day, list(days))
    months = sorted({int(m) for m in year.month[served]})
    return {
        month: detector.detect_drift(operation.table[served & (year.month == month)])
        for month in months
    }


def tell(operation: Operation, days: Sequence[int], others: list[Weekly]) -> Story:
    own = own_weeks(operation, days)
    drift = monthly_drift(operation.drift, operation, days)
    by_rows = monthly_drift(operation.by_rows, operation, days)
    return Story(
        figures=_figures(operation, own),
        incidents=_incidents(operation, days),
        policies=[own, *others],
        drift=drift,
        charts=_charts(operation, days, [own, *others], drift, by_rows),
        prices=operation.prices,
    )


# -- figures ----------------------------------------------------------------------------


def _figures(operation: Operation, own: Weekly) -> dict[str, str]:
    trace, year = operation.trace, operation.year
    asked = np.flatnonzero(trace.degraded >= 0)
    answered = np.isfinite(trace.probability[asked])
    promoted = sum(isinstance(f, ModelPromoted) for f in operation.facts)
    failed = sum(isinstance(f, GateFailed) for f in operation.facts)
    weather, stats = operation.weather, operation.cache.stats()
    log = operation.log.stats()
    labelled = sum(1 for r in PredictionLog(operation.folder / "log") if r.labelled)
    naive = sum(week.naive for week in operation.weeks)
    looked = len(FEATURES) * len(operation.weeks)
    estimate = _brier(trace.estimate, year.late)
    return {
        "flights answered": f"{int(answered.sum()):,} of {len(asked):,}",
        "unanswered requests": f"{int((~answered).sum())}",
        "skill over the base rate": f"{100 * own.skill:.1f} %",
        "Brier": f"{_brier(trace.probability, year.late):.4f} (estimate at booking {estimate:.4f})",
        "promotions": f"{promoted}, {failed} refused by the gate",
        "degraded answers": f"{int((trace.degraded[asked] > 0).sum()):,}",
        "slowest batch": f"{operation.slowest:.1f} s of the {DEADLINE:.0f} s that it has; the "
        f"breaker spared {operation.weather_breaker.snapshot().rejected:,} waits of {SILENCE} s",
        "weather look-ups": f"{len(asked):,} flights, {weather.asked:,} asked, "
        f"{weather.reports:,} fetched ({100 * (1 - weather.reports / len(asked)):.1f} % saved)",
        "cache": f"{stats.hits:,} hits, {stats.misses:,} misses ({100 * stats.hit_ratio:.1f} %); "
        f"{stats.drops} drops of a version",
        "estimates computed": f"{operation.computed:,} of {len(asked):,} in "
        f"{operation.computing:.1f} s; the cache saved {_saved(operation, len(asked)):.1f} s",
        "prediction log": f"{log.written:,} records, {labelled:,} joined with their label",
        "drift, features in alarm": f"{naive} of {looked} weekly looks by p < 0.05 a flight",
        "what moved, day by day": _moved(operation.weeks),
    }


def _moved(weeks: Sequence[Week]) -> str:
    """Who drifted in how many weeks, evidence counted in days; the calendar is named too."""
    told = Counter(name for week in weeks for name in week.drifted)
    named = ", ".join(f"{name} {count}" for name, count in told.most_common(3))
    weather, schedule = (sum(told[name] for name in group) for group in (WEATHER, SCHEDULE))
    told_of = f"weather {weather} times ({named}), schedule and calendar {schedule}"
    return f"{told_of}, in {len(weeks)} weeks"


def _saved(operation: Operation, asked: int) -> float:
    """Seconds that the estimates found in the cache would have taken at the same price."""
    return operation.computing / max(operation.computed, 1) * (asked - operation.computed)


def _brier(told: Floats, late: Floats) -> float:
    rows = np.isfinite(told) & np.isfinite(late)
    return float(np.mean((told[rows] - late[rows]) ** 2))


# -- incidents --------------------------------------------------------------------------


def _incidents(operation: Operation, days: Sequence[int]) -> list[tuple[str, str]]:
    found = [*_storms(operation, days), *_from_facts(operation), *_first_novelty(operation)]
    return [(date(int(day)), text) for day, text in sorted(found)]


def _storms(operation: Operation, days: Sequence[int]) -> list[tuple[float, str]]:
    year = operation.year
    told: list[tuple[float, str]] = []
    for day in days:
        rows = year.local_day == day
        gone = float(np.isnan(year.dep_delay[rows]).mean())
        if gone > STORM:
            told.append(
                (day, f"storm: {100 * gone:.0f} % of the flights cancelled; no label will come")
            )
    return told


def _first_novelty(operation: Operation) -> list[tuple[float, str]]:
    shares = {
        "January's range": [week.beyond_january for week in operation.weeks],
        "what the serving model was trained on": [w.metrics["novelty"] for w in operation.weeks],
    }
    told: list[tuple[float, str]] = []
    for what, by_week in shares.items():
        first = next((place for place, share in enumerate(by_week) if share > 0.3), None)
        if first is not None:
            text = f"{100 * by_week[first]:.0f} % of the week's weather lies outside {what}"
            told.append((operation.weeks[first].day, text))
    return told


def _from_facts(operation: Operation) -> list[tuple[float, str]]:
    told: list[tuple[float, str]] = []
    for fact in operation.facts:
        match fact:
            case CircuitOpened(source="weather-feed", reason=reason) if not _reopened(told):
                text = f"weather feed: breaker open ({reason})"
            case CircuitClosed(source="weather-feed"):
                text = "weather feed: breaker closed"
            case GateFailed(reason=reason):
                text = f"gate refused a challenger: {reason}"
            case RolloutStarted(version=version):
                text = f"version {version} enters shadow"
            case ModelPromoted(version=version):
                text = f"version {version} promoted"
            case RolledBack(old=old, reason=reason):
                text = f"version {old} rolled back: {reason}"
            case PredictionDriftDetected(reason=reason):
                text = f"prediction drift: {reason}"
            case _:
                continue
        told.append((_day_of(fact.at), text))
    return told


def _reopened(told: list[tuple[float, str]]) -> bool:
    # A trial call that fails opens the breaker again, hour after hour: one line says it.
    feed = [text for _, text in told if text.startswith("weather feed")]
    return bool(feed) and "open" in feed[-1]


def _day_of(at: float) -> float:
    local = utc(at - 5 * 3600.0)
    return local.timetuple().tm_yday - 1 + local.hour / 24


# -- charts -----------------------------------------------------------------------------


def _charts(
    operation: Operation,
    days: Sequence[int],
    policies: list[Weekly],
    drift: Monthly,
    by_rows: Monthly,
) -> list[str]:
    firsts = [first for first, _ in weeks(max(days) + 1)]
    labels = {float(d): MONTHS[m] for m, d in enumerate(FIRST_DAY[:-1]) if START <= d <= max(days)}
    shown = [p for p in policies if p.name in {"this run", "never retrained", "weekly, all data"}]
    quality = {p.name: _ratio(p.loss, p.flights) for p in shown}
    quality["base rate"] = _ratio(policies[0].base, policies[0].flights)
    every = sorted(days)
    return [
        svg.line_chart(quality, x=firsts, labels=labels, title="Brier by week (lower is better)"),
        _heat_map(drift),
        _alarm_chart(drift, by_rows),
        svg.step_chart(
            {"version": [_usual_version(operation, day) for day in every]},
            x=every,
            labels=labels,
            title="Version that answered most flights of the day",
        ),
        svg.line_chart(
            {"degraded": [_degraded_share(operation, day) for day in every]},
            x=every,
            labels=labels,
            title="Share of degraded answers",
        ),
    ]


def _ratio(sums: Floats, counts: Floats) -> list[float]:
    return [s / n if n else float("nan") for s, n in zip(sums, counts, strict=True)]


def _heat_map(drift: Monthly) -> str:
    columns = [MONTHS[month - 1] for month in drift]
    values = [[float(report[name].effect) for report in drift.values()] for name in FEATURES]
    labels = [
        ["!" if report[name].drift_detected else "" for report in drift.values()]
        for name in FEATURES
    ]
    return svg.heat_map(
        FEATURES,
        columns,
        values,
        labels=labels,
        title="Drift against January: effect by feature and month (! = alarm)",
    )


def _alarm_chart(drift: Monthly, by_rows: Monthly) -> str:
    naive = [sum(f.p_value < 0.05 for f in report.values()) for report in by_rows.values()]
    sized = [len(report.drifted) for report in drift.values()]
    return svg.line_chart(
        {"p < 0.05 a flight": naive, "by days and effect": sized},
        x=list(range(len(drift))),
        labels={float(i): MONTHS[m - 1] for i, m in enumerate(drift)},
        title=f"Features in alarm, of {len(FEATURES)}",
    )


def _usual_version(operation: Operation, day: int) -> float:
    versions = operation.trace.version[operation.year.local_day == day]
    versions = versions[versions > 0]
    return float(np.bincount(versions).argmax()) if len(versions) else float("nan")


def _degraded_share(operation: Operation, day: int) -> float:
    told = operation.trace.degraded[operation.year.local_day == day]
    told = told[told >= 0]
    return float((told > 0).mean()) if len(told) else float("nan")


# -- the two forms ----------------------------------------------------------------------


def comparisons(policies: list[Weekly]) -> list[tuple[str, str, str, str]]:
    """Policy, skill, trainings, and this run's lead with its interval."""
    own = policies[0]
    told = [(own.name, f"{100 * own.skill:.1f} %", str(own.trainings), "")]
    for other in policies[1:]:
        lead, low, high = paired_interval(own, other)
        text = f"{100 * lead:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]"
        told.append((other.name, f"{100 * other.skill:.1f} %", str(other.trainings), text))
    return told


CAVEAT = (
    "One year at three airports is one sample, and the triggers were chosen on it: the intervals "
    "(95 %, paired bootstrap over weeks) cover neither. Where an interval contains zero the page "
    "claims no ranking."
)


def as_text(story: Story) -> str:
    lines = ["", "A year at three airports", "=" * 24]
    wide = max(map(len, story.figures))
    lines += [f"{name:<{wide}}  {value}" for name, value in story.figures.items()]
    lines += ["", f"{'policy':<30}{'skill':>8}{'trained':>9}  this run leads by"]
    lines += [f"{n:<30}{s:>8}{t:>9}  {c}" for n, s, t, c in comparisons(story.policies)]
    lines += ["", "Ladder once the weather is lost, priced on the last week of January (Brier)"]
    lines += [
        f"  {price:.4f}  {name}" for name, price in sorted(story.prices.items(), key=lambda i: i[1])
    ]
    lines += ["", "Incidents"] + [f"  {day:>6}  {text}" for day, text in story.incidents]
    return "\n".join([*lines, "", CAVEAT, ""])


def as_html(story: Story) -> str:
    figures = "".join(
        f"<tr><th>{escape(n)}</th><td>{escape(v)}</td></tr>" for n, v in story.figures.items()
    )
    table = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
        for row in comparisons(story.policies)
    )
    prices = "".join(
        f"<tr><td>{escape(n)}</td><td>{p:.4f}</td></tr>"
        for n, p in sorted(story.prices.items(), key=lambda item: item[1])
    )
    incidents = "".join(
        f"<tr><td>{escape(day)}</td><td>{escape(text)}</td></tr>" for day, text in story.incidents
    )
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>A year at three airports</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto;
  padding: 0 1rem; }}
table {{ border-collapse: collapse; margin: 1rem 0; }}
th, td {{ text-align: left; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid #8884;
  vertical-align: top; }}
svg {{ width: 100%; height: auto; margin: 1rem 0; }}
</style>
<h1>A year at three airports</h1>
<p>Late by more than 15 minutes? Asked one hour before schedule for real flights of 2013, trained
on January, served from February on a simulated clock; every part of the way is prodml's public
API.</p>
<table>{figures}</table>
<h2>Quality</h2>{story.charts[0]}
<table><tr><th>policy</th><th>skill</th><th>trainings</th><th>this run leads by</th></tr>
{table}</table>
<p>{escape(CAVEAT)}</p>
<h2>Drift</h2>{story.charts[1]}{story.charts[2]}
<h2>Versions</h2>{story.charts[3]}
<h2>Degradation</h2>{story.charts[4]}
<p>Brier of each rung on the last week of January with its weather taken away; the ladder asks them
in this order.</p><table>{prices}</table>
<h2>Incidents</h2><table>{incidents}</table>
</html>
"""


def write(story: Story, path: Path) -> None:
    path.write_text(as_html(story), encoding="utf-8")
