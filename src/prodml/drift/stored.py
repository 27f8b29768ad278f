"""References as JSON or Arrow: plain numbers and text, checked when they are read.

``{"format": "prodml.drift.Reference", "version": 1, "sha256": "...", "columns": [...]}``.
The sum is that of the columns as compact JSON with sorted keys: a digit that changed on the way
would else move a cell without anybody noticing.  A column has a
``name``, a ``kind``, a ``design`` and a ``sample``, which is of one of three types:
``cells`` (the steps between ascending codes, and the count in each), ``values`` (sorted), or
``levels`` (type, text, count).  Each takes at most 64 kB: what would be larger is counted in
cells, in wider cells, or in a rest.
"""

import base64
import hashlib
import json
import math
import os
import threading
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, cast

import numpy as np

from prodml.drift.cells import ADDED, Cells
from prodml.drift.layout import CELLS, PARTS, Layout
from prodml.drift.sample import Kind, Levels, Numbers
from prodml.errors import BadConfiguration, CorruptRecord

__all__ = [
    "FORMAT",
    "MOST_BYTES",
    "VERSION",
    "check_cells",
    "check_levels",
    "from_dict",
    "load",
    "save",
    "to_dict",
]

FORMAT = "prodml.drift.Reference"
VERSION = 1
MOST_BYTES: int = 64_000
"""Room for one column, serialised."""

Sample: TypeAlias = Numbers | Cells | Levels
Fitted: TypeAlias = tuple[Kind, Sample, Mapping[str, float]]

_MOST_SHIFT = 12
# ["s","",1],
_SHORTEST = 10
_MOST_COUNT = 1 << 62
_NUMBERS = ("rows", "missing", "infinite", "invalid", "fractional", "above")


