import threading
from fractions import Fraction

import numpy as np
import pytest

from prodml.errors import BadConfiguration, CorruptRecord
from prodml.events import ModelPromoted, RolloutStarted, RolloutStepped, Stream
from prodml.rollout import (
    Disagreement,
    ErrorRate,
    Floor,
    Latency,
    Metric,
    PairedLoss,
    Promote,
    RollBack,
    Rollout,
    RolloutPhase,
    SetCanary,
    StartShadow,
    StopShadow,
)
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


ARMED = [
    ErrorRate(),
    Floor(limit=0.5),
    Latency(),
    Metric("clicks"),
    Metric("bought", compare="share"),
]


@pytest.mark.parametrize("canary", [0, 4])
@pytest.mark.parametrize("guard", ARMED, ids=lambda guard: guard.name)
def test_a_canary_that_gets_no_traffic_is_not_promoted_by_its_shadow_answers(guard, canary):
    clock, store = ManualClock(), MemoryStore()
    worker, ticker = (
        make(clock, store=store, guards=[PairedLoss(enough=10), guard]) for _ in range(2)
    )

    def hear(arm, count):
        for _ in range(count):
            worker.observe_outcome(arm, ok=arm == "stable", seconds=0.1)
            if isinstance(guard, Metric):
                worker.observe_metric(guard.name, arm, 1.0)

    ticker.tick()
    worker.flush()
    # In shadow there is one arm only, and it says nothing against going on.
    hear("stable", 300)
    worker.observe_pairs(GOOD)
    worker.flush()
    clock.advance(61)
    assert ticker.tick() == [SetCanary("v2", 0.1)]
    worker.flush()
    hear("stable", 300)
    if not isinstance(guard, Metric):
        hear("canary", canary)
    worker.observe_pairs(GOOD)
    worker.flush()
    clock.advance(61)
    assert ticker.tick() == []
    assert ticker.to_dict()["holding"].startswith(f"{guard.name}: ")


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
    assert [fact["fact"] for fact in two.to_dict()["facts"]] == ["Began"]


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


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": ()},
        {"steps": (0.5, 0.1)},
        {"steps": (0.5, 1.5)},
        {"step_seconds": -1},
        {"min_requests": -1},
        {"handover": -1},
        {"guards": []},
        {"guards": [ErrorRate(), ErrorRate()]},
    ],
)
def test_nonsense_is_refused(wrong):
    with pytest.raises(BadConfiguration, match=next(iter(wrong))):
        make(**wrong)


def test_a_name_that_other_versions_have_is_refused():
    store = MemoryStore()
    Rollout("v2", "v1", name="churn", store=store, events=Stream()).tick()
    with pytest.raises(BadConfiguration, match="another name"):
        Rollout("v3", "v1", name="churn", store=store)


# -- every kind of guard ----------------------------------------------------------------


def feed(rollout, *, canary_ok=True, seconds=0.1, differ=False, click=1.0, count=400):
    """Requests of both arms, and shadow answers."""
    for place in range(count):
        rollout.observe_outcome("stable", ok=True, seconds=0.1)
        rollout.observe_outcome("canary", ok=canary_ok or place % 4 != 0, seconds=seconds)
        rollout.observe_answers(1.0 if differ else 0.0, 0.0)
        rollout.observe_metric("clicks", "stable", 1.0)
        rollout.observe_metric("clicks", "canary", click)


@pytest.mark.parametrize(
    ("harm", "guard"),
    [
        ({"canary_ok": False}, "error rate"),
        ({"seconds": 0.3}, "latency p90"),
        ({"seconds": 2.0}, "floor"),
        ({"differ": True}, "disagreement"),
        ({"click": 0.0}, "clicks"),
    ],
)
def test_each_guard_hears_what_it_guards_and_rolls_back(harm, guard):
    every = [
        ErrorRate(),
        Latency(q=0.9),
        Floor(limit=0.05, seconds=1.0),
        Disagreement(),
        Metric("clicks"),
    ]
    good = make(shadow=False, guards=every, step_seconds=0)
    good.tick()
    feed(good, count=600)
    assert good.tick() == [SetCanary("v2", 0.5)]
    bad = make(
        shadow=False,
        guards=[g for g in every if g.name == guard]
        + [Metric("clicks", tolerance=0.9)] * (guard != "clicks"),
    )
    bad.tick()
    feed(bad, **harm)
    [command] = bad.tick()
    assert isinstance(command, RollBack)
    assert command.reason.startswith(f"{guard}: ")


