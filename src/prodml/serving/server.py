"""Many versions of one model in one process, swapped while they serve."""

from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal, final

from prodml._call import Invoke, Steps, arun
from prodml.errors import BadConfiguration
from prodml.serving.lease import Lease
from prodml.serving.routing import Arm, Key, Route
from prodml.serving.rows import merge, take
from prodml.serving.shadow import Shadow, ShadowStats
from prodml.serving.versions import Versions

__all__ = ["VersionedModelServer"]


@final
@dataclass(kw_only=True, slots=True, eq=False)
class VersionedModelServer(Versions):
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

    shadow: Literal["thread", "inline"] = field(
        default="thread", metadata={"fixed": "copies may be on their way"}
    )
    shadow_size: int = field(default=1000, metadata={"fixed": "copies may be on their way"})
    rng: Random = field(default_factory=Random)
    _shadow: Shadow = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.shadow not in {"thread", "inline"}:
            raise BadConfiguration(f'shadow must be "thread" or "inline", not {self.shadow!r}')
        # Spelt out: a slotted dataclass is a new class, which super() does not know.
        Versions.__post_init__(self)
        self._shadow = Shadow(
            borrow=self.resolve,
            name=self.name,
            size=self.shadow_size,
            inline=self.shadow == "inline",
            clock=self.clock,
            events=self.events,
        )

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
        route = table.plain if version is None else table.pinned.get(version)
        if route is None:
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
            route = table.whole if version is None else table.pinned.get(version)
            if route is None:
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
