"""What must hold between the fields of a row."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, TypeAlias, cast

from prodml.errors import BadConfiguration
from prodml.types import MISS, Features, is_missing
from prodml.validation.columns import Column, Mask
from prodml.validation.expression import EXACT, Expression, parse
from prodml.validation.field import Action, RuleName

__all__ = ["Rule"]

Test: TypeAlias = Callable[[Features], object]
_ACTIONS: tuple[Action, ...] = ("reject", "quarantine", "warn")


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """A condition over several fields, as a small expression or a function.

    Parameters
    ----------
    test
        ``"tenure <= age - 16"``: field names, constants, comparisons, ``in (...)``, ``and``,
        ``or``, ``not``, ``+ - * / // %`` and ``abs``; it is parsed, never run as code.  Or a
        function of the row that returns something true if the row is fine.
    name
        Shown in violations and counts; the expression, or the function's own name.
    fields
        Fields that a function reads, and then all that it is shown; those of an expression are
        known.  None given: the whole row.
    batch
        The function for columns: it takes a mapping of field name to array (or list, where the
        column holds no plain numbers) and returns an array of booleans.  Without it, or where
        it fails, the rows of a batch are asked one by one.
    action
        ``"reject"``, ``"quarantine"`` or ``"warn"``.

    Raises
    ------
    BadConfiguration
        An expression that uses anything else, a ``batch`` without a function, an unknown action.

    Notes
    -----
    A rule looks at the row as it would be accepted, clipped and imputed.  It is skipped where
    one of its fields is missing or is refused for itself: that has been said already.  A rule
    that raises breaks ``rule_error`` and refuses the row as its action says; the exception goes
    nowhere.

    Examples
    --------
    >>> from prodml.validation import Field, Schema
    >>> fields = {"age": Field(int), "tenure": Field(int)}
    >>> schema = Schema(fields, rules=[Rule("tenure <= age - 16", name="plausible")])
    >>> print(*schema.check({"age": 20, "tenure": 9}))
    plausible: {'tenure': 9, 'age': 20} breaks rule, expected tenure <= age - 16
    """

    test: str | Test
    _: KW_ONLY
    name: str = ""
    fields: Sequence[str] = ()
    batch: Callable[[Mapping[str, Any]], Any] | None = None
    action: Action = "reject"
    _expression: Expression | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.action not in _ACTIONS:
            raise BadConfiguration(f"a rule can {', '.join(_ACTIONS)}, not {self.action!r}")
        if isinstance(self.fields, str):
            raise BadConfiguration("fields must be a sequence of names, not one text")
        if isinstance(self.test, str):
            if self.batch is not None or self.fields:
                raise BadConfiguration("an expression knows its fields and needs no batch form")
            expression = parse(self.test)
            self._set(_expression=expression, fields=expression.fields, name=self.name or self.test)
            return
        if not callable(self.test):
            raise BadConfiguration(f"a rule needs an expression or a function, not {self.test!r}")
        name = self.name or getattr(self.test, "__name__", type(self.test).__name__)
        self._set(fields=tuple(self.fields), name=name)

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        own = () if self._expression else (tuple(self.fields), self.batch)
        return _rebuilt, (self.test, self.name, self.action, *own)

    @property
    def expected(self) -> str:
        """What it asks for, in words."""
        return self.test if isinstance(self.test, str) else f"{self.name} to hold"

    def to_dict(self) -> dict[str, Any]:
        """Settings ready for JSON; a function is told by its name only.

        Examples
        --------
        >>> Rule("a < b").to_dict()
        {'name': 'a < b', 'test': 'a < b', 'action': 'reject'}
        """
        told = {"name": self.name, "action": self.action}
        if isinstance(self.test, str):
            return {"name": self.name, "test": self.test, "action": self.action}
        return {**told, "fields": list(self.fields)}

    # -- judging --------------------------------------------------------------------------

    def values(self, row: Features) -> dict[str, Any]:
        """Values that the rule reads, for the violation."""
        # A pandas row iterates over its values.
        return {name: row.get(name, MISS) for name in self.fields or row.keys()}

    def skips(self, row: Features) -> bool:
        """Whether ``row`` lacks one of the rule's fields."""
        return any(is_missing(row.get(name, MISS)) for name in self.fields)

    def error(self, row: Features) -> str | None:
        """None if ``row`` is fine, the empty text if it is not, or what was raised.

        Examples
        --------
        >>> Rule("a / b > 1").error({"a": 1, "b": 0})
        'ZeroDivisionError: division by zero'
        """
        try:
            if self._expression is not None:
                return None if self._expression.holds(row) else ""
            seen = {name: row[name] for name in self.fields} if self.fields else row
            return None if cast("Test", self.test)(seen) else ""
        except Exception as error:
            return f"{type(error).__name__}: {error}"

    def masks(self, columns: Mapping[str, Column], asked: Mask) -> Iterator[tuple[RuleName, Mask]]:
        """Rows among ``asked`` that break ``rule``, and those that break ``rule_error``."""
        import numpy as np

        asked = asked & self._known(columns, len(asked))
        if not asked.any():
            return
        columns = {name: columns[name] for name in self.fields or columns}
        part = {name: _taken(values, asked) for name, values in columns.items()}
        holds = self._vectorised(part)
        broken, failed = np.zeros_like(asked), np.zeros_like(asked)
        if holds is not None:
            broken[asked] = ~holds
        else:
            errors = [self.error(row) for row in _rows(part)]
            broken[asked] = [error == "" for error in errors]
            failed[asked] = [bool(error) for error in errors]
        yield "rule", broken
        yield "rule_error", failed

    def _known(self, columns: Mapping[str, Column], length: int) -> Any:
        import numpy as np

        known = np.ones(length, dtype=bool)
        for name in self.fields:
            values = columns.get(name)
            if values is None:
                return np.zeros(length, dtype=bool)
            if isinstance(values, list) or values.dtype.kind == "O":
                known &= np.array([not is_missing(value) for value in values], dtype=np.bool_)
            elif values.dtype.kind in "fM":
                known &= values == values  # noqa: PLR0124 - only NaN and NaT differ
        return known

    def _vectorised(self, columns: Mapping[str, Column]) -> Any:
        import numpy as np

        if self._expression is not None:
            arrays = {name: _plain(columns[name]) for name in self.fields}
            return self._expression.holds_for(arrays)
        if self.batch is None:
            return None
        length = len(next(iter(columns.values())))
        try:
            found = np.asarray(self.batch(columns))
        except Exception:
            return None
        return found if found.dtype == np.bool_ and found.shape == (length,) else None


