"""Where a registry keeps its records and artifacts: a directory, or any durable store.

Two kinds of things are kept.  An **artifact** is bytes under their SHA-256.  A **record**
is a numbered entry of a list (the versions of a model, the moves of an alias) that is
added once and never changed; whoever adds number *n* first wins.  Nothing is ever
overwritten, so there is nothing to tear, and a crash between any two writes leaves at most
an artifact that nobody refers to.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Protocol
from uuid import uuid4

from prodml.errors import Conflict, CorruptRecord, StoreUnavailable
from prodml.stores import DurableStore

__all__ = ["Archive", "Directory", "StoreArchive", "digest_of"]

_RECORD = re.compile(r"([0-9]{8})\.json")


def digest_of(data: bytes) -> str:
    """SHA-256 of ``data``, in hexadecimal.

    Examples
    --------
    >>> digest_of(b"")[:16]
    'e3b0c44298fc1c14'
    """
    return sha256(data).hexdigest()


class Archive(Protocol):
    """Keeps artifacts by digest and records by list."""

    def put(self, digest: str, data: bytes) -> None:
        """Keep an artifact; a second time does nothing, or mends what was damaged."""
        ...

    def get(self, digest: str) -> bytes:
        """Bytes kept under ``digest``, not yet verified; ``CorruptRecord`` if there are none."""
        ...

    def add(self, topic: str, number: int, data: bytes) -> bool:
        """Add record ``number``; False when somebody else has added it."""
        ...

    def count(self, topic: str) -> int:
        """How many records a list has; they are numbered from 1 without gaps."""
        ...

    def record(self, topic: str, number: int) -> bytes:
        """Content of record ``number``; ``CorruptRecord`` if it is damaged."""
        ...

    def topics(self, prefix: str) -> Sequence[str]:
        """Names of the lists directly under ``prefix``, sorted; some may be empty."""
        ...


@dataclass(slots=True)
class Directory:
    """An archive in a directory that any number of processes share.

    Everything is written to a file of its own in ``tmp``, forced to the disk, and then
    linked to its name, which fails if the name exists: POSIX ``link(2)`` is atomic, also
    over NFS.  The directory appears with the first write.

    Raises
    ------
    StoreUnavailable
        The directory cannot be read or written.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as path:
    ...     archive = Directory(path)
    ...     archive.add("models/churn", 1, b"{}"), archive.add("models/churn", 1, b"late")
    (True, False)
    """

    path: str | os.PathLike[str]

    def put(self, digest: str, data: bytes) -> None:
        """Keep an artifact."""
        target = self._artifact(digest)
        try:
            # Reading it costs less than the disk: a damaged artifact is mended in passing.
            if target.exists() and digest_of(target.read_bytes()) == digest:
                return
            written = self._written(data)
            self._make(target.parent)
            written.replace(target)
            _force(target.parent)
        except OSError as error:
            raise StoreUnavailable(str(self.path), str(error)) from error

    def get(self, digest: str) -> bytes:
        """Bytes kept under ``digest``."""
        target = self._artifact(digest)
        try:
            return target.read_bytes()
        except FileNotFoundError:
            raise CorruptRecord(str(target), "the artifact is missing") from None
        except OSError as error:
            raise StoreUnavailable(str(target), str(error)) from error

    def add(self, topic: str, number: int, data: bytes) -> bool:
        """Add a record with its checksum."""
        target = self._record(topic, number)
        try:
            written = self._written(digest_of(data).encode() + b"\n" + data)
            try:
                self._make(target.parent)
                os.link(written, target)
                _force(target.parent)
            except FileExistsError:
                return False
            finally:
                written.unlink()
        except OSError as error:
            raise StoreUnavailable(str(self.path), str(error)) from error
        return True

    def count(self, topic: str) -> int:
        """How many records a list has."""
        folder = self._root / "records" / topic
        try:
            found = [_RECORD.fullmatch(entry.name) for entry in folder.iterdir()]
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise StoreUnavailable(str(folder), str(error)) from error
        return max((int(match[1]) for match in found if match), default=0)

    def record(self, topic: str, number: int) -> bytes:
        """Content of a record, checked against its checksum."""
        file = self._record(topic, number)
        try:
            checksum, _, data = file.read_bytes().partition(b"\n")
        except FileNotFoundError:
            raise CorruptRecord(str(file), "the record is missing") from None
        except OSError as error:
            raise StoreUnavailable(str(file), str(error)) from error
        if checksum.decode("ascii", "replace") != digest_of(data):
            raise CorruptRecord(str(file), "the content does not match its checksum")
        return data

    def topics(self, prefix: str) -> Sequence[str]:
        """Names of the lists under ``prefix``."""
        folder = self._root / "records" / prefix
        try:
            return sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreUnavailable(str(folder), str(error)) from error

    @property
    def _root(self) -> Path:
        return Path(self.path)

    def _artifact(self, digest: str) -> Path:
        return self._root / "artifacts" / digest[:2] / digest

    def _record(self, topic: str, number: int) -> Path:
        return self._root / "records" / topic / f"{number:08}.json"

    def _make(self, folder: Path) -> None:
        if folder.is_dir():
            return
        folder.mkdir(parents=True, exist_ok=True)
        # A new folder is on the disk when the folder above it is.
        for above in folder.parents:
            _force(above)
            if above == self._root.parent:
                return

    def _written(self, data: bytes) -> Path:
        folder = self._root / "tmp"
        self._make(folder)
        # Not a temporary file of the standard library: those only their owner may read.
        written = folder / uuid4().hex
        with written.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        return written


def _force(folder: Path) -> None:
    """Force the names in ``folder`` to the disk, where the system can."""
    if not hasattr(os, "O_DIRECTORY"):  # pragma: no cover
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@dataclass(slots=True)
class StoreArchive:
    """An archive in a durable store: in memory for tests, in SQLite for one file.

    Examples
    --------
    >>> from prodml.stores import MemoryStore
    >>> archive = StoreArchive(MemoryStore())
    >>> archive.add("models/churn", 1, b"{}"), archive.add("models/churn", 1, b"late")
    (True, False)
    """

    store: DurableStore
    prefix: str = "registry"

    def put(self, digest: str, data: bytes) -> None:
        """Keep an artifact."""
        key = f"{self.prefix}/artifacts/{digest}"
        kept, revision = self.store.read(key)
        if kept is not None and digest_of(kept) == digest:
            return
        try:
            self.store.commit(key, data, revision)
        except Conflict:
            # Somebody has just kept the same bytes: the name is their digest.
            return

    def get(self, digest: str) -> bytes:
        """Bytes kept under ``digest``."""
        kept, _ = self.store.read(f"{self.prefix}/artifacts/{digest}")
        if kept is None:
            raise CorruptRecord(digest, "the artifact is missing")
        return kept

    def add(self, topic: str, number: int, data: bytes) -> bool:
        """Add a record; the topic's revision is the number of its records."""
        key = f"{self.prefix}/records/{topic}"
        if number == 1:
            self._announce(topic)
        try:
            self.store.commit(key, b"", number - 1, rows=[(key, data)])
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

    def _announce(self, topic: str) -> None:
        # Before the record: a crash in between leaves an empty list, not a hidden one.
        prefix, _, name = topic.rpartition("/")
        self.store.append(f"{self.prefix}/topics/{prefix}", name.encode())
