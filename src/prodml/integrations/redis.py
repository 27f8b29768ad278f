"""Redis and Valkey as stores of bytes, for threads and for tasks.

Made for a cache in front of predictions: short timeouts, no retries, connections of its
own.  A client's defaults are made for data that must not be lost (redis-py 8 tries eleven
times, five seconds each); here an answer that is late is worth nothing.
"""

import math
import threading
import weakref
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, cast

from prodml.errors import BadConfiguration, StoreUnavailable
from prodml.integrations import redis_records
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

# The schedule of prodml.resilience.rate_limit, by the server's clock in microseconds.  What
# is kept: epoch, permits since, interval, time of the last one.  A clock that was set back
# moves the epoch with it; another interval begins with as many permits saved up, or owed.
_TAKE: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local interval, burst, patience = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local kept = string.gmatch(redis.call('GET', KEYS[1]) or '', '%S+')
local epoch, count = tonumber(kept() or '') or now, tonumber(kept() or '') or 0
local old, seen = tonumber(kept() or '') or interval, tonumber(kept() or '') or now
epoch = epoch - math.max(0, seen - now)
if old ~= interval then
  epoch, count = now, math.max(0, count - (now - epoch) / old)
end
if epoch + count * interval <= now then
  epoch, count = now, 0
end
local wait = epoch + (count + 1 - burst) * interval - now
if wait < 0.5 then
  wait = 0
end
if wait > patience then
  return {0, math.ceil(wait)}
