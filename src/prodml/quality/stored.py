"""An estimator as JSON: plain numbers and text, checked when they are read; nothing is ever run.

``{"format": "prodml.quality.PerformanceEstimator", "version": 1, "settings": {...}, "state":
{...}, "alarming": [...]}``.  What must come back to the last bit and is long (lines of rows that
wait for their labels) is base64 of little-endian doubles.
"""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import date, datetime
from pathlib import Path
from typing import Any, TypeAlias, cast
from uuid import UUID

import msgspec
import numpy as np
import numpy.typing as npt

from prodml.errors import BadConfiguration, CorruptRecord
from prodml.quality.band import Band
from prodml.quality.bias import Bias
from prodml.quality.calibration import Calibrator, Curve
from prodml.quality.loss import BinnedLoss
from prodml.quality.pending import Pending
from prodml.quality.state import State
from prodml.quality.task import Calibrated, Classification, Regression

__all__ = ["FORMAT", "VERSION", "Stored", "document", "load", "restored", "write"]

FORMAT = "prodml.quality.PerformanceEstimator"
VERSION = 1

Floats: TypeAlias = npt.NDArray[np.float64]
Scalar: TypeAlias = str | int | float | bool


class _Head(msgspec.Struct):
    format: str
    version: int


class _Curve(msgspec.Struct):
    scores: list[float]
    chances: list[float]


class _Bins(msgspec.Struct):
    edges: list[float]
    means: list[tuple[float, float]]
    variances: list[tuple[float, float]]


class _Task(msgspec.Struct):
    """Classes and their curves, or bins of errors."""

    classes: list[Scalar] | None = None
    turned: bool = False
    curves: list[_Curve] | None = None
    bins: _Bins | None = None


class _Band(msgspec.Struct):
    reference: float
    offset: float
    spread: float
    realised_spread: float
    chunks: int
    size: float
    stretch: float
    rows: int


class _Bias(msgspec.Struct):
    prior: float
    memory: int
    precision: float
    total: float


class _Lines(msgspec.Struct):
    """Lines of rows as bytes, with their ids or their labels."""

    of: list[Any]
    bytes: bytes


class _State(msgspec.Struct):
    task: _Task
    bands: dict[str, _Band]
    biases: dict[str, _Bias]
    pending: _Lines
    held: _Lines
    evicted: int
    rows: int
    joined: int
    wanted: int


class Stored(msgspec.Struct):
    """The whole document."""

    format: str
    version: int
    settings: dict[str, Any]
    state: _State | None
    alarming: list[str]


def document(settings: Mapping[str, Any], state: State | None, alarming: Sequence[str]) -> Stored:
    """An estimator as plain data, of which nothing is shared with it.

    Raises
    ------
    BadConfiguration
        Something is no plain data: a class, an id, a loss model.
    """
    plain = {name: _setting(name, value) for name, value in settings.items()}
    found = None if state is None else _plain(state)
    return Stored(FORMAT, VERSION, plain, found, sorted(alarming))


