"""Answers of a batch: take them apart, and put kept ones together just as they were.

A row's answer may have been written by another process or by a function for single rows.
It is never bent to fit: what does not come out exactly as it went in is an error here, and
for the caller a reason to ask the function.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple, TypeAlias

from prodml.cache.arrays import array_of, elements, is_array
from prodml.cache.series import EITHER, put_together, taken_apart

__all__ = ["Column", "Kind", "agreed", "assemble", "column_of", "is_kind"]

Kind: TypeAlias = tuple[Any, ...]
"""What answers came in: ``(container, ...)``, of plain values that can be stored."""

# Parts of a kind, by container; that of an array ends with its shape.
_PARTS: Final[dict[str, tuple[type, ...]]] = {
    "list": (),
    "tuple": (),
    "array": (str,),
    "series": (str, str, object, str),
    "frame": (str, tuple, tuple, str),
}


class Column(NamedTuple):
    """Answers of a batch: what they came in, and one value a row."""

    kind: Kind
    values: Sequence[Any]


def column_of(result: Any, count: int, index: Any = None) -> Column | None:
    """``result`` taken apart into ``count`` values, or None if it is not one value a row.

    ``index`` are the labels of the rows, if they have any.

    Examples
    --------
    >>> column_of([1, 2], 2), column_of([1, 2], 3), column_of("ab", 2)
    (Column(kind=('list',), values=[1, 2]), None, None)
    """
    if type(result) in {list, tuple}:
        return Column((type(result).__name__,), list(result)) if len(result) == count else None
    if is_array(result):
        if not result.ndim or len(result) != count or result.dtype.kind == "V":
            return None
        # Text is as wide as its longest: another batch may have a longer one.
        text = result.dtype.kind if result.dtype.kind in "US" else result.dtype.str
        return Column(("array", text, *result.shape[1:]), elements(result))
    try:
        found = taken_apart(result, count, index)
    except Exception:
        # A dtype without a name, or values that do not come out as they went in.
        return None
    return None if found is None else Column(*found)


def is_kind(value: Any) -> bool:
    """Whether ``value``, read from a store, may be the kind of a column.

    Examples
    --------
    >>> is_kind(("list",)), is_kind(("series",)), is_kind("list")
    (True, False, False)
    """
    if type(value) is not tuple or not value or type(value[0]) is not str:
        return False
    parts, given = _PARTS.get(value[0]), value[1:]
    if parts is None or len(given) < len(parts):
        return False
    if not all(map(isinstance, given[: len(parts)], parts)):
        return False
    shape = given[len(parts) :]
    if value[0] != "array":
        return not shape
    return all(type(size) is int and size >= 0 for size in shape)


def agreed(known: Kind, new: Kind) -> Kind | None:
    """The kind that both are, or None; whoever knows where labels come from is right.

    Examples
    --------
    >>> agreed(("list",), ("list",)), agreed(("list",), ("tuple",))
    (('list',), None)
    """
    if known == new:
        return known
    if known[0] == new[0] and known[0] in {"series", "frame"} and known[:-1] == new[:-1]:
        if known[-1] == EITHER:
            return new
        if new[-1] == EITHER:
            return known
    return None


def assemble(kind: Kind, values: Sequence[Any], index: Any = None) -> Any:
    """Container of ``kind`` with ``values``; one of pandas may get ``index``.

    Raises
    ------
    Exception
        A value does not fit.

    Examples
    --------
    >>> assemble(("tuple",), [1, 2])
    (1, 2)
    >>> assemble(("array", "<i8"), [1, 0.7])
    Traceback (most recent call last):
        ...
    ValueError: a value that is no int64
    """
    if kind[0] == "array":
        return array_of(kind[1], kind[2:], values)
    if kind[0] in {"series", "frame"}:
        return put_together(kind, values, index)
    return tuple(values) if kind[0] == "tuple" else list(values)
