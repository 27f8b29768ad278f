"""One writer at a time, among threads and processes; the dead hold nothing.

Readers never ask for it.  Records are added exclusively even without it; the lock is what
keeps a registration, an alias move and a pruning from crossing each other.
"""

import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Final, final
from uuid import uuid4

from prodml.clock import SYSTEM_CLOCK, Clock
from prodml.errors import StoreUnavailable
from prodml.stores import Lease, SharedStore

__all__ = ["FileLock", "LeaseLock"]

_FIRST: Final = 0.0005
# A file is asked often, so that those who wait have a chance against those who come.
_FILE: Final = 0.005
_LEASE: Final = 0.05


@final
@dataclass(slots=True)
class FileLock:
    """Holds ``flock(2)`` on a file: the system gives it back when the holder dies.

    Parameters
    ----------
    path
        Made when first locked, and never removed.
    patience
        Seconds to wait for another holder.

    Raises
    ------
    StoreUnavailable
        Somebody has held it for ``patience`` seconds, or the file cannot be made.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     lock = FileLock(Path(folder, "lock"))
    ...     with lock.held():
    ...         lock.path.exists()
    True
    """

    path: Path
    _: KW_ONLY
    patience: float = 60.0
    clock: Clock = SYSTEM_CLOCK

    @contextmanager
    def held(self) -> Generator[None, None, None]:
        """Wait for the lock and hold it for a ``with`` block."""
        import fcntl

        try:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise StoreUnavailable(str(self.path), str(error)) from error
        try:
            for _ in _tries(str(self.path), self.patience, self.clock, _FILE):
                if _locked(handle):
                    break
            try:
                yield
            finally:
                # By name: a child forked meanwhile has a copy of the handle.
                fcntl.flock(handle, fcntl.LOCK_UN)
        finally:
            os.close(handle)


@final
@dataclass(slots=True)
class LeaseLock:
    """Holds a lease of a store; a holder that dies is waited for until its lease ends.

    Parameters
    ----------
    ttl
        Seconds that a lease lasts.

    Examples
    --------
    >>> from prodml.stores import MemoryStore
    >>> with LeaseLock(MemoryStore(), "registry").held() as lease:
    ...     lease.token
    1
    """

    store: SharedStore
    name: str
    _: KW_ONLY
    ttl: float = 30.0
    patience: float = 60.0
    clock: Clock = SYSTEM_CLOCK

    @contextmanager
    def held(self) -> Generator[Lease, None, None]:
        """Wait for the lease and hold it for a ``with`` block."""
        owner, lease = uuid4().hex, None
        for _ in _tries(self.name, self.patience, self.clock, _LEASE):
            lease = self.store.acquire(self.name, owner, self.ttl)
            if lease is not None:
                break
        assert lease is not None
        try:
            yield lease
        finally:
            self.store.release(lease)


def _locked(handle: int) -> bool:
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _tries(what: str, patience: float, clock: Clock, longest: float) -> Iterator[None]:
    """Yield until the caller has had enough; wait in between, a little longer each time."""
    end, pause = clock.monotonic() + patience, _FIRST
    while True:
        yield
        if clock.monotonic() >= end:
            raise StoreUnavailable(what, f"another writer has held it for {patience:g} s")
        clock.sleep(pause)
        pause = min(pause * 2, longest)