def test_a_metric_that_no_guard_has_is_refused():
    with pytest.raises(BadConfiguration, match="clicks"):
        make(guards=[Metric("clicks")]).observe_metric("click", "canary", 1.0)


def test_other_arms_are_left_out():
    rollout = make(guards=[ErrorRate(), Metric("clicks")], shadow=False)
    for _ in range(100):
        rollout.observe_outcome("pinned", ok=False)
        rollout.observe_metric("clicks", "pinned", 0.0)
        rollout.observe_outcome("canary", ok=True)
    assert {f.numbers["in_all"] for f in rollout.findings().values()} == {0}


@pytest.mark.parametrize("number", [np.float16, np.float32, np.float64, Fraction, np.asarray])
def test_numbers_of_any_library_can_be_handed_in(number):
    clock, store = ManualClock(), MemoryStore()
    guards = [PairedLoss(), ErrorRate(), Floor(limit=0.5, seconds=0.1), Latency(), Metric("clicks")]
    here, there = (make(clock, store=store, shadow=False, guards=guards) for _ in range(2))
    here.tick()
    for _ in range(300):
        here.observe_pair(number(0.5), number(0.25))
        for arm in ("canary", "stable"):
            here.observe_outcome(arm, ok=number(1) > 0, seconds=number(0.25))
            here.observe_metric("clicks", arm, number(1))
    here.flush()
    assert here.findings() == there.findings()
    assert all(finding.numbers["n"] for finding in there.findings().values())


def test_steps_may_come_from_an_array():
    rollout = make(shadow=False, steps=np.linspace(0.25, 0.5, 2, dtype=np.float32))
    assert rollout.tick() == [SetCanary("v2", 0.25)]


