"""A model that is several files: paths and bytes, and nothing that points elsewhere."""

import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, final

from prodml.errors import BadConfiguration
from prodml.registry.disk import reaching, read_file, write_file

__all__ = ["Bundle"]

# What no file system gives a meaning of its own: no backslash, colon or control character.
_PART: Final = re.compile(r'[^\x00-\x1f\x7f/\\:*?"<>|]{1,255}')
_LONGEST: Final = 1024


@final
class Bundle(Mapping[str, bytes]):
    """The files of a model by relative path, sorted; immutable, all in memory.

    Parameters
    ----------
    files
        Bytes by path.  Paths are relative, with ``/``; nothing leads out of the bundle.

    Raises
    ------
    BadConfiguration
        A path that is absolute, has ``..``, could mean something else on another system, or
        goes through a file of the bundle; a bundle without files.

    Examples
    --------
    >>> bundle = Bundle({"model.onnx": b"graph", "data/weights": b"numbers"})
    >>> list(bundle), bundle["data/weights"], bundle.size
    (['data/weights', 'model.onnx'], b'numbers', 12)
    >>> Bundle({"../model": b""})
    Traceback (most recent call last):
    prodml.errors.BadConfiguration: not a path inside a bundle: '../model'
    """

    __slots__: tuple[str, ...] = ("_files",)

    def __init__(self, files: Mapping[str, bytes]) -> None:
        if not files:
            raise BadConfiguration("a bundle needs at least one file")
        self._files: dict[str, bytes] = {path: bytes(files[path]) for path in sorted(files)}
        for path in self._files:
            _check(path, self._files)

    def __getitem__(self, path: str, /) -> bytes:
        return self._files[path]

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def __repr__(self) -> str:
        return f"Bundle({len(self)} files, {self.size} bytes)"

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(map(len, self._files.values()))

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> "Bundle":
        """Every file under ``folder``, each opened once.

        Raises
        ------
        BadConfiguration
            There is a link, hard or symbolic, or anything that is no file: what it points
            to could change under somebody else's hand.
        StoreUnavailable
            The folder cannot be read.
        """
        root = Path(folder)
        files: dict[str, bytes] = {}
        with reaching(root):
            for file in _walk(root):
                files[file.relative_to(root).as_posix()] = read_file(file)
        return cls(files)

    def write(self, folder: str | os.PathLike[str]) -> Path:
        """Write the files to ``folder``, which must not exist, for a library that wants paths.

        Only the owner may enter the folder: what was verified in memory is opened again from
        there, so nobody else may be able to change it.

        Raises
        ------
        StoreUnavailable
            The folder exists, or cannot be written; it may hold a part of the files.
        """
        root = Path(folder)
        with reaching(root):
            root.mkdir(mode=0o700, parents=True)
            for path, data in self._files.items():
                file = root / path
                file.parent.mkdir(parents=True, exist_ok=True)
                write_file(file, data)
        return root


def _check(path: str, files: Mapping[str, bytes]) -> None:
    parts = path.split("/")
    proper = all(_PART.fullmatch(part) and part.strip(" .") for part in parts)
    if not proper or len(path) > _LONGEST:
        raise BadConfiguration(f"not a path inside a bundle: {path!r}")
    for end in range(1, len(parts)):
        if "/".join(parts[:end]) in files:
            raise BadConfiguration(f"{path!r} goes through a file of the bundle")


def _walk(folder: Path) -> Iterator[Path]:
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        found = entry.stat(follow_symlinks=False)
        if stat.S_ISDIR(found.st_mode):
            yield from _walk(Path(entry.path))
        elif not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            raise BadConfiguration(f"{entry.path} is a link or no file: copy what it points to")
        else:
            yield Path(entry.path)