class _Column(Protocol):
    """A fitted feature."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> Kind: ...
    @property
    def sample(self) -> Sample: ...
    @property
    def design(self) -> Mapping[str, float]: ...


def to_dict(columns: Mapping[str, _Column]) -> dict[str, Any]:
    """A reference ready for JSON."""
    plain = [
        {
            "name": column.name,
            "kind": column.kind,
            "design": {aspect: float(effect) for aspect, effect in column.design.items()},
            "sample": _plain(column.sample),
        }
        for column in columns.values()
    ]
    return {"format": FORMAT, "version": VERSION, "sha256": _digest(plain), "columns": plain}


def _digest(columns: Any) -> str:
    text = json.dumps(columns, separators=(",", ":"), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def save(columns: Mapping[str, _Column], path: Path) -> None:
    """Write a reference; whoever reads meanwhile sees the old file or the new one."""
    stored = to_dict(columns)
    data = _arrow(stored) if path.suffix == ".arrow" else _json(stored)
    # Threads have names of their own: two may save to one path.
    beside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def load(path: Path) -> dict[str, Fitted]:
    """Read what :func:`save` wrote."""
    data = path.read_bytes()
    try:
        stored = _from_arrow(data) if path.suffix == ".arrow" else json.loads(data)
    except BadConfiguration:
        raise
    except Exception as error:
        # The bytes are here, so whatever a reader stumbles over (pyarrow raises OSError) is them.
        raise CorruptRecord(str(path), f"no reference: {error}") from error
    return from_dict(stored, where=str(path))


def from_dict(stored: Any, where: str = "reference") -> dict[str, Fitted]:
    """Kind, sample and design effects by feature, or CorruptRecord."""
    try:
        found = _entries(stored)
    except (KeyError, TypeError, ValueError, OverflowError, ArithmeticError) as error:
        told = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise CorruptRecord(where, told) from error
    return found


def _entries(stored: Any) -> dict[str, Fitted]:
    if not isinstance(stored, Mapping) or stored.get("format") != FORMAT:
        raise ValueError(f"not of format {FORMAT}")
    if stored["version"] != VERSION:
        raise ValueError(f"version {stored['version']!r}, this release reads {VERSION}")
    found: dict[str, Fitted] = {}
    for column in _typed(list, stored["columns"]):
        name = _typed(str, column["name"])
        if name in found:
            raise ValueError(f"two columns {name!r}")
        found[name] = _fitted(column)
    # What was written before there was a sum has none.
    if stored.get("sha256", ...) not in {..., _digest(stored["columns"])}:
        raise ValueError("the columns are not those that were written: another sha256")
    return found


def _fitted(column: Mapping[str, Any]) -> Fitted:
    kind, sample = column["kind"], _typed(dict, column["sample"])
    reader = {"cells": _cells, "values": _numbers, "levels": _levels}[sample["type"]]
    if (kind == "categorical") != (reader is _levels) or kind not in _KINDS:
        raise ValueError(f"kind {kind!r} with a sample of {sample['type']}")
    design = {str(k): _finite(v) for k, v in _typed(dict, column["design"]).items()}
    if any(effect < 1.0 for effect in design.values()):
        raise ValueError("a design effect below 1")
    return kind, cast("Any", reader)(sample), design


_KINDS = ("numeric", "categorical", "time")


def _plain(sample: Sample) -> dict[str, Any]:
    """The sample, made as small as it must be."""
    if isinstance(sample, Levels):
        return _plain_levels(sample)
    if isinstance(sample, Numbers):
        plain = _plain_numbers(sample) if sample.size <= MOST_BYTES // 8 else None
        if plain is not None and _fits(plain):
            return plain
        sample = sample.counted(Layout.of(sample.values))
    plain = _plain_cells(sample)
    while not _fits(plain):
        sample = sample.coarser(sample.shift + 1)
        plain = _plain_cells(sample)
    return plain


def _fits(plain: Mapping[str, Any]) -> bool:
    # Room for the name and the kind is left.
    return len(_json(plain)) <= MOST_BYTES - 1024


def _json(plain: Any) -> bytes:
    return json.dumps(plain, separators=(",", ":"), allow_nan=False).encode()


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def _plain_numbers(sample: Numbers) -> dict[str, Any]:
    counted = {name: getattr(sample, name) for name in _NUMBERS}
    # -0.0 and 0.0 are one value, whichever came first.
    values = (sample.values + 0.0).tolist()
    return {"type": "values", "temporal": sample.temporal, **counted, "values": values}


def _numbers(plain: Mapping[str, Any]) -> Numbers:
    values = np.array([_finite(value) for value in _typed(list, plain["values"])])
    sample = Numbers(
        values,
        temporal=_typed(bool, plain["temporal"]),
        **{name: _count(plain[name]) for name in _NUMBERS},
    )
    held = sample.rows - sample.missing - sample.infinite - sample.invalid
    if (values[1:] < values[:-1]).any():
        raise ValueError("values must ascend")
    if held != sample.size or sample.fractional > held or sample.above > sample.infinite:
        raise ValueError("rows and values do not fit")
    return sample


def _plain_cells(sample: Cells) -> dict[str, Any]:
    layout = sample.layout
    return {
        "type": "cells",
        "centre": layout.centre,
        "scale": layout.scale,
        "atoms": list(layout.atoms),
        "shift": sample.shift,
        "temporal": sample.temporal,
        **{name: getattr(sample, name) for name in ADDED},
        "minimum": _or_none(sample.minimum),
        "maximum": _or_none(sample.maximum),
        "marks": None if sample.marks is None else np.diff(sample.marks, prepend=0).tolist(),
        # Steps of whole cells are the rule: they are stored as such, other codes as they are.
        "cells": _steps(sample.codes // PARTS),
        "parts": _steps(np.flatnonzero(sample.codes % PARTS)),
        "part": (sample.codes[sample.codes % PARTS != 0] % PARTS).tolist(),
        "counts": sample.counts.tolist(),
    }


def _steps(ascending: Any) -> list[int]:
    return cast("list[int]", np.diff(ascending, prepend=0).tolist())


def _cells(plain: Mapping[str, Any]) -> Cells:
    atoms = tuple(_finite(atom) for atom in _typed(list, plain["atoms"]))
    layout = Layout(_finite(plain["centre"]), _finite(plain["scale"]), atoms)
    marks = plain["marks"]
    sample = Cells(
        layout=layout,
        codes=_codes(plain),
        counts=_counts(plain["counts"]),
        shift=_count(plain["shift"]),
        temporal=_typed(bool, plain["temporal"]),
        minimum=math.nan if plain["minimum"] is None else _finite(plain["minimum"]),
        maximum=math.nan if plain["maximum"] is None else _finite(plain["maximum"]),
        marks=None if marks is None else np.cumsum(_counts(marks)),
        **{name: _count(plain[name]) for name in ADDED},
    )
    check_cells(sample)
    return sample


def _codes(plain: Mapping[str, Any]) -> Any:
    codes = np.cumsum(_counts(plain["cells"])) * PARTS
    where, part = np.cumsum(_counts(plain["parts"])), _counts(plain["part"])
    if len(where) != len(part) or (where >= len(codes)).any() or (part >= PARTS).any():
        raise ValueError("parts of cells that are not there")
    codes[where] += part
    return codes


def check_cells(sample: Cells) -> None:
    """ValueError where counts do not fit together."""
    codes, counts = sample.codes, sample.counts
    if len(codes) != len(counts) or (np.diff(codes) <= 0).any() or (counts <= 0).any():
        raise ValueError("codes must ascend, with a count each")
    if len(codes) and not 0 <= codes[0] <= codes[-1] <= CELLS * PARTS:
        raise ValueError("a cell beyond the last")
    _check_parts(sample)
    if sample.shift > _MOST_SHIFT or int(counts.sum()) != sample.size:
        raise ValueError("rows and counts do not fit")
    if sample.fractional > sample.size or math.isnan(sample.minimum) != (not len(codes)):
        raise ValueError("rows and range do not fit")
    if math.isnan(sample.maximum) != (not len(codes)) or sample.minimum > sample.maximum:
        raise ValueError("the range is upside down")


def _check_parts(sample: Cells) -> None:
    owners = sample.layout.point_cells >> min(sample.shift, _MOST_SHIFT)
    cells = sample.codes // PARTS
    points = np.searchsorted(owners, cells, "right") - np.searchsorted(owners, cells, "left")
    if (sample.codes % PARTS > 2 * points).any():
        raise ValueError("parts of a cell that no point divides")


def _plain_levels(sample: Levels) -> dict[str, Any]:
    """The most frequent levels that there is room for; the others go into the rest."""
    labels = [(-count, _label(level)) for level, count in sample.counts.items()]
    kept: list[list[Any]] = []
    room, rest = MOST_BYTES - 2048, sample.rest
    for less, label in sorted(labels, key=lambda item: (item[0], item[1] or ())):
        plain = [*(label or ()), -less]
        took = len(_json(plain)) + 1 if room > _SHORTEST else room + 1
        if label is None or took > room:
            rest -= less
        else:
            kept.append(plain)
            room -= took
    return {
        "type": "levels",
        "rows": sample.rows,
        "missing": sample.missing,
        "rest": rest,
        "levels": kept,
    }


def _levels(plain: Mapping[str, Any]) -> Levels:
    counts: dict[Any, int] = {}
    for sort, text, count in _typed(list, plain["levels"]):
        level = _READERS[sort](_typed(str, text))
        if level in counts:
            raise ValueError(f"level {level!r} twice")
        counts[level] = _count(count)
    sample = Levels(
        counts, _count(plain["rows"]), _count(plain["missing"]), rest=_count(plain["rest"])
    )
    check_levels(sample)
    return sample


def check_levels(sample: Levels) -> None:
    """ValueError where counts do not fit together."""
    if sum(sample.counts.values()) + sample.rest != sample.size:
        raise ValueError("rows and levels do not fit")


_READERS: dict[str, Callable[[str], Any]] = {
    "s": str,
    "b": lambda text: {"True": True, "False": False}[text],
    "i": int,
    "f": float,
    "d": Decimal,
    "t": datetime.fromisoformat,
    "D": date.fromisoformat,
    "T": time.fromisoformat,
    "h": lambda text: timedelta(microseconds=int(text)),
    "y": lambda text: base64.b64decode(text, validate=True),
}
_SORTS: tuple[tuple[type, str, Callable[[Any], str]], ...] = (
    (str, "s", str),
    (bool, "b", str),
    (int, "i", str),
    (float, "f", repr),
    (Decimal, "d", str),
    (datetime, "t", datetime.isoformat),
    (date, "D", date.isoformat),
    (time, "T", time.isoformat),
    (timedelta, "h", lambda level: str(level // timedelta(microseconds=1))),
    (bytes, "y", lambda level: base64.b64encode(level).decode()),
)


def _label(level: Any) -> tuple[str, str] | None:
    """Type and text of a level; None for what no text brings back."""
    for cls, sort, text in _SORTS:
        if type(level) is cls:
            return sort, text(level)
    return None


def _typed(cls: type, value: Any) -> Any:
    if not isinstance(value, cls):
        raise TypeError(f"{cls.__name__} expected, not {type(value).__name__}")
    return value


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < _MOST_COUNT:
        raise ValueError(f"a count expected, not {value!r:.40}")
    return value


def _counts(values: Any) -> Any:
    return np.array([_count(value) for value in _typed(list, values)], dtype=np.int64)


def _finite(value: Any) -> float:
    if type(value) not in {int, float} or not math.isfinite(value):
        raise ValueError(f"a finite number expected, not {value!r:.40}")
    return float(value)


_BULK: tuple[tuple[str, Literal["int64", "double"]], ...] = (
    ("cells", "int64"),
    ("counts", "int64"),
    ("values", "double"),
)


def _arrow(stored: Mapping[str, Any]) -> bytes:
    """One row a column: its long lists as Arrow lists, the rest as JSON."""
    pa, ipc = _pyarrow()
    rows: dict[str, list[Any]] = {"head": []}
    for name, _ in _BULK:
        rows[name] = []
    for column in stored["columns"]:
        sample = dict(column["sample"])
        for name, _ in _BULK:
            rows[name].append(sample.pop(name, None))
        rows["head"].append(json.dumps({**column, "sample": sample}, allow_nan=False))
    types = {"int64": pa.list_(pa.int64()), "double": pa.list_(pa.float64())}
    schema = pa.schema(
        [("head", pa.string()), *((name, types[sort]) for name, sort in _BULK)],
        metadata={name: str(stored[name]) for name in ("format", "version", "sha256")},
    )
    sink = pa.BufferOutputStream()
    packed = "zstd" if pa.Codec.is_available("zstd") else None
    options = ipc.IpcWriteOptions(compression=packed)
    with ipc.new_file(sink, schema, options=options) as writer:
        writer.write_table(pa.table(rows, schema=schema))
    return cast("bytes", sink.getvalue().to_pybytes())


def _from_arrow(data: bytes) -> dict[str, Any]:
    pa, ipc = _pyarrow()
    table = ipc.open_file(pa.BufferReader(data)).read_all()
    # Or an offset of text could point anywhere in memory.
    table.validate(full=True)
    told = table.schema.metadata or {}
    columns: list[Any] = []
    for row in table.to_pylist():
        column = json.loads(row["head"])
        column["sample"] |= {name: row[name] for name, _ in _BULK if row[name] is not None}
        columns.append(column)
    sums = {"sha256": told[b"sha256"].decode()} if b"sha256" in told else {}
    return {
        "format": told.get(b"format", b"").decode(),
        "version": int(told.get(b"version", b"0")),
        "columns": columns,
        **sums,
    }


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow as pa
        from pyarrow import ipc
    except ImportError as error:
        raise BadConfiguration("a path that ends in .arrow needs pyarrow: use .json") from error
    return pa, ipc
