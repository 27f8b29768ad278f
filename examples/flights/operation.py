"""The airline's prediction service, run through the year on a simulated clock.

Everything between a request and its answer, and between a label and a new champion, goes
through the public API of prodml; this file only plays the world around it.
"""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from data import CATEGORICAL, DAY, FEATURES, PLANE, SCHEDULE, UNKNOWN, WEATHER, Floats, Ints, Year
from feeds import Departures, WeatherFeed, feature_service
from ladder import Ladder, order, price
from model import FlightModel
from simulation import Queue, SimulatedClock, label_queue, midnight

from prodml import (
    CircuitBreaker,
    DriftDetector,
    FallbackChain,
    Lifecycle,
    ModelRegistry,
    PredictionCache,
    PredictionDriftMonitor,
    PredictionLogger,
    PredictionService,
    RetrainingOrchestrator,
    Schema,
    VersionedModelServer,
    cached_prediction,
)
from prodml.events import Event, ModelPromoted, PredictionServed, ShadowScored, Stream
from prodml.registry import PickleSerializer
from prodml.retraining import BetterOnSameRows, DataGrowth, Evaluation, Novelty
from prodml.rollout import ErrorRate, PairedLoss, Rollout
from prodml.validation import AnswerCheck

START = 31
TICK = 30

# Seconds in which a batch of requests must be answered, well or less well.
DEADLINE = 5.0
"""Simulated minutes between two batches of requests."""
PROPOSED, FORCED = 349, 350
"""16 and 17 December: a model of November alone is proposed, and then forced through.  In the
first week of December it is no worse than the champion, and neither gate nor shadow would
stop it; over the month it is worse on four days of five."""
NOVEMBER = (304, 334)


@dataclass
class Trace:
    """What the report needs of every flight, by its place in the year."""

    probability: Floats
    estimate: Floats
    version: Ints
    source: list[str | None]
    degraded: Ints

    @classmethod
    def empty(cls, flights: int) -> "Trace":
        nan = np.full(flights, np.nan)
        none = np.full(flights, -1, dtype=np.int64)
        return cls(nan, nan.copy(), none, [None] * flights, none.copy())


@dataclass
class Week:
    """What the weekly look found."""

    day: int
    metrics: dict[str, float]
    decision: str
    naive: int
    drifted: tuple[str, ...]
    beyond_january: float


