"""Rows that were refused and are kept for a look, with the reasons."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, cast

from prodml.errors import BadConfiguration
from prodml.validation.violation import Violation

__all__ = ["HeldRow", "Quarantine"]


@dataclass(frozen=True, slots=True)
class HeldRow:
    """One row kept aside, as it came, and everything that is wrong with it.

    Examples
    --------
    >>> HeldRow({"age": -1}, (Violation("age", "range", -1, "at least 0"),)).row
    {'age': -1}
    """

    row: Any
    violations: tuple[Violation, ...]


@dataclass(slots=True, eq=False)
class Quarantine:
    """The newest rows kept aside, in memory.

    Parameters
    ----------
    capacity
        Rows kept; the oldest leave first, and are counted in ``dropped``.

    Raises
    ------
    BadConfiguration
        A capacity below 0.

    Notes
    -----
    Rows are kept as they are, no copy: what the caller changes later is changed here too.
    They hold whatever data was refused; keep personal data no longer than you may.

    Examples
    --------
    >>> from prodml.validation import Field, Schema
    >>> schema = Schema({"age": Field(int, minimum=0, on={"range": "quarantine"})})
    >>> schema.validate_batch([{"age": -1}]).held
    1
    >>> [held.row for held in schema.quarantine.drain()], len(schema.quarantine)
    ([{'age': -1}], 0)
    """

    capacity: int = 1000
    dropped: int = field(default=0, init=False)
    _rows: deque[HeldRow] = field(init=False, repr=False)
    _lock: Lock = field(default_factory=Lock, init=False, repr=False)

    def __post_init__(self) -> None:
        whole = isinstance(cast("Any", self.capacity), int)
        if not whole or self.capacity < 0:
            raise BadConfiguration(f"capacity is a count of rows, >= 0, not {self.capacity!r}")
        self._rows = deque(maxlen=self.capacity)

    def _retuned(self) -> None:
        self.dropped += max(0, len(self._rows) - self.capacity)
        self._rows = deque(self._rows, maxlen=self.capacity)

    def __reduce__(self) -> tuple[Any, ...]:
        # The rows stay where they were refused.
        return type(self), (self.capacity,)

    def add(self, held: HeldRow, /) -> None:
        """Keep one more row."""
        with self._lock:
            self.dropped += len(self._rows) == self.capacity
            self._rows.append(held)

    def pass_over(self, count: int, /) -> None:
        """Count rows that would have left at once."""
        with self._lock:
            self.dropped += count

    def drain(self) -> list[HeldRow]:
        """Every row kept, oldest first; they are kept no longer."""
        with self._lock:
            rows = list(self._rows)
            self._rows.clear()
            return rows

    def __len__(self) -> int:
        return len(self._rows)

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Iterator[HeldRow]:
        with self._lock:
            return iter(list(self._rows))
