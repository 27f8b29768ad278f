"""Near rows share an answer: rounded keys, and what they cost in accuracy, measured.

Only the key is rounded: the model sees the row as it came, and a row is answered with the
answer of the first row that was rounded to the same.  How far off that is, is not guessed:
a share of the answers is computed anew and compared, see :class:`RoundingAudit`.
"""

import math
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, Final, TypeAlias

from prodml._sketch import Moments, Quantiles
from prodml.cache.keys import Namer, Rounded, canonical, parts_of, plain_number
from prodml.errors import BadConfiguration

__all__ = ["MeasuredError", "Rounding", "RoundingAudit", "RoundingNamer"]

Name: TypeAlias = str | int
Cell: TypeAlias = Callable[[float], float]

# Above it neighbouring integers are the same float.
_EXACT: Final = 2**53


@dataclass(frozen=True, slots=True)
class Rounding:
    """Which features of a row are rounded, or taken to the nearest multiple, for its key.

    Features are named as the row names them: by name in mappings, frames, series and
    objects, by place (a number) in lists and arrays.  Numbers keep their kind: an integer
    stays one, and never shares an entry with a float; ``-0.0`` becomes ``0.0``.  Booleans,
    None, NaN, infinities, Decimals and whatever is no number stay as they are.

    Parameters
    ----------
    round
        Decimal digits by feature; negative ones round to tens, hundreds, ...
    quantize
        Steps by feature; a value half-way goes to the even multiple.

    Raises
    ------
    BadConfiguration
        A setting makes no sense, or a feature has two.

    Examples
    --------
    >>> rounding = Rounding({"amount": 2}, quantize={"age": 5})
    >>> rounding.row({"amount": 9.987, "age": 41, "country": "DE"})
    {'amount': 9.99, 'age': 40, 'country': 'DE'}

    Rows that are rounded alike share their key; rows that are not rounded have another:

    >>> one, other = rounding({"amount": 9.987}), rounding({"amount": 9.99})
    >>> canonical(one) == canonical(other), canonical(one) == canonical({"amount": 9.99})
    (True, False)
    """

    round: Mapping[Any, int] = field(default_factory=dict[Any, int])
    quantize: Mapping[Any, float] = field(default_factory=dict[Any, float])
    absent: dict[Name, int] = field(init=False, repr=False, compare=False)
    """How many rows or batches lacked the feature: one always absent has a wrong name."""
    settings: bytes = field(init=False, repr=False, compare=False)
    """What keys say of this rounding."""
    _cells: dict[Name, Cell] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        both = {*self.round} & {*self.quantize}
        if both:
            raise BadConfiguration(f"{sorted(map(str, both))}: either round or quantize, not both")
        cells = {_place(name): _digits(name, n) for name, n in self.round.items()}
        cells |= {_place(name): _multiple(name, step) for name, step in self.quantize.items()}
        steps = {name: float(step) for name, step in self.quantize.items()}
        # A copy: whoever gave the mappings may change them.
        frozen: dict[str, Any] = {
            "round": dict(self.round),
            "quantize": steps,
            "absent": dict.fromkeys(cells, 0),
            "settings": canonical([dict(self.round), steps]),
            "_cells": cells,
        }
        for name, value in frozen.items():
            object.__setattr__(self, name, value)

    def __hash__(self) -> int:
        return hash(self.settings)

    def __call__(self, features: Any) -> Rounded:
        """``features``, for any method of a cache, to go by their rounded values.

        Nothing is read yet: what cannot be rounded is uncacheable like what cannot be named.
        """
        return Rounded(self, features)

    def row(self, features: Any) -> Any:
        """``features`` as their key sees them.

        Raises
        ------
        TypeError
            They have no columns, or hold more than those.
        """
        if type(features) is dict:
            return self._mapping(features)
        if _is_array(features):
            return self.array(features[None])[0] if features.ndim == 1 else self.array(features)
        parts = parts_of(features)
        return parts.named(self.columns(parts.names, parts.columns))

    def columns(self, names: Sequence[Any], columns: Sequence[Sequence[Any]]) -> list[list[Any]]:
        """Columns of a frame, or of a row, as keys see them."""
        shown = [list(column) for column in columns]
        # The type, since True and 1 are one key of a dictionary.
        places = {(type(name), name): at for at, name in enumerate(names)}
        for name, cell in self._cells.items():
            at = places.get((type(name), name))
            if at is None:
                self.absent[name] += 1
            else:
                shown[at] = [_rounded(item, cell) for item in shown[at]]
        return shown

    def array(self, rows: Any) -> Any:
        """An array of rows as keys see them; its columns go by their places."""
        width = rows.shape[1] if rows.ndim == 2 else 0
        shown = rows.copy()
        for name, cell in self._cells.items():
            if isinstance(name, str) or name >= width:
                self.absent[name] += 1
            else:
                shown[:, name] = _column(rows[:, name], cell)
        return shown

    def _mapping(self, features: dict[Any, Any]) -> dict[Any, Any]:
        shown = features.copy()
        for name, cell in self._cells.items():
            if name in shown:
                shown[name] = _rounded(shown[name], cell)
            else:
                self.absent[name] += 1
        return shown


