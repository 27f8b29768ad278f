"""Settings that are changed while the component runs."""

from collections.abc import Mapping
from typing import Any, ClassVar

from prodml.events.fact import Event, fact

__all__ = ["SettingsChanged"]


@fact
class SettingsChanged(Event):
    """Settings of a running component changed: (old, new) by name."""

    level: ClassVar[str] = "warning"
    changes: Mapping[str, tuple[Any, Any]]
