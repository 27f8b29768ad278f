"""Append-only files: one directory, many writers, a file at a time for each.

A file is called ``<start>-<process>.<index>.jsonl``: when its writer began (UTC), the
writer's process id, and a running index.  Nobody else ever writes to it, so processes need
no common lock and a forked child simply begins files of its own.  The writer holds a shared
advisory lock on its current file; that is how others see that it is alive.
"""

import contextlib
import errno
import fcntl
import itertools
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from prodml.clock import utc
from prodml.recording.line import framed

__all__ = ["Journal", "Segment", "is_live", "prune", "segments_of", "sync"]

_NAME: Final = re.compile(r"(?P<writer>\d{8}T\d{9}Z-\d+(?:-\d+)?)\.(?P<index>\d{6,})\.jsonl")
_NEVER: Final = float("inf")
# Seconds between two attempts to begin a file.
_PATIENCE: Final = 1.0
_FLAGS: Final = os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_WRONLY


class Segment(NamedTuple):
    """One file of a log."""

    writer: str
    number: int
    path: Path


def segments_of(directory: Path) -> list[Segment]:
    """Files of the log in ``directory``, by writer and index; other files are not ours.

    Examples
    --------
    >>> segments_of(Path("no/such/directory"))
    []
    """
    try:
        names = [path.name for path in directory.iterdir()]
    except FileNotFoundError:
        return []
    matches = filter(None, map(_NAME.fullmatch, names))
    found = sorted(Segment(m["writer"], int(m["index"]), directory / m[0]) for m in matches)
    # A listing can miss files that are made while it is taken, between others that it has.
    return sorted({*found, *itertools.chain.from_iterable(map(_between, found, found[1:]))})


def _between(before: Segment, after: Segment) -> Iterator[Segment]:
    if before.writer == after.writer:
        for number in range(before.number + 1, after.number):
            path = before.path.with_name(_name(before.writer, number))
            if path.exists():
                yield Segment(before.writer, number, path)


def _name(writer: str, number: int) -> str:
    return f"{writer}.{number:06d}.jsonl"