def _place(name: Any) -> Name:
    if isinstance(name, str) or (type(name) is int and name >= 0):
        return name
    raise BadConfiguration(f"feature {name!r}: give a name, or a place from 0 on")


def _digits(name: Name, digits: Any) -> Cell:
    if type(digits) is not int:
        raise BadConfiguration(f"round[{name!r}]={digits!r} must be a number of digits")
    places: int = digits

    def cell(value: float) -> float:
        return round(value, places)

    return cell


def _multiple(name: Name, step: Any) -> Cell:
    if type(step) not in {int, float} or not 0 < step <= sys.float_info.max:
        raise BadConfiguration(f"quantize[{name!r}]={step!r} must be a finite step above 0")
    size: float = float(step)
    whole = int(size) if size.is_integer() else 0

    def cell(value: float) -> float:
        if isinstance(value, float):
            return round(value / size) * size
        return _whole_multiple(value, whole) if whole else _near_multiple(value, size)

    return cell


def _whole_multiple(value: int, step: int) -> int:
    times, rest = divmod(value, step)
    up = 2 * rest > step or (2 * rest == step and times % 2 == 1)
    return (times + up) * step


def _near_multiple(value: float, step: float) -> float:
    # The integer next to the multiple: it is no integer itself.
    return value if abs(value) > _EXACT else round(round(value / step) * step)


def _rounded(item: Any, cell: Cell) -> Any:
    value = plain_number(item)
    if value is None:
        return item
    try:
        shown = cell(value)
    except (OverflowError, ValueError):
        # Not finite, or too large for the step: such values are their own cells.
        return item
    if type(shown) is int:
        return shown
    # The sum has no negative zero.
    return shown + 0.0 if math.isfinite(shown) else item


def _is_array(value: Any) -> bool:
    cls = type(value)
    return cls.__name__ == "ndarray" and cls.__module__ == "numpy"


def _column(column: Any, cell: Cell) -> Any:
    kind = column.dtype.kind
    if kind not in "fiuO":
        return column
    shown = [_rounded(item, cell) for item in column.tolist()]
    if kind in "iu":
        import numpy as np

        # The multiple next to the largest value may lie beyond it.
        limits = np.iinfo(column.dtype)
        return [min(max(item, int(limits.min)), int(limits.max)) for item in shown]
    return shown


class RoundingNamer(Namer):
    """Names the rows of a batch as :class:`Rounding` shows them.

    Examples
    --------
    >>> rounding = Rounding({"a": 1})
    >>> namer = RoundingNamer(rounding)
    >>> bodies = namer.rows(["a"], [[0.31, 0.29]])
    >>> bodies[0] == bodies[1] == namer.name({"a": 0.3}) == canonical(rounding({"a": 0.3}))
    True
    """

    __slots__: tuple[str, ...] = ("rounding",)

    def __init__(self, rounding: Rounding) -> None:
        super().__init__()
        self.rounding: Rounding = rounding

    def name(self, value: Any) -> bytes:
        """Canonical bytes of ``value``, rounded."""
        return self._marked(super().name(self.rounding.row(value)))

    def rows(self, names: Sequence[Any], columns: Sequence[Sequence[Any]]) -> list[bytes | None]:
        """Canonical bytes of each row of a frame, rounded."""
        bodies = super().rows(names, self.rounding.columns(names, columns))
        return [None if body is None else self._marked(body) for body in bodies]

    def vectors(self, rows: Any) -> list[bytes]:
        """Canonical bytes of each row of an array, rounded."""
        return [self._marked(body) for body in super().vectors(self.rounding.array(rows))]

    def _marked(self, body: bytes) -> bytes:
        return Rounded(self.rounding, None).written(body)


