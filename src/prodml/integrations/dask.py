"""Frames of Dask, counted partition by partition (extra ``dask``).

Every task counts one partition; the counts are added in a tree, so that no worker holds
more than a few.  Any scheduler will do: threads, processes, a cluster.
"""

from collections.abc import Mapping, Sequence
from functools import reduce
from importlib import import_module
from operator import add
from typing import Any

from prodml.drift import Reference
from prodml.drift.layout import Layout
from prodml.drift.outline import Outline, awaited, named, outline_of, planned
from prodml.drift.sample import Kind

__all__ = ["counted", "fit"]

_FAN_IN = 8
_FIRST = 1 << 16


def counted(frame: Any, like: Reference) -> Reference:
    """Count the rows of ``frame`` in the cells of ``like``: the same to the last bit as here.

    Parameters
    ----------
    frame
        A ``dask.dataframe.DataFrame``.
    like
        A reference; only its features are read.

    Returns
    -------
    Reference
        To give to ``detect_drift`` (which calls this for a frame of Dask), to keep, or to
        add to those of other days.

    Raises
    ------
    BadConfiguration
        The frame lacks all features.

    Examples
    --------
    >>> today = counted(dask.dataframe.read_parquet("today"), reference)  # doctest: +SKIP
    """
    empty = awaited(list(map(str, frame.columns)), like)
    return _summed(_partitions(frame, empty.names), empty)


def fit(
    frame: Any,
    feature_names: Sequence[str] | None = None,
    *,
    kinds: Mapping[str, Kind] | None = None,
    layouts: Mapping[str, Layout] | None = None,
) -> Reference:
    """Fit a reference to ``frame``, counted in cells; see :meth:`Reference.fit`.

    Two passes: the first rows of every partition say where the cells should lie, and all
    rows are counted.

    Parameters
    ----------
    frame
        A ``dask.dataframe.DataFrame``.
    layouts
        Of a reference that was fitted elsewhere: the same bits here as there.

    Raises
    ------
    BadConfiguration
        The frame has no row, or lacks a feature.

    Examples
    --------
    >>> reference = fit(dask.dataframe.read_parquet("train"))  # doctest: +SKIP
    """
    dask: Any = import_module("dask")
    names = named(list(map(str, frame.columns)), feature_names)
    parts = _partitions(frame, names)
    found = dask.compute(*[dask.delayed(_draw)(part, names) for part in parts])
    return _summed(parts, planned([one for one in found if one.kinds], kinds, layouts))


def _partitions(frame: Any, names: Sequence[str]) -> list[Any]:
    own = {str(name): name for name in frame.columns}
    parts: list[Any] = frame[[own[name] for name in names]].to_delayed()
    return parts


def _draw(part: Any, names: Sequence[str]) -> Outline:
    return outline_of(part.head(_FIRST), names) if len(part) else Outline()


def _summed(parts: Sequence[Any], empty: Reference) -> Reference:
    dask: Any = import_module("dask")
    count, total = dask.delayed(Reference.update), dask.delayed(_total)
    states = [count(empty, part) for part in parts]
    while len(states) > 1:
        states = [total(states[i : i + _FAN_IN]) for i in range(0, len(states), _FAN_IN)]
    found: Reference = dask.compute(*states)[0] if states else empty
    return found


def _total(states: Sequence[Reference]) -> Reference:
    return reduce(add, states)
