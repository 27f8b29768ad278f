"""Many rows against the same fields, a column at a time."""

from collections.abc import Callable, Mapping
from datetime import date
from math import ceil, floor, inf, nextafter
from sys import float_info
from typing import Any, TypeAlias, cast

from prodml.types import MISS
from prodml.validation.columns import Column, Mask, Table, Texts
from prodml.validation.expression import EXACT
from prodml.validation.field import Action, Field, RuleName, breach
from prodml.validation.kinds import kind_of_type
from prodml.validation.policy import REFUSALS

__all__ = ["Found", "amend", "column_breaches", "judge"]

Found: TypeAlias = dict[tuple[str, RuleName], Mask]
ActionFor: TypeAlias = Callable[[str, RuleName], Action]

_NUMERIC = "fiub"
_MOMENTS = frozenset({"date", "datetime"})


def judge(table: Table, fields: Mapping[str, Field], extra: str) -> Found:
    """Rows that break each rule of each field; only those with at least one.

    Examples
    --------
    >>> from prodml.validation.columns import table_of
    >>> list(judge(table_of({"a": [1, None]}), {"a": Field(int)}, "allow"))
    [('a', 'missing')]
    """
    import numpy as np

    found: Found = {}
    present = frozenset(table.names)
    for name, wanted in fields.items():
        if name in present:
            texts = table.texts(name)
            if texts is not None:
                masks = _text_breaches(wanted, texts)
            else:
                ask = table.column if wanted.categories is not None else table.quick
                masks = column_breaches(wanted, *ask(name))
            found.update({(name, rule): mask for rule, mask in masks.items() if mask.any()})
        elif wanted.required and table.n_rows:
            found[name, "missing"] = np.ones(table.n_rows, dtype=bool)
    if extra != "allow" and table.n_rows:
        for name in table.names:
            if name not in fields:
                found[name, "extra"] = np.ones(table.n_rows, dtype=bool)
    return found


def _text_breaches(wanted: Field, texts: Texts) -> dict[RuleName, Mask]:
    bad: dict[RuleName, list[Any]] = {}
    for level in texts.levels:
        rule = breach(wanted, level)
        if rule is not None:
            bad.setdefault(rule, []).append(level)
    return {rule: texts.rows(levels) for rule, levels in bad.items()}


def column_breaches(wanted: Field, values: Column, kind: Any = None) -> dict[RuleName, Mask]:
    """Mask of the rows that break each rule of ``wanted``.

    Examples
    --------
    >>> column_breaches(Field(int, minimum=0), [3, -1])["range"].tolist()
    [False, True]
    """
    if not isinstance(values, list):
        if values.dtype.kind in _NUMERIC:
            judged = _numeric_breaches if wanted.categories is None else _level_breaches
            return judged(wanted, values, kind)
        if values.dtype.kind == "M" and wanted.categories is None:
            return _moment_breaches(wanted, values, kind)
        # Nanoseconds would become plain ints as a list.
        stamps = values.dtype.kind in "mM"
        values = list(values) if stamps else cast("list[Any]", values.tolist())
    return _masks(_listed_breaches(wanted, values))


def _masks(rules: list[RuleName | None]) -> dict[RuleName, Mask]:
    import numpy as np

    masks: dict[RuleName, Mask] = {}
    for rule in frozenset(rules):
        if rule is not None:
            masks[rule] = np.array([found == rule for found in rules], dtype=np.bool_)
    return masks


def _level_breaches(wanted: Field, values: Any, _: Any) -> dict[RuleName, Mask]:
    """One look a distinct number."""
    import numpy as np

    levels, where = np.unique(values, return_inverse=True)
    masks = _masks([breach(wanted, level) for level in levels.tolist()])
    return {rule: mask[where] for rule, mask in masks.items()}


def _listed_breaches(wanted: Field, values: list[Any]) -> list[RuleName | None]:
    classes = frozenset(map(type, values))
    # One look a distinct text: equal texts fare alike, which numbers of two types may not.
    if classes <= {str, type(None)}:
        verdict: dict[Any, RuleName | None] = {
            value: breach(wanted, value) for value in frozenset(values)
        }
        if not any(verdict.values()):
            return []
        return [verdict[value] for value in values]
    return [breach(wanted, value) for value in values]


def _numeric_breaches(wanted: Field, values: Any, kind: Any) -> dict[RuleName, Mask]:
    import numpy as np

    nothing = np.zeros(len(values), dtype=bool)
    found = kind or kind_of_type(values.dtype.type)
    floating = values.dtype.kind == "f"
    if floating and values.dtype.itemsize < 8:
        # A narrow float would round the bounds to its own width, infinity included.
        values = values.astype(np.float64)
    if _all_fine(wanted, values, found):
        return {}
    null = np.isnan(values) if floating else nothing
    infinite = np.isinf(values) if floating else nothing
    masks: dict[RuleName, Mask] = {} if wanted.nullable else {"missing": null}
    if wanted.kind == "any":
        return masks
    wrong = masks["type"] = _wrong(wanted, values, found, ~null)
    if wanted.kind not in {"float", "int"}:
        # Its bounds, if any, are moments, which no number can be compared with.
        return masks
    if wanted.kind == "float":
        masks["finite"] = infinite & ~wrong
    masks["range"] = _outside(wanted, values) & ~wrong & ~infinite
    return masks


