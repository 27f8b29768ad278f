"""Retraining as a table: from idle through training and gates back to idle."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from prodml._machine import Command, Machine, Row, Step

__all__ = [
    "RETRAINING",
    "Evaluate",
    "Failed",
    "Judged",
    "Register",
    "Requested",
    "RetrainingPhase",
    "RetrainingState",
    "Train",
    "Trained",
    "decoded",
    "encoded",
]


class RetrainingPhase(Enum):
    """Where the orchestrator stands.

    Examples
    --------
    >>> RetrainingPhase.TRAINING.busy, RetrainingPhase.IDLE.busy
    (True, False)
    """

    IDLE = "idle"
    TRAINING = "training"
    EVALUATING = "evaluating"

    @property
    def busy(self) -> bool:
        """Whether a job is under way."""
        return self is not RetrainingPhase.IDLE


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrainingState:
    """All that outlives a restart; plain data.

    ``trained_at`` is the end of the last *successful* training (epoch seconds, UTC) and
    ``trained_on`` its metrics: neither a submission nor a failure moves them.  ``outcome``
    is how the last job ended: ``""``, ``"registered"``, ``"rejected"``, ``"failed"``;
    ``fruitless`` counts the jobs in a row that ended without a new model.

    Examples
    --------
    >>> RetrainingState(trained_at=0.0).phase.value
    'idle'
    """

    trained_at: float
    trained_on: Mapping[str, float] = field(default_factory=dict[str, float])
    phase: RetrainingPhase = RetrainingPhase.IDLE
    job: str = ""
    jobs: int = 0
    requested_at: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])
    reason: str = ""
    outcome: str = ""
    fruitless: int = 0


# -- facts ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Requested:
    """Somebody or some trigger asks for a training."""

    at: float
    job: str
    reason: str
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Trained:
    """Job ``job`` has a challenger."""

    at: float
    job: str


@dataclass(frozen=True, slots=True)
class Judged:
    """The gates have spoken about the challenger of ``job``."""

    at: float
    job: str
    passed: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Failed:
    """Job ``job`` ended without a challenger, or was lost with its worker."""

    at: float
    job: str
    reason: str


# -- commands ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Train(Command):
    """Run the training of ``job``."""

    job: str


@dataclass(frozen=True, slots=True)
class Evaluate(Command):
    """Put the challenger of ``job`` through its gates."""

    job: str


@dataclass(frozen=True, slots=True)
class Register(Command):
    """Register the challenger of ``job`` and hand it on."""

    job: str


# -- transitions ------------------------------------------------------------------------


def _request(state: RetrainingState, fact: Requested) -> Step[RetrainingState]:
    after = replace(
        state,
        phase=RetrainingPhase.TRAINING,
        job=fact.job,
        jobs=state.jobs + 1,
        requested_at=fact.at,
        metrics=fact.metrics,
        reason=fact.reason,
        outcome="",
    )
    return after, [Train(fact.job)]


def _train(state: RetrainingState, fact: Trained) -> Step[RetrainingState]:
    if fact.job != state.job:
        return state, ()
    return replace(state, phase=RetrainingPhase.EVALUATING), [Evaluate(fact.job)]


def _judge(state: RetrainingState, fact: Judged) -> Step[RetrainingState]:
    if fact.job != state.job:
        return state, ()
    idle = replace(state, phase=RetrainingPhase.IDLE, reason=fact.reason)
    if not fact.passed:
        return replace(idle, outcome="rejected", fruitless=state.fruitless + 1), ()
    after = replace(
        idle,
        outcome="registered",
        fruitless=0,
        trained_at=fact.at,
        # A job started by hand without metrics does not mean that there were no data.
        trained_on={**state.trained_on, **state.metrics},
    )
    return after, [Register(fact.job)]


def _fail(state: RetrainingState, fact: Failed) -> Step[RetrainingState]:
    if fact.job != state.job:
        return state, ()
    after = replace(
        state,
        phase=RetrainingPhase.IDLE,
        outcome="failed",
        reason=fact.reason,
        fruitless=state.fruitless + 1,
    )
    return after, ()


_P = RetrainingPhase

RETRAINING: Machine[RetrainingState] = Machine(
    "retraining",
    [
        Row(_P.IDLE, Requested, (_P.TRAINING,), _request),
        Row(_P.TRAINING, Trained, (_P.EVALUATING, _P.TRAINING), _train),
        Row(_P.TRAINING, Failed, (_P.IDLE, _P.TRAINING), _fail),
        Row(_P.EVALUATING, Judged, (_P.IDLE, _P.EVALUATING), _judge),
        Row(_P.EVALUATING, Failed, (_P.IDLE, _P.EVALUATING), _fail),
    ],
)
"""The table.  A fact of another job than the one under way changes nothing."""


def encoded(state: RetrainingState) -> dict[str, Any]:
    """State as plain data.

    Examples
    --------
    >>> decoded(encoded(RetrainingState(trained_at=1.0))).trained_at
    1.0
    """
    return {name: getattr(state, name) for name in RetrainingState.__slots__} | {
        "phase": state.phase.value,
        "metrics": dict(state.metrics),
        "trained_on": dict(state.trained_on),
    }


def decoded(record: Mapping[str, Any]) -> RetrainingState:
    """State of plain data."""
    fields: dict[str, Any] = {**record, "phase": RetrainingPhase(record["phase"])}
    return RetrainingState(**fields)
