"""Records that were lost, and labels that came."""

from typing import ClassVar

from prodml.events.fact import Event, fact

__all__ = ["LabelsArrived", "RecordsDropped"]


@fact
class RecordsDropped(Event):
    """``count`` records were not written: ``reason``."""

    level: ClassVar[str] = "error"
    count: int
    reason: str


@fact
class LabelsArrived(Event):
    """``count`` late labels joined their predictions; ``total`` so far."""

    count: int
    total: int