def write(stored: Stored, path: Path) -> None:
    """Write a document; whoever reads meanwhile sees the old file or the new one."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        beside.write_bytes(msgspec.json.encode(stored))
        beside.replace(path)
    finally:
        with suppress(FileNotFoundError):
            beside.unlink()


def load(path: Path) -> Stored:
    """Read what :func:`write` wrote, as far as types go.

    Raises
    ------
    CorruptRecord
        Another format, another version, or not what was written.
    """
    data = path.read_bytes()
    try:
        _check_head(msgspec.json.decode(data, type=_Head))
        return msgspec.json.decode(data, type=Stored)
    except (ValueError, RecursionError) as error:
        raise CorruptRecord(str(path), str(error)) from error


def _check_head(head: _Head) -> None:
    if head.format != FORMAT:
        raise ValueError(f"not of format {FORMAT}")
    if head.version != VERSION:
        raise ValueError(f"version {head.version}, this release reads {VERSION}")


def restored(state: _State, task: Any, metrics: Sequence[str], most: int) -> State:
    """The state of an estimator with these settings.

    Raises
    ------
    ValueError
        Parts that do not fit together.
    """
    if not set(metrics) == set(state.bands) == set(state.biases):
        raise ValueError("bands of other metrics")
    expect, width = _restored_task(state.task, task)
    pending = Pending(most, _count(state.evicted))
    ids = [_id_of(plain) for plain in state.pending.of]
    pending.add(ids, _lines(state.pending, width))
    if len(pending) != len(ids):
        raise ValueError("ids that are the same, or too many")
    codes = [_code(code, state.task) for code in state.held.of]
    held = [line.tobytes() for line in _lines(state.held, width)]
    return State(
        task,
        expect,
        {name: _band(state.bands[name]) for name in metrics},
        {name: _bias(state.biases[name]) for name in metrics},
        pending,
        _count(state.rows, 1),
        list(zip(held, codes, strict=True)),
        _count(state.joined),
        _count(state.wanted),
    )


def _plain(state: State) -> _State:
    ids, lines = state.pending.waiting()
    return _State(
        task=_plain_task(state.task, state.expect),
        bands={name: _Band(**asdict(band)) for name, band in state.bands.items()},
        biases={name: _Bias(**asdict(bias)) for name, bias in state.biases.items()},
        pending=_Lines([_plain_id(key) for key in ids], _bytes(lines)),
        held=_Lines([code for _, code in state.held], _bytes([line for line, _ in state.held])),
        evicted=state.pending.evicted,
        rows=state.rows,
        joined=state.joined,
        wanted=state.wanted,
    )


def _bytes(lines: Sequence[bytes]) -> bytes:
    return np.frombuffer(b"".join(lines)).astype("<f8").tobytes()


def _plain_task(task: Any, expect: Any) -> _Task:
    if isinstance(expect, Calibrated):
        curves = [_Curve(c.scores.tolist(), c.chances.tolist()) for c in expect.calibrator.curves]
        classes = [_scalar("class", label) for label in task.labels]
        return _Task(classes=classes, turned=task.turned, curves=curves)
    if isinstance(expect, BinnedLoss):
        arrays = (expect.edges, expect.means, expect.variances)
        return _Task(bins=_Bins(*(array.tolist() for array in arrays)))
    raise BadConfiguration(
        "loss_model is code, which is never stored: fit again where it is needed, or use bins"
    )


def _restored_task(stored: _Task, task: Any) -> tuple[Callable[[Any], Any], int]:
    """What is to be expected of rows, and the numbers in a line."""
    if isinstance(task, Classification) and stored.classes is not None:
        task.restore(stored.classes, turned=stored.turned)
        curves = tuple(_curve(curve) for curve in stored.curves or ())
        count = len(stored.classes)
        if len(curves) not in {0, 1 if count == 2 else count}:
            raise ValueError(f"{len(curves)} curves for {count} classes")
        return Calibrated(Calibrator(curves)), 2 * count
    if isinstance(task, Regression) and stored.bins is not None:
        task.restore()
        return _bins(stored.bins), 5
    raise ValueError("a model of another kind")


def _curve(stored: _Curve) -> Curve:
    scores, chances = (_floats(values) for values in (stored.scores, stored.chances))
    if len(scores) != len(chances) or not len(scores) or (np.diff(scores) <= 0.0).any():
        raise ValueError("a curve whose scores do not ascend, with a chance each")
    if not ((chances >= 0.0) & (chances <= 1.0)).all():
        raise ValueError("a chance outside [0, 1]")
    return Curve(scores, chances)


def _bins(stored: _Bins) -> BinnedLoss:
    edges = _floats(stored.edges)
    means, variances = (_floats(v).reshape(-1, 2) for v in (stored.means, stored.variances))
    if not len(edges) + 1 == len(means) == len(variances) or (np.diff(edges) <= 0.0).any():
        raise ValueError("bins whose edges do not ascend, or without their errors")
    if (means < 0.0).any() or (variances < 0.0).any():
        raise ValueError("an error below 0")
    return BinnedLoss(edges, means, variances)


def _band(stored: _Band) -> Band:
    band = Band(**msgspec.structs.asdict(stored))
    if not band.defined or min(band.spread, band.realised_spread) < 0.0 or band.stretch < 1.0:
        raise ValueError("a band of no numbers")
    if band.chunks < 2 or band.rows < 1 or not 0.0 < band.size < math.inf:
        raise ValueError("a band of no rows")
    return band


def _bias(stored: _Bias) -> Bias:
    bias = Bias(**msgspec.structs.asdict(stored))
    numbers = (bias.prior, bias.precision, bias.total)
    if not all(map(math.isfinite, numbers)) or min(bias.prior, bias.precision) < 0.0:
        raise ValueError("a bias of no numbers")
    _count(bias.memory, 1)
    return bias


def _lines(stored: _Lines, width: int) -> Floats:
    if len(stored.bytes) != 8 * width * len(stored.of):
        raise ValueError("lines that are cut off")
    lines = np.frombuffer(stored.bytes, dtype="<f8").reshape(-1, width).astype(np.float64)
    if np.isnan(lines).any():
        raise ValueError("lines of no numbers")
    return lines


def _floats(values: Sequence[Any]) -> Floats:
    array = np.array(values, dtype=np.float64)
    if not np.isfinite(array).all():
        raise ValueError("a number that is not finite")
    return array


def _count(value: int, least: int = 0) -> int:
    if value < least:
        raise ValueError(f"a count of at least {least} expected, not {value}")
    return value


def _code(value: Any, task: _Task) -> float:
    """A label as a number: of its class, or itself."""
    known = range(len(task.classes)) if task.classes is not None else None
    if not _is_plain_number(value) or (known is not None and value not in known):
        raise ValueError(f"a label expected, not {value!r:.40}")
    return float(value)


def _setting(name: str, value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_scalar(name, item) for item in cast("Sequence[Any]", value)]
    return None if value is None else _scalar(name, value)


def _scalar(what: str, value: Any) -> Scalar:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, str | bool) or _is_plain_number(value):
        return cast("Scalar", value)
    raise BadConfiguration(f"{what} {value!r:.60} cannot be stored: text, a number or a truth can")


def _is_plain_number(value: Any) -> bool:
    if isinstance(value, int):
        return abs(value) < 1 << 62 and not isinstance(value, bool)
    return isinstance(value, float) and math.isfinite(value)


# Ids that are no scalars of JSON: type, name, and how they are written and read.
_SORTS: tuple[tuple[type, str, Callable[[Any], Any], Callable[[Any], Any]], ...] = (
    (
        tuple,
        "tuple",
        lambda key: [_plain_id(part) for part in key],
        lambda x: tuple(map(_id_of, x)),
    ),
    (int, "int", str, int),
    (UUID, "uuid", str, UUID),
    (datetime, "datetime", datetime.isoformat, datetime.fromisoformat),
    (date, "date", date.isoformat, date.fromisoformat),
)


def _plain_id(key: Any) -> Any:
    if isinstance(key, np.generic):
        key = key.item()
    if isinstance(key, str | bool) or _is_plain_number(key):
        return key
    for cls, sort, write, _ in _SORTS:
        if type(key) is cls:
            return {sort: write(key)}
    raise BadConfiguration(
        f"id {key!r:.60} cannot be stored: text, numbers, times, UUIDs and tuples of them can; "
        f"settle it first, or save with pending=False"
    )


def _id_of(plain: Any) -> Any:
    if not isinstance(plain, dict):
        return plain
    for _, sort, _, read in _SORTS:
        if sort in plain:
            return read(cast("dict[str, Any]", plain)[sort])
    raise ValueError("an id of no type")
