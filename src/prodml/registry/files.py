"""Where a registry keeps its records and artifacts: the contract, and a directory.

Two kinds of things are kept.  An **artifact** is bytes under their SHA-256.  A **record**
is a numbered entry of a list (the versions of a model, the moves of an alias) that is
added once and never changed; whoever adds number *n* first wins.  Nothing is ever
overwritten, so there is nothing to tear, and a crash between any two writes leaves at most
an artifact that nobody refers to.
"""

import os
import re
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import KW_ONLY, dataclass, field
from os.path import exists
from pathlib import Path
from typing import Final, Protocol, final

from prodml.clock import SYSTEM_CLOCK, Clock
from prodml.errors import CorruptRecord
from prodml.registry.disk import make_folder, move, publish, reaching, read_file, written
from prodml.registry.lock import FileLock
from prodml.registry.records import DIGEST, NAME, digest_of

__all__ = ["Archive", "Artifact", "Directory"]

_RECORD: Final = re.compile(r"([0-9]{8})\.json")
_STALE: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class Artifact:
    """Something kept under ``digest``: its ``size`` in bytes and ``age`` in seconds."""

    digest: str
    size: int
    age: float


class Archive(Protocol):
    """Keeps artifacts by digest and records by list.

    Readers ask for no lock.  Writers hold :meth:`writing`; what takes long is staged
    before.
    """

    def writing(self) -> AbstractContextManager[None]:
        """Keep out every other writer, of this process and of others."""
        ...

    def stage(self, digest: str, data: bytes) -> None:
        """Prepare an artifact outside the lock; may do nothing."""
        ...

    def put(self, digest: str, data: bytes) -> None:
        """Keep an artifact, under the lock; a second time does nothing."""
        ...

    def get(self, digest: str, size: int) -> bytes:
        """Bytes under ``digest``, not yet verified, one too many if there are more than ``size``.

        Raises
        ------
        CorruptRecord
            There are none.
        """
        ...

    def remove(self, digest: str) -> None:
        """Forget an artifact, under the lock."""
        ...

    def artifacts(self) -> Sequence[Artifact]:
        """Everything that is kept."""
        ...

    def add(self, topic: str, number: int, data: bytes) -> bool:
        """Add record ``number``; False when somebody else has added it."""
        ...

    def count(self, topic: str) -> int:
        """How many records a list has; they are numbered from 1 without gaps.  Cheap."""
        ...

    def record(self, topic: str, number: int) -> bytes:
        """Content of record ``number``; ``CorruptRecord`` if it is missing."""
        ...

    def topics(self, prefix: str) -> Sequence[str]:
        """Names of the lists directly under ``prefix``, sorted; some may be empty."""
        ...

    def tidy(self) -> None:
        """Remove what killed writers have left half done, under the lock."""
        ...


