"""Versions and aliases of the registry, and who follows them."""

from typing import ClassVar

from prodml.events.fact import Event, fact
from prodml.types import ModelRef

__all__ = ["AliasMoved", "FollowingFailed", "ModelRegistered", "VersionsRetired"]


@fact
class ModelRegistered(Event):
    """A model version entered the registry."""

    ref: ModelRef


@fact
class AliasMoved(Event):
    """Alias ``alias`` of model ``name`` now points to ``new``, or to nothing."""

    name: str
    alias: str
    old: str | None
    new: str | None


@fact
class VersionsRetired(Event):
    """Retention has removed the bytes of ``versions`` (``"churn@3"``)."""

    versions: tuple[str, ...]


@fact
class FollowingFailed(Event):
    """A server stays where it is: it could not follow ``alias`` of ``model`` to ``version``.

    ``version`` is empty when the registry could not be asked.
    """

    level: ClassVar[str] = "error"
    model: str
    alias: str
    version: str
    reason: str
