"""A store that fails, and processes that move the same rollout."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prodml.errors import StoreUnavailable
from prodml.events import RolloutStarted, Stream
from prodml.rollout import PairedLoss, RollBack, Rollout, RolloutPhase, SetCanary, StartShadow
from prodml.stores import MemoryStore
from prodml.testing import ManualClock

GOOD, BAD = [(0.1, 0.1)] * 10, [(1.0, 0.0)] * 60


class Failing(MemoryStore):
    """A store that can be told to be away, and counts its commits."""

    away = False
    commits = 0

    def commit(self, *given, **more):
        if self.away:
            raise StoreUnavailable("ops.db", "disk full")
        self.commits += 1
        return super().commit(*given, **more)


def make(store, clock=None, **changes):
    given = {
        "steps": (0.1, 0.5),
        "step_seconds": 0.0,
        "guards": [PairedLoss(enough=10)],
        "clock": clock or ManualClock(),
        "events": Stream(),
    }
    return Rollout("v2", "v1", store=store, **given | changes)


def test_a_roll_back_that_the_store_refused_is_commanded_when_it_is_back():
    store = Failing()
    rollout = make(store)
    rollout.tick()
    rollout.observe_pairs(BAD)
    store.away = True
    with pytest.raises(StoreUnavailable):
        rollout.tick()
    assert rollout.phase is RolloutPhase.SHADOW
    store.away = False
    assert [type(command) for command in rollout.tick()] == [RollBack]


def test_the_first_command_survives_an_outage_too():
    store = Failing()
    rollout = make(store)
    store.away = True
    with pytest.raises(StoreUnavailable):
        rollout.tick()
    store.away = False
    assert rollout.tick() == [StartShadow("v2")]


def test_evidence_of_a_step_is_not_lost_with_a_failed_commit():
    store = Failing()
    rollout = make(store)
    rollout.tick()
    rollout.observe_pairs(GOOD)
    before, store.away = rollout.findings(), True
    with pytest.raises(StoreUnavailable):
        rollout.tick()
    assert rollout.findings() == before
    store.away = False
    assert rollout.tick() == [SetCanary("v2", 0.1)]


def test_ticks_without_news_write_nothing():
    store = Failing()
    rollout = make(store)
    for _ in range(20):
        rollout.tick()
    assert store.commits == 1
    rollout.observe_pairs(GOOD[:1])
    rollout.tick()
    assert store.commits == 2


@pytest.mark.parametrize(
    ("word", "phase"),
    [("abort", RolloutPhase.ROLLED_BACK), ("freeze", RolloutPhase.FROZEN)],
)
def test_an_operators_word_counts_whoever_wrote_last(word, phase):
    store, clock = MemoryStore(), ManualClock()
    mine, other = make(store, clock), make(store, clock)
    mine.tick()
    other.tick()
    other.observe_pairs(GOOD[:3])
    other.tick()
    getattr(mine, word)("enough")
    assert mine.phase is phase
    assert make(store, clock).phase is phase


def test_a_word_that_meets_a_commit_in_between_is_said_again():
    store, clock = MemoryStore(), ManualClock()
    mine, other = make(store, clock), make(store, clock)
    mine.tick()
    commit, met = store.commit, []

    def meets(*given, **more):
        if not met:
            met.append(True)
            other.observe_pairs(GOOD[:1])
            other.tick()
        return commit(*given, **more)

    store.commit = meets
    mine.abort("complaints")
    assert (met, mine.phase) == ([True], RolloutPhase.ROLLED_BACK)


@given(st.lists(st.sampled_from(["observe", "mine", "other"]), max_size=30))
def test_who_only_ticks_never_costs_the_observer_a_pair(story):
    store, clock = MemoryStore(), ManualClock()
    mine, other = (make(store, clock, guards=[PairedLoss(enough=1000)]) for _ in range(2))
    mine.tick()
    for word in story:
        if word == "observe":
            mine.observe_pairs(GOOD[:2])
        else:
            (mine if word == "mine" else other).tick()
    mine.tick()
    other.tick()
    [guard], [copy] = mine._guards, other._guards
    assert guard.count == copy.count == 2 * story.count("observe")


def test_an_observer_whose_rollout_was_moved_on_keeps_its_evidence_for_the_new_step():
    store, clock = MemoryStore(), ManualClock()
    mine, other = make(store, clock), make(store, clock)
    mine.tick()
    mine.observe_pairs(GOOD)
    mine._save(mine._state, ())
    assert other.tick() == [SetCanary("v2", 0.1)]
    mine.observe_pairs(GOOD[:4])
    assert (mine.tick(), mine.phase) == ([], RolloutPhase.CANARY)
    [guard] = mine._guards
    assert guard.count == 14
    assert guard.judge().verdict.value == "unknown"


def test_commands_of_a_phase_that_is_over_are_not_repeated():
    store, clock = MemoryStore(), ManualClock()
    first = make(store, clock)
    first.tick()
    late = make(store, clock)
    first.abort("stop")
    assert late.tick() == []
    assert late.phase is RolloutPhase.ROLLED_BACK


def test_a_listener_may_wait_for_a_thread_that_asks_the_rollout():
    stream, answered = Stream(), []
    rollout = make(MemoryStore(), events=stream)

    def ask(fact):
        thread = threading.Thread(target=lambda: answered.append(len(rollout.findings())))
        thread.start()
        thread.join(5)

    stream.subscribe(RolloutStarted, ask)
    rollout.tick()
    assert answered == [1]


def test_the_reason_of_overwhelming_evidence_stays_readable():
    guard = PairedLoss()
    for _ in range(500):
        guard.observe(1.0, 0.0)
    assert "over a million : 1" in guard.judge().reason
