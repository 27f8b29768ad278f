"""The versions of a server: loading, routing, rolling back, unloading; an audited table."""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prodml.clock import SYSTEM_CLOCK, Clock
from prodml.errors import DeadlineExceeded, RejectedAnswer
from prodml.events import (
    EVENTS,
    DefaultVersionChanged,
    Event,
    ModelLoaded,
    ModelUnloaded,
    RolledBack,
    Stream,
    TrafficRouted,
    VersionQuarantined,
)
from prodml.serving.routing import Change, Slot, Table

__all__ = ["Versions"]


@dataclass(kw_only=True, slots=True, eq=False)
class Versions:
    """Which versions are loaded and who gets which traffic: the commands of a server.

    Every command builds the next immutable table and stores it whole, so a request sees
    all of it or nothing; a refused command changes nothing.  Facts are stated after the
    change, never under the lock.

    Examples
    --------
    >>> versions = Versions(name="churn")
    >>> versions.load_model("v1", abs)
    >>> versions.set_default_version("v1", reason="first")
    >>> [(change.action, change.version, change.reason) for change in versions.history]
    [('loaded', 'v1', ''), ('default', 'v1', 'first')]
    """

    name: str = "models"
    clock: Clock = SYSTEM_CLOCK
    events: Stream = EVENTS
    _table: Table = field(init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def __post_init__(self) -> None:
        self._table = Table(name=self.name)

    def load_model(
        self,
        version: str,
        model: Any,
        *,
        warm_up: Iterable[Any] = (),
        check: Callable[[Any], object] | None = None,
    ) -> None:
        """Make ``model`` routable as ``version``, after it has shown that it works.

        Parameters
        ----------
        warm_up
            Rows that the model answers before anybody else asks it.
        check
            Called with the model; a false result (other than None) or an exception refuses it.

        Raises
        ------
        RejectedAnswer
            ``check`` said no.
        BadConfiguration
            The version is loaded already, or the model cannot be asked.
        Exception
            Whatever ``warm_up`` or ``check`` raised.  In every case nothing has changed.

        Examples
        --------
        >>> from prodml.serving import VersionedModelServer
        >>> server = VersionedModelServer()
        >>> server.load_model("v1", abs, warm_up=[0], check=lambda model: model(-2) == 3)
        Traceback (most recent call last):
        prodml.errors.RejectedAnswer: answer rejected: the check of version 'v1' failed
        >>> server.versions
        ()
        """
        slot = Slot.of(version, model)
        self._table.with_slot(slot)
        for row in warm_up:
            slot.predict(row)
        if check is not None:
            verdict = check(model)
            if verdict is not None and not verdict:
                raise RejectedAnswer(f"the check of version {version!r} failed", verdict)
        self._change(lambda table: table.with_slot(slot), "loaded", version)
        self.events.emit(ModelLoaded(at=self.clock.time(), source=self.name, version=version))

    def set_default_version(self, version: str, reason: str = "") -> None:
        """Send requests without a version to ``version`` from now on.

        A canary or shadow that becomes the default leaves the split.

        Raises
        ------
        UnknownVersion
            It is not loaded.
        BadConfiguration
            It is quarantined.
        """
        change = self._change(lambda table: table.with_default(version), "default", version, reason)
        self._tell(*change, reason)

    def route(
        self,
        *,
        canary: Mapping[str, float] | None = None,
        shadow: Sequence[str] = (),
        salt: str | None = None,
        reason: str = "",
    ) -> None:
        """Replace the split of traffic; ``route()`` sends everything to the default.

        Parameters
        ----------
        canary
            Share of unpinned requests, 0..1, by version; at most 1 in all.
        shadow
            Versions that answer copies of the default's requests.
        salt
            Text that decides which keys are in a canary; the server's name by default.
            Splits with different versions or salts are independent of each other.

        Raises
        ------
        UnknownVersion
            A version is not loaded.
        BadConfiguration
            No default, a quarantined version, or shares that are none.

        Examples
        --------
        >>> from prodml.serving import VersionedModelServer
        >>> server = VersionedModelServer()
        >>> for version in ("v1", "v2"):
        ...     server.load_model(version, lambda features, version=version: version)
        >>> server.set_default_version("v1")
        >>> server.route(canary={"v2": 0.25})
        >>> [server.predict({}, key=user) for user in ("kim", "lea", "max", "kim")]
        ['v1', 'v2', 'v2', 'v1']
        """
        shares, salted = dict(canary or {}), self.name if salt is None else salt
        change = self._change(
            lambda table: table.with_split(shares, shadow, salted), "routed", "", reason
        )
        self._tell(*change, reason)

    def rollback(self, version: str | None = None, *, reason: str = "") -> str | None:
        """Take a bad version out of traffic at once and quarantine it.

        Parameters
        ----------
        version
            Which; by default the canaries if there are any, else the default version.
            Naming one makes the call safe to repeat.
        reason
            For the history and the facts.

        Returns
        -------
        str or None
            The default version now: if the default was the bad one, the last default
            before it that is still loaded and not quarantined.

        Raises
        ------
        BadConfiguration
            There is no earlier default to return to; nothing has changed.
        """
        at = self.clock.time()

        def back(table: Table) -> Table:
            for bad in (version,) if version is not None else table.suspects():
                before, table = table, table.rolled_back(bad, reason)
                if table is not before:
                    table = table.note(at, "rolled back", bad, reason)
            return table

        old, new = self._swap(back)
        self._tell(old, new, reason)
        return new.default

    def release(self, version: str, reason: str = "") -> None:
        """Lift the quarantine of ``version``, which may then be routed to again."""
        self._change(lambda table: table.released(version), "released", version, reason)

    def unload_model(self, version: str, timeout: float | None = 30.0) -> None:
        """Take ``version`` out, wait for its requests to end, and close the model.

        Parameters
        ----------
        timeout
            Seconds to wait for requests inside the model; None waits for ever.

        Raises
        ------
        BadConfiguration
            It is the default, a canary or a shadow; nothing has changed.
        UnknownVersion
            It is not loaded.
        DeadlineExceeded
            Requests are still inside.  The version gets no new ones and stays open; call
            again to go on waiting.
        """
        _, table = self._change(lambda table: table.without(version), "unloaded", version)
        slot = table.draining[version]
        self._await_idle(slot, timeout)
        old, _ = self._swap(lambda table: table.drained(slot))
        # Whoever forgets the version closes it, so two callers close it once.
        if old.draining.get(version) is not slot:
            return
        try:
            close = getattr(slot.model, "close", None)
            if callable(close):
                close()
        finally:
            self.events.emit(ModelUnloaded(at=self.clock.time(), source=self.name, version=version))

    # -- looking ------------------------------------------------------------------------

    @property
    def versions(self) -> tuple[str, ...]:
        """Loaded versions, in order of loading."""
        return tuple(self._table.slots)

    @property
    def default_version(self) -> str | None:
        """Version that answers requests without one."""
        return self._table.default

    @property
    def canary(self) -> Mapping[str, float]:
        """Share of traffic by canary version."""
        return self._table.canary

    @property
    def shadow_versions(self) -> tuple[str, ...]:
        """Versions that answer copies."""
        return self._table.shadow

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

    # -- inside -------------------------------------------------------------------------

    def _change(
        self, edit: Callable[[Table], Table], action: str, version: str, reason: str = ""
    ) -> tuple[Table, Table]:
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

    def _tell(self, old: Table, new: Table, reason: str) -> None:
        """State what differs between two tables; never under the lock."""
        at, source = self.clock.time(), self.name
        facts: list[Event] = []
        for bad in [v for v in new.quarantined if v not in old.quarantined]:
            facts.append(VersionQuarantined(at=at, source=source, version=bad, reason=reason))
            if old.serves(bad) and new.default is not None:
                facts.append(
                    RolledBack(at=at, source=source, old=bad, new=new.default, reason=reason)
                )
        if new.default is not None and new.default != old.default:
            facts.append(
                DefaultVersionChanged(
                    at=at, source=source, old=old.default, new=new.default, reason=reason
                )
            )
        if (new.canary, new.shadow) != (old.canary, old.shadow):
            facts.append(
                TrafficRouted(at=at, source=source, canary=dict(new.canary), shadow=new.shadow)
            )
        for fact in facts:
            self.events.emit(fact)

    def _await_idle(self, slot: Slot, timeout: float | None) -> None:
        started, pause = self.clock.monotonic(), 0.0005
        # copy() takes the list's own lock in a free-threaded build; len() would not.
        while slot.busy.copy():
            left = None if timeout is None else timeout - (self.clock.monotonic() - started)
            if left is not None and left <= 0.0:
                what = f"unloading version {slot.version!r} of {self.name}"
                raise DeadlineExceeded(what, timeout or 0.0)
            self.clock.sleep(pause if left is None else min(pause, left))
            pause = min(pause * 2, 0.05)
