"""What a server knows about its versions, and the one way to change it."""

import os
import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from prodml.clock import SYSTEM_CLOCK, Clock
from prodml.events import EVENTS, Stream
from prodml.serving.plain import as_data
from prodml.serving.routing import Change, Table

__all__ = ["Board", "State"]

State: TypeAlias = Literal["loading", "ready", "unloading"]
"""What a version is at: being loaded and tried, able to answer, or waiting for its requests."""


@dataclass(kw_only=True, slots=True, eq=False, weakref_slot=True)
class Board:
    """The current table, and what everybody may ask about it; every property is one reading.

    Examples
    --------
    >>> board = Board(name="churn")
    >>> board.ready(), board.versions
    (False, ())
    """

    name: str = "models"
    clock: Clock = SYSTEM_CLOCK
    events: Stream = EVENTS
    _table: Table = field(init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def __post_init__(self) -> None:
        self._table = Table(name=self.name)
        _BOARDS.add(self)

    @property
    def versions(self) -> tuple[str, ...]:
        """Loaded versions, in order of loading."""
        return tuple(self._table.slots)

    @property
    def states(self) -> dict[str, State]:
        """State by version, those being loaded and unloaded included."""
        table = self._table
        states: dict[str, State] = dict.fromkeys(table.slots, "ready")
        states.update(dict.fromkeys(sorted(table.loading), "loading"))
        states.update(dict.fromkeys(table.draining, "unloading"))
        return states

    @property
    def default_version(self) -> str | None:
        """Version that answers requests without one."""
        return self._table.default

    @property
    def canary(self) -> Mapping[str, float]:
        """Share of traffic by canary version."""
        return self._table.traffic.canary

    @property
    def variants(self) -> Mapping[str, tuple[str, float]]:
        """Version and share by name of the arm of an experiment."""
        return self._table.traffic.variants

    @property
    def shadow_versions(self) -> tuple[str, ...]:
        """Versions that answer copies."""
        return tuple(self._table.traffic.shadow)

    @property
    def quarantined(self) -> Mapping[str, str]:
        """Reason by version that may not be routed to."""
        return self._table.quarantined

    @property
    def history(self) -> tuple[Change, ...]:
        """The last thousand changes, oldest first."""
        return self._table.history

    @property
    def in_flight(self) -> dict[str, int]:
        """Requests inside each version now, those being unloaded included."""
        table = self._table
        slots = (*table.slots.values(), *table.draining.values())
        return {slot.version: len(slot.busy) for slot in slots}

    def ready(self) -> bool:
        """Whether requests without a version can be answered: a default is set.

        An empty server is not ready, and a server that loads one more version stays ready.
        """
        return self._table.stable is not None

    def live(self) -> bool:
        """Whether the process should go on: always, since no command leaves a server broken."""
        return True

    def routing(self) -> dict[str, Any]:
        """The routing as plain data for JSON: what :meth:`Versions.apply_routing` takes.

        Default, earlier defaults, canary, variants, shadows, salt, overrides, cohorts and
        quarantine, from one reading of the table.

        Examples
        --------
        >>> Board().routing()["canary"]
        {}
        """
        return as_data(self._table)

    def _change(
        self, edit: Callable[[Table], Table], action: str, version: str = "", reason: str = ""
    ) -> tuple[Table, Table]:
        """Replace the table and note why; an edit that returns the same table is no change."""
        at = self.clock.time()

        def noted(table: Table) -> Table:
            edited = edit(table)
            return table if edited is table else edited.note(at, action, version, reason)

        return self._swap(noted)

    def _swap(self, edit: Callable[[Table], Table]) -> tuple[Table, Table]:
        with self._lock:
            old = self._table
            self._table = new = edit(old)
        return old, new

    def _after_fork(self) -> None:
        """Go on in a child process, where nobody ends what other threads have begun."""
        self._lock = threading.Lock()
        self._table = self._table.alone()


_BOARDS: "weakref.WeakSet[Board]" = weakref.WeakSet()


def _after_fork() -> None:
    for board in list(_BOARDS):
        board._after_fork()  # noqa: SLF001 - its own


os.register_at_fork(after_in_child=_after_fork)
