"""A server that follows an alias of a registry.

::

    alias moved -> load (verified) -> prepare -> warm up, check -> default version

Somebody calls :meth:`Follower.tick` now and then: a thread, a scheduler, a test with a manual
clock.  A tick that finds nothing new costs some microseconds.  Whatever goes wrong, the
server goes on serving what it served, and a fact says why.
"""

import logging
import os
import threading
import weakref
from collections.abc import Callable, Collection, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Final, Protocol, final

from prodml.clock import SYSTEM_CLOCK, Clock
from prodml.errors import BadConfiguration, UnknownVersion
from prodml.events import EVENTS, FollowingFailed, Stream

__all__ = ["Follower", "follow"]

_LOG: Final = logging.getLogger("prodml.following")
_MOST_DOUBLINGS: Final = 5


class _Move(Protocol):
    @property
    def number(self) -> int: ...

    @property
    def new(self) -> str | None: ...

    @property
    def reason(self) -> str: ...


class _Watch(Protocol):
    def changed(self, since: int = 0) -> _Move | None: ...


class _Registry(Protocol):
    """What following asks of a registry."""

    def watch(self, name: str, alias: str) -> _Watch: ...

    def load(self, name: str, version_or_alias: str) -> Any: ...


class _Server(Protocol):
    """What following asks of a server."""

    @property
    def versions(self) -> Collection[str]: ...

    @property
    def default_version(self) -> str | None: ...

    def load_model(
        self, version: str, model: Any, *, warm_up: Sequence[Any] = (), check: Any = None
    ) -> None: ...

    def set_default_version(self, version: str, reason: str = "") -> None: ...


