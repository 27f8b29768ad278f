"""The tier between memory and the shared store: a file that outlives the process.

A restarted process answers from it what its predecessor knew.  Reading takes some
microseconds; writing is the business of one thread, and a prediction never waits for it.
"""

import atexit
import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final
from weakref import WeakSet

from prodml.cache.disk_file import DiskFile, Place, Waiting, WaitingToken, is_busy, is_damage
from prodml.cache.memory import size_of
from prodml.clock import SYSTEM_CLOCK, Clock
from prodml.errors import BadConfiguration, StoreUnavailable

__all__ = ["DiskStats", "DiskTier"]

_LOG: Final = logging.getLogger("prodml.cache")

_SMALLEST: Final = 2**20
# Writes are gathered for so long, and the thread ends after so long without any.
_GATHER: Final = 0.05
_IDLE: Final = 10.0
# After trouble the file is left alone for a while.
_PAUSE: Final = 5.0
# How long a reader waits for another reader, and how often it looks whether the file at
# the path is still the one that is open.
_PATIENCE: Final = 0.05
_LOOK: Final = 1.0
# How long a fork waits for a transaction to end.
_HOLD: Final = 1.0
_TROUBLE: Final = (sqlite3.Error, OSError, StoreUnavailable)


@dataclass(slots=True)
class DiskStats:
    """Numbers of one process since the tier was made.

    Parameters
    ----------
    hits, misses
        Names that were found, and that were not.
    written, expelled, expired
        Entries written, deleted for want of room, and deleted because their time was over.
    dropped
        Entries that were not written: the queue was full, the entry too large, or the
        file unusable.
    skipped
        Names that were not looked up because the file was unusable or busy.
    errors, damaged
        Times that the file could not be used, and that it was found damaged and renamed.

    Examples
    --------
    >>> DiskStats().damaged
    0
    """

    hits: int = 0
    misses: int = 0
    written: int = 0
    expelled: int = 0
    expired: int = 0
    dropped: int = 0
    skipped: int = 0
    errors: int = 0
    damaged: int = 0


