"""Retraining decided, carried out once, and remembered."""

import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from contextlib import suppress
from dataclasses import KW_ONLY, asdict, dataclass, field
from datetime import datetime
from typing import Any, Protocol, final

from prodml._machine import Command
from prodml.clock import SYSTEM_CLOCK, Clock, utc
from prodml.errors import (
    BadConfiguration,
    ChallengerRejected,
    Conflict,
    JobFailed,
    LeaseLost,
    StoreUnavailable,
)
from prodml.events import (
    EVENTS,
    Event,
    GateFailed,
    GatePassed,
    RetrainingRequested,
    RetrainingSuppressed,
    Stream,
    TrainingFailed,
    TrainingFinished,
    TrainingStarted,
)
from prodml.retraining.gates import Evaluation, Gate, GateResult
from prodml.retraining.jobs import Job, TrainingContext
from prodml.retraining.machine import (
    RETRAINING,
    Failed,
    Judged,
    Requested,
    RetrainingState,
    Trained,
    decoded,
    encoded,
)
from prodml.retraining.triggers import (
    Drift,
    Firing,
    Performance,
    Schedule,
    Situation,
    Trigger,
    TriggerType,
)
from prodml.stores import DurableStore, Lease, open_durable_store
from prodml.types import ModelRef

__all__ = ["Decision", "RetrainingOrchestrator"]

_DAY = 86_400.0
_WEEK = 7 * _DAY


