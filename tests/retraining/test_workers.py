"""Several workers, crashes and outages: one job each, and nobody waits for ever."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import scipy.stats

from prodml.errors import Conflict, StoreUnavailable
from prodml.events import Stream, TrainingFailed
from prodml.retraining import (
    BetterOnSameRows,
    ChallengerRejected,
    DataGrowth,
    Evaluation,
    JobFailed,
    Performance,
    RetrainingOrchestrator,
    RetrainingPhase,
)
from prodml.retraining.machine import Failed, Requested
from prodml.stores import MemoryStore
from prodml.testing import ManualClock, Recorder

HOUR = 3600.0
BAD = {"accuracy": 0.5, "drift_score": 0.0}


def make(train=lambda context: "model", **changes):
    given = {"clock": ManualClock(), "events": Stream(), "cooldown": 0.0}
    return RetrainingOrchestrator("fraud", train=train, **given | changes)


class Failing(MemoryStore):
    """A store that can be told to be away."""

    away = False

    def commit(self, *given, **more):
        if self.away:
            raise StoreUnavailable("ops.db", "disk full")
        return super().commit(*given, **more)

    def release(self, lease):
        if self.away:
            raise StoreUnavailable("ops.db", "disk full")
        super().release(lease)


# -- one decision, one job --------------------------------------------------------------


def test_two_workers_that_decided_at_once_train_once_also_when_the_first_is_done():
    store, clock = MemoryStore(), ManualClock()
    first, second = (make(store=store, clock=clock) for _ in range(2))
    decisions = first.check_triggers(BAD), second.check_triggers(BAD)
    assert first.trigger_retraining(decisions[0]).result() == "model"
    with pytest.raises(Conflict, match="fraud-1"):
        second.trigger_retraining(decisions[1])
    assert second.state.jobs == 1


def test_threads_with_one_decision_train_once():
    orchestrator, barrier, ended = make(), threading.Barrier(6), []
    decision = orchestrator.check_triggers(BAD)

    def start():
        barrier.wait()
        try:
            ended.append(orchestrator.trigger_retraining(decision).result())
        except Conflict:
            ended.append("conflict")

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ended) == ["conflict"] * 5 + ["model"]


def test_a_refused_start_leaves_the_lease_free():
    store, clock = MemoryStore(), ManualClock()
    first, second = (make(store=store, clock=clock) for _ in range(2))
    decision = second.check_triggers(BAD)
    first.request(by="ops", reason="x")
    with pytest.raises(Conflict):
        second.trigger_retraining(decision)
    assert first.request(by="ops", reason="y").id == "fraud-2"


FORKED = """
import os, sys, time
from prodml.retraining import RetrainingOrchestrator
def train(context):
    time.sleep(0.8)
    return "model"
orchestrator = RetrainingOrchestrator("fraud", train=train, store=sys.argv[1])
child = os.fork()
if child == 0:
    time.sleep(0.3)
try:
    state = orchestrator.request(by="ops", reason="x").state
except Exception as error:
    state = type(error).__name__
if child == 0:
    os._exit(0 if state == "Conflict" else 1)
