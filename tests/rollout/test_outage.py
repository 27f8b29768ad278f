"""A store that fails, and processes that move the same rollout."""

import contextlib
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prodml.errors import CorruptRecord, StoreUnavailable
from prodml.events import RolloutStarted, Stream
from prodml.rollout import (
    PairedLoss,
    RollBack,
    Rollout,
    RolloutPhase,
    SetCanary,
    StartShadow,
    Verdict,
)
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
    rollout.tick()
    rollout.tick()  # says that the commands were carried out
    quiet = store.commits
    for _ in range(20):
        rollout.tick()
    assert store.commits == quiet
    rollout.observe_pairs(GOOD[:1])
    rollout.tick()
    assert store.commits == quiet + 2, "it joins the workers and hands its row in"
    rollout.observe_pairs(GOOD[:1])
    rollout.tick()
    assert store.commits == quiet + 3


def test_harm_that_a_tick_found_stays_found_though_the_store_was_away():
    store = Failing()
    rollout = make(store)
    rollout.tick()
    rollout.observe_pairs(BAD)
    rollout.flush()
    commit = store.commit
    store.commit = lambda *given, **more: (_ for _ in ()).throw(StoreUnavailable("x", "y"))
    with pytest.raises(StoreUnavailable):
        rollout.tick()
    store.commit = commit
    rollout.observe_pairs([(0.0, 1.0)] * 5000)
    assert rollout.findings()["paired loss"].verdict is Verdict.FINE
    assert [type(command) for command in rollout.tick()] == [RollBack]


def test_commands_whose_write_arrived_without_an_answer_are_still_handed_out():
    store = Failing()
    rollout = make(store)
    commit = store.commit

    def lost(*given, **more):
        commit(*given, **more)
        raise StoreUnavailable("redis", "no answer in time")

    store.commit = lost
    with pytest.raises(StoreUnavailable):
        rollout.tick()
    store.commit = commit
    assert rollout.tick() == [StartShadow("v2")]
    assert rollout.tick() == []


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


@settings(max_examples=80, deadline=None)
@given(st.lists(st.sampled_from(["tick a", "tick b", "flush a", "lose a"]), max_size=20))
def test_whoever_observes_and_ticks_every_pair_counts_once(story):
    store, clock = Failing(), ManualClock()
    guards = [PairedLoss(enough=1000)]
    workers = {name: make(store, clock, guards=guards) for name in "ab"}
    saw, safe = {"a": 0, "b": 0}, {"a": 0, "b": 0}
    commit = store.commit

    def lost(*given, **more):
        # The write arrives, its answer does not.
        commit(*given, **more)
        raise StoreUnavailable("redis", "no answer in time")

    for word in [*story, "tick a", "tick b"]:
        verb, name = word.split()
        workers[name].observe_pairs(GOOD[:2])
        saw[name] += 2
        store.commit = lost if verb == "lose" else commit
        with contextlib.suppress(StoreUnavailable):
            getattr(workers[name], "flush" if verb == "lose" else verb)()
            safe[name] = saw[name]
        store.commit = commit
        kept = make(store, clock, guards=guards).findings()["paired loss"].numbers["in_all"]
        # What was lost may have arrived, and what was said to have arrived has.
        assert sum(safe.values()) <= kept <= sum(saw.values())
    assert safe == saw


def meeting(store, *, key, then):
    """Let ``then`` happen just before the first write of ``key``."""
    commit, met = store.commit, []

    def meets(wanted, *given, **more):
        if wanted == key and not met:
            met.append(True)
            then()
        return commit(wanted, *given, **more)

    store.commit = meets
    return met


def test_of_two_that_tick_at_the_same_time_one_moves_it_and_the_other_is_told_nothing():
    store, clock = MemoryStore(), ManualClock()
    mine, other = make(store, clock), make(store, clock)
    told = []
    met = meeting(store, key="rollout/v2-over-v1", then=lambda: told.extend(other.tick()))
    assert mine.tick() == []
    assert (met, told) == ([True], [StartShadow("v2")])
    assert mine.phase is RolloutPhase.SHADOW
    assert mine.tick() == []
    assert [fact["fact"] for fact in mine.to_dict()["facts"]] == ["Began"]


