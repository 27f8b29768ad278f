import pickle
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from prodml.errors import BadConfiguration, Conflict
from prodml.events import (
    GateFailed,
    GatePassed,
    RetrainingRequested,
    RetrainingSuppressed,
    Stream,
    TrainingFailed,
)
from prodml.registry import ModelRegistry
from prodml.retraining import (
    RETRAINING,
    BetterOnSameRows,
    ChallengerRejected,
    DataGrowth,
    Drift,
    Evaluation,
    JobFailed,
    Performance,
    RetrainingOrchestrator,
    RetrainingPhase,
    RetrainingState,
    Schedule,
    TrainingContext,
    TriggerType,
)
from prodml.retraining.machine import Failed, Judged, Requested, Trained
from prodml.stores import MemoryStore, SQLiteStore
from prodml.testing import ManualClock, Recorder

DAY = 86400.0
BAD = {"accuracy": 0.5, "drift_score": 0.0}
ROWS = Evaluation([{}] * 40, [1] * 40)


def make(train=lambda context: "model", **changes):
    given = {"clock": ManualClock(), "events": Stream(), "cooldown": 0.0}
    return RetrainingOrchestrator("fraud", train=train, **given | changes)


def constant(value):
    return lambda row: value


# -- triggers ---------------------------------------------------------------------------


def test_every_trigger_that_fired_is_told_and_the_first_names_the_decision():
    decision = make().check_triggers({"accuracy": 0.79, "drift_score": 0.2})
    assert [f.type for f in decision.fired] == [
        TriggerType.PERFORMANCE_DEGRADATION,
        TriggerType.DATA_DRIFT,
    ]
    assert decision.trigger_type is TriggerType.PERFORMANCE_DEGRADATION
    assert decision.metadata["value"] == 0.79
    assert decision.timestamp.tzinfo is not None


def test_a_missing_metric_is_named_and_never_silently_fine():
    decision = make().check_triggers({})
    assert not decision
    assert decision.not_evaluated == ("accuracy", "drift_score")
    assert str(decision) == "not evaluated: accuracy, drift_score"


def test_nothing_to_do_is_said_and_refused():
    orchestrator = make()
    decision = orchestrator.check_triggers({"accuracy": 0.9, "drift_score": 0.0})
    assert (str(decision), decision.trigger_type, decision.metadata) == (
        "no trigger fired",
        None,
        {},
    )
    with pytest.raises(BadConfiguration, match="nothing to do"):
        orchestrator.trigger_retraining(decision)


def test_the_schedule_counts_from_the_last_success_and_not_from_submission():
    clock = ManualClock()
    outcomes = iter([ValueError("no data"), None])

    def train(context):
        error = next(outcomes)
        if error:
            raise error
        return "model"

    orchestrator = make(train, clock=clock, triggers=[Schedule(every=7 * DAY)])
    assert not orchestrator.check_triggers({})
    clock.advance(7 * DAY)
    with pytest.raises(JobFailed, match="no data"):
        orchestrator.trigger_retraining(orchestrator.check_triggers({})).result()
    assert orchestrator.check_triggers({}), "a failed training is no training"
    orchestrator.trigger_retraining(orchestrator.check_triggers({}))
    assert not orchestrator.check_triggers({})
    assert orchestrator.last_training.timestamp() == clock.time()


def test_cooldown_holds_back_and_says_so():
    clock, stream = ManualClock(), Stream()
    recorder = Recorder(stream)
    orchestrator = make(clock=clock, events=stream, cooldown=3600.0)
    orchestrator.trigger_retraining(orchestrator.check_triggers(BAD))
    held = orchestrator.check_triggers(BAD)
    assert not held
    assert "cooldown" in held.suppressed[0][1]
    assert "held back" in str(held)
    assert recorder.of(RetrainingSuppressed)[0].trigger == "performance_degradation"
    clock.advance(3600)
    assert orchestrator.check_triggers(BAD)


def test_too_few_new_labels_hold_back():
    orchestrator = make(min_growth=100)
    orchestrator.note_training({"labels": 1000})
    assert not orchestrator.check_triggers(BAD | {"labels": 1099})
    assert orchestrator.check_triggers(BAD | {"labels": 1100})


