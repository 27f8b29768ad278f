"""Rooms that load a name when it is asked for: an import costs what is taken, no more.

The ``__init__`` of a room imports its names for type checkers only, and says at its end
which file has which of them::

    if TYPE_CHECKING:
        from prodml.drift.measures import ks as ks

    load_on_use(__name__, {".measures": ("ks",)})

Files import from files and never from their room, so what an object needs is loaded with
its class: no request waits for an import.
"""

import sys
from importlib import import_module
from types import ModuleType

__all__ = ["Room", "load_on_use"]


class Room(ModuleType):
    """A package whose names and files are loaded on first use.

    Examples
    --------
    >>> import prodml.drift
    >>> "ks" in dir(prodml.drift), prodml.drift.ks.__module__
    (True, 'prodml.drift.measures')
    """

    _files: dict[str, tuple[str, ...]]
    _homes: dict[str, str]

    def __getattr__(self, name: str) -> object:
        """Load a name, or a file, that was not asked for before."""
        if name in self._homes:
            value: object = getattr(import_module(self._homes[name], self.__name__), name)
        elif f".{name}" in self._files:
            value = import_module(f".{name}", self.__name__)
        else:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        setattr(self, name, value)
        return value

    def __setattr__(self, name: str, value: object) -> None:
        """Set an attribute; a file does not hide the function that it is named after.

        The import system sets ``resilience.compose`` to the file whenever that is loaded.
        """
        if isinstance(value, ModuleType) and self._homes.get(name) == f".{name}":
            value = getattr(value, name)
        super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        """What is there, loaded or not."""
        files = (file[1:] for file in self._files if file.startswith("."))
        return sorted({*vars(self), *self._homes, *files})

    def __reduce__(self) -> tuple[object, ...]:
        """Go to another process by name, as functions that use the room may have to."""
        return import_module, (self.__name__,)


def load_on_use(room: str, files: dict[str, tuple[str, ...]]) -> None:
    """Make the package ``room`` load the names of each of its ``files`` on first use.

    Parameters
    ----------
    room
        The package's ``__name__``.
    files
        Names by file; a file is ``".measures"``, or absolute if it is elsewhere.
    """
    module = sys.modules[room]
    homes = {name: file for file, names in files.items() for name in names}
    vars(module).update(_files=files, _homes=homes)
    module.__class__ = Room
