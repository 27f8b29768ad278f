"""What the log gives back: records, and what is missing."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from prodml.clock import utc
from prodml.types import MISS

__all__ = ["Gap", "Record"]


@dataclass(slots=True, kw_only=True)
class Record:
    """One logged prediction, with its label if that has arrived.

    Parameters
    ----------
    id
        Number of the line of its writer, from 1.
    writer
        Names the process that wrote it; ``(writer, id)`` is unique.
    at
        When it was logged, seconds since the epoch, UTC.
    request_id, features, prediction, model_version, latency_ms, metadata
        As they were given, see :mod:`prodml.recording.codec`.
    label
        The label logged last for the request, ``MISS`` if there is none.
    label_at
        When that label became known, seconds since the epoch.

    Examples
    --------
    >>> record = Record(id=1, writer="w", at=0.0, request_id="r-1", prediction=0.7)
    >>> record.when.isoformat(), record.labelled, record.failed
    ('1970-01-01T00:00:00+00:00', False, False)
    """

    id: int
    writer: str
    at: float
    request_id: str
    features: Any = None
    prediction: Any = None
    model_version: str = ""
    latency_ms: float | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    label: Any = MISS
    label_at: float | None = None

    @property
    def when(self) -> datetime:
        """``at`` as an aware UTC datetime."""
        return utc(self.at)

    @property
    def labelled(self) -> bool:
        """Whether the label has arrived."""
        return self.label is not MISS

    @property
    def failed(self) -> bool:
        """Whether the request got an error instead of an answer: ``status`` of the metadata."""
        return self.metadata.get("status") == "error"

    @property
    def error(self) -> str | None:
        """Type and message of what failed, None if nothing did."""
        return str(self.metadata.get("error", "unknown")) if self.failed else None


@dataclass(slots=True, kw_only=True, frozen=True)
class Gap:
    """``count`` lines of ``writer`` are missing behind line ``after`` in file ``segment``.

    ``cause`` is ``"dropped: <reason>"`` (the logger said so), ``"torn"`` (a line is there but
    not whole) or ``"missing"`` (nothing is there).

    Examples
    --------
    >>> Gap(writer="w", segment="w.000000.jsonl", after=7, count=2, cause="missing").count
    2
    """

    writer: str
    segment: str
    after: int
    count: int
    cause: str
