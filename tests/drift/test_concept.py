"""Late labels joined by id: nothing is lost, counted twice or kept for ever."""

import math
import threading

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from prodml import _settings
from prodml.drift import DDM, ConceptCounts, ConceptDriftMonitor, PageHinkley, RankCUSUM
from prodml.errors import BadConfiguration
from prodml.events import DriftDetected, Event, PerformanceDropped, PredictionServed, Stream
from prodml.testing import ManualClock
from prodml.types import Prediction


class Listener(RankCUSUM):
    """A detector that remembers what it heard."""

    heard: list

    def update(self, value):
        self.heard.append(value)
        return False


def listener():
    detector = Listener()
    detector.heard = []
    return detector


def monitor_of(**given):
    heard = listener()
    given = {"clock": ManualClock(), "events": Stream(), "detectors": (heard,)} | given
    return ConceptDriftMonitor(**given), heard.heard


def counted(monitor):
    return {name: count for name, count in monitor.counts().to_dict().items() if count}


def test_a_label_meets_its_prediction():
    monitor, heard = monitor_of()
    monitor.predicted("a", 1)
    monitor.predicted("b", 1)
    assert monitor.labelled("b", 0)
    assert monitor.labelled("a", 1)
    assert heard == [1.0, 0.0]
    assert counted(monitor) == {"joined": 2}


def test_errors_are_heard_in_the_order_of_predictions_if_asked():
    monitor, heard = monitor_of(order="prediction", error=lambda p, y: abs(p - y))
    for i, name in enumerate("abcd"):
        monitor.predicted(name, i)
    monitor.labelled("c", 0)
    monitor.labelled("b", 0)
    assert heard == []
    monitor.labelled("a", 0)
    assert heard == [0.0, 1.0, 2.0]
    assert counted(monitor) == {"joined": 3, "waiting": 1}


def test_a_missing_label_holds_the_others_up_for_its_age_only():
    clock = ManualClock()
    monitor, heard = monitor_of(order="prediction", max_age=60.0, clock=clock)
    monitor.predicted("lost", 1)
    clock.advance(30.0)
    monitor.predicted("b", 1)
    monitor.labelled("b", 0)
    clock.advance(30.0)
    assert counted(monitor) == {"joined": 1, "waiting": 2}
    clock.advance(0.1)
    assert counted(monitor) == {"joined": 1, "expired": 1}
    assert heard == [1.0]
    assert not monitor.labelled("lost", 1)
    assert counted(monitor)["late"] == 1


def test_a_label_may_come_first():
    monitor, heard = monitor_of()
    assert not monitor.labelled("a", 0)
    assert counted(monitor) == {"early": 1}
    monitor.predicted("a", 1)
    assert (heard, counted(monitor)) == ([1.0], {"joined": 1})


def test_labels_of_unknown_predictions_are_given_up():
    clock = ManualClock()
    monitor, _ = monitor_of(max_age=10.0, clock=clock)
    monitor.labelled("nobody", 1)
    clock.advance(11.0)
    assert counted(monitor) == {"unmatched": 1}


def test_duplicates_are_counted_and_not_heard():
    monitor, heard = monitor_of()
    monitor.predicted("a", 1)
    monitor.predicted("a", 0)
    monitor.labelled("a", 1)
    monitor.labelled("a", 0)
    monitor.predicted("a", 0)
    monitor.labelled("b", 1)
    monitor.labelled("b", 0)
    assert heard == [0.0]
    assert counted(monitor) == {"joined": 1, "early": 1, "duplicate": 4}


def test_memory_is_bounded():
    monitor, _ = monitor_of(max_pending=100)
    for i in range(1000):
        monitor.predicted(f"p{i}", 1)
        monitor.labelled(f"unknown{i}", 1)
    found = monitor.counts()
    assert (found.waiting, found.evicted, found.early, found.unmatched) == (100, 900, 100, 900)
    assert not monitor.labelled("p899", 1)
    assert monitor.counts().late == 1
    assert len(monitor._settled) == 100


@pytest.mark.parametrize("bad", [math.nan, math.inf, None, "worse"])
def test_a_pair_that_cannot_be_judged_is_counted(bad):
    monitor, heard = monitor_of(error=lambda _, label: bad if label else label)
    for name, label in (("a", 1), ("b", 0)):
        monitor.predicted(name, 1)
        assert monitor.labelled(name, label)
    assert heard == [0.0]
    assert counted(monitor) == {"joined": 2, "invalid": 1}


def test_an_error_function_that_raises_breaks_nothing():
    monitor, heard = monitor_of(error=lambda _, __: 1 / 0, order="prediction")
    monitor.predicted("a", 1)
    assert monitor.labelled("a", 1)
    assert (heard, counted(monitor)) == ([], {"joined": 1, "invalid": 1})


