"""The accepting path of a schema: good rows pass without a line of Python a field.

A schema sees many good rows and few bad ones, and good rows look alike: their values have
the same types in the same places.  The first row of a new pattern of types is judged field
by field; from its types follows a *plan*, the comparisons that are left to make for such
rows, and loops written in C make them.  A row that a plan does not accept is judged field
by field again.  It may refuse a good row; it must never accept a bad one.
"""

from collections.abc import Callable, Mapping, Sequence
from operator import contains, ge, itemgetter, le
from sys import float_info
from typing import Any, TypeAlias

from prodml.types import MISS, Features, Miss
from prodml.validation.field import Field, kind_of_type

__all__ = ["FastPath"]

_MAX_PLANS = 256
_STEADY = frozenset({bool, bytes, dict, int, list, set, str, tuple})
_Values: TypeAlias = tuple[Any, ...]
_Getter: TypeAlias = Callable[[Any], _Values]


class _Plan:
    """Comparisons that rows of one pattern of types still need."""

    __slots__: tuple[str, ...] = ("_highs", "_levels", "_listed", "_lows", "_ranged", "present")

    def __init__(
        self,
        ranged: Mapping[int, tuple[float, float]],
        listed: Mapping[int, frozenset[Any]],
        present: int,
    ) -> None:
        self.present: int = present
        self._ranged: _Getter = _getter(tuple(ranged))
        self._lows: _Values = tuple(low for low, _ in ranged.values())
        self._highs: _Values = tuple(high for _, high in ranged.values())
        self._listed: _Getter = _getter(tuple(listed))
        self._levels: _Values = tuple(listed.values())

    def accepts(self, values: _Values) -> bool:
        numbers = self._ranged(values)
        # NaN fails both comparisons.
        return (
            all(map(le, self._lows, numbers))
            and all(map(ge, self._highs, numbers))
            and all(map(contains, self._levels, self._listed(values)))
        )


class FastPath:
    """Tells at once that a row surely is acceptable as it stands.

    Examples
    --------
    >>> path = FastPath({"age": Field(int, minimum=0)}, "allow")
    >>> path({"age": 3})
    False
    >>> path.learn({"age": 3})
    >>> path({"age": 4}), path({"age": -4}), path({"age": "4"}), path({})
    (True, False, False, False)
    """

    __slots__: tuple[str, ...] = ("_closed", "_fields", "_get", "_names", "_optional", "_plans")

    def __init__(self, fields: Mapping[str, Field], extra: str) -> None:
        self._fields: tuple[Field, ...] = tuple(fields.values())
        self._names: tuple[str, ...] = tuple(fields)
        self._get: _Getter = _getter(self._names)
        self._optional: bool = not all(field.required for field in self._fields)
        self._closed: bool = extra != "allow"
        self._plans: dict[tuple[type, ...], _Plan | None] = {}

    def __call__(self, row: Any) -> bool:
        """Whether ``row`` is a plain dict that fits a plan."""
        # A ``defaultdict`` would make up the fields it lacks.
        if type(row) is not dict:
            return False
        try:
            values = self._get(row)
        except KeyError:
            if not self._optional:
                return False
            values = self._with_gaps(row)
        plan = self._plans.get(tuple(map(type, values)))
        if plan is None or (self._closed and len(row) != plan.present):
            return False
        return plan.accepts(values)

    def _with_gaps(self, row: Features) -> _Values:
        return tuple([row.get(name, MISS) for name in self._names])

    def learn(self, row: Features) -> None:
        """Make a plan for rows whose values have the types of ``row``, which is acceptable."""
        types = tuple(map(type, self._with_gaps(row)))
        if types not in self._plans and len(self._plans) < _MAX_PLANS:
            self._plans[types] = _plan(self._fields, types)


def _plan(fields: Sequence[Field], types: Sequence[type]) -> _Plan | None:
    """Comparisons that the types leave open; None if the types settle too little."""
    ranged: dict[int, tuple[float, float]] = {}
    listed: dict[int, frozenset[Any]] = {}
    for index, (field, cls) in enumerate(zip(fields, types, strict=True)):
        if cls is Miss or (cls is type(None) and field.nullable):
            continue
        if not _settled(field, cls):
            return None
        if kind_of_type(cls) in {"float", "int"} and _ranged(field, cls):
            low = -float_info.max if field.minimum is None else field.minimum
            high = float_info.max if field.maximum is None else field.maximum
            ranged[index] = (low, high)
        if field.categories is not None:
            listed[index] = frozenset(field.categories)
    return _Plan(ranged, listed, present=sum(cls is not Miss for cls in types))


def _settled(field: Field, cls: type) -> bool:
    kind = kind_of_type(cls)
    if kind == "datetime" and cls.__name__ in {"NaTType", "datetime64"}:
        return False
    # A narrow float of numpy would round the bounds to its own width, infinity included.
    if kind == "float" and not issubclass(cls, float):
        return False
    if field.kind == "any":
        return cls in _STEADY and field.categories is None
    return field.kind == kind or (field.kind == "float" and kind == "int")


def _ranged(field: Field, cls: type) -> bool:
    # Floats may be NaN or infinite; ints need a look only if there are bounds.
    bounded = field.minimum is not None or field.maximum is not None
    return bounded or (field.kind == "float" and kind_of_type(cls) == "float")


def _getter(keys: Sequence[Any]) -> _Getter:
    if len(keys) > 1:
        return itemgetter(*keys)
    if keys:
        key = keys[0]
        return lambda values: (values[key],)
    return lambda _: ()
