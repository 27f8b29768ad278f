"""One retraining cycle: facts rise to the machines, and their commands are carried out.

::

    facts (drift, labels, performance) -> triggers -> training -> gates -> registry
        -> shadow -> canary -> promote, or roll back

The machines decide (``prodml.retraining``, ``prodml.rollout``); this room only carries: it
keeps the latest metrics, loads a challenger into the server, feeds the rollout with paired
losses as labels arrive, and turns its commands into calls of server and registry.  Somebody
calls :meth:`Lifecycle.check` and :meth:`Lifecycle.tick` now and then: a scheduler, a cron
job, a test with a manual clock.
"""

import logging
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Protocol, final

from prodml._machine import Command
from prodml.clock import SYSTEM_CLOCK, Clock
from prodml.errors import BadConfiguration, Conflict, InvalidFeatures
from prodml.events import (
    EVENTS,
    DriftDetected,
    LabelsArrived,
    PerformanceDropped,
    PredictionFailed,
    PredictionServed,
    ShadowScored,
    Stream,
    Unsubscribe,
)
from prodml.retraining import Decision, Job, RetrainingOrchestrator
from prodml.rollout import Promote, RollBack, Rollout, SetCanary, StartShadow, StopShadow
from prodml.serving import VersionedModelServer
from prodml.types import MISS, ModelRef

__all__ = ["Lifecycle"]

_LOG = logging.getLogger("prodml.lifecycle")

Loss = Callable[[Any, Any], float]


class _Aliases(Protocol):
    """What the lifecycle asks of a registry."""

    def alias(self, name: str, alias: str, version: str) -> object: ...


class _Predictions(Protocol):
    """What the lifecycle asks of a cache."""

    def drop(self, version: str) -> object: ...


def squared_error(value: Any, label: Any) -> float:
    """Brier's loss of a probability, in [0, 1] for a label of 0 or 1.

    Examples
    --------
    >>> squared_error(0.8, 1)
    0.03999999999999998
    """
    return float((value - label) ** 2)