def test_a_roll_back_that_meets_another_write_comes_with_the_next_tick():
    store, clock = MemoryStore(), ManualClock()
    mine, other = make(store, clock), make(store, clock)
    mine.tick()
    mine.observe_pairs(BAD)
    meeting(store, key="rollout/v2-over-v1", then=lambda: other.freeze("look"))
    assert mine.tick() == []
    assert [type(command) for command in mine.tick()] == [RollBack]


def test_two_workers_that_join_at_the_same_time_are_both_counted():
    store, clock = MemoryStore(), ManualClock()
    guards = [PairedLoss(enough=1000)]
    mine, other = (make(store, clock, guards=guards) for _ in range(2))
    for worker in (mine, other):
        worker.observe_pairs(GOOD)
    meeting(store, key="rollout/v2-over-v1/workers", then=other.flush)
    mine.flush()
    assert mine.findings()["paired loss"].numbers["in_all"] == 20
    assert other.findings()["paired loss"].numbers["in_all"] == 20


def test_what_was_seen_before_a_step_was_known_does_not_count_for_the_step():
    store, clock = MemoryStore(), ManualClock()
    mine, other = make(store, clock), make(store, clock)
    mine.tick()
    mine.observe_pairs(GOOD)
    mine.flush()
    assert other.tick() == [SetCanary("v2", 0.1)]
    mine.observe_pairs(GOOD[:9])
    assert (mine.tick(), mine.phase) == ([], RolloutPhase.CANARY)
    mine.observe_pairs(GOOD[:9])
    assert mine.tick() == []
    numbers = mine.findings()["paired loss"].numbers
    assert (numbers["n"], numbers["in_all"]) == (9, 28)


def test_commands_of_a_phase_that_is_over_are_not_repeated():
    store, clock = MemoryStore(), ManualClock()
    first = make(store, clock)
    first.tick()
    late = make(store, clock)
    first.abort("stop")
    assert late.tick() == [RollBack("v2", "stop")]
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


def test_observing_waits_for_no_store():
    reading, go_on = threading.Event(), threading.Event()

    class Slow(MemoryStore):
        slow = False

        def read(self, key):
            if self.slow:
                reading.set()
                assert go_on.wait(10)
            return super().read(key)

    store = Slow()
    rollout = make(store)
    rollout.tick()
    store.slow = True
    ticker = threading.Thread(target=rollout.tick)
    ticker.start()
    assert reading.wait(10)
    rollout.observe_pairs(GOOD)
    rollout.observe_outcome("canary", ok=True)
    go_on.set()
    ticker.join(10)
    assert not ticker.is_alive()


@pytest.mark.parametrize("value", [b"", b"[]", b"{}", b"\xff", b'{"format": 1}', b'{"format": 2}'])
def test_a_record_that_is_none_is_said_to_be_corrupt(value):
    store = MemoryStore()
    store.commit("rollout/v2-over-v1", value, 0)
    with pytest.raises(CorruptRecord, match="rollout/v2-over-v1"):
        make(store)


@pytest.mark.parametrize("key", ["workers", "seen/x"])
def test_a_row_that_is_none_holds_the_rollout_and_no_operator(key):
    store = MemoryStore()
    rollout = make(store)
    rollout.tick()
    store.commit("rollout/v2-over-v1/workers", b'["x"]' if key != "workers" else b"{", 0)
    store.commit("rollout/v2-over-v1/seen/x", b"{", 0)
    with pytest.raises(CorruptRecord, match=key):
        rollout.tick()
    assert rollout.phase is RolloutPhase.SHADOW
    rollout.abort("corrupt")
    assert rollout.tick() == [RollBack("v2", "corrupt")]