def test_growth_counts_from_the_rows_of_the_last_success():
    orchestrator = make(triggers=[DataGrowth(factor=2)])
    orchestrator.note_training({"labels": 100})
    assert not orchestrator.check_triggers({"labels": 199})
    orchestrator.trigger_retraining(orchestrator.check_triggers({"labels": 200}))
    assert not orchestrator.check_triggers({"labels": 399})
    assert orchestrator.check_triggers({"labels": 400})


# -- one job ----------------------------------------------------------------------------


def test_two_workers_that_check_at_once_start_one_job():
    store, release, started = MemoryStore(), threading.Event(), []

    def train(context):
        started.append(context.job)
        release.wait(10)
        return "model"

    with ThreadPoolExecutor(2) as pool:
        workers = [make(train, store=store, executor=pool) for _ in range(2)]
        decisions = [worker.check_triggers(BAD) for worker in workers]
        job = workers[0].trigger_retraining(decisions[0])
        with pytest.raises(Conflict, match="fraud-1"):
            workers[1].trigger_retraining(decisions[1])
        assert not workers[1].check_triggers(BAD)
        release.set()
        assert job.result(10) == "model"
    assert started == ["fraud-1"]


def test_threads_that_start_at_once_start_one_job():
    orchestrator, barrier, told = make(), threading.Barrier(6), []
    decision = orchestrator.check_triggers(BAD)

    def start():
        barrier.wait()
        try:
            told.append(orchestrator.trigger_retraining(decision).result())
        except Conflict:
            told.append("conflict")

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert told.count("model") + told.count("conflict") == 6
    assert told.count("model") == orchestrator.state.jobs


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_training_may_run_in_another_process():
    with ProcessPoolExecutor(1) as pool:
        orchestrator = make(train_elsewhere, executor=pool)
        job = orchestrator.request(by="ops", reason="x", parameters={"since": 3})
        assert job.result(30) == ("fraud-1", {"since": 3})


def train_elsewhere(context):
    context.progress(0.5, "half way")
    return context.job, dict(context.parameters)


def test_a_context_pickles_without_its_callbacks():
    context = TrainingContext(job="j", model="m", reason="r", told=print, stop=threading.Event())
    again = pickle.loads(pickle.dumps(context))
    assert (again.job, again.told, again.cancelled) == ("j", None, False)
    again.progress(1.0)


def test_progress_is_told_and_cancelling_throws_the_model_away():
    seen, release = threading.Event(), threading.Event()

    def train(context):
        context.progress(1.7, "much")
        seen.set()
        release.wait(10)
        return "cancelled" if context.cancelled else "model"

    with ThreadPoolExecutor(1) as pool:
        orchestrator = make(train, executor=pool)
        job = orchestrator.request(by="ops", reason="x")
        seen.wait(10)
        assert (job.progress, job.note, job.done) == (1.0, "much", False)
        waiting = make(train, executor=pool).request(by="ops", reason="y")
        assert waiting.cancel()
        with pytest.raises(JobFailed, match="cancelled"):
            waiting.result(10)
        assert job.cancel()
        release.set()
        with pytest.raises(JobFailed, match="cancelled"):
            job.result(10)
    assert not job.cancel()
    assert orchestrator.state.outcome == "failed"


def test_an_interrupt_in_the_calling_thread_passes_and_leaves_no_job_behind():
    def train(context):
        raise KeyboardInterrupt

    orchestrator = make(train)
    with pytest.raises(KeyboardInterrupt):
        orchestrator.request(by="ops", reason="x")
    assert orchestrator.state.phase is RetrainingPhase.IDLE


# -- gates and registry -----------------------------------------------------------------


def test_a_worse_challenger_is_refused_and_the_champion_is_not_touched():
    stream, registry, handed = Stream(), ModelRegistry("memory://"), []
    recorder = Recorder(stream)
    orchestrator = make(
        lambda context: constant(0.0),
        gates=[BetterOnSameRows()],
        champion=lambda: constant(0.9),
        evaluation=lambda: ROWS,
        registry=registry,
        on_challenger=lambda *given: handed.append(given),
        events=stream,
    )
    before = orchestrator.state.trained_at
    job = orchestrator.request(by="ops", reason="x")
    with pytest.raises(ChallengerRejected, match="brier"):
        job.result()
    assert recorder.of(GateFailed)[0].challenger == 1.0
    assert (handed, registry.models(), orchestrator.state.trained_at) == ([], (), before)
    assert "refused" in job.explain()


