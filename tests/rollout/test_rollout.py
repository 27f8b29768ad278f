import threading
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from prodml.errors import BadConfiguration
from prodml.events import ModelPromoted, RolloutStarted, RolloutStepped, Stream
from prodml.rollout import (
    ROLLOUT,
    ErrorRate,
    PairedLoss,
    Promote,
    RollBack,
    Rollout,
    RolloutPhase,
    RolloutState,
    SetCanary,
    StartShadow,
    StopShadow,
)
from prodml.rollout.machine import Aborted, Began, FoundFine, FoundWorse, Froze, Thawed
from prodml.stores import MemoryStore
from prodml.testing import ManualClock, Recorder

GOOD, BAD = [(0.1, 0.1)] * 10, [(1.0, 0.0)] * 60


def make(clock=None, **changes):
    given = {
        "steps": (0.1, 0.5),
        "step_seconds": 60.0,
        "guards": [PairedLoss(enough=10)],
        "clock": clock or ManualClock(),
        "events": Stream(),
    }
    return Rollout("v2", "v1", **given | changes)


def walk(rollout, clock):
    """Feed good pairs until it is promoted; the commands on the way."""
    told = rollout.tick()
    while not rollout.done:
        rollout.observe_pairs(GOOD)
        clock.advance(61)
        told += rollout.tick()
    return told


def test_a_good_version_walks_all_the_way():
    clock = ManualClock()
    assert walk(make(clock), clock) == [
        StartShadow("v2"),
        SetCanary("v2", 0.1),
        SetCanary("v2", 0.5),
        StopShadow("v2"),
        Promote("v2"),
    ]


def test_without_data_nothing_moves_however_long_one_waits():
    clock = ManualClock()
    rollout = make(clock)
    rollout.tick()
    for _ in range(10):
        clock.advance(86400)
        assert rollout.tick() == []
    assert rollout.phase is RolloutPhase.SHADOW


def test_a_step_lasts_its_time_however_many_pairs_there_are():
    clock = ManualClock()
    rollout = make(clock)
    rollout.tick()
    rollout.observe_pairs(GOOD * 10)
    assert rollout.tick() == []
    clock.advance(60)
    assert rollout.tick() == [SetCanary("v2", 0.1)]


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_harm_rolls_back_from_every_stage_at_once(stage):
    clock = ManualClock()
    rollout = make(clock)
    rollout.tick()
    for _ in range(stage):
        rollout.observe_pairs(GOOD)
        clock.advance(61)
        rollout.tick()
    rollout.observe_pairs(BAD)
    [command] = rollout.tick()
    assert isinstance(command, RollBack)
    assert "paired loss" in command.reason
    assert rollout.tick() == []
    assert rollout.share == 0.0


def test_errors_of_the_canary_roll_back_too():
    rollout = make(shadow=False, guards=[ErrorRate(enough=100)])
    assert rollout.tick() == [SetCanary("v2", 0.1)]
    for _ in range(40):
        rollout.observe_outcome("stable", ok=True)
        rollout.observe_outcome("canary", ok=False)
    assert isinstance(rollout.tick()[0], RollBack)


def test_a_guard_that_heard_nothing_does_not_hold_up_the_others():
    clock = ManualClock()
    rollout = make(clock, guards=[PairedLoss(enough=10), ErrorRate()])
    assert isinstance(walk(rollout, clock)[-1], Promote)


def test_frozen_holds_until_told_otherwise_and_still_sees_harm():
    clock = ManualClock()
    rollout = make(clock)
    rollout.tick()
    rollout.freeze("black friday")
    rollout.observe_pairs(GOOD)
    clock.advance(1000)
    assert (rollout.tick(), rollout.phase) == ([], RolloutPhase.FROZEN)
    rollout.unfreeze()
    assert rollout.tick() == [StartShadow("v2")]
    rollout.freeze("again")
    rollout.observe_pairs(BAD)
    assert isinstance(rollout.tick()[0], RollBack)


def test_an_abort_is_told_by_the_next_tick_and_only_once():
    rollout = make()
    rollout.tick()
    rollout.abort("superseded by v3")
    assert rollout.tick() == [RollBack("v2", "superseded by v3")]
    assert rollout.tick() == []


def test_facts_tell_the_story():
    clock, stream = ManualClock(), Stream()
    recorder = Recorder(stream)
    walk(make(clock, events=stream), clock)
    assert recorder.names == [
        "RolloutStarted",
        "RolloutStepped",
        "RolloutStepped",
        "RolloutStepped",
        "ModelPromoted",
    ]
    assert recorder.of(RolloutStarted)[0].stable == "v1"
    assert [f.share for f in recorder.of(RolloutStepped)] == [0.0, 0.1, 0.5]
    assert recorder.of(ModelPromoted)[0].previous == "v1"