def run(monitor, errors, first=0):
    for i, error in enumerate(errors, first):
        monitor.predicted(f"r{i}", 0)
        monitor.labelled(f"r{i}", error)


def heard_of(**given):
    stream, facts = Stream(), []
    stream.subscribe(Event, facts.append)
    clock = ManualClock()
    return ConceptDriftMonitor(events=stream, clock=clock, name="loan", **given), facts, clock


def test_worse_is_a_drop_of_accuracy_stated_once():
    monitor, facts, clock = heard_of(detectors=(RankCUSUM(), DDM(), PageHinkley()))
    rng = np.random.default_rng(0)
    run(monitor, [int(x) for x in rng.random(1000) < 0.1])
    assert facts == []
    run(monitor, [int(x) for x in rng.random(400) < 0.5], first=1000)
    assert [type(fact) for fact in facts] == [PerformanceDropped]
    (fact,) = facts
    assert (fact.source, fact.metric, fact.at) == ("loan", "accuracy", clock.time())
    assert fact.reference == pytest.approx(0.9, abs=0.03)
    assert fact.current < 0.85


def test_better_is_a_drift_of_the_concept():
    monitor, facts, _ = heard_of(error=lambda p, y: abs(p - y))
    rng = np.random.default_rng(1)
    run(monitor, rng.normal(2, 0.3, 600).tolist())
    run(monitor, rng.normal(1, 0.3, 100).tolist(), first=600)
    assert [type(fact) for fact in facts] == [DriftDetected]
    assert "fell from 1.988" in facts[0].reason
    assert facts[0].effects["error"] > 0


def test_a_larger_error_is_a_drop_in_its_own_words():
    monitor, facts, _ = heard_of(error=lambda p, y: abs(p - y))
    rng = np.random.default_rng(2)
    run(monitor, rng.normal(1, 0.3, 600).tolist())
    run(monitor, rng.normal(2, 0.3, 100).tolist(), first=600)
    assert [(fact.metric, fact.reference < fact.current) for fact in facts] == [("error", True)]


def test_drift_and_warning_are_those_of_the_last_error():
    monitor, _, _ = heard_of(detectors=(DDM(),))
    verdicts = set()
    for i in range(900):
        monitor.predicted(f"r{i}", 0)
        monitor.labelled(f"r{i}", 1 if i > 600 or i % 10 == 0 else 0)
        verdicts.add((monitor.warning, monitor.drift_detected))
    assert verdicts == {(False, False), (True, False), (False, True)}


def test_a_listener_may_ask_the_monitor():
    monitor, facts, _ = heard_of()
    monitor.events.subscribe(PerformanceDropped, lambda _: facts.append(monitor.counts().joined))
    run(monitor, [0] * 300 + [1] * 50)
    assert facts[1] > 300


def test_served_predictions_are_heard():
    monitor, heard = monitor_of()
    monitor.observe(
        PredictionServed(at=0.0, source="api", prediction=Prediction(0.5, "r1"), features={})
    )
    assert monitor.labelled("r1", 0.4)
    assert heard == [1.0]


@pytest.mark.parametrize(
    "given",
    [{"order": "time"}, {"max_age": 0.0}, {"max_age": math.inf}, {"max_pending": 0}],
)
def test_settings_that_make_no_sense_are_refused_by_name(given):
    with pytest.raises(BadConfiguration, match=next(iter(given))):
        ConceptDriftMonitor(**given)


def test_detectors_must_be_detectors():
    with pytest.raises(BadConfiguration, match="detectors"):
        ConceptDriftMonitor(detectors=(print,))