print(state, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_forked_workers_do_not_pass_for_one_another(tmp_path):
    command = [sys.executable, "-c", FORKED, f"sqlite:///{tmp_path}/ops.db"]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert told.split() == ["registered", "0"]


# -- leases -----------------------------------------------------------------------------


def test_a_training_that_tells_no_progress_keeps_its_lease_while_it_lives():
    store, release = MemoryStore(), threading.Event()

    def train(context):
        release.wait(10)
        return "model"

    with ThreadPoolExecutor(1) as pool:
        job = make(train, store=store, executor=pool, lease=0.3).request(by="ops", reason="x")
        other = make(store=store)
        for _ in range(4):
            assert not job.wait(0.2)
            assert other.check_triggers(BAD).suppressed
        release.set()
        assert job.result(10) == "model"
    assert other.state.outcome == "registered"


def test_an_outage_between_beats_costs_no_lease():
    store = Failing()
    renew, told = store.renew, []

    def once_away(*given):
        told.append(given)
        if len(told) == 1:
            raise StoreUnavailable("ops.db", "locked")
        return renew(*given)

    store.renew = once_away

    def train(context):
        context.progress(0.3)
        context.progress(0.6)
        return "model"

    orchestrator = make(train, store=store)
    assert orchestrator.request(by="ops", reason="x").result() == "model"
    assert len(told) == 2


def test_a_job_that_is_over_holds_no_lease():
    store, clock = MemoryStore(), ManualClock()
    orchestrator = make(store=store, clock=clock)
    orchestrator.request(by="ops", reason="x")
    assert orchestrator._held is None
    assert store.acquire("retraining/fraud/job", "somebody", 60.0) is not None


def test_a_job_that_ended_between_two_looks_is_not_called_lost():
    store, stream = MemoryStore(), Stream()
    recorder = Recorder(stream)
    worker, other = make(store=store), make(store=store, events=stream)
    worker._held = store.acquire(worker._lease_name, worker._owner, 60.0)
    worker._apply(Requested(0.0, "fraud-1", "x", {}))
    acquire = store.acquire

    def ends_meanwhile(*given):
        worker._apply(Failed(0.0, "fraud-1", "own"))
        worker._release()
        return acquire(*given)

    store.acquire = ends_meanwhile
    other.check_triggers({})
    assert recorder.of(TrainingFailed) == []
    assert other.state.reason == "own"


def test_a_listener_may_wait_for_a_thread_that_asks_the_orchestrator():
    store, stream, answered = MemoryStore(), Stream(), []
    dead = make(store=store, lease=60.0)
    dead._held = store.acquire(dead._lease_name, dead._owner, -1.0)
    dead._held = None
    dead._apply(Requested(0.0, "fraud-1", "x", {}))
    orchestrator = make(store=store, events=stream)

    def ask(fact):
        thread = threading.Thread(target=lambda: answered.append(orchestrator.state.phase))
        thread.start()
        thread.join(5)

    stream.subscribe(TrainingFailed, ask)
    orchestrator.check_triggers({})
    assert answered == [RetrainingPhase.IDLE]


# -- outages ----------------------------------------------------------------------------


def test_a_pool_that_refuses_work_fails_the_job_and_blocks_nothing():
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    orchestrator = make(executor=pool)
    with pytest.raises(JobFailed, match="RuntimeError"):
        orchestrator.request(by="ops", reason="x").result(1)
    orchestrator.executor = None
    assert orchestrator.request(by="ops", reason="y").result() == "model"


def test_a_store_that_dies_while_training_leaves_nobody_waiting():
    store = Failing()

    def train(context):
        store.away = True
        return "model"

    orchestrator = make(train, store=store)
    job = orchestrator.request(by="ops", reason="x")
    with pytest.raises(JobFailed, match="not noted in the store"):
        job.result(1)
    store.away = False
    orchestrator.train = lambda context: "model"
    assert orchestrator.request(by="ops", reason="y").result() == "model"
    assert [row["fact"] for row in orchestrator.history()][:2] == ["Requested", "Failed"]


def test_a_training_that_returns_nothing_is_no_model():
    with pytest.raises(JobFailed, match="returned None"):
        make(lambda context: None).request(by="ops", reason="x").result()


# -- how often --------------------------------------------------------------------------


def trainings(orchestrator, hours):
    """How many jobs start when the triggers are asked every hour."""
    for _ in range(hours):
        orchestrator.clock.advance(HOUR)
        decision = orchestrator.check_triggers(BAD)
        if decision:
            orchestrator.trigger_retraining(decision)
    return orchestrator.state.jobs


def test_a_training_that_always_fails_backs_off_to_once_a_day():
    def train(context):
        raise ValueError("no data")

    # After 1, 2, 4, 8 and 16 hours, then daily.
    assert trainings(make(train, cooldown=HOUR), 24 * 10) == 13


def test_a_challenger_that_is_always_refused_backs_off_too_and_says_so():
    rows = Evaluation([{}] * 40, [1] * 40)
    orchestrator = make(
        lambda context: lambda row: 0.0,
        gates=[BetterOnSameRows()],
        champion=lambda: lambda row: 1.0,
        evaluation=lambda: rows,
        cooldown=HOUR,
    )
    with pytest.raises(ChallengerRejected):
        orchestrator.request(by="ops", reason="x").result()
    orchestrator.clock.advance(HOUR)
    assert "1 without a new model" in str(orchestrator.check_triggers(BAD))


def test_a_success_ends_the_backing_off():
    outcomes = iter([ValueError(), "model", "model"])

    def train(context):
        outcome = next(outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    assert trainings(make(train, cooldown=HOUR), 4) == 3


def test_a_clock_that_was_set_back_does_not_hold_for_as_long():
    orchestrator = make(cooldown=HOUR)
    orchestrator.request(by="ops", reason="x")
    orchestrator.clock.step_wall(-10 * 24 * HOUR)
    assert orchestrator.check_triggers(BAD)


# -- metrics ----------------------------------------------------------------------------


def test_a_metric_that_is_none_is_not_evaluated():
    decision = make().check_triggers({"accuracy": None, "drift_score": 0.0})
    assert (bool(decision), decision.not_evaluated) == (False, ("accuracy",))


def test_metrics_may_be_numpys():
    orchestrator = make()
    metrics = {"accuracy": np.float32(0.5), "labels": np.int64(7)}
    orchestrator.trigger_retraining(orchestrator.check_triggers(metrics))
    assert orchestrator.state.trained_on == {"accuracy": 0.5, "labels": 7.0}


def test_a_metric_with_too_few_labels_is_named_with_its_number():
    orchestrator = make(triggers=[Performance(minimum_labels=100)])
    decision = orchestrator.check_triggers({"accuracy": 0.1, "labels": 5})
    assert decision.not_evaluated == ("accuracy (5 of 100 labels)",)
    assert orchestrator.check_triggers({"accuracy": 0.1, "labels": 100}).not_evaluated == ()


def test_a_job_by_hand_without_metrics_does_not_make_all_data_new():
    orchestrator = make(triggers=[DataGrowth()])
    orchestrator.note_training({"labels": 1000.0})
    orchestrator.request(by="ops", reason="x")
    assert not orchestrator.check_triggers({"labels": 1001.0})


def test_the_interval_of_few_days_is_students():
    differences = [0.01, -0.02, 0.015, 0.0, 0.02, -0.005, 0.01]
    evaluation = Evaluation(range(7), [0.0] * 7)
    gate = BetterOnSameRows(lambda answer, label: answer, min_rows=1)
    told = gate.judge(lambda i: 0.5, lambda i: 0.5 + differences[i], evaluation).reason
    low, high = scipy.stats.t.interval(0.95, 6, np.mean(differences), scipy.stats.sem(differences))
    assert f"[{low:+.4f}, {high:+.4f}]" in told
