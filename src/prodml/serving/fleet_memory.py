"""What the processes of one host share: a record in memory, and a bell for each worker.

A folder holds three kinds of files, and none of them needs a process to stay alive::

    memory      mapped by everybody: a number that says which of two slots is valid
    ID.bell     a named pipe of each worker: a byte in it wakes the worker's thread
    ID.beat     mapped by one worker: what it says of itself

A writer locks the memory, which the kernel unlocks if that process is killed, fills the slot that
nobody reads, and changes the number: one aligned store of eight bytes.  Whoever is killed before
it has changed nothing, and after it everything.  A reader looks at the number (no call to the
kernel), copies the slot and compares its checksum; one that was overtaken by two writers looks
again.

Plain files are mapped because ``multiprocessing.shared_memory`` belongs to whoever made it: its
tracker unlinks the memory when that process ends, and warns in the others.
"""

import errno
import fcntl
import mmap
import os
import sys
import threading
import zlib
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from prodml.clock import SYSTEM_CLOCK, Clock
from prodml.errors import BadConfiguration, Conflict, CorruptRecord, StoreUnavailable
from prodml.serving.fleet_record import Member

__all__ = ["Bell", "HostPlace", "Memory"]

_MAGIC: Final = b"prodml-1"
_PAGE: Final = 4096
_ROOM: Final = 128 * 1024
_PREFIX: Final = 16
_TRIES: Final = 100
_GLIMPSES: Final = 20


class Memory:
    """A value of some bytes in a mapped file, replaced whole.

    Parameters
    ----------
    path
        The file, which must exist: see :meth:`at`.
    """

    __slots__: tuple[str, ...] = ("_handle", "_mapped", "_room", "inode", "where", "word")

    def __init__(self, path: Path) -> None:
        self.where: str = str(path)
        # Kept open for the sake of locking.
        self._handle: int = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        found = os.fstat(self._handle)
        if found.st_size < 3 * _PAGE or os.pread(self._handle, 8, 0) != _MAGIC:
            raise CorruptRecord(str(path), "it is not the memory of a fleet")
        self._mapped: mmap.mmap = mmap.mmap(self._handle, found.st_size)
        self.inode: tuple[int, int] = (found.st_dev, found.st_ino)
        self._room: int = (found.st_size - _PAGE) // 2
        # What a request looks at: the revision, which is in ``word[1]``.
        self.word: memoryview[int] = memoryview(self._mapped)[:16].cast("Q")

    @classmethod
    def at(cls, path: Path, room: int) -> "Memory":
        """The memory at ``path``; if there is none, an empty one of ``room`` bytes."""
        for _ in range(_TRIES):
            try:
                return cls(path)
            except FileNotFoundError:
                _make(path, room)
        raise StoreUnavailable(str(path), "it is there and is not: a link that leads nowhere?")

    def lock(self) -> bool:
        """Keep other processes from writing; return whether they are kept now.

        The kernel does not tell the threads of a process from each other.
        """
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def unlock(self) -> None:
        """Let others write."""
        # In so many words, since a child that was forked meanwhile may have a copy.
        fcntl.flock(self._handle, fcntl.LOCK_UN)

    def __del__(self) -> None:
        handle = getattr(self, "_handle", -1)
        if handle >= 0:
            os.close(handle)

    @property
    def room(self) -> int:
        """The longest value, in bytes."""
        return self._room - _PREFIX

    def read(self) -> tuple[bytes | None, int]:
        """Value and revision; ``(None, 0)`` before the first."""
        torn = -1
        for _ in range(_TRIES):
            revision = int(self.word[1])
            value = b"" if revision == 0 else _slot(self._mapped, revision, self._room)
            if value is not None:
                return value if revision else None, revision
            # Overtaken by two writers; or, if nobody writes, torn when the machine went down.
            torn = revision if torn in {-1, revision} else 0
        if torn:
            return None, torn
        raise StoreUnavailable(self.where, "it is written all the time")

    def write(self, value: bytes) -> int:
        """Replace the value and return the new revision; for one writer at a time."""
        revision = int(self.word[1]) + 1
        begins = _PAGE + revision % 2 * self._room
        prefix = b"".join(n.to_bytes(4, "little") for n in (len(value), zlib.crc32(value)))
        # The slot is void while it is being filled.
        self._mapped[begins : begins + 8] = bytes(8)
        self._mapped[begins + _PREFIX : begins + _PREFIX + len(value)] = value
        self._mapped[begins + 8 : begins + _PREFIX] = prefix
        self._mapped[begins : begins + 8] = revision.to_bytes(8, "little")
        self.word[1] = revision
        return revision