def test_a_better_challenger_is_registered_with_its_reason_and_handed_on():
    stream, registry, handed = Stream(), ModelRegistry("memory://"), []
    recorder = Recorder(stream)
    orchestrator = make(
        lambda context: {"bias": 1.0},
        gates=[BetterOnSameRows(lambda answer, label: 0.0)],
        evaluation=lambda: Evaluation([], []),
        registry=registry,
        on_challenger=lambda ref, model, job: handed.append((ref.version, model, job.state)),
        events=stream,
    )
    with pytest.raises(ChallengerRejected, match="0 rows"):
        orchestrator.request(by="ops", reason="x").result()
    orchestrator.gates = ()
    job = orchestrator.request(by="ops", reason="audit")
    assert job.result() == {"bias": 1.0}
    assert handed == [("1", {"bias": 1.0}, "registered")]
    assert registry.aliases("fraud") == {"challenger": "1"}
    assert registry.metadata("fraud", "1")["reason"] == "ops: audit"
    assert not recorder.of(GatePassed)


def test_skipping_the_gates_is_remembered():
    stream, registry = Stream(), ModelRegistry("memory://")
    recorder = Recorder(stream)
    orchestrator = make(
        lambda context: {"p": 0.0},
        gates=[BetterOnSameRows()],
        evaluation=lambda: ROWS,
        registry=registry,
        events=stream,
    )
    job = orchestrator.request(by="ops", reason="x", skip_gates=True)
    assert job.result() == {"p": 0.0}
    assert recorder.of(RetrainingRequested)[0].evidence == {"by": "ops", "skip_gates": True}
    assert registry.metadata("fraud", "1")["skip_gates"] is True
    assert "skipped" in job.explain()


def test_a_gate_that_raises_lets_nobody_through():
    class Broken:
        name = "broken"

        def judge(self, champion, challenger, evaluation):
            raise ZeroDivisionError

    orchestrator = make(gates=[Broken()], evaluation=lambda: ROWS)
    with pytest.raises(ChallengerRejected, match="broken: the gate raised"):
        orchestrator.request(by="ops", reason="x").result()


def test_an_evaluation_that_raises_fails_the_job_with_its_cause():
    def evaluation():
        raise OSError("no labels")

    orchestrator = make(gates=[BetterOnSameRows()], evaluation=evaluation)
    with pytest.raises(JobFailed, match="no labels") as caught:
        orchestrator.request(by="ops", reason="x").result()
    assert isinstance(caught.value.__cause__, OSError)
    assert orchestrator.state.phase is RetrainingPhase.IDLE


def test_a_model_that_nobody_took_on_is_told():
    def refuse(ref, model, job):
        raise RuntimeError("server is away")

    orchestrator = make(on_challenger=refuse)
    with pytest.raises(JobFailed, match="server is away"):
        orchestrator.request(by="ops", reason="x").result()
    assert orchestrator.state.outcome == "registered"


# -- restarts ---------------------------------------------------------------------------


def test_a_restart_remembers_the_last_training(tmp_path):
    clock, url = ManualClock(), f"sqlite:///{tmp_path}/ops.db"
    first = make(clock=clock, store=url)
    clock.advance(3 * DAY)
    first.request(by="ops", reason="x", metrics={"labels": 7.0})
    clock.advance(4 * DAY)
    again = make(clock=clock, store=url)
    assert again.state.trained_on == {"labels": 7.0}
    assert not make(clock=clock, store=url, triggers=[Schedule(every=5 * DAY)]).check_triggers({})
    for orchestrator in (first, again):
        orchestrator._store.close()


KILLED = """
import os, signal, sys
from prodml.retraining import RetrainingOrchestrator
def train(context):
    os.kill(os.getpid(), signal.SIGKILL)
orchestrator = RetrainingOrchestrator("fraud", train=train, store=sys.argv[1], lease=1.0)
orchestrator.request(by="ops", reason="x")
"""


def test_a_job_that_died_with_its_worker_is_found_and_does_not_block_for_ever(tmp_path):
    url = f"sqlite:///{tmp_path}/ops.db"
    ended = subprocess.run([sys.executable, "-c", KILLED, url], check=False)
    clock, stream = ManualClock(), Stream()
    clock.step_wall(time.time() - clock.time())
    recorder = Recorder(stream)
    store = SQLiteStore(f"{tmp_path}/ops.db", clock=clock)
    orchestrator = make(store=store, clock=clock, events=stream)
    assert ended.returncode == -9
    assert orchestrator.state.phase is RetrainingPhase.TRAINING
    clock.advance(60)
    assert orchestrator.check_triggers(BAD), "after the lease the trigger may fire again"
    assert recorder.of(TrainingFailed)[0].reason == "lost with its worker"
    assert orchestrator.trigger_retraining(orchestrator.check_triggers(BAD)).id == "fraud-2"
    store.close()