@final
class DiskTier:
    """Bytes by name in a file that survives restarts; several processes may share it.

    No method raises, and none but :meth:`pin`, :meth:`flush` and :meth:`close` waits for a
    disk that writes.  A file that cannot be used (read-only, full, somebody else's) is
    skipped and counted; a damaged one is renamed to ``<path>.damaged`` and replaced.  The
    file belongs on a local disk: what it needs does not work over networks.

    Parameters
    ----------
    path
        The file; beside it appear ``-wal``, ``-shm`` and ``.lock``.  Only its owner may
        read it.
    size
        Bound of file and log together, bytes or text like ``"1 GiB"``, at least 1 MiB.
        What is oldest goes first.
    clock
        Time.

    Raises
    ------
    BadConfiguration
        ``size`` makes no sense.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "predictions.db")
    >>> disk = DiskTier(path, "16 MiB")
    >>> disk.set_many({"name": b"sealed"}, ttl=60.0)
    >>> disk.close()
    >>> DiskTier(path).get_many(["name", "other"])
    [b'sealed', None]
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        size: int | str = "1 GiB",
        *,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.path: Path = Path(path)
        self.size: int = size_of(size, "size")
        if self.size < _SMALLEST:
            raise BadConfiguration(f"size={size!r} of a disk tier must be at least 1 MiB")
        self._clock: Clock = clock
        # What may wait: what fits into memory unnoticed.
        self._room: int = min(16 * 2**20, self.size // 8)
        self._begin()
        _TIERS.add(self)

    def _begin(self) -> None:
        """State of a process that has not used the file yet; a forked child begins so, too."""
        self._stats: DiskStats = DiskStats()
        self._reader: DiskFile = DiskFile(self.path, self.size, patience=0.01)
        self._writer: DiskFile = DiskFile(self.path, self.size, patience=1.0)
        self._reading: threading.Lock = threading.Lock()
        self._writing: threading.Lock = threading.Lock()
        # Guards what follows; held for moments only.
        self._lock: threading.Lock = threading.Lock()
        self._waiting: dict[str, Waiting] = {}
        self._tokens: dict[str, WaitingToken] = {}
        self._underway: dict[str, Waiting] = {}
        self._waiting_bytes: int = 0
        self._tickets: list[threading.Event] = []
        self._thread: threading.Thread | None = None
        self._wake: threading.Event = threading.Event()
        self._hurry: threading.Event = threading.Event()
        self._opened: bool = False
        self._leaving: bool = False
        # Whether the file has been seen to be a cache, which is no great loss.
        self._ours: bool = False
        self._damage: Place | None = None
        self._again: float = float("-inf")
        self._look: float = float("-inf")
        self._usable: bool = True

    def get(self, name: str) -> bytes | None:
        """Value of ``name``, or None."""
        return self.get_many((name,))[0]

    def get_many(self, names: Sequence[str]) -> list[bytes | None]:
        """Value of each name, or None; an entry that still waits to be written is found."""
        now, waiting, underway = self._clock.time(), self._waiting, self._underway
        known = {n: e for n in names if (e := waiting.get(n) or underway.get(n)) is not None}
        absent = [name for name in names if name not in known] if known else names
        read = self._read(absent, now) if absent else {}
        read |= {n: v for n, (v, ends) in known.items() if ends is None or ends > now}
        found = [read.get(name) for name in names]
        hits = len(names) - found.count(None)
        self._stats.hits += hits
        self._stats.misses += len(names) - hits
        return found

    def set(self, name: str, value: bytes, *, ttl: float | None = None) -> None:
        """Keep ``value`` for ``ttl`` seconds, or until there is no more room; soon, not now."""
        self.set_many({name: value}, ttl=ttl)

    def set_many(self, items: Mapping[str, bytes], *, ttl: float | None = None) -> None:
        """Keep all ``items`` for ``ttl`` seconds, or until there is no more room."""
        ends = None if ttl is None else self._clock.time() + ttl
        self.put_many({name: (value, ends) for name, value in items.items()})

    def put_many(self, entries: Mapping[str, Waiting]) -> None:
        """Keep each value until its end: seconds since the epoch, or None."""
        if self._resting():
            self._stats.dropped += len(entries)
            return
        with self._lock:
            for name, entry in entries.items():
                size = len(entry[0]) + len(name)
                if self._waiting_bytes + size > self._room:
                    self._stats.dropped += 1
                    continue
                self._waiting_bytes += size
                self._waiting[name] = entry
            self._start()

    def token(self, name: str) -> bytes | None:
        """Token kept by :meth:`pin`; None if there is none, or the file cannot be used."""
        waiting = self._tokens.get(name)
        if waiting is not None:
            return waiting[0]
        token = self._with_reader(lambda file: file.token(name), 1)
        return token if type(token) is bytes else None

    def pin(self, name: str, token: bytes, *, durable: bool = True) -> bool:
        """Keep ``token``, which is never expelled; return whether it is kept.

        Parameters
        ----------
        durable
            It is on the disk when this returns, even if that costs everything else in the
            file: a version that was dropped must not come back.  Otherwise it is written
            with the next entries.
        """
        return self._pin(name, token) if durable else self._later(name, token, replaces=True)

    def propose(self, name: str, token: bytes) -> bool:
        """Keep ``token`` soon, unless another process has kept one; return whether it tries."""
        return self._later(name, token, replaces=False)

    def flush(self, timeout: float = 5.0) -> bool:
        """Wait until what was given so far is written or dropped; False if it takes too long."""
        ticket = threading.Event()
        with self._lock:
            if self._thread is None and not self._waiting and not self._tokens:
                return True
            self._tickets.append(ticket)
            self._hurry.set()
            self._start()
        return ticket.wait(timeout)

    def stats(self) -> DiskStats:
        """Numbers since the tier was made; a copy."""
        return DiskStats(*(getattr(self._stats, name) for name in DiskStats.__slots__))

    def close(self, timeout: float = 5.0) -> None:
        """Write what waits and close the file; the next use opens it again."""
        with self._lock:
            thread, self._leaving = self._thread, True
            self._hurry.set()
            self._wake.set()
        if thread is not None:
            thread.join(timeout)
        for lock, file in ((self._writing, self._writer), (self._reading, self._reader)):
            if lock.acquire(timeout=timeout):
                file.close()
                self._opened, self._look = False, float("-inf")
                lock.release()

    def __del__(self) -> None:
        # Whoever forgets a tier need not be told of its connections.
        if hasattr(self, "_usable"):
            self._writer.close()
            self._reader.close()

    # -- reading ------------------------------------------------------------------------

    def _read(self, names: Sequence[str], now: float) -> dict[str, bytes]:
        return self._with_reader(lambda file: file.read(names, now), len(names)) or {}

    def _with_reader(self, use: Callable[[DiskFile], Any], count: int) -> Any:
        broken = self._resting() or self._damage is not None
        if broken or not self._reading.acquire(timeout=_PATIENCE):
            self._stats.skipped += count
            return None
        try:
            now = self._clock.monotonic()
            if now >= self._look:
                self._opened = False
                self._opened = self._reader.open(create=False)
                self._ours = self._ours or self._opened
                self._look = now + _LOOK
            return use(self._reader) if self._opened else None
        except Exception as error:
            self._stats.skipped += count
            self._trouble(self._reader, error)
            return None
        finally:
            self._reading.release()

    def _resting(self) -> bool:
        return not self._usable or self._clock.monotonic() < self._again

    def _trouble(self, file: DiskFile, error: Exception) -> None:
        """Leave the file alone for a while; one that is damaged is for the writer to replace."""
        if is_busy(error) or isinstance(error, BlockingIOError):
            return
        self._stats.errors += 1
        self._look = float("-inf")
        if is_damage(error):
            self._damage = file.place
            file.close()
            with self._lock:
                self._start()
            return
        file.close()
        self._again = self._clock.monotonic() + _PAUSE
        _LOG.warning("disk tier %s: not used for %g seconds: %s", self.path, _PAUSE, error)

    # -- writing ------------------------------------------------------------------------

    def _later(self, name: str, token: bytes, *, replaces: bool) -> bool:
        if self._resting():
            return False
        with self._lock:
            self._tokens[name] = token, replaces
            self._start()
        return True

    def _start(self) -> None:
        """Wake the writing thread, or begin one; called under the lock."""
        self._leaving = False
        self._wake.set()
        if self._thread is not None and self._thread.is_alive():
            return
        self._thread = threading.Thread(target=self._work, name="prodml-disk", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            # No more threads, or the interpreter is about to end.
            self._thread = None
            self._settle(*self._taken(), written=False)

    def _work(self) -> None:
        while True:
            if not self._wake.wait(_IDLE) and self._ended():
                return
            self._hurry.wait(_GATHER)
            with self._writing:
                # Taken here and not before: a token pinned meanwhile must not be overwritten.
                with self._lock:
                    taken = self._taken()
                written = self._written(taken[0], taken[1])
            with self._lock:
                self._settle(*taken, written=written)
            if self._leaving and self._ended():
                return

    def _ended(self) -> bool:
        with self._lock:
            called = self._wake.is_set() and not self._leaving
            if called or self._waiting or self._tickets:
                return False
            self._thread = None
            return True

    def _taken(self) -> tuple[dict[str, Waiting], dict[str, WaitingToken], list[threading.Event]]:
        self._wake.clear()
        self._hurry.clear()
        # Still found by readers until they are in the file.
        entries = self._underway = self._waiting
        self._waiting, self._waiting_bytes = {}, 0
        tickets, self._tickets = self._tickets, []
        return entries, dict(self._tokens), tickets

    def _settle(
        self,
        entries: dict[str, Waiting],
        tokens: dict[str, WaitingToken],
        tickets: list[threading.Event],
        *,
        written: bool,
    ) -> None:
        self._underway = {}
        self._stats.written += len(entries) if written else 0
        self._stats.dropped += 0 if written else len(entries)
        # A token that could not be written tries again with the next entries.
        for name, token in tokens.items() if written else ():
            if self._tokens.get(name) is token:
                del self._tokens[name]
        for ticket in tickets:
            ticket.set()

    def _written(self, entries: dict[str, Waiting], tokens: dict[str, WaitingToken]) -> bool:
        def write(file: DiskFile) -> None:
            expelled, expired = file.write(entries, tokens, self._clock.time())
            self._stats.expelled += expelled
            self._stats.expired += expired

        return not self._resting() and self._with_writer(write) is None

    def _with_writer(
        self, use: Callable[[DiskFile], None], *, opened: bool = True
    ) -> Exception | None:
        """What kept ``use`` from being done, damage apart: a damaged file is replaced."""
        for last in (False, True):
            try:
                self._replace()
                if opened:
                    self._writer.open(create=True)
                    self._ours = True
                use(self._writer)
            except Exception as error:
                self._trouble(self._writer, error)
                if last or self._damage is None:
                    return error
            else:
                break
        if not self._opened:
            self._look = float("-inf")
        return None

    def _replace(self) -> None:
        if self._damage is None:
            return
        if self._writer.set_aside(self._damage):
            self._stats.damaged += 1
            _LOG.warning("disk tier %s: damaged; renamed and begun anew", self.path)
        self._damage, self._look = None, float("-inf")

    def _pin(self, name: str, token: bytes) -> bool:
        if not self._usable or not self._writing.acquire(timeout=_PAUSE):
            return False

        def pin(file: DiskFile) -> None:
            file.pin(name, token)

        def begin_anew(file: DiskFile) -> None:
            file.remove()
            file.open(create=True)
            file.pin(name, token)

        try:
            self._tokens.pop(name, None)
            error = self._with_writer(pin)
            if isinstance(error, sqlite3.Error) and self._ours and not is_busy(error):
                # Better no file than one that brings a dropped version back.
                error = self._with_writer(begin_anew, opened=False)
            if error is None:
                self._again = float("-inf")
            return error is None
        finally:
            self._writing.release()

    # -- forks and the end --------------------------------------------------------------

    def _hold(self) -> bool:
        """Close the file for a fork: SQLite's locks and descriptors must not go through one."""
        if not self._reading.acquire(timeout=_HOLD):
            return False
        if not self._writing.acquire(timeout=_HOLD):
            self._reading.release()
            return False
        self._reader.close()
        self._writer.close()
        return True

    def _go_on(self) -> None:
        """Let readers and writer on again, after a fork in the parent."""
        self._look = float("-inf")
        self._reading.release()
        self._writing.release()

    def _begin_again(self, held: bool) -> None:
        """Start afresh in a forked child; without a file, if the parent could not close it."""
        left = (self._reader, self._writer)
        self._begin()
        if not held:
            self._usable = False
            _LEFT.append(left)


_TIERS: Final["WeakSet[DiskTier]"] = WeakSet()
_HELD: Final[dict[DiskTier, bool]] = {}
# Connections that came through a fork: closing them could harm the parent's.
_LEFT: Final[list[Any]] = []


def _before_fork() -> None:
    for tier in list(_TIERS):
        _HELD[tier] = tier._hold()  # noqa: SLF001 - of this module


def _in_parent() -> None:
    while _HELD:
        tier, held = _HELD.popitem()
        if held:
            tier._go_on()  # noqa: SLF001 - of this module


def _in_child() -> None:
    while _HELD:
        tier, held = _HELD.popitem()
        tier._begin_again(held)  # noqa: SLF001 - of this module


def _close_all() -> None:
    for tier in list(_TIERS):
        tier.close(1.0)


os.register_at_fork(before=_before_fork, after_in_parent=_in_parent, after_in_child=_in_child)
atexit.register(_close_all)