class Operation:
    """One run of the year.

    ``days`` are the days to serve, in order; days left out pass without requests, but their
    flights take off and land.
    """

    def __init__(self, year: Year, folder: Path) -> None:
        self.year = year
        self.table = year.matrix()
        self.folder = folder
        self.clock = SimulatedClock()
        self.events = Stream()
        self.facts: list[Event] = []
        self.trace = Trace.empty(len(year))
        self.weeks: list[Week] = []
        self.months: dict[int, Any] = {}
        self.refused: Counter[str] = Counter()
        self.computed, self.computing = 0, 0.0
        self.slowest = 0.0
        self.events.subscribe(Event, self._hear)
        self._build_inputs()
        self._build_models()
        self._build_decisions()

    # -- building -----------------------------------------------------------------------

    def _build_inputs(self) -> None:
        self.clock.set(midnight(START))
        self.cache = PredictionCache(namespace="flights", ttl=None, clock=self.clock)
        self.weather = WeatherFeed(self.year, self.cache, self.clock)
        self.departures = Departures(self.clock)
        self.features, self.weather_breaker = feature_service(
            self.year, self.weather, self.departures, self.clock, self.events
        )
        january = self.known(midnight(START))
        self.schema = Schema.infer([self.request(f) for f in january[::5]], on={"range": "warn"})
        self.log = PredictionLogger(self.folder / "log", clock=self.clock, events=self.events)

    def _build_models(self) -> None:
        train = self.known(midnight(START - 7))
        test = np.setdiff1d(self.known(midnight(START)), train)
        self.prices = price(self.year, self.table, train, test)
        everything = self.known(midnight(START))
        rows, late = self.table[everything], self.year.late[everything]
        self.ladder = Ladder.fit(rows, late)
        champion = FlightModel.fit(rows, late)
        self.january = _support(rows)
        self.support = {"1": self.january}
        self.trained_on = {"1": len(everything)}
        self.registry = ModelRegistry(
            self.folder / "registry",
            serializers=(PickleSerializer(trusted=True),),
            clock=self.clock,
            events=self.events,
        )
        ref = self.registry.register("late", champion, {"flights": len(everything)})
        self.registry.alias("late", "champion", ref.version)
        self.server = VersionedModelServer(
            name="late", shadow="inline", clock=self.clock, events=self.events
        )
        self.server.load_model(ref.version, champion)
        self.server.set_default_version(ref.version, reason="January release")
        rungs = [self.ladder.rung(name) for name in order(self.prices)]
        self.service = PredictionService(
            self.server,
            schema=self.schema,
            features=self.features,
            # No cache here: with live weather and delays hardly two requests are alike.
            accept=AnswerCheck(minimum=0.0, maximum=1.0),
            breaker=lambda version: CircuitBreaker(f"model-{version}", clock=self.clock),
            fallback=FallbackChain(*rungs, name="ladder", clock=self.clock),
            deadline=DEADLINE,
            logger=self.log,
            name="late",
            clock=self.clock,
            events=self.events,
        )
        self.estimate = cached_prediction(
            self.cache, version=lambda: self.server.default_version, batch=True, function="estimate"
        )(self._estimate)
        # Flights of one day share its weather, so evidence is counted in days.  Seasons always
        # move; what matters is a fifth of the rows or more.
        self.drift = DriftDetector(
            rows,
            list(FEATURES),
            categorical=CATEGORICAL,
            min_effect=0.2,
            blocks=self.year.local_day[everything],
            clock=self.clock,
        )
        # What one would see who took each flight for an observation of its own.
        self.by_rows = DriftDetector(
            rows, list(FEATURES), categorical=CATEGORICAL, clock=self.clock, events=Stream()
        )
        self.monitor = PredictionDriftMonitor(
            window_size=5000, clock=self.clock, events=self.events
        )
        self.monitor.set_baseline(champion.score(rows))

    def _build_decisions(self) -> None:
        self.orchestrator = RetrainingOrchestrator(
            "late",
            train=self._train,
            triggers=(DataGrowth(factor=1.5), Novelty(above=0.3)),
            gates=(BetterOnSameRows("brier"),),
            registry=self.registry,
            champion=lambda: self.registry.load("late", "champion"),
            evaluation=self._evaluation,
            on_challenger=self._challenge,
            clock=self.clock,
            events=self.events,
        )
        self.orchestrator.note_training({"labels": float(self.trained_on["1"])})
        self.lifecycle = Lifecycle(
            self.server,
            "late",
            orchestrator=self.orchestrator,
            registry=self.registry,
            rollout=self._rollout,
            cache=self.cache,
            clock=self.clock,
            events=self.events,
        )
        self.lifecycle.subscribe()

    # -- the world ----------------------------------------------------------------------

    def known(self, minute: float, since: float = -np.inf) -> Ints:
        """Flights whose label has arrived."""
        arrived = np.where(np.isnan(self.year.late), np.inf, self.year.landed)
        return np.flatnonzero((arrived <= minute) & (self.year.sched >= since))

    def request(self, flight: int) -> dict[str, Any]:
        """What the caller knows one hour before schedule."""
        year, f = self.year, self.year.features
        row: dict[str, Any] = {name: int(f[name][flight]) for name in SCHEDULE}
        row["tail"] = int(year.tail[flight])
        row["sched"] = int(year.sched[flight])
        row["hour"] = int(year.asked[flight] // 60)
        return row

    def run(self, days: Sequence[int]) -> Iterator[int]:
        """Serve ``days``, yielding each when it is over."""
        asked, labels = Queue(self.year.asked), label_queue(self.year)
        left = Queue(np.where(np.isnan(self.year.dep_delay), np.inf, self.year.departed))
        labels.skip(midnight(days[0]))
        for day in days:
            began = midnight(day)
            asked.skip(began)
            self.clock.set(began)
            self._start_of_day(day)
            for minute in range(began + TICK, began + DAY + 1, TICK):
                self.clock.set(minute)
                for flight in left.due(minute):
                    self._departed(flight)
                self._landed(labels.due(minute))
                self._serve(asked.due(minute))
            self.lifecycle.tick()
            yield day
        self.log.close()

    def _departed(self, flight: int) -> None:
        year = self.year
        self.departures.left(
            int(year.origin[flight]), float(year.dep_delay[flight]), float(year.departed[flight])
        )

    def _landed(self, flights: list[int]) -> None:
        for flight in flights:
            label = int(self.year.late[flight])
            request_id = f"flight-{flight}"
            if self.trace.source[flight] is not None:
                self.log.truth(request_id, label, self.clock.time())
            self.lifecycle.truth(request_id, label)
        if flights:
            self.lifecycle.tick()

    def _serve(self, flights: list[int]) -> None:
        if not flights:
            return
        rows = [self.request(flight) for flight in flights]
        ids = [f"flight-{flight}" for flight in flights]
        estimates = self.estimate([{name: row[name] for name in SCHEDULE} for row in rows])
        began = self.clock.monotonic()
        answers = self.service.predict_batch(rows, ids, keys=ids)
        self.slowest = max(self.slowest, self.clock.monotonic() - began)
        trace = self.trace
        for flight, estimate, answer in zip(flights, estimates, answers, strict=True):
            trace.estimate[flight] = estimate
            trace.source[flight] = answer.source
            trace.degraded[flight] = answer.degraded
            if answer.source == "failed":
                self.refused[str(answer.errors[-1])] += 1
                continue
            trace.probability[flight] = answer.value
            trace.version[flight] = int(answer.version or 0)
            self.monitor.add_prediction(answer.value)

    def _estimate(self, rows: Sequence[dict[str, Any]]) -> Any:
        """What a traveller is told at booking, when plane and weather are not known yet."""
        plane = dict.fromkeys(PLANE, UNKNOWN)
        began = time.perf_counter()
        told = self.ladder.models["model without live features"].predict_batch(
            [{**row, **plane} for row in rows]
        )
        self.computed += len(rows)
        self.computing += time.perf_counter() - began
        return told

    # -- the people ---------------------------------------------------------------------

    def _start_of_day(self, day: int) -> None:
        if (day - START) % 7 == 0 and day > START:
            self._look(day)
        if day in {PROPOSED, FORCED}:
            self.orchestrator.request(
                by="analyst",
                reason="November looks most like December",
                skip_gates=day == FORCED,
                parameters={"since": midnight(NOVEMBER[0]), "until": midnight(NOVEMBER[1])},
            )
        self.monitor.check_drift(threshold=0.5)

    def _look(self, day: int) -> None:
        """The weekly look: drift, novelty, labels; then the triggers."""
        last = np.flatnonzero((self.year.local_day >= day - 7) & (self.year.local_day < day))
        week = self.table[last]
        report = self.drift.detect_drift(week)
        naive = sum(f.p_value < 0.05 for f in self.by_rows.detect_drift(week).values())
        champion = self.server.default_version or "1"
        metrics = {
            "labels": float(len(self.known(midnight(day)))),
            "novelty": _outside(week, self.support[champion]),
            "drift_score": float(report.score),
        }
        self.lifecycle.observe(**metrics)
        busy = self.lifecycle.current is not None and not self.lifecycle.current.done
        decision = None if busy else self.lifecycle.check()
        told = "rollout under way" if busy else str(decision)
        beyond = _outside(week, self.january)
        self.weeks.append(Week(day, metrics, told, naive, report.drifted, beyond))

    def _train(self, context: Any) -> FlightModel:
        """Train up to a week ago: the week since is for the gate, and both see the same rows."""
        until = float(context.parameters.get("until", self.clock.minute - 7 * DAY))
        rows = self.known(until, float(context.parameters.get("since", -np.inf)))
        self._trained_rows = rows
        return FlightModel.fit(self.table[rows], self.year.late[rows])

    def _evaluation(self) -> Evaluation:
        rows = self.known(self.clock.minute, self.clock.minute - 7 * DAY)
        # The model answers only with weather; without it the ladder does.
        rows = rows[~np.isnan(self.table[rows, FEATURES.index("temp")])]
        told = [dict(zip(FEATURES, row, strict=True)) for row in self.table[rows].tolist()]
        return Evaluation(told, self.year.late[rows].tolist(), self.year.local_day[rows].tolist())

    def _challenge(self, ref: Any, model: Any, job: Any) -> None:
        self.support[ref.version] = _support(self.table[self._trained_rows])
        self.trained_on[ref.version] = len(self._trained_rows)
        self.lifecycle.challenge(ref, model, job)

    def _rollout(self, version: str, stable: str) -> Rollout:
        # Good models differ from day to day by a few thousandths of Brier; see the page on
        # rollouts for what that does to a tolerance of zero.
        guards = (PairedLoss(tolerance=0.004, enough=600), ErrorRate(enough=50))
        return Rollout(
            version,
            stable,
            steps=(0.1, 0.5),
            step_seconds=6 * 3600.0,
            guards=guards,
            clock=self.clock,
            events=self.events,
        )

    def _hear(self, fact: Event) -> None:
        # The two frequent facts go to the log and the lifecycle, not into the story.
        if not isinstance(fact, PredictionServed | ShadowScored):
            self.facts.append(fact)
        if isinstance(fact, ModelPromoted):
            rows = self.known(self.clock.minute)
            self.ladder.models = Ladder.fit(self.table[rows], self.year.late[rows]).models


def _support(rows: Floats) -> tuple[Floats, Floats]:
    weather = rows[:, [FEATURES.index(name) for name in WEATHER]]
    return np.nanmin(weather, axis=0), np.nanmax(weather, axis=0)


def _outside(rows: Floats, support: tuple[Floats, Floats]) -> float:
    """Share of rows with any weather outside what the model was trained on."""
    weather = rows[:, [FEATURES.index(name) for name in WEATHER]]
    low, high = support
    return float(((weather < low) | (weather > high)).any(axis=1).mean())
