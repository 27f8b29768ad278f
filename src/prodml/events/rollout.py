"""A new version's way to all traffic."""

from prodml.events.fact import Event, fact

__all__ = ["ModelPromoted", "RolloutStarted", "RolloutStepped"]


@fact
class RolloutStarted(Event):
    """``version`` begins its way to promotion."""

    version: str
    stable: str


@fact
class RolloutStepped(Event):
    """``version`` entered ``phase`` with ``share`` of the traffic, because of ``reason``."""

    version: str
    phase: str
    share: float
    reason: str


@fact
class ModelPromoted(Event):
    """``version`` is the champion."""

    version: str
    previous: str | None
