"""Who counts a batch that does not lie in this process.

A frame of Spark or Dask is counted where its partitions are, by the door of that engine.
Doors are named here as text and opened at the first use: this room knows none of them.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

__all__ = ["engine_of", "register_engine"]

# The class of a frame says the package; the door counts it, and fits a reference to it.
_ENGINES: dict[str, str] = {
    "pyspark": "prodml.integrations.spark",
    "dask": "prodml.integrations.dask",
}


def register_engine(package: str, door: str) -> None:
    """Count frames whose class lives in top-level ``package`` by the module ``door``.

    Parameters
    ----------
    package
        ``"pyspark"``, say.
    door
        Name of a module with ``counted(frame, like)`` and ``fit(frame, feature_names, *,
        kinds, layouts)``, both of which return a :class:`~prodml.drift.Reference` that is
        counted in cells.  Imported when such a frame comes.

    Examples
    --------
    >>> register_engine("mycluster", "my_company.drift_on_mycluster")
    """
    _ENGINES[package] = door


def engine_of(data: Any, what: str) -> Callable[..., Any] | None:
    """The function ``what`` of the engine that holds ``data``; None if none is registered.

    Examples
    --------
    >>> engine_of({"x": [1.0]}, "counted") is None
    True
    """
    door = _ENGINES.get(type(data).__module__.partition(".")[0])
    return None if door is None else getattr(import_module(door), what)
