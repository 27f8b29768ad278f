"""Incidents, from the first sign to the last."""

from typing import ClassVar

from prodml.events.fact import Event, fact

__all__ = ["IncidentOpened", "IncidentResolved"]


@fact
class IncidentOpened(Event):
    """Somebody should look."""

    level: ClassVar[str] = "error"
    incident: str
    severity: str
    summary: str


@fact
class IncidentResolved(Event):
    """It is over."""

    incident: str
    summary: str
