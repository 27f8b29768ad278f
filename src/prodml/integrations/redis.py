"""Redis and Valkey as stores of bytes, for threads and for tasks.

Made for a cache in front of predictions: one short time limit for a request, no retries,
connections of its own.  A client's defaults are made for data that must not be lost
(redis-py 8 tries eleven times, five seconds each); here an answer that is late is worth
nothing.  Where the client's connections can be had, requests go past the client, see
:mod:`prodml.integrations.redis_wire`; a cluster's, a sentinel's and a stand-in's client is
used as it is, and so are scripts for records and leases.
"""

import asyncio
import codecs
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, cast

from prodml.errors import BadConfiguration, StoreUnavailable, WriteRefused
from prodml.integrations import redis_commands as commands
from prodml.integrations import redis_records
from prodml.integrations.redis_commands import Operation, Refused
from prodml.integrations.redis_nudges import Ear
from prodml.integrations.redis_protocol import Command, Refusal, get_request
from prodml.integrations.redis_wire import NoWire, Wires, dialled
from prodml.integrations.redis_wire_async import AsyncWires, adialled
from prodml.stores import Lease

__all__ = ["AsyncRedisStore", "RedisStore", "open_async_store", "open_store"]

# What a connection needs to reach its server; all else (timeouts, retries, decoding,
# handlers bound to the client's pool) is ours.
_ADDRESS: Final = frozenset(
    {"host", "port", "path", "db", "username", "password", "client_name", "protocol"}
    | {"credential_provider", "socket_keepalive", "socket_type", "redis_connect_func"}
)
_MOST_CONNECTIONS: Final = 32
_PLAIN_POOLS: Final = frozenset({"ConnectionPool", "BlockingConnectionPool"})
_CONNECTIONS: Final = frozenset({"Connection", "SSLConnection", "UnixDomainSocketConnection"})


class _Source:
    """Where clients come from: an address that both colours can use, or the client itself."""

    __slots__: tuple[str, ...] = ("address", "awaited", "client", "connection", "where")

    def __init__(self, target: Any) -> None:
        self.client: Any = None if isinstance(target, str) else target
        pool = _pool_of(target)
        self.connection: str = getattr(pool, "connection_class", type(None)).__name__
        settings: dict[str, Any] = dict(getattr(pool, "connection_kwargs", {}))
        self.address: dict[str, Any] = {
            name: value
            for name, value in settings.items()
            if name in _ADDRESS or name.startswith("ssl_")
        }
        self.awaited: bool = ".asyncio" in type(target).__module__ or _is_awaited(target)
        place = settings.get("path") or f"{settings.get('host')}:{settings.get('port')}"
        self.where: str = f"redis at {place}"

    @property
    def portable(self) -> bool:
        """Whether a fresh client of either colour can be made from the address."""
        return self.connection in _CONNECTIONS

    @property
    def raw(self) -> bool:
        """Whether connections can be had without their client."""
        return self.portable and "redis_connect_func" not in self.address

    def dialling(self, package: Any, retry: Any, timeout: float) -> tuple[Any, dict[str, Any]]:
        """Class and settings of one connection of ``package``.

        No request waits for it longer than it may, so that it may take its time: a
        handshake over TLS that lasts longer than a request would else never end.
        """
        settings = {**self.address, **_limits(max(timeout, 1.0), retry), "protocol": 2}
        if hasattr(_redis(), "driver_info"):
            # Or each new connection would look up the library's version in its files.
            settings["driver_info"] = None
        # What the first look-up of a host's name would else import.
        codecs.lookup("idna")
        return getattr(package, self.connection), settings

    def fresh(self, package: Any, limits: Mapping[str, Any]) -> Any:
        """Client of ``package`` (``redis`` or ``redis.asyncio``) with connections of its own."""
        if self.portable:
            kind = getattr(package, self.connection)
            # Callers beyond that many wait for a connection, as long as for an answer: to a
            # pool that refuses them, a burst of calls would look like an outage.
            pool = package.BlockingConnectionPool(
                connection_class=kind,
                max_connections=_MOST_CONNECTIONS,
                timeout=limits["socket_timeout"],
                **self.address,
                **limits,
            )
        else:
            # A stand-in's connection needs all its settings, and brings its own colour.
            theirs = self.client.connection_pool
            settings = {**theirs.connection_kwargs, **limits}
            pool = type(theirs)(connection_class=theirs.connection_class, **settings)
        return package.Redis(connection_pool=pool)


