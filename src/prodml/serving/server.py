"""Many versions of one model in one process, swapped while they serve."""

from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any, Final, Literal, final

from prodml._call import Invoke, Steps, arun, run
from prodml._settings import size_of
from prodml.errors import BadConfiguration
from prodml.serving.diffs import ShadowDiff
from prodml.serving.lease import Lease
from prodml.serving.reply import BatchReply, Reply
from prodml.serving.rows import merge, miscounted, take
from prodml.serving.shadow import Shadow, ShadowStats
from prodml.serving.slot import Arm, Key, Route
from prodml.serving.versions import Versions

__all__ = ["VersionedModelServer"]

_ON_THEIR_WAY: Final = {"fixed": "copies may be on their way"}
_new: Final = object.__new__


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
    keep
        Earlier defaults that stay loaded for a rollback; when another version becomes the
        default, the older ones are unloaded behind everybody's back.  None keeps all.
    shadow
        ``"thread"`` scores shadow copies off the request path; ``"inline"`` on the calling
        thread, for simulations and notebooks.
    shadow_size, shadow_bytes
        Rows and bytes (a number, or text like ``"64 MiB"``) that may wait for the shadow
        thread; beyond either copies are dropped and counted.
    shadow_age
        Seconds after which a copy that still waits is dropped.
    shadow_rtol, shadow_atol
        A shadow's answer agrees within ``atol + rtol * abs(stable answer)``.
    rng
        Draws the arm of requests without a key, and the copies of a shadow's share.

    Notes
    -----
    A model is any object with ``predict`` (also ``apredict``, ``predict_batch``,
    ``apredict_batch``, ``close``, ``aclose`` if it has them), a callable, an estimator of
    scikit-learn, or a session of ONNX Runtime.  In-flight accounting is proven in
    ``prodml.serving.routing``.
    A forked child has the versions and the routing, and none of the requests, loads and
    unloads that other threads of its parent had begun.

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

    shadow: Literal["thread", "inline"] = field(default="thread", metadata=_ON_THEIR_WAY)
    shadow_size: int = field(default=1000, metadata=_ON_THEIR_WAY)
    shadow_bytes: int | str = field(default="64 MiB", metadata=_ON_THEIR_WAY)
    shadow_age: float = field(default=60.0, metadata=_ON_THEIR_WAY)
    shadow_rtol: float = field(default=1e-5, metadata=_ON_THEIR_WAY)
    shadow_atol: float = field(default=1e-8, metadata=_ON_THEIR_WAY)
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
            most=size_of(self.shadow_bytes, "shadow_bytes"),
            age=self.shadow_age,
            rtol=self.shadow_rtol,
            atol=self.shadow_atol,
            inline=self.shadow == "inline",
            rng=self.rng,
            clock=self.clock,
            events=self.events,
        )

    # -- answers ------------------------------------------------------------------------

    def predict(
        self,
        features: Any,
        version: str | None = None,
        key: Key | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """Answer of the default version, of a canary, or of ``version`` if one is named.

        Parameters
        ----------
        features
            What the model's ``predict`` takes; passed on untouched.
        version
            A loaded version, which bypasses the split; None lets the table decide.
        key
            Entity that the split sticks to; without it the arm is drawn anew each time.
        headers
            The request's headers, if ``route(overrides=)`` is to have a say.

        Raises
        ------
        UnknownVersion
            ``version`` is not loaded, or no default is set.
        """
        # As in ``call`` and ``resolve``, spelt out: the hot path of the room.
        while True:
            table = self._table
            route = table.whole if version is None else table.pinned.get(version)
            if route is None:
                route = table.choose(version, key, headers, self.rng)
            busy = route.busy
            busy.append(None)
            try:
                if self._table is table:
                    value = route.predict(features)
                    break
            finally:
                busy.pop()
        if table.copied is not None:
            self.mirror(route, features, value)
        return value

    def apredict(
        self,
        features: Any,
        version: str | None = None,
        key: Key | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Coroutine[Any, Any, Any]:
        """Like :meth:`predict`, awaited: by ``apredict`` or an async ``predict`` of the model.

        A model with neither answers in the event loop's thread.
        """
        return arun(_value(self._steps(features, version, key, headers)), self.clock)

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

        Raises
        ------
        UnknownVersion
            As for :meth:`predict`.
        RejectedAnswer
            A version did not give one answer a row.
        ValueError
            Not one key a row.
        """
        return self.call_batch(rows, version, keys).value

    def apredict_batch(
        self, rows: Any, version: str | None = None, keys: Sequence[Key] | None = None
    ) -> Coroutine[Any, Any, Any]:
        """Like :meth:`predict_batch`, awaited: by ``apredict_batch`` of the model if it has one."""
        return arun(_value(self._batch_steps(rows, version, keys, None, None)), self.clock)

    # -- answers with their origin --------------------------------------------------------

    def call(
        self,
        features: Any,
        version: str | None = None,
        key: Key | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """Answer as :meth:`predict` does, and say who answered, in one atomic reading.

        Examples
        --------
        >>> server = VersionedModelServer()
        >>> server.load_model("v1", abs)
        >>> server.call(-1, "v1")
        Reply(value=1, version='v1', arm='pinned')
        """
        while True:
            table = self._table
            route = table.whole if version is None else table.pinned.get(version)
            if route is None:
                route = table.choose(version, key, headers, self.rng)
            busy = route.busy
            busy.append(None)
            try:
                if self._table is table:
                    value = route.predict(features)
                    break
            finally:
                busy.pop()
        if table.copied is not None:
            self.mirror(route, features, value)
        # Reply(value, version, arm), at two thirds of the price of its own constructor.
        reply = _new(Reply)
        reply.value, reply.version, reply.arm = value, route.version, route.arm
        return reply

    def acall(
        self,
        features: Any,
        version: str | None = None,
        key: Key | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Coroutine[Any, Any, Reply]:
        """:meth:`call`, awaited as :meth:`apredict` is."""
        return arun(self._steps(features, version, key, headers), self.clock)

    def call_batch(
        self,
        rows: Any,
        version: str | None = None,
        keys: Sequence[Key] | None = None,
        headers: Mapping[str, str] | None = None,
        key: Key | None = None,
    ) -> BatchReply:
        """Answer as :meth:`predict_batch` does, and say who answered each row.

        Parameters
        ----------
        rows, version, keys
            As in :meth:`predict_batch`.
        headers
            As in :meth:`predict`, for all rows.
        key
            Sends the whole batch to the arm of one entity; for ``keys=None`` only.

        Examples
        --------
        >>> server = VersionedModelServer()
        >>> server.load_model("v1", abs)
        >>> server.call_batch([-1, 2], "v1").value
        [1, 2]
        """
        reply: BatchReply = run(self._batch_steps(rows, version, keys, headers, key), self.clock)
        return reply

    def acall_batch(
        self,
        rows: Any,
        version: str | None = None,
        keys: Sequence[Key] | None = None,
        headers: Mapping[str, str] | None = None,
        key: Key | None = None,
    ) -> Coroutine[Any, Any, BatchReply]:
        """:meth:`call_batch`, awaited as :meth:`apredict_batch` is."""
        return arun(self._batch_steps(rows, version, keys, headers, key), self.clock)

    # -- a version held -------------------------------------------------------------------

    def resolve(
        self,
        version: str | None = None,
        key: Key | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Route:
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
                route = table.choose(version, key, headers, self.rng)
            route.busy.append(None)
            if self._table is table:
                return route
            # The table moved on between choice and mark: the version may be closed by now.
            route.busy.pop()

    def lease(
        self,
        version: str | None = None,
        key: Key | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Lease:
        """Hold a version for a ``with`` block, to call any of its methods.

        Examples
        --------
        >>> server = VersionedModelServer()
        >>> server.load_model("v1", [3, 1, 2].count)
        >>> with server.lease("v1") as lease:
        ...     lease.version, lease.model(3)
        ('v1', 1)
        """
        return Lease(partial(self.resolve, version, key, headers))

    # -- shadows --------------------------------------------------------------------------

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
        versions = self._table.copied
        if versions is not None and route.arm == "stable":
            ids = (request_id,) if isinstance(request_id, str) else request_id
            self._shadow.offer(versions, route, features, value, ids, batch=batch)

    def shadow_stats(self) -> ShadowStats:
        """Rows offered to, scored by, failed in and dropped before the shadow versions."""
        return self._shadow.stats()

    def shadow_diffs(self) -> dict[str, ShadowDiff]:
        """How the answers of shadow versions differ from the default's, by version.

        Of the eight that were shadows last; a version that is loaded anew begins anew.
        """
        return self._shadow.diffs()

    def drain(self, timeout: float | None = None) -> bool:
        """Wait until the shadow queue is empty, at most ``timeout`` seconds; say whether it is."""
        return self._shadow.drain(timeout)

    # -- inside ---------------------------------------------------------------------------

    def _steps(
        self,
        features: Any,
        version: str | None,
        key: Key | None,
        headers: Mapping[str, str] | None,
    ) -> Steps:
        route = self.resolve(version, key, headers)
        try:
            value, error = yield Invoke(route.predict, (features,), acall=route.apredict)
        finally:
            route.release()
        if error is not None:
            return None, error
        self.mirror(route, features, value)
        return Reply(value, route.version, route.arm), None

    def _batch_steps(
        self,
        rows: Any,
        version: str | None,
        keys: Sequence[Key] | None,
        headers: Mapping[str, str] | None,
        key: Key | None,
    ) -> Steps:
        groups = self._assign(len(rows), version, keys, headers, key)
        parts: list[tuple[Sequence[int], Any]] = []
        try:
            for route, places in groups:
                own = rows if len(groups) == 1 else take(rows, places)
                answers, error = yield from route.batch_steps(own)
                if error is None:
                    split = len(groups) > 1
                    error = miscounted(answers, len(places), route.version, part=split)
                if error is not None:
                    return None, error
                parts.append((places, answers))
                self.mirror(route, own, answers, batch=True)
        finally:
            for route, _ in groups:
                route.release()
        who = {place: route for route, places in groups for place in places}
        routes = [who[place] for place in range(len(rows))]
        versions, arms = (tuple(r.version for r in routes), tuple(r.arm for r in routes))
        return BatchReply(merge(parts, len(rows)), versions, arms), None

    def _assign(
        self,
        rows: int,
        version: str | None,
        keys: Sequence[Key] | None,
        headers: Mapping[str, str] | None,
        key: Key | None,
    ) -> list[tuple[Route, list[int]]]:
        if keys is not None and len(keys) != rows:
            raise ValueError(f"{len(keys)} keys for {rows} rows")
        whole = self._table.whole
        if keys is None or version is not None or whole is not None:
            route = self.resolve(version, key, headers)
            if keys is None or version is not None or route is whole:
                return [(route, list(range(rows)))]
            # Traffic has been split meanwhile: the keys decide after all.
            route.release()
        # By version and arm: the table may be replaced in the middle of this loop.
        groups: dict[tuple[str, Arm], tuple[Route, list[int]]] = {}
        try:
            for place, own in enumerate(keys):
                route = self.resolve(None, own, headers)
                group = groups.setdefault((route.version, route.arm), (route, []))
                if group[1]:
                    route.release()
                group[1].append(place)
        except BaseException:
            for route, _ in groups.values():
                route.release()
            raise
        return list(groups.values())


def _value(steps: Steps) -> Steps:
    reply, error = yield from steps
    return None if error is not None else reply.value, error