@final
@dataclass(slots=True)
class Directory:
    """An archive in a directory that any number of processes share.

    Everything is written to a file of its own in ``tmp``, forced to the disk, and then
    linked to its name, which fails if the name exists.  The directory appears with the
    first write; reading needs no right to write.

    Parameters
    ----------
    path
        The directory.
    patience
        Seconds that a writer waits for another one.
    clock
        Tells the age of artifacts, and waits.

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
    _: KW_ONLY
    patience: float = 60.0
    clock: Clock = SYSTEM_CLOCK
    _base: str = field(init=False, repr=False)
    # What a list had when it was last looked at; lists only grow.
    _counts: dict[str, int] = field(default_factory=dict[str, int], init=False, repr=False)

    def __post_init__(self) -> None:
        self._base = os.fspath(self.path)

    @contextmanager
    def writing(self) -> Generator[None, None, None]:
        """Keep out every other writer."""
        with reaching(self.path):
            make_folder(self._root, self._root)
        with FileLock(self._root / "lock", patience=self.patience, clock=self.clock).held():
            yield

    # -- artifacts ----------------------------------------------------------------------

    def stage(self, digest: str, data: bytes) -> None:
        """Write an artifact that is not there, or is damaged, before the lock is taken."""
        with reaching(self.path):
            # Reading it costs less than the disk: a damaged artifact is mended in passing.
            if not self._holds(digest, data):
                self._replace(digest, data)

    def put(self, digest: str, data: bytes) -> None:
        """Keep an artifact, which :meth:`stage` has verified if it is there."""
        with reaching(self.path):
            if not self._artifact(digest).exists():
                self._replace(digest, data)

    def get(self, digest: str, size: int) -> bytes:
        """Bytes kept under ``digest``."""
        file = self._artifact(digest)
        with reaching(file):
            try:
                return read_file(file, size)
            except FileNotFoundError:
                raise CorruptRecord(str(file), "the artifact is missing") from None

    def remove(self, digest: str) -> None:
        """Forget an artifact."""
        with reaching(self.path):
            self._artifact(digest).unlink(missing_ok=True)

    def artifacts(self) -> Sequence[Artifact]:
        """Everything that is kept; another file in its place is not ours."""
        now, kept = self.clock.time(), list[Artifact]()
        with reaching(self.path):
            for file in sorted((self._root / "artifacts").glob("*/*")):
                if DIGEST.fullmatch(file.name):
                    with suppress(FileNotFoundError):
                        found = file.lstat()
                        kept.append(Artifact(file.name, found.st_size, now - found.st_mtime))
        return kept

    # -- records ------------------------------------------------------------------------

    def add(self, topic: str, number: int, data: bytes) -> bool:
        """Add a record."""
        target = Path(self._record(topic, number))
        with reaching(self.path):
            fresh = written(self._root / "tmp", data, self._root)
            try:
                make_folder(target.parent, self._root)
            except BaseException:
                fresh.unlink()
                raise
            return publish(fresh, target)

    def count(self, topic: str) -> int:
        """How many records a list has."""
        number = self._counts.get(topic, 0)
        if not (number and exists(self._record(topic, number))):  # noqa: PTH110
            number = self._listed(topic)
        while exists(self._record(topic, number + 1)):  # noqa: PTH110
            number += 1
        self._counts[topic] = number
        return number

    def record(self, topic: str, number: int) -> bytes:
        """Content of a record."""
        file = self._record(topic, number)
        with reaching(file):
            try:
                return read_file(file)
            except FileNotFoundError:
                raise CorruptRecord(file, "the record is missing") from None

    def topics(self, prefix: str) -> Sequence[str]:
        """Names of the lists under ``prefix``."""
        folder = self._root / "records" / prefix
        with reaching(folder), suppress(FileNotFoundError):
            # A folder that a file server or an editor has left there is not ours.
            found = (entry for entry in folder.iterdir() if NAME.fullmatch(entry.name))
            return sorted(entry.name for entry in found if entry.is_dir())
        return []

    def tidy(self) -> None:
        """Remove files in ``tmp`` that nobody has finished for a day."""
        now = self.clock.time()
        with reaching(self.path):
            for file in (self._root / "tmp").glob("*"):
                with suppress(FileNotFoundError):
                    if now - file.lstat().st_mtime > _STALE:
                        file.unlink()

    # -- inside -------------------------------------------------------------------------

    @property
    def _root(self) -> Path:
        return Path(self.path)

    def _artifact(self, digest: str) -> Path:
        return self._root / "artifacts" / digest[:2] / digest

    def _record(self, topic: str, number: int) -> str:
        # Whoever follows an alias asks every second: building a path object takes longer
        # than asking the system.
        return f"{self._base}/records/{topic}/{number:08}.json"

    def _holds(self, digest: str, data: bytes) -> bool:
        file = self._artifact(digest)
        with suppress(FileNotFoundError):
            if digest_of(read_file(file, len(data))) == digest:
                # Young again, so that nobody takes it for something forgotten.
                with suppress(PermissionError):
                    os.utime(file)
                return True
        return False

    def _replace(self, digest: str, data: bytes) -> None:
        target = self._artifact(digest)
        fresh = written(self._root / "tmp", data, self._root)
        try:
            make_folder(target.parent, self._root)
            move(fresh, target)
        except BaseException:
            # It may be gigabytes, and be tried again and again.
            fresh.unlink(missing_ok=True)
            raise

    def _listed(self, topic: str) -> int:
        folder = f"{self._base}/records/{topic}"
        with reaching(folder), suppress(FileNotFoundError):
            # Not ``iterdir``: a path object for each of ten thousand names is dear.
            found = map(_RECORD.fullmatch, os.listdir(folder))  # noqa: PTH208
            return max((int(match[1]) for match in found if match), default=0)
        return 0
