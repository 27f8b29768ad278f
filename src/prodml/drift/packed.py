"""Counts as bytes, for the way from the worker that made them to where they are added.

Nothing is widened or dropped, unlike in what :meth:`Reference.save` writes: parts must add
up to the last bit.  Nothing in the bytes is ever run.
"""

from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, cast

import numpy as np

from prodml.drift.cells import ADDED, Cells
from prodml.drift.layout import Layout
from prodml.drift.reference import Reference, ReferenceColumn, Sample
from prodml.drift.sample import KINDS, Levels
from prodml.drift.stored import check_cells, check_levels
from prodml.errors import BadConfiguration, CorruptRecord

__all__ = ["packed", "unpacked"]

# What bytes do not tell apart from text or numbers goes with its type.
_WRITERS: dict[type, tuple[str, Callable[[Any], Any]]] = {
    # Those of more than 64 bits.
    int: ("int", str),
    Decimal: ("decimal", str),
    datetime: ("datetime", datetime.isoformat),
    date: ("date", date.isoformat),
    time: ("time", time.isoformat),
    timedelta: ("duration", lambda value: [value.days, value.seconds, value.microseconds]),
}
_READERS: dict[str, Callable[[Any], Any]] = {
    "int": int,
    "decimal": Decimal,
    "datetime": datetime.fromisoformat,
    "date": date.fromisoformat,
    "time": time.fromisoformat,
    "duration": lambda parts: timedelta(*parts),
}
_PLAIN = (str, bool, int, float, bytes)


def packed(reference: Reference) -> bytes:
    """The counts of every column; numbers are counted in cells first.

    Raises
    ------
    BadConfiguration
        Levels of a type that has no bytes.

    Examples
    --------
    >>> reference = Reference.fit({"x": [1.0, 2.0], "plan": ["a", "b"]}, exact=False)
    >>> again = unpacked(packed(reference))
    >>> all(again.columns[name].sample == reference.columns[name].sample for name in again.names)
    True
    """
    import msgspec

    columns = reference.counted().columns.values()
    return msgspec.msgpack.encode([_column(column) for column in columns])


def unpacked(data: bytes) -> Reference:
    """What :func:`packed` gave.

    Raises
    ------
    CorruptRecord
        It is something else.

    Examples
    --------
    >>> unpacked(b"no counts")
    Traceback (most recent call last):
        ...
    prodml.errors.CorruptRecord: corrupt record at packed counts: ...
    """
    import msgspec

    try:
        columns = [_restored(found) for found in msgspec.msgpack.decode(data)]
    except Exception as error:
        # The bytes may be anything, and so may be what reading them stumbles over.
        raise CorruptRecord("packed counts", str(error)) from error
    return Reference({column.name: column for column in columns})


def _column(column: ReferenceColumn) -> dict[str, Any]:
    sample = column.sample
    common = {"name": column.name, "kind": column.kind}
    if isinstance(sample, Levels):
        levels = [[*_level(level), count] for level, count in sample.counts.items()]
        own = {"rows": sample.rows, "missing": sample.missing, "rest": sample.rest}
        return {**common, "levels": levels, **own}
    assert isinstance(sample, Cells)
    layout = sample.layout
    return {
        **common,
        "layout": [layout.centre, layout.scale, layout.atoms],
        "codes": _bytes(sample.codes),
        "counts": _bytes(sample.counts),
        "marks": None if sample.marks is None else _bytes(sample.marks),
        "extremes": [sample.minimum, sample.maximum],
        "shift": sample.shift,
        "temporal": sample.temporal,
        **{name: getattr(sample, name) for name in ADDED},
    }


def _restored(found: dict[str, Any]) -> ReferenceColumn:
    sample: Sample
    if "levels" in found:
        counts = {_level_of(tag, value): count for tag, value, count in found["levels"]}
        sample = Levels(counts, found["rows"], found["missing"], rest=found["rest"])
    else:
        centre, scale, atoms = found["layout"]
        sample = Cells(
            layout=Layout(centre, scale, tuple(atoms)),
            codes=_ints(found["codes"]),
            counts=_ints(found["counts"]),
            marks=None if found["marks"] is None else _ints(found["marks"]),
            minimum=found["extremes"][0],
            maximum=found["extremes"][1],
            shift=found["shift"],
            temporal=found["temporal"],
            **{name: found[name] for name in ADDED},
        )
    return _checked(ReferenceColumn(name=found["name"], kind=found["kind"], sample=sample))


def _checked(column: ReferenceColumn) -> ReferenceColumn:
    sample = column.sample
    if isinstance(sample, Levels):
        check_levels(sample)
        counted = [sample.rows, sample.missing, sample.rest, *sample.counts.values()]
    else:
        check_cells(cast("Cells", sample))
        counted = [getattr(sample, name) for name in ("shift", *ADDED)]
        _must(type(cast("Cells", sample).temporal) is bool, "temporal must be true or false")
    _must(set(map(type, counted)) <= {int}, "counts must be whole numbers")
    _must(min(counted) >= 0, "a count below 0")
    _must(type(column.name) is str, "a feature without a name")
    _must(column.kind in KINDS, "a feature of no kind")
    _must(isinstance(sample, Levels) == (column.kind == "categorical"), "counts of another kind")
    return column


def _must(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)


def _bytes(values: Any) -> bytes:
    return np.asarray(values, dtype="<i8").tobytes()


def _ints(data: bytes) -> Any:
    return np.frombuffer(data, dtype="<i8").astype(np.int64)


def _level(level: Any) -> tuple[str, Any]:
    if type(level) in _PLAIN and not (type(level) is int and abs(level) >> 63):
        return "", level
    tag, write = _WRITERS.get(type(level), ("", None))
    if write is None:
        raise BadConfiguration(
            f"a level of type {type(level).__name__} cannot be sent: {level!r:.80}"
        )
    return tag, write(level)


def _level_of(tag: str, value: Any) -> Any:
    return _READERS[tag](value) if tag else value
