"""Many workers, one routing table."""

import os
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any, Final, Self, final

from prodml.clock import SYSTEM_CLOCK, Clock
from prodml.errors import BadConfiguration, Conflict, StoreUnavailable
from prodml.events import EVENTS, Stream
from prodml.serving.fleet_memory import HostPlace
from prodml.serving.fleet_record import (
    Agreement,
    FleetChange,
    Member,
    Record,
    reconciled,
    rehearsed,
)
from prodml.serving.fleet_store import StorePlace
from prodml.serving.fleet_watch import Glance, Place
from prodml.serving.fleet_worker import FleetWorker
from prodml.serving.server import VersionedModelServer
from prodml.serving.traffic import Cohorts, Overrides, Shadows, Variants

__all__ = ["FleetSnapshot", "ServingFleet"]

# Of dots alone it would be another folder.
_NAME: Final = re.compile(r"(?!\.+$)[A-Za-z0-9._-]{1,100}")
_PAUSE: Final = 0.001
_LONGEST_PAUSE: Final = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetSnapshot:
    """How this process takes part.

    ``condition`` is ``"not started"``, ``"connected"``, ``"cut off"`` (the last table stays) or
    ``"closed"``; ``trouble`` the last thing that went wrong.

    Examples
    --------
    >>> from prodml.serving import ServingFleet
    >>> ServingFleet(name="churn", store="memory://").snapshot().condition
    'not started'
    """

    worker: str
    condition: str
    member: Member
    trouble: str = ""