def _make(path: Path, room: int) -> None:
    """Put an empty memory at ``path``, unless somebody else does."""
    new = path.with_name(f"{path.name}.new-{os.getpid()}-{os.urandom(4).hex()}")
    try:
        # Written out, not merely sized: a full disk shall say so here, not in a mapping.
        new.write_bytes(_MAGIC.ljust(_PAGE, b"\0") + bytes(2 * room))
        with suppress(FileExistsError):
            os.link(new, path)
    finally:
        new.unlink(missing_ok=True)


def _slot(buffer: Any, revision: int, room: int) -> bytes | None:
    """Value in the slot of ``revision``, or None if it is being written."""
    begins = _PAGE + revision % 2 * room
    prefix = bytes(buffer[begins : begins + _PREFIX])
    size = int.from_bytes(prefix[8:12], "little")
    if int.from_bytes(prefix[:8], "little") != revision or size > room - _PREFIX:
        return None
    value = bytes(buffer[begins + _PREFIX : begins + _PREFIX + size])
    return value if zlib.crc32(value) == int.from_bytes(prefix[12:], "little") else None


def _glimpse(path: Path) -> bytes | None:
    """Value in the memory at ``path``, without mapping it."""
    for _ in range(_GLIMPSES):
        try:
            data = path.read_bytes()
        except OSError:
            return None
        room = (len(data) - _PAGE) // 2
        revision = int.from_bytes(data[8:16], sys.byteorder)
        if not revision or room <= _PREFIX:
            return None
        # Who writes just now is alive: looked at again, or it would be taken for dead.
        value = _slot(data, revision, room)
        if value is not None:
            return value
    return None


