"""What every fact has, and what makes a class one."""

from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any, ClassVar, TypeVar, cast, dataclass_transform

from prodml.clock import utc

__all__ = ["Event", "fact"]

C = TypeVar("C", bound=type)


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
def fact(cls: C) -> C:
    """Make ``cls`` a slotted dataclass that type checkers treat as frozen."""
    return cast("C", dataclass(slots=True, kw_only=True)(cls))


@fact
class Event:
    """Something that happened at ``at`` (seconds since the epoch, UTC) in component ``source``.

    Examples
    --------
    >>> Event(at=0.0, source="demo").when.isoformat()
    '1970-01-01T00:00:00+00:00'
    """

    level: ClassVar[str] = "info"

    at: float
    source: str

    @property
    def when(self) -> datetime:
        """``at`` as an aware UTC datetime."""
        return utc(self.at)

    def to_dict(self) -> dict[str, Any]:
        """Shallow dictionary with the fact's name under ``"event"``."""
        return {"event": type(self).__name__} | {
            f.name: getattr(self, f.name) for f in fields(self)
        }
