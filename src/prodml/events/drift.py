"""Data, answers and errors that are no longer what they were."""

from collections.abc import Mapping
from typing import ClassVar

from prodml.events.fact import Event, fact

__all__ = ["DriftCleared", "DriftDetected", "PerformanceDropped", "PredictionDriftDetected"]


@fact
class DriftDetected(Event):
    """Features moved by more than their floor: effect by feature."""

    level: ClassVar[str] = "warning"
    score: float
    effects: Mapping[str, float]
    reason: str


@fact
class DriftCleared(Event):
    """No feature is beyond its floor any more; ``features`` are those that were."""

    features: tuple[str, ...] = ()


@fact
class PredictionDriftDetected(Event):
    """The distribution of predictions moved by ``shift`` reference standard deviations."""

    level: ClassVar[str] = "warning"
    shift: float
    threshold: float
    reason: str


@fact
class PerformanceDropped(Event):
    """``metric`` fell from ``reference`` to ``current``."""

    level: ClassVar[str] = "warning"
    metric: str
    reference: float
    current: float