@dataclass(frozen=True, slots=True)
class MeasuredError:
    """How far answers from a rounded cache are from those of the model.

    Parameters
    ----------
    count
        Answers that were compared.
    changed
        Of them, those that differ at all.
    incomparable
        Of them, those whose difference no number tells: labels, NaN, other lengths.
    maximum, mean, p95
        Absolute difference of the others; of vectors, that of the element furthest off.
        NaN before the first.

    Examples
    --------
    >>> MeasuredError(count=200, changed=3).changed_share
    0.015
    """

    count: int = 0
    changed: int = 0
    incomparable: int = 0
    maximum: float = math.nan
    mean: float = math.nan
    p95: float = math.nan

    @property
    def changed_share(self) -> float:
        """Share of the answers that differ; NaN before the first."""
        return self.changed / self.count if self.count else math.nan


class RoundingAudit:
    """Chooses which answers are computed anew, and keeps the books of the differences.

    Parameters
    ----------
    share
        Of the answers from the cache, in [0, 1], how many are compared.
    rng
        Chance.

    Raises
    ------
    BadConfiguration
        ``share`` is no share.

    Examples
    --------
    >>> audit = RoundingAudit(share=1.0)
    >>> if audit.due():
    ...     audit.add(served=0.25, exact=0.5)
    >>> audit.error.maximum, audit.error.changed
    (0.25, 1)
    """

    __slots__: tuple[str, ...] = (
        *("_changed", "_count", "_incomparable", "_lock"),
        *("_moments", "_quantiles", "rng", "share"),
    )

    def __init__(self, *, share: float = 0.01, rng: random.Random | None = None) -> None:
        if not 0 <= share <= 1:
            raise BadConfiguration(f"share={share!r} must lie in [0, 1]")
        self.share: float = share
        self.rng: random.Random = rng or random.Random()
        self._lock: Lock = Lock()
        self._count: int = 0
        self._changed: int = 0
        self._incomparable: int = 0
        self._moments: Moments = Moments()
        self._quantiles: Quantiles = Quantiles()

    def due(self) -> bool:
        """Whether this answer shall be compared."""
        return self.share > 0 and self.rng.random() < self.share

    def add(self, served: Any, exact: Any) -> None:
        """Take in what was answered and what the model says of the very same row."""
        distance = _distance(served, exact)
        with self._lock:
            self._count += 1
            self._changed += distance != 0
            self._incomparable += not math.isfinite(distance)
            self._moments.add(distance)
            self._quantiles.add(distance)

    @property
    def error(self) -> MeasuredError:
        """Differences so far."""
        with self._lock:
            some = self._moments.count > 0
            return MeasuredError(
                count=self._count,
                changed=self._changed,
                incomparable=self._incomparable,
                maximum=self._moments.maximum if some else math.nan,
                mean=self._moments.mean if some else math.nan,
                p95=min(self._quantiles.quantile(0.95), self._moments.maximum),
            )


def _distance(served: Any, exact: Any) -> float:
    """Largest absolute difference; infinite where no number tells."""
    served, exact = _told(served), _told(exact)
    if isinstance(served, list) and isinstance(exact, list) and len(served) == len(exact):
        return max(map(_distance, served, exact), default=0.0)
    if isinstance(served, Mapping) and isinstance(exact, Mapping) and {*served} == {*exact}:
        return max((_distance(served[name], exact[name]) for name in served), default=0.0)
    try:
        return _difference(served, exact)
    except Exception:
        # Answers may be objects of anyone's making, and raise anything when compared.
        return math.inf


def _difference(served: Any, exact: Any) -> float:
    numbers = {type(served), type(exact)} <= {int, float}
    if numbers and math.isfinite(served) and math.isfinite(exact):
        return abs(float(served) - float(exact))
    same = bool(served == exact) or (numbers and math.isnan(served) and math.isnan(exact))
    return 0.0 if same else math.inf


def _told(value: Any) -> Any:
    """Arrays, series and numpy's scalars as Python's lists and numbers."""
    if isinstance(value, tuple):
        return list(value)
    tell = getattr(value, "tolist", None) or getattr(value, "to_list", None)
    return tell() if callable(tell) else value
