"""What one feature may look like."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, fields
from datetime import date, datetime
from math import ceil, floor, inf
from numbers import Integral, Real
from typing import Any, Literal, TypeAlias, get_args

from prodml.errors import BadConfiguration
from prodml.types import MISS, is_missing

__all__ = ["Action", "Field", "Kind", "Rule", "breach", "kind_of_type"]

Kind: TypeAlias = Literal["any", "bool", "bytes", "date", "datetime", "float", "int", "str"]
Rule: TypeAlias = Literal["missing", "type", "finite", "range", "category", "extra"]
Action: TypeAlias = Literal["reject", "clip", "impute", "warn", "drop"]

KINDS: tuple[str, ...] = get_args(Kind)
RULES: tuple[Rule, ...] = ("missing", "type", "finite", "range", "category")
ACTIONS: tuple[str, ...] = ("reject", "clip", "impute", "warn")
_INFINITIES = frozenset({inf, -inf})
_RANGED = frozenset({"float", "int"})
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


@dataclass(frozen=True, slots=True)
class Field:
    """What one feature may look like, and what to do when it does not.

    A value breaks at most one rule, the first of: ``missing`` (absent, None, NaN), ``type``,
    ``finite`` (infinite), ``range``, ``category``.

    Parameters
    ----------
    kind
        ``"float"``, ``"int"``, ``"bool"``, ``"str"``, ``"bytes"``, ``"datetime"``, ``"date"`` or
        ``"any"``; the Python type does as well.  An int is a float; ``3.0`` is an int; a bool
        is neither; ``Decimal`` is not a float.
    required
        Whether the row must have the field.
    nullable
        Whether None and NaN (NaT, NA) are welcome.
    minimum, maximum
        Smallest and largest value allowed, of numbers only.
    categories
        The values allowed; None allows all.
    default
        What ``impute`` puts in; must itself be acceptable.
    on
        Action by rule: ``"reject"`` (the default of all), ``"clip"`` (``range``, ``finite``),
        ``"impute"`` or ``"warn"`` (accept and count).  Goes before the schema's own ``on``.
    null_share
        Share of nulls in the reference, 0..1; carried for comparison, not checked on a row.

    Raises
    ------
    BadConfiguration
        An unknown kind, rule or action, an empty range, an action that cannot be carried
        out, or a default that the field itself would refuse.

    Examples
    --------
    >>> Field(float, minimum=0, maximum=120, on={"range": "clip"}).kind
    'float'
    """

    kind: Kind | type[Any] = "any"
    _: KW_ONLY
    required: bool = True
    nullable: bool = False
    minimum: float | None = None
    maximum: float | None = None
    categories: Sequence[Any] | None = None
    default: Any = MISS
    on: Mapping[Rule, Action] = field(default_factory=dict[Rule, Action])
    null_share: float = 0.0

    def __post_init__(self) -> None:
        self._set(kind=_named(self.kind), on=dict(self.on))
        self._normalise_range()
        if self.categories is not None:
            if isinstance(self.categories, str):
                raise BadConfiguration("categories must be a sequence of values, not one text")
            self._set(categories=tuple(self.categories))
            if not all(isinstance(level, Hashable) for level in self.categories):
                raise BadConfiguration("categories must be hashable values")
        if not 0.0 <= self.null_share <= 1.0:
            raise BadConfiguration(f"null_share is a share, 0 to 1, not {self.null_share!r}")
        for rule, action in self.on.items():
            self._refuse_action(rule, action)
        if self.default is not MISS and (broken := breach(self, self.default)) is not None:
            raise BadConfiguration(
                f"default {self.default!r} breaks {broken}: expected {self.expected(broken)}"
            )

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def _normalise_range(self) -> None:
        bounds = {"minimum": self.minimum, "maximum": self.maximum}
        given = {name: bound for name, bound in bounds.items() if bound is not None}
        if given and self.kind not in _RANGED:
            raise BadConfiguration(f"minimum and maximum need kind float or int, not {self.kind!r}")
        for name, bound in given.items():
            self._set(**{name: self._plain_bound(name, bound)})
        if len(given) == 2 and given["minimum"] > given["maximum"]:
            raise BadConfiguration(f"minimum {self.minimum} is above maximum {self.maximum}")

    def _plain_bound(self, name: str, bound: Any) -> float:
        number = kind_of_type(type(bound)) in _RANGED
        if not number or is_missing(bound) or bound in _INFINITIES:
            raise BadConfiguration(f"{name} must be a finite number or None, not {bound!r}")
        if isinstance(bound, Integral):
            return int(bound)
        if self.kind == "int":
            return int(ceil(bound) if name == "minimum" else floor(bound))
        return float(bound)

    def _refuse_action(self, rule: Rule, action: Action) -> None:
        if rule not in RULES:
            raise BadConfiguration(f"on: unknown rule {rule!r}; known: {', '.join(RULES)}")
        if action not in ACTIONS:
            raise BadConfiguration(f"on: unknown action {action!r}; known: {', '.join(ACTIONS)}")
        if not self.can(rule, action):
            needs = "a default" if action == "impute" else "range or finite, and bounds to clip to"
            raise BadConfiguration(f"on[{rule!r}]: {action} needs {needs}")

    def can(self, rule: Rule, action: Action) -> bool:
        """Whether ``action`` is possible for ``rule`` with this field's settings.

        Examples
        --------
        >>> Field(float, minimum=0).can("range", "clip"), Field(float).can("missing", "impute")
        (True, False)
        """
        if action == "impute":
            return self.default is not MISS
        if action == "clip":
            bounds = (self.minimum, self.maximum)
            missing = bounds.count(None)
            return (rule == "range" and missing < 2) or (rule == "finite" and missing == 0)
        return True

    def clip(self, value: Any) -> Any:
        """``value`` moved to the nearest bound.

        Examples
        --------
        >>> Field(float, minimum=0, maximum=1).clip(7.0)
        1
        """
        if self.minimum is not None and value < self.minimum:
            return self.minimum
        if self.maximum is not None and value > self.maximum:
            return self.maximum
        return value

    def expected(self, rule: str) -> str:
        """What ``rule`` asks of this field, in words.

        Examples
        --------
        >>> Field(int, minimum=1).expected("range")
        'at least 1'
        """
        if rule == "range":
            return _range_text(self.minimum, self.maximum)
        if rule == "category":
            return _levels_text(self.categories or ())
        words = {"missing": "a value", "finite": "a finite number", "extra": "no such field"}
        return words.get(rule, str(self.kind))

    def to_dict(self) -> dict[str, Any]:
        """Settings that differ from the default, ready for JSON.

        Examples
        --------
        >>> Field("str", categories=("a", "b")).to_dict()
        {'kind': 'str', 'categories': ['a', 'b']}
        """
        blank = Field(self.kind)
        told = {f.name: getattr(self, f.name) for f in fields(self)}
        told = {k: v for k, v in told.items() if k == "kind" or v != getattr(blank, k)}
        if self.categories is not None:
            told["categories"] = list(self.categories)
        return told


def _named(kind: Kind | type[Any]) -> Kind:
    name = kind_of_type(kind) if isinstance(kind, type) else kind
    if name not in KINDS:
        raise BadConfiguration(f"unknown kind {kind!r}; known: {', '.join(KINDS)}")
    if name == "any" and isinstance(kind, type) and kind is not object:
        raise BadConfiguration(f"no kind for {kind!r}; known: {', '.join(KINDS)}")
    return name


def _range_text(minimum: float | None, maximum: float | None) -> str:
    if minimum is None:
        return f"at most {maximum}"
    return f"at least {minimum}" if maximum is None else f"{minimum} to {maximum}"


def _levels_text(levels: Sequence[Any]) -> str:
    shown = ", ".join(repr(level) for level in levels[:5])
    return f"one of {shown}" + (f", ... ({len(levels)})" if len(levels) > 5 else "")


def breach(field: Field, value: Any) -> Rule | None:
    """Rule that ``value`` breaks, or None.

    Examples
    --------
    >>> breach(Field(float, maximum=1), 3), breach(Field(int), True), breach(Field(int), 0)
    ('range', 'type', None)
    """
    if is_missing(value):
        allowed = not field.required if value is MISS else field.nullable
        return None if allowed else "missing"
    kind = field.kind
    if kind != "any":
        found = kind_of_type(type(value))
        if found != kind and not _welcome(kind, found, value):
            return "type"
        if kind in _RANGED and (rule := _number_breach(field, value)) is not None:
            return rule
    if field.categories is not None and not _listed(value, field.categories):
        return "category"
    return None


def plain_number(value: Any) -> Any:
    """``value`` at full width: Python's own number for a scalar of numpy.

    A narrow float would round the bounds it is compared with to its own width, and a large
    bound to infinity.

    Examples
    --------
    >>> plain_number(0.5)
    0.5
    """
    if isinstance(value, (float, int)) or not hasattr(value, "item"):
        return value
    return value.item()


def _number_breach(field: Field, value: Any) -> Rule | None:
    value = plain_number(value)
    if value in _INFINITIES:
        return "finite"
    below = field.minimum is not None and value < field.minimum
    above = field.maximum is not None and value > field.maximum
    return "range" if below or above else None


def _welcome(kind: Kind | type[Any], found: Kind, value: Any) -> bool:
    if kind == "float":
        return found == "int"
    if kind == "int":
        return found == "float" and value not in _INFINITIES and value == int(value)
    return kind == "date" and type(value).__name__ == "datetime64"


def _listed(value: Any, categories: Sequence[Any]) -> bool:
    try:
        return value in categories
    except ValueError:  # an array has no single truth
        return False
