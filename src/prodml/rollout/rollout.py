"""A rollout under way: guards and machine, kept in a store, moved by whoever ticks."""

import json
import threading
from collections.abc import Iterable, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, field
from typing import Any, Literal, final

from prodml._machine import Command
from prodml.clock import SYSTEM_CLOCK, Clock
from prodml.errors import BadConfiguration, Conflict
from prodml.events import (
    EVENTS,
    Event,
    ModelPromoted,
    RolloutStarted,
    RolloutStepped,
    Stream,
)
from prodml.rollout.analysis import ErrorRate, Finding, Guardrail, PairedLoss, Verdict
from prodml.rollout.machine import (
    ROLLOUT,
    Aborted,
    Began,
    FoundFine,
    FoundWorse,
    Froze,
    RolloutPhase,
    RolloutState,
    Thawed,
    commands_for,
)
from prodml.stores import DurableStore, MemoryStore, open_durable_store

__all__ = ["Rollout"]

_FORMAT = 1


@final
@dataclass(slots=True, eq=False)
class Rollout:
    """Walk ``version`` from shadow through canary steps to promotion, or back.

    Parameters
    ----------
    version, stable
        The challenger, and the version that serves.
    shadow
        Begin by answering copies of requests; False begins with the first canary step.
    steps
        Shares of traffic of the canary steps, growing, in (0, 1].
    step_seconds
        How long shadow and each canary step last at least.
    guards
        Judge the challenger; by default :class:`PairedLoss` and :class:`ErrorRate` with
        their defaults.  One WORSE rolls back; all must be FINE to go on.  A guard that has
        never been told anything is left out of that, but one of them must have been.
    store
        Keeps the state: a rollout of the same ``name`` goes on where it was.
    name
        By default made of both versions.

    Raises
    ------
    BadConfiguration
        No step, shares that do not grow or leave (0, 1], a negative time.

    Examples
    --------
    >>> from prodml.testing import ManualClock
    >>> rollout = Rollout("v2", "v1", steps=(0.5,), step_seconds=0,
    ...                   guards=[PairedLoss(enough=10)], clock=ManualClock())
    >>> rollout.tick()
    [StartShadow(version='v2')]
    >>> rollout.observe_pairs([(0.1, 0.1)] * 10)
    >>> rollout.tick()
    [SetCanary(version='v2', share=0.5)]
    >>> rollout.tick()
    []
    """

    version: str
    stable: str
    _: KW_ONLY
    shadow: bool = True
    steps: Sequence[float] = (0.05, 0.25, 0.5)
    step_seconds: float = 3600.0
    guards: Sequence[Guardrail] | None = None
    store: Any = None
    name: str = ""
    clock: Clock = SYSTEM_CLOCK
    events: Stream = EVENTS
    _guards: tuple[Guardrail, ...] = field(init=False, repr=False)
    _store: DurableStore = field(init=False, repr=False)
    _state: RolloutState = field(init=False, repr=False)
    _revision: int = field(default=0, init=False, repr=False)
    _told: bool = field(default=False, init=False, repr=False)
    _kept: dict[str, Any] = field(default_factory=dict[str, Any], init=False, repr=False)
    _lock: threading.RLock = field(default_factory=threading.RLock, init=False, repr=False)

    def __post_init__(self) -> None:
        shares = tuple(self.steps)
        growing = all(low < high for low, high in zip((0.0, *shares), shares, strict=False))
        if not shares or not growing or shares[-1] > 1.0:
            raise BadConfiguration(f"steps must grow within (0, 1], not {shares}")
        if self.step_seconds < 0:
            raise BadConfiguration(f"step_seconds must not be negative, not {self.step_seconds}")
        self.name = self.name or f"{self.version}-over-{self.stable}"
        self._guards = tuple((PairedLoss(), ErrorRate()) if self.guards is None else self.guards)
        self._store = MemoryStore() if self.store is None else open_durable_store(self.store)
        self._state = RolloutState(
            version=self.version, stable=self.stable, steps=shares, shadow=self.shadow
        )
        self._kept = self._evidence()
        self._catch_up()

    # -- what is seen -------------------------------------------------------------------

    def observe_pair(self, challenger: float, stable: float) -> None:
        """Losses of both versions on one request, each in [0, 1]."""
        self.observe_pairs([(challenger, stable)])

    def observe_pairs(self, pairs: Iterable[tuple[float, float]]) -> None:
        """Losses (challenger, stable) of many requests."""
        with self._lock:
            guards = [g for g in self._guards if isinstance(g, PairedLoss)]
            for challenger, stable in pairs:
                for guard in guards:
                    guard.observe(challenger, stable)

    def observe_outcome(self, arm: Literal["canary", "stable"], *, ok: bool) -> None:
        """How a request of an arm ended."""
        with self._lock:
            for guard in self._guards:
                if isinstance(guard, ErrorRate):
                    guard.observe(canary=arm == "canary", ok=ok)

    # -- what follows -------------------------------------------------------------------

    def tick(self) -> list[Command]:
        """Judge what was seen and say what to do; empty when nothing follows.

        Safe at any time, by any thread or process: of two that tick at once one moves the
        rollout, the other finds it moved.  The first tick after a start repeats the
        commands of the phase, in case they were not carried out before.

        Raises
        ------
        StoreUnavailable
            Nothing has moved; the next tick judges the same evidence again.
        """
        with self._lock:
            moved_elsewhere = self._catch_up()
            commands = [] if self._told or moved_elsewhere else commands_for(self._state)
            fact, events = self._due(), list[Event]()
            if fact is not None:
                commands, events = self._apply(fact) or ([], [])
            elif self._evidence() != self._kept:
                self._save(self._state, ())
            # Not before the store has taken it, or a failure would swallow the commands.
            self._told = True
        self._emit(events)
        return commands

    def freeze(self, reason: str) -> None:
        """Hold the rollout where it is; evidence of harm still rolls it back."""
        self._insist(Froze(self.clock.time(), reason))

    def unfreeze(self) -> None:
        """Go on after :meth:`freeze`; the step begins anew."""
        self._insist(Thawed(self.clock.time()))

    def abort(self, reason: str) -> None:
        """End the rollout; the next tick says how to take the challenger out."""
        self._insist(Aborted(self.clock.time(), reason))

    # -- what is known ------------------------------------------------------------------

    @property
    def phase(self) -> RolloutPhase:
        """Where the rollout stands."""
        return self._state.phase

    @property
    def share(self) -> float:
        """Share of the traffic that the challenger answers."""
        return self._state.share

    @property
    def done(self) -> bool:
        """Whether it was promoted or rolled back."""
        return self._state.phase.done

    def findings(self) -> dict[str, Finding]:
        """What each guard says now, by name."""
        with self._lock:
            return {guard.name: guard.judge() for guard in self._guards}

    def to_dict(self) -> dict[str, Any]:
        """Report as plain data: state, findings, and the facts so far."""
        findings = self.findings()
        rows = self._store.rows(self._topic)
        return {
            "name": self.name,
            "version": self.version,
            "stable": self.stable,
            "phase": self.phase.value,
            "share": self.share,
            "reason": self._state.reason,
            "findings": {
                n: {"verdict": f.verdict.value, "reason": f.reason} for n, f in findings.items()
            },
            "facts": [json.loads(value) for _, value in rows],
        }

    # -- inside -------------------------------------------------------------------------

    @property
    def _key(self) -> str:
        return f"rollout/{self.name}"

    @property
    def _topic(self) -> str:
        return f"{self._key}/facts"

    def _due(self) -> Any:
        state, now = self._state, self.clock.time()
        if state.phase is RolloutPhase.PENDING:
            return Began(now)
        if state.phase.done:
            return None
        findings = [(guard.name, guard.judge()) for guard in self._guards]
        for name, finding in findings:
            if finding.verdict is Verdict.WORSE:
                return FoundWorse(now, f"{name}: {finding.reason}")
        asked = [
            (name, finding)
            for (name, finding), guard in zip(findings, self._guards, strict=True)
            if getattr(guard, "count", 1)
        ]
        fine = bool(asked) and all(f.verdict is Verdict.FINE for _, f in asked)
        if not fine or now - state.since < self.step_seconds:
            return None
        return FoundFine(now, "; ".join(f"{name}: {f.reason}" for name, f in asked))

    def _apply(self, fact: Any) -> tuple[list[Command], list[Event]] | None:
        """Step and store as one; None when another process has moved the rollout first."""
        before = self._state
        after, commands = ROLLOUT.step(before, fact)
        if after is before:
            return [], []
        row = json.dumps({"fact": type(fact).__name__, **asdict(fact)}).encode()
        if not self._save(after, [(self._topic, row)]):
            return None
        return list(commands), self._told_events(before, after)

    def _insist(self, fact: Any) -> None:
        """Apply an operator's word, whatever another process has done meanwhile."""
        with self._lock:
            self._catch_up()
            done = self._apply(fact)
            while done is None:
                done = self._apply(fact)
            self._told = False
        self._emit(done[1])

    def _emit(self, events: Iterable[Event]) -> None:
        # Outside the lock: a listener may wait for a thread that asks this very rollout.
        for event in events:
            self.events.emit(event)

    def _told_events(self, before: RolloutState, after: RolloutState) -> list[Event]:
        at, source, version = self.clock.time(), self.name, self.version
        told: list[Event] = []
        if before.phase is RolloutPhase.PENDING and not after.phase.done:
            told.append(RolloutStarted(at=at, source=source, version=version, stable=self.stable))
        if after.phase is RolloutPhase.PROMOTED:
            told.append(ModelPromoted(at=at, source=source, version=version, previous=self.stable))
        else:
            # That a version was taken out is the server's fact; this one says why.
            told.append(
                RolloutStepped(
                    at=at,
                    source=source,
                    version=version,
                    phase=after.phase.value,
                    share=after.share,
                    reason=after.reason,
                )
            )
        return told

    def _evidence(self) -> dict[str, Any]:
        return {guard.name: guard.to_dict() for guard in self._guards}

    def _save(self, state: RolloutState, rows: Sequence[tuple[str, bytes]]) -> bool:
        """Keep ``state`` and evidence, or return False, and catch up, if moved meanwhile.

        Whatever goes wrong, state and evidence stay what they were before.
        """
        evidence, moved = self._evidence(), _place(state) != _place(self._state)
        try:
            if moved:
                self._begin_step()
            kept = self._evidence()
            record = {"format": _FORMAT, "state": _plain(state), "guards": kept}
            value = json.dumps(record).encode()
            self._revision = self._store.commit(self._key, value, self._revision, rows=rows)
        except BaseException as error:
            for guard in self._guards:
                guard.load(evidence[guard.name])
            if not isinstance(error, Conflict):
                raise
            self._catch_up()
            return False
        self._state, self._kept = state, kept
        return True

    def _catch_up(self) -> bool:
        """Take over what another process has stored; return whether that moved the rollout.

        Who has observed since the last save keeps its evidence: it is the observer, and what
        the other one stored is older.
        """
        value, revision = self._store.read(self._key)
        if value is None or revision == self._revision:
            return False
        record, observer = json.loads(value), self._evidence() != self._kept
        before, self._state, self._revision = self._state, _state(record["state"]), revision
        moved = _place(before) != _place(self._state)
        if observer:
            if moved:
                self._begin_step()
            return moved
        for guard in self._guards:
            if guard.name in record["guards"]:
                guard.load(record["guards"][guard.name])
        self._kept = self._evidence()
        return moved

    def _begin_step(self) -> None:
        for guard in self._guards:
            guard.begin_step()


def _place(state: RolloutState) -> tuple[RolloutPhase, int]:
    return state.phase, state.step


def _plain(state: RolloutState) -> dict[str, Any]:
    return asdict(state) | {"phase": state.phase.value, "before": state.before.value}


def _state(record: dict[str, Any]) -> RolloutState:
    fields: dict[str, Any] = record | {"steps": tuple(record["steps"])}
    fields |= {name: RolloutPhase(record[name]) for name in ("phase", "before")}
    return RolloutState(**fields)