end
count = count + 1
local ttl = math.ceil((epoch + count * interval - now) / 1000) + 1000
local state = string.format('%.17g %.17g %.17g %.17g', epoch, count, interval, now)
redis.call('SET', KEYS[1], state, 'PX', string.format('%.0f', ttl))
return {1, math.ceil(wait)}
"""


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


def _milliseconds(ttl: float | None) -> int | None:
    return None if ttl is None or math.isinf(ttl) else max(1, round(ttl * 1000))


class _Base:
    """What both colours share."""

    def __init__(self, target: Any, *, timeout: float = 0.05) -> None:
        if not timeout > 0:
            raise BadConfiguration(f"timeout={timeout!r} must be more than 0 seconds")
        _redis()
        self.timeout: float = timeout
        self._source: _Source = target if isinstance(target, _Source) else _Source(target)

    def __repr__(self) -> str:
        # Never the address as given: it may hold a password.
        return f"<{type(self).__name__}: {self._source.where}>"

    def _unavailable(self, error: Exception) -> StoreUnavailable:
        return StoreUnavailable(self._source.where, f"{type(error).__name__}: {error}")


class RedisStore(_Base):
    """A :class:`~prodml.stores.Store` in Redis or Valkey, for threads.

    Parameters
    ----------
    target
        A URL (``redis://``, ``rediss://``, ``unix://``, ``valkey://``) or a client of
        redis-py or valkey-py.  A client's address is taken over, never its connections,
        timeouts, retries or ``decode_responses``; a cluster's or sentinel's client is used
        as it is.
    timeout
        Seconds for connecting and for each answer.

    Raises
    ------
    BadConfiguration
        A URL that is none, or the package redis is missing.
    StoreUnavailable
        By every method when the server refuses, stalls or fails.

    Examples
    --------
    >>> store = RedisStore("redis://localhost:6379/0")
    >>> store
    <RedisStore: redis at localhost:6379>
    """

    def __init__(self, target: Any, *, timeout: float = 0.05) -> None:
        super().__init__(target, timeout=timeout)
        self._client: Any = None
        self._lock: threading.Lock = threading.Lock()

    @property
    def twin(self) -> "AsyncRedisStore":
        """The same server for tasks."""
        return AsyncRedisStore(self._source, timeout=self.timeout)

    def get(self, key: str) -> bytes | None:
        """Value of ``key``, or None when it is absent or its time is over."""
        return cast("bytes | None", self._run(lambda client: client.get(key)))

    def set(self, key: str, value: bytes, *, ttl: float | None = None) -> None:
        """Keep ``value`` for ``ttl`` seconds, or until deleted."""
        self._run(lambda client: client.set(key, value, px=_milliseconds(ttl)))

    def delete(self, key: str) -> bool:
        """Remove ``key``; return whether it was there."""
        return bool(self._run(lambda client: client.delete(key)))

    def get_many(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        """Value of each key, None where absent; one round trip."""
        return cast("list[bytes | None]", self._run(lambda client: client.mget(keys)))

    def set_many(self, items: Mapping[str, bytes], *, ttl: float | None = None) -> None:
        """Keep all ``items`` for ``ttl`` seconds; one round trip."""
        self._run(lambda client: _setting(client, items, ttl).execute())

    def setdefault(self, key: str, value: bytes) -> bytes:
        """Value of ``key``, which is set to ``value`` if absent; one round trip."""
        return cast("bytes", self._run(lambda client: _settling(client, key, value).execute())[1])

    def take(self, key: str, interval: float, burst: int, patience: float) -> tuple[bool, float]:
        """Take the next permit of ``key``, see :class:`~prodml.resilience.RateStore`."""
        return _taken(self._run(lambda client: _taking(client, key, interval, burst, patience)))

    # What workers agree on: see prodml.stores.SharedStore.

    def read(self, key: str) -> tuple[bytes | None, int]:
        """Value and revision of the record ``key``; ``(None, 0)`` when it was never written."""
        return cast("tuple[bytes | None, int]", self._run(lambda c: redis_records.read(c, key)))

    def commit(self, key: str, value: bytes, revision: int) -> int:
        """Write the record if its revision is ``revision``; return the new one."""
        return cast("int", self._run(lambda c: redis_records.commit(c, key, value, revision)))

    def acquire(self, name: str, owner: str, ttl: float) -> Lease | None:
        """Take lease ``name`` for ``ttl`` seconds unless somebody else holds it."""
        return cast("Lease | None", self._run(lambda c: redis_records.acquire(c, name, owner, ttl)))

    def renew(self, lease: Lease, ttl: float) -> Lease:
        """Prolong a held lease; raise ``LeaseLost`` when it is not held any more."""
        return cast("Lease", self._run(lambda c: redis_records.renew(c, lease, ttl)))

    def release(self, lease: Lease) -> None:
        """Give a lease back; does nothing when it is not held any more."""
        self._run(lambda c: redis_records.release(c, lease))

    def close(self) -> None:
        """Let go of the connections; the next use opens new ones."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.connection_pool.disconnect()

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
                limits = _limits(self.timeout, redis.retry.Retry(redis.backoff.NoBackoff(), 0))
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

    @property
    def twin(self) -> RedisStore:
        """The same server for threads."""
        return RedisStore(self._source, timeout=self.timeout)

    async def get(self, key: str) -> bytes | None:
        """Value of ``key``, or None when it is absent or its time is over."""
        return cast("bytes | None", await self._run(lambda client: client.get(key)))

    async def set(self, key: str, value: bytes, *, ttl: float | None = None) -> None:
        """Keep ``value`` for ``ttl`` seconds, or until deleted."""
        await self._run(lambda client: client.set(key, value, px=_milliseconds(ttl)))

    async def delete(self, key: str) -> bool:
        """Remove ``key``; return whether it was there."""
        return bool(await self._run(lambda client: client.delete(key)))

    async def get_many(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        """Value of each key, None where absent; one round trip."""
        return cast("list[bytes | None]", await self._run(lambda client: client.mget(keys)))

    async def set_many(self, items: Mapping[str, bytes], *, ttl: float | None = None) -> None:
        """Keep all ``items`` for ``ttl`` seconds; one round trip."""
        await self._run(lambda client: _setting(client, items, ttl).execute())

    async def setdefault(self, key: str, value: bytes) -> bytes:
        """Value of ``key``, which is set to ``value`` if absent; one round trip."""
        both = await self._run(lambda client: _settling(client, key, value).execute())
        return cast("bytes", both[1])

    async def take(
        self, key: str, interval: float, burst: int, patience: float
    ) -> tuple[bool, float]:
        """Take the next permit of ``key``, see :class:`~prodml.resilience.RateStore`."""
        return _taken(
            await self._run(lambda client: _taking(client, key, interval, burst, patience))
        )

    async def close(self) -> None:
        """Let go of the connections of this event loop."""
        import asyncio

        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.connection_pool.disconnect()

    async def _run(self, command: Callable[[Any], Awaitable[Any]]) -> Any:
        try:
            return await command(self._open())
        except (_redis().RedisError, OSError, ValueError) as error:
            raise self._unavailable(error) from error

    def _open(self) -> Any:
        import asyncio

        loop = asyncio.get_running_loop()
        client = self._clients.get(loop)
        if client is None:
            client = self._clients[loop] = self._made()
        return client

    def _made(self) -> Any:
        import redis.asyncio
        import redis.asyncio.retry

        source = self._source
        if not source.awaited and not source.portable:
            raise StoreUnavailable(source.where, "this client works in threads only: pass a URL")
        if source.client is not None and _pool_of(source.client) is None:
            return source.client
        retry = redis.asyncio.retry.Retry(_redis().backoff.NoBackoff(), 0)
        return source.fresh(redis.asyncio, _limits(self.timeout, retry))


def _setting(client: Any, items: Mapping[str, bytes], ttl: float | None) -> Any:
    pipeline = client.pipeline(transaction=False)
    for key, value in items.items():
        pipeline.set(key, value, px=_milliseconds(ttl))
    return pipeline


def _settling(client: Any, key: str, value: bytes) -> Any:
    return client.pipeline(transaction=False).set(key, value, nx=True).get(key)


def _taking(client: Any, key: str, interval: float, burst: int, patience: float) -> Any:
    # EVALSHA: one round trip, and two more to a server that does not know the script yet.
    script = client.register_script(_TAKE)
    return script(keys=[key], args=[interval * 1e6, burst, patience * 1e6])


def _taken(answer: Sequence[int]) -> tuple[bool, float]:
    return bool(answer[0]), answer[1] / 1e6


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
