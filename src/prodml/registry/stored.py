"""A registry in a durable store: one SQLite file, or memory for tests."""

import threading
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import KW_ONLY, dataclass, field
from math import inf
from pathlib import Path
from typing import Final, final

from prodml.clock import SYSTEM_CLOCK, Clock
from prodml.errors import BadConfiguration, Conflict, CorruptRecord
from prodml.registry.files import Artifact
from prodml.registry.lock import FileLock, LeaseLock
from prodml.registry.records import canonical, digest_of, parsed
from prodml.stores import DurableStore, Lease, SQLiteStore

__all__ = ["StoreArchive"]

_LEASE: Final = 30.0
# What SQLite takes unless it was built otherwise.
_LARGEST: Final = 1_000_000_000


@final
@dataclass(slots=True)
class StoreArchive:
    """An archive in a durable store: in memory for tests, in SQLite for one file.

    Beside a SQLite file lies a lock file, which the system frees when its holder dies.
    Writers of any other store hold a lease of 30 s; after a writer was killed the next one
    waits for its end.  Artifacts are values of the store: SQLite takes up to a gigabyte.

    Examples
    --------
    >>> from prodml.stores import MemoryStore
    >>> archive = StoreArchive(MemoryStore())
    >>> archive.add("models/churn", 1, b"{}"), archive.add("models/churn", 1, b"late")
    (True, False)
    """

    store: DurableStore
    prefix: str = "registry"
    _: KW_ONLY
    patience: float = 60.0
    clock: Clock = SYSTEM_CLOCK
    _lease: Lease | None = field(default=None, init=False, repr=False)
    _turn: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    @contextmanager
    def writing(self) -> Generator[None, None, None]:
        """Keep out every other writer."""
        with self._turn, self._lock() as lease:
            self._lease = lease
            try:
                yield
            finally:
                self._lease = None

    # -- artifacts ----------------------------------------------------------------------

    def stage(self, digest: str, data: bytes) -> None:
        """Refuse what the store cannot hold; it is written to in one go, under the lock."""
        if isinstance(self.store, SQLiteStore) and len(data) > _LARGEST:
            raise BadConfiguration(
                f"{digest} has {len(data)} bytes: SQLite holds {_LARGEST} at most; keep the "
                "registry in a directory"
            )

    def put(self, digest: str, data: bytes) -> None:
        """Keep an artifact, or mend a damaged one."""
        kept = self.store.get(self._artifact(digest))
        if kept is not None and digest_of(kept) == digest:
            return
        # Listed before it is there: what is there but not listed would never be found.
        self._list({*self._listed(), digest})
        self.store.set(self._artifact(digest), data)

    def get(self, digest: str, size: int) -> bytes:
        """Bytes kept under ``digest``."""
        kept = self.store.get(self._artifact(digest))
        if kept is None:
            raise CorruptRecord(digest, "the artifact is missing")
        return kept[: size + 1]

    def remove(self, digest: str) -> None:
        """Forget an artifact."""
        if self._lease is not None:
            self._lease = self.store.renew(self._lease, _LEASE)
        self.store.delete(self._artifact(digest))
        self._list({*self._listed()} - {digest})

    def artifacts(self) -> Sequence[Artifact]:
        """Everything that is kept; a store does not know since when."""
        found = ((digest, self.store.get(self._artifact(digest))) for digest in self._listed())
        return [Artifact(digest, len(data), inf) for digest, data in found if data is not None]

    # -- records ------------------------------------------------------------------------

    def add(self, topic: str, number: int, data: bytes) -> bool:
        """Add a record; the topic's revision is the number of its records."""
        key = f"{self.prefix}/records/{topic}"
        if number == 1:
            self._announce(topic)
        try:
            self.store.commit(key, b"", number - 1, rows=[(key, data)], lease=self._lease)
        except Conflict:
            return False
        return True

    def count(self, topic: str) -> int:
        """How many records a list has."""
        return self.store.read(f"{self.prefix}/records/{topic}")[1]

    def record(self, topic: str, number: int) -> bytes:
        """Content of a record."""
        key = f"{self.prefix}/records/{topic}"
        rows = self.store.rows(key, after=number - 1, limit=1)
        if not rows:
            raise CorruptRecord(f"{key}/{number}", "the record is missing")
        return rows[0][1]

    def topics(self, prefix: str) -> Sequence[str]:
        """Names of the lists under ``prefix``."""
        rows = self.store.rows(f"{self.prefix}/topics/{prefix}")
        return sorted({row.decode() for _, row in rows})

    def tidy(self) -> None:
        """Nothing: a store leaves nothing half done."""

    # -- inside -------------------------------------------------------------------------

    def _lock(self) -> AbstractContextManager[Lease | None]:
        path = self.store.path if isinstance(self.store, SQLiteStore) else ":memory:"
        if path in {"", ":memory:"}:
            name = f"{self.prefix}/writing"
            lease = LeaseLock(
                self.store, name, ttl=_LEASE, patience=self.patience, clock=self.clock
            )
            return lease.held()
        return FileLock(Path(f"{path}.lock"), patience=self.patience, clock=self.clock).held()

    def _artifact(self, digest: str) -> str:
        return f"{self.prefix}/artifacts/{digest}"

    def _listed(self) -> Sequence[str]:
        listed, _ = self.store.read(f"{self.prefix}/artifacts")
        if listed is None:
            return ()
        return sorted(parsed(f"{self.prefix}/artifacts", listed))

    def _list(self, digests: set[str]) -> None:
        key = f"{self.prefix}/artifacts"
        _, revision = self.store.read(key)
        data = canonical(dict.fromkeys(digests, 1))
        self.store.commit(key, data, revision, lease=self._lease)

    def _announce(self, topic: str) -> None:
        # Before the record: a crash in between leaves an empty list, not a hidden one.
        prefix, _, name = topic.rpartition("/")
        self.store.append(f"{self.prefix}/topics/{prefix}", name.encode())
