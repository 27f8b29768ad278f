"""A rollout under way: guards and machine, kept in a store, moved by whoever ticks."""

import logging
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, final

from prodml._machine import Command
from prodml.clock import SYSTEM_CLOCK, Clock
from prodml.errors import BadConfiguration, Conflict, CorruptRecord
from prodml.events import (
    EVENTS,
    Event,
    ModelPromoted,
    RolloutStarted,
    RolloutStepped,
    Stream,
)
from prodml.rollout.analysis import Finding, Guardrail, Verdict
from prodml.rollout.error_rate import ErrorRate
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
from prodml.rollout.paired_loss import PairedLoss
from prodml.rollout.reading import Reading
from prodml.rollout.record import Eras, Record, Rows
from prodml.rollout.report import page, step_told
from prodml.rollout.watch import Watch, full
from prodml.stores import MemoryStore, SharedStore, open_shared_store

__all__ = ["ERA", "Rollout"]

_LOG = logging.getLogger("prodml.rollout")

# A guard that has judged the challenger so often begins anew beside its old evidence, or
# harm that begins late would have to make up for all the good that came before.
ERA: Final = 1000
_MOST_FACTS: Final = 200
_UNDER_WAY: Final = frozenset({RolloutPhase.SHADOW, RolloutPhase.CANARY})