class _Registry(Protocol):
    """What the orchestrator asks of a registry."""

    def register(
        self, name: str, model: Any, metadata: Mapping[str, Any] | None = None
    ) -> ModelRef: ...

    def alias(self, name: str, alias: str, version: str) -> object: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What the triggers said; true if one fired and nothing held it back.

    Parameters
    ----------
    fired
        Triggers that fired, in the order in which they are configured.
    suppressed
        Triggers that fired and were held back, with why.
    not_evaluated
        Metrics that a trigger needs and nobody gave, or that it does not believe yet, with
        why: silence about them is no good news.
    at
        Seconds since the epoch, UTC.
    metrics
        What was looked at.
    job
        The job that the decision would start: it starts that one or none, so that two
        workers that decide at once, or one that repeats itself, train once.

    Examples
    --------
    >>> bool(Decision(at=0.0))
    False
    """

    at: float
    fired: tuple[Firing, ...] = ()
    suppressed: tuple[tuple[Firing, str], ...] = ()
    not_evaluated: tuple[str, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])
    job: str = ""

    def __bool__(self) -> bool:
        return bool(self.fired)

    @property
    def trigger_type(self) -> TriggerType | None:
        """Type of the first trigger that fired."""
        return self.fired[0].type if self.fired else None

    @property
    def timestamp(self) -> datetime:
        """``at`` as an aware UTC datetime."""
        return utc(self.at)

    @property
    def metadata(self) -> dict[str, Any]:
        """Reason and evidence of the first trigger that fired."""
        if not self.fired:
            return {}
        return {"reason": self.fired[0].reason, **self.fired[0].evidence}

    def __str__(self) -> str:
        parts = [firing.reason for firing in self.fired]
        parts += [f"held back: {firing.reason} ({why})" for firing, why in self.suppressed]
        if self.not_evaluated:
            parts.append(f"not evaluated: {', '.join(self.not_evaluated)}")
        return "; ".join(parts) or "no trigger fired"


@final
@dataclass(slots=True, eq=False)
class RetrainingOrchestrator:
    """Decide when to retrain, run one job at a time, and let only a better model through.

    Parameters
    ----------
    name
        The model, in facts, registry and store.
    train
        ``train(context)`` returns a model; see :class:`TrainingContext`.
    triggers
        By default the three of the textbook: accuracy below 0.80, drift score above 0.05,
        and seven days since the last training.
    gates
        All must pass.  With gates, ``evaluation`` gives them rows that neither model was
        trained on.
    store
        URL or ``DurableStore`` that keeps the state: ``"sqlite:///ops.db"``, ``"memory://"``.
    executor
        Any ``concurrent.futures.Executor``; None trains in the calling thread.
    registry
        Where a challenger that passed is registered, under alias ``"challenger"``.
    champion
        Gives the model to beat; None, or a function that returns None, if there is none.
    on_challenger
        Called with (ref or None, model, job) after the gates: starts the rollout.
    cooldown
        Seconds between two requests by triggers, whatever became of the first; doubled
        for every job in a row that was refused or failed, up to the larger of it and a day.
    min_growth
        Metric ``"labels"`` must have grown by this since the last training; 0 asks nothing.
    lease
        Seconds after which a job counts as lost with its worker.  The worker renews it
        three times as often while the job runs, and with every progress told; leave room
        for code that holds the interpreter without a break.

    Raises
    ------
    BadConfiguration
        Gates without ``evaluation``, a negative time, or a store that cannot keep state.

    Notes
    -----
    The last training is the end of the last one that *succeeded*.  A job that was lost is
    marked as failed by the next check of any worker; the trigger, if it still holds, fires
    again after the cooldown.  Jobs are not resubmitted behind your back.

    Examples
    --------
    >>> orchestrator = RetrainingOrchestrator("fraud", train=lambda context: "model")
    >>> decision = orchestrator.check_triggers({"accuracy": 0.79})
    >>> bool(decision), decision.trigger_type.value, decision.not_evaluated
    (True, 'performance_degradation', ('drift_score',))
    >>> orchestrator.trigger_retraining(decision).result()
    'model'
    """

    name: str
    _: KW_ONLY
    train: Callable[[TrainingContext], Any]
    triggers: Sequence[Trigger] = (Performance(), Drift(), Schedule(every=_WEEK))
    gates: Sequence[Gate] = ()
    store: Any = "memory://"
    executor: Executor | None = None
    registry: _Registry | None = None
    champion: Callable[[], Any] | None = None
    evaluation: Callable[[], Evaluation] | None = None
    on_challenger: Callable[[ModelRef | None, Any, Job], object] | None = None
    cooldown: float = 3600.0
    min_growth: float = 0.0
    lease: float = 3600.0
    clock: Clock = SYSTEM_CLOCK
    events: Stream = EVENTS
    _store: DurableStore = field(init=False, repr=False)
    _salt: str = field(init=False, repr=False)
    _job: Job | None = field(default=None, init=False, repr=False)
    _held: Lease | None = field(default=None, init=False, repr=False)
    _lock: threading.RLock = field(default_factory=threading.RLock, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.gates and self.evaluation is None:
            raise BadConfiguration("gates need evaluation=: a function that gives them rows")
        for setting in ("cooldown", "min_growth"):
            if getattr(self, setting) < 0:
                raise BadConfiguration(f"{setting} must not be negative")
        if not self.lease > 0:
            raise BadConfiguration(f"lease must be positive seconds, not {self.lease}")
        self._store = open_durable_store(self.store)
        self._salt = os.urandom(6).hex()

    # -- deciding -----------------------------------------------------------------------

    def check_triggers(self, metrics: Mapping[str, float]) -> Decision:
        """Ask every trigger about ``metrics``; nothing is started.

        What is held back is stated as ``RetrainingSuppressed``, with the reason.
        """
        state, now = self._settled(), self.clock.time()
        metrics = _numbers(metrics)
        situation = Situation(
            now=now, trained_at=state.trained_at, metrics=metrics, trained_on=state.trained_on
        )
        firings, absent = self._ask(situation)
        held = self._held_back(state, now, metrics)
        decision = Decision(
            at=now,
            fired=() if held else tuple(firings),
            suppressed=tuple((firing, held) for firing in firings) if held else (),
            not_evaluated=tuple(absent),
            metrics=metrics,
            job=self._next_job(state),
        )
        for firing, why in decision.suppressed:
            self.events.emit(
                RetrainingSuppressed(
                    at=now,
                    source=self.name,
                    model=self.name,
                    trigger=firing.type.value,
                    reason=firing.reason,
                    suppressed_by=why,
                )
            )
        return decision

    def _ask(self, situation: Situation) -> tuple[list[Firing], list[str]]:
        firings: list[Firing] = []
        absent: dict[str, None] = {}
        for trigger in self.triggers:
            missing = [name for name in trigger.needs if name not in situation.metrics]
            absent.update(dict.fromkeys(missing))
            if missing:
                continue
            doubt = getattr(trigger, "doubt", _no_doubt)(situation)
            if doubt:
                absent[doubt] = None
            firing = trigger.firing(situation)
            if firing is not None:
                firings.append(firing)
        return firings, list(absent)

    def _held_back(self, state: RetrainingState, now: float, metrics: Mapping[str, float]) -> str:
        if state.phase.busy:
            return f"job {state.job} is {state.phase.value}"
        # A wall clock that was set back must not hold for as long as it was wrong.
        waited, asked = abs(now - state.requested_at), self._cooldown_after(state.fruitless)
        if state.jobs and waited < asked:
            told = f"cooldown: {waited:.0f} of {asked:g} s since job {state.job}"
            return f"{told}, {state.fruitless} without a new model" if state.fruitless else told
        grown = metrics.get("labels", 0.0) - state.trained_on.get("labels", 0.0)
        if self.min_growth and grown < self.min_growth:
            return f"only {grown:g} new labels, {self.min_growth:g} are needed"
        return ""

    def _cooldown_after(self, fruitless: int) -> float:
        # The cause is likely still there: without this a level trigger trains for ever.
        return min(self.cooldown * 2.0 ** min(fruitless, 30), max(self.cooldown, _DAY))

    # -- starting -----------------------------------------------------------------------

    def trigger_retraining(self, decision: Decision) -> Job:
        """Start the job that ``decision`` asks for.

        Raises
        ------
        BadConfiguration
            Nothing fired.
        Conflict
            A job is under way already, here or elsewhere, or the decision was carried out
            before; nothing was started.
        """
        if not decision.fired:
            raise BadConfiguration(f"nothing to do: {decision}")
        first = decision.fired[0]
        return self._start(first, decision.metrics, {}, skip_gates=False, expected=decision.job)

    def request(
        self,
        *,
        by: str,
        reason: str,
        metrics: Mapping[str, float] | None = None,
        parameters: Mapping[str, Any] | None = None,
        skip_gates: bool = False,
    ) -> Job:
        """Start a job by hand.

        Parameters
        ----------
        by, reason
            Who asks and why; kept in the facts.
        parameters
            Reach the training function through its context.
        skip_gates
            Let the challenger through unseen: an override that the facts and the registry
            remember.

        Raises
        ------
        Conflict
            A job is under way already; nothing was started.
        """
        firing = Firing(
            type=TriggerType.MANUAL,
            reason=f"{by}: {reason}",
            evidence={"by": by, "skip_gates": skip_gates},
        )
        return self._start(firing, _numbers(metrics or {}), parameters or {}, skip_gates=skip_gates)

    def _start(
        self,
        firing: Firing,
        metrics: Mapping[str, float],
        parameters: Mapping[str, Any],
        *,
        skip_gates: bool,
        expected: str = "",
    ) -> Job:
        self._settled()
        with self._lock:
            job_id = self._claim(firing.reason, metrics, expected)
            context = TrainingContext(
                job=job_id,
                model=self.name,
                reason=firing.reason,
                metrics=dict(metrics),
                parameters=dict(parameters),
            )
            job = Job(context, skip_gates=skip_gates, on_progress=self._renew)
            self._job = job
        self._tell(
            RetrainingRequested,
            trigger=firing.type.value,
            reason=firing.reason,
            evidence=firing.evidence,
            job=job_id,
        )
        self._run(job)
        return job

    def _claim(self, reason: str, metrics: Mapping[str, float], expected: str) -> str:
        """Take the lease and put the next job under way, or raise and leave all as it was."""
        self._refuse_if_taken(expected)
        held = self._store.acquire(self._lease_name, self._owner, self.lease)
        if held is None:
            raise Conflict(self._key, "idle", "another worker is starting")
        self._held = held
        try:
            # Again, under the lease: somebody may have begun and ended since the first look.
            job_id = self._refuse_if_taken(expected)
            self._apply(Requested(self.clock.time(), job_id, reason, dict(metrics)))
        except BaseException:
            self._release()
            raise
        return job_id

    def _refuse_if_taken(self, expected: str) -> str:
        state = self._read()[0]
        if state.phase.busy:
            raise Conflict(self._key, "idle", f"job {state.job} under way")
        job_id = self._next_job(state)
        if expected and job_id != expected:
            raise Conflict(self._key, expected, f"{state.job}, which was started since")
        return job_id

    def _next_job(self, state: RetrainingState) -> str:
        return f"{self.name}-{state.jobs + 1}"

    # -- carrying out -------------------------------------------------------------------

    def _run(self, job: Job) -> None:
        self._tell(TrainingStarted, job=job.id)
        began = self.clock.monotonic()
        # The lease says that this process lives, whether or not training tells progress.
        beat = threading.Thread(target=self._beat, args=(job,), daemon=True)
        if self.executor is None:
            beat.start()
            try:
                model = self.train(job.context)
            except BaseException as error:
                self._fail(job, f"{type(error).__name__}: {error}", error)
                if not isinstance(error, Exception):
                    raise
                return
            self._finish(job, model, self.clock.monotonic() - began)
            return
        try:
            job.work = self.executor.submit(self.train, job.context)
        except Exception as error:
            self._fail(job, f"{type(error).__name__}: {error}", error)
            return
        # After the submission, so that a pool that forks does so without this thread.
        beat.start()
        job.work.add_done_callback(lambda work: self._collect(job, work, began))

    def _collect(self, job: Job, work: "Future[Any]", began: float) -> None:
        if work.cancelled():
            self._fail(job, "cancelled", None)
            return
        error = work.exception()
        if error is not None:
            self._fail(job, f"{type(error).__name__}: {error}", error)
        else:
            self._finish(job, work.result(), self.clock.monotonic() - began)

    def _finish(self, job: Job, model: Any, seconds: float) -> None:
        try:
            if job.cancelled:
                self._fail(job, "cancelled", None)
                return
            if model is None:
                self._fail(job, "train(context) returned None instead of a model", None)
                return
            self._advance(Trained(self.clock.time(), job.id))
            job.state, job.progress = "evaluating", 1.0
            self._tell(TrainingFinished, job=job.id, seconds=seconds)
            job.gates = self._judge(job, model)
            refused = [result for result in job.gates if not result.passed]
            reason = "; ".join(f"{r.gate}: {r.reason}" for r in refused or job.gates)
            ref = None if refused else self._register(job, model)
            self._advance(Judged(self.clock.time(), job.id, not refused, reason or "no gates"))
        except Exception as error:
            self._fail(job, f"{type(error).__name__}: {error}", error)
            return
        if refused:
            job.state = "rejected"
            job.fail(ChallengerRejected(job.id, reason))
            return
        job.state = "registered"
        self._hand_on(job, ref, model)

    def _hand_on(self, job: Job, ref: ModelRef | None, model: Any) -> None:
        try:
            if self.on_challenger is not None:
                self.on_challenger(ref, model, job)
        except Exception as error:
            # The model is good and registered; that nobody took it on must not be lost.
            job.fail(JobFailed(job.id, f"on_challenger raised {error!r}"), error)
            return
        job.succeed(model)

    def _judge(self, job: Job, model: Any) -> tuple[GateResult, ...]:
        if job.skip_gates or not self.gates or self.evaluation is None:
            return ()
        champion = None if self.champion is None else self.champion()
        rows = self.evaluation()
        results: list[GateResult] = []
        for gate in self.gates:
            try:
                result = gate.judge(champion, model, rows)
            except Exception as error:
                # A gate that cannot judge lets nobody through.
                result = GateResult(
                    gate=gate.name,
                    passed=False,
                    champion=None,
                    challenger=float("nan"),
                    reason=f"the gate raised {error!r}",
                )
            results.append(result)
            self._tell(
                GatePassed if result.passed else GateFailed,
                job=job.id,
                gate=result.gate,
                champion=result.champion,
                challenger=result.challenger,
                reason=result.reason,
            )
        return tuple(results)

    def _register(self, job: Job, model: Any) -> ModelRef | None:
        if self.registry is None:
            return None
        metadata = {
            "job": job.id,
            "reason": job.context.reason,
            "skip_gates": job.skip_gates,
            "gates": [asdict(result) for result in job.gates],
        }
        ref = self.registry.register(self.name, model, metadata)
        self.registry.alias(self.name, "challenger", ref.version)
        return ref

    def _fail(self, job: Job, reason: str, cause: BaseException | None) -> None:
        try:
            self._advance(Failed(self.clock.time(), job.id, reason))
        except JobFailed as lost:
            reason = lost.reason
        except Exception as error:
            # Whoever waits for the job must hear of it, also when the store cannot; there
            # the lease runs out, and the next check marks the job as lost.
            reason = f"{reason}; not noted in the store: {error}"
        job.state = "failed"
        self._tell(TrainingFailed, job=job.id, reason=reason)
        job.fail(JobFailed(job.id, reason), cause)

    # -- what is known ------------------------------------------------------------------

    @property
    def state(self) -> RetrainingState:
        """What the store says now."""
        with self._lock:
            return self._read()[0]

    @property
    def last_training(self) -> datetime:
        """End of the last successful training; of none yet, when the state was first kept."""
        return utc(self.state.trained_at)

    def note_training(self, metrics: Mapping[str, float], *, at: float | None = None) -> None:
        """Tell of a training that happened elsewhere, such as the first release.

        Examples
        --------
        >>> orchestrator = RetrainingOrchestrator("fraud", train=lambda context: "model")
        >>> orchestrator.note_training({"labels": 1000.0}, at=0.0)
        >>> orchestrator.last_training.year
        1970
        """
        with self._lock:
            state, revision = self._read()
            fields = encoded(state) | {
                "trained_at": self.clock.time() if at is None else at,
                "trained_on": dict(metrics),
            }
            self._store.commit(self._key, json.dumps(fields).encode(), revision)

    def history(self) -> list[dict[str, Any]]:
        """Facts of the machine so far, as plain data, oldest first."""
        return [json.loads(value) for _, value in self._store.rows(f"{self._key}/facts")]

    # -- the store ----------------------------------------------------------------------

    @property
    def _key(self) -> str:
        return f"retraining/{self.name}"

    @property
    def _lease_name(self) -> str:
        return f"retraining/{self.name}/job"

    def _read(self) -> tuple[RetrainingState, int]:
        value, revision = self._store.read(self._key)
        if value is not None:
            return decoded(json.loads(value)), revision
        # A model that was never trained here counts from now, not from 1970.
        state = RetrainingState(trained_at=self.clock.time())
        try:
            return state, self._store.commit(self._key, _bytes(state), 0)
        except Conflict:
            return self._read()

    def _apply(self, fact: Any) -> Sequence[Command]:
        state, revision = self._read()
        after, commands = RETRAINING.step(state, fact)
        if after is not state:
            row = json.dumps({"fact": type(fact).__name__, **asdict(fact)}).encode()
            rows = [(f"{self._key}/facts", row)]
            self._store.commit(self._key, _bytes(after), revision, rows=rows, lease=self._held)
        return commands if after is not state else ()

    def _advance(self, fact: Trained | Judged | Failed) -> None:
        """Move our own job on; raise if it was given up while we worked.

        The lease of a job that is over goes back under the same lock: a moment later
        ``_held`` may be the lease of the next one.
        """
        with self._lock:
            state = self._read()[0]
            if state.job != fact.job or not state.phase.busy:
                raise JobFailed(fact.job, "lost: it was given up while it ran")
            try:
                self._apply(fact)
            except (Conflict, LeaseLost) as error:
                raise JobFailed(fact.job, f"lost: {error}") from error
            if not isinstance(fact, Trained):
                self._release()

    def _settled(self) -> RetrainingState:
        """Read the state, after marking as failed a job whose worker let its lease run out."""
        with self._lock:
            state = self._read()[0]
            if not state.phase.busy or self._runs_here(state.job):
                return state
            lease = self._store.acquire(self._lease_name, self._owner, self.lease)
            if lease is None:
                return state
            self._held = lease
            try:
                state, lost = self._read()[0], state.job
                if state.job != lost or not state.phase.busy:
                    # It ended between the two looks, and took nothing with it.
                    return state
                self._apply(Failed(self.clock.time(), lost, "lost with its worker"))
                state = self._read()[0]
            finally:
                self._release()
        # Outside the lock: a listener may wait for a thread that asks this orchestrator.
        self._tell(TrainingFailed, job=lost, reason="lost with its worker")
        return state

    @property
    def _owner(self) -> str:
        # With the process, or forked workers would pass for one and bury each other's jobs.
        return f"{os.getpid()}-{self._salt}"

    def _runs_here(self, job_id: str) -> bool:
        job = self._job
        return job is not None and job.id == job_id and not job.done and job.pid == os.getpid()

    def _beat(self, job: Job) -> None:
        while not job.wait(self.lease / 3.0):
            self._renew()

    def _renew(self) -> None:
        with self._lock:
            if self._held is None:
                return
            try:
                # An outage is left to the next beat; until then the lease still runs.
                with suppress(StoreUnavailable):
                    self._held = self._store.renew(self._held, self.lease)
            except LeaseLost:
                # Told when the job wants to move on; progress itself must not fail it.
                self._held = None

    def _release(self) -> None:
        with self._lock:
            held, self._held = self._held, None
            if held is not None:
                # A lease that cannot be given back runs out.
                with suppress(StoreUnavailable):
                    self._store.release(held)

    def _tell(self, kind: Callable[..., Event], **payload: Any) -> None:
        self.events.emit(kind(at=self.clock.time(), source=self.name, model=self.name, **payload))


def _no_doubt(situation: Situation) -> str:  # noqa: ARG001 - stands in for a method
    return ""


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Plain floats, of numpy's and the like too; None is a metric that nobody knows."""
    return {name: float(value) for name, value in metrics.items() if value is not None}


def _bytes(state: RetrainingState) -> bytes:
    return json.dumps(encoded(state)).encode()