def test_pairs_are_made_outside_the_lock():
    rollout = make(shadow=False, guards=[PairedLoss(), ErrorRate(), Floor(limit=0.5)])

    def pairs():
        for _ in range(3):
            # To ask a model is a fact, and whoever hears it tells the rollout.
            rollout.observe_outcome("canary", ok=True)
            yield 0.5, 0.25

    thread = threading.Thread(target=rollout.observe_pairs, args=(pairs(),), daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    assert rollout.findings()["paired loss"].numbers["n"] == 3


def test_pairs_that_are_no_numbers_count_all_or_not_at_all():
    rollout = make(shadow=False)
    with pytest.raises(TypeError):
        rollout.observe_pairs([(0.5, 0.25), (None, 0.25)])
    assert rollout.findings()["paired loss"].numbers["in_all"] == 0


def test_guards_that_two_rollouts_were_given_are_not_shared():
    guards = [PairedLoss(enough=10)]
    first, second = make(guards=guards), make(guards=guards)
    first.observe_pairs(BAD)
    assert second.findings()["paired loss"].numbers["in_all"] == 0


# -- what holds it back -----------------------------------------------------------------


def test_a_step_asks_for_its_least_number_of_requests():
    clock = ManualClock()
    rollout = make(clock, min_requests=25)
    rollout.tick()
    clock.advance(61)
    rollout.observe_pairs(GOOD * 2)
    assert rollout.tick() == []
    assert rollout.to_dict()["holding"] == "20 of 25 requests in this step"
    rollout.observe_pairs(GOOD)
    assert rollout.tick() == [SetCanary("v2", 0.1)]
    clock.advance(61)
    rollout.observe_pairs(GOOD * 2)
    assert rollout.tick() == []


def test_while_the_calendar_is_closed_nothing_goes_on_and_harm_still_rolls_back():
    clock, closed = ManualClock(), {"reason": "weekend"}
    rollout = make(clock, calendar=lambda now: closed["reason"])
    assert (rollout.tick(), rollout.phase) == ([], RolloutPhase.PENDING)
    closed["reason"] = None
    assert rollout.tick() == [StartShadow("v2")]
    closed["reason"] = "weekend"
    rollout.observe_pairs(GOOD)
    clock.advance(1000)
    assert rollout.tick() == []
    assert rollout.to_dict()["holding"] == "calendar: weekend"
    closed["reason"] = None
    assert rollout.tick() == [SetCanary("v2", 0.1)]
    closed["reason"] = "weekend"
    rollout.observe_pairs(BAD)
    assert isinstance(rollout.tick()[0], RollBack)


def test_a_calendar_that_raises_holds():
    clock = ManualClock()
    rollout = make(clock, calendar=lambda now: 1 / 0)
    clock.advance(1000)
    assert (rollout.tick(), rollout.phase) == ([], RolloutPhase.PENDING)
    assert "ZeroDivisionError" in rollout.to_dict()["holding"]


def test_a_rollout_may_be_frozen_before_it_begins():
    clock = ManualClock()
    rollout = make(clock)
    rollout.freeze("not before monday")
    assert rollout.tick() == []
    assert rollout.to_dict()["holding"] == "frozen: not before monday"
    rollout.unfreeze()
    assert rollout.phase is RolloutPhase.PENDING
    assert rollout.tick() == [StartShadow("v2")]


def test_frozen_a_restarted_process_is_told_what_the_frozen_phase_needs():
    clock, store = ManualClock(), MemoryStore()
    first = make(clock, store=store, shadow=False)
    first.tick()
    first.freeze("look at this")
    again = make(clock, store=store, shadow=False)
    assert (again.tick(), again.share) == ([SetCanary("v2", 0.1)], 0.1)


def test_a_freeze_before_its_first_tick_does_not_take_the_commands_from_a_restarted_process():
    clock, store = ManualClock(), MemoryStore()
    first, console = make(clock, store=store, shadow=False), make(clock, store=store)
    first.tick()
    first.tick()
    again = make(clock, store=store, shadow=False)
    console.freeze("look at this")
    assert again.tick() == [SetCanary("v2", 0.1)]
    assert again.tick() == []


def test_a_guard_that_was_of_another_kind_is_named_and_the_rollout_can_be_aborted():
    clock, store = ManualClock(), MemoryStore()
    before = make(clock, store=store, shadow=False, guards=[Metric("clicks")])
    before.tick()
    for arm in ("canary", "stable"):
        before.observe_metric("clicks", arm, 1.0)
    before.flush()
    after = make(clock, store=store, shadow=False, guards=[Metric("clicks", compare="share")])
    with pytest.raises(CorruptRecord, match="guard 'clicks': its sums lack 'bad'"):
        after.tick()
    after.abort("no sense in it")
    assert after.phase is RolloutPhase.ROLLED_BACK
    assert after.tick() == [RollBack("v2", "no sense in it")]


# -- commands ---------------------------------------------------------------------------


def test_commands_of_a_ticker_that_died_are_handed_to_another():
    clock, store = ManualClock(), MemoryStore()
    one, two = make(clock, store=store), make(clock, store=store)
    two.tick()
    one.observe_pairs(BAD)
    assert isinstance(one.tick()[0], RollBack)
    # One is killed before it could carry out the roll back.
    assert two.tick() == []
    clock.advance(61)
    assert isinstance(two.tick()[0], RollBack)
    assert two.tick() == []
    clock.advance(1000)
    assert two.tick() == []


def test_commands_of_a_ticker_that_ticks_again_are_not_repeated():
    clock, store = ManualClock(), MemoryStore()
    one, two = make(clock, store=store), make(clock, store=store)
    one.tick()
    one.tick()
    clock.advance(1000)
    assert two.tick() == []


def test_a_word_from_another_process_is_carried_out_by_who_ticks():
    clock, store = ManualClock(), MemoryStore()
    server, console = make(clock, store=store), make(clock, store=store)
    server.tick()
    console.abort("complaints")
    assert server.tick() == [RollBack("v2", "complaints")]
    assert server.tick() == []


# -- metrics that are read --------------------------------------------------------------


def warehouse(rows, asked=None):
    def read(since, until):
        if asked is not None:
            asked.append((since, until))
        return [(arm, value) for at, arm, value in rows if since <= at < until]

    return read


def test_a_metric_is_read_stretch_by_stretch_by_whoever_ticks():
    clock, store, asked = ManualClock(), MemoryStore(), []
    began = clock.time()
    rows = [(began + t, "canary" if t % 2 else "stable", 1.0) for t in range(300)]
    metric = Metric("clicks", read=warehouse(rows, asked), every=60, enough=100)
    one, two = (make(clock, store=store, guards=[metric]) for _ in range(2))
    one.tick()
    for ticker in (one, two, two, one):
        clock.advance(31)
        ticker.tick()
    assert asked == [(began, began + 62), (began + 62, began + 124)]
    assert one.findings()["clicks"].numbers["in_all"] == 62
    clock.advance(176)
    assert two.tick() == [SetCanary("v2", 0.1)]


def test_of_what_is_read_other_arms_are_left_out():
    clock, rows = ManualClock(), []
    rows += [(clock.time() + t, "canary" if t % 2 else "pinned", t % 2) for t in range(60)]
    rollout = make(clock, guards=[Metric("clicks", read=warehouse(rows))])
    rollout.tick()
    clock.advance(61)
    rollout.tick()
    # Without a stable value there was nothing to set the canary's against.
    assert rollout.findings()["clicks"].numbers["in_all"] == 0


def test_a_metric_that_cannot_be_read_holds_and_is_read_again():
    clock, rows = ManualClock(), []
    rows += [(clock.time() + t / 2, "canary" if t % 2 else "stable", 1.0) for t in range(400)]
    broken = {"now": True}

    def read(since, until):
        if broken["now"]:
            raise ConnectionError("warehouse")
        return warehouse(rows)(since, until)

    rollout = make(clock, guards=[PairedLoss(enough=1), Metric("clicks", read=read, enough=50)])
    rollout.tick()
    rollout.observe_pairs(GOOD)
    clock.advance(100)
    assert rollout.tick() == []
    broken["now"] = False
    clock.advance(61)
    assert rollout.tick() == [SetCanary("v2", 0.1)]
    clock.advance(61)
    rollout.observe_pairs(GOOD)
    broken["now"] = True
    assert rollout.tick() == []
    assert "warehouse" in rollout.to_dict()["holding"]


def test_a_metric_that_is_read_finds_harm():
    clock, rows = ManualClock(), []
    rows += [(clock.time() + t, "canary" if t % 2 else "stable", 1 - t % 2) for t in range(300)]
    rollout = make(clock, guards=[Metric("clicks", read=warehouse(rows), lag=30)])
    rollout.tick()
    clock.advance(60)
    assert rollout.tick() == []
    clock.advance(30)
    assert isinstance(rollout.tick()[0], RollBack)


# -- long rollouts ----------------------------------------------------------------------


def test_harm_that_begins_after_a_long_good_time_is_found_soon():
    clock = ManualClock()
    rollout = make(clock, step_seconds=1e9, guards=[PairedLoss()])
    rollout.tick()
    for _ in range(30):
        rollout.observe_pairs([(0.1, 0.1)] * 1000)
        rollout.tick()
    rollout.observe_pairs([(0.9, 0.1)] * 40)
    assert isinstance(rollout.tick()[0], RollBack)


def test_the_record_of_a_long_rollout_stays_small():
    clock, store = ManualClock(), MemoryStore()
    rollout = make(clock, store=store, step_seconds=1e9, guards=[PairedLoss(), ErrorRate()])
    rollout.tick()
    for _ in range(30):
        rollout.observe_pairs([(0.1, 0.1)] * 1000)
        rollout.tick()
    for _ in range(300):
        rollout.freeze("x")
        rollout.unfreeze()
    sizes = [len(value) for value, _ in store._states.values()]
    assert max(sizes) < 150_000
    assert rollout.findings()["paired loss"].numbers["in_all"] == 30_000