def _wrong(wanted: Field, values: Any, found: str, known: Any) -> Any:
    import numpy as np

    if wanted.kind == "int" and values.dtype.kind == "f":
        return known & (np.isinf(values) | (values != np.trunc(values)))
    return known & (found not in {wanted.kind, "int" if wanted.kind == "float" else ""})


def _all_fine(wanted: Field, values: Any, found: str) -> bool:
    """Whether the extremes alone show that every number is welcome."""
    if found not in {"int", wanted.kind} or wanted.kind not in {"float", "int"} or not len(values):
        return False
    low, high = _bounds(wanted, values)
    low = -float_info.max if low is None and found == "float" else low
    high = float_info.max if high is None and found == "float" else high
    # NaN comes through as an extreme, and fails both comparisons.
    above = low is None or bool(values.min() >= low)
    return above and (high is None or bool(values.max() <= high))


def _moment_breaches(wanted: Field, values: Any, kind: Any) -> dict[RuleName, Mask]:
    import numpy as np

    null = np.isnat(values)
    masks: dict[RuleName, Mask] = {} if wanted.nullable else {"missing": null}
    bounds = (wanted.minimum, wanted.maximum)
    zoned = any(getattr(bound, "tzinfo", None) is not None for bound in bounds)
    # An array of numpy does not say whether days are meant or moments.
    if wanted.kind not in {"any", *({kind} if kind else _MOMENTS)} or zoned:
        return {**masks, "type": ~null}
    moments = values.astype("datetime64[us]")
    outside = np.zeros(len(values), dtype=np.bool_)
    if wanted.minimum is not None:
        outside |= moments < _stamp(wanted.minimum)
    if wanted.maximum is not None:
        outside |= moments > _stamp(wanted.maximum)
    return {**masks, "range": outside & ~null}


def _stamp(bound: date) -> Any:
    import numpy as np

    return np.datetime64(bound, "us")


def _outside(wanted: Field, values: Any) -> Mask:
    import numpy as np

    outside = np.zeros(len(values), dtype=np.bool_)
    low, high = _bounds(wanted, values)
    if low is not None:
        outside |= values < low
    if high is not None:
        outside |= values > high
    return outside


def _bounds(wanted: Field, values: Any) -> tuple[Any, Any]:
    """Bounds of the column's own sort: an array would round whole numbers to floats, or back."""
    low, high = wanted.minimum, wanted.maximum
    if values.dtype.kind in "iu":
        return (None if low is None else ceil(low), None if high is None else floor(high))
    return _float_beside(low, inf), _float_beside(high, -inf)


def _float_beside(bound: Any, way: float) -> Any:
    """The float nearest to ``bound``, from ``bound`` on in the direction ``way``."""
    if not isinstance(bound, int) or abs(bound) <= EXACT:
        return bound
    if abs(bound) > float_info.max:
        return inf if bound > 0 else -inf
    wide = float(bound)
    short = wide < bound if way > 0 else wide > bound
    return nextafter(wide, way) if short else wide


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
        if act in REFUSALS:
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
        return wanted.clip(value) if act == "clip" else wanted.filled()

    if not isinstance(values, list) and values.dtype.kind == "M":
        stamps = _stamped(values, mask, [put(value) for value in values[mask]])
        if stamps is not None:
            return stamps
    if isinstance(values, list) or values.dtype.kind not in _NUMERIC:
        pairs = zip(values, mask, strict=True)
        return [put(value) if hit else value for value, hit in pairs]
    return _filled(values, mask, [put(value) for value in values[mask].tolist()])


def _filled(values: Any, mask: Mask, fresh: list[Any]) -> Column:
    """Numbers with ``fresh`` where ``mask`` is true."""
    import numpy as np

    added = np.asarray(fresh).dtype
    if added.kind not in _NUMERIC:
        # A text among numbers must not make texts of the numbers.
        listed = cast("list[Any]", values.astype(object).tolist())
        for index, value in zip(mask.nonzero()[0].tolist(), fresh, strict=True):
            listed[index] = value
        return listed
    # A bound or default of another type (0.5 into ints) must widen the column, not be cut.
    copy = values.astype(np.result_type(values.dtype, added))
    copy[mask] = fresh
    return cast("Column", copy)


def _stamped(values: Any, mask: Mask, fresh: list[Any]) -> "Column | None":
    """``values`` with ``fresh`` where ``mask`` is true, if an array of moments can hold them."""
    import numpy as np

    if any(not isinstance(each, date) or getattr(each, "tzinfo", None) for each in fresh):
        return None
    stamps = np.array(fresh, dtype="datetime64[us]")
    copy = values.astype(np.result_type(values.dtype, stamps.dtype))
    copy[mask] = stamps
    # Nanoseconds reach from 1677 to 2262 only.
    return copy if (copy[mask].astype(stamps.dtype) == stamps).all() else None
