"""Kinds of values, and values at their full width."""

from datetime import date, datetime
from math import inf
from numbers import Integral, Real
from typing import Any, Literal, TypeAlias, get_args

__all__ = ["INFINITIES", "KINDS", "Kind", "kind_of_type", "moments", "plain_number"]

Kind: TypeAlias = Literal["any", "bool", "bytes", "date", "datetime", "float", "int", "str"]

KINDS: tuple[str, ...] = get_args(Kind)
INFINITIES = frozenset({inf, -inf})
_KNOWN: dict[type[Any], Kind] = {bool: "bool", float: "float", int: "int", str: "str"}


def kind_of_type(cls: type[Any]) -> Kind:
    """Kind of the values of ``cls``; scalars of numpy count without importing numpy.

    Examples
    --------
    >>> kind_of_type(bool), kind_of_type(int), kind_of_type(complex)
    ('bool', 'int', 'any')
    """
    kind = _KNOWN.get(cls)
    if kind is None:
        kind = _look_up(cls)
        # Types made at run time must not fill memory.
        if len(_KNOWN) < 1024:
            _KNOWN[cls] = kind
    return kind


def _look_up(cls: type[Any]) -> Kind:
    if issubclass(cls, bool) or (cls.__module__ == "numpy" and cls.__name__ in {"bool", "bool_"}):
        return "bool"
    if cls.__name__ == "timedelta64":
        # Numpy counts it among its whole numbers; nothing can be compared with it.
        return "any"
    ladder: tuple[tuple[type[Any], Kind], ...] = (
        (Integral, "int"),
        (Real, "float"),
        (str, "str"),
        (bytes, "bytes"),
        (datetime, "datetime"),
        (date, "date"),
    )
    for parent, kind in ladder:
        if issubclass(cls, parent):
            return kind
    return "datetime" if cls.__name__ == "datetime64" else "any"


def plain_number(value: Any) -> Any:
    """``value`` at full width: Python's own number for a scalar of numpy.

    A narrow float would round the bounds it is compared with to its own width, and a large
    bound to infinity; even one of 64 bits rounds whole numbers.

    Examples
    --------
    >>> plain_number(0.5)
    0.5
    """
    if isinstance(value, float):
        # Ten times as fast as to ask a number of numpy for its item.
        return float(value)
    if isinstance(value, int) or not hasattr(value, "item"):
        return value
    return value.item()


def moments(value: Any, bound: date) -> tuple[Any, Any] | None:
    """``value`` and ``bound`` as two moments that can be compared, or None.

    A moment with a time zone and one without cannot; a ``datetime64`` of numpy has none.

    Examples
    --------
    >>> moments(datetime(2024, 1, 2), datetime(2024, 1, 1)) is not None
    True
    """
    if _zoned(bound):
        return (value, bound) if _zoned(value) else None
    if type(value).__name__ == "datetime64":
        import numpy as np

        return value.astype("datetime64[us]"), np.datetime64(bound, "us")
    return None if _zoned(value) else (value, bound)


def _zoned(moment: Any) -> bool:
    # A ``tzinfo`` may say that it has no offset: such a moment compares as one without.
    return getattr(moment, "tzinfo", None) is not None and moment.utcoffset() is not None