@final
@dataclass(slots=True, eq=False, weakref_slot=True)
class Rollout:
    """Walk ``version`` from shadow through canary steps to promotion, or back.

    Parameters
    ----------
    version, stable
        The challenger, and the version that serves.
    shadow
        Begin by answering copies of requests; False begins with the first canary step.
    steps
        Shares of traffic of the canary steps, growing, in (0, 1].  At 1 no stable arm is
        left to compare with.
    step_seconds
        How long shadow and each canary step last at least.
    min_requests
        Occasions on which some guard must have judged the challenger in each step, beside
        what each guard itself asks for (its ``enough``).
    guards
        Judge the challenger; by default :class:`PairedLoss` and :class:`ErrorRate` with
        their defaults.  One WORSE rolls back; all must be FINE to go on.  A guard that has
        never been told anything is left out of that, but one of them must have been; one
        that hears of the stable arm alone waits for the canary.  The rollout works on copies.
    calendar
        ``calendar(now)`` returns why nothing may go on at this time (epoch seconds), or None:
        weekends, a release stop.  Harm still rolls back.  If it raises, nothing goes on.
    handover
        Seconds after which commands are handed to another ticker, if the one that was handed
        them has not ticked since: it may be dead.
    store
        Keeps the state, and brings workers together: a rollout of the same ``name`` goes on
        where it was.  A URL, a client of Redis, or a :class:`~prodml.stores.SharedStore`.
    name
        By default made of both versions.

    Raises
    ------
    BadConfiguration
        No step, shares that do not grow or leave (0, 1], a negative time or number, no
        guard or two of one name, or the store has a rollout of this name for other versions.
    CorruptRecord
        What the store has under this name is no rollout.

    Notes
    -----
    Several processes may observe and tick.  What each has seen reaches the others with its
    own :meth:`tick` or :meth:`flush`; observing itself never waits for the store.

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
    min_requests: int = 0
    guards: Sequence[Guardrail] | None = None
    calendar: Callable[[float], str | None] | None = None
    handover: float = 60.0
    store: Any = None
    name: str = ""
    clock: Clock = SYSTEM_CLOCK
    events: Stream = EVENTS
    _watch: Watch = field(init=False, repr=False)
    _store: SharedStore = field(init=False, repr=False)
    _rows: Rows = field(init=False, repr=False)
    _record: Record = field(init=False, repr=False)
    _reading: Reading = field(init=False, repr=False)
    _revision: int = field(default=0, init=False, repr=False)
    _told: bool = field(default=False, init=False, repr=False)
    # The last orders that this object has handed out.
    _handed: int = field(default=-1, init=False, repr=False)
    # Harm that a tick found, and perhaps could not store: once shown it stays shown.
    _harm: str = field(default="", init=False, repr=False)
    _ticking: threading.RLock = field(default_factory=threading.RLock, init=False, repr=False)

    def __post_init__(self) -> None:
        shares = tuple(map(float, self.steps))
        growing = all(low < high for low, high in zip((0.0, *shares), shares, strict=False))
        if not shares or not growing or shares[-1] > 1.0:
            raise BadConfiguration(f"steps must grow within (0, 1], not {shares}")
        for setting in ("step_seconds", "min_requests", "handover"):
            if not getattr(self, setting) >= 0:
                raise BadConfiguration(f"{setting} must not be negative")
        self.name = self.name or f"{self.version}-over-{self.stable}"
        guards = (PairedLoss(), ErrorRate()) if self.guards is None else self.guards
        self._watch = Watch(guards)
        self._reading = Reading(self._watch.readers())
        self._store = MemoryStore() if self.store is None else open_shared_store(self.store)
        self._rows = self._new_rows()
        state = RolloutState(
            version=self.version, stable=self.stable, steps=shares, shadow=self.shadow
        )
        self._record = Record(state=state)
        self._catch_up()
        self._told = False
        _ROLLOUTS.add(self)

    # -- what is seen -------------------------------------------------------------------

    def observe_pair(self, challenger: float, stable: float) -> None:
        """Losses of both versions on one request, each in [0, 1]."""
        self._watch.pairs([(challenger, stable)])

    def observe_pairs(self, pairs: Iterable[tuple[float, float]]) -> None:
        """Losses (challenger, stable) of many requests."""
        self._watch.pairs(pairs)

    def observe_outcome(self, arm: str, *, ok: bool, seconds: float | None = None) -> None:
        """How a request of an arm ended, and how long it took if latency is guarded.

        An arm that is neither ``"canary"`` nor ``"stable"`` is left out: what was pinned to a
        version was not drawn by lot.
        """
        self._watch.outcome(arm, ok=ok, seconds=seconds)

    def observe_answers(self, challenger: Any, stable: Any) -> None:
        """Answers of both versions to one request, for :class:`Disagreement`."""
        self._watch.answers(challenger, stable)

    def observe_metric(self, name: str, arm: str, value: float) -> None:
        """A value of the :class:`Metric` called ``name``; other arms are left out.

        Raises
        ------
        BadConfiguration
            There is no such guard.
        """
        self._watch.metric(name, arm, value)

    def flush(self) -> None:
        """Hand in to the store what this process has seen; :meth:`tick` does it too.

        Raises
        ------
        StoreUnavailable
            Nothing is lost, nothing will be counted twice; the next call hands it in.
        """
        with self._ticking:
            self._catch_up()
            self._hand_in()

    # -- what follows -------------------------------------------------------------------

    def tick(self) -> list[Command]:
        """Judge what all workers saw and say what to do; empty when nothing follows.

        Safe at any time, by any thread or process: of two that tick at once one moves the
        rollout, the other finds it moved.  The first tick after a start repeats the
        commands of the phase, in case they were not carried out before.

        Raises
        ------
        StoreUnavailable
            Nothing has moved; the next tick judges the same evidence again.
        CorruptRecord
            What the store has is not what was written; nothing has moved.
        """
        with self._ticking:
            self._catch_up()
            self._hand_in()
            draft, commands = self._owed()
            draft = self._reading.fetched(draft, self.clock.time())
            draft, moved = self._judged(draft)
            before = self._record
            if draft is not before and not self._commit(draft):
                return []
            # Not before the store has taken it, or a failure would swallow the commands.
            self._told = True
            commands = moved or commands
            if commands:
                self._handed = draft.orders
        self._emit(before, draft)
        return commands

    def freeze(self, reason: str) -> None:
        """Hold the rollout where it is; evidence of harm still rolls it back."""
        self._insist(Froze(self.clock.time(), reason))

    def unfreeze(self) -> None:
        """Go on after :meth:`freeze`; the step begins anew."""
        self._insist(Thawed(self.clock.time()))

    def abort(self, reason: str) -> None:
        """End the rollout; the next tick, whoever's, says how to take the challenger out."""
        self._insist(Aborted(self.clock.time(), reason))

    # -- what is known ------------------------------------------------------------------

    @property
    def phase(self) -> RolloutPhase:
        """Where the rollout stands."""
        return self._record.state.phase

    @property
    def share(self) -> float:
        """Share of the traffic that the challenger answers."""
        return self._record.state.share

    @property
    def done(self) -> bool:
        """Whether it was promoted or rolled back."""
        return self._record.state.phase.done

    def findings(self) -> dict[str, Finding]:
        """What each guard says now, by name, of what all workers have handed in."""
        with self._ticking:
            self._catch_up()
            return self._findings(self._record)

    def to_dict(self) -> dict[str, Any]:
        """Report as plain data, ready for JSON: state, findings, steps and facts so far.

        ``steps`` has an entry for each step that has ended and one for the present one: when,
        what each guard said, its numbers, and what was decided.
        """
        findings, record, now = self.findings(), self._record, self.clock.time()
        state = record.state
        steps = list(record.steps)
        holding = "" if state.phase.done else self._holding(record, findings)
        if not state.phase.done:
            steps.append(
                step_told(state, now, findings, f"hold: {holding}" if holding else "go on")
            )
        return {
            "name": self.name,
            "version": self.version,
            "stable": self.stable,
            "phase": state.phase.value,
            "share": state.share,
            "reason": state.reason,
            "holding": holding,
            "at": now,
            "findings": {
                name: {"verdict": f.verdict.value, "reason": f.reason} | dict(f.numbers)
                for name, f in findings.items()
            },
            "steps": steps,
            "facts": list(record.facts),
        }

    def to_html(self, path: str | Path | None = None) -> str:
        """The report as one self-contained page; also written to ``path``."""
        text = page(self.to_dict())
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text

    # -- judging ------------------------------------------------------------------------

    def _findings(self, record: Record) -> dict[str, Finding]:
        return self._watch.judge(self._parts(record))

    def _parts(self, record: Record) -> list[Eras]:
        return [self._watch.sums(), *self._rows.others(), record.sums]

    def _judged(self, draft: Record) -> tuple[Record, list[Command]]:
        """What follows from the evidence: the record after it, and the commands of a move."""
        if draft.state.phase.done:
            return draft, []
        parts = self._parts(draft)
        findings = self._watch.judge(parts)
        fact = self._due(draft, findings)
        if fact is not None:
            return self._moved(draft, fact, findings, self._rows.mine)
        return (replace(draft, era=draft.era + 1) if full(parts, draft.era, ERA) else draft), []

    def _due(self, record: Record, findings: dict[str, Finding]) -> Any:
        now, pending = self.clock.time(), record.state.phase is RolloutPhase.PENDING
        self._harm = self._harm or _harm(findings)
        if self._harm and not pending:
            return FoundWorse(now, self._harm)
        if self._holding(record, findings):
            return None
        if pending:
            return Began(now)
        told = (f"{n}: {f.reason}" for n, f in findings.items() if f.verdict is Verdict.FINE)
        return FoundFine(now, "; ".join(told))

    def _holding(self, record: Record, findings: dict[str, Finding]) -> str:
        """Why the rollout does not go on, if it does not."""
        state, now = record.state, self.clock.time()
        if state.phase is RolloutPhase.FROZEN:
            return f"frozen: {state.reason}"
        closed = self._closed(now)
        if closed or state.phase is RolloutPhase.PENDING:
            return closed
        if now - state.since < self.step_seconds:
            return f"{now - state.since:.0f} of {self.step_seconds:g} s"
        unread = (f"{name}: {why}" for name, why in self._reading.failed.items())
        canary = state.phase is RolloutPhase.CANARY
        return next(unread, "") or _doubt(findings, self.min_requests, canary=canary)

    def _closed(self, now: float) -> str:
        try:
            reason = None if self.calendar is None else self.calendar(now)
        except Exception as error:
            _LOG.warning("%s: the calendar raised", self.name, exc_info=True)
            reason = f"it raised {error!r}"
        return f"calendar: {reason}" if reason else ""

    # -- moving -------------------------------------------------------------------------

    def _owed(self) -> tuple[Record, list[Command]]:
        """Commands that were not handed out yet, or to somebody who may be dead."""
        record, mine, now = self._record, self._rows.mine, self.clock.time()
        # The first tick of a process repeats: its server may be as new as it is.
        first, commands = not self._told, commands_for(record.state)
        if record.owed_until is None:
            return record, (commands if first else [])
        if record.teller == mine and self._handed == record.orders:
            return replace(record, owed_until=None), []
        if first or record.teller in {"", mine} or now >= record.owed_until:
            return replace(record, teller=mine, owed_until=now + self.handover), commands
        return record, []

    def _moved(
        self, record: Record, fact: Any, findings: dict[str, Finding], teller: str
    ) -> tuple[Record, list[Command]]:
        before, (after, commands) = record.state, ROLLOUT.step(record.state, fact)
        if after is before:
            return record, []
        told = {"fact": type(fact).__name__, **asdict(fact)}
        steps = record.steps
        if isinstance(fact, FoundFine | FoundWorse | Aborted):
            steps = (*steps, step_told(before, fact.at, findings, after.phase.value))
        if commands:
            until = fact.at + self.handover
            record = replace(record, orders=record.orders + 1, teller=teller, owed_until=until)
        moved = replace(
            record,
            state=after,
            era=record.era + 1,
            since=record.era + 1,
            moves=record.moves + 1,
            steps=steps,
            facts=(*record.facts, told)[-_MOST_FACTS:],
        )
        return self._reading.begun(moved, fact.at), list(commands)

    def _insist(self, fact: Any) -> None:
        """Apply an operator's word, whatever another process has done meanwhile."""
        with self._ticking:
            before, after = self._said(fact)
        self._emit(before, after)

    def _said(self, fact: Any) -> tuple[Record, Record]:
        while True:
            self._catch_up()
            before = self._record
            # Whoever ticks next carries it out: an operator's own process may not.
            findings = self._found(before) if isinstance(fact, Aborted) else {}
            after, _ = self._moved(before, fact, findings, "")
            if after is before or self._commit(after):
                return before, after

    def _found(self, record: Record) -> dict[str, Finding]:
        try:
            return self._findings(record)
        except CorruptRecord:
            # No reason to refuse an operator's word.
            _LOG.warning("%s: evidence cannot be read", self.name, exc_info=True)
            return {}

    def _emit(self, before: Record, after: Record) -> None:
        # Outside the lock: a listener may wait for a thread that asks this very rollout.
        if after.moves > before.moves:
            for event in self._told_events(before.state, after.state):
                self.events.emit(event)

    def _told_events(self, before: RolloutState, after: RolloutState) -> list[Event]:
        at, source, version = self.clock.time(), self.name, self.version
        told: list[Event] = []
        if before.phase is RolloutPhase.PENDING and after.phase in _UNDER_WAY:
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

    # -- storing ------------------------------------------------------------------------

    @property
    def _key(self) -> str:
        return f"rollout/{self.name}"

    def _new_rows(self) -> Rows:
        return Rows(self._store, self._key, os.urandom(8).hex())

    def _hand_in(self) -> None:
        if not self.done:
            self._rows.hand_in(self._watch.sums())

    def _commit(self, draft: Record) -> bool:
        """Keep ``draft``, or return False, and catch up, if somebody else has written."""
        try:
            self._revision = self._store.commit(self._key, draft.encoded(), self._revision)
        except Conflict:
            self._catch_up()
            return False
        self._take_up(draft)
        return True

    def _catch_up(self) -> None:
        """Take over what another process has stored."""
        value, revision = self._store.read(self._key)
        if value is None or revision == self._revision:
            return
        found = Record.decoded(self._key, value)
        if (found.state.version, found.state.stable) != (self.version, self.stable):
            raise BadConfiguration(
                f"the store has a rollout {self.name!r} of {found.state.version!r} over "
                f"{found.state.stable!r}: give this one another name"
            )
        # Who moved it was handed the commands of the move; a freeze has none.
        self._told = self._told or found.orders != self._record.orders
        self._revision = revision
        self._take_up(found)

    def _take_up(self, record: Record) -> None:
        self._record = record
        if record.era > self._watch.era:
            self._watch.turn(record.era, record.since)

    def _renew(self) -> None:
        """Be a worker of one's own: in a forked child, whose parent keeps what it saw."""
        self._ticking = threading.RLock()
        self._rows = self._new_rows()
        self._watch.forget()


def _harm(findings: dict[str, Finding]) -> str:
    worse = (f"{n}: {f.reason}" for n, f in findings.items() if f.verdict is Verdict.WORSE)
    return next(worse, "")


def _doubt(findings: dict[str, Finding], least: int, *, canary: bool) -> str:
    # In shadow there is no second arm to hear of; in a canary step its silence is no good sign.
    asked = {
        name: f
        for name, f in findings.items()
        if f.numbers.get("in_all", 1) or (canary and "heard" in f.numbers)
    }
    if not asked:
        return "no guard has been told anything"
    for name, finding in asked.items():
        if finding.verdict is not Verdict.FINE:
            return f"{name}: {finding.reason}"
    most = max(f.numbers.get("n", least) for f in asked.values())
    return f"{most:g} of {least} requests in this step" if most < least else ""


_ROLLOUTS: "weakref.WeakSet[Rollout]" = weakref.WeakSet()


def _renew_all() -> None:
    for rollout in list(_ROLLOUTS):
        rollout._renew()  # noqa: SLF001


os.register_at_fork(after_in_child=_renew_all)
