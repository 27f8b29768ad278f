"""Workers that serve by one table."""

from typing import ClassVar

from prodml.events.fact import Event, fact

__all__ = ["FleetCutOff", "FleetReconnected", "RoutingRefused"]


@fact
class FleetCutOff(Event):
    """A worker cannot reach the place of its fleet's table, and serves on by the last one."""

    level: ClassVar[str] = "warning"
    reason: str


@fact
class FleetReconnected(Event):
    """A worker can reach the place of its fleet's table again."""


@fact
class RoutingRefused(Event):
    """A worker cannot serve by its fleet's table of ``generation``, and stays with its own."""

    level: ClassVar[str] = "error"
    generation: int
    reason: str
