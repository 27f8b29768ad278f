"""Files that survive a crash: forced to the disk before their names appear.

Every write goes to a file of its own and is forced to the disk; then the finished file gets
its name in one step, and the folder that holds the name is forced too.  So whoever sees a
name sees a whole file, and what a call has returned from is there after a power cut.
"""

import os
import stat
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from uuid import uuid4

from prodml.errors import StoreUnavailable

__all__: list[str] = []

# Links are not followed, and a pipe in the place of a file does not make us wait.
_READ: Final = (
    os.O_RDONLY
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_BINARY", 0)
)
_WRITE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)


@contextmanager
def reaching(place: str | os.PathLike[str]) -> Generator[None, None, None]:
    """Turn what the system says about ``place`` into ``StoreUnavailable``."""
    try:
        yield
    except OSError as error:
        raise StoreUnavailable(str(place), str(error)) from error


def read_file(file: str | Path, limit: int | None = None) -> bytes:
    """Bytes of a regular file, at most ``limit`` + 1 of them."""
    handle = os.open(file, _READ)
    with os.fdopen(handle, "rb") as opened:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(f"{file} is not a regular file")
        return opened.read() if limit is None else opened.read(limit + 1)


def write_file(file: Path, data: bytes) -> None:
    """Make ``file``, which must not exist, and force it to the disk."""
    # Not a temporary file of the standard library: those only their owner may read.
    handle = os.open(file, _WRITE, 0o666)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(handle, rest) :]
        force(handle)
    finally:
        os.close(handle)


def written(folder: Path, data: bytes, root: Path) -> Path:
    """Write ``data`` to a new file in ``folder``; return its path."""
    make_folder(folder, root)
    file = folder / uuid4().hex
    try:
        write_file(file, data)
    except BaseException:
        # A full disk is no place to leave half a file on.
        file.unlink(missing_ok=True)
        raise
    return file


def move(source: Path, target: Path) -> None:
    """Give ``source`` the name ``target``, whatever had it before, in one step."""
    source.replace(target)
    force_names(target.parent)


def publish(source: Path, target: Path) -> bool:
    """Give ``source`` the name ``target`` unless it is taken; say whether it was free."""
    try:
        # ``link(2)`` fails if the name exists, and is atomic, also over NFS.
        os.link(source, target)
        force_names(target.parent)
    except FileExistsError:
        return False
    finally:
        source.unlink()
    return True


def make_folder(folder: Path, root: Path) -> None:
    """Make ``folder`` and what is missing above it, down from the parent of ``root``."""
    if folder.is_dir():
        return
    folder.mkdir(parents=True, exist_ok=True)
    # A new folder is on the disk when the folder above it is.
    for above in folder.parents:
        force_names(above)
        if above == root.parent:
            return


def force_names(folder: Path) -> None:
    """Force the names in ``folder`` to the disk, where the system can."""
    if not hasattr(os, "O_DIRECTORY"):  # pragma: no cover
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        force(handle)
    finally:
        os.close(handle)


def force(handle: int) -> None:
    """Force an open file to the disk itself, not only to its cache."""
    if sys.platform == "darwin":  # pragma: no cover
        import fcntl

        fcntl.fcntl(handle, fcntl.F_FULLFSYNC)
        return
    os.fsync(handle)