def test_a_roll_back_is_a_fact_with_its_reason():
    stream = Stream()
    recorder = Recorder(stream)
    rollout = make(events=stream)
    rollout.tick()
    rollout.abort("complaints")
    last = recorder.of(RolloutStepped)[-1]
    assert (last.phase, last.share, last.reason) == ("rolled back", 0.0, "complaints")


def test_after_a_restart_it_goes_on_with_its_evidence_and_repeats_its_commands():
    clock, store = ManualClock(), MemoryStore()
    first = make(clock, store=store)
    first.tick()
    first.observe_pairs(GOOD[:9])
    first.tick()
    again = make(clock, store=store, guards=[PairedLoss(enough=10)])
    assert again.phase is RolloutPhase.SHADOW
    clock.advance(61)
    assert again.tick() == [StartShadow("v2")]
    again.observe_pairs(GOOD[:1])
    assert again.tick() == [SetCanary("v2", 0.1)]
    assert [fact["fact"] for fact in again.to_dict()["facts"]] == ["Began", "FoundFine"]


def test_of_two_tickers_one_moves_the_rollout():
    clock, store = ManualClock(), MemoryStore()
    one, two = make(clock, store=store), make(clock, store=store)
    told = [one.tick(), two.tick()]
    assert told == [[StartShadow("v2")], []]
    assert two.phase is RolloutPhase.SHADOW
    assert len(store.rows("rollout/v2-over-v1/facts")) == 1


def test_threads_that_tick_together_move_it_once():
    clock = ManualClock()
    rollout = make(clock)
    rollout.tick()
    rollout.observe_pairs(GOOD)
    clock.advance(61)
    barrier, told = threading.Barrier(8), []

    def tick():
        barrier.wait()
        told.extend(rollout.tick())

    threads = [threading.Thread(target=tick) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert told == [SetCanary("v2", 0.1)]


def test_the_report_is_plain_data():
    rollout = make()
    rollout.tick()
    report = rollout.to_dict()
    assert (report["phase"], report["share"]) == ("shadow", 0.0)
    assert report["findings"]["paired loss"]["verdict"] == "unknown"


@pytest.mark.parametrize(
    "wrong", [{"steps": ()}, {"steps": (0.5, 0.1)}, {"steps": (0.5, 1.5)}, {"step_seconds": -1}]
)
def test_nonsense_is_refused(wrong):
    with pytest.raises(BadConfiguration, match=next(iter(wrong))):
        make(**wrong)


class Reference(RuleBasedStateMachine):
    """The table against a few lines of plain code."""

    def __init__(self):
        super().__init__()
        self.state = RolloutState(version="v2", stable="v1", steps=(0.1, 0.5))
        self.phase, self.step, self.held = "pending", 0, ""

    def feed(self, fact):
        self.state, _ = ROLLOUT.step(self.state, fact)

    @rule(at=st.floats(0, 10))
    def begin(self, at):
        self.feed(Began(at))
        if self.phase == "pending":
            self.phase = "shadow"

    @rule()
    def fine(self):
        self.feed(FoundFine(0.0, "ok"))
        if self.phase == "shadow":
            self.phase = "canary"
        elif self.phase == "canary":
            self.phase = "canary" if self.step == 0 else "promoted"
            self.step = 1

    @rule(fact=st.sampled_from([FoundWorse(0.0, "bad"), Aborted(0.0, "stop")]))
    def end(self, fact):
        self.feed(fact)
        begun = self.phase != "pending" or isinstance(fact, Aborted)
        if begun and self.phase not in {"promoted", "rolled back"}:
            self.phase = "rolled back"

    @rule()
    def freeze(self):
        self.feed(Froze(0.0, "hold"))
        if self.phase in {"shadow", "canary"}:
            self.held, self.phase = self.phase, "frozen"

    @rule()
    def thaw(self):
        self.feed(Thawed(0.0))
        if self.phase == "frozen":
            self.phase = self.held

    @invariant()
    def agree(self):
        assert self.state.phase.value == self.phase
        if self.phase == "canary":
            assert self.state.share == (0.1, 0.5)[self.step]


Reference.TestCase.settings = settings(max_examples=60, stateful_step_count=20)
TestReference = Reference.TestCase


def test_the_page_shows_the_diagram_of_the_table():
    page = (Path(__file__).parents[2] / "docs/how-to/rollout.md").read_text()
    assert ROLLOUT.diagram() in page
