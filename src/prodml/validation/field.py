"""What one feature may look like."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import KW_ONLY, dataclass, field, fields
from datetime import date, datetime
from math import ceil, floor
from numbers import Integral
from typing import Any, Literal, TypeAlias, cast, get_args

from prodml.errors import BadConfiguration
from prodml.types import MISS, is_missing
from prodml.validation.kinds import (
    INFINITIES,
    KINDS,
    Kind,
    kind_of_type,
    moments,
    plain_number,
)

__all__ = ["ACTIONS", "ON_RULES", "Action", "Field", "RuleName", "breach"]

RuleName: TypeAlias = Literal[
    "missing",
    "type",
    "finite",
    "range",
    "length",
    "pattern",
    "category",
    "unique",
    "null_share",
    "extra",
    "rule",
    "rule_error",
]
Action: TypeAlias = Literal["reject", "quarantine", "clip", "impute", "warn", "drop"]

ON_RULES: tuple[str, ...] = get_args(RuleName)[:9]
"""Rules of a field, those of whole batches last."""
ACTIONS: tuple[str, ...] = ("reject", "quarantine", "clip", "impute", "warn")
_RANGED = frozenset({"float", "int"})
_NUMBERS = _RANGED | {"bool"}
_MOMENTS = frozenset({"date", "datetime"})
_LONG = frozenset({"bytes", "str"})
_BATCH = frozenset({"null_share", "unique"})


@dataclass(frozen=True, slots=True)
class Field:
    r"""What one feature may look like, and what to do when it does not.

    A value breaks at most one rule, the first of: ``missing`` (absent, None, NaN), ``type``,
    ``finite`` (infinite), ``range``, ``length``, ``pattern``, ``category``.  ``unique`` and
    ``null_share`` are judged on whole batches.

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
        Smallest and largest value allowed, of numbers and moments; a moment may be ISO text.
        A moment without a time zone breaks ``type`` where the bound has one, and the other
        way round.
    min_length, max_length
        Characters of a text, or bytes.
    pattern
        Regular expression that the *whole* text must match (``re.fullmatch``), compiled once.
        A repeat within a repeat, ``(a+)+b`` say, takes twice as long with each character of a
        text that does not match, so that thirty stall a request: no length helps.  Write the
        inner one possessive, ``(a++)+b``.  For all others ``max_length``, which is judged
        first, bounds the time that a text of strangers takes.
    categories
        The values allowed; None allows all.
    unique
        Whether a value may occur once only in a batch.  The second and later ones break the
        rule; nulls do not count.
    max_null_share
        Largest share of nulls in the long run, 0..1, judged on batches: broken when a batch
        holds more nulls than that share explains (exact binomial tail below the schema's
        ``null_alpha``).  Ten nulls in ten rows break 0.1; two do not.
    default
        What ``impute`` puts in; must itself be acceptable.
    on
        Action by rule: ``"reject"`` (the default of all), ``"quarantine"`` (reject and keep
        the row aside), ``"clip"`` (``range``, ``finite``), ``"impute"`` or ``"warn"`` (accept
        and count).  Goes before the schema's own ``on``.
    null_share
        Share of nulls in the reference, 0..1; carried for comparison, not checked.

    Raises
    ------
    BadConfiguration
        An unknown kind, rule or action, an empty range, a pattern that does not compile, an
        action that cannot be carried out, or a default that the field itself would refuse.

    Examples
    --------
    >>> Field(float, minimum=0, maximum=120, on={"range": "clip"}).kind
    'float'
    >>> breach(Field(str, pattern=r"[A-Z]{2}\d+"), "AB12x")
    'pattern'
    """

    kind: Kind | type[Any] = "any"
    _: KW_ONLY
    required: bool = True
    nullable: bool = False
    minimum: Any = None
    maximum: Any = None
    min_length: int | None = None
    max_length: int | None = None
    pattern: str | None = None
    categories: Sequence[Any] | None = None
    unique: bool = False
    max_null_share: float | None = None
    default: Any = MISS
    on: Mapping[RuleName, Action] = field(default_factory=dict[RuleName, Action])
    null_share: float = 0.0
    matcher: re.Pattern[str] | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(cast("Any", self.on), Mapping):
            raise BadConfiguration(f"on is a mapping of rule to action, not {self.on!r}")
        self._set(kind=_named(self.kind), on=dict(self.on))
        self._normalise_range()
        self._normalise_text()
        if self.categories is not None:
            self._set(categories=_levels(self.categories))
        for name in ("null_share", "max_null_share"):
            _refuse_share(name, getattr(self, name))
        if self.kind in _MOMENTS:
            self._read_moments()
        for rule, action in self.on.items():
            self._refuse_action(rule, action)
        self._refuse_default()

    def _refuse_default(self) -> None:
        if self.default is not MISS and (broken := breach(self, self.default)) is not None:
            raise BadConfiguration(
                f"default {self.default!r} breaks {broken}: expected {self.expected(broken)}"
            )

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def _read_moments(self) -> None:
        if isinstance(self.default, str):
            self._set(default=_moment("default", self.kind, self.default))
        if self.categories is not None:
            self._set(categories=tuple(_as_moment(self.kind, each) for each in self.categories))

    def _normalise_range(self) -> None:
        bounds = {"minimum": self.minimum, "maximum": self.maximum}
        given = {name: bound for name, bound in bounds.items() if bound is not None}
        if given and self.kind not in _RANGED | _MOMENTS:
            raise BadConfiguration(
                f"minimum and maximum need kind float, int, date or datetime, not {self.kind!r}"
            )
        for name, bound in given.items():
            plain = _moment if self.kind in _MOMENTS else _bound
            self._set(**{name: plain(name, self.kind, bound)})
        if len(given) < 2:
            return
        zones = {getattr(bound, "tzinfo", None) is None for bound in (self.minimum, self.maximum)}
        if len(zones) == 2:
            raise BadConfiguration("minimum and maximum must both have a time zone, or neither")
        if self.minimum > self.maximum:
            raise BadConfiguration(f"minimum {self.minimum} is above maximum {self.maximum}")

    def _normalise_text(self) -> None:
        low, high = self.min_length, self.max_length
        if (low, high) != (None, None) and self.kind not in _LONG:
            raise BadConfiguration(f"lengths need kind str or bytes, not {self.kind!r}")
        for name in ("min_length", "max_length"):
            _refuse_length(name, getattr(self, name))
        if (low or 0) < 0 or (high is not None and high < (low or 0)):
            raise BadConfiguration(f"no text has a length of at least {low} and at most {high}")
        if self.pattern is not None:
            self._compile(self.pattern)

    def _compile(self, pattern: str) -> None:
        if self.kind != "str" or not isinstance(cast("Any", pattern), str):
            raise BadConfiguration("pattern is a text, for kind str; write flags as (?i)")
        try:
            self._set(matcher=re.compile(pattern))
        except re.error as error:
            raise BadConfiguration(f"pattern {pattern!r} does not compile: {error}") from error

    def _refuse_action(self, rule: RuleName, action: Action) -> None:
        if rule not in ON_RULES:
            raise BadConfiguration(f"on: unknown rule {rule!r}; known: {', '.join(ON_RULES)}")
        if action not in ACTIONS:
            raise BadConfiguration(f"on: unknown action {action!r}; known: {', '.join(ACTIONS)}")
        if not self.can(rule, action):
            clip = "range or finite, bounds to clip to, and no categories"
            needs = {"impute": "a default", "clip": clip}
            raise BadConfiguration(
                f"on[{rule!r}]: {action} needs {needs.get(action, 'a rule about rows')}"
                + (", and is for single values" if rule in _BATCH else "")
            )

    def can(self, rule: RuleName, action: Action) -> bool:
        """Whether ``action`` is possible for ``rule`` with this field's settings.

        Examples
        --------
        >>> Field(float, minimum=0).can("range", "clip"), Field(float).can("missing", "impute")
        (True, False)
        """
        if action == "impute":
            return self.default is not MISS and rule not in _BATCH
        if action == "clip":
            missing = (self.minimum, self.maximum).count(None)
            known = (rule == "range" and missing < 2) or (rule == "finite" and missing == 0)
            # A bound need not be one of the categories.
            return known and self.categories is None
        return action != "quarantine" or rule != "null_share"

    def filled(self) -> Any:
        """The default, for one row: what can be changed is a copy.

        Examples
        --------
        >>> unknown = Field("any", default=[])
        >>> unknown.filled() is unknown.filled()
        False
        """
        default = self.default
        return default if kind_of_type(type(default)) != "any" else deepcopy(default)

    def clip(self, value: Any) -> Any:
        """``value`` moved to the nearest bound.

        Examples
        --------
        >>> Field(float, minimum=0, maximum=1).clip(7.0)
        1
        """
        if self.minimum is not None and _beyond(value, self.minimum, below=True):
            return self.minimum
        if self.maximum is not None and _beyond(value, self.maximum, below=False):
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
        if rule == "length":
            return f"{_range_text(self.min_length, self.max_length)} long"
        if rule == "category":
            return _levels_text(self.categories or ())
        words = {
            "missing": "a value",
            "finite": "a finite number",
            "extra": "no such field",
            "pattern": f"a match of {self.pattern}",
            "unique": "each value once",
            "null_share": f"at most {self.max_null_share} nulls",
        }
        return words.get(rule) or f"{self.kind}{self._zone_text()}"

    def _zone_text(self) -> str:
        bound = self.minimum if self.minimum is not None else self.maximum
        if self.kind != "datetime" or bound is None:
            return ""
        return " without a time zone" if bound.tzinfo is None else " with a time zone"

    def to_dict(self) -> dict[str, Any]:
        """Settings that differ from the default, ready for JSON; moments as ISO text.

        Examples
        --------
        >>> Field("str", categories=("a", "b")).to_dict()
        {'kind': 'str', 'categories': ['a', 'b']}
        """
        blank = Field(self.kind)
        told = {f.name: getattr(self, f.name) for f in fields(self) if f.init}
        told = {k: v for k, v in told.items() if k == "kind" or v != getattr(blank, k)}
        if self.categories is not None:
            told["categories"] = list(self.categories)
        if self.kind in _MOMENTS:
            # Of another kind a text would come back as a text.
            told = {name: _as_text(value) for name, value in told.items()}
        if "on" in told:
            told["on"] = dict(self.on)
        return told


def _named(kind: Kind | type[Any]) -> Kind:
    name = kind_of_type(kind) if isinstance(kind, type) else kind
    if name not in KINDS:
        raise BadConfiguration(f"unknown kind {kind!r}; known: {', '.join(KINDS)}")
    if name == "any" and isinstance(kind, type) and kind is not object:
        raise BadConfiguration(f"no kind for {kind!r}; known: {', '.join(KINDS)}")
    return name


def _levels(categories: Any) -> tuple[Any, ...]:
    if isinstance(categories, str) or not isinstance(categories, Iterable):
        raise BadConfiguration(f"categories must be a sequence of values, not {categories!r}")
    given: Iterable[Any] = categories
    levels = tuple(given)
    try:
        frozenset(levels)
    except TypeError as error:
        # A tuple with a list in it calls itself hashable.
        raise BadConfiguration("categories must be hashable values") from error
    return levels


def _refuse_share(name: str, share: Any) -> None:
    if share is not None and not (_is_number(share) and 0.0 <= share <= 1.0):
        raise BadConfiguration(f"{name} is a share, 0 to 1, not {share!r}")


def _refuse_length(name: str, length: Any) -> None:
    if length is not None and kind_of_type(type(length)) != "int":
        raise BadConfiguration(f"{name} must be a whole number or None, not {length!r}")


def _as_moment(kind: Any, level: Any) -> Any:
    try:
        return _moment("categories", kind, level) if isinstance(level, str) else level
    except BadConfiguration:
        # No moment is equal to it.
        return level


def _as_text(value: Any) -> Any:
    if isinstance(value, list):
        each: list[Any] = value
        return [_as_text(level) for level in each]
    return value.isoformat() if isinstance(value, date) else value


def _is_number(value: Any) -> bool:
    return kind_of_type(type(value)) in _RANGED


def _bound(name: str, kind: Any, bound: Any) -> float:
    number = kind_of_type(type(bound)) in _RANGED
    if not number or is_missing(bound) or bound in INFINITIES:
        raise BadConfiguration(f"{name} must be a finite number or None, not {bound!r}")
    if isinstance(bound, Integral):
        return int(bound)
    if kind == "int":
        return int(ceil(bound) if name == "minimum" else floor(bound))
    try:
        return float(bound)
    except OverflowError as error:
        raise BadConfiguration(f"{name} is larger than any float") from error


def _moment(name: str, kind: Any, moment: Any) -> date:
    if isinstance(moment, str):
        parse = datetime.fromisoformat if kind == "datetime" else date.fromisoformat
        try:
            return parse(moment)
        except ValueError as error:
            raise BadConfiguration(f"{name} {moment!r} is no {kind} in ISO 8601") from error
    if is_missing(moment) or kind_of_type(type(moment)) != kind or not isinstance(moment, date):
        raise BadConfiguration(f"{name} must be a {kind} or ISO text, not {moment!r}")
    return moment


def _range_text(minimum: Any, maximum: Any) -> str:
    if minimum is None:
        return f"at most {maximum}"
    return f"at least {minimum}" if maximum is None else f"{minimum} to {maximum}"


def _levels_text(levels: Sequence[Any]) -> str:
    shown = ", ".join(repr(level) for level in levels[:5])
    return f"one of {shown}" + (f", ... ({len(levels)})" if len(levels) > 5 else "")


def breach(field: Field, value: Any) -> RuleName | None:
    """Rule that ``value`` breaks, or None.

    Examples
    --------
    >>> breach(Field(float, maximum=1), 3), breach(Field(int), True), breach(Field(int), 0)
    ('range', 'type', None)
    """
    try:
        if is_missing(value):
            allowed = not field.required if value is MISS else field.nullable
            return None if allowed else "missing"
        rule = None if field.kind == "any" else _kind_breach(field, value)
        if rule is None and field.categories is not None:
            return None if _listed(value, field.categories) else "category"
    except Exception:
        # What raises when it is compared is of no kind that is known here.
        return "type"
    return rule


def _kind_breach(field: Field, value: Any) -> RuleName | None:
    kind = field.kind
    found = kind_of_type(type(value))
    if found != kind and not _welcome(kind, found, value):
        return "type"
    look = _LOOKS.get(cast("Any", kind))
    return None if look is None else look(field, value)


def _number_breach(field: Field, value: Any) -> RuleName | None:
    value = plain_number(value)
    if value in INFINITIES:
        return "finite"
    below = field.minimum is not None and value < field.minimum
    above = field.maximum is not None and value > field.maximum
    return "range" if below or above else None


def _text_breach(field: Field, value: Any) -> RuleName | None:
    short = field.min_length is not None and len(value) < field.min_length
    if short or (field.max_length is not None and len(value) > field.max_length):
        return "length"
    matcher = field.matcher
    return "pattern" if matcher is not None and matcher.fullmatch(value) is None else None


def _moment_breach(field: Field, value: Any) -> RuleName | None:
    for bound, below in ((field.minimum, True), (field.maximum, False)):
        if bound is None:
            continue
        if moments(value, bound) is None:
            return "type"
        if _beyond(value, bound, below=below):
            return "range"
    return None


_LOOKS: Mapping[str, Callable[[Field, Any], RuleName | None]] = {
    "float": _number_breach,
    "int": _number_breach,
    "str": _text_breach,
    "bytes": _text_breach,
    "date": _moment_breach,
    "datetime": _moment_breach,
}


def _beyond(value: Any, bound: Any, *, below: bool) -> bool:
    pair = moments(value, bound) if isinstance(bound, date) else (value, bound)
    if pair is None:
        return False
    return bool(pair[0] < pair[1]) if below else bool(pair[0] > pair[1])


def _welcome(kind: Kind | type[Any], found: Kind, value: Any) -> bool:
    if kind == "float":
        return found == "int"
    if kind == "int":
        return found == "float" and value not in INFINITIES and value == int(value)
    return kind == "date" and type(value).__name__ == "datetime64"


def _listed(value: Any, categories: Sequence[Any]) -> bool:
    if kind_of_type(type(value)) in _NUMBERS:
        # A narrow number would round the levels to its own width.
        value = plain_number(value)
    try:
        return value in categories
    except ValueError:  # an array has no single truth
        return False
