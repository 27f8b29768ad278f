"""Where components keep bytes and rows: in memory, in SQLite, or behind a URL.

Two roles.  A :class:`Store` keeps bytes by key, with a time to live: caches use it.  A
:class:`DurableStore` adds what machines need to survive a crash: compare-and-swap by
revision, append-only rows written in the same transaction (an outbox), and leases with a
fencing token.  ``open_store`` turns a URL or a client object into a store by one table;
other doors add to it with :func:`register_scheme` and :func:`register_client`.
"""

import importlib
import os
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast, runtime_checkable

from prodml.clock import SYSTEM_CLOCK, Clock
from prodml.errors import BadConfiguration, Conflict, CorruptRecord, LeaseLost, StoreUnavailable

if TYPE_CHECKING:
    import sqlite3

__all__ = [
    "AsyncStore",
    "DurableStore",
    "Lease",
    "MemoryStore",
    "Outbox",
    "Row",
    "SQLiteStore",
    "SharedStore",
    "Store",
    "open_async_store",
    "open_durable_store",
    "open_shared_store",
    "open_store",
    "register_client",
    "register_scheme",
]

Row: TypeAlias = tuple[int, bytes]
"""Sequence number (from 1, growing, per topic) and value."""


@runtime_checkable
class Store(Protocol):
    """Keeps bytes by key."""

    def get(self, key: str) -> bytes | None:
        """Value of ``key``, or None when it is absent or its time is over."""
        ...

    def set(self, key: str, value: bytes, *, ttl: float | None = None) -> None:
        """Keep ``value`` for ``ttl`` seconds, or until deleted."""
        ...

    def delete(self, key: str) -> bool:
        """Remove ``key``; return whether it was there."""
        ...


@runtime_checkable
class AsyncStore(Protocol):
    """A :class:`Store` whose methods are awaited."""

    async def get(self, key: str) -> bytes | None:
        """Value of ``key``, or None."""
        ...

    async def set(self, key: str, value: bytes, *, ttl: float | None = None) -> None:
        """Keep ``value`` for ``ttl`` seconds, or until deleted."""
        ...

    async def delete(self, key: str) -> bool:
        """Remove ``key``; return whether it was there."""
        ...


@dataclass(frozen=True, slots=True)
class Lease:
    """The right of ``owner`` to act as ``name`` until ``expires`` (epoch seconds, UTC).

    ``token`` grows with every new holder, so a store can refuse the write of one who has
    lost the lease without noticing (Kleppmann 2016, "How to do distributed locking").

    Examples
    --------
    >>> store = MemoryStore()
    >>> lease = store.acquire("training", "worker-1", ttl=60.0)
    >>> lease.token, store.acquire("training", "worker-2", ttl=60.0)
    (1, None)
    """

    name: str
    owner: str
    token: int
    expires: float


class SharedStore(Protocol):
    """Small records that workers agree on: a revision each, and leases.

    Redis and Valkey are such stores, and so is every :class:`DurableStore`.
    """

    def read(self, key: str) -> tuple[bytes | None, int]:
        """Value and revision of ``key``; ``(None, 0)`` when it was never written."""
        ...

    def commit(self, key: str, value: bytes, revision: int) -> int:
        """Write ``value`` if the stored revision is ``revision``; return the new one.

        Raises
        ------
        Conflict
            The stored revision is another; nothing was written.
        """
        ...

    def acquire(self, name: str, owner: str, ttl: float) -> Lease | None:
        """Take lease ``name`` for ``ttl`` seconds unless somebody else holds it."""
        ...

    def renew(self, lease: Lease, ttl: float) -> Lease:
        """Prolong a held lease; raise ``LeaseLost`` when it is not held any more."""
        ...

    def release(self, lease: Lease) -> None:
        """Give a lease back; does nothing when it is not held any more."""
        ...


class DurableStore(SharedStore, Store, Protocol):
    """A store for machines: state with a revision, rows, leases."""

    def commit(
        self,
        key: str,
        value: bytes,
        revision: int,
        *,
        rows: Iterable[tuple[str, bytes]] = (),
        lease: Lease | None = None,
    ) -> int:
        """Write ``value`` and append ``rows`` (topic, value) as one; return the new revision.

        Raises
        ------
        Conflict
            The stored revision is not ``revision``; nothing was written.
        LeaseLost
            ``lease`` is no longer the newest of its name; nothing was written.
        """
        ...

    def append(self, topic: str, value: bytes) -> int:
        """Add a row to ``topic``; return its sequence number."""
        ...

    def rows(self, topic: str, *, after: int = 0, limit: int | None = None) -> Sequence[Row]:
        """Rows of ``topic`` with a sequence number above ``after``, in order."""
        ...

    def close(self) -> None:
        """Let go of files and connections."""
        ...


