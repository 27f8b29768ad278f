"""The way to a new model: asked for, trained, judged."""

from collections.abc import Mapping
from typing import Any, ClassVar

from prodml.events.fact import Event, fact

__all__ = [
    "GateFailed",
    "GatePassed",
    "RetrainingRequested",
    "RetrainingSuppressed",
    "ScheduleDue",
    "TrainingFailed",
    "TrainingFinished",
    "TrainingStarted",
]


@fact
class ScheduleDue(Event):
    """The calendar asks for a training."""

    due: float


@fact
class RetrainingRequested(Event):
    """A trigger fired and nothing suppressed it."""

    model: str
    trigger: str
    reason: str
    evidence: Mapping[str, Any]
    job: str


@fact
class RetrainingSuppressed(Event):
    """A trigger fired but was held back, so that silence is never a riddle."""

    model: str
    trigger: str
    reason: str
    suppressed_by: str


@fact
class TrainingStarted(Event):
    """Job ``job`` runs."""

    model: str
    job: str


@fact
class TrainingFinished(Event):
    """Job ``job`` produced a challenger."""

    model: str
    job: str
    seconds: float


@fact
class TrainingFailed(Event):
    """Job ``job`` ended without a model."""

    level: ClassVar[str] = "error"
    model: str
    job: str
    reason: str


@fact
class GatePassed(Event):
    """The challenger may go on: ``metric`` of both on the same rows."""

    model: str
    job: str
    gate: str
    champion: float | None
    challenger: float
    reason: str


@fact
class GateFailed(Event):
    """The challenger is refused: ``metric`` of both on the same rows."""

    level: ClassVar[str] = "warning"
    model: str
    job: str
    gate: str
    champion: float | None
    challenger: float
    reason: str