def test_a_job_that_was_given_up_cannot_come_back():
    clock, store, release = ManualClock(), MemoryStore(), threading.Event()
    store._clock = clock

    def train(context):
        release.wait(10)
        return "late"

    with ThreadPoolExecutor(1) as pool:
        slow = make(train, store=store, clock=clock, executor=pool, lease=60.0)
        job = slow.request(by="ops", reason="x")
        clock.advance(61)
        other = make(store=store, clock=clock)
        assert other.request(by="ops", reason="y").result() == "model"
        release.set()
        with pytest.raises(JobFailed, match="lost"):
            job.result(10)
    assert (other.state.job, other.state.outcome) == ("fraud-2", "registered")


def test_progress_keeps_the_lease():
    clock, store = ManualClock(), MemoryStore()
    store._clock = clock

    def train(context):
        for _ in range(5):
            clock.advance(50)
            context.progress(0.5)
        return "model"

    assert (
        make(train, store=store, clock=clock, lease=60.0).request(by="ops", reason="x").result()
        == "model"
    )


def test_recorded_facts_replay_to_the_same_state():
    clock = ManualClock()
    orchestrator = make(clock=clock)
    initial = orchestrator.state
    orchestrator.trigger_retraining(orchestrator.check_triggers(BAD))
    clock.advance(60)
    orchestrator.request(by="ops", reason="again", metrics={"labels": 5.0})
    kinds = {cls.__name__: cls for cls in (Requested, Trained, Judged, Failed)}
    facts = [
        kinds[row["fact"]](**{k: v for k, v in row.items() if k != "fact"})
        for row in orchestrator.history()
    ]
    assert len(facts) == 6
    assert RETRAINING.replay(initial, facts)[0] == orchestrator.state


@pytest.mark.parametrize(
    "wrong", [{"gates": [BetterOnSameRows()]}, {"cooldown": -1}, {"min_growth": -1}, {"lease": 0}]
)
def test_nonsense_is_refused(wrong):
    with pytest.raises(BadConfiguration):
        make(**wrong)


def test_the_default_triggers_are_those_of_the_textbook():
    assert RetrainingOrchestrator("m", train=print).triggers == (
        Performance(below=0.80),
        Drift(above=0.05),
        Schedule(every=7 * DAY),
    )


# -- the table --------------------------------------------------------------------------


class Reference(RuleBasedStateMachine):
    """The table against a few lines of plain code; facts come late, twice, of other jobs."""

    jobs = st.sampled_from(["a", "b"])

    def __init__(self):
        super().__init__()
        self.state = RetrainingState(trained_at=0.0)
        self.phase, self.job, self.trained_at = "idle", "", 0.0

    def feed(self, fact):
        self.state, _ = RETRAINING.step(self.state, fact)

    @rule(job=jobs)
    def request(self, job):
        self.feed(Requested(1.0, job, "r", {}))
        if self.phase == "idle":
            self.phase, self.job = "training", job

    @rule(job=jobs)
    def train(self, job):
        self.feed(Trained(1.0, job))
        if self.phase == "training" and job == self.job:
            self.phase = "evaluating"

    @rule(job=jobs, passed=st.booleans(), at=st.floats(1, 9))
    def judge(self, job, passed, at):
        self.feed(Judged(at, job, passed, ""))
        if self.phase == "evaluating" and job == self.job:
            self.phase = "idle"
            self.trained_at = at if passed else self.trained_at

    @rule(job=jobs)
    def fail(self, job):
        self.feed(Failed(1.0, job, ""))
        if job == self.job:
            self.phase = "idle"

    @invariant()
    def agree(self):
        assert (self.state.phase.value, self.state.trained_at) == (self.phase, self.trained_at)


Reference.TestCase.settings = settings(max_examples=60, stateful_step_count=20)
TestReference = Reference.TestCase


def test_the_page_shows_the_diagram_of_the_table():
    page = (Path(__file__).parents[2] / "docs/how-to/retraining.md").read_text()
    assert RETRAINING.diagram() in page
