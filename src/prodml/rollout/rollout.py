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
        self._load()

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
        """
        with self._lock:
            repeat = [] if self._told else commands_for(self._state)
            self._told = True
            fact = self._due()
            if fact is None:
                self._save(())
                return repeat
            return self._apply(fact) or repeat

    def freeze(self, reason: str) -> None:
        """Hold the rollout where it is; evidence of harm still rolls it back."""
        with self._lock:
            self._apply(Froze(self.clock.time(), reason))

    def unfreeze(self) -> None:
        """Go on after :meth:`freeze`; the step begins anew."""
        with self._lock:
            self._apply(Thawed(self.clock.time()))
            self._told = False

    def abort(self, reason: str) -> None:
        """End the rollout; the next tick says how to take the challenger out."""
        with self._lock:
            self._apply(Aborted(self.clock.time(), reason))
            self._told = False

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
    def _topic(self) -> str:
        return f"rollout/{self.name}/facts"

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

    def _apply(self, fact: Any) -> list[Command]:
        before = self._state
        after, commands = ROLLOUT.step(before, fact)
        if after is before:
            return []
        if (after.phase, after.step) != (before.phase, before.step):
            for guard in self._guards:
                guard.begin_step()
        self._state = after
        row = json.dumps({"fact": type(fact).__name__, **asdict(fact)}).encode()
        if not self._save([(self._topic, row)]):
            return []
        for event in self._told_events(before, after):
            self.events.emit(event)
        return list(commands)

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

    def _save(self, rows: Sequence[tuple[str, bytes]]) -> bool:
        """Keep state and evidence; return False, and take the other's state, if moved meanwhile."""
        record = {
            "format": _FORMAT,
            "state": asdict(self._state)
            | {"phase": self._state.phase.value, "before": self._state.before.value},
            "guards": {guard.name: guard.to_dict() for guard in self._guards},
        }
        try:
            self._revision = self._store.commit(
                f"rollout/{self.name}", json.dumps(record).encode(), self._revision, rows=rows
            )
        except Conflict:
            self._load()
            return False
        return True

    def _load(self) -> None:
        value, self._revision = self._store.read(f"rollout/{self.name}")
        if value is None:
            return
        record = json.loads(value)
        state = record["state"]
        self._state = RolloutState(
            **state
            | {
                "steps": tuple(state["steps"]),
                "phase": RolloutPhase(state["phase"]),
                "before": RolloutPhase(state["before"]),
            }
        )
        for guard in self._guards:
            if guard.name in record["guards"]:
                guard.load(record["guards"][guard.name])
