"""The file of the disk tier: one SQLite connection, its tables, and what to do with damage.

The file holds entries, oldest first, and tokens, which are never expelled.  A write-ahead
log without a synchronisation per commit: a killed process loses nothing that was committed,
a power failure at most the last commits, and neither leaves a file that cannot be read.
"""

import contextlib
import os
import sqlite3
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeAlias
from urllib.parse import quote

from prodml.errors import StoreUnavailable

__all__ = ["DiskFile", "Place", "Waiting", "WaitingToken", "is_busy", "is_damage"]

Waiting: TypeAlias = tuple[bytes, float | None]
"""Value of an entry, and when it ends (seconds since the epoch; None for never)."""

WaitingToken: TypeAlias = tuple[bytes, bool]
"""A token, and whether it takes the place of another."""

Place: TypeAlias = tuple[int, int]
"""A file, whatever its name: device and number."""

_Row: TypeAlias = tuple[str, bytes, float | None]

_APPLICATION: Final = 0x70726D6C
_FORMAT: Final = 1
_SCHEMA: Final = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS entries (
    seq INTEGER PRIMARY KEY, ends REAL, name TEXT NOT NULL UNIQUE, value BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS entries_by_end ON entries (ends) WHERE ends IS NOT NULL;
CREATE TABLE IF NOT EXISTS tokens (name TEXT PRIMARY KEY, token BLOB NOT NULL) WITHOUT ROWID;
PRAGMA application_id = {_APPLICATION};
PRAGMA user_version = {_FORMAT};
COMMIT;
"""
# The index of the log, which processes share.
_SHARED: Final = 64 * 1024
_WIDE: Final = 64
_FIND: Final = "SELECT name, value, ends FROM entries WHERE name IN ({})"
_FIND_ONE: Final = _FIND.format("?")
_FIND_MANY: Final = _FIND.format(",".join("?" * _WIDE))
_KEEP: Final = "INSERT OR REPLACE INTO entries (name, value, ends) VALUES (?, ?, ?)"
_TOKEN: Final = "SELECT token FROM tokens WHERE name = ?"  # noqa: S105 - a statement
_PIN: Final = "INSERT OR REPLACE INTO tokens VALUES (?, ?)"
_PROPOSE: Final = "INSERT OR IGNORE INTO tokens VALUES (?, ?)"
_OVER: Final = (
    "DELETE FROM entries WHERE seq IN (SELECT seq FROM entries WHERE ends <= ? LIMIT 1000)"
)
_OLDEST: Final = "DELETE FROM entries WHERE seq IN (SELECT seq FROM entries ORDER BY seq LIMIT ?)"

# Results of SQLite, without their extensions.
_BUSY, _LOCKED, _CORRUPT, _FULL, _NOT_A_DATABASE = 5, 6, 11, 13, 26


def is_damage(error: BaseException) -> bool:
    """Whether ``error`` says that the file's content is no database, or no longer one.

    Examples
    --------
    >>> is_damage(OSError("no space left"))
    False
    """
    return _code(error) in {_CORRUPT, _NOT_A_DATABASE}


def is_busy(error: BaseException) -> bool:
    """Whether another connection was in the way, which passes."""
    return _code(error) in {_BUSY, _LOCKED}


def _code(error: BaseException) -> int:
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF


class DiskFile:
    """One connection to the file, for one thread at a time.

    Parameters
    ----------
    path, size
        The file, and the bytes that it and its log may take.
    patience
        Seconds to wait for another connection.

    Examples
    --------
    >>> import tempfile
    >>> file = DiskFile(Path(tempfile.mkdtemp(), "cache.db"), 2**20, patience=1.0)
    >>> file.open(create=True)
    True
    >>> file.write({"name": (b"value", None)}, {}, now=0.0)
    (0, 0)
    >>> file.read(["name", "other"], now=0.0)
    {'name': b'value'}
    >>> file.close()
    """

    __slots__: tuple[str, ...] = ("_db", "_log", "_patience", "path", "place", "size")

    def __init__(self, path: Path, size: int, *, patience: float) -> None:
        self.path: Path = path
        self.size: int = size
        self._patience: float = patience
        self._log: int = min(32 * 2**20, size // 8)
        self._db: sqlite3.Connection | None = None
        # Which file is open; the path may lead to another by now.
        self.place: Place | None = None

    def open(self, *, create: bool) -> bool:
        """Open the file; return False if there is none yet and none shall be made.

        Raises
        ------
        sqlite3.Error
            It cannot be opened, or it is damaged.
        OSError
            It cannot be created.
        StoreUnavailable
            It is somebody else's database.
        """
        if self._db is not None and self.place == _place(self.path):
            return True
        self.close()
        if create:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        elif not self.path.exists():
            return False
        # A reader has no time to wait for those who exchange the file.
        with _locked(self.path, shared=True, wait=create):
            return self._open(create)

    def close(self) -> None:
        """Close the connection; :meth:`open` makes another."""
        db, self._db, self.place = self._db, None, None
        if db is not None:
            with contextlib.suppress(sqlite3.Error):
                db.close()

    def read(self, names: Sequence[str], now: float) -> dict[str, bytes]:
        """Values of those ``names`` that are there and not over."""
        db = self._connection()
        if len(names) < _WIDE // 8:
            rows = [row for name in names for row in db.execute(_FIND_ONE, (name,))]
        else:
            rows = []
            for start in range(0, len(names), _WIDE):
                part = names[start : start + _WIDE]
                rows += db.execute(_FIND_MANY, (*part, *(None for _ in range(_WIDE - len(part)))))
        return {name: value for name, value, ends in rows if ends is None or ends > now}

    def write(
        self, entries: Mapping[str, Waiting], tokens: Mapping[str, WaitingToken], now: float
    ) -> tuple[int, int]:
        """Keep ``tokens`` and ``entries``; return how many were expelled, how many over.

        A file that is full all the same loses more of its oldest entries.
        """
        with self._transaction() as db:
            for name, (token, replaces) in tokens.items():
                db.execute(_PIN if replaces else _PROPOSE, (name, token))
            over = db.execute(_OVER, (now,)).rowcount
        expelled = sum(map(self._write, self._parts(entries)))
        self._shrink(db)
        return expelled, over

    def token(self, name: str) -> bytes | None:
        """Token of ``name``, or None."""
        row = self._connection().execute(_TOKEN, (name,)).fetchone()
        return None if row is None else row[0]

    def pin(self, name: str, token: bytes) -> None:
        """Keep a token; it is on the disk when this returns."""
        db = self._connection()
        db.execute("PRAGMA synchronous = FULL")
        try:
            db.execute(_PIN, (name, token))
        finally:
            db.execute("PRAGMA synchronous = NORMAL")

    def set_aside(self, place: Place | None) -> bool:
        """Rename the damaged file that was at ``place``; False if somebody else has done it."""
        self.close()
        with _locked(self.path):
            if place is None or place != _place(self.path):
                return False
            aside = self.path.with_name(f"{self.path.name}.damaged")
            for end in ("-shm", "-wal", ""):
                with contextlib.suppress(FileNotFoundError):
                    Path(f"{self.path}{end}").replace(f"{aside}{end}")
            return True

    def remove(self) -> None:
        """Delete the file with all that is in it."""
        self.close()
        with _locked(self.path):
            for end in ("-shm", "-wal", ""):
                Path(f"{self.path}{end}").unlink(missing_ok=True)

    def _open(self, create: bool) -> bool:
        if create:
            _make(self.path)
        # Before the connection: if the file is exchanged in between, the next check tells.
        place = _place(self.path)
        db = sqlite3.connect(
            f"file:{quote(str(self.path.absolute()))}?mode=rw",
            uri=True,
            timeout=self._patience,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            ready = self._prepared(db, create)
        except BaseException as error:
            db.close()
            # Only a file whose damage was seen may be set aside.
            self.place = place if is_damage(error) else None
            raise
        if not ready:
            db.close()
            return False
        self._db, self.place = db, place
        return True

    def _prepared(self, db: sqlite3.Connection, create: bool) -> bool:
        found, empty = _told(db)
        if found == (0, 0) and empty:
            if not create:
                return False
            db.execute("PRAGMA auto_vacuum = INCREMENTAL")
            db.execute("PRAGMA journal_mode = WAL")
            db.executescript(_SCHEMA)
        elif found != (_APPLICATION, _FORMAT):
            raise StoreUnavailable(str(self.path), "a database of another application or format")
        if not create:
            db.execute("PRAGMA query_only = ON")
            return True
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute(f"PRAGMA journal_size_limit = {self._log}")
        db.execute(f"PRAGMA wal_autocheckpoint = {self._log // 4 // _pragma(db, 'page_size')}")
        return True

    def _connection(self) -> sqlite3.Connection:
        if self._db is None:
            raise StoreUnavailable(str(self.path), "it is closed")
        return self._db

    @contextlib.contextmanager
    def _transaction(self) -> Generator[sqlite3.Connection, None, None]:
        db = self._connection()
        db.execute("BEGIN IMMEDIATE")
        try:
            yield db
            db.execute("COMMIT")
        except BaseException:
            # After some errors SQLite has rolled back by itself.
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise

    def _parts(self, entries: Mapping[str, Waiting]) -> Iterator[list[_Row]]:
        """Entries in transactions that the log has room for."""
        part: list[_Row] = []
        room = self._log // 4
        for name, (value, ends) in entries.items():
            # One entry may touch a page in each of two trees.
            room -= len(value) + 2 * 4096
            if room < 0 and part:
                yield part
                part, room = [], self._log // 4
            part.append((name, value, ends))
        if part:
            yield part

    def _write(self, rows: list[_Row]) -> int:
        expelled = 0
        for last in (False, False, False, True):
            try:
                with self._transaction() as db:
                    gone = self._expel(db, _pages_of(rows, _pragma(db, "page_size")))
                    db.executemany(_KEEP, rows)
            except sqlite3.OperationalError as error:
                if _code(error) != _FULL or last:
                    raise
                # The estimate was too low, or the disk is full; the latter fails here again.
                with self._transaction() as db:
                    expelled += self._expel(db, self._pages(db) // 8)
            else:
                self._fold(db)
                return expelled + gone
        return expelled

    def _pages(self, db: sqlite3.Connection) -> int:
        """How many pages the file may have; SQLite is told, too, and refuses any more."""
        pages = (self.size - self._log - _SHARED) // _pragma(db, "page_size")
        db.execute(f"PRAGMA max_page_count = {pages}")
        return pages

    def _expel(self, db: sqlite3.Connection, wanted: int) -> int:
        """Delete the oldest entries until so many pages are free; return how many."""
        excess, expelled, count = _used(db) + wanted - self._pages(db), 0, 8
        while excess > 0:
            gone = db.execute(_OLDEST, (count,)).rowcount
            if not gone:
                break
            expelled += gone
            before, excess = excess, _used(db) + wanted - self._pages(db)
            # As many as it takes at this rate, approached from below.
            count = min(max(8, gone * excess // (2 * max(1, before - excess))), 4096)
        return expelled

    def _fold(self, db: sqlite3.Connection) -> None:
        """Put the log into the file if it has grown: with several writers it never ends."""
        try:
            size = Path(f"{self.path}-wal").stat().st_size
        except OSError:
            return
        if size > self._log // 2:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _shrink(self, db: sqlite3.Connection) -> None:
        beyond = _pragma(db, "page_count") - self._pages(db)
        if beyond > 0:
            # A script, since a single statement would be left after its first page.
            db.executescript(f"PRAGMA incremental_vacuum({beyond})")


def _used(db: sqlite3.Connection) -> int:
    return _pragma(db, "page_count") - _pragma(db, "freelist_count")


def _told(db: sqlite3.Connection) -> tuple[tuple[int, int], bool]:
    """Whose file it is, and whether nothing is in it, seen at one moment.

    One by one, the numbers could be from before and after another process has made the file.
    """
    db.execute("BEGIN")
    try:
        empty = db.execute("SELECT 1 FROM sqlite_master").fetchone() is None
        return (_pragma(db, "application_id"), _pragma(db, "user_version")), empty
    finally:
        db.execute("ROLLBACK")


def _pragma(db: sqlite3.Connection, name: str) -> int:
    return int(db.execute(f"PRAGMA {name}").fetchone()[0])


def _pages_of(rows: list[_Row], page: int) -> int:
    """Pages that entries will take, with what their place in two indexes takes."""
    small = pages = 0
    for name, value, _ in rows:
        size = len(value) + 3 * len(name) + 64
        if size > page // 4:
            pages += size // (page - 64) + 1
        else:
            small += size
    return pages + small // (page - 512) + 8


def _place(path: Path) -> Place | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _make(path: Path) -> None:
    # Only a file that is new may be opened beside SQLite: closing any descriptor of a file
    # lets go of all the locks that this process has on it.
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))


@contextlib.contextmanager
def _locked(path: Path, *, shared: bool = False, wait: bool = True) -> Generator[None, None, None]:
    """Let no process open the file while another renames it, where locks exist.

    Raises
    ------
    BlockingIOError
        Another does, and ``wait`` is False.
    """
    handle = _lock(path, shared, wait)
    try:
        yield
    finally:
        if handle is not None:
            os.close(handle)


def _lock(path: Path, shared: bool, wait: bool) -> int | None:
    try:
        import fcntl

        handle = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except (ImportError, OSError):
        # Where nothing can be written, nothing is renamed either.
        return None
    how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(handle, how if wait else how | fcntl.LOCK_NB)
    except BaseException:
        os.close(handle)
        raise
    return handle