def _pool_of(target: Any) -> Any:
    if isinstance(target, str):
        redis = _redis()
        try:
            return redis.ConnectionPool.from_url(target.replace("valkey://", "redis://", 1))
        except ValueError as error:
            raise BadConfiguration(f"redis URL: {error}") from None
    pool = getattr(target, "connection_pool", None)
    return pool if type(pool).__name__ in _PLAIN_POOLS else None


def _is_awaited(target: Any) -> bool:
    return any(".asyncio" in base.__module__ for base in type(target).__mro__)


def _redis() -> Any:
    try:
        import redis
    except ImportError as error:
        raise BadConfiguration(
            "a Redis store needs the package redis: pip install redis"
        ) from error
    return redis


def _limits(timeout: float, retry: Any) -> dict[str, Any]:
    return {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "decode_responses": False,
        "retry": retry,
        "retry_on_error": [],
        "health_check_interval": 0,
    }


class _Base:
    """What both colours share."""

    def __init__(self, target: Any, *, timeout: float = 0.05) -> None:
        if not timeout > 0:
            raise BadConfiguration(f"timeout={timeout!r} must be more than 0 seconds")
        _redis()
        self.timeout: float = timeout
        self._source: _Source = target if isinstance(target, _Source) else _Source(target)
        # Whether requests go through a client, as they must where it finds the server.
        self._plain: bool = not self._source.raw

    def __repr__(self) -> str:
        # Never the address as given: it may hold a password.
        return f"<{type(self).__name__}: {self._source.where}>"

    def _unavailable(self, error: Exception) -> StoreUnavailable:
        if isinstance(error, StoreUnavailable):
            return error
        told = str(error) if isinstance(error, Refused) else f"{type(error).__name__}: {error}"
        full = isinstance(error, Refused) and told.partition(" ")[0] in _NO_WRITES
        return (WriteRefused if full else StoreUnavailable)(self._source.where, told)


# What a server says that answers reads all the same.
_NO_WRITES: Final = frozenset({"OOM", "READONLY", "NOREPLICAS", "MISCONF"})


class _Records(_Base):
    """What workers agree on: see :class:`prodml.stores.SharedStore`."""

    def _run(self, command: Callable[[Any], Any]) -> Any:
        raise NotImplementedError

    def read(self, key: str) -> tuple[bytes | None, int]:
        """Value and revision of the record ``key``; ``(None, 0)`` when it was never written."""
        return cast("tuple[bytes | None, int]", self._run(lambda c: redis_records.read(c, key)))

    def commit(self, key: str, value: bytes, revision: int, *, lease: Lease | None = None) -> int:
        """Write the record if its revision is ``revision``; return the new one.

        With a ``lease``, only while that is held, by the server's clock; else ``LeaseLost``.
        In a cluster, record and lease must have the same name.
        """
        written = self._run(lambda c: redis_records.commit(c, key, value, revision, lease))
        return cast("int", written)

    def acquire(self, name: str, owner: str, ttl: float) -> Lease | None:
        """Take lease ``name`` for ``ttl`` seconds unless somebody else holds it."""
        return cast("Lease | None", self._run(lambda c: redis_records.acquire(c, name, owner, ttl)))

    def renew(self, lease: Lease, ttl: float) -> Lease:
        """Prolong a held lease; raise ``LeaseLost`` when it is not held any more."""
        return cast("Lease", self._run(lambda c: redis_records.renew(c, lease, ttl)))

    def release(self, lease: Lease) -> None:
        """Give a lease back; does nothing when it is not held any more."""
        self._run(lambda c: redis_records.release(c, lease))