@pytest.mark.parametrize("order", ["label", "prediction"])
def test_threads_lose_no_label(order):
    monitor, heard = monitor_of(order=order)
    start = threading.Barrier(4)

    def predict(part):
        start.wait()
        for i in range(1000):
            monitor.predicted(f"{part}-{i}", i)

    def label(part):
        start.wait()
        for i in range(1000):
            monitor.labelled(f"{part}-{i}", i)

    threads = [threading.Thread(target=f, args=(p,)) for f in (predict, label) for p in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counted(monitor) == {"joined": 2000}
    assert heard == [0.0] * 2000


class Joining(RuleBasedStateMachine):
    """Against lists that are searched from the front."""

    ids = st.sampled_from("abcdefgh")

    def __init__(self):
        super().__init__()
        self.clock = ManualClock()
        self.monitor, self.heard = monitor_of(
            order="prediction", error=lambda p, y: p + y, max_age=10.0, clock=self.clock
        )
        self.told, self.expected, self.pending, self.early = 0, [], {}, {}
        self.joined, self.lost = set(), set()

    def age(self):
        for name, (_, since, _) in [*self.pending.items()]:
            if self.clock.monotonic() - since > 10.0:
                self.settle(name)
        for name, (_, since) in [*self.early.items()]:
            if self.clock.monotonic() - since > 10.0:
                del self.early[name]
        self.head()

    def head(self):
        while self.pending and next(iter(self.pending.values()))[2] is not None:
            self.settle(next(iter(self.pending)))

    def settle(self, name):
        prediction, _, label = self.pending.pop(name)
        (self.lost if label is None else self.joined).add(name)
        if label is not None:
            self.expected.append(prediction + label)

    @rule(name=ids)
    def predict(self, name):
        self.age()
        self.told += 1
        self.monitor.predicted(name, self.told)
        if name not in self.pending and name not in self.joined | self.lost:
            label = self.early.pop(name, (None,))[0]
            self.pending[name] = (self.told, self.clock.monotonic(), label)
            self.head()

    @rule(name=ids)
    def label(self, name):
        self.age()
        self.told += 1
        joined = name in self.pending and self.pending[name][2] is None
        assert self.monitor.labelled(name, self.told) == joined
        if joined:
            self.pending[name] = (*self.pending[name][:2], self.told)
            self.head()
        elif name not in {*self.pending, *self.early} | self.joined | self.lost:
            self.early[name] = (self.told, self.clock.monotonic())

    @rule(seconds=st.sampled_from([1.0, 6.0, 11.0]))
    def wait(self, seconds):
        self.clock.advance(seconds)

    @invariant()
    def agrees(self):
        self.age()
        found = self.monitor.counts()
        assert self.heard == self.expected
        assert (found.waiting, found.early) == (len(self.pending), len(self.early))
        assert found.expired == len(self.lost)


TestJoining = Joining.TestCase
TestJoining.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


@pytest.mark.parametrize("wrong", [1.0, 0.6])
def test_a_detector_that_was_fitted_knows_which_way_the_first_errors_went(wrong):
    for seed in range(10):
        heard, detector = [], RankCUSUM()
        detector.fit([0.0] * 180 + [1.0] * 20)
        events = Stream()
        events.subscribe(PerformanceDropped, heard.append)
        events.subscribe(DriftDetected, heard.append)
        monitor = ConceptDriftMonitor(detectors=[detector], events=events)
        rng = np.random.default_rng(seed)
        for i in range(60):
            monitor.predicted(f"r{i}", 1)
            monitor.labelled(f"r{i}", 0 if rng.random() < wrong else 1)
        assert isinstance(heard[0], PerformanceDropped)
        assert heard[0].current <= 0.7


@pytest.mark.parametrize("label", [None, math.nan, pd.NA, pd.NaT])
def test_a_label_that_is_missing_is_no_error_of_the_model(label):
    monitor, heard = monitor_of()
    monitor.predicted("a", 1)
    assert monitor.labelled("a", label)
    assert (heard, counted(monitor)) == ([], {"joined": 1, "invalid": 1})
    monitor.predicted("b", None)
    monitor.labelled("b", 1)
    assert heard == [1.0]


def test_an_answer_of_one_number_meets_its_label():
    monitor, heard = monitor_of()
    for name, label in (("a", 1), ("b", 0)):
        monitor.predicted(name, np.array([1]))
        monitor.labelled(name, label)
    assert heard == [0.0, 1.0]


def test_the_order_is_fixed():
    with pytest.raises(BadConfiguration, match="order cannot change"):
        _settings.retune(ConceptDriftMonitor(events=Stream()), order="prediction")


@pytest.mark.parametrize("order", ["label", "prediction"])
@given(
    st.lists(
        st.tuples(st.sampled_from(["predicted", "labelled", "wait"]), st.integers(0, 11)),
        max_size=80,
    )
)
def test_every_prediction_and_every_label_is_in_one_count(order, steps):
    clock = ManualClock()
    monitor, _ = monitor_of(order=order, max_pending=3, max_age=10.0, clock=clock)
    told = 0
    for what, which in steps:
        if what == "wait":
            clock.advance(float(which))
            continue
        getattr(monitor, what)(f"r{which}", 1)
        told += 1
        found = monitor.counts()
        assert isinstance(found, ConceptCounts)
        waiting = sum(pending.error is None for pending in monitor._pending.values())
        labels = found.joined + found.late + found.early + found.unmatched
        predictions = found.joined + waiting + found.expired + found.evicted
        assert labels + predictions + found.duplicate == told
        assert max(found.waiting, found.early, len(monitor._settled)) <= 3