@final
@dataclass(slots=True, eq=False)
class Lifecycle:
    """Carries facts to the machines and their commands to server and registry.

    Parameters
    ----------
    server
        Where challengers are loaded and traffic is routed.
    model
        Name of the model in the registry.
    orchestrator
        Decides about retraining; None if models come from elsewhere (:meth:`introduce`).
    registry
        Its alias ``"champion"`` follows promotions and roll-backs.
    rollout
        Makes the rollout of ``(version, stable)``; by default ``Rollout(version, stable)``
        with the clock and stream of the lifecycle.
    cache
        Forgets the predictions of versions that are rolled back or unloaded, in every
        process that shares it.
    loss
        Loss of (prediction, label) that pairs champion and challenger.
    pairs
        Shadow answers that wait for their label at most; the oldest go first.

    Notes
    -----
    One rollout at a time: a challenger that arrives during one supersedes it.

    Examples
    --------
    >>> server = VersionedModelServer()
    >>> server.load_model("v1", lambda features: 0.2)
    >>> server.set_default_version("v1")
    >>> lifecycle = Lifecycle(server, "churn")
    >>> lifecycle.introduce("v2", lambda features: 0.3)
    >>> server.shadow_versions, lifecycle.rollout_phase
    (('v2',), 'shadow')
    """

    server: VersionedModelServer
    model: str
    _: KW_ONLY
    orchestrator: RetrainingOrchestrator | None = None
    registry: _Aliases | None = None
    rollout: Callable[[str, str], Rollout] | None = None
    cache: _Predictions | None = None
    loss: Loss = squared_error
    pairs: int = 100_000
    name: str = "lifecycle"
    clock: Clock = SYSTEM_CLOCK
    events: Stream = EVENTS
    _metrics: dict[str, float] = field(default_factory=dict[str, float], init=False, repr=False)
    _current: Rollout | None = field(default=None, init=False, repr=False)
    _waiting: OrderedDict[str, tuple[Any, Any]] = field(
        default_factory=OrderedDict[str, tuple[Any, Any]], init=False, repr=False
    )
    _due: deque[Command] = field(default_factory=deque[Command], init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)
    # Carrying out calls server and registry, so it has a lock of its own.
    _ticking: threading.RLock = field(default_factory=threading.RLock, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.pairs < 1:
            raise BadConfiguration(f"pairs must be at least 1, not {self.pairs}")

    # -- facts go up --------------------------------------------------------------------

    def subscribe(self, events: Stream | None = None) -> Unsubscribe:
        """Hear drift, performance, labels, and how both arms fare; return the way out."""
        stream = self.events if events is None else events
        exits = [
            stream.subscribe(DriftDetected, self._hear_drift),
            stream.subscribe(PerformanceDropped, self._hear_performance),
            stream.subscribe(LabelsArrived, self._hear_labels),
            stream.subscribe(ShadowScored, self._hear_shadow),
            stream.subscribe(PredictionServed, self._hear_served),
            stream.subscribe(PredictionFailed, self._hear_failed),
        ]

        def unsubscribe() -> None:
            for leave in exits:
                leave()

        return unsubscribe

    def observe(self, **metrics: float) -> None:
        """Note the latest values that the triggers look at."""
        with self._lock:
            self._metrics.update(metrics)

    @property
    def metrics(self) -> Mapping[str, float]:
        """The latest metrics."""
        with self._lock:
            return dict(self._metrics)

    def truth(self, request_id: str, label: Any) -> bool:
        """Join a late label to the shadow answer of its request; say whether there was one."""
        with self._lock:
            answers = self._waiting.get(request_id)
        if answers is None:
            return False
        stable, challenger = answers
        # A shadow that could not answer has lost the pair: it must not look good for it.
        worst = challenger is MISS
        lost = 1.0 if worst else self.loss(challenger, label)
        pair = lost, self.loss(stable, label)
        with self._lock:
            # Not before: with a label that makes no sense the answers wait for a better one.
            joined = self._waiting.pop(request_id, None) is answers
            rollout = self._current
        if joined and rollout is not None:
            rollout.observe_pair(*pair)
        return joined

    # -- decisions ----------------------------------------------------------------------

    def check(self) -> Decision | None:
        """Ask the triggers about the latest metrics; train if one fires and none suppresses it.

        Of several workers that find the same reason at once, one trains.
        """
        if self.orchestrator is None:
            return None
        decision = self.orchestrator.check_triggers(self.metrics)
        if decision:
            try:
                self.orchestrator.trigger_retraining(decision)
            except Conflict:
                _LOG.info("%s: another worker has started the training", self.name)
        return decision

    def challenge(self, ref: ModelRef | None, model: Any, job: Job) -> None:
        """Take what the orchestrator's ``on_challenger`` hands over."""
        self.introduce(job.id if ref is None else ref.version, model)

    def introduce(self, version: str, model: Any) -> None:
        """Load a challenger and begin its rollout.

        Raises
        ------
        BadConfiguration
            The server has no default version to compare with, or the version is loaded
            already; the rollout under way goes on.
        """
        with self._ticking:
            # It may be a promotion, to the default that this one is compared with.
            self._finish()
            stable = self.server.default_version
            if stable is None:
                raise BadConfiguration(f"{self.server.name} has no default version: set one first")
            rollout = (self.rollout or self._default_rollout)(version, stable)
            # Who cannot be loaded, or is here already, supersedes nobody.
            self.server.load_model(version, model)
            # Should another model have gone by this name before.
            self._forget(version)
            if self._current is not None and not self._current.done:
                self._current.abort(f"superseded by {version}")
                self._finish()
            with self._lock:
                self._current = rollout
                self._waiting.clear()
            self._due.clear()
            self.tick()

    def _finish(self) -> None:
        """Do what the rollout before this one still owes; what cannot be done is dropped."""
        try:
            self.tick()
        except Exception:
            left = list(self._due)
            _LOG.exception("%s: not done, and superseded: %s", self.name, left)

    def tick(self) -> list[Command]:
        """Ask the rollout what follows and do it; return what was done.

        A command that cannot be carried out stays first in line: what it raised passes, and
        the next tick tries it again, unless the rollout has moved on by then.
        """
        with self._ticking:
            rollout = self._current
            following = [] if rollout is None else rollout.tick()
            if following:
                # They say all of how things are to be: a share that could not be set is past.
                self._due.clear()
                self._due.extend(following)
            done: list[Command] = []
            while self._due:
                self._carry_out(self._due[0])
                done.append(self._due.popleft())
            return done

    @property
    def current(self) -> Rollout | None:
        """The rollout under way, or the last one."""
        return self._current

    @property
    def rollout_phase(self) -> str | None:
        """Phase of the rollout under way, or of the last one."""
        return None if self._current is None else str(self._current.phase.value)

    # -- commands come down -------------------------------------------------------------

    def _carry_out(self, command: Command) -> None:
        match command:
            case StartShadow(version=version):
                self.server.route(shadow=[version], reason=f"shadow of {version}")
            case StopShadow():
                self.server.route(canary=self.server.canary, reason="shadow ended")
            case SetCanary(version=version, share=share):
                # The stable arm goes on being copied, so pairs keep coming.
                self.server.route(canary={version: share}, shadow=[version], reason="canary")
            case Promote(version=version):
                self._promote(version)
            case RollBack(version=version, reason=reason):
                # Tried again, it may find that somebody has unloaded the version.
                if version in self.server.versions:
                    self.server.rollback(version, reason=reason)
                self._point_champion()
                self._forget(version)
            case _:
                raise BadConfiguration(f"{self.name} cannot carry out {command!r}")

    def _promote(self, version: str) -> None:
        current = self._current
        # As the rollout says: a promotion that is tried again finds itself as the default.
        previous = self.server.default_version if current is None else current.stable
        self.server.set_default_version(version, reason="promoted")
        self.server.route(reason="promoted")
        self._point_champion()
        # The one before stays for a rollback; older ones give their memory back.
        for old in set(self.server.versions) - {version, previous}:
            try:
                self.server.unload_model(old)
            except Exception:
                # It has another part in traffic, or requests that do not end: no reason to
                # hold up the promotion, and the next one tries again.
                _LOG.warning("%s: version %r stays for now", self.name, old, exc_info=True)
            self._forget(old)

    def _forget(self, version: str) -> None:
        # A model that comes back under an old name may be a mended one.
        if self.cache is not None:
            self.cache.drop(version)

    def _point_champion(self) -> None:
        champion = self.server.default_version
        if self.registry is not None and champion is not None:
            self.registry.alias(self.model, "champion", champion)

    def _default_rollout(self, version: str, stable: str) -> Rollout:
        return Rollout(version, stable, clock=self.clock, events=self.events)

    # -- hearing ------------------------------------------------------------------------

    def _hear_drift(self, fact: DriftDetected) -> None:
        self.observe(drift_score=fact.score)

    def _hear_performance(self, fact: PerformanceDropped) -> None:
        self.observe(**{fact.metric: fact.current})

    def _hear_labels(self, fact: LabelsArrived) -> None:
        self.observe(labels=float(fact.total))

    def _hear_shadow(self, fact: ShadowScored) -> None:
        answer = fact.value if fact.error is None else MISS
        with self._lock:
            # Under the lock, or the answers of one could wait among those of the next.
            rollout = self._current
            if rollout is None or fact.version != rollout.version:
                return
            self._waiting[fact.request_id] = (fact.stable_value, answer)
            while len(self._waiting) > self.pairs:
                self._waiting.popitem(last=False)
        rollout.observe_answers(answer, fact.stable_value)

    def _hear_served(self, fact: PredictionServed) -> None:
        rollout, prediction = self._current, fact.prediction
        # A cached answer says nothing of the model, and stable's cache is the warmer one.
        if rollout is not None and not prediction.cached:
            # Another rung's answer, which has no version, means that the arm's own model failed.
            ok = prediction.source == "model" and prediction.version != ""
            rollout.observe_outcome(fact.arm, ok=ok, seconds=prediction.latency_ms / 1e3)

    def _hear_failed(self, fact: PredictionFailed) -> None:
        rollout = self._current
        theirs = isinstance(fact.error, InvalidFeatures) or not fact.version
        if rollout is not None and not theirs:
            rollout.observe_outcome(fact.arm, ok=False, seconds=fact.latency_ms / 1e3)
