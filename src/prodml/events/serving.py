"""Versions that are loaded, routed to, taken back and put away."""

from collections.abc import Mapping
from typing import ClassVar

from prodml.events.fact import Event, fact

__all__ = [
    "DefaultVersionChanged",
    "ModelLoaded",
    "ModelRefused",
    "ModelUnloaded",
    "RolledBack",
    "TrafficRouted",
    "VersionQuarantined",
]


@fact
class ModelLoaded(Event):
    """A version became routable."""

    version: str


@fact
class ModelRefused(Event):
    """A version failed to load, to warm up or to pass its check; no request has seen it."""

    level: ClassVar[str] = "error"
    version: str
    reason: str


@fact
class ModelUnloaded(Event):
    """A version was drained and let go; ``returned`` bytes of memory came back, if known."""

    version: str
    returned: int | None = None


@fact
class DefaultVersionChanged(Event):
    """Requests without a version now go to ``new``."""

    old: str | None
    new: str
    reason: str


@fact
class TrafficRouted(Event):
    """The split changed: share by canary version, shadow versions, and all of it in words."""

    canary: Mapping[str, float]
    shadow: tuple[str, ...]
    traffic: str = ""


@fact
class RolledBack(Event):
    """A version was taken out of traffic and an earlier one put back."""

    level: ClassVar[str] = "error"
    old: str
    new: str
    reason: str


@fact
class VersionQuarantined(Event):
    """``version`` may not serve again until somebody releases it."""

    level: ClassVar[str] = "error"
    version: str
    reason: str
