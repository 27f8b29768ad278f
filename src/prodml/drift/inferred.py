"""A schema read off a reference."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from prodml.drift.cells import Cells
from prodml.drift.sample import Kind, Levels, Numbers

if TYPE_CHECKING:
    from prodml.validation import Field, Schema

__all__ = ["schema_of"]

_MOST_CATEGORIES = 100


class _Column(Protocol):
    """A fitted feature."""

    @property
    def kind(self) -> Kind: ...
    @property
    def sample(self) -> Numbers | Cells | Levels: ...


def schema_of(columns: Mapping[str, _Column], settings: Mapping[str, Any]) -> "Schema":
    """Types, ranges, categories, and whether a value may be missing.

    Levels become categories if there are at most 100 of them, all text, and all are known.
    """
    from prodml.validation import Schema

    fields = {name: _field(column) for name, column in columns.items()}
    return Schema(fields, **settings)


def _field(column: _Column) -> "Field":
    from prodml.validation import Field

    sample = column.sample
    nulls = sample.missing / sample.rows if sample.rows else 0.0
    common: dict[str, Any] = {"nullable": sample.missing > 0, "null_share": nulls}
    if isinstance(sample, Levels):
        return Field(**_levels(sample), **common)
    if column.kind == "time" or sample.temporal or sample.invalid or not sample.size:
        return Field("any", **common)
    if sample.fractional or max(abs(sample.minimum), abs(sample.maximum)) > 2.0**53:
        return Field("float", minimum=sample.minimum, maximum=sample.maximum, **common)
    return Field("int", minimum=int(sample.minimum), maximum=int(sample.maximum), **common)


def _levels(sample: Levels) -> dict[str, Any]:
    types = set(map(type, sample.counts))
    if types == {bool}:
        return {"kind": "bool"}
    if types != {str} or sample.rest:
        return {"kind": "any"}
    known = len(sample.counts) <= _MOST_CATEGORIES
    return {"kind": "str", "categories": tuple(sorted(sample.counts)) if known else None}