class Bell:
    """A named pipe that others write a byte into; it is gone with its process.

    Opened for both directions, so that it never reports its end while nobody rings.
    """

    __slots__: tuple[str, ...] = ("_handle", "_path")

    def __init__(self, path: Path) -> None:
        # Renamed when it is open: one without a reader would be taken for a dead worker's.
        new = path.with_name(f"{path.name}.new")
        new.unlink(missing_ok=True)
        os.mkfifo(new)
        self._path: Path = path
        self._handle: int = os.open(new, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        new.replace(path)

    def fileno(self) -> int:
        """What to wait on."""
        return self._handle

    def drain(self) -> bool:
        """Take away what was rung; return whether it can ring again."""
        with suppress(BlockingIOError):
            while os.read(self._handle, 4096):
                continue
        return True

    def alive(self) -> bool:
        """Whether others can still find it."""
        return _inode(self._path) == _inode(self._handle)

    def close(self, *, ours: bool = True) -> None:
        """Take it down; a forked child closes its copy only."""
        if ours and self.alive():
            self._path.unlink(missing_ok=True)
        os.close(self._handle)


def _reach(bell: Path) -> int | None:
    """Handle to ring ``bell`` by, or None if its worker is dead.

    Raises ``FileNotFoundError`` if it was taken down meanwhile, as when a worker makes itself a
    new one: that is no death, and to bury it would take the new one, too.
    """
    try:
        return os.open(bell, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        # No reader; anything else is no proof of death.
        if error.errno == errno.ENXIO:
            return None
        raise


class HostPlace:
    """The record of a fleet in a folder of one host.

    Parameters
    ----------
    folder
        Made at the first use, as are the files in it; best below ``/dev/shm`` or ``/run``.
    ttl
        Seconds after which a silent worker is not counted.
    patience
        Seconds to wait for another writer.

    Raises
    ------
    StoreUnavailable
        By every method: the folder cannot be used, or is locked for too long.
    CorruptRecord
        By every method: the file ``memory`` is something else.
    """

    def __init__(
        self, folder: Path, *, ttl: float, patience: float, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self.where: str = str(folder)
        self._folder: Path = folder
        self._path: Path = folder / "memory"
        self._ttl: float = ttl
        self._patience: float = patience
        self._clock: Clock = clock
        self._memory: Memory | None = None
        self._beat: Memory | None = None
        self._writing: threading.Lock = threading.Lock()

    @property
    def word(self) -> "memoryview[int]":
        """The revision in ``word[1]``, to be looked at for the price of a few dozen ns."""
        return self._mapped().word

    def read(self) -> tuple[bytes | None, int]:
        """Value and revision of the record."""
        return self._mapped().read()

    def commit(self, value: bytes, revision: int) -> int:
        """Write the record if its revision is ``revision``; return the new one."""
        with self._locked() as memory:
            if len(value) > memory.room:
                raise BadConfiguration(f"a table of {len(value)} bytes is beyond {memory.room}")
            found = int(memory.word[1])
            if found != revision:
                raise Conflict(self.where, revision, found)
            return memory.write(value)

    # What is known already may be told without more ado.
    tell = commit

    def nudge(self) -> None:
        """Wake every worker of this host, and bury the dead."""
        with self._errors():
            # Those that were killed while they were being made, too.
            for bell in sorted(self._folder.glob("*.bell*")):
                try:
                    handle = _reach(bell)
                except FileNotFoundError:
                    continue
                if handle is None:
                    self._bury(bell)
                    continue
                # A full pipe rings already.
                with suppress(BlockingIOError, BrokenPipeError):
                    os.write(handle, b"\1")
                os.close(handle)

    def listen(self, worker: str) -> Bell:
        """The bell of ``worker``."""
        with self._errors():
            self._folder.mkdir(parents=True, exist_ok=True)
            return Bell(self._folder / f"{worker}.bell")

    def beat(self, worker: str, member: Member) -> None:
        """Say how ``worker`` fares."""
        with self._errors():
            if self._memory is not None and _inode(self._path) != self._memory.inode:
                # Somebody has cleared the folder.
                self._memory = None
                self._mapped()
            path = self._folder / f"{worker}.beat"
            if self._beat is None or _inode(path) != self._beat.inode:
                self._beat = Memory.at(path, _PAGE)
            self._beat.write(_said(member, self._clock.time(), self._beat.room))

    def leave(self, worker: str) -> None:
        """Let ``worker`` be no more."""
        self._beat = None
        with self._errors():
            (self._folder / f"{worker}.beat").unlink(missing_ok=True)

    def workers(self) -> dict[str, Member]:
        """Living workers and what they say."""
        found: dict[str, Member] = {}
        with self._errors():
            for beat in sorted(self._folder.glob("*.beat")):
                spoken = Member.decoded(_glimpse(beat))
                silent = spoken is None or spoken[1] <= self._clock.time() - self._ttl
                if self._dead(beat.with_suffix(".bell"), silent=silent):
                    self._bury(beat.with_suffix(".bell"))
                elif spoken is not None and not silent:
                    found[beat.stem] = spoken[0]
        return found

    def _dead(self, bell: Path, *, silent: bool) -> bool:
        """Whether the worker with ``bell`` is no more; one without a thread has none."""
        try:
            handle = _reach(bell)
        except FileNotFoundError:
            return silent
        if handle is not None:
            os.close(handle)
        return handle is None

    def close(self) -> None:
        """Let go of the files; the next use opens them again."""
        self._memory = self._beat = None

    def forget(self) -> None:
        """Begin anew in a forked child: to the kernel, the parent's lock would be its own."""
        self._memory = self._beat = None
        self._writing = threading.Lock()

    def _bury(self, bell: Path) -> None:
        bell.with_suffix(".beat").unlink(missing_ok=True)
        bell.unlink(missing_ok=True)

    def _mapped(self) -> Memory:
        memory = self._memory
        if memory is None:
            with self._errors():
                self._folder.mkdir(parents=True, exist_ok=True)
                memory = self._memory = Memory.at(self._path, _ROOM)
        return memory

    @contextmanager
    def _errors(self) -> Generator[None, None, None]:
        try:
            yield
        except StoreUnavailable:
            raise
        except OSError as error:
            raise StoreUnavailable(self.where, f"{type(error).__name__}: {error}") from error

    @contextmanager
    def _locked(self) -> Generator[Memory, None, None]:
        with self._errors(), self._writing:
            memory = self._held()
            try:
                yield memory
            finally:
                memory.unlock()

    def _held(self) -> Memory:
        """The memory that is there now, locked."""
        ends = self._clock.monotonic() + self._patience
        while True:
            memory = self._mapped()
            if memory.lock():
                if _inode(self._path) == memory.inode:
                    return memory
                # Somebody has cleared the folder.
                memory.unlock()
                self._memory = None
            elif self._clock.monotonic() >= ends:
                raise StoreUnavailable(self.where, "somebody else holds its lock")
            else:
                self._clock.sleep(0.001)


def _said(member: Member, at: float, room: int) -> bytes:
    """What ``member`` says, with as much of its reason as there is room for.

    Cut anywhere else it would be no word at all, and its worker be taken for dead.
    """
    said = member.encoded(at)
    while len(said) > room and member.cannot:
        member = replace(member, cannot=member.cannot[: len(member.cannot) // 2])
        said = member.encoded(at)
    return said[:room]


def _inode(path: Path | int) -> tuple[int, int] | None:
    try:
        found = os.fstat(path) if isinstance(path, int) else path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
