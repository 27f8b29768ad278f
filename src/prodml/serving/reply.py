"""An answer together with who gave it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ["BatchReply", "Reply"]


@dataclass(slots=True)
class Reply:
    """One answer, the version that gave it, and why that version was asked.

    All three come from one reading of the routing table, so they belong together whatever
    is swapped meanwhile.

    Parameters
    ----------
    value
        What the model answered.
    version
        The version that answered.
    arm
        ``"stable"``, ``"canary"``, ``"pinned"``, ``"override"``, or the name of a variant or
        of a cohort.

    Examples
    --------
    >>> reply = Reply(0.7, "v2", "canary")
    >>> reply.value, reply.version, reply.arm
    (0.7, 'v2', 'canary')
    """

    value: Any
    version: str
    arm: str


@dataclass(slots=True)
class BatchReply:
    """Answers of a batch, and for each row who gave it.

    Parameters
    ----------
    value
        What ``predict_batch`` returns: n answers, in the order of the rows.
    versions, arms
        The version that answered, and why, for each row.

    Examples
    --------
    >>> reply = BatchReply([0.1, 0.7], ("v1", "v2"), ("stable", "canary"))
    >>> [row.version for row in reply], reply.version
    (['v1', 'v2'], '')
    """

    value: Any
    versions: tuple[str, ...]
    arms: tuple[str, ...]

    @property
    def version(self) -> str:
        """The version that answered all rows; empty if there were several, or no rows."""
        return _only(self.versions)

    @property
    def arm(self) -> str:
        """The arm of all rows; empty if there were several, or no rows."""
        return _only(self.arms)

    def __iter__(self) -> Iterator[Reply]:
        return map(Reply, self.value, self.versions, self.arms)

    def __len__(self) -> int:
        return len(self.versions)


def _only(names: tuple[str, ...]) -> str:
    return names[0] if len(set(names)) == 1 else ""
