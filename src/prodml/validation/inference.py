"""What a reference says about its columns."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, floor, isfinite
from sys import float_info
from typing import Any, cast

from prodml.errors import BadConfiguration
from prodml.types import MISS, is_missing
from prodml.validation.columns import Column, rows_of, table_of, transposed
from prodml.validation.field import Field
from prodml.validation.kinds import Kind, kind_of_type, plain_number

__all__ = ["Inference"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inference:
    """How fields are read off a reference.

    See :meth:`~prodml.validation.Schema.infer` for the settings and rules.

    Examples
    --------
    >>> Inference().field([1, 2, 3, None]).nullable
    True
    """

    slack: float = 0.1
    max_levels: int = 100
    max_unseen: float = 0.05

    def __post_init__(self) -> None:
        if not (self.slack >= 0 and isfinite(self.slack)):
            raise BadConfiguration(f"slack is a share of the range, >= 0, not {self.slack!r}")
        if self.max_levels < 0:
            raise BadConfiguration(f"max_levels is a count, >= 0, not {self.max_levels!r}")
        if not 0.0 <= self.max_unseen <= 1.0:
            raise BadConfiguration(f"max_unseen is a share, 0 to 1, not {self.max_unseen!r}")

    def fields(self, reference: Any, names: Any = None) -> dict[str, Field]:
        """Fields of every column of ``reference``."""
        rows = rows_of(reference)
        if rows is not None:
            table = table_of(transposed(rows))
        else:
            table = table_of(reference, names)
        if not table.n_rows:
            raise BadConfiguration("the reference is empty: a schema is learnt from rows")
        return {name: self.field(*table.column(name)) for name in table.names}

    def field(self, values: Column, kind: Kind | None = None) -> Field:
        """Field of one column."""
        if not isinstance(values, list) and values.dtype.kind in _ARRAY_KINDS:
            return self._array_field(values, kind or _ARRAY_KINDS[values.dtype.kind])
        items = cast("list[Any]", values if isinstance(values, list) else values.tolist())
        present = [item for item in items if item is not MISS]
        known = [item for item in present if not is_missing(item)]
        kind = kind or _common_kind(known)
        extent = _extent(known) if kind in _NUMBERS else None
        share = (len(present) - len(known)) / len(present) if present else 0.0
        return Field(
            kind,
            required=len(present) == len(items),
            nullable=share > 0,
            null_share=share,
            **self._range(kind, extent),
            **self._levels(kind, known),
        )

    def _array_field(self, values: Any, kind: Kind) -> Field:
        import numpy as np

        code = values.dtype.kind
        nulls = np.isnan(values) if code == "f" else np.isnat(values) if code == "M" else None
        share = 0.0 if nulls is None else float(nulls.mean())
        extent = None
        if code in "fiu" and (numbers := values[np.isfinite(values)]).size:
            # The lower of two middles: a value that was seen, and the mean may overflow.
            half = (numbers.size - 1) // 2
            middle = np.partition(numbers, half)[half]
            extent = (numbers.min().item(), numbers.max().item(), middle.item())
        return Field(kind, nullable=share > 0, null_share=share, **self._range(kind, extent))

    def _range(self, kind: Kind, extent: tuple[float, float, float] | None) -> Mapping[str, Any]:
        if extent is None:
            return {}
        low, high, middle = extent
        room = self.slack * (high - low)
        if kind == "int":
            bounds: dict[str, float] = {"minimum": floor(low - room), "maximum": ceil(high + room)}
            middle = int(middle)
        else:
            bounds = {"minimum": float(low - room), "maximum": float(high + room)}
            middle = float(middle)
        # A constant says nothing about its spread, and a spread beyond the floats is none.
        told = low < high and isfinite(bounds["minimum"]) and isfinite(bounds["maximum"])
        return {"default": middle, **(bounds if told else {})}

    def _levels(self, kind: Kind, known: list[Any]) -> Mapping[str, Any]:
        if kind not in {"str", "bool"} or not known:
            return {}
        counts = Counter(known)
        once = sum(1 for count in counts.values() if count == 1)
        if len(counts) > self.max_levels or once / len(known) > self.max_unseen:
            return {}
        top = counts.most_common(1)[0][0]
        if kind == "bool":
            return {"default": bool(top)}
        # Texts of an enumeration, or of numpy, are plain texts in what is kept.
        return {"default": str.__str__(top), "categories": tuple(sorted(map(str.__str__, counts)))}


_MAX = float_info.max
_NUMBERS: frozenset[Kind] = frozenset({"float", "int"})
_ARRAY_KINDS: Mapping[str, Kind] = {
    "f": "float",
    "i": "int",
    "u": "int",
    "b": "bool",
    "M": "datetime",
}


def _extent(known: list[Any]) -> tuple[float, float, float] | None:
    """Smallest, largest and (lower) middle of the numbers that a float can hold."""
    from statistics import median_low

    numbers = [n for n in map(plain_number, known) if -_MAX <= n <= _MAX]
    return (min(numbers), max(numbers), median_low(numbers)) if numbers else None


def _common_kind(known: list[Any]) -> Kind:
    kinds: set[Kind] = {kind_of_type(cls) for cls in set(map(type, known))}
    if kinds == {"float", "int"}:
        return "float"
    return kinds.pop() if len(kinds) == 1 else "any"
