"""Many versions of one model in one process, swapped while they serve."""

import threading
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal, final

from prodml._call import Invoke, Steps, arun
from prodml.clock import SYSTEM_CLOCK, Clock
from prodml.errors import BadConfiguration, DeadlineExceeded, RejectedAnswer
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
from prodml.serving.lease import Lease
from prodml.serving.routing import Arm, Change, Key, Route, Slot, Table
from prodml.serving.rows import merge, take
from prodml.serving.shadow import Shadow, ShadowStats

__all__ = ["VersionedModelServer"]


@final
@dataclass(kw_only=True, slots=True, eq=False)
class VersionedModelServer:
    """Serve several versions of a model and swap them under load, losing nothing.

    A request reads one immutable routing table, without a lock, and is answered by the
    version it found there.  A change builds the next table and stores it whole.  Unloading
    waits for the exact number of requests inside the version, then closes the model.

    Parameters
    ----------
    name
        Names the server in facts and errors, and salts the canary split.
    shadow
        ``"thread"`` scores shadow copies off the request path; ``"inline"`` on the calling
        thread, for simulations and notebooks.
    shadow_size
        Rows that may wait for the shadow thread; beyond it copies are dropped and counted.
    rng
        Draws the arm of requests without a key.

    Notes
    -----
    A model is any object with ``predict`` (also ``apredict``, ``predict_batch``,
    ``close`` if it has them) or a callable.  In-flight accounting is proven in
    ``prodml.serving.routing``.

    Examples
    --------
    >>> server = VersionedModelServer(name="churn")
    >>> server.load_model("v1", lambda features: 0.1)
    >>> server.load_model("v2", lambda features: 0.2)
    >>> server.set_default_version("v1")
    >>> server.predict({"age": 30}), server.predict({"age": 30}, version="v2")
    (0.1, 0.2)
    >>> server.set_default_version("v2", reason="better on last week")
    >>> server.rollback(reason="complaints"), server.predict({"age": 30})
    ('v1', 0.1)
    """

    name: str = "models"
    shadow: Literal["thread", "inline"] = field(
        default="thread", metadata={"fixed": "copies may be on their way"}
    )
    shadow_size: int = field(default=1000, metadata={"fixed": "copies may be on their way"})
    rng: Random = field(default_factory=Random)
    clock: Clock = SYSTEM_CLOCK
    events: Stream = EVENTS
    _table: Table = field(init=False, repr=False)
    _shadow: Shadow = field(init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.shadow not in {"thread", "inline"}:
            raise BadConfiguration(f'shadow must be "thread" or "inline", not {self.shadow!r}')
        self._table = Table(name=self.name)
        self._shadow = Shadow(
            borrow=self.resolve,
            name=self.name,
            size=self.shadow_size,
            inline=self.shadow == "inline",
            clock=self.clock,
            events=self.events,
        )

    # -- asking -------------------------------------------------------------------------

    def predict(self, features: Any, version: str | None = None, key: Key | None = None) -> Any:
        """Answer of the default version, of a canary, or of ``version`` if one is named.

        Parameters
        ----------
        features
            What the model's ``predict`` takes; passed on untouched.
        version
            A loaded version, which bypasses the split; None lets the table decide.
        key
            Entity that the split sticks to; without it the arm is drawn anew each time.

        Raises
        ------
        UnknownVersion
            ``version`` is not loaded, or no default is set.
        """
        table = self._table
        route = table.plain
        if version is not None or route is None:
            return self._predict(features, version, key)
        # This is ``resolve`` and ``release`` spelt out: the hot path of the room.
        busy = route.busy
        busy.append(None)
        try:
            if self._table is table:
                return route.predict(features)
        finally:
            busy.pop()
        return self._predict(features, version, key)

    def apredict(
        self, features: Any, version: str | None = None, key: Key | None = None
    ) -> Coroutine[Any, Any, Any]:
        """Like :meth:`predict`, awaited: by ``apredict`` or an async ``predict`` of the model.

        A model with neither answers in the event loop's thread.
        """
        return arun(self._steps(features, version, key), self.clock)

    def predict_batch(
        self, rows: Any, version: str | None = None, keys: Sequence[Key] | None = None
    ) -> Any:
        """Answers for ``rows`` in order; rows of different arms go to their models together.

        Parameters
        ----------
        rows
            A sequence of rows, an array of shape (n_rows, ...), or a frame.
        version
            As in :meth:`predict`.
        keys
            One key a row; without keys the whole batch goes to one version.

        Returns
        -------
        sequence of n_rows answers
            What the model returned if one version answered all; otherwise an array if
            every version returned arrays, else a list.
        """
        groups = self._assign(len(rows), version, keys)
        parts: list[tuple[Sequence[int], Any]] = []
        try:
            for route, places in groups:
                own = rows if len(groups) == 1 else take(rows, places)
                answers = route.predict_batch(own)
                parts.append((places, answers))
                if self._table.shadow:
                    self.mirror(route, own, answers, batch=True)
        finally:
            for route, _ in groups:
                route.release()
        return merge(parts, len(rows))

    def resolve(self, version: str | None = None, key: Key | None = None) -> Route:
        """Decide who answers and count the request in; pair with ``route.release()``.

        For flows that need the version before the call, say for a cache key::

            route = server.resolve(version, key)
            try:
                ...  # route.version, route.arm, route.predict(features)
            finally:
                route.release()

        Until the release the version stays loaded and open, whatever is swapped meanwhile.

        Raises
        ------
        UnknownVersion
            ``version`` is not loaded, or no default is set; nothing was counted.

        Examples
        --------
        >>> server = VersionedModelServer()
        >>> server.load_model("v1", abs)
        >>> route = server.resolve("v1")
        >>> route.version, route.arm, route.predict(-1), server.in_flight
        ('v1', 'pinned', 1, {'v1': 1})
        >>> route.release()
        """
        while True:
            table = self._table
            route = table.choose(version, key, self.rng)
            route.busy.append(None)
            if self._table is table:
                return route
            # The table moved on between choice and mark: the version may be closed by now.
            route.busy.pop()

    def lease(self, version: str | None = None, key: Key | None = None) -> Lease:
        """Hold a version for a ``with`` block, to call any of its methods.

        Examples
        --------
        >>> server = VersionedModelServer()
        >>> server.load_model("v1", [3, 1, 2].count)
        >>> with server.lease("v1") as lease:
        ...     lease.version, lease.model(3)
        ('v1', 1)
        """
        return Lease(self.resolve, version, key)

    def mirror(
        self,
        route: Route,
        features: Any,
        value: Any,
        request_id: str | Sequence[str] = "",
        *,
        batch: bool = False,
    ) -> None:
        """Offer a copy of an answered request to the shadow versions.

        Never waits and never raises an ``Exception``.  Only answers of the stable arm are
        copied, since shadows are compared with it; others are ignored.  :meth:`predict`
        does this itself; a flow built on :meth:`resolve` calls it with its route.

        Parameters
        ----------
        features, value
            The request and its answer; with ``batch``, n rows and n answers.
        request_id
            With ``batch`` a sequence of n ids, or empty.
        """
        versions = self._table.shadow
        if versions and route.arm == "stable":
            ids = (request_id,) if isinstance(request_id, str) else request_id
            self._shadow.offer(versions, route, features, value, ids, batch=batch)

    def shadow_stats(self) -> ShadowStats:
        """Rows offered to, scored by, failed in and dropped before the shadow versions."""
        return self._shadow.stats()

    def drain(self, timeout: float | None = None) -> bool:
        """Wait until the shadow queue is empty, at most ``timeout`` seconds; say whether it is."""
        return self._shadow.drain(timeout)

    # -- changing -----------------------------------------------------------------------

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

    def _predict(self, features: Any, version: str | None, key: Key | None) -> Any:
        route = self.resolve(version, key)
        try:
            value = route.predict(features)
        finally:
            route.release()
        if self._table.shadow:
            self.mirror(route, features, value)
        return value

    def _steps(self, features: Any, version: str | None, key: Key | None) -> Steps:
        route = self.resolve(version, key)
        try:
            value, error = yield Invoke(route.predict, (features,), acall=route.apredict)
        finally:
            route.release()
        if error is None:
            self.mirror(route, features, value)
        return value, error

    def _assign(
        self, rows: int, version: str | None, keys: Sequence[Key] | None
    ) -> list[tuple[Route, list[int]]]:
        if keys is not None and len(keys) != rows:
            raise ValueError(f"{len(keys)} keys for {rows} rows")
        if keys is None or version is not None or self._table.split is None:
            return [(self.resolve(version), list(range(rows)))]
        # By version and arm: the table may be replaced in the middle of this loop.
        groups: dict[tuple[str, Arm], tuple[Route, list[int]]] = {}
        for place, key in enumerate(keys):
            route = self.resolve(None, key)
            group = groups.setdefault((route.version, route.arm), (route, []))
            if group[1]:
                route.release()
            group[1].append(place)
        return list(groups.values())

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