class RedisStore(_Records):
    """A :class:`~prodml.stores.Store` in Redis or Valkey, for threads.

    Parameters
    ----------
    target
        A URL (``redis://``, ``rediss://``, ``unix://``, ``valkey://``) or a client of
        redis-py or valkey-py.  A client's address is taken over, never its connections,
        timeouts, retries or ``decode_responses``; a cluster's or sentinel's client is used
        as it is.
    timeout
        Seconds for a request, all in all: the connection, if there is none yet, and the
        answer.

    Raises
    ------
    BadConfiguration
        A URL that is none, or the package redis is missing.
    StoreUnavailable
        By every method when the server refuses, stalls or fails.
    BulkheadFull
        By every method when more callers than connections want an answer at once; that is
        no sign of an outage.

    Examples
    --------
    >>> store = RedisStore("redis://localhost:6379/0")
    >>> store
    <RedisStore: redis at localhost:6379>
    """

    def __init__(self, target: Any, *, timeout: float = 0.05) -> None:
        super().__init__(target, timeout=timeout)
        redis = _redis()
        self._client: Any = None
        self._lock: threading.Lock = threading.Lock()
        self._no_retry: Any = redis.retry.Retry(redis.backoff.NoBackoff(), 0)
        if not self._plain:
            dial = self._source.dialling(redis, self._no_retry, timeout)
            connect = partial(dialled, *dial)
            self._wires: Wires = Wires(connect, self._source.where, timeout, _MOST_CONNECTIONS)

    @property
    def twin(self) -> "AsyncRedisStore":
        """The same server for tasks."""
        return AsyncRedisStore(self._source, timeout=self.timeout)

    def get(self, key: str) -> bytes | None:
        """Value of ``key``, or None when it is absent or its time is over."""
        if not self._plain:
            # In short, since a cache asks little else.
            try:
                reply = self._wires.get(get_request(key))
                return reply if type(reply) is bytes else commands.value_of((reply,))
            except NoWire:
                self._plain = True
            except (OSError, ValueError, Refused) as error:
                raise self._unavailable(error) from error
        return cast("bytes | None", self._do(commands.getting(key)))

    def set(self, key: str, value: bytes, *, ttl: float | None = None) -> None:
        """Keep ``value`` for ``ttl`` seconds, or until deleted."""
        self._do(commands.setting(key, value, ttl))

    def delete(self, key: str) -> bool:
        """Remove ``key``; return whether it was there."""
        return cast("bool", self._do(commands.deleting(key)))

    def get_many(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        """Value of each key, None where absent; one round trip for each 1000."""
        found: list[bytes | None] = []
        for piece in commands.pieces(keys):
            found += self._do(commands.getting_many(piece, apart=self._plain))
        return found

    def set_many(self, items: Mapping[str, bytes], *, ttl: float | None = None) -> None:
        """Keep all ``items`` for ``ttl`` seconds; one round trip for each 1000."""
        for part in commands.parts(items):
            self._do(commands.setting_many(part, ttl))

    def setdefault(self, key: str, value: bytes) -> bytes:
        """Value of ``key``, which is set to ``value`` if absent; one round trip."""
        return cast("bytes", self._do(commands.settling(key, value)))

    def claim(self, name: str, token: str, lease: float) -> tuple[bytes | None, bool]:
        """Value of ``name``, and whether ``token`` may compute it for ``lease`` seconds."""
        claiming = commands.claiming(name, token, lease)
        return cast("tuple[bytes | None, bool]", self._do(claiming))

    def watch(self, name: str) -> tuple[bytes | None, str | None]:
        """Value of ``name``, and the token of who computes it."""
        watching = commands.watching(name, apart=self._plain)
        return cast("tuple[bytes | None, str | None]", self._do(watching))

    def prolong(self, name: str, token: str, lease: float) -> bool:
        """Let ``token`` compute ``name`` for ``lease`` seconds from now, if it still may."""
        prolonged = self._do(commands.prolonging(name, token, lease))
        if prolonged is None and self.watch(name)[1] == token:
            # A server that runs no scripts for us.
            self._do(commands.keeping(name, token, lease))
            return True
        return bool(prolonged)

    def unclaim(self, name: str, token: str) -> None:
        """Let others compute ``name`` if it was ``token``'s to do so."""
        released = self._do(commands.unclaiming(name, token))
        if released is None and self.watch(name)[1] == token:
            # A server that runs no scripts for us.
            self._do(commands.ending(name))

    def take(self, key: str, interval: float, burst: int, patience: float) -> tuple[bool, float]:
        """Take the next permit of ``key``, see :class:`~prodml.resilience.RateStore`."""
        take = partial(commands.taking, key, interval, burst, patience)
        # One trip, and another to a server that does not know the script yet.
        taken = self._do(take()) or self._do(take(known=False))
        return cast("tuple[bool, float]", taken)

    def nudge(self, channel: str) -> None:
        """Ring at everybody who listens to ``channel`` now."""
        self._run(lambda client: client.publish(channel, b""))

    def listen(self, channel: str) -> Ear | None:
        """A connection of its own that rings on ``channel``; None if this client has none."""
        if not self._source.raw:
            return None
        try:
            dial = self._source.dialling(_redis(), self._no_retry, self.timeout)
            return Ear(dialled(*dial), channel)
        except NoWire:
            return None
        except (_redis().RedisError, OSError, ValueError) as error:
            raise self._unavailable(error) from error

    def close(self) -> None:
        """Let go of the connections; the next use opens new ones."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.connection_pool.disconnect()
        if not self._source.raw:
            return
        self._wires.close()

    def _do(self, operation: Operation) -> Any:
        try:
            return operation.meaning(self._asked(operation))
        except (_redis().RedisError, OSError, ValueError, Refused) as error:
            raise self._unavailable(error) from error

    def _asked(self, operation: Operation) -> Sequence[Any]:
        if not self._plain:
            try:
                return self._wires.ask(operation.packed(), len(operation.commands))
            except NoWire:
                self._plain = True
        return _answered(self._client or self._open(), operation.commands)

    def _run(self, command: Callable[[Any], Any]) -> Any:
        try:
            return command(self._client or self._open())
        except (_redis().RedisError, OSError, ValueError) as error:
            raise self._unavailable(error) from error

    def _open(self) -> Any:
        source, redis = self._source, _redis()
        if source.awaited and not source.portable:
            raise StoreUnavailable(source.where, "this client works in tasks only: pass a URL")
        with self._lock:
            if self._client is None:
                limits = _limits(self.timeout, self._no_retry)
                exotic = source.client is not None and _pool_of(source.client) is None
                self._client = source.client if exotic else source.fresh(redis, limits)
            return self._client


class AsyncRedisStore(_Base):
    """An :class:`~prodml.stores.AsyncStore` in Redis or Valkey, for tasks.

    Connections belong to an event loop, so each loop gets a client of its own.  For the
    parameters see :class:`RedisStore`.

    Examples
    --------
    >>> AsyncRedisStore("unix:///run/redis.sock")
    <AsyncRedisStore: redis at /run/redis.sock>
    """

    def __init__(self, target: Any, *, timeout: float = 0.05) -> None:
        super().__init__(target, timeout=timeout)
        self._clients: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
        self._wires: dict[asyncio.AbstractEventLoop, AsyncWires] = {}

    @property
    def twin(self) -> RedisStore:
        """The same server for threads."""
        return RedisStore(self._source, timeout=self.timeout)

    async def get(self, key: str) -> bytes | None:
        """Value of ``key``, or None when it is absent or its time is over."""
        if not self._plain:
            # In short, since a cache asks little else.
            try:
                return commands.value_of(await self._here().ask(get_request(key), 1))
            except NoWire:
                self._plain = True
            except (OSError, ValueError, Refused) as error:
                raise self._unavailable(error) from error
        return cast("bytes | None", await self._do(commands.getting(key)))

    async def set(self, key: str, value: bytes, *, ttl: float | None = None) -> None:
        """Keep ``value`` for ``ttl`` seconds, or until deleted."""
        await self._do(commands.setting(key, value, ttl))

    async def delete(self, key: str) -> bool:
        """Remove ``key``; return whether it was there."""
        return cast("bool", await self._do(commands.deleting(key)))

    async def get_many(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        """Value of each key, None where absent; one round trip for each 1000."""
        found: list[bytes | None] = []
        for piece in commands.pieces(keys):
            found += await self._do(commands.getting_many(piece, apart=self._plain))
        return found

    async def set_many(self, items: Mapping[str, bytes], *, ttl: float | None = None) -> None:
        """Keep all ``items`` for ``ttl`` seconds; one round trip for each 1000."""
        for part in commands.parts(items):
            await self._do(commands.setting_many(part, ttl))

    async def setdefault(self, key: str, value: bytes) -> bytes:
        """Value of ``key``, which is set to ``value`` if absent; one round trip."""
        return cast("bytes", await self._do(commands.settling(key, value)))

    async def claim(self, name: str, token: str, lease: float) -> tuple[bytes | None, bool]:
        """Value of ``name``, and whether ``token`` may compute it for ``lease`` seconds."""
        return cast(
            "tuple[bytes | None, bool]", await self._do(commands.claiming(name, token, lease))
        )

    async def watch(self, name: str) -> tuple[bytes | None, str | None]:
        """Value of ``name``, and the token of who computes it."""
        watching = commands.watching(name, apart=self._plain)
        return cast("tuple[bytes | None, str | None]", await self._do(watching))

    async def prolong(self, name: str, token: str, lease: float) -> bool:
        """Let ``token`` compute ``name`` for ``lease`` seconds from now, if it still may."""
        prolonged = await self._do(commands.prolonging(name, token, lease))
        if prolonged is None and (await self.watch(name))[1] == token:
            # A server that runs no scripts for us.
            await self._do(commands.keeping(name, token, lease))
            return True
        return bool(prolonged)

    async def unclaim(self, name: str, token: str) -> None:
        """Let others compute ``name`` if it was ``token``'s to do so."""
        released = await self._do(commands.unclaiming(name, token))
        if released is None and (await self.watch(name))[1] == token:
            # A server that runs no scripts for us.
            await self._do(commands.ending(name))

    async def take(
        self, key: str, interval: float, burst: int, patience: float
    ) -> tuple[bool, float]:
        """Take the next permit of ``key``, see :class:`~prodml.resilience.RateStore`."""
        take = partial(commands.taking, key, interval, burst, patience)
        # One trip, and another to a server that does not know the script yet.
        taken = await self._do(take()) or await self._do(take(known=False))
        return cast("tuple[bool, float]", taken)

    async def close(self) -> None:
        """Let go of the connections of this event loop."""
        loop = asyncio.get_running_loop()
        wires, client = self._wires.pop(loop, None), self._clients.pop(loop, None)
        if wires is not None:
            await wires.aclose()
        if client is not None:
            await client.connection_pool.disconnect()

    async def _do(self, operation: Operation) -> Any:
        try:
            return operation.meaning(await self._asked(operation))
        except (_redis().RedisError, OSError, ValueError, Refused) as error:
            raise self._unavailable(error) from error

    async def _asked(self, operation: Operation) -> Sequence[Any]:
        if not self._plain:
            try:
                return await self._here().ask(operation.packed(), len(operation.commands))
            except NoWire:
                self._plain = True
        loop = asyncio.get_running_loop()
        client = self._clients.get(loop)
        client = self._open(loop) if client is None else client
        return await _aanswered(client, operation.commands)

    def _here(self) -> AsyncWires:
        loop = asyncio.get_running_loop()
        wires = self._wires.get(loop)
        return self._wired(loop) if wires is None else wires

    def _wired(self, loop: asyncio.AbstractEventLoop) -> AsyncWires:
        for old in [old for old, wires in self._wires.items() if wires.dead]:
            self._wires.pop(old, None)
        dial = self._source.dialling(*_awaiting(), self.timeout)
        connect = partial(adialled, *dial)
        wires = AsyncWires(connect, self._source.where, self.timeout, _MOST_CONNECTIONS)
        self._wires[loop] = wires
        return wires

    def _open(self, loop: asyncio.AbstractEventLoop) -> Any:
        source = self._source
        if not source.awaited and not source.portable:
            raise StoreUnavailable(source.where, "this client works in threads only: pass a URL")
        if source.client is not None and _pool_of(source.client) is None:
            return source.client
        package, retry = _awaiting()
        client = self._clients[loop] = source.fresh(package, _limits(self.timeout, retry))
        return client


def _awaiting() -> tuple[Any, Any]:
    import redis.asyncio
    import redis.asyncio.retry

    return redis.asyncio, redis.asyncio.retry.Retry(_redis().backoff.NoBackoff(), 0)


def _answered(client: Any, commands: Sequence[Command]) -> list[Any]:
    if len(commands) > 1:
        return _plain_replies(_pipeline(client, commands).execute(raise_on_error=False))
    try:
        return _plain_replies([client.execute_command(*commands[0])])
    except _redis().ResponseError as error:
        return _plain_replies([error])


async def _aanswered(client: Any, commands: Sequence[Command]) -> list[Any]:
    if len(commands) > 1:
        return _plain_replies(await _pipeline(client, commands).execute(raise_on_error=False))
    try:
        return _plain_replies([await client.execute_command(*commands[0])])
    except _redis().ResponseError as error:
        return _plain_replies([error])


def _pipeline(client: Any, commands: Sequence[Command]) -> Any:
    pipeline = client.pipeline(transaction=False)
    for command in commands:
        pipeline.execute_command(*command)
    return pipeline


def _plain_replies(replies: Sequence[Any]) -> list[Any]:
    """Replies as they come over a wire: of a client that decodes, too."""
    return [_plain_reply(reply) for reply in replies]


def _plain_reply(reply: Any) -> Any:
    if isinstance(reply, Exception):
        return Refusal(str(reply))
    return reply.encode() if isinstance(reply, str) else reply


def open_store(target: Any) -> RedisStore:
    """Store for threads from a URL or a client of either colour.

    Examples
    --------
    >>> open_store("redis://cache.example:6380/1")
    <RedisStore: redis at cache.example:6380>
    """
    return RedisStore(target)


def open_async_store(target: Any) -> AsyncRedisStore:
    """Store for tasks from a URL or a client of either colour.

    Examples
    --------
    >>> open_async_store("redis://cache.example:6380/1")
    <AsyncRedisStore: redis at cache.example:6380>
    """
    return AsyncRedisStore(target)
