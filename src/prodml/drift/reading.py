"""What a raw column counts as: one name for each level, one sort for all values.

The same rows in another order, in parts, or from another engine must give the same counts to
the last bit; so what names a level, and what is of a wrong type, must not hang on which row
came first.
"""

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import date, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any

import numpy as np

from prodml.drift.sample import MOST_LEVELS, Levels, kind_of, levels_of, sort_of
from prodml.drift.table import Column
from prodml.types import is_missing

__all__ = ["capped", "levels_in", "of_one_sort", "sum_of_levels"]

_NUMBERS = {bool, int, float, Decimal}
_COUNTABLE = {"boolean", "number", "duration"}
_WRONG = object()
# Beyond, floats skip integers.
_WHOLE = 2.0**53


def _item(level: Any) -> Any:
    plain = level.item()
    # Nanoseconds come as bare integers.
    return level if level.dtype.kind in "mM" and isinstance(plain, int) else plain


# What a member of an enumeration, a Timestamp or a scalar of numpy is besides.
_PLAIN: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (np.generic, _item),
    (str, str.__str__),
    (int, int),
    (float, float),
    (bytes, bytes),
    (Decimal, Decimal),
    (datetime, lambda level: datetime.fromisoformat(level.isoformat())),
    (date, lambda level: date.fromisoformat(level.isoformat())),
)


def levels_in(column: Column) -> Levels:
    """Levels of ``column``; more than can be counted are an identifier, however they come.

    Whole floats are named like integers: a code is the same with and without gaps.  Where
    truth values stand among other numbers, they are named as numbers.

    Examples
    --------
    >>> levels_in([1.0, 2.0, None]).counts, levels_in([True, False]).counts
    ({1: 1, 2: 1}, {True: 1, False: 1})
    >>> levels_in([True, 1, 0.0]).counts
    {1: 2, 0: 1}
    """
    found = levels_of(column)
    types = set(map(type, column if isinstance(column, list) else found.counts))
    return capped(_named(found, types))


def sum_of_levels(a: Levels, b: Levels) -> Levels:
    """Both together, with the same names in any order.

    Examples
    --------
    >>> sum_of_levels(levels_in([True]), levels_in([1])).counts
    {1: 2}
    """
    types = {*map(type, a.counts), *map(type, b.counts)}
    return _named(a, types) + _named(b, types)


def capped(levels: Levels) -> Levels:
    """Too many levels to count are none: only the rows are known.

    Examples
    --------
    >>> capped(levels_in(["a", "b"])).counts
    {'a': 1, 'b': 1}
    """
    if len(levels.counts) <= MOST_LEVELS:
        return levels
    return Levels({}, levels.rows, levels.missing, rest=levels.size)


def _named(levels: Levels, types: set[type]) -> Levels:
    numbers = set(map(_base, types)) & _NUMBERS
    mixed = len(numbers) > 1
    if not mixed and float not in numbers and all(_base(cls) is cls for cls in types):
        return levels
    counts = Counter[Any]()
    for level, count in levels.counts.items():
        plain = _plain(level)
        counts[_number(plain) if mixed or type(plain) is float else plain] += count
    return replace(levels, counts=dict(counts))


@lru_cache(maxsize=1024)
def _base(cls: type) -> type:
    """The plain type that values of ``cls`` are of besides."""
    if issubclass(cls, np.generic):
        return type(np.zeros((), cls).item())
    return next((base for base, _ in _PLAIN if issubclass(cls, base) and cls is not bool), cls)


def _plain(level: Any) -> Any:
    cls: Any = type(level)
    base = _base(cls)
    if base is cls:
        return level
    plain = next(make for kind, make in _PLAIN if issubclass(cls, kind))(level)
    return plain if plain == level else level


def _number(level: Any) -> Any:
    """The plainest number that equals ``level``, if it is one."""
    if type(level) not in _NUMBERS:
        return level
    if -_WHOLE <= level <= _WHOLE and level == int(level):
        return int(level)
    with suppress(OverflowError):
        return float(level) if float(level) == level else level
    return level


def of_one_sort(column: Column, *, times: bool | None = None) -> Column:
    """``column`` with numbers among times, or times among numbers, marked as of a wrong type.

    ``times`` says what is right; by default, what most values are.

    Examples
    --------
    >>> from datetime import date
    >>> marked = of_one_sort([1.0, 2.0, date(2026, 1, 1)])
    >>> marked[:2], sort_of(type(marked[2]))
    ([1.0, 2.0], 'other')
    """
    if not isinstance(column, list):
        return column
    sorts = {cls: sort_of(cls) for cls in set(map(type, column))}
    if not ("time" in sorts.values() and _COUNTABLE & set(sorts.values())):
        return column
    if times is None:
        times = kind_of(column) == "time"
    wrong = _COUNTABLE if times else {"time"}
    return [
        _WRONG if sorts[type(value)] in wrong and not is_missing(value) else value
        for value in column
    ]