@final
@dataclass(slots=True, eq=False, weakref_slot=True)
class Follower:
    """Keeps the default version of ``server`` where ``alias`` of ``model`` points.

    Parameters
    ----------
    server
        A ``VersionedModelServer``; give it ``keep=1``, or every version stays in memory.
    registry
        A ``ModelRegistry`` that knows serializers and keys: what it refuses is not served.
    model, alias
        Which alias of which registered model.
    prepare
        Makes a model of what the registry has loaded, where that is not one yet.
    warm_up, check
        Handed to ``server.load_model``: rows to answer first, and a golden check.
    retry_after
        Seconds until a version that failed is tried again; doubled each time, at most 32
        times as long.  A further move of the alias is tried at once.

    Notes
    -----
    A version that is loaded already (the one before, or a challenger) becomes the default
    without loading: so moving the alias back is a rollback within a tick.  An alias that is
    dropped changes nothing.

    Examples
    --------
    >>> from prodml import ModelRegistry, VersionedModelServer
    >>> registry, server = ModelRegistry("memory://"), VersionedModelServer()
    >>> for bias in (0.2, 0.3):
    ...     ref = registry.register("churn", {"bias": bias})
    >>> follower = Follower(server, registry, "churn", prepare=lambda m: lambda row: m["bias"])
    >>> follower.tick() is None
    True
    >>> move = registry.alias("churn", "champion", "2")
    >>> follower.tick(), server.predict({}), follower.tick()
    ('2', 0.3, None)
    """

    server: _Server
    registry: _Registry
    model: str
    alias: str = "champion"
    _: KW_ONLY
    prepare: Callable[[Any], Any] | None = None
    warm_up: Sequence[Any] = ()
    check: Any = None
    retry_after: float = 30.0
    name: str = "follower"
    clock: Clock = SYSTEM_CLOCK
    events: Stream = EVENTS
    _watch: _Watch = field(init=False, repr=False)
    _seen: int = field(default=0, init=False, repr=False)
    _tried: int = field(default=0, init=False, repr=False)
    _attempts: int = field(default=0, init=False, repr=False)
    _due: float = field(default=0.0, init=False, repr=False)
    _error: Exception | None = field(default=None, init=False, repr=False)
    _told: tuple[str, str] | None = field(default=None, init=False, repr=False)
    _ticking: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.retry_after > 0:
            raise BadConfiguration(f"retry_after must be above 0 seconds, not {self.retry_after!r}")
        self._watch = self.registry.watch(self.model, self.alias)
        _FOLLOWERS.add(self)

    @property
    def error(self) -> Exception | None:
        """Why the server is not where the alias points; None when it is."""
        return self._error

    @property
    def generation(self) -> int:
        """The move of the alias that the server has followed, 0 before the first."""
        return self._seen

    def tick(self) -> str | None:
        """Follow the alias if it has moved; return the version that serves from now on.

        None if nothing is new, if another thread is at it, or if it went wrong, in which
        case :attr:`error` says why.  Raises nothing but what is no ``Exception``.
        """
        if not self._ticking.acquire(blocking=False):
            return None
        try:
            return self._ticked()
        finally:
            self._ticking.release()

    def _ticked(self) -> str | None:
        try:
            move = self._watch.changed(self._seen)
        except Exception as error:
            # The registry is away: what serves needs it not.
            self._failed("", error)
            return None
        if move is None:
            self._error = self._told = None
            return None
        if move.number == self._tried and self.clock.monotonic() < self._due:
            return None
        return self._taken(move)

    def _taken(self, move: _Move) -> str | None:
        try:
            if move.new is not None:
                self._take(move.new, move.reason)
        except Exception as error:
            self._attempts = self._attempts + 1 if move.number == self._tried else 1
            self._tried = move.number
            wait = self.retry_after * 2.0 ** min(self._attempts - 1, _MOST_DOUBLINGS)
            self._due = self.clock.monotonic() + wait
            self._failed(move.new or "", error)
            return None
        self._seen = move.number
        self._error = self._told = None
        return move.new

    def _take(self, version: str, reason: str) -> None:
        if version not in self.server.versions:
            model = self.registry.load(self.model, version)
            if self.prepare is not None:
                model = self.prepare(model)
            self.server.load_model(version, model, warm_up=self.warm_up, check=self.check)
        if version != self.server.default_version:
            why = f"{self.model}@{self.alias} moved"
            self.server.set_default_version(version, f"{why}: {reason}" if reason else why)

    def _failed(self, version: str, error: Exception) -> None:
        self._error = error
        told = (version, f"{type(error).__name__}: {error}")
        if told == self._told:
            return
        self._told = told
        _LOG.error("%s cannot follow %s@%s: %s", self.name, self.model, self.alias, told[1])
        fact = FollowingFailed(
            at=self.clock.time(),
            source=self.name,
            model=self.model,
            alias=self.alias,
            version=version,
            reason=told[1],
        )
        self.events.emit(fact)


_FOLLOWERS: "weakref.WeakSet[Follower]" = weakref.WeakSet()


def _renew_all() -> None:
    """In a forked child nobody ticks, whoever was at it in the parent."""
    for follower in list(_FOLLOWERS):
        follower._ticking = threading.Lock()  # noqa: SLF001


os.register_at_fork(after_in_child=_renew_all)


def follow(
    server: _Server, registry: _Registry, model: str, alias: str = "champion", **settings: Any
) -> Follower:
    """Make ``server`` serve what ``alias`` points at, and return what keeps it so when ticked.

    For the start of a worker: a server without any model fails here, not at its first
    request.

    Parameters
    ----------
    settings
        Those of :class:`Follower`.

    Raises
    ------
    UnknownVersion
        The alias points at nothing, and the server has no default version of its own.
    Exception
        Whatever the loading raised, if the server has no default version of its own.

    Examples
    --------
    >>> from prodml import ModelRegistry, VersionedModelServer
    >>> registry, server = ModelRegistry("memory://"), VersionedModelServer()
    >>> follow(server, registry, "churn")
    Traceback (most recent call last):
    prodml.errors.UnknownVersion: churn has no version 'champion'; known: none
    """
    follower = Follower(server, registry, model, alias, **settings)
    follower.tick()
    if server.default_version is None:
        raise follower.error or UnknownVersion(model, alias)
    return follower