def _rebuilt(test: Any, name: str, action: Action, fields: Any = (), batch: Any = None) -> Rule:
    return Rule(test, name=name, action=action, fields=fields, batch=batch)


def _taken(values: Column, mask: Mask) -> Column:
    if mask.all():
        return values
    if not isinstance(values, list):
        return values[mask]
    return [value for value, keep in zip(values, mask, strict=True) if keep]


def _plain(values: Column) -> Any:
    import numpy as np

    if not isinstance(values, list):
        return values
    kinds = set(map(type, values))
    if not kinds <= {float, int}:
        return np.empty(0, dtype=object)
    array = np.array(values)
    # Whole numbers among floats may have been rounded, the next one to the last exact one.
    rounded = len(kinds) == 2 and bool((np.abs(array) >= EXACT).any())
    return np.empty(0, dtype=object) if rounded else array


def _rows(columns: Mapping[str, Column]) -> Iterator[dict[str, Any]]:
    lists = [v if isinstance(v, list) else _listed(v) for v in columns.values()]
    for values in zip(*lists, strict=True):
        pairs = zip(columns, values, strict=True)
        yield {name: value for name, value in pairs if value is not MISS}


def _listed(values: Any) -> list[Any]:
    return list(values) if values.dtype.kind == "M" else values.tolist()