def is_live(path: Path) -> bool:
    """Whether some process has ``path`` open for appending."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        # Locked; or no locks here, and then it is safer to think so.
        return True
    finally:
        os.close(descriptor)
    return False


def prune(directory: Path, keep_bytes: int | None, keep_after: float | None) -> list[Path]:
    """Delete the oldest files until the rest fits; never one that a process is writing.

    Parameters
    ----------
    directory
        Of the log.
    keep_bytes
        All files together may be this large; None for any size.
    keep_after
        Files last written before this moment (seconds since the epoch) go; None for any age.

    Returns
    -------
    list of Path
        What was deleted.
    """
    found: list[tuple[float, int, Path]] = []
    for segment in segments_of(directory):
        with contextlib.suppress(FileNotFoundError):
            status = segment.path.stat()
            found.append((status.st_mtime, status.st_size, segment.path))
    total = sum(size for _, size, _ in found)
    gone: list[Path] = []
    for written, size, path in sorted(found):
        too_old = keep_after is not None and written < keep_after
        too_much = keep_bytes is not None and total > keep_bytes
        if (too_old or too_much) and not is_live(path):
            path.unlink(missing_ok=True)
            gone.append(path)
            total -= size
    return gone


def sync(paths: list[Path]) -> None:
    """Wait until the device has the content of ``paths`` and knows their names."""
    for path in [*paths, *{path.parent for path in paths}]:
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            continue
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@dataclass(kw_only=True, slots=True, eq=False)
class Journal:
    """The files of one writer in one process; not safe for threads, its owner is.

    Every method may raise OSError; after that no part of the failed line is in a file.

    Parameters
    ----------
    directory
        Made when the first line is written.
    segment_bytes, segment_seconds
        A file is closed and a new one begun before it gets larger or older than this.

    Examples
    --------
    >>> import tempfile
    >>> journal = Journal(directory=Path(tempfile.mkdtemp()), segment_bytes=1000)
    >>> journal.append(b'{"request_id":"r-1"}', at=0.0), journal.writer[:20]
    (1, '19700101T000000000Z-')
    >>> journal.close()
    """

    directory: Path
    segment_bytes: int
    segment_seconds: float | None = None
    writer: str = field(default="", init=False)
    files: int = field(default=0, init=False)
    last: int = field(default=0, init=False)
    volume: int = field(default=0, init=False)
    _descriptor: int = field(default=-1, init=False)
    _size: int = field(default=0, init=False)
    _synced: int = field(default=0, init=False)
    _room: int = field(default=0, init=False)
    _at: float = field(default=0.0, init=False)
    _seal_at: float = field(default=_NEVER, init=False)
    _failed_at: float = field(default=-_NEVER, init=False)
    _failure: int = field(default=0, init=False)

    def append(self, body: bytes, at: float) -> int:
        """Hand one line to the kernel; give its number."""
        if self._descriptor < 0 or at >= self._seal_at or self._size + len(body) > self._room:
            self._rotate(at)
        line = framed(self.last + 1, body)
        # Text and newline in one call: in two, somebody could look in between.
        written = os.write(self._descriptor, line)
        if written != len(line):
            self._finish(line, written)
        self._size += len(line)
        self._at = at
        self.volume += len(line)
        self.last += 1
        return self.last

    def unsynced(self) -> list[Path]:
        """Files with lines that :func:`sync` has not seen yet, the current one last."""
        return [self._path(index) for index in range(self._synced, self.files)]

    def synced(self, files: int) -> None:
        """Note that the device has the first ``files`` files; the last may have grown since."""
        self._synced = max(self._synced, files - 1)

    def close(self) -> None:
        """Close the current file; the next line would begin another.

        The stamp of its last line becomes its time of last change, so that files age by the
        clock of the log.
        """
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                os.utime(self._descriptor, (self._at, self._at))
            self.abandon()

    def abandon(self) -> None:
        """Let go of the current file, which may be somebody else's by now."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)

    def __del__(self) -> None:
        with contextlib.suppress(OSError):
            self.abandon()

    def _rotate(self, at: float) -> None:
        if self._descriptor >= 0 and self._size == 0:
            return
        try:
            descriptor = self._create(at)
        except OSError:
            if self._descriptor < 0:
                raise
            # No descriptor left, say: the old file goes on, and we ask again a little later.
            self._room += self.segment_bytes // 16 + 1
            self._seal_at += _PATIENCE
            return
        # The new file first: without one the old one still serves.
        with contextlib.suppress(OSError):
            self.close()
        self._descriptor, self._size, self._room = descriptor, 0, self.segment_bytes
        self._seal_at = at + (self.segment_seconds or _NEVER)
        self.files += 1

    def _create(self, at: float) -> int:
        if 0 <= at - self._failed_at < _PATIENCE:
            raise OSError(self._failure, os.strerror(self._failure), str(self.directory))
        try:
            return self._open_next(at)
        except OSError as error:
            self._failed_at, self._failure = at, error.errno or 0
            raise

    def _open_next(self, at: float) -> int:
        self.directory.mkdir(parents=True, exist_ok=True)
        for writer, index in self._names(at):
            try:
                descriptor = os.open(self._path(index, writer), _FLAGS, 0o640)
            except FileExistsError:
                continue
            self.writer, self.files = writer, index
            # Without advisory locks (some network file systems) it just looks abandoned.
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return descriptor
        raise FileExistsError(errno.EEXIST, "somebody else has this file", self.writer)

    def _names(self, at: float) -> Iterator[tuple[str, int]]:
        if self.writer:
            return ((self.writer, index) for index in range(self.files, self.files + 100))
        return ((writer, self.files) for writer in _writers(at))

    def _path(self, index: int, writer: str = "") -> Path:
        return self.directory / _name(writer or self.writer, index)

    def _finish(self, line: bytes, written: int) -> None:
        try:
            while written < len(line):
                written += os.write(self._descriptor, line[written:])
        except BaseException:
            self._cut_back()
            raise

    def _cut_back(self) -> None:
        # Nobody else writes to this file, so this removes our torn line and nothing more.
        try:
            os.ftruncate(self._descriptor, self._size)
        except OSError:
            self.abandon()


def _writers(at: float) -> Iterator[str]:
    """Names for a writer that begins at ``at``; another one if somebody else has it.

    Two containers can have the same process id and share a directory.
    """
    now = utc(at)
    name = f"{now:%Y%m%dT%H%M%S}{now.microsecond // 1000:03d}Z-{os.getpid()}"
    yield name
    yield from (f"{name}-{number}" for number in range(2, 1000))