@final
@dataclass(slots=True, eq=False, weakref_slot=True)
class ServingFleet:
    """Workers that serve by one routing table: of one host, of many, or both.

    A command (:meth:`promote`, :meth:`route`, :meth:`rollback`, ...) writes the next table to
    one place by compare-and-swap; workers hear of it and apply it whole, or stay whole with
    what they have.  Requests ask nobody.  If the place cannot be reached, everybody serves on
    by the last table and commands fail without effect.

    Parameters
    ----------
    server
        The server of this process; None if it gives commands only.
    store
        Where the record is kept: ``"redis://host"``, a client of redis-py, ``"sqlite:///file"``
        or any :class:`~prodml.serving.FleetStore`.  Needed for more than one host.
    folder
        A folder for memory that the processes of this host share, best below ``/dev/shm`` or
        ``/run``.  Without a store the record is kept here; with one, this is the quick way.
    name
        Of the fleet: workers with the same name and store (or folder) belong together.  By
        default the name of the server.
    worker
        Of this process, unique in the fleet; by default host, process and a random mark.
    loader
        Called with a version that the table asks for and that is not loaded here, on a thread
        of its own: returns the model, or None if it has loaded it into the server itself, warmed
        up and checked.  Without one such a worker says ``"not loaded"`` and keeps its table.
    poll
        Seconds between two looks when nobody rings; the longest that news takes if a nudge is
        lost.
    ttl
        Seconds after which a silent worker is not counted any more.
    patience
        Seconds that a command tries before it gives up.

    Raises
    ------
    BadConfiguration
        Neither store nor folder, a name that makes no key, or seconds that make no sense.

    Notes
    -----
    Nothing is connected before :meth:`start`, :meth:`look` or a command, and only the first two
    start the thread.  A forked child takes part when it calls one of them itself.

    Order of a command: the record is written first, then the table is applied here, then the
    others are rung.  What one has seen served anywhere is therefore true everywhere soon.

    Examples
    --------
    >>> from prodml.serving import VersionedModelServer
    >>> from prodml.stores import MemoryStore
    >>> store = MemoryStore()
    >>> servers = [VersionedModelServer(name="churn") for _ in range(2)]
    >>> for server in servers:
    ...     for version in ("v1", "v2"):
    ...         server.load_model(version, lambda features, version=version: version)
    ...     server.set_default_version("v1")
    >>> here, there = (ServingFleet(server, store=store, poll=0.05) for server in servers)
    >>> with here, there:
    ...     agreement = here.promote("v2", reason="better on last week", wait=True)
    ...     agreement.complete, servers[1].predict({})
    (True, 'v2')
    """

    server: VersionedModelServer | None = None
    _: KW_ONLY
    store: Any = None
    folder: str | Path | None = None
    name: str = ""
    worker: str = ""
    loader: Callable[[str], Any] | None = None
    poll: float = 1.0
    ttl: float = 5.0
    patience: float = 1.0
    clock: Clock = SYSTEM_CLOCK
    events: Stream = EVENTS
    _truth: Place = field(init=False, repr=False)
    _worker: FleetWorker = field(init=False, repr=False)
    _glance: Glance = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.name and self.server is not None:
            self.name = self.server.name
        if not self.worker:
            host = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())[:60]
            self.worker = f"{host}-{os.getpid()}-{os.urandom(3).hex()}"
        self._check()
        limits: dict[str, Any] = {"ttl": self.ttl, "patience": self.patience, "clock": self.clock}
        memory = None
        if self.folder is not None:
            memory = HostPlace(Path(self.folder) / self.name, **limits)
        if self.store is not None:
            self._truth = StorePlace(self.store, self.name, **limits)
        elif memory is not None:
            self._truth = memory
        else:
            raise BadConfiguration(
                "a fleet needs a place for its record: store='redis://host' for many hosts, "
                "folder='/dev/shm/app' for the processes of one"
            )
        self._worker = FleetWorker(
            self.server,
            self._truth,
            memory,
            name=self.name,
            worker=self.worker,
            loader=self.loader,
            poll=self.poll,
            clock=self.clock,
            events=self.events,
        )
        self._glance = self._worker.glance

    def _check(self) -> None:
        for what, text in (("name", self.name), ("worker", self.worker)):
            if not _NAME.fullmatch(text):
                raise BadConfiguration(
                    f"{what}={text!r} must be 1 to 100 letters, digits, dots, dashes or "
                    "underscores, and not dots alone"
                )
        for what, seconds in (("poll", self.poll), ("patience", self.patience)):
            if not 0.0 < seconds < 3600.0:
                raise BadConfiguration(f"{what}={seconds!r} must be more than 0 seconds")
        if not self.ttl > self.poll:
            raise BadConfiguration(
                f"ttl={self.ttl!r} must be longer than poll={self.poll!r}, best five times: "
                "workers speak once a poll"
            )

    # -- taking part ------------------------------------------------------------------------

    def start(self) -> Self:
        """Take part from here on: apply the fleet's table, follow it by a daemon thread.

        Call it in every worker process, before the first request.  If the place of the record
        cannot be reached, the worker starts with the table that it has.

        Raises
        ------
        RuntimeError
            It is closed.
        """
        self._worker.start()
        return self

    def close(self) -> None:
        """Stop following; the server goes on with the table it has."""
        self._worker.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def look(self) -> None:
        """See whether there is news, for some dozen ns; at the head of a request.

        With a ``folder``, the request that calls this is answered by the newest table of the
        host, and workers agree within a request instead of within a thread's turn.  Starts
        taking part if nobody has.  Never raises, and never waits for anybody.
        """
        glance = self._glance
        if glance.word[1] != glance.seen:
            self._worker.catch_up()

    def sync(self) -> bool:
        """Look once, here and now; return whether the place of the record answered.

        The thread does this by itself: for tests, and for programs that must not have threads.
        """
        return self._worker.sync()

    # -- commands ---------------------------------------------------------------------------

    def promote(
        self,
        version: str,
        *,
        reason: str = "",
        by: str = "",
        expect: int | None = None,
        wait: bool = False,
        timeout: float = 10.0,
    ) -> Agreement:
        """Make ``version`` the default of all workers.

        Parameters
        ----------
        reason, by
            For everybody's history; ``by`` is this worker unless somebody else is named.
        expect
            Generation that the caller has seen; if there is another by now, nothing happens.
        wait
            Return only when all living workers serve by it or have said why they cannot.
        timeout
            Seconds to wait at most.

        Returns
        -------
        Agreement
            Who serves by what: ``complete`` if all of them do, else ``behind`` and ``cannot``.
            Empty unless waited for; :meth:`converged` asks later.

        Raises
        ------
        UnknownVersion
            It is not loaded here, and there is no ``loader``.
        BadConfiguration
            It is quarantined.
        StoreUnavailable
            The record cannot be reached.
        Conflict
            The generation is not the one expected, others were faster again and again, or,
            when waited for, the store was begun anew and has lost this command.

        In all these cases nothing has changed anywhere.

        Examples
        --------
        >>> from prodml.serving import VersionedModelServer
        >>> server = VersionedModelServer(name="churn")
        >>> server.load_model("v1", abs)
        >>> with ServingFleet(server, store="memory://", worker="one") as fleet:
        ...     _ = fleet.promote("v1", reason="first", by="ann")
        ...     print(fleet.history[-1])
        generation 1, promoted by ann: first
        """
        return self.change(
            lambda server: server.set_default_version(version),
            action="promoted",
            reason=reason,
            by=by,
            expect=expect,
            wait=wait,
            timeout=timeout,
        )

    def rollback(
        self,
        version: str | None = None,
        *,
        reason: str = "",
        by: str = "",
        expect: int | None = None,
        wait: bool = False,
        timeout: float = 10.0,
    ) -> Agreement:
        """Take a bad version out of all workers' traffic and quarantine it.

        Like :meth:`VersionedModelServer.rollback <prodml.serving.VersionedModelServer>`: by
        default the canaries if there are any, else the default version, for the last good one
        before it.  The other parameters are those of :meth:`promote`.
        """
        return self.change(
            lambda server: server.rollback(version, reason=reason),
            action="rolled back",
            reason=reason,
            by=by,
            expect=expect,
            wait=wait,
            timeout=timeout,
        )

    def route(
        self,
        *,
        canary: Mapping[str, float] | None = None,
        variants: Variants | None = None,
        shadow: Shadows = (),
        salt: str | None = None,
        overrides: Overrides | None = None,
        cohorts: Cohorts | None = None,
        reason: str = "",
        by: str = "",
        expect: int | None = None,
        wait: bool = False,
        timeout: float = 10.0,
    ) -> Agreement:
        """Replace the split of traffic on all workers.

        ``canary`` to ``cohorts`` are those of the server's ``route``, the others those of
        :meth:`promote`.
        """

        def edit(server: VersionedModelServer) -> None:
            server.route(
                canary=canary,
                variants=variants,
                shadow=shadow,
                salt=salt,
                overrides=overrides,
                cohorts=cohorts,
            )

        return self.change(
            edit,
            action="routed",
            reason=reason,
            by=by,
            expect=expect,
            wait=wait,
            timeout=timeout,
        )

    def release(self, version: str, *, reason: str = "", by: str = "") -> Agreement:
        """Lift the quarantine of ``version`` on all workers."""
        return self.change(
            lambda server: server.release(version), action="released", reason=reason, by=by
        )

    def change(
        self,
        edit: Callable[[VersionedModelServer], object],
        *,
        action: str = "changed",
        reason: str = "",
        by: str = "",
        expect: int | None = None,
        wait: bool = False,
        timeout: float = 10.0,
    ) -> Agreement:
        """Change the table by any commands of a server, as one.

        ``edit`` is called with a server that has the fleet's table and no models; what routing
        it has afterwards is what all workers get.  It may be called again if somebody else was
        faster.  The other parameters are those of :meth:`promote`.

        Examples
        --------
        >>> from prodml.serving import VersionedModelServer
        >>> server = VersionedModelServer(name="churn")
        >>> for version in ("v1", "v2", "v3"):
        ...     server.load_model(version, abs)
        >>> def both(server):
        ...     server.set_default_version("v2")
        ...     server.route(canary={"v3": 0.05})
        >>> with ServingFleet(server, store="memory://") as fleet:
        ...     _ = fleet.change(both, reason="release 7")
        ...     fleet.generation, server.default_version, dict(server.canary)
        (1, 'v2', {'v3': 0.05})
        """
        record = self._commanded(edit, expect, action=action, reason=reason, by=by or self.worker)
        self._worker.follow(record)
        if wait:
            return self._awaited(record, timeout)
        return Agreement.on(record, {})

    # -- looking ----------------------------------------------------------------------------

    def converged(self) -> Agreement:
        """Which living worker serves by which table, by their own words of a moment ago.

        Raises
        ------
        StoreUnavailable
            The place of the record cannot be reached.
        """
        try:
            record = Record.decoded(self._truth.read()[0], self._truth.where)
            return Agreement.on(record, self._truth.workers())
        except OSError as error:
            raise self._unavailable(error) from None

    @property
    def generation(self) -> int:
        """Generation of the table that this worker serves by; 0 before the first."""
        return self._worker.member().generation

    @property
    def history(self) -> tuple[FleetChange, ...]:
        """The last changes of the fleet that this worker has heard of, oldest first."""
        heard = self._worker.position.heard
        return heard.history if heard else ()

    def snapshot(self) -> FleetSnapshot:
        """How this process takes part."""
        worker = self._worker
        condition = {None: "not started", True: "connected", False: "cut off"}[worker.connected]
        return FleetSnapshot(
            worker=worker.worker,
            condition="closed" if worker.closed else condition,
            member=worker.member(),
            trouble=worker.trouble,
        )

    # -- inside -----------------------------------------------------------------------------

    def _commanded(
        self,
        edit: Callable[[VersionedModelServer], object],
        expect: int | None,
        *,
        action: str,
        reason: str,
        by: str,
    ) -> Record:
        """Record after the command, which is written; or the one that says it already."""
        ends = self.clock.monotonic() + self.patience
        while True:
            try:
                return self._attempt(edit, expect, action=action, reason=reason, by=by)
            except Conflict as error:
                if error.key == self.name or self.clock.monotonic() >= ends:
                    raise
            except OSError as error:
                if self.clock.monotonic() >= ends:
                    raise self._unavailable(error) from None
            self.clock.sleep(_PAUSE)

    def _attempt(
        self,
        edit: Callable[[VersionedModelServer], object],
        expect: int | None,
        *,
        action: str,
        reason: str,
        by: str,
    ) -> Record:
        value, revision = self._truth.read()
        base = self._base(value)
        if expect is not None and expect != base.generation:
            raise Conflict(self.name, expect, base.generation)
        table, changed = self._rehearsed(base, edit)
        if not changed and base.history:
            return base
        record = base.next(table, at=self.clock.time(), by=by, action=action, reason=reason)
        self._truth.commit(record.encoded(), revision)
        return record

    def _unavailable(self, error: OSError) -> StoreUnavailable:
        if isinstance(error, StoreUnavailable):
            return error
        return StoreUnavailable(self._truth.where, f"{type(error).__name__}: {error}")

    def _base(self, value: bytes | None) -> Record:
        """What holds now."""
        found = Record.decoded(value, self._truth.where)
        held = reconciled(self._worker.position.heard, found)
        return Record.first(self._founding()) if held is None else held

    def _founding(self) -> dict[str, Any]:
        """Table that the first command starts from: of this server, or what all workers serve."""
        if self.server is not None:
            return self.server.routing()
        serving = {member.version for member in self._truth.workers().values()}
        return {"default": serving.pop() if len(serving) == 1 else None}

    def _rehearsed(
        self, base: Record, edit: Callable[[VersionedModelServer], object]
    ) -> tuple[dict[str, Any], bool]:
        server = self.server
        versions = () if server is None else server.versions
        anything = server is None or self.loader is not None
        return rehearsed(self.name, base.table, versions, edit, anything=anything)

    def _awaited(self, record: Record, timeout: float) -> Agreement:
        ends, pause = self.clock.monotonic() + timeout, _PAUSE
        agreement = Agreement.on(record, {})
        while True:
            try:
                held = self._base(self._truth.read()[0])
                if held.newer(record) and not held.holds(record.change):
                    raise Conflict(self.name, str(record.change), str(held.change))
                agreement = Agreement.on(record, self._truth.workers())
            except OSError as error:
                self._worker.trouble = str(error)
            left = ends - self.clock.monotonic()
            if agreement.settled or left <= 0.0:
                return agreement
            self.clock.sleep(min(pause, left))
            pause = min(2.0 * pause, _LONGEST_PAUSE)
