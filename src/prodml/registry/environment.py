"""What a model was registered with, compared with what is here."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from platform import python_version
from typing import Any, final

from prodml.errors import BadConfiguration

__all__ = ["Environment", "EnvironmentWarning"]


class EnvironmentWarning(UserWarning):
    """A model is loaded with other versions than it was registered with.

    Examples
    --------
    >>> issubclass(EnvironmentWarning, UserWarning)
    True
    """


@final
@dataclass(frozen=True, slots=True)
class Environment:
    """The Python and the packages that a model needs, as they were when it was registered.

    Parameters
    ----------
    python
        Version of the interpreter, such as ``"3.11.7"``.
    packages
        Version by distribution, such as ``{"scikit-learn": "1.9.1"}``.

    Examples
    --------
    >>> Environment("2.7.18", {"numpy": "0.1"}).differences()[0].startswith("Python 2.7.18, here 3")
    True
    >>> Environment.here([]).differences()
    ()
    """

    python: str
    packages: Mapping[str, str] = field(default_factory=dict[str, str])

    @classmethod
    def here(cls, packages: Iterable[str]) -> "Environment":
        """The environment of this process, as far as ``packages`` (distributions) go.

        Raises
        ------
        BadConfiguration
            One is not installed.
        """
        found = {package: _version(package) for package in sorted(packages)}
        missing = [package for package, version in found.items() if version is None]
        if missing:
            raise BadConfiguration(f"not installed, so no version to record: {', '.join(missing)}")
        return cls(python_version(), {name: version or "" for name, version in found.items()})

    def differences(self) -> Sequence[str]:
        """What differs here: Python by its minor version, packages by any part of theirs."""
        other: list[str] = []
        here = python_version()
        if self.python.split(".")[:2] != here.split(".")[:2]:
            other.append(f"Python {self.python}, here {here}")
        for package, version in self.packages.items():
            found = _version(package)
            if found != version:
                other.append(f"{package} {version}, here {found or 'not installed'}")
        return tuple(other)


def packages_of(model: Any) -> set[str]:
    """Distributions that the class of ``model`` and its bases come from.

    Examples
    --------
    >>> packages_of({}), packages_of(0.5)
    (set(), set())
    """
    modules = {cls.__module__.partition(".")[0] for cls in type(model).__mro__}
    foreign = modules - sys.stdlib_module_names - {"__main__"}
    # The map is dear, and plain data needs none.
    return {name for module in foreign for name in _distributions().get(module, ())}


@cache
def _distributions() -> Mapping[str, list[str]]:
    from importlib.metadata import packages_distributions

    return packages_distributions()


def _version(package: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