# -- in memory --------------------------------------------------------------------------


class MemoryStore:
    """Everything in this process, for tests and for those who need no restart.

    Examples
    --------
    >>> store = MemoryStore()
    >>> revision = store.commit("job", b"running", 0, rows=[("facts", b"started")])
    >>> store.read("job"), store.rows("facts")
    ((b'running', 1), [(1, b'started')])
    """

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock: Clock = clock
        self._values: dict[str, tuple[bytes, float | None]] = {}
        self._states: dict[str, tuple[bytes, int]] = {}
        self._rows: dict[str, list[Row]] = {}
        self._leases: dict[str, Lease] = {}
        self._lock: threading.Lock = threading.Lock()

    def get(self, key: str) -> bytes | None:
        """Value of ``key``, or None when it is absent or its time is over."""
        with self._lock:
            value, ends = self._values.get(key, (None, None))
            if ends is not None and ends <= self._clock.monotonic():
                del self._values[key]
                return None
            return value

    def set(self, key: str, value: bytes, *, ttl: float | None = None) -> None:
        """Keep ``value`` for ``ttl`` seconds, or until deleted."""
        ends = None if ttl is None else self._clock.monotonic() + ttl
        with self._lock:
            self._values[key] = (value, ends)

    def delete(self, key: str) -> bool:
        """Remove ``key``; return whether it was there."""
        with self._lock:
            return self._values.pop(key, None) is not None

    def read(self, key: str) -> tuple[bytes | None, int]:
        """Value and revision of ``key``."""
        with self._lock:
            return self._states.get(key, (None, 0))

    def commit(
        self,
        key: str,
        value: bytes,
        revision: int,
        *,
        rows: Iterable[tuple[str, bytes]] = (),
        lease: Lease | None = None,
    ) -> int:
        """Write state and rows as one; see :meth:`DurableStore.commit`."""
        added = list(rows)
        with self._lock:
            found = self._states.get(key, (b"", 0))[1]
            if found != revision:
                raise Conflict(key, revision, found)
            if lease is not None and self._held(lease) is None:
                raise LeaseLost(lease.name, lease.token)
            self._states[key] = (value, revision + 1)
            for topic, row in added:
                self._append(topic, row)
            return revision + 1

    def append(self, topic: str, value: bytes) -> int:
        """Add a row to ``topic``; return its sequence number."""
        with self._lock:
            return self._append(topic, value)

    def rows(self, topic: str, *, after: int = 0, limit: int | None = None) -> Sequence[Row]:
        """Rows of ``topic`` after a sequence number, in order."""
        with self._lock:
            found = self._rows.get(topic, [])[after:]
            return found if limit is None else found[:limit]

    def acquire(self, name: str, owner: str, ttl: float) -> Lease | None:
        """Take lease ``name`` unless somebody else holds it."""
        with self._lock:
            held, now = self._leases.get(name), self._clock.time()
            if held is not None and held.expires > now and held.owner != owner:
                return None
            lease = Lease(name, owner, held.token + 1 if held else 1, now + ttl)
            self._leases[name] = lease
            return lease

    def renew(self, lease: Lease, ttl: float) -> Lease:
        """Prolong a held lease."""
        with self._lock:
            held = self._held(lease)
            if held is None:
                raise LeaseLost(lease.name, lease.token)
            renewed = Lease(held.name, held.owner, held.token, self._clock.time() + ttl)
            self._leases[lease.name] = renewed
            return renewed

    def release(self, lease: Lease) -> None:
        """Give a lease back."""
        with self._lock:
            if self._held(lease) is not None:
                # The token stays, or the next holder would be handed an old one.
                self._leases[lease.name] = Lease(lease.name, "", lease.token, 0.0)

    def close(self) -> None:
        """Nothing to let go of."""

    def _held(self, lease: Lease) -> Lease | None:
        held = self._leases.get(lease.name)
        if held is None or held.token != lease.token or held.expires <= self._clock.time():
            return None
        return held

    def _append(self, topic: str, value: bytes) -> int:
        topic_rows = self._rows.setdefault(topic, [])
        topic_rows.append((len(topic_rows) + 1, value))
        return len(topic_rows)


# -- SQLite -----------------------------------------------------------------------------

