"""Sources of features that fail and recover."""

from typing import ClassVar

from prodml.events.fact import Event, fact

__all__ = ["FeatureSourceFailed", "FeatureSourceRecovered"]


@fact
class FeatureSourceFailed(Event):
    """The source of feature view ``view`` began to fail; defaults stand in."""

    level: ClassVar[str] = "warning"
    view: str
    reason: str


@fact
class FeatureSourceRecovered(Event):
    """The source of feature view ``view`` answered again after ``failures`` failed calls."""

    view: str
    failures: int
