"""The rollout as a table: which fact leads from which phase to which, with what to do."""

from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from prodml._machine import Command, Machine, Row, Step

__all__ = [
    "ROLLOUT",
    "Aborted",
    "Began",
    "FoundFine",
    "FoundWorse",
    "Froze",
    "Promote",
    "RollBack",
    "RolloutPhase",
    "RolloutState",
    "SetCanary",
    "StartShadow",
    "StopShadow",
    "Thawed",
    "commands_for",
]


class RolloutPhase(Enum):
    """Where a rollout stands.

    Examples
    --------
    >>> RolloutPhase.PROMOTED.done, RolloutPhase.CANARY.done
    (True, False)
    """

    PENDING = "pending"
    SHADOW = "shadow"
    CANARY = "canary"
    FROZEN = "frozen"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled back"

    @property
    def done(self) -> bool:
        """Whether nothing can follow."""
        return self in {RolloutPhase.PROMOTED, RolloutPhase.ROLLED_BACK}


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutState:
    """All that the machine knows; plain data, so a store can keep it.

    ``step`` counts canary steps from 0; ``since`` is when the phase or step began (epoch
    seconds); ``before`` the phase that was frozen.

    Examples
    --------
    >>> RolloutState(version="v2", stable="v1", steps=(0.1, 0.5)).share
    0.0
    """

    version: str
    stable: str
    steps: tuple[float, ...]
    shadow: bool = True
    phase: RolloutPhase = RolloutPhase.PENDING
    before: RolloutPhase = RolloutPhase.PENDING
    step: int = 0
    since: float = 0.0
    reason: str = ""

    @property
    def share(self) -> float:
        """Share of the traffic that the challenger answers."""
        if self.phase is RolloutPhase.PROMOTED:
            return 1.0
        standing = self.before if self.phase is RolloutPhase.FROZEN else self.phase
        return self.steps[self.step] if standing is RolloutPhase.CANARY else 0.0


# -- commands ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StartShadow(Command):
    """Let ``version`` answer copies of the stable version's requests.

    Examples
    --------
    >>> StartShadow("v2").version
    'v2'
    """

    version: str


@dataclass(frozen=True, slots=True)
class StopShadow(Command):
    """Stop copying requests to ``version``.

    Examples
    --------
    >>> StopShadow("v2").version
    'v2'
    """

    version: str


@dataclass(frozen=True, slots=True)
class SetCanary(Command):
    """Give ``version`` a ``share`` of the traffic, and keep copying the rest to it.

    Examples
    --------
    >>> SetCanary("v2", 0.05).share
    0.05
    """

    version: str
    share: float


@dataclass(frozen=True, slots=True)
class Promote(Command):
    """Make ``version`` the default.

    Examples
    --------
    >>> Promote("v2").version
    'v2'
    """

    version: str


@dataclass(frozen=True, slots=True)
class RollBack(Command):
    """Take ``version`` out of traffic at once.

    Examples
    --------
    >>> RollBack("v2", "error rate").reason
    'error rate'
    """

    version: str
    reason: str


# -- facts of the machine ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Began:
    """The rollout may start."""

    at: float


@dataclass(frozen=True, slots=True)
class FoundFine:
    """Every guard is content and the step has lasted long enough."""

    at: float
    reason: str


@dataclass(frozen=True, slots=True)
class FoundWorse:
    """A guard has shown harm."""

    at: float
    reason: str


@dataclass(frozen=True, slots=True)
class Aborted:
    """Somebody ended it."""

    at: float
    reason: str


@dataclass(frozen=True, slots=True)
class Froze:
    """Somebody holds it where it is."""

    at: float
    reason: str


@dataclass(frozen=True, slots=True)
class Thawed:
    """It may go on."""

    at: float


# -- transitions ------------------------------------------------------------------------


def commands_for(state: RolloutState) -> list[Command]:
    """What brings a server into the state's phase; safe to repeat."""
    # Frozen, it stays as it was.
    match state.before if state.phase is RolloutPhase.FROZEN else state.phase:
        case RolloutPhase.SHADOW:
            return [StartShadow(state.version)]
        case RolloutPhase.CANARY:
            return [SetCanary(state.version, state.share)]
        case RolloutPhase.PROMOTED:
            return [StopShadow(state.version), Promote(state.version)]
        case RolloutPhase.ROLLED_BACK:
            return [RollBack(state.version, state.reason)]
        case _:
            return []


def _move(state: RolloutState, **changes: Any) -> Step[RolloutState]:
    after = replace(state, **changes)
    return after, commands_for(after)


def _begin(state: RolloutState, fact: Began) -> Step[RolloutState]:
    phase = RolloutPhase.SHADOW if state.shadow else RolloutPhase.CANARY
    return _move(state, phase=phase, since=fact.at, reason="began")


def _leave_shadow(state: RolloutState, fact: FoundFine) -> Step[RolloutState]:
    return _move(state, phase=RolloutPhase.CANARY, step=0, since=fact.at, reason=fact.reason)


def _next_share(state: RolloutState, fact: FoundFine) -> Step[RolloutState]:
    if state.step + 1 < len(state.steps):
        return _move(state, step=state.step + 1, since=fact.at, reason=fact.reason)
    return _move(state, phase=RolloutPhase.PROMOTED, since=fact.at, reason=fact.reason)


def _fall(state: RolloutState, fact: FoundWorse | Aborted) -> Step[RolloutState]:
    return _move(state, phase=RolloutPhase.ROLLED_BACK, since=fact.at, reason=fact.reason)


def _freeze(state: RolloutState, fact: Froze) -> Step[RolloutState]:
    # Nothing is to be done: it stays where it is.
    return replace(state, phase=RolloutPhase.FROZEN, before=state.phase, reason=fact.reason), []


def _thaw(state: RolloutState, fact: Thawed) -> Step[RolloutState]:
    # The step begins anew: what was seen before the hold may no longer be so.
    return _move(state, phase=state.before, since=fact.at, reason="thawed")


_P = RolloutPhase
_UNDER_WAY = (_P.SHADOW, _P.CANARY)

ROLLOUT: Machine[RolloutState] = Machine(
    "rollout",
    [
        Row(_P.PENDING, Began, _UNDER_WAY, _begin),
        Row(_P.PENDING, Aborted, (_P.ROLLED_BACK,), _fall),
        Row(_P.SHADOW, FoundFine, (_P.CANARY,), _leave_shadow),
        Row(_P.CANARY, FoundFine, (_P.CANARY, _P.PROMOTED), _next_share),
        *(Row(phase, FoundWorse, (_P.ROLLED_BACK,), _fall) for phase in (*_UNDER_WAY, _P.FROZEN)),
        *(Row(phase, Aborted, (_P.ROLLED_BACK,), _fall) for phase in (*_UNDER_WAY, _P.FROZEN)),
        *(Row(phase, Froze, (_P.FROZEN,), _freeze) for phase in (_P.PENDING, *_UNDER_WAY)),
        Row(_P.FROZEN, Thawed, (_P.PENDING, *_UNDER_WAY), _thaw),
    ],
)
"""The table; ``ROLLOUT.diagram()`` draws it."""