_TABLES = """
CREATE TABLE IF NOT EXISTS entries (key TEXT PRIMARY KEY, value BLOB NOT NULL, ends REAL);
CREATE TABLE IF NOT EXISTS states (
    key TEXT PRIMARY KEY, value BLOB NOT NULL, revision INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS rows (
    topic TEXT NOT NULL, seq INTEGER NOT NULL, value BLOB NOT NULL, PRIMARY KEY (topic, seq));
CREATE TABLE IF NOT EXISTS leases (
    name TEXT PRIMARY KEY, owner TEXT NOT NULL, token INTEGER NOT NULL, expires REAL NOT NULL);
"""


class SQLiteStore:
    """One file that several threads and processes share.

    A commit is on the disk when it returns (write-ahead log, full synchronisation).  The
    file is opened with the first use, and again in a forked child.  Times to live and
    leases go by the wall clock, the only one that processes share: keep hosts in sync and
    leases longer than the steps that clocks may take.

    Raises
    ------
    StoreUnavailable
        The file cannot be opened, is locked for longer than ``busy_timeout`` seconds, or
        the disk is full.
    CorruptRecord
        The file is not a database.

    Examples
    --------
    >>> store = SQLiteStore(":memory:")
    >>> store.set("k", b"v")
    >>> store.get("k"), store.delete("k"), store.get("k")
    (b'v', True, None)
    >>> store.close()
    """

    def __init__(
        self, path: str, *, busy_timeout: float = 5.0, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        # With the store, not with the first thing that is kept in it.
        importlib.import_module("sqlite3")
        self.path: str = path
        self.busy_timeout: float = busy_timeout
        self._clock: Clock = clock
        self._connection: sqlite3.Connection | None = None
        self._pid: int = 0
        self._lock: threading.Lock = threading.Lock()

    def get(self, key: str) -> bytes | None:
        """Value of ``key``, or None when it is absent or its time is over."""
        row = self._one("SELECT value, ends FROM entries WHERE key = ?", key)
        if row is None or (row[1] is not None and row[1] <= self._clock.time()):
            return None
        return cast("bytes", row[0])

    def set(self, key: str, value: bytes, *, ttl: float | None = None) -> None:
        """Keep ``value`` for ``ttl`` seconds, or until deleted."""
        ends = None if ttl is None else self._clock.time() + ttl
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO entries VALUES (?, ?, ?)", (key, value, ends))

    def delete(self, key: str) -> bool:
        """Remove ``key``; return whether it was there."""
        with self._transaction() as db:
            return db.execute("DELETE FROM entries WHERE key = ?", (key,)).rowcount > 0

    def read(self, key: str) -> tuple[bytes | None, int]:
        """Value and revision of ``key``."""
        row = self._one("SELECT value, revision FROM states WHERE key = ?", key)
        return (None, 0) if row is None else (row[0], row[1])

    def commit(
        self,
        key: str,
        value: bytes,
        revision: int,
        *,
        rows: Iterable[tuple[str, bytes]] = (),
        lease: Lease | None = None,
    ) -> int:
        """Write state and rows as one; see :meth:`DurableStore.commit`."""
        added = list(rows)
        with self._transaction() as db:
            row = db.execute("SELECT revision FROM states WHERE key = ?", (key,)).fetchone()
            found = 0 if row is None else row[0]
            if found != revision:
                raise Conflict(key, revision, found)
            if lease is not None and not self._holds(db, lease):
                raise LeaseLost(lease.name, lease.token)
            db.execute("INSERT OR REPLACE INTO states VALUES (?, ?, ?)", (key, value, revision + 1))
            for topic, added_row in added:
                _append_row(db, topic, added_row)
        return revision + 1

    def append(self, topic: str, value: bytes) -> int:
        """Add a row to ``topic``; return its sequence number."""
        with self._transaction() as db:
            return _append_row(db, topic, value)

    def rows(self, topic: str, *, after: int = 0, limit: int | None = None) -> Sequence[Row]:
        """Rows of ``topic`` after a sequence number, in order."""
        query = "SELECT seq, value FROM rows WHERE topic = ? AND seq > ? ORDER BY seq LIMIT ?"
        with self._open() as db:
            return db.execute(query, (topic, after, -1 if limit is None else limit)).fetchall()

    def acquire(self, name: str, owner: str, ttl: float) -> Lease | None:
        """Take lease ``name`` unless somebody else holds it."""
        with self._transaction() as db:
            now = self._clock.time()
            query = "SELECT owner, token, expires FROM leases WHERE name = ?"
            row = db.execute(query, (name,)).fetchone()
            if row is not None and row[2] > now and row[0] != owner:
                return None
            lease = Lease(name, owner, 1 if row is None else row[1] + 1, now + ttl)
            values = (lease.name, lease.owner, lease.token, lease.expires)
            db.execute("INSERT OR REPLACE INTO leases VALUES (?, ?, ?, ?)", values)
            return lease

    def renew(self, lease: Lease, ttl: float) -> Lease:
        """Prolong a held lease."""
        with self._transaction() as db:
            if not self._holds(db, lease):
                raise LeaseLost(lease.name, lease.token)
            renewed = Lease(lease.name, lease.owner, lease.token, self._clock.time() + ttl)
            query = "UPDATE leases SET expires = ? WHERE name = ?"
            db.execute(query, (renewed.expires, lease.name))
            return renewed

    def release(self, lease: Lease) -> None:
        """Give a lease back."""
        # The row stays, or the next holder would be handed an old token.
        query = "UPDATE leases SET owner = '', expires = 0 WHERE name = ? AND token = ?"
        with self._transaction() as db:
            db.execute(query, (lease.name, lease.token))

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        with self._lock:
            connection, self._connection = self._connection, None
            # A connection that came through a fork belongs to the parent.
            if connection is not None and self._pid == os.getpid():
                connection.close()

    def __del__(self) -> None:
        # Whoever forgets a store need not be told of its connection.
        if self._connection is not None:
            self.close()

    def _one(self, query: str, key: str) -> Any:
        with self._open() as db:
            return db.execute(query, (key,)).fetchone()

    def _holds(self, db: "sqlite3.Connection", lease: Lease) -> bool:
        query = "SELECT 1 FROM leases WHERE name = ? AND token = ? AND expires > ?"
        return (
            db.execute(query, (lease.name, lease.token, self._clock.time())).fetchone() is not None
        )

    @contextmanager
    def _open(self) -> "Generator[sqlite3.Connection, None, None]":
        import sqlite3

        with self._lock:
            try:
                if self._connection is None or self._pid != os.getpid():
                    self._connection = self._connect()
                    self._pid = os.getpid()
                yield self._connection
            except sqlite3.OperationalError as error:
                raise StoreUnavailable(self.path, str(error)) from error
            except sqlite3.DatabaseError as error:
                raise CorruptRecord(self.path, str(error)) from error

    @contextmanager
    def _transaction(self) -> "Generator[sqlite3.Connection, None, None]":
        with self._open() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")

    def _connect(self) -> "sqlite3.Connection":
        import sqlite3

        connection = sqlite3.connect(
            self.path, timeout=self.busy_timeout, isolation_level=None, check_same_thread=False
        )
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.executescript(_TABLES)
        except BaseException:
            connection.close()
            raise
        return connection


def _append_row(db: "sqlite3.Connection", topic: str, value: bytes) -> int:
    query = "SELECT COALESCE(MAX(seq), 0) + 1 FROM rows WHERE topic = ?"
    seq = int(db.execute(query, (topic,)).fetchone()[0])
    db.execute("INSERT INTO rows VALUES (?, ?, ?)", (topic, seq, value))
    return seq


# -- outbox -----------------------------------------------------------------------------


@dataclass(slots=True)
class Outbox:
    """Deliver the rows of ``topic`` to one consumer, each at least once and in order.

    The cursor moves after the handler has returned: a crash in between delivers the row
    again, so handlers must tolerate a repetition.

    Examples
    --------
    >>> store = MemoryStore()
    >>> _ = store.append("commands", b"train")
    >>> done = []
    >>> outbox = Outbox(store, "commands", "worker")
    >>> outbox.relay(lambda seq, value: done.append(value)), outbox.relay(print), done
    (1, 0, [b'train'])
    """

    store: DurableStore
    topic: str
    consumer: str
    batch: int = field(default=100, kw_only=True)

    def relay(self, handler: Callable[[int, bytes], None]) -> int:
        """Hand over all waiting rows; return how many.  What ``handler`` raises passes."""
        key = f"outbox/{self.topic}/{self.consumer}"
        value, revision = self.store.read(key)
        cursor, delivered = int(value or b"0"), 0
        while rows := self.store.rows(self.topic, after=cursor, limit=self.batch):
            for seq, row in rows:
                handler(seq, row)
                cursor, delivered = seq, delivered + 1
                revision = self.store.commit(key, str(cursor).encode(), revision)
        return delivered


# -- by URL or client -------------------------------------------------------------------

Opener: TypeAlias = Callable[[Any], Any]

# Openers named as text are imported when they are first needed: the cellar knows no door.
_REDIS = ("prodml.integrations.redis:open_store", "prodml.integrations.redis:open_async_store")
_OPENERS: dict[str, tuple[str | Opener, str | Opener]] = dict.fromkeys(
    ("redis://", "rediss://", "unix://", "valkey://", "redis", "valkey", "fakeredis"), _REDIS
)


def register_scheme(scheme: str, opener: str | Opener, async_opener: str | Opener = "") -> None:
    """Open URLs that begin with ``scheme://`` by ``opener(url)``.

    ``opener`` may be text, ``"package.module:function"``, imported at the first use.

    Examples
    --------
    >>> register_scheme("demo", lambda url: MemoryStore())
    >>> type(open_store("demo://anything")).__name__
    'MemoryStore'
    """
    _OPENERS[f"{scheme}://"] = (opener, async_opener)


def register_client(package: str, opener: str | Opener, async_opener: str | Opener = "") -> None:
    """Wrap client objects whose class lives in top-level ``package`` by ``opener(client)``.

    Examples
    --------
    >>> register_client("decimal", lambda client: MemoryStore())
    >>> from decimal import Decimal
    >>> type(open_store(Decimal(1))).__name__
    'MemoryStore'
    """
    _OPENERS[package] = (opener, async_opener)


def open_store(target: Any) -> Store:
    """Store for a URL, a client object, or a store (returned as it is).

    Raises
    ------
    BadConfiguration
        Nothing is registered for ``target``.

    Examples
    --------
    >>> open_store("memory://").get("x") is None
    True
    """
    if isinstance(target, str):
        if target.startswith("memory://"):
            return MemoryStore()
        if target.startswith("sqlite:///"):
            return SQLiteStore(target.removeprefix("sqlite:///"))
    elif _is_own_store(target):
        return cast("Store", target)
    return cast("Store", _opener(target, 0)(target))


def open_async_store(target: Any) -> AsyncStore:
    """Awaited store for a URL, a client object, or an :class:`AsyncStore`.

    Examples
    --------
    >>> open_async_store("ftp://x")
    Traceback (most recent call last):
        ...
    prodml.errors.BadConfiguration: no store is registered for 'ftp://x'; known: ...
    """
    if not isinstance(target, str) and _is_own_store(target):
        return cast("AsyncStore", target)
    return cast("AsyncStore", _opener(target, 1)(target))


def open_durable_store(target: Any) -> DurableStore:
    """Like :func:`open_store`, refusing a store without revisions, rows and leases.

    Examples
    --------
    >>> open_durable_store("memory://").read("x")
    (None, 0)
    """
    store = open_store(target)
    if not (hasattr(store, "commit") and hasattr(store, "append")):
        raise BadConfiguration(
            f"{target!r} cannot keep the state of a machine: use 'sqlite:///file.db', "
            "'memory://' or any DurableStore"
        )
    return cast("DurableStore", store)


def open_shared_store(target: Any) -> SharedStore:
    """Like :func:`open_store`, refusing a store without revisions and leases.

    Examples
    --------
    >>> open_shared_store("memory://").acquire("probe", "worker-1", 5.0).token
    1
    """
    methods = ("read", "commit", "acquire", "renew", "release")
    own = not isinstance(target, str) and _package(target) not in _OPENERS
    store = target if own and hasattr(target, "acquire") else open_store(target)
    if not all(hasattr(store, method) for method in methods):
        raise BadConfiguration(
            f"{target!r} cannot be shared by workers: use 'redis://host', 'sqlite:///file.db' "
            "or any SharedStore"
        )
    return cast("SharedStore", store)


def _is_own_store(target: object) -> bool:
    # A client library's object has get, set and delete as well, with other meanings.
    return _package(target) not in _OPENERS and isinstance(target, Store)


def _package(target: object) -> str:
    return type(target).__module__.partition(".")[0]


def _opener(target: Any, colour: int) -> Opener:
    if isinstance(target, str):
        scheme, separator, _ = target.partition("://")
        key = scheme + separator
    else:
        key = _package(target)
    opener = _OPENERS.get(key, ("", ""))[colour]
    if not opener:
        known = ", ".join(sorted({"memory://", "sqlite://", *_OPENERS}))
        raise BadConfiguration(f"no store is registered for {target!r}; known: {known}")
    if not isinstance(opener, str):
        return opener
    module, _, name = opener.partition(":")
    return cast("Opener", getattr(importlib.import_module(module), name))
