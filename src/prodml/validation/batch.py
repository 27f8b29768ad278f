"""Many rows against the same fields, a column at a time."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

from prodml.types import MISS
from prodml.validation.columns import Column, Mask, Table
from prodml.validation.field import Action, Field, Rule, breach, kind_of_type

__all__ = ["BatchValidation", "Found", "column_breaches", "judge"]

Found: TypeAlias = Mapping[tuple[str, Rule], Mask]
ActionFor: TypeAlias = Callable[[str, Rule], Action]

_NUMERIC = "fiub"


@dataclass(slots=True, kw_only=True)
class BatchValidation:
    """How a batch fared.

    Parameters
    ----------
    valid
        Boolean array of shape (n_rows,): the row was accepted, perhaps amended.
    valid_rows
        The accepted rows, amended where a policy says so, in the container that came in.
    quarantined
        The rejected rows as they came, likewise.
    violations
        Count by field and rule, whatever the action was: ``violations["age"]["range"]``.
    where
        Row numbers by ``(field, rule)``, ascending.

    Examples
    --------
    >>> from prodml.validation import Field, Schema
    >>> batch = Schema({"age": Field(int, minimum=0)}).validate_batch({"age": [3, -1]})
    >>> batch.ok, batch.quarantined, batch.violations
    (False, {'age': [-1]}, {'age': {'range': 1}})
    """

    valid: Mask
    valid_rows: Any
    quarantined: Any
    where: Mapping[tuple[str, str], Sequence[int]] = field(repr=False)
    violations: Mapping[str, Mapping[str, int]] = field(init=False)

    def __post_init__(self) -> None:
        counts: dict[str, dict[str, int]] = {}
        for (name, rule), rows in self.where.items():
            counts.setdefault(name, {})[rule] = len(rows)
        self.violations = counts

    @property
    def ok(self) -> bool:
        """Whether every row was accepted."""
        return bool(self.valid.all())


def judge(table: Table, fields: Mapping[str, Field], extra: str) -> dict[tuple[str, Rule], Mask]:
    """Rows that break each rule of each field; only those with at least one.

    Examples
    --------
    >>> from prodml.validation.columns import table_of
    >>> list(judge(table_of({"a": [1, None]}), {"a": Field(int)}, "allow"))
    [('a', 'missing')]
    """
    import numpy as np

    found: dict[tuple[str, Rule], Mask] = {}
    present = frozenset(table.names)
    for name, wanted in fields.items():
        if name in present:
            masks = column_breaches(wanted, *table.column(name))
            found.update({(name, rule): mask for rule, mask in masks.items() if mask.any()})
        elif wanted.required and table.n_rows:
            found[name, "missing"] = np.ones(table.n_rows, dtype=bool)
    if extra != "allow" and table.n_rows:
        for name in table.names:
            if name not in fields:
                found[name, "extra"] = np.ones(table.n_rows, dtype=bool)
    return found


def column_breaches(wanted: Field, values: Column, kind: Any = None) -> dict[Rule, Mask]:
    """Mask of the rows that break each rule of ``wanted``.

    Examples
    --------
    >>> column_breaches(Field(int, minimum=0), [3, -1])["range"].tolist()
    [False, True]
    """
    import numpy as np

    if not isinstance(values, list):
        if values.dtype.kind in _NUMERIC and wanted.categories is None:
            return _numeric_breaches(wanted, values, kind)
        # Nanoseconds would become plain ints as a list.
        stamps = values.dtype.kind == "M"
        values = list(values) if stamps else cast("list[Any]", values.tolist())
    rules = _listed_breaches(wanted, values)
    masks: dict[Rule, Mask] = {}
    for rule in frozenset(rules):
        if rule is not None:
            masks[rule] = np.array([found == rule for found in rules], dtype=np.bool_)
    return masks


def _listed_breaches(wanted: Field, values: list[Any]) -> list[Rule | None]:
    classes = frozenset(map(type, values))
    # One look a distinct text: equal texts fare alike, which numbers of two types may not.
    if classes <= {str, type(None)}:
        verdict: dict[Any, Rule | None] = {
            value: breach(wanted, value) for value in frozenset(values)
        }
        if not any(verdict.values()):
            return []
        return [verdict[value] for value in values]
    return [breach(wanted, value) for value in values]


def _numeric_breaches(wanted: Field, values: Any, kind: Any) -> dict[Rule, Mask]:
    import numpy as np

    nothing = np.zeros(len(values), dtype=bool)
    found = kind or kind_of_type(values.dtype.type)
    floating = values.dtype.kind == "f"
    if floating and values.dtype.itemsize < 8:
        # A narrow float would round the bounds to its own width, infinity included.
        values = values.astype(np.float64)
    null = np.isnan(values) if floating else nothing
    infinite = np.isinf(values) if floating else nothing
    masks: dict[Rule, Mask] = {}
    if not wanted.nullable:
        masks["missing"] = null
    if wanted.kind == "any":
        return masks
    wrong = nothing
    if wanted.kind == "int" and floating:
        wrong = ~null & (infinite | (values != np.trunc(values)))
    elif wanted.kind != found and not (wanted.kind == "float" and found == "int"):
        wrong = ~null
    masks["type"] = wrong
    if wanted.kind == "float":
        masks["finite"] = infinite & ~wrong
    masks["range"] = _outside(wanted, values) & ~wrong & ~infinite
    return masks


def _outside(wanted: Field, values: Any) -> Mask:
    import numpy as np

    outside = np.zeros(len(values), dtype=np.bool_)
    if wanted.minimum is not None:
        outside |= values < wanted.minimum
    if wanted.maximum is not None:
        outside |= values > wanted.maximum
    return outside


def amend(
    table: Table, fields: Mapping[str, Field], found: Found, action: ActionFor
) -> tuple[Mask, Table]:
    """Rows accepted, and the table with every amendment that the actions ask for.

    Examples
    --------
    >>> from prodml.validation.columns import table_of
    >>> table, clipped = table_of({"a": [5, 9]}), {"a": Field(int, maximum=6)}
    >>> found = judge(table, clipped, "allow")
    >>> amend(table, clipped, found, lambda name, rule: "clip")[1].column("a")[0]
    [5, 6]
    """
    import numpy as np

    valid = np.ones(table.n_rows, dtype=bool)
    changes: dict[str, Column] = {}
    dropped: list[str] = []
    for (name, rule), mask in found.items():
        act = action(name, rule)
        if act == "reject":
            valid &= ~mask
        elif act == "drop":
            dropped.append(name)
        elif act != "warn":
            values = changes.get(name)
            if values is None:
                values = table.column(name)[0] if name in table.names else [MISS] * table.n_rows
            changes[name] = _amended(fields[name], values, mask, act)
    return valid, table.put(changes, dropped) if changes or dropped else table


def _amended(wanted: Field, values: Column, mask: Mask, act: Action) -> Column:
    def put(value: Any) -> Any:
        return wanted.clip(value) if act == "clip" else wanted.default

    if isinstance(values, list) or values.dtype.kind not in _NUMERIC:
        pairs = zip(values, mask, strict=True)
        return [put(value) if hit else value for value, hit in pairs]
    import numpy as np

    fresh = [put(value) for value in values[mask].tolist()]
    # A bound or default of another type (0.5 into ints) must widen the column, not be cut.
    dtype = np.result_type(values.dtype, np.asarray(fresh).dtype)
    copy = values.astype(dtype)
    copy[mask] = fresh
    return copy
